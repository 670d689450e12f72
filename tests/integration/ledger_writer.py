"""Writes to a real ledger the way the pipeline does: through lock, plan and write, with inbox and decision rows."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, text

from ledger.batch import lock_batch, post_batch
from ledger.book import Merge, Resolution, Resolved
from ledger.chain_store import Act, NotedIds, record
from ledger.expire import expire_due
from ledger.holds import due, resolve
from ledger.ids import IdBlocks
from ledger.merge_store import merge
from ledger.movement import POOL, Movement, Result
from ledger.programs import advance_clock, create_program, ledger_now, load_programs
from ledger.terms import Terms

START_MS = 1_700_000_000_000

_EVENT = text("""
INSERT INTO event_inbox (source, event_id, log_id, topic, part, "offset", received_at, payload_hash)
VALUES (:source, :event_id, 'log', 'points.events', 0, :id, now(), '')""")

_DECISION = text("""
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, event, reasons,
                      occurred_at, observed_at, decided_at, log_id, topic, part, "offset")
VALUES (:id, :source, :event_id, :program, :account, :kind, :points, :outcome, :code, '{}', '[]', now(), now(), now(),
        'log', 'points.events', 0, :id)""")

T = TypeVar("T")
_OUTCOMES = {"posted": "approve", "held": "hold"}


@contextmanager
def pool(url: str) -> Iterator[Engine]:
    """Lend a connection pool large enough for races."""
    engine = create_engine(url, pool_size=32, max_overflow=80)
    try:
        yield engine
    finally:
        engine.dispose()


class Writer:
    """A small pipeline over one database: `move` posts a batch in one transaction, `end` resolves holds in one."""

    def __init__(self, engine: Engine, program: str = "north", mode: str = "simulation", **terms: Any) -> None:
        """Create the programme, with terms as keyword arguments; a simulation's clock starts at START_MS."""
        self.engine = engine
        self.ids = IdBlocks()
        self.program = program
        with engine.begin() as conn:
            create_program(conn, program, mode, Terms(**terms))  # type: ignore[arg-type]  # one of the two modes
            advance_clock(conn, program, START_MS)

    def move(self, *asked: Mapping[str, Any], now_ms: int = START_MS) -> list[Result]:
        """Decide and write movements given as keyword arguments of Movement, in one transaction."""
        with self.engine.begin() as conn:
            return self.move_in(conn, asked, now_ms)

    def move_in(self, conn: Connection, asked: Sequence[Mapping[str, Any]], now_ms: int = START_MS) -> list[Result]:
        """Do the same inside a transaction of the caller's."""
        movements = [
            self._movement(number, given) for number, given in zip(self._take(conn, len(asked)), asked, strict=True)
        ]
        opened = {
            (one.program, name): now_ms
            for one in movements
            for name in (one.account, one.to, None if one.pool is None else POOL + one.pool)
            if name is not None
        }
        reversed_events = {one.reverses for one in movements if one.reverses is not None}
        locked = lock_batch(conn, load_programs(conn), opened, reversed_events)
        advance_clock(conn, self.program, now_ms)
        now = ledger_now(conn, {one.program for one in movements})
        noted = NotedIds(self.ids)
        posted = post_batch(conn, locked, movements, now, noted.stream(conn))
        for one, result in zip(movements, posted.results, strict=True):
            row = {
                "id": one.id,
                "source": one.source,
                "event_id": one.event_id,
                "program": one.program,
                "account": one.account,
                "kind": one.kind,
                "points": one.points or None,
                "outcome": _OUTCOMES.get(result.code, "reject"),
                "code": result.code,
            }
            conn.execute(_EVENT, row)
            conn.execute(_DECISION, row)
        record(conn, Act("test", "writer", "test.moved"), [*(one.id for one in movements), *noted.taken])
        return list(posted.results)

    def end(self, *resolutions: Resolution) -> list[Resolved]:
        """Resolve holds in one transaction."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            resolved = resolve(conn, noted, resolutions)
            record(conn, Act("test", "writer", "test.resolved"), noted.taken)
            return resolved

    def time_out(self, most: int = 100) -> list[Resolved]:
        """Let the policy end the holds that are due, in one transaction."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            late = due(conn, [self.program], most)
            resolved = resolve(conn, noted, [Resolution(one.hold_id, one.on_timeout, "policy", "due") for one in late])
            record(conn, Act("test", "writer", "test.timed_out"), noted.taken)
            return resolved

    def tick(self, now_ms: int) -> None:
        """Move the simulation's clock."""
        with self.engine.begin() as conn:
            advance_clock(conn, self.program, now_ms)

    def expire(self, most: int = 1000) -> int:
        """Run the expiry job once."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            expired = expire_due(conn, noted, [self.program], most)
            record(conn, Act("test", "writer", "test.expired"), noted.taken)
            return expired

    def _take(self, conn: Connection, count: int) -> list[int]:
        return self.ids.take(conn, count)

    def _movement(self, number: int, given: Mapping[str, Any]) -> Movement:
        usual: dict[str, Any] = {
            "program": self.program,
            "source": "till",
            "event_id": f"e{number}",
            "occurred_ms": START_MS,
        }
        return Movement(id=number, **(usual | {"verdict": "post"} | dict(given)))


def earn(account: str, points: int, **rest: Any) -> dict[str, Any]:
    """Arguments of an earn."""
    return {"kind": "earn", "account": account, "points": points} | rest


def redeem(account: str, points: int, **rest: Any) -> dict[str, Any]:
    """Arguments of a redemption."""
    return {"kind": "redeem", "account": account, "points": points} | rest


def transfer(account: str, to: str, points: int, **rest: Any) -> dict[str, Any]:
    """Arguments of a transfer."""
    return {"kind": "transfer", "account": account, "to": to, "points": points} | rest


def adjust(account: str, points: int, **rest: Any) -> dict[str, Any]:
    """Arguments of an adjustment."""
    return {"kind": "adjust", "account": account, "points": points} | rest


def run_together(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)` to `work(count - 1)` in threads that start at one moment; their results, or what one raised."""
    start = threading.Barrier(count)

    def one(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def merge_in(conn: Connection, writer: Writer, account: str, into: str) -> None:
    """Merge a member into another inside a transaction of the caller's."""
    asked = Merge(
        id=writer.ids.take(conn, 1)[0], program="north", account=account, into=into, actor="eve", reason="one person"
    )
    assert merge(conn, load_programs(conn), writer.ids, asked).result.code == "posted"
