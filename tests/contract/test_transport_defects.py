"""The defects of Faust 0.15.3 that lose events or stall, numbered as in docs/delivery.md: shown, and shown absent.

Both halves of a test run the same scenario. When the half that expects the bug fails, upstream has fixed it, and our
workaround can be looked at again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.contract.transport_harness import (
    PART,
    Harness,
    MemoryLog,
    app_of,
    offsets_of,
    reading,
    running,
    topic_of,
    until,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning"  # Faust drops its wake-up coroutine when an agent is stopped
)


@pytest.fixture(autouse=True)
def _no_log_capture() -> Iterator[None]:
    """Let go of what agents raise: pytest keeps logged tracebacks, and so the generators that Faust waits to end."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def commit_after_acks(driver: str, log: MemoryLog, acked: Callable[[int], bool]) -> int | None:
    """Hand over the whole log one record at a time, ack some, commit."""
    async with reading(driver, log, len(log.offsets)) as (harness, messages):
        for message in messages:
            if acked(message.offset):
                harness.consumer.ack(message)
        return await harness.commit()


@pytest.mark.parametrize(("driver", "committed"), [("stock", 12), ("ours", 10)])
def test_defect_4_commit_jumps_past_the_message_in_flight(driver: str, committed: int) -> None:
    """10 is committed and in flight again, 11 is acked: stock commits 12, and 10 is lost if its worker dies now."""
    log = MemoryLog(range(10, 12), committed_offset=10, at_once=1)
    assert asyncio.run(commit_after_acks(driver, log, lambda offset: offset == 11)) == committed


@pytest.mark.parametrize(("driver", "committed"), [("stock", 6), ("ours", 0)])
def test_defect_5_no_guard_on_a_fresh_partition(driver: str, committed: int) -> None:
    """Nothing was ever committed, 0 to 4 are in flight, 5 is acked: stock commits 6."""
    log = MemoryLog(range(6), at_once=1)
    assert asyncio.run(commit_after_acks(driver, log, lambda offset: offset == 5)) == committed


@pytest.mark.parametrize(("driver", "committed"), [("stock", 17), ("ours", 11)])
def test_defect_6_a_gap_swallows_the_message_behind_it(driver: str, committed: int) -> None:
    """11 to 14 are no records, 15 is in flight, 10 and 16 are acked: stock takes 15 for a part of the gap."""
    log = MemoryLog([10, 15, 16], committed_offset=10, at_once=1)
    assert asyncio.run(commit_after_acks(driver, log, lambda offset: offset != 15)) == committed


class Broken(Exception):
    """What the work of these tests raises."""


@dataclass
class Work:
    """The work of an agent: it notes the offsets that are done and fails at `broken` ones."""

    broken: set[int] = field(default_factory=set)
    started: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    dead: bool = False

    def do(self, offsets: list[int]) -> None:
        """Do one event's work, or fail."""
        self.started += offsets
        if self.broken & set(offsets):
            raise Broken(offsets)
        self.done.update(offsets)

    def lost(self, log: MemoryLog) -> list[int]:
        """Records that are committed though nobody has done their work."""
        return [offset for offset in log.offsets if offset < (log.committed_offset or 0) and offset not in self.done]


def recipe(app: Any, work: Work) -> None:
    """The agent that docs/delivery.md prescribes only hands over; the work stands apart, acks, dies of an error."""
    handoff: asyncio.Queue[Any] = asyncio.Queue(maxsize=4)

    async def batcher() -> None:
        while not work.dead:
            event = await handoff.get()
            try:
                work.do(offsets_of(event))
            except Broken:
                work.dead = True  # here the process ends
            else:
                event.ack()

    async def pump(stream: Any) -> None:
        working = asyncio.create_task(batcher())
        try:
            async for event in stream.noack().events():
                await handoff.put(event)
        finally:
            working.cancel()

    app.agent(topic_of(app), name="pump")(pump)


async def run_until(harness: Harness, condition: Callable[[], bool]) -> None:
    """Start, wait, commit, stop."""
    async with running(harness):
        await until(condition)
        await harness.commit()


async def recipe_loses_nothing(log: MemoryLog, broken: set[int]) -> None:
    """Run the recipe into a failure and again without one: nothing lost before, everything done after."""
    work = Work(broken)
    harness = Harness(app_of("ours"), log)
    recipe(harness.app, work)
    await run_until(harness, lambda: work.dead)
    assert work.done
    assert not work.lost(log)
    again = Work(done=work.done)
    harness = Harness(app_of("ours"), log)
    recipe(harness.app, again)
    await run_until(harness, lambda: again.done == set(log.offsets))
    assert log.committed_offset == log.end


