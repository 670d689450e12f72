"""The way of a batch: the page to read first.

`prepare` needs no database and may run while the batch before it commits: decode, then one round trip to the velocity
store. `commit` is one PostgreSQL transaction: fence, inbox, then under the accounts' locks features, decision and
postings, then decisions, labels, outbox, progress. Nothing to the right calls back to the left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from alerts.metrics import (
    BATCH,
    COMMITS,
    DEAD_LETTERS,
    DUPLICATES,
    END_TO_END,
    EVENTS,
    INTEGRITY,
    LAST_PROGRESS,
    POINTS,
    READY,
    STAGE,
    VELOCITY_COLD,
    Metrics,
)
from detectors.decision import CompiledPolicy
from detectors.entity import Keys
from detectors.event import points_of
from detectors.layout import Floats
from ledger.chain_cover import Cover
from streams import decisions, effects, endings, inbox, outbox, quarantine
from streams.breaking import RuleWatch
from streams.catalog import Catalog
from streams.decisions import Decided, Made
from streams.effects import CONFLICT, Outgoing
from streams.endings import Ending
from streams.errors import dependency_down, described
from streams.intake import UNKNOWN_PROGRAM, read, times, unreadable
from streams.layouts import LayoutBook
from streams.observing import Observer
from streams.posting import Arrival, Arrivals, Judge, Poster, is_past_deadline
from streams.quarantine import SourceHealth
from streams.records import DeadLetter, Incoming, Log, Span
from streams.sealing import seal
from streams.velocity_store import VelocityUnavailableError

PROCESSING_FAILED = "processing_failed"

_BEGIN = text("""
SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '5s', true),
       set_config('statement_timeout', '10s', true),
       set_config('idle_in_transaction_session_timeout', '15s', true), clock_timestamp() AS now""")


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of; built by the composition root."""

    engine: Engine
    log: Log
    keys: Keys
    catalog: Catalog
    observer: Observer
    poster: Poster
    topics: Outgoing
    metrics: Metrics
    rules: RuleWatch


@dataclass(frozen=True)
class Prepared:
    """A batch that is decoded and observed. `moments` and the rows of `velocity` stand beside `records`.

    `judge` decides it, whatever the catalogue has at its commit: velocity was observed for that policy's layout.
    """

    spans: tuple[Span, ...]
    records: tuple[Incoming, ...]
    moments: tuple[tuple[int, int], ...]
    velocity: Floats
    cold: bool
    judge: Judge

    def singles(self) -> Iterator[Prepared]:
        """The same batch, one record each; together the pieces cover exactly the same offsets."""
        for span in self.spans:
            inside = [
                i
                for i, record in enumerate(self.records)
                if record.part == span.part and span.covers_from <= record.offset <= span.last_offset
            ]
            covers_from = span.covers_from
            for position, i in enumerate(inside):
                last = span.last_offset if position == len(inside) - 1 else self.records[i].offset
                piece = replace(span, covers_from=covers_from, last_offset=last)
                yield replace(
                    self,
                    spans=(piece,),
                    records=(self.records[i],),
                    moments=(self.moments[i],),
                    velocity=self.velocity[i : i + 1],
                )
                covers_from = last + 1
            if not inside:
                yield replace(self, spans=(span,), records=(), moments=(), velocity=self.velocity[:0])


@dataclass(frozen=True)
class Committed:
    """What a committed batch came to."""

    decided: tuple[Decided, ...]
    letters: tuple[DeadLetter, ...]
    duplicates: int
    ended: tuple[Ending, ...] = ()
    policy: CompiledPolicy | None = None
    """What decided them; None where nothing was decided."""


