"""The stage inside the batch transaction: read the accounts under their locks, score, decide, and post or hold.

Takes what the inbox admitted and gives one `Decided` an event. Everything is a batch: one lock statement, one features
matrix, one plan, one statement a table. The only loops over events are over plain values, where order within the batch
matters: a sign-up must be seen by the purchase behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import numpy as np
from sqlalchemy import Connection

from detectors.aside import Aside
from detectors.decision import CompiledPolicy, Decision, Reason, decide, fields_of
from detectors.entity import Keys
from detectors.event import Event, Reverse, Transfer, milliseconds, points_of
from detectors.features import AccountTimes, account_times, assemble, moments
from detectors.layout import Floats, Layout
from detectors.models_snapshot import Snapshot
from detectors.register import Entry, Register, Snooze, columns, silenced
from detectors.rules import EventFields
from ledger.batch import Facts, lock_batch, post_batch
from ledger.chain_cover import Cover
from ledger.ids import IdBlocks
from ledger.movement import POOL, Accounts, Key, Movement, Result, Verdict
from ledger.programs import Program, advance_clock, ledger_now
from streams import norms
from streams.decisions import Decided
from streams.endings import Ending, endings_of
from streams.link_store import flag
from streams.links import Linker, Visit
from streams.listing import entities
from streams.records import Incoming

OUTCOME_OF_CODE = {"posted": "approve", "held": "hold"}
VERDICTS: Mapping[str, Verdict] = {"approve": "post", "hold": "hold", "reject": "reject"}
VERDICT_CODES = frozenset({"posted", "held", "rejected"})
TIME_CLAMPED = Reason(code="time_clamped", kind="ledger")
"""Marks an event whose claimed time was too far from when it was seen; `occurred_at` of its row is the clamped one."""
EXPIRED = "expired"
NOTED = "noted"


@dataclass(frozen=True)
class Judge:
    """What decides a batch: policy, model snapshot, lists, and rules that are silent; swapped only between batches."""

    policy: CompiledPolicy
    snapshot: Snapshot | None
    entries: Register[Entry] = field(default_factory=Register)
    snoozes: Register[Snooze] = field(default_factory=Register)
    paused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Arrival:
    """An admitted event with its times (Unix ms)."""

    incoming: Incoming
    event: Event
    occurred_ms: int
    observed_ms: int


@dataclass(frozen=True)
class Arrivals:
    """What is decided together: events in order, their velocity in the judge's layout, and whether it is cold."""

    events: tuple[Arrival, ...]
    velocity: Floats
    cold: bool


@dataclass(frozen=True)
class Judged:
    """What a batch came to: a decision an event, in order, and the holds that its reverses ended."""

    decided: list[Decided]
    endings: list[Ending]


