"""Jepsen's bank test for the ledger: many writers on a few hot members, and a reader who must never see a point astray.

Writers call the ledger as anybody does: batches, holds and their ends, reversals, refunds, pools, expiry. The reader
looks at whole snapshots meanwhile. Whatever a call raises is kept: a deadlock or a conflict that reaches the caller is
a failure of the ledger. What PostgreSQL sacrificed inside and the ledger did again is counted by its error code.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sqlalchemy import Engine, event, text

from ledger.book import OrderRefund, Resolution
from ledger.book_postgres import PostgresLedger
from ledger.movement import Movement
from ledger.roll import roll_up
from ledger.terms import Terms

PROGRAM = "bank"
MEMBERS = tuple(f"m{n}" for n in range(10))
POOLED = MEMBERS[:5]
POOL = "pot"
ORDERS = ("o1", "o2", "o3")
SOURCE = "bank"
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
TERMS = Terms(expiry_days=2, grace_days=1, funding="store", max_open_holds=50)
PAUSE_SECONDS = 0.1

# One row for all that must be zero in any snapshot; the last column only tells that there is something to look at.
SNAPSHOT = text("""
WITH counters AS (
    SELECT kind, posted_dr, posted_cr, pending_dr, pending_cr FROM account
    UNION ALL SELECT 'tail', posted_dr, posted_cr, pending_dr, pending_cr FROM control_delta),
lots AS (SELECT account_id, sum(remaining) AS remaining, sum(reserved) AS reserved FROM lot GROUP BY account_id),
held AS (
    SELECT hl.lot_id, sum(hl.amount) AS amount FROM hold_lot hl JOIN hold USING (hold_id) WHERE resolved_at IS NULL
     GROUP BY hl.lot_id)
