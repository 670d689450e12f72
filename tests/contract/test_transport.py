"""What our transport promises: readings, seeks, the batch itself, and what ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError, OffsetOutOfRangeError
from faust.exceptions import ImproperlyConfigured
from faust.types import TP

from streams import transport
from tests.contract.transport_harness import (
    PART,
    Harness,
    MemoryLog,
    app_of,
    collect,
    reading,
    record,
    running,
    topic_of,
)


class GaveUp(BaseException):
    """Instead of the end of the process."""


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[type[Exception], int]]:
    """Note why and with which code the process would have ended."""
    calls: list[tuple[type[Exception], int]] = []

    def give_up(_self: Any, _reason: str, error: Exception, exit_code: int) -> None:
        calls.append((type(error), exit_code))
        raise GaveUp

    monkeypatch.setattr(transport.App, "give_up", give_up)
    return calls


@pytest.fixture
def make() -> Iterator[Callable[..., Harness]]:
    """Make harnesses of our driver on a log; to be called inside the loop."""
    made: list[Harness] = []

    def harness(log: MemoryLog, positions: transport.Positions | None = None, **settings: Any) -> Harness:
        app: Any = app_of("ours", **settings)
        app.positions = positions
        made.append(Harness(app, log))
        return made[-1]

    yield harness
    for one in made:
        one.consumer._thread.thread_loop.close()


def known(offset: int) -> transport.Positions:
    """A sink that stands at this offset."""

    async def positions(partitions: set[TP]) -> dict[TP, int]:
        return dict.fromkeys(partitions, offset)

    return positions


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run it, and do not wait for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(bounded())


def test_a_batch_is_what_a_fetch_brought_and_covers_the_gap_before_it() -> None:
    """Records as fetched; covers_from is the offset expected next, before the log's gap."""

    async def scenario() -> None:
        log = MemoryLog([3, 4, 9], committed_offset=2, at_once=2)
        async with reading("ours", log, 2) as (harness, messages):
            first, second = (message.value for message in messages)
            assert (first.topic, first.part, first.covers_from, first.last_offset) == ("points", 0, 2, 4)
            assert (second.covers_from, second.last_offset) == (5, 9)
            assert [one.offset for one in (*first.records, *second.records)] == [3, 4, 9]
            assert harness.app.unacked() == {PART: 3}  # type: ignore[attr-defined]  # it is a transport.App
            messages[0].ack(harness.consumer)
            assert harness.app.unacked() == {PART: 1}  # type: ignore[attr-defined]  # it is a transport.App

    run(scenario())


def test_the_agent_gets_the_batch_undecoded() -> None:
    """The schema decodes nothing: neither key nor value can fail, so nothing is acked behind our back."""

    async def scenario() -> None:
        harness = Harness(app_of("ours"), MemoryLog(range(3)))
        events: asyncio.Queue[Any] = asyncio.Queue()

        async def pump(stream: Any) -> None:
            async for event in stream.noack().events():
                await events.put(event)

        harness.app.agent(topic_of(harness.app), name="pump")(pump)
        async with running(harness):
            event = await events.get()
        assert [one.value for one in event.value.records] == [b"0", b"1", b"2"]

    run(scenario())


def test_reading_goes_on_where_the_sink_stands(make: Callable[..., Harness]) -> None:
    """The sink's word counts, not Kafka's; Kafka is told of it even if no record follows."""

    async def scenario() -> None:
        log = MemoryLog(range(10), committed_offset=9)
        harness = make(log, known(5))
        await harness.assign()
        assert log.position_offset == 5
        assert await harness.commit() == 5

    run(scenario())


def test_a_partition_that_nobody_knows_is_read_from_its_earliest_record(make: Callable[..., Harness]) -> None:
    """Neither a row nor a commit: the log's beginning, which is then known as the first expected offset."""

    async def unknown(_partitions: set[TP]) -> dict[TP, int]:
        return {}

    async def scenario(positions: transport.Positions | None) -> None:
        log = MemoryLog([8, 9])
        log.begins_at = 7
        harness = make(log, positions)
        messages = collect(harness)
        await harness.assign()
        await harness.consumer._hand_over(await harness.consumer._thread.fetch(0))
        assert (messages[0].value.covers_from, messages[0].value.last_offset) == (7, 9)

    run(scenario(unknown))
    run(scenario(None))


