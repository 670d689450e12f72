"""Seeing from outside how far a program is: by the rows that another connection finds committed."""

import time
from collections.abc import Callable, Mapping

from sqlalchemy import Connection, text

from bench import workload


class Watch:
    """Asks the database every few milliseconds for the last offset done of each partition.

    `marks` grows by (partition, last offset, monotonic ns) whenever one has moved; the time is that of the answer, so
    it is late by up to the interval plus the query, never early.
    """

    def __init__(self, conn: Connection, query: str, topic: str) -> None:
        self._conn, self._query = conn, text(query)
        self._given = {"topic": topic} if ":topic" in query else {}
        self._last = dict.fromkeys(range(workload.PARTITIONS), -1)
        self.marks: list[tuple[int, int, int]] = []

    def look(self) -> int:
        """Records done by now, over all partitions."""
        rows = self._conn.execute(self._query, self._given).all()
        now = time.monotonic_ns()
        for part, last in rows:
            if last is not None and last > self._last[part]:
                self._last[part] = last
                self.marks.append((part, last, now))
        return sum(last + 1 for last in self._last.values())

    def until(self, enough: Callable[[int], bool], deadline: float, interval: float) -> int:
        """Look again and again until `enough` of the records done, or the deadline (monotonic s); what was done."""
        while True:
            done = self.look()
            if enough(done) or time.monotonic() > deadline:
                return done
            time.sleep(interval)


def outcomes(conn: Connection, query: str) -> Mapping[str, int]:
    """How many events came to which outcome."""
    return {str(row.outcome): int(row.events) for row in conn.execute(text(query))}