SELECT (SELECT sum(posted_cr - posted_dr) FROM counters) AS created,
       (SELECT sum(pending_cr - pending_dr) FROM counters) AS created_pending,
       (SELECT coalesce(sum(amount), 0) FROM entry) AS entries_off,
       (SELECT count(*) FROM account WHERE kind IN ('member', 'pool') AND posted_cr - posted_dr - pending_dr < 0)
           AS overdrawn,
       (SELECT count(*) FROM account a LEFT JOIN lots l USING (account_id) WHERE kind IN ('member', 'pool')
           AND (posted_cr - posted_dr, pending_dr) <> (coalesce(remaining, 0), coalesce(reserved, 0))) AS lots_off,
       (SELECT count(*) FROM lot l LEFT JOIN held h USING (lot_id) WHERE l.reserved <> coalesce(h.amount, 0))
           AS reserved_off,
       (SELECT count(*) FROM account a WHERE kind IN ('member', 'pool') AND open_holds <>
           (SELECT count(*) FROM hold h WHERE h.account_id = a.account_id AND resolved_at IS NULL)) AS holds_off,
       (SELECT count(*) FROM txn) AS transactions""")


def any_movement(chance: Random, number: int, event_id: str, now: int) -> Movement:
    """A movement such as people ask for; most go through, some are held, some are refused."""
    kind, member = chance.choice(("earn", "earn", "redeem", "transfer", "adjust")), chance.choice(MEMBERS)
    points, pooled = chance.randint(1, 50), chance.random() < 0.2
    spends_pool = pooled and kind in {"redeem", "transfer"} and member in POOLED
    to = f"pool:{POOL}" if chance.random() < 0.3 and not spends_pool else chance.choice(MEMBERS)
    return Movement(
        id=number,
        kind=kind,  # type: ignore[arg-type]  # one of them
        program=PROGRAM,
        account=member,
        points=-points if kind == "adjust" and chance.random() < 0.5 else points,
        verdict="hold" if chance.random() < 0.3 else "post",
        source=SOURCE,
        event_id=event_id,
        occurred_ms=now,
        to=to if kind == "transfer" else None,
        fact=chance.random() < 0.1,
        store=chance.choice((None, "s1", "s2")),
        order=chance.choice((None, *ORDERS)),
        pool=POOL if spends_pool else None,
        due_seconds=chance.choice((None, 3600)),
        on_timeout="void",
    )


def any_reversal(number: int, event_id: str, now: int, original: tuple[str, str], points: int) -> Movement:
    """A reversal of an event (its id, its account)."""
    return Movement(
        id=number,
        kind="reverse",
        program=PROGRAM,
        account=original[1],
        points=points,
        verdict="post",
        source=SOURCE,
        event_id=event_id,
        occurred_ms=now,
        reverses=(SOURCE, original[0]),
    )


def open_bank(ledger: PostgresLedger) -> None:
    """Open the programme, with half of the members in a pool."""
    ledger.create_program(PROGRAM, "simulation", TERMS)
    ledger.advance(PROGRAM, START_MS)
    for name in POOLED:
        ledger.join_pool(PROGRAM, POOL, name)


@dataclass
class Told:
    """What a run did and saw."""

    calls: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    raised: list[str] = field(default_factory=list)
    sacrificed: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0
    anomalies: list[str] = field(default_factory=list)


class Bank:
    """A programme with ten members, and everybody who works on it at once."""

    def __init__(self, engine: Engine, seed: int) -> None:
        """Open the programme; a seed gives each writer his own choices, though not who comes first."""
        self.engine = engine
        self.ledger = PostgresLedger(engine)
        self.told = Told()
        self._seed = seed
        self._events: deque[tuple[str, str]] = deque(maxlen=200)
        self._holds: deque[int] = deque(maxlen=200)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._clock = START_MS
        event.listen(engine, "handle_error", self._on_error)
        open_bank(self.ledger)

    def run(self, writers: int, seconds: float) -> Told:
        """Let so many writers, a reader and the jobs work for so long."""
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(writers)]
        threads += [threading.Thread(target=self._repeat, args=(work,)) for work in (self._look, self._keep_house)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        return self.told

    def _on_error(self, context: Any) -> None:
        self.told.sacrificed[getattr(context.original_exception, "sqlstate", None) or "none"] += 1

    # Writers

    def _write(self, number: int) -> None:
        chance = Random(f"{self._seed} {number}")
        calls = (self._post, self._resolve, self._reverse, self._refund)
        while not self._stop.is_set():
            call = chance.choices(calls, (60, 25, 12, 3))[0]
            try:
                call(chance)
            except Exception as error:  # noqa: BLE001  # whatever reaches a caller is what the test is about
                self.told.raised.append(f"{call.__name__}: {error!r}"[:2000])
                return
            self.told.calls[call.__name__.strip("_")] += 1

    def _post(self, chance: Random) -> None:
        ids = self.ledger.take_ids(chance.randint(1, 6))
        asked = [any_movement(chance, number, self._event_id(), self._clock) for number in ids]
        results = self.ledger.post(asked)
        for movement, result in zip(asked, results, strict=True):
            self.told.codes[f"{movement.kind} {result.code}"] += 1
            if result.code in {"posted", "held"}:
                self._events.append((movement.event_id, movement.account))
            if result.code == "held":
                self._holds.append(movement.id)

    def _resolve(self, chance: Random) -> None:
        holds = chance.sample(list(self._holds), min(len(self._holds), chance.randint(1, 3)))
        ends = [Resolution(one, chance.choice(("post", "void")), "teller", "looked at") for one in holds]
        for resolved in self.ledger.resolve(ends):
            self.told.codes[f"resolve {resolved.outcome}"] += 1

    def _reverse(self, chance: Random) -> None:
        known = list(self._events)
        if not known:
            return
        (number,) = self.ledger.take_ids(1)
        movement = any_reversal(number, self._event_id(), self._clock, chance.choice(known), chance.choice((0, 0, 5)))
        self.told.codes[f"reverse {self.ledger.post([movement])[0].code}"] += 1

    def _event_id(self) -> str:
        return f"e{next(self._numbers)}"

    def _refund(self, chance: Random) -> None:
        order, refund = chance.choice(ORDERS), f"r{next(self._numbers)}"
        (number,) = self.ledger.take_ids(1)
        asked = OrderRefund(
            id=number,
            program=PROGRAM,
            order=order,
            refund=refund,
            amount=1,
            order_total=10_000,
            occurred_ms=self._clock,
        )
        self.told.codes[f"refund {self.ledger.refund(asked).code}"] += 1

    # The jobs, and the reader

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001  # whatever ends a writer is told to the test
                self.told.raised.append(f"{work.__name__}: {error!r}"[:2000])
                return
            time.sleep(PAUSE_SECONDS)

    def _keep_house(self) -> None:
        self._clock += HOUR_MS
        self.ledger.advance(PROGRAM, self._clock)
        self.told.codes["expired"] += self.ledger.expire(PROGRAM, 100)
        self.told.codes["timed out"] += len(self.ledger.time_out(PROGRAM))
        with self.engine.begin() as conn:
            roll_up(conn)

    def _look(self) -> None:
        moment = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with moment.begin() as conn:
            row = conn.execute(SNAPSHOT).mappings().one()
        off = {name: value for name, value in row.items() if value and name != "transactions"}
        if off:
            self.told.anomalies.append(f"{off} after {row['transactions']} transactions")
        self.told.snapshots += 1