def test_records_fetched_before_the_seek_are_dropped_and_come_again(make: Callable[..., Harness]) -> None:
    """What is on its way when the seek comes belongs to the reading before."""

    async def scenario() -> None:
        log = MemoryLog(range(4), at_once=2)
        harness = make(log, known(0))
        messages = collect(harness)
        await harness.assign()
        on_its_way = await harness.consumer._thread.fetch(0)
        harness.revoke()
        await harness.assign()
        await harness.consumer._hand_over(on_its_way)
        assert messages == []
        await harness.consumer._hand_over(await harness.consumer._thread.fetch(0))
        assert [one.offset for one in messages[0].value.records] == [0, 1]

    run(scenario())


def test_a_fetch_that_outlasts_the_seek_belongs_to_the_new_reading(make: Callable[..., Harness]) -> None:
    """It was asked for before, but takes its records after the seek: to drop them would skip them."""

    class Slow(MemoryLog):
        gate: asyncio.Event

        async def getmany(self, timeout_ms: int = 0) -> Any:
            await self.gate.wait()
            return await super().getmany(timeout_ms)

    async def scenario() -> None:
        log = Slow(range(2))
        log.gate = asyncio.Event()
        harness = make(log, known(0))
        messages = collect(harness)
        await harness.assign()
        asked = asyncio.create_task(harness.consumer._thread.fetch(0))
        await asyncio.sleep(0)
        harness.revoke()
        await harness.assign()
        log.gate.set()
        await harness.consumer._hand_over(await asked)
        assert [one.offset for one in messages[0].value.records] == [0, 1]

    run(scenario())


def test_a_rebalance_makes_batches_stale_at_once(make: Callable[..., Harness]) -> None:
    """Also where the generation stays the same, as with static members; a late ack of one commits nothing."""

    async def scenario() -> None:
        log = MemoryLog(range(4), at_once=2)
        harness = make(log, known(0))
        app: Any = harness.app
        messages = collect(harness)
        await harness.assign()
        await harness.consumer._hand_over(await harness.consumer._thread.fetch(0))
        stale = messages.pop()
        assert app.is_current(stale.value)
        harness.revoke()
        assert not app.is_current(stale.value)
        await harness.assign()
        await harness.consumer._hand_over(await harness.consumer._thread.fetch(0))
        assert (app.is_current(stale.value), app.is_current(messages[0].value)) == (False, True)
        stale.ack(harness.consumer)
        assert await harness.commit() == 0

    run(scenario())


def test_a_resume_without_a_seek_is_refused(make: Callable[..., Harness]) -> None:
    """Faust resumes for a rebalance that another has overtaken; what was handed over then it would clear away."""

    async def scenario() -> None:
        harness = make(MemoryLog(range(2)), known(0))
        await harness.assign()
        await harness.consumer.on_partitions_revoked({PART})
        harness.consumer.resume_flow()
        assert not harness.consumer.flow_active
        await harness.assign()
        assert harness.consumer.flow_active

    run(scenario())


def test_a_revocation_ends_the_reading_of_a_member_without_partitions(make: Callable[..., Harness]) -> None:
    """Faust itself stops the flow only if something was assigned."""

    async def scenario() -> None:
        log = MemoryLog([])
        log.assigned = set()
        harness = make(log, known(0))
        await harness.consumer.on_partitions_revoked(set())
        assert (harness.consumer.flow_active, harness.consumer.reading) == (False, None)

    run(scenario())


def test_a_put_that_waits_for_room_is_given_up_when_the_flow_stops(make: Callable[..., Harness]) -> None:
    """A full channel does not hold up a rebalance."""

    async def scenario() -> None:
        harness = make(MemoryLog(range(2)), known(0))
        blocked = asyncio.Event()

        async def full(_message: Any) -> None:
            blocked.set()
            await asyncio.Event().wait()

        harness.consumer.callback = full
        await harness.assign()
        handing = asyncio.create_task(harness.consumer._hand_over(await harness.consumer._thread.fetch(0)))
        await blocked.wait()
        harness.revoke()
        await handing

    run(scenario())


