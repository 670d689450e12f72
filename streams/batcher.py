"""The one batcher of a worker: gathers record batches, prepares and commits them, and acks after the commit.

Two coroutines with a queue of one between them: while batch N commits in a thread, batch N+1 is decoded and makes its
Redis round trip; commits stay in order. Whatever is unexpected ends the process, never an exception into Faust: what
was not acked comes again to the next process, and the progress rows say what is already done.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from streams import exits
from streams.errors import dependency_down, described, is_fault, ran_out_of_time
from streams.handoff import BatchParams, Handoff
from streams.holes import LostRecords
from streams.pipeline import Pipeline, Prepared
from streams.records import Fenced, Hole, Span
from streams.transport import RecordBatch
from streams.watchdog import Pulse

BACKOFF_SECONDS_MAX = 5.0
SLOW_TRIES = 3
HOLE_BATCH_RECORDS = 500

T = TypeVar("T")
log = structlog.get_logger()


class Ownership:
    """Which partitions this worker owns, under which epoch, and up to where they are committed.

    Written by the claim at assignment and by the batcher after each commit, both on the event loop.
    """

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    def take(self, part: int, epoch: int, last_offset: int) -> None:
        """This worker owns `part` from now on."""
        self.epochs[part], self.committed[part] = epoch, last_offset

    def release(self) -> None:
        """A rebalance begins: nothing is owned until partitions are assigned and claimed again."""
        self.epochs.clear()
        self.committed.clear()

    def holds(self, spans: Sequence[Span]) -> bool:
        """Whether every span was fetched under an epoch that is still ours."""
        return all(self.epochs.get(span.part) == span.epoch for span in spans)

    def reached(self, spans: Sequence[Span]) -> None:
        """The batch with these spans is committed."""
        for span in spans:
            if self.epochs.get(span.part) == span.epoch:
                self.committed[span.part] = max(self.committed[span.part], span.last_offset)


@dataclass(frozen=True)
class Outside:
    """What the batcher asks of its surroundings: whether a record batch still counts, and records that were skipped."""

    is_current: Callable[[RecordBatch], bool]
    read_hole: Callable[[Hole], Awaitable[list[Any]]]


@dataclass(frozen=True)
class Fetched:
    """Record batches that travel together, with what was prepared of them."""

    events: tuple[Any, ...]
    records: int
    prepared: Prepared


class Batcher:
    """Turns the pump's record batches into commits and acks; `run` ends only by cancellation or with the process."""

    def __init__(
        self,
        pipeline: Pipeline,
        ownership: Ownership,
        params: BatchParams,
        pulse: Pulse,
        outside: Outside,
    ) -> None:
        self.handoff = Handoff(params)
        self._ready: asyncio.Queue[Fetched] = asyncio.Queue(maxsize=1)
        self._pipeline, self._ownership, self._pulse = pipeline, ownership, pulse
        self._outside = outside

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Prepare and commit until cancelled; ends the process on anything unexpected."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare_loop())
                group.create_task(self._commit_loop())
        except asyncio.CancelledError:
            if not stopping():
                log.critical("batcher cancelled while the worker runs", code=exits.UNEXPECTED)
                os._exit(exits.UNEXPECTED)
            raise
        except BaseException as error:  # the recipe: a dead process loses nothing, a living one that went on might
            code = exits.FAULT if is_fault(error) else exits.UNEXPECTED
            log.critical("batcher failed", error=described(error), exc_info=True, code=code)
            os._exit(code)

    async def _prepare_loop(self) -> None:
        while True:
            events = [event for event in await self.handoff.gather() if self._is_ours(event.value)]
            if not events:
                continue
            batches = [event.value for event in events]
            records = [record for batch in batches for record in batch.records]
            spans = [
                Span(batch.part, batch.covers_from, batch.last_offset, self._ownership.epochs[batch.part])
                for batch in batches
            ]
            if self._pulse.work == 0:
                self._pulse.beat()  # after a quiet time: the watchdog's clock starts with the work
            self._pulse.work += len(records)
            prepared = await self._prepare(records, spans, dict(self._ownership.committed))
            if prepared is None:
                self._pulse.work -= len(records)
            else:
                await self._ready.put(Fetched(tuple(events), len(records), prepared))

    async def _prepare(
        self, records: Sequence[Any], spans: Sequence[Span], committed: Mapping[int, int]
    ) -> Prepared | None:
        try:
            return await self._patiently(spans, lambda: self._pipeline.prepare(records, spans, committed))
        except Exception as error:  # one record spoils its batch; each alone shows which
            if is_fault(error):
                raise
            log.warning("batch not prepared, trying each record alone", error=described(error), records=len(records))
            self._pipeline.note("split")
            return await self._patiently(spans, lambda: self._pipeline.prepare_apart(records, spans, committed))

    def _is_ours(self, batch: RecordBatch) -> bool:
        return batch.part in self._ownership.epochs and self._outside.is_current(batch)

    async def _commit_loop(self) -> None:
        while True:
            fetched = await self._ready.get()
            committed = await self._commit(fetched.prepared)
            self._pulse.work -= fetched.records
            if committed:
                for event in fetched.events:
                    event.ack()
                self._pulse.beat()

    async def _commit(self, prepared: Prepared) -> bool:
        """Commit one batch, however long it takes; False when it is no longer ours and was dropped."""
        try:
            done = await self._patiently(
                prepared.spans,
                lambda: asyncio.to_thread(self._pipeline.commit, prepared),
                splittable=len(prepared.records) > 1,
            )
        except Fenced as fenced:
            if self._ownership.holds(prepared.spans):
                log.critical("another worker owns this partition", partition=fenced.part, epoch=fenced.mine)
                os._exit(exits.FENCED)
            self._pipeline.note("fenced")
            return False
        except Hole as hole:
            return await self._fill(hole, prepared.spans) and await self._commit(prepared)
        except Exception as error:  # one event spoils its batch; each alone shows which
            if is_fault(error):
                raise
            count = len(prepared.records)
            log.warning("batch refused, trying each record alone", error=described(error), records=count)
            return await self._one_by_one(prepared)
        if done is not None:
            self._ownership.reached(prepared.spans)
        return done is not None

    async def _one_by_one(self, prepared: Prepared) -> bool:
        """Each record in a transaction of its own; the one that fails again goes to the dead letters."""
        self._pipeline.note("split")
        for single in prepared.singles():
            if not await self._commit_single(single):
                return False
            self._ownership.reached(single.spans)
        return True

    async def _commit_single(self, single: Prepared) -> bool:
        try:
            done = await self._patiently(single.spans, lambda: asyncio.to_thread(self._pipeline.commit, single))
        except Fenced:
            return False
        except Exception as error:  # this record causes it: kept with the reason, never lost
            if is_fault(error):
                raise
            cause = error
            done = await self._patiently(single.spans, lambda: asyncio.to_thread(self._pipeline.bury, single, cause))
        return done is not None

    async def _fill(self, hole: Hole, spans: Sequence[Span]) -> bool:
        """Read what was skipped with a consumer of its own and commit it first."""
        log.warning("hole in the log", partition=hole.part, first=hole.first, last=hole.last)
        epoch = next(span.epoch for span in spans if span.part == hole.part)
        try:
            records = await self._outside.read_hole(hole)
        except LostRecords as lost:
            log.critical("records are gone from the log", partition=hole.part, detail=str(lost), code=exits.LOST)
            os._exit(exits.LOST)
        if not self._ownership.holds(spans):
            return False
        # What this worker took for committed is not: the database was set back.
        self._ownership.committed[hole.part] = hole.first - 1
        for first in range(0, max(len(records), 1), HOLE_BATCH_RECORDS):
            piece = records[first : first + HOLE_BATCH_RECORDS]
            begins = hole.first if first == 0 else piece[0].offset
            ends = hole.last if first + HOLE_BATCH_RECORDS >= len(records) else piece[-1].offset
            span = Span(hole.part, min(begins, self._ownership.committed[hole.part] + 1), ends, epoch)
            prepared = await self._prepare(piece, [span], {})
            if prepared is None or not await self._commit(prepared):
                return False
        return True

    async def _patiently(
        self, spans: Sequence[Span], attempt: Callable[[], Awaitable[T]], *, splittable: bool = False
    ) -> T | None:
        """Try until it works, backing off with jitter while a dependency is down; None once the batch is not ours.

        A `splittable` batch that runs into the statement time-out again and again is not tried for ever: its error goes
        on up, for smaller pieces may pass.
        """
        failures = 0
        while self._ownership.holds(spans):
            try:
                done = await attempt()
            except Exception as error:  # sorted at once: a dependency's is waited for, any other goes on up
                dependency = dependency_down(error)
                if dependency is None or (splittable and failures >= SLOW_TRIES and ran_out_of_time(error)):
                    raise
            else:
                self._pipeline.answered()
                return done
            failures += 1
            self._pipeline.waiting(dependency)
            self._pulse.beat()
            await asyncio.sleep(min(BACKOFF_SECONDS_MAX, 0.05 * 2**failures) * random.uniform(0.5, 1.0))
        return None