class Pipeline:
    """One worker's stages, composed. `prepare` runs on the event loop, `commit` and `bury` in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._topic = parts.log.topic
        self._health = SourceHealth()
        self._layouts = LayoutBook()

    async def prepare(self, records: Sequence[Any], spans: Sequence[Span], committed: Mapping[int, int]) -> Prepared:
        """Decode what is not committed yet and observe it; raises VelocityUnavailable while the store is away."""
        judge = self._parts.catalog.judge  # read once: the catalog swaps it from another thread
        return await self._prepare(records, spans, committed, judge)

    async def _prepare(
        self, records: Sequence[Any], spans: Sequence[Span], committed: Mapping[int, int], judge: Judge
    ) -> Prepared:
        started = time.perf_counter()
        fresh = [record for record in records if record.offset > committed.get(record.partition, -1)]
        incoming = await self._read(fresh)
        programs = self._parts.catalog.programs
        moments = tuple(
            times(record, record.event, simulation=programs[record.event.program].mode == "simulation")
            if record.invalid is None and record.event is not None
            else (record.observed_ms, record.observed_ms)
            for record in incoming
        )
        decoded = time.perf_counter()
        velocity, cold = await self._observe(incoming, moments, judge)
        self._stage("decode", decoded - started)
        self._stage("velocity", time.perf_counter() - decoded)
        if any(record.invalid is None for record in incoming):  # else the store was not asked
            self._parts.metrics.gauge(VELOCITY_COLD).set(cold)
        return Prepared(tuple(spans), tuple(incoming), moments, velocity, cold, judge)

    async def prepare_apart(
        self, records: Sequence[Any], spans: Sequence[Span], committed: Mapping[int, int]
    ) -> Prepared:
        """As `prepare`, but each record alone: one that cannot be prepared is refused and stops nobody else."""
        judge = self._parts.catalog.judge
        pieces = [await self._prepare_or_refuse(record, committed, judge) for record in records]
        return Prepared(
            tuple(spans),
            tuple(record for piece in pieces for record in piece.records),
            tuple(moment for piece in pieces for moment in piece.moments),
            np.concatenate([piece.velocity for piece in pieces]),
            any(piece.cold for piece in pieces),
            judge,
        )

    async def _prepare_or_refuse(self, record: Any, committed: Mapping[int, int], judge: Judge) -> Prepared:
        try:
            return await self._prepare([record], (), committed, judge)
        except Exception as error:  # whatever it is, this record causes it: kept, never lost
            if dependency_down(error) is not None:
                raise
            refused = unreadable(record, PROCESSING_FAILED, described(error))
            velocity = np.zeros((1, len(judge.policy.layout.velocity)))
            return Prepared((), (refused,), ((0, 0),), velocity, cold=False, judge=judge)

    async def _observe(
        self, incoming: Sequence[Incoming], moments: Sequence[tuple[int, int]], judge: Judge
    ) -> tuple[Floats, bool]:
        """Velocity of the batch; without the store only for requests that are too late anyway, which move nothing."""
        try:
            return await self._parts.observer.observe(incoming, moments, judge.policy.layout)
        except VelocityUnavailableError:
            events = [record.event for record in incoming if record.invalid is None and record.event is not None]
            if not all(is_past_deadline(event, time.time() * 1000) for event in events):
                raise
            return np.zeros((len(incoming), len(judge.policy.layout.velocity))), True

    async def _read(self, records: Sequence[Any]) -> list[Incoming]:
        circumstances = self._parts.catalog.circumstances
        incoming = [read(record, circumstances) for record in records]
        strangers = [i for i, one in enumerate(incoming) if one.invalid and one.invalid.error == UNKNOWN_PROGRAM]
        if strangers and await self._parts.catalog.look_again(_programs_of(incoming[i] for i in strangers)):
            circumstances = self._parts.catalog.circumstances
            for i in strangers:
                incoming[i] = read(records[i], circumstances)
        return incoming

    def commit(self, prepared: Prepared) -> Committed:
        """One transaction for the batch; Fenced, Hole or a database error leave nothing behind."""
        started = time.perf_counter()
        with self._parts.engine.begin() as conn:
            now = conn.execute(_BEGIN).one().now
            last = inbox.fence(conn, self._parts.log, prepared.spans)
            fresh = [i for i, record in enumerate(prepared.records) if record.offset > last[record.part]]
            cover = Cover()
            committed = self._decide(conn, prepared, fresh, cover, now)
            self._leave(conn, committed, now)
            self._judge_sources(conn, committed, now)
            seal(conn, self._parts.log, _beyond(last, prepared.spans), cover, committed.letters, now)
            inbox.advance(conn, self._parts.log, prepared.spans)
            written = time.perf_counter()
        self._stage("ledger", written - started)
        self._stage("commit", time.perf_counter() - written)
        self._count(committed, len(prepared.records))
        self._note_failures(committed)
        self._watch_rules(committed, prepared.judge)
        return committed

    def _watch_rules(self, committed: Committed, judge: Judge) -> None:
        """Count what rules did to live programmes, and pause the one that does far too much."""
        catalog = self._parts.catalog
        simulated = {name for name, program in catalog.programs.items() if program.mode == "simulation"}
        live = [row for row in committed.decided if row.event.program not in simulated]
        for rule in self._parts.rules.watch(live, judge, catalog.expected):
            catalog.pause(rule)

    def bury(self, prepared: Prepared, error: Exception) -> Committed:
        """Keep the one record of `prepared` as a dead letter: processing it failed for a reason that will not pass."""
        detail = described(error)
        with self._parts.engine.begin() as conn:
            now = conn.execute(_BEGIN).one().now
            last = inbox.fence(conn, self._parts.log, prepared.spans)
            letters = tuple(
                DeadLetter(record, PROCESSING_FAILED, "", detail)
                for record in prepared.records
                if record.offset > last[record.part]
            )
            committed = Committed((), letters, 0)
            self._leave(conn, committed, now)
            self._judge_sources(conn, committed, now)
            seal(conn, self._parts.log, _beyond(last, prepared.spans), Cover(), letters, now)
            inbox.advance(conn, self._parts.log, prepared.spans)
        self._count(committed, len(prepared.records))
        self._note_failures(committed)
        return committed

    def _decide(
        self, conn: Connection, prepared: Prepared, fresh: Sequence[int], cover: Cover, now: datetime
    ) -> Committed:
        """Enter the fresh events into the inbox, decide and post the new ones."""
        letters = [
            DeadLetter(record, record.invalid.error, record.invalid.field, record.invalid.detail)
            for record in (prepared.records[i] for i in fresh)
            if record.invalid is not None
        ]
        valid = [i for i in fresh if prepared.records[i].invalid is None]
        records = [prepared.records[i] for i in valid]
        admitted = inbox.admit(conn, self._parts.log, records, self._parts.keys.payload_hash)
        duplicates = [prepared.records[valid[k]] for k in admitted.duplicates]
        inbox.record_duplicates(conn, self._parts.log, duplicates)
        detail = (
            "this id of this source came before with another body; the first one stands. Use a new id for a new event"
        )
        letters += [DeadLetter(prepared.records[valid[k]], CONFLICT, "id", detail) for k in admitted.conflicts]
        accepted = [valid[k] for k in admitted.accepted]
        arrivals = Arrivals(
            tuple(_arrival(prepared.records[i], prepared.moments[i]) for i in accepted),
            prepared.velocity[np.array(accepted, dtype=np.intp)],
            prepared.cold,
        )
        judged = self._parts.poster.post(conn, arrivals, prepared.judge, self._parts.catalog.programs, cover)
        decided = judged.decided
        rows = self._store(conn, decided, prepared.judge, now)
        cover.add_decisions((row.decision_id for row in decided), rows)
        policy = prepared.judge.policy
        return Committed(tuple(decided), tuple(letters), len(duplicates), tuple(judged.endings), policy)

    def _store(
        self, conn: Connection, decided: Sequence[Decided], judge: Judge, now: datetime
    ) -> list[tuple[Any, ...]]:
        policy = judge.policy.policy
        version = judge.snapshot.version if judge.snapshot else None
        layout = judge.policy.layout
        self._layouts.keep(conn, layout)
        rows = decisions.insert(conn, self._parts.log, decided, Made(policy.version, version, layout.version, now))
        effects.expect_labels(conn, decided, policy.training, self._parts.keys)
        return rows

    def _leave(self, conn: Connection, committed: Committed, now: datetime) -> None:
        inbox.bury(conn, self._parts.log, committed.letters, self._parts.keys.seal)
        going = effects.messages(committed.decided, self._parts.topics, now, committed.policy)
        going += effects.refusals(committed.letters, self._parts.log, self._parts.topics, now)
        outbox.enqueue(conn, going)
        # Behind the decisions: a hold may have been opened, and ended by a reversal, in this very batch.
        endings.tell(conn, committed.ended, self._parts.topics.decisions)

    def _judge_sources(self, conn: Connection, committed: Committed, now: datetime) -> None:
        good = (row.event.source for row in committed.decided)
        bad = ((letter.record.source, letter.error) for letter in committed.letters)
        new = quarantine.put_in(conn, self._health.note(good, bad))
        outbox.enqueue(conn, effects.quarantines(new, self._parts.topics, now))

    def _note_failures(self, committed: Committed) -> None:
        failures = sum(letter.error == PROCESSING_FAILED for letter in committed.letters)
        if committed.decided or committed.duplicates or len(committed.letters) > failures:
            self._health.succeeded()
        for _ in range(failures):
            self._health.failed()

    def waiting(self, dependency: str) -> None:
        """A dependency does not answer; the batch is kept and tried again."""
        self._parts.metrics.gauge(READY, dependency).set(0)
        self._parts.metrics.counter(COMMITS, self._topic, "retried").inc()

    def answered(self) -> None:
        """Both dependencies answered."""
        for dependency in ("postgresql", "redis"):
            self._parts.metrics.gauge(READY, dependency).set(1)

    def note(self, result: str) -> None:
        """A batch ended otherwise than by its commit: fenced, or split to find the record that spoils it."""
        self._parts.metrics.counter(COMMITS, self._topic, result).inc()

    def _stage(self, stage: str, seconds: float) -> None:
        self._parts.metrics.histogram(STAGE, self._topic, stage).observe(seconds)

    def _count(self, committed: Committed, records: int) -> None:
        metrics, topic, now = self._parts.metrics, self._topic, time.time()
        outcomes = Counter((row.event.type, row.outcome) for row in committed.decided)
        for (kind, outcome), count in outcomes.items():
            metrics.counter(EVENTS, topic, kind, outcome).inc(count)
        moved: Counter[tuple[str, str]] = Counter()
        latency = metrics.histogram(END_TO_END, topic)
        for row in committed.decided:
            if row.event.moves:
                moved[row.event.type, row.outcome] += points_of(row.event)
            latency.observe(max(0.0, now - row.incoming.observed_ms / 1000))
        for (kind, outcome), points in moved.items():
            metrics.counter(POINTS, kind, outcome).inc(points)
        for letter in committed.letters:
            metrics.counter(DEAD_LETTERS, topic, letter.error).inc()
            if letter.error == CONFLICT:
                metrics.counter(INTEGRITY, topic).inc()
        metrics.counter(DUPLICATES, topic).inc(committed.duplicates)
        metrics.histogram(BATCH, topic).observe(records)
        metrics.counter(COMMITS, topic, "committed").inc()
        metrics.gauge(LAST_PROGRESS, topic).set(now)


def _beyond(last: Mapping[int, int], spans: Sequence[Span]) -> list[Span]:
    """What of the spans was not committed before."""
    fresh = [replace(span, covers_from=max(span.covers_from, last[span.part] + 1)) for span in spans]
    return [span for span in fresh if span.covers_from <= span.last_offset]


def _programs_of(records: Iterable[Incoming]) -> set[str]:
    return {record.event.program for record in records if record.event is not None}


def _arrival(record: Incoming, moment: tuple[int, int]) -> Arrival:
    if record.event is None:
        raise ValueError("a record without an event is invalid and never arrives here")
    return Arrival(record, record.event, moment[0], moment[1])
