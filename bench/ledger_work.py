"""The postings that the ledger benchmark asks for, and how PointGuard's ledger writes them."""

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine

from bench.ledger_fill import PROGRAM
from ledger.batch import keys_of, lock_batch, post_batch
from ledger.ids import IdBlocks
from ledger.movement import Movement
from ledger.plan import Plan
from ledger.programs import Program, ledger_now

KINDS: Final = ("earn", "redeem", "transfer")
WEIGHTS: Final = (60, 35, 5)
HELD: Final = 0.05


@dataclass(frozen=True, slots=True)
class Ask:
    """One posting that is asked for."""

    kind: str
    account: str
    to: str | None
    points: int
    held: bool
    event_id: str


def asks(rng: random.Random, count: int, members: int, tag: str) -> list[Ask]:
    """Seeded postings over all members alike: 60 % earns, 35 % redemptions, 5 % transfers, of all 5 % held."""
    made = []
    for number in range(count):
        kind = rng.choices(KINDS, WEIGHTS)[0]
        account = rng.randrange(members)
        to = f"m{(account + 1 + rng.randrange(members - 1)) % members}" if kind == "transfer" else None
        made.append(Ask(kind, f"m{account}", to, rng.randrange(1, 50), rng.random() < HELD, f"{tag}-{number}"))
    return made


class Poster:
    """PointGuard's ledger, fed with asks."""

    def __init__(self, engine: Engine, program: Program) -> None:
        self._engine, self._programs = engine, {PROGRAM: program}
        self._ids = IdBlocks()

    def post(self, batch: Sequence[Ask]) -> tuple[Plan, ...]:
        """Decide and write one batch in one transaction; what was written."""
        with self._engine.begin() as conn:
            return self._post(conn, batch)

    def _post(self, conn: Connection, batch: Sequence[Ask]) -> tuple[Plan, ...]:
        now_ms = time.time_ns() // 1_000_000
        ids = self._ids.take(conn, len(batch))
        movements = [self._movement(number, ask, now_ms) for number, ask in zip(ids, batch, strict=True)]
        opened = dict.fromkeys(itertools.chain.from_iterable(map(keys_of, movements)), now_ms)
        locked = lock_batch(conn, self._programs, opened)
        now = ledger_now(conn, [PROGRAM])
        return post_batch(conn, locked, movements, now, self._ids.stream(conn)).plans

    def _movement(self, number: int, ask: Ask, now_ms: int) -> Movement:
        rest: dict[str, Any] = {} if ask.to is None else {"to": ask.to}
        return Movement(
            id=number,
            kind=ask.kind,  # type: ignore[arg-type]  # one of KINDS
            program=PROGRAM,
            account=ask.account,
            points=ask.points,
            verdict="hold" if ask.held else "post",
            source="bench",
            event_id=ask.event_id,
            occurred_ms=now_ms,
            due_seconds=86_400,
            on_timeout="void",
            **rest,
        )
