"""A writer that keeps a journal: what it is about to do, and what was acknowledged. It may be killed at any moment.

Run as a program it works until it is killed: python -m tests.faults.teller URL JOURNAL NAME
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sqlalchemy import Connection, create_engine, text

from ledger.book import Resolution
from ledger.book_postgres import PostgresLedger
from tests.faults.bank import SOURCE, START_MS, any_movement, any_reversal

BATCH = 30

_DECIDED = text("SELECT event_id FROM decision WHERE source = :source")
_ENDED = text("SELECT hold_id FROM hold_resolution")
_ENDED_BY = text("SELECT hold_id FROM review_decision WHERE actor = 'teller'")


class Teller:
    """Posts batches and ends the holds that they opened, each in one call, until a call raises."""

    def __init__(self, ledger: PostgresLedger, journal: Path, name: str) -> None:
        """Go on with a journal, under a name that no earlier teller had."""
        self._ledger = ledger
        self._journal = journal.open("a", encoding="utf-8")
        self._name = name
        self._chance = Random(name)
        self._calls = 0
        self._holds: list[int] = []
        self._known: list[tuple[str, str]] = []
        self.in_flight = False

    def work(self) -> None:
        """Make one call, journalled before and after."""
        if self._holds and self._chance.random() < 0.3:
            self._end()
        else:
            self._post()

    def close(self) -> None:
        """Put the journal away."""
        self._journal.close()

    def _post(self) -> None:
        ids = self._ledger.take_ids(self._chance.randint(1, BATCH))
        events = [f"{self._name}-{self._calls}-{n}" for n in range(len(ids))]
        asked = [any_movement(self._chance, *pair, START_MS) for pair in zip(ids, events, strict=True)]
        if self._known and self._chance.random() < 0.5:
            asked[-1] = any_reversal(ids[-1], events[-1], START_MS, self._chance.choice(self._known), 0)
        self._note("post", events)
        results = self._ledger.post(asked)
        self._note("ok", [])
        moved = [(one, result.code) for one, result in zip(asked, results, strict=True)]
        self._holds += [one.id for one, code in moved if code == "held"]
        self._known += [(one.event_id, one.account) for one, code in moved if code in {"posted", "held"}]

    def _end(self) -> None:
        chosen, self._holds = self._holds[:5], self._holds[5:]
        self._note("end", chosen)
        verdict = self._chance.choice(("post", "void"))
        self._ledger.resolve([Resolution(hold, verdict, "teller", "looked at") for hold in chosen])  # type: ignore[arg-type]  # one of the verdicts
        self._note("ok", [])

    def _note(self, what: str, names: list[str] | list[int]) -> None:
        self.in_flight = what != "ok"
        self._calls += self.in_flight
        self._journal.write(json.dumps([what, names]) + "\n")
        self._journal.flush()


@dataclass
class Audit:
    """What the journals say against what the database has: every list must be empty."""

    counts: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that is wrong."""
        return [*self.torn, *self.lost, *self.doubled]


def calls_of(journal: Path) -> Iterator[tuple[str, list[str | int], bool]]:
    """Yield each call of a journal: what, of whom, and whether it was acknowledged."""
    lines = journal.read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.endswith("]")]  # the last may be torn off
    for n, (what, names) in enumerate(entries):
        if what != "ok":
            yield what, names, n + 1 < len(entries) and entries[n + 1][0] == "ok"


def audit(conn: Connection, journals: list[Path]) -> Audit:
    """Compare journals with the database: a call is there whole or not at all, and if acknowledged, it is there."""
    found = Audit()
    decided = Counter(conn.execute(_DECIDED, {"source": SOURCE}).scalars())
    ended = Counter(conn.execute(_ENDED).scalars())
    by_teller = Counter(conn.execute(_ENDED_BY).scalars())
    found.doubled = [f"{key} {count} times" for key, count in (decided + by_teller).items() if count > 1]
    for journal in journals:
        for what, names, acknowledged in calls_of(journal):
            there = sum(1 for name in names if name in (decided if what == "post" else ended))
            # A reversal that takes a hold's points ends it, too: then the call that came later found it ended.
            done = there if what == "post" else sum(1 for name in names if name in by_teller)
            told = f"{journal.name}: {what} {names}: {done} of {there} there"
            found.counts[f"{what} {'acknowledged' if acknowledged else 'without an answer'}"] += 1
            found.counts["without an answer, and there"] += bool(done and not acknowledged)
            if acknowledged and there < len(names):
                found.lost.append(told)
            if done and there < len(names):
                found.torn.append(told)
    return found


def main() -> None:
    """Work until killed."""
    url, journal, name = sys.argv[1:]
    teller = Teller(PostgresLedger(create_engine(url)), Path(journal), name)
    while True:
        teller.work()


if __name__ == "__main__":
    main()
