"""A small town whose members do everything a ledger knows, at random but seeded, with what it said at every moment.

It writes through the writer, as the pipeline does; after each step it asks the present and keeps the answers, which
every later question about that moment has to repeat.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from ledger.batch import keys_of, lock_batch, post_batch
from ledger.book import Merge, OrderRefund, Resolution
from ledger.chain_store import Act, NotedIds, record
from ledger.history import LotView
from ledger.liability import Liability
from ledger.liability_store import liability
from ledger.merge_store import merge
from ledger.movement import Result
from ledger.pools import join_pool
from ledger.programs import Program, advance_clock, ledger_now, load_programs
from ledger.queries import Balance, HoldFilter, balance, lots, open_holds
from ledger.refund_store import refund
from tests.integration.ledger_writer import START_MS, Writer, adjust, earn, redeem, transfer

HOUR_MS = 3_600_000
MEMBERS = ("ann", "bob", "cat", "dan")
POOL = "pool:home"
NAMES = (*MEMBERS, POOL)
STORES = ("s1", "s2", "s3", None)

_EVENT = text("""
INSERT INTO event_inbox (source, event_id, log_id, topic, part, "offset", received_at, payload_hash)
VALUES (:source, :event_id, 'log', 'points.events', 0, :id, now(), '')""")

_DECISION = text("""
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, event, reasons,
                      occurred_at, observed_at, decided_at, log_id, topic, part, "offset")