def test_defect_1_an_exception_in_the_agent_loses_the_event() -> None:
    """Stock acks the event whose handler raised, and commits past it."""

    async def stock() -> None:
        work, log = Work({13}), MemoryLog(range(20))
        harness = Harness(app_of("stock"), log)

        async def agent(stream: Any) -> None:
            async for event in stream.events():
                work.do(offsets_of(event))

        harness.app.agent(topic_of(harness.app), name="agent")(agent)
        await run_until(harness, lambda: 13 in work.started)
        assert work.lost(log) == [13]

    asyncio.run(stock())


def test_defect_1_is_absent_from_ours() -> None:
    """With the recipe a failure ends the process, and the next one does the work."""
    asyncio.run(recipe_loses_nothing(MemoryLog(range(20), at_once=5), {13}))


def test_defect_2_take_acks_the_whole_batch_and_then_everything() -> None:
    """`take_events` acks a batch whose work raised; after two of them nobody is at work, and all the rest is acked."""

    async def stock() -> None:
        work, log = Work({60, 110}), MemoryLog(range(2_000))
        harness = Harness(app_of("stock"), log)

        async def agent(stream: Any) -> None:
            async for events in stream.take_events(50, within=5.0):
                work.do([offset for event in events for offset in offsets_of(event)])

        harness.app.agent(topic_of(harness.app), name="agent")(agent)
        async with running(harness):
            await harness.committed(log.end)
        assert len(work.lost(log)) >= 100

    asyncio.run(stock())


def test_defect_2_is_absent_from_ours() -> None:
    """A fetch whose work raised stays un-acked as a whole, and so does all behind it."""
    asyncio.run(recipe_loses_nothing(MemoryLog(range(2_000), at_once=50), {60}))


def test_defect_3_noack_take_acks_unseen_events() -> None:
    """`noack_take` leaves acks to the agent; once its work has raised, the drainer acks what the agent never saw."""

    async def stock() -> None:
        work, log = Work({60, 110}), MemoryLog(range(2_000))
        harness = Harness(app_of("stock"), log)

        async def agent(stream: Any) -> None:
            async for events in stream.noack_take(50, within=5.0):
                work.do([offset for event in events for offset in offsets_of(event)])
                for event in events:
                    event.ack()

        harness.app.agent(topic_of(harness.app), name="agent")(agent)
        acked = harness.consumer._acked_index[PART]
        async with running(harness):
            await until(lambda: log.offsets[-1] in acked)
            assert len(acked - set(work.started)) > 0

    asyncio.run(stock())


def test_defect_3_is_absent_from_ours() -> None:
    """Nothing is acked that the work has not seen."""
    asyncio.run(recipe_loses_nothing(MemoryLog(range(200), at_once=50), {60}))


def test_defect_7_shutdown_loses_the_event_in_progress() -> None:
    """Stock cancels agents before its last commit: the event at work is acked by a `finally`, and committed undone."""

    async def stock() -> None:
        begun, done, log = asyncio.Event(), [], MemoryLog([0])
        harness = Harness(app_of("stock"), log)

        async def agent(stream: Any) -> None:
            async for _event in stream.events():
                begun.set()
                await asyncio.Event().wait()
                done.append(0)

        harness.app.agent(topic_of(harness.app), name="agent")(agent)
        async with running(harness):
            await until(begun.is_set)
        assert (done, log.committed_offset) == ([], 1)

    asyncio.run(stock())


def test_defect_7_is_absent_from_ours() -> None:
    """With the recipe the event at work is not acked, so the last commit leaves it to the next process."""

    async def ours() -> None:
        begun, log = asyncio.Event(), MemoryLog([0])
        harness = Harness(app_of("ours"), log)

        async def at_work(event: Any) -> None:
            begun.set()
            await asyncio.Event().wait()
            event.ack()

        async def pump(stream: Any) -> None:
            working = set()
            async for event in stream.noack().events():
                working.add(asyncio.create_task(at_work(event)))

        harness.app.agent(topic_of(harness.app), name="pump")(pump)
        async with running(harness):
            await until(begun.is_set)
        assert log.committed_offset == 0

    asyncio.run(ours())


@pytest.mark.parametrize(("driver", "stalls"), [("stock", True), ("ours", False)])
def test_defect_17_full_buffers_stall_the_reader_for_a_second(driver: str, stalls: bool) -> None:
    """With all buffers high stock sleeps a whole second although there is a backlog; ours waits for room, no longer."""

    async def scenario() -> list[float]:
        naps: list[float] = []
        read, log = [], MemoryLog(range(1_000), at_once=5)
        harness = Harness(app_of(driver, stream_buffer_maxsize=4), log)
        harness.consumer.sleep = napping(naps)

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                await asyncio.sleep(0.002)
                read.extend(offsets_of(event))
                event.ack()

        harness.app.agent(topic_of(harness.app), name="agent")(agent)
        await run_until(harness, lambda: len(read) >= 100)
        return naps

    naps = asyncio.run(scenario())
    assert any(nap >= 1 for nap in naps) == stalls


def napping(naps: list[float]) -> Callable[[float], Any]:
    """Instead of the consumer's own sleep: note how long it would have been, sleep a moment."""

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    return nap