def test_a_rebalance_during_the_seek_lets_only_the_next_seek_count(make: Callable[..., Harness]) -> None:
    """The sink answers late, when partitions have changed hands: no reading begins with that answer."""

    async def scenario() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def late(partitions: set[TP]) -> dict[TP, int]:
            asked.set()
            await answer.wait()
            return dict.fromkeys(partitions, 0)

        harness = make(MemoryLog(range(2)), late)
        seeking = asyncio.create_task(harness.consumer.perform_seek())
        await asked.wait()
        harness.revoke()
        answer.set()
        await seeking
        assert harness.consumer.reading is None
        await harness.assign()
        assert harness.consumer.reading is not None

    run(scenario())


def test_a_seek_that_was_overtaken_moves_nothing(make: Callable[..., Harness]) -> None:
    """An older seek that is still on its way in Kafka's thread may not undo the newer one."""

    async def scenario() -> None:
        log = MemoryLog(range(9))
        harness = make(log, known(0))
        thread = harness.consumer._thread
        await thread.start_reading(2, {PART}, {PART: 5})
        with pytest.raises(IllegalStateError):
            await thread.start_reading(1, {PART}, {PART: 3})
        assert (log.position_offset, (await thread.fetch(0)).reading) == (5, 2)

    run(scenario())


def test_a_sink_that_cannot_tell_ends_the_process(
    make: Callable[..., Harness], given_up: list[tuple[type[Exception], int]]
) -> None:
    """Faust would resume, or hang, without a seek."""

    async def broken(_partitions: set[TP]) -> dict[TP, int]:
        raise ConnectionError

    async def slow(_partitions: set[TP]) -> dict[TP, int]:
        await asyncio.Event().wait()
        return {}

    async def scenario() -> None:
        for positions in (broken, slow):
            harness = make(MemoryLog([]), positions, broker_request_timeout=0.05, broker_session_timeout=0.01)
            with pytest.raises(GaveUp):
                await harness.consumer.perform_seek()

    run(scenario())
    assert given_up == [(ConnectionError, transport.EXIT_RETRY), (TimeoutError, transport.EXIT_RETRY)]


def test_a_position_out_of_range_ends_the_process(
    make: Callable[..., Harness], given_up: list[tuple[type[Exception], int]]
) -> None:
    """Retention has passed us, or the log was cut: stock would go to the earliest record without a word."""

    async def scenario() -> None:
        log = MemoryLog(range(10, 12))
        harness = make(log, known(3))
        await harness.assign()
        log.begins_at = 10
        with pytest.raises(GaveUp):
            await harness.consumer._drain_messages(harness.consumer)

    run(scenario())
    assert given_up == [(OffsetOutOfRangeError, transport.EXIT_UNEXPECTED)]


def test_a_position_out_of_range_before_the_seek_is_none_of_ours(make: Callable[..., Harness]) -> None:
    """Between assignment and seek Kafka looks where the group's old commit points."""

    async def scenario() -> None:
        log = MemoryLog(range(10, 12), committed_offset=3)
        log.begins_at = 10
        harness = make(log, known(10))
        messages = collect(harness)
        lost = await harness.consumer._thread.fetch(0)
        assert isinstance(lost.lost, OffsetOutOfRangeError)
        await harness.assign()
        await harness.consumer._hand_over(lost)
        await harness.consumer._hand_over(await harness.consumer._thread.fetch(0))
        assert [one.offset for one in messages[0].value.records] == [10, 11]

    run(scenario())


@pytest.mark.parametrize("setting", [{"stream_wait_empty": True}, {"processing_guarantee": "exactly_once"}])
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    """Waiting for un-acked batches hangs, and Faust's exactly-once does not reach PostgreSQL."""

    async def scenario() -> None:
        options = {"stream_wait_empty": False} | setting
        app: Any = transport.App("refused", broker="pointguard://127.0.0.1:1", store="memory://", **options)
        app.in_worker = True
        app.finalize()
        with pytest.raises(ImproperlyConfigured):
            _ = app.consumer

    run(scenario())


@pytest.mark.parametrize(("expected", "offsets"), [(0, [3, 4, 7]), (4, [4, 7]), (5, [7]), (8, [])])
def test_what_was_handed_over_is_trimmed(expected: int, offsets: list[int]) -> None:
    """Records below the expected offset are left out, whatever Kafka sends."""
    records = [record(offset) for offset in (3, 4, 7)]
    assert [one.offset for one in transport.joined_on(records, expected)] == offsets