class Poster:
    """Decides and posts admitted events; `post` runs inside the caller's transaction."""

    def __init__(self, keys: Keys, ids: IdBlocks, timed: Callable[[float], None] = lambda _: None) -> None:
        """`timed` is told the seconds that features, rules and models took."""
        self._keys, self._ids, self._timed = keys, ids, timed
        self._linker = Linker(keys)

    def post(
        self, conn: Connection, arrivals: Arrivals, judge: Judge, programs: Mapping[str, Program], cover: Cover
    ) -> Judged:
        """One decision an event, in order; movements of points are written to the ledger, held ones as pending.

        What the ledger wrote goes to `cover`, for the audit chain.
        """
        events = arrivals.events
        if not events:
            return Judged([], [])
        ids = self._ids.take(conn, len(events))
        locked = lock_batch(conn, programs, opening_times(events), reversed_events(events))
        now = self._now(conn, events, programs)
        started = time.perf_counter()
        before, changed = account_times(
            [arrival.event for arrival in events],
            [arrival.occurred_ms for arrival in events],
            stored_times(locked.accounts),
        )
        linked = self._linker.observe(conn, _visits(events, locked.accounts, before), judge.policy.policy.links)
        moving = [i for i, arrival in enumerate(events) if arrival.event.moves]
        lists, aside = self._standing([events[i] for i in moving], judge)
        features = _features(arrivals, moving, before, linked, lists, judge.policy.layout)
        keys = [(events[i].event.program, events[i].event.account) for i in moving]
        norms.fill(conn, features, judge.policy.layout, keys)
        fields = [fields_of(events[i].event) for i in moving]
        decisions = decide(fields, features, judge.policy, judge.snapshot, arrivals.cold, aside)
        self._timed(time.perf_counter() - started)
        expired = {i for i in moving if is_past_deadline(events[i].event, now[events[i].event.program])}
        movements = [
            _movement(ids[i], events[i], field, decision, judge.policy)
            for i, field, decision in zip(moving, fields, decisions, strict=True)
            if i not in expired
        ]
        facts = Facts(
            _known({key: times.signed_up_ms for key, times in changed.items()}),
            _known({key: times.credential_changed_ms for key, times in changed.items()}),
        )
        posted = post_batch(conn, locked, movements, now, self._ids.stream(conn), facts)
        for written in posted.plans:
            cover.add_plan(written, now)
        results = dict(zip((movement.id for movement in movements), posted.results, strict=True))
        flag(conn, _rejected(movements, posted.results, locked.accounts))
        verdicts = {
            i: (decision, features[row]) for row, (i, decision) in enumerate(zip(moving, decisions, strict=True))
        }
        decided = [
            self._decided(ids[i], arrival, verdicts.get(i), results.get(ids[i])) for i, arrival in enumerate(events)
        ]
        return Judged(decided, endings_of(posted.plans))

    def _standing(self, moving: Sequence[Arrival], judge: Judge) -> tuple[Floats, Aside]:
        """What lists say of each event, in the layout's columns, and the rules that are silent for it."""
        events = [arrival.event for arrival in moving]
        programs = [event.program for event in events]
        seen_ms = [arrival.observed_ms for arrival in moving]
        values = entities(events, self._keys)
        listed = judge.entries.find(programs, seen_ms, values)
        snoozed = silenced(judge.snoozes.find(programs, seen_ms, values))
        return columns(listed, len(events), judge.policy.layout.lists), Aside(judge.paused, snoozed)

    def _now(self, conn: Connection, events: Sequence[Arrival], programs: Mapping[str, Program]) -> dict[str, int]:
        latest: dict[str, int] = {}
        for arrival in events:
            name = arrival.event.program
            latest[name] = max(latest.get(name, 0), arrival.observed_ms)
        for name in sorted(latest):
            if programs[name].mode == "simulation":
                advance_clock(conn, name, latest[name])
        return ledger_now(conn, latest)

    def _decided(
        self, decision_id: int, arrival: Arrival, verdict: tuple[Decision, Floats] | None, result: Result | None
    ) -> Decided:
        event = arrival.event
        marks = [TIME_CLAMPED] if arrival.occurred_ms != milliseconds(event.occurred_at) else []
        if result is not None and result.code not in VERDICT_CODES:
            marks.append(Reason(code=result.code, kind="ledger", value=float(points_of(event))))
        if verdict is None:
            outcome = code = NOTED
        elif result is None:
            outcome = code = EXPIRED
        else:
            outcome, code = OUTCOME_OF_CODE.get(result.code, "reject"), result.code
        return Decided(
            decision_id=decision_id,
            incoming=arrival.incoming,
            event=event,
            device=None if event.device is None else self._keys.device(event.device),
            ip=None if event.ip is None else self._keys.ip(event.ip),
            ip_prefix=None if event.ip is None else self._keys.ip_prefix(event.ip),
            payment=None if event.payment is None else self._keys.payment(event.payment),
            occurred_ms=arrival.occurred_ms,
            observed_ms=arrival.observed_ms,
            outcome=outcome,
            code=code,
            decision=_marked(verdict[0], marks) if verdict else None,
            features=verdict[1] if verdict else None,
        )


def _visits(events: Sequence[Arrival], accounts: Accounts, before: Sequence[AccountTimes]) -> list[Visit]:
    """The batch as its links see it."""
    return [
        Visit(
            arrival.event,
            accounts.members[arrival.event.program, arrival.event.account],
            arrival.occurred_ms,
            times.signed_up_ms,
        )
        for arrival, times in zip(events, before, strict=True)
    ]


