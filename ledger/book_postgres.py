"""The whole ledger on PostgreSQL behind one door: each call is one transaction, done wholly or not at all.

For tools, simulations and the contract suite. The pipeline does the same within its own transactions, together with
what else belongs to a batch; here `record_events` stands in for that, so that `verify` finds every transaction decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ledger import merge_store, pools, refund_store
from ledger.arrays import Layout, bigints, bigints_or_0, fetch, pack, run, texts, timestamps
from ledger.batch import keys_of, lock_batch, post_batch
from ledger.book import (
    TIMEOUT_ACTOR,
    TIMEOUT_REASON,
    Dump,
    MemberView,
    Merge,
    Mode,
    OrderRefund,
    Resolution,
    Resolved,
)
from ledger.book_dump import read_dump
from ledger.chain_store import Act, NotedIds, record
from ledger.expire import expire_due
from ledger.holds import due, read_holds, resolve
from ledger.ids import IdBlocks
from ledger.movement import LotState, Movement, OpenHold, Result
from ledger.programs import advance_clock, create_program, ledger_now, load_programs, set_terms
from ledger.queries import balance
from ledger.store import find_accounts
from ledger.store_lots import LOT
from ledger.terms import DEFAULT_TERMS, Terms

Recorder = Callable[[Connection, Sequence[Movement], Sequence[Result]], None]
"""Keeps, in the transaction of a batch, the events that it decided."""

T = TypeVar("T")
ACTOR = "ledger.book"
DUE_MOST = 10_000
TRIES = 5

_INBOX = """
INSERT INTO event_inbox (source, event_id, log_id, topic, part, "offset", received_at, payload_hash)
SELECT source, event_id, 'book', 'book', 0, id, clock_timestamp(), ''
  FROM unnest(%(ids)s, %(sources)s, %(event_ids)s) AS w(id, source, event_id)"""

_DECISIONS = """
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, event, reasons,
                      occurred_at, observed_at, decided_at, log_id, topic, part, "offset")
