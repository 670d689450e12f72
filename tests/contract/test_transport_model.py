"""Hand-over and commit point under any order of fetches, rebalances, acks and crashes, against a model of the log."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
from faust.types import TP
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.contract.transport_harness import PART, Harness, MemoryLog, app_of, collect


class Reader(RuleBasedStateMachine):
    """One worker after another on one partition: each step is one thing that Kafka, Faust or the work may do next.

    With `in_order` the work is as in PointGuard: it skips what is done, wants no holes, tells where reading goes on.
    Without, acks come in any order and Kafka's committed offset alone tells where reading goes on.
    """

    in_order = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.log = MemoryLog([])
        self.done: set[int] = set()
        self.progress = -1

    @initialize(first=st.integers(0, 3))
    def start_worker(self, first: int) -> None:
        """The log may begin anywhere."""
        self.log.begins_at = self.log.position_offset = first
        self.next_offset = first
        self.progress = first - 1
        self.runner.run(self._new_worker())

    async def _new_worker(self) -> None:
        self.harness = Harness(app_of("ours"), self.log)
        self.channel = collect(self.harness)
        self.deliver = self.harness.consumer.callback
        self.at_work: list[Any] = []
        self.fetch_in_flight: Any = None
        self.stage = "revoked"
        self.expected: dict[int, int] = {}
        if self.in_order:
            self.harness.app.positions = self.positions  # type: ignore[attr-defined]  # it is a transport.App
        self.harness.revoke()

    async def positions(self, partitions: set[TP]) -> dict[TP, int]:
        """Where the work stands; as a fresh database it knows nothing of a partition at first."""
        return {tp: self.progress + 1 for tp in partitions if self.done}

    # -- Kafka

    @rule(count=st.integers(1, 4), gap=st.integers(0, 2))
    def produce(self, count: int, gap: int) -> None:
        """Append records behind a gap, as a transaction marker or compaction leaves it."""
        first = self.next_offset + gap
        self.log.offsets += range(first, first + count)
        self.next_offset = first + count

    @precondition(lambda self: self.fetch_in_flight is None and self.harness.consumer.flow_active)
    @rule(at_once=st.integers(1, 3))
    def fetch(self, at_once: int) -> None:
        """Kafka's thread takes records from its buffer; they are on their way to the other thread."""
        self.log.at_once = at_once
        self.fetch_in_flight = self.runner.run(self.harness.consumer._thread.fetch(0))

    @precondition(lambda self: self.fetch_in_flight is None)
    @rule(at_once=st.integers(1, 3))
    def fetch_begun_before(self, at_once: int) -> None:
        """The same, asked for before the flow stopped: it may take records at any moment of a rebalance."""
        self.log.at_once = at_once
        self.fetch_in_flight = self.runner.run(self.harness.consumer._thread.fetch(0))

    @rule(back=st.integers(0, 5))
    @precondition(lambda self: self.stage == "revoked")
    def assignment_moves_position(self, back: int) -> None:
        """A new assignment starts where Kafka thinks, which may be anywhere."""
        self.log.position_offset = max(self.log.begins_at, self.next_offset - back)

    # -- Faust

    @precondition(lambda self: self.stage != "revoked")
    @rule()
    def rebalance(self) -> None:
        """Partitions are revoked; what lies in the agents' channels is cleared, what is at work stays there."""
        self.runner.run(self._revoke())

    async def _revoke(self) -> None:
        await self.harness.consumer.on_partitions_revoked({PART})
        self.channel.clear()
        self.stage = "revoked"

    @precondition(lambda self: self.stage == "revoked")
    @rule()
    def resume_too_early(self) -> None:
        """Faust resumes for a rebalance that another one has overtaken."""
        self.harness.consumer.resume_flow()

    @precondition(lambda self: self.stage == "revoked")
    @rule()
    def seek(self) -> None:
        """Faust lets the consumer seek after an assignment."""
        self.runner.run(self.harness.consumer.perform_seek())
        self.expected = {self.harness.consumer.reading: self.log.position_offset}
        self.stage = "sought"

    @precondition(lambda self: self.stage == "sought")
    @rule()
    def resume(self) -> None:
        """Faust clears the channels once more, and resumes."""
        self.channel.clear()
        self.harness.consumer.resume_flow()
        self.stage = "flowing"

    @precondition(lambda self: self.fetch_in_flight is not None and self.harness.consumer.flow_active)
    @rule()
    def hand_over(self) -> None:
        """The fetch arrives and goes to the agents' channel."""
        fetch, self.fetch_in_flight = self.fetch_in_flight, None
        self.runner.run(self.harness.consumer._hand_over(fetch))

    @precondition(lambda self: self.fetch_in_flight is not None and self.stage == "flowing")
    @rule()
    def hand_over_cut(self) -> None:
        """The channel is full, and a rebalance comes before there is room; the batch lands all the same, late."""
        fetch, self.fetch_in_flight = self.fetch_in_flight, None
        self.runner.run(self._cut(fetch))

    async def _cut(self, fetch: Any) -> None:
        full, late = asyncio.Event(), []

        async def blocked(message: Any) -> None:
            late.append(message)
            full.set()
            await asyncio.Event().wait()

        self.harness.consumer.callback = blocked
        handing = asyncio.create_task(self.harness.consumer._hand_over(fetch))
        landing = asyncio.create_task(full.wait())
        await asyncio.wait([handing, landing], return_when=asyncio.FIRST_COMPLETED)
        landing.cancel()
        await self._revoke()
        await asyncio.wait_for(handing, 5)
        self.harness.consumer.callback = self.deliver
        self.at_work += late

    # -- the work

    @precondition(lambda self: self.stage == "flowing" and self.channel)
    @rule()
    def take(self) -> None:
        """The agent takes a batch: it begins where the one before ended, and has all records of its offsets."""
        message = self.channel.pop(0)
        batch = message.value
        assert batch.covers_from == self.expected[batch.reading]
        in_log = [offset for offset in self.log.offsets if batch.covers_from <= offset <= batch.last_offset]
        assert [one.offset for one in batch.records] == in_log
        self.expected[batch.reading] = batch.last_offset + 1
        self.at_work.append(message)

    @precondition(lambda self: self.at_work)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """A batch is worked on and acked: the oldest, or any, also one of an earlier reading."""
        self._work(self.at_work[0] if self.in_order else data.draw(st.sampled_from(self.at_work)))

    def _work(self, message: Any) -> None:
        self.at_work.remove(message)
        batch, app = message.value, self.harness.app
        if self.in_order:
            if not app.is_current(batch):  # type: ignore[attr-defined]  # it is a transport.App
                return
            assert batch.covers_from <= self.progress + 1, "a hole: records were skipped"
            assert batch.last_offset > self.progress, "handed over twice in one reading"
            self.progress = batch.last_offset
        self.done |= {one.offset for one in batch.records}
        message.ack(self.harness.consumer)

    @rule()
    def commit(self) -> None:
        """The timer commits."""
        self.runner.run(self.harness.commit())

    @rule()
    def crash(self) -> None:
        """The process dies; another begins with nothing but the log, the commit and what was done."""
        self.harness.consumer._thread.thread_loop.close()
        self.runner.run(self._new_worker())

    @invariant()
    def nothing_undone_is_committed(self) -> None:
        """All records below the committed offset are done."""
        committed = self.log.committed_offset or 0
        assert self.done.issuperset(offset for offset in self.log.offsets if offset < committed)

    def teardown(self) -> None:
        """Left alone after one more rebalance, a worker hands everything over, and all of it gets committed."""
        self.runner.run(self._finish())
        if self.log.offsets:
            assert (self.done, self.log.committed_offset) == (set(self.log.offsets), self.log.end)
        self.harness.consumer._thread.thread_loop.close()
        self.runner.close()

    async def _finish(self) -> None:
        await self._revoke()
        await self.harness.consumer.perform_seek()
        self.expected = {self.harness.consumer.reading: self.log.position_offset}
        self.harness.consumer.resume_flow()
        self.stage = "flowing"
        self.at_work.clear()
        for _ in self.log.offsets:
            await self.harness.consumer._hand_over(await self.harness.consumer._thread.fetch(0))
        while self.channel:
            self.take()
            self._work(self.at_work[0])
        await self.harness.commit()


class OrderedReader(Reader):
    """The same with PointGuard's work: in order, positions from its own record."""

    in_order = True


THOROUGH = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyOrderOfAcks = Reader.TestCase
TestAnyOrderOfAcks.settings = THOROUGH
TestOrderedWork = OrderedReader.TestCase
TestOrderedWork.settings = THOROUGH
