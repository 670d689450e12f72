"""Ids for decisions, and so for transactions and holds: taken in blocks, so that a batch rarely asks the database."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from weakref import WeakSet

from sqlalchemy import Connection, text

BLOCK = 1000  # the sequence's INCREMENT BY (migration 0001)
_NEXT = text("SELECT nextval('decision_seq') FROM generate_series(1, :blocks)")


class IdBlocks:
    """A hi-lo allocator over `decision_seq`: whoever draws v owns v to v + 999.

    One per process, safe between threads. Ids ascend within a process, and no two processes ever share one; ids of a
    transaction that rolls back, and what is left of a block when the process ends, are never used again.

    PostgreSQL may forget in a crash what nobody had committed behind, and then give a block twice. No connection
    survives a crash, so what is left of blocks is forgotten whenever ids are taken on a connection for the first time.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._free: list[range] = []

    def take(self, conn: Connection, count: int) -> list[int]:
        """Take `count` new ids, ascending."""
        taken: list[int] = []
        with self._lock:
            # SQLAlchemy keeps `info` exactly as long as the driver's connection.
            seen: WeakSet[IdBlocks] = conn.info.setdefault("ledger_ids", WeakSet())
            if self not in seen:
                seen.add(self)
                self._free.clear()
            missing = count - sum(map(len, self._free))
            if missing > 0:
                starts = conn.execute(_NEXT, {"blocks": -(-missing // BLOCK)}).scalars()
                self._free += [range(start, start + BLOCK) for start in sorted(starts)]
            while len(taken) < count:
                block = self._free.pop(0)
                wanted = count - len(taken)
                taken += block[:wanted]
                if len(block) > wanted:
                    self._free.insert(0, block[wanted:])
        return taken

    def stream(self, conn: Connection) -> Iterator[int]:
        """Give new ids one by one, each taken when it is asked for, as long as `conn` is open."""
        while True:
            yield self.take(conn, 1)[0]