SELECT id, source, event_id, program, account, kind, nullif(points, 0), outcome, code, '{}', '[]', occurred_at,
       occurred_at, clock_timestamp(), 'book', 'book', 0, id
  FROM unnest(%(ids)s, %(sources)s, %(event_ids)s, %(programs)s, %(accounts)s, %(kinds)s, %(points)s, %(outcomes)s,
              %(codes)s, %(occurred)s)
       AS w(id, source, event_id, program, account, kind, points, outcome, code, occurred_at)"""

_EVENT_ROW: Layout = {
    "ids": bigints,
    "sources": texts,
    "event_ids": texts,
    "programs": texts,
    "accounts": texts,
    "kinds": texts,
    "points": bigints_or_0,
    "outcomes": texts,
    "codes": texts,
    "occurred": timestamps,
}
_OUTCOMES = {"posted": "approve", "held": "hold"}

_OPEN_LOTS = f"""
SELECT {LOT} FROM lot l WHERE l.account_id = %(account)s AND l.open
 ORDER BY l.expires_at, l.earned_at, l.lot_id"""  # noqa: S608 -- constants

_OPEN_COUNT = "SELECT open_holds FROM account WHERE account_id = %(account)s"

_OPEN_HOLDS = "SELECT hold_id FROM hold WHERE program = %(program)s AND resolved_at IS NULL"

_PROGRAMS = "SELECT program FROM program"


def record_events(conn: Connection, movements: Sequence[Movement], results: Sequence[Result]) -> None:
    """Keep the events of a batch and their decisions, as the pipeline would; reverses find them by these."""
    rows = [
        (
            one.id, one.source, one.event_id, one.program, one.account, one.kind, one.points,
            _OUTCOMES.get(result.code, "reject"), result.code, one.occurred_ms,
        )
        for one, result in zip(movements, results, strict=True)
    ]  # fmt: skip
    packed = pack(rows, _EVENT_ROW)
    run(conn, _INBOX, {name: packed[name] for name in ("ids", "sources", "event_ids")})
    run(conn, _DECISIONS, packed)


class PostgresLedger:
    """A `ledger.book.Ledger` on PostgreSQL; several may be at work on one database, each by many threads."""

    def __init__(self, engine: Engine, recorder: Recorder = record_events) -> None:
        self._engine = engine
        self._recorder = recorder
        self._ids = IdBlocks()

    def create_program(self, name: str, mode: Mode = "simulation", terms: Terms = DEFAULT_TERMS) -> None:
        """Create a programme, or change the terms of one that exists (TermsError where they are for life)."""

        def work(conn: Connection, _: NotedIds) -> None:
            there = create_program(conn, name, mode, terms)
            if there.terms != terms:
                set_terms(conn, name, terms)

        self._act("program.made", work)

    def advance(self, program: str, epoch_ms: int) -> None:
        """Move a simulation's clock up to `epoch_ms`; it never goes back."""
        with self._engine.begin() as conn:
            advance_clock(conn, program, epoch_ms)

    def take_ids(self, count: int) -> list[int]:
        """Take new ids for decisions, ascending."""
        with self._engine.begin() as conn:
            return self._ids.take(conn, count)

    def post(self, movements: Sequence[Movement]) -> list[Result]:
        """Decide movements in order, as one batch; accounts named for the first time are opened."""

        def work(conn: Connection, ids: NotedIds) -> list[Result]:
            names = {one.program for one in movements}
            first = ledger_now(conn, names)
            programs = load_programs(conn, names)
            opened = {key: first[one.program] for one in movements for key in keys_of(one)}
            taken_back = {one.reverses for one in movements if one.reverses is not None}
            locked = lock_batch(conn, programs, opened, taken_back)
            posted = post_batch(conn, locked, movements, ledger_now(conn, names), ids.stream(conn))
            self._recorder(conn, movements, posted.results)
            return list(posted.results)

        return self._act("batch.posted", work, [one.id for one in movements]) if movements else []

    def resolve(self, resolutions: Sequence[Resolution]) -> list[Resolved]:
        """End holds, each at most once in its life, in order."""
        return self._act("holds.decided", lambda conn, ids: resolve(conn, ids, resolutions))

    def time_out(self, program: str) -> list[Resolved]:
        """Let the policy end the holds that are due, as each hold's own `on_timeout` says."""

        def work(conn: Connection, ids: NotedIds) -> list[Resolved]:
            late = due(conn, [program], DUE_MOST)
            wanted = [Resolution(one.hold_id, one.on_timeout, TIMEOUT_ACTOR, TIMEOUT_REASON) for one in late]
            return resolve(conn, ids, wanted)

        return self._act("holds.timed_out", work)

    def expire(self, program: str, most: int = 1000) -> int:
        """Expire up to `most` due lots, the oldest first; how many were."""
        return self._act("lots.expired", lambda conn, ids: expire_due(conn, ids, [program], most))

    def refund(self, refund: OrderRefund) -> Result:
        """Take back, and give back, an order's points in proportion to the money refunded so far."""

        def work(conn: Connection, ids: NotedIds) -> Result:
            return refund_store.refund(conn, load_programs(conn, [refund.program]), ids, refund).result

        return self._act("refund.done", work, [refund.id])

    def merge(self, merge: Merge) -> Result:
        """Move all of one member's points, debts and movements to come to another member."""

        def work(conn: Connection, ids: NotedIds) -> Result:
            return merge_store.merge(conn, load_programs(conn, [merge.program]), ids, merge).result

        return self._act("merge.done", work, [merge.id])

    def join_pool(self, program: str, pool: str, member: str) -> bool:
        """Let a member spend from a pool, which is opened if it is new; False if it could already."""

        def work(conn: Connection, _: NotedIds) -> bool:
            return pools.join_pool(conn, load_programs(conn, [program]), program, pool, member, ACTOR)

        return self._act("pool.joined", work)

    def leave_pool(self, program: str, pool: str, member: str) -> bool:
        """End a member's right to spend from a pool; False if it had none."""

        def work(conn: Connection, _: NotedIds) -> bool:
            return pools.leave_pool(conn, load_programs(conn, [program]), program, pool, member)

        return self._act("pool.left", work)

    def member(self, program: str, name: str) -> MemberView | None:
        """What an account has now (`pool:…` for a pool's); None if there is none."""
        with self._moment() as conn:
            have = balance(conn, program, name)
            account_id = find_accounts(conn, [(program, name)]).get((program, name))
            if have is None or account_id is None:
                return None
            lots = tuple(map(LotState._make, fetch(conn, _OPEN_LOTS, {"account": account_id})))
            [(holds,)] = fetch(conn, _OPEN_COUNT, {"account": account_id})
        return MemberView(have.posted, have.pending_in, have.pending_out, have.available, have.owed, lots, holds)

    def holds(self, program: str) -> list[OpenHold]:
        """The open holds with what they freeze, by id."""
        with self._moment() as conn:
            ids = [row[0] for row in fetch(conn, _OPEN_HOLDS, {"program": program})]
            return [row.hold for row in read_holds(conn, ids).values()]

    def dump(self, programs: Collection[str] | None = None) -> Dump:
        """Everything there is of these programmes, or of all."""
        with self._moment() as conn:
            return read_dump(conn, [row[0] for row in fetch(conn, _PROGRAMS, {})] if programs is None else programs)

    def _moment(self) -> AbstractContextManager[Connection]:
        return self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True).begin()

    def _act(self, what: str, work: Callable[[Connection, NotedIds], T], given: Sequence[int] = ()) -> T:
        """Do one call in a transaction with its link of the audit chain; again if PostgreSQL sacrificed it to others.

        `given` are ids that were taken before and are written under now.
        """
        for tries in range(1, TRIES + 1):
            try:
                with self._engine.begin() as conn:
                    ids = NotedIds(self._ids)
                    done = work(conn, ids)
                    record(conn, Act("book", ACTOR, what), [*given, *ids.taken])
                    return done
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None) or ""
                if not state.startswith("40") or tries == TRIES:
                    raise
        raise AssertionError("unreachable")