VALUES (:id, :source, :event_id, :program, :account, :kind, nullif(:points, 0), :outcome, :code,
        json_build_object('store', CAST(:store AS text)), CAST(:reasons AS json),
        to_timestamp(CAST(:occurred_ms AS bigint) / 1000.0), now(), now(), 'log', 'points.events', 0, :id)""")
_COLUMNS = ("id", "source", "event_id", "program", "account", "kind", "points", "store", "occurred_ms")
_OUTCOMES = {"posted": "approve", "held": "hold"}


@dataclass
class Said:
    """What the ledger said of the present at a moment; `names` are the accounts that stood for themselves then."""

    names: tuple[str, ...]
    balances: dict[str, Balance | None]
    lots: dict[str, list[LotView]]
    liability: Liability


class Town(Writer):
    """A writer that also reverses, refunds, merges and pools."""

    def __init__(self, engine: Engine, **terms: Any) -> None:
        """Open a town of a simulation programme, funded by its stores unless told otherwise."""
        given: dict[str, Any] = {
            "funding": "store",
            "unit_value_micros": 1_500_000,
            "expiry_days": 1,
            "grace_days": 1,
        } | terms
        super().__init__(engine, **given)
        self.now = START_MS
        self.holds = 0.0
        self.merged: set[str] = set()
        self.said: dict[int, Said] = {}
        self.events: list[str] = []
        with engine.begin() as conn:
            for member in MEMBERS[:2]:
                join_pool(conn, self.programs(conn), self.program, "home", member, "ann")

    def programs(self, conn: Connection) -> dict[str, Program]:
        """The programmes as they are now."""
        return load_programs(conn)

    def move_in(self, conn: Connection, asked: Sequence[Mapping[str, Any]], now_ms: int = START_MS) -> list[Result]:
        """Post movements, reverses among them."""
        noted = NotedIds(self.ids)
        numbers = noted.take(conn, len(asked))
        movements = [self._movement(number, given) for number, given in zip(numbers, asked, strict=True)]
        opened = {key: now_ms for one in movements for key in keys_of(one)}
        reversed_events = {one.reverses for one in movements if one.reverses is not None}
        locked = lock_batch(conn, self.programs(conn), opened, reversed_events)
        advance_clock(conn, self.program, now_ms)
        now = ledger_now(conn, [self.program])
        posted = post_batch(conn, locked, movements, now, noted.stream(conn))
        for one, result in zip(movements, posted.results, strict=True):
            row = {name: getattr(one, name) for name in _COLUMNS}
            outcome = _OUTCOMES.get(result.code, "reject")
            reasons = '[{"code": "odd_hour"}]' if outcome == "hold" else "[]"
            conn.execute(_EVENT, row)
            conn.execute(_DECISION, row | {"outcome": outcome, "code": result.code, "reasons": reasons})
        record(conn, Act("test", "town", "test.moved"), noted.taken)
        return list(posted.results)

    def live(self, steps: int, rng: random.Random, holds: float = 0.3) -> None:
        """Let time pass and things happen, this share of them held; ask the present after each step."""
        self.holds = holds
        for _ in range(steps):
            self.now += rng.randrange(0, 5 * HOUR_MS)
            self.tick(self.now)
            self._step(rng)
            self.ask()

    def ask(self) -> None:
        """Keep what the ledger says of now."""
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
            terms = self.programs(conn)[self.program].terms
            self.said[self.now] = Said(
                tuple(name for name in NAMES if name not in self.merged),
                {name: balance(conn, self.program, name) for name in NAMES},
                {name: lots(conn, self.program, name) for name in NAMES},
                liability(conn, self.program, terms, self.now),
            )

    def merge(self, account: str, into: str) -> None:
        """One member becomes another, once nothing of the first is held any more."""
        with self.engine.connect() as conn:
            holds = open_holds(conn, HoldFilter(self.program, account, coming=True))
        self.end(*(Resolution(hold.hold_id, "void", "ann", "merging") for hold in holds))
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            (number,) = noted.take(conn, 1)
            asked = Merge(id=number, program=self.program, account=account, into=into, actor="ann", reason="one person")
            merged = merge(conn, self.programs(conn), noted, asked)
            record(conn, Act("merge", "ann", "merge.done"), noted.taken)
        assert merged.result.code == "posted"
        self.merged.add(account)
        self.ask()

    def refund(self, order: str, name: str, amount: int) -> None:
        """Give part of an order's money back."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            (number,) = noted.take(conn, 1)
            asked = OrderRefund(
                id=number,
                program=self.program,
                order=order,
                refund=name,
                amount=amount,
                order_total=100,
                occurred_ms=self.now,
            )
            refund(conn, self.programs(conn), noted, asked)
            record(conn, Act("refund", "ann", "refund.done"), noted.taken)

    def _step(self, rng: random.Random) -> None:
        kinds = ["earn", "earn", "earn", "redeem", "redeem", "transfer", "adjust", "fact", "pool", "reverse", "reverse"]
        kind = rng.choice([*kinds, "end", "end", "end", "expire", "refund"])
        if kind == "end":
            self._decide(rng)
        elif kind == "expire":
            self.expire()
        elif kind == "refund":
            self.refund(f"o{rng.randrange(9)}", f"r{rng.randrange(99)}", rng.randrange(1, 60))
        elif kind != "reverse" or self.events:
            event = f"t{len(self.events)}"
            usual = {"event_id": event, "occurred_ms": self.now, "store": rng.choice(STORES)}
            self.move(self._asked(kind, rng) | usual, now_ms=self.now)
            self.events.append(event)

    def _asked(self, kind: str, rng: random.Random) -> dict[str, Any]:
        name, other = rng.sample(MEMBERS, 2)
        points = rng.randrange(1, 200)
        held = {"verdict": "hold", "due_seconds": 3600} if rng.random() < self.holds else {}
        order = {"order": f"o{rng.randrange(9)}"} | held
        if kind == "earn":
            return earn(name, points, **order)
        if kind == "redeem":
            return redeem(name, points // 3 + 1, **order)
        if kind == "fact":
            return redeem(name, points, fact=True)
        if kind == "transfer":
            return transfer(name, rng.choice([other, POOL]), points // 3 + 1, **held)
        if kind == "pool":
            return redeem(rng.choice(MEMBERS[:2]), points // 4 + 1, pool="home", **held)
        if kind == "adjust":
            return adjust(name, rng.choice([points, -(points // 3) - 1]), **held)
        event = rng.choice(self.events)
        with self.engine.connect() as conn:
            account = conn.execute(
                text("SELECT account FROM decision WHERE event_id = :id"), {"id": event}
            ).scalar_one()
        return {"kind": "reverse", "account": account, "points": rng.choice([0, points]), "reverses": ("till", event)}

    def _decide(self, rng: random.Random) -> None:
        with self.engine.connect() as conn:
            holds = open_holds(conn)
        if holds:
            hold = rng.choice(holds)
            points = rng.randrange(1, abs(hold.amount) + 1) if rng.random() < 0.5 else None
            post = rng.random() < 0.7
            self.end(Resolution(hold.hold_id, "post" if post else "void", "ann", "seen", points if post else None))