def _rejected(movements: Sequence[Movement], results: Sequence[Result], accounts: Accounts) -> set[int]:
    """The accounts whose movements the policy rejected."""
    return {
        accounts.members[movement.program, movement.account].account_id
        for movement, result in zip(movements, results, strict=True)
        if result.code == "rejected"
    }


def _features(
    arrivals: Arrivals,
    moving: Sequence[int],
    before: Sequence[AccountTimes],
    linked: Floats,
    lists: Floats,
    layout: Layout,
) -> Floats:
    """The features of the events at the places `moving`, float64[len(moving), layout.width].

    `linked` stands beside all events, `lists` beside the moving ones.
    """
    events, rows = arrivals.events, np.array(moving, dtype=np.intp)
    known = moments(
        [events[i].event for i in moving], [events[i].occurred_ms for i in moving], [before[i] for i in moving]
    )
    return assemble(layout, arrivals.velocity[rows], known, linked[rows], lists)


def _marked(decision: Decision, marks: Sequence[Reason]) -> Decision:
    """The decision with what ledger and intake add to its reasons; these are no part of what recomputes."""
    return msgspec.structs.replace(decision, reasons=(*decision.reasons, *marks)) if marks else decision


def opening_times(events: Sequence[Arrival]) -> dict[Key, int]:
    """Every account the batch touches, with the time from which it counts as known if it is new."""
    opened: dict[Key, int] = {}
    for arrival in events:
        event = arrival.event
        opened.setdefault((event.program, event.account), arrival.occurred_ms)
        if isinstance(event, Transfer):
            opened.setdefault((event.program, event.to), arrival.occurred_ms)
        pool = _pool_of(event)
        if pool is not None:
            opened.setdefault((event.program, POOL + pool), arrival.occurred_ms)
    return opened


def reversed_events(events: Sequence[Arrival]) -> set[tuple[str, str]]:
    """What the reverses of the batch name, by source and id; a source can only take back what it sent itself."""
    return {(event.source, event.reverses) for arrival in events if isinstance(event := arrival.event, Reverse)}


def _pool_of(event: Event) -> str | None:
    pool: str | None = getattr(event, "pool", None)
    return pool


def stored_times(accounts: Accounts) -> dict[Key, AccountTimes]:
    """What the ledger knows of each locked account's history."""
    return {
        key: AccountTimes(float(state.opened_ms), _or_nan(state.signed_up_ms), _or_nan(state.credential_changed_ms))
        for key, state in accounts.members.items()
    }


def _or_nan(time_ms: int | None) -> float:
    return math.nan if time_ms is None else float(time_ms)


def _known(times: Mapping[Key, float]) -> dict[Key, int]:
    return {key: int(time_ms) for key, time_ms in times.items() if not math.isnan(time_ms)}


def is_past_deadline(event: Event, now_ms: float) -> bool:
    """Whether the event is a request whose `decide_by` is over: it is answered `expired` and moves nothing."""
    decide_by: datetime | None = getattr(event, "decide_by", None)
    if decide_by is None or getattr(event, "fulfilled", False):
        return False
    return milliseconds(decide_by) < now_ms


def _movement(
    decision_id: int, arrival: Arrival, fields: EventFields, decision: Decision, policy: CompiledPolicy
) -> Movement:
    event = arrival.event
    term = policy.policy.holds.get(event.type)  # type: ignore[call-overload]  # a reverse, the only other, is never held
    return Movement(
        id=decision_id,
        kind=event.type,  # type: ignore[arg-type]  # as above
        program=event.program,
        account=event.account,
        points=fields.points,
        verdict=VERDICTS[decision.outcome],
        source=event.source,
        event_id=event.id,
        occurred_ms=arrival.occurred_ms,
        to=event.to if isinstance(event, Transfer) else None,
        fact=fields.outflow and fields.fulfilled,
        due_seconds=None if term is None else term.due_seconds,
        on_timeout="escalate" if term is None else term.on_timeout,
        store=event.store,
        order=event.order,
        pool=_pool_of(event),
        reverses=(event.source, event.reverses) if isinstance(event, Reverse) else None,
    )
