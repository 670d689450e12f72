"""Records that were never handed over: read by a consumer of their own and committed first, or the worker stops."""

import asyncio
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import KafkaConnectionError

from streams import exits, holes, kafka
from streams.holes import LostRecords, read_hole
from streams.records import Hole
from tests.integration.batcher_rig import Rig, make_rig
from tests.integration.pipeline_desk import Desk, event


@pytest.fixture
def rig(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A batcher on the desk's stages."""
    return make_rig(desk, monkeypatch)


def gives(rig: Rig, records: list[ConsumerRecord[Any, Any]]) -> None:
    """Let the log answer questions for skipped offsets with these records."""

    async def read(hole: Hole) -> list[Any]:
        return [record for record in records if hole.first <= record.offset <= hole.last]

    rig.read_hole = read


@pytest.mark.parametrize("batch_max", [1, 500], ids=["apart", "in one batch"])
def test_a_hole_is_filled_before_what_follows(desk: Desk, rig: Rig, batch_max: int) -> None:
    """The skipped records are committed first: the redemption behind the hole finds the points earned in it.

    That holds for a hole between two batches as for one within a batch.
    """
    records = desk.part.records(
        event(id="e-0", points=1), event(id="e-1", points=50), b"{", event("redeem", points=51, id="e-3")
    )
    gives(rig, records)
    rig.max_records = batch_max
    rig.run(rig.batch(records[:1]), rig.batch(records[3:]))
    assert (rig.asked[0].part, rig.asked[0].first, rig.asked[0].last) == (0, 1, 2)
    assert desk.outcomes() == dict.fromkeys(("e-0", "e-1", "e-3"), ("approve", "posted"))
    assert (desk.balance("ann"), desk.progress(), desk.count("dead_letter")) == (0, 3, 1)
    assert [last for last, _ in rig.acks] == [0, 3]
    desk.verified()


def test_a_hole_at_the_very_beginning(desk: Desk, rig: Rig) -> None:
    """A partition that was claimed from its first record on shows also what was skipped there."""
    records = desk.part.records(event(id="e-0"), event(id="e-1"), event(id="e-2"))
    gives(rig, records)
    rig.run(rig.batch(records[2:]))
    assert [(hole.first, hole.last) for hole in rig.asked] == [(0, 1)]
    assert (sorted(desk.outcomes()), rig.ownership.committed) == (["e-0", "e-1", "e-2"], {0: 2})


def test_a_hole_of_control_records_is_passed(desk: Desk, rig: Rig) -> None:
    """Where the log has nothing at the skipped offsets, progress passes them."""
    desk.part.next_offset = 5
    rig.run(rig.batch(desk.part.records(event())))
    assert ([(hole.first, hole.last) for hole in rig.asked], desk.progress()) == ([(0, 4)], 5)


def test_holes_in_two_partitions_of_one_batch(desk: Desk, rig: Rig) -> None:
    """Each is read and committed on its own, then the batch."""
    desk.claim(1)
    rig.take(1)
    zero = desk.part.records(event(id="a-0"), event(id="a-1"))
    desk.part.number, desk.part.next_offset = 1, 0
    one = desk.part.records(event(id="b-0"), event(id="b-1"))

    async def read(hole: Hole) -> list[Any]:
        return (zero, one)[hole.part][:1]

    rig.read_hole = read
    rig.run(rig.batch(zero[1:]), rig.batch(one[1:]))
    assert {(hole.part, hole.first, hole.last) for hole in rig.asked} == {(0, 0, 0), (1, 0, 0)}
    assert (len(desk.outcomes()), desk.progress(0), desk.progress(1)) == (4, 1, 1)


def test_lost_records_stop_the_worker(desk: Desk, rig: Rig) -> None:
    """Gone from the log: the worker ends with the code that keeps it down, and nothing beyond the hole is written."""

    async def read(_hole: Hole) -> list[Any]:
        raise LostRecords("partition 0 starts at 5, needed from 0")

    rig.read_hole = read
    desk.part.next_offset = 5
    rig.run(rig.batch(desk.part.records(event())))
    assert (rig.exits[0], rig.acks, desk.progress()) == (exits.LOST, [], -1)
    assert exits.LOST in exits.STAY_DOWN


def test_a_hole_that_cannot_be_read_restarts_the_worker(desk: Desk, rig: Rig) -> None:
    """Another error while reading it ends the process, too, but the supervisor starts it again."""

    async def read(_hole: Hole) -> list[Any]:
        raise KafkaConnectionError("no broker")

    rig.read_hole = read
    desk.part.next_offset = 5
    rig.run(rig.batch(desk.part.records(event())))
    assert (rig.exits[0], rig.acks, desk.progress()) == (exits.UNEXPECTED, [], -1)
    assert exits.UNEXPECTED not in exits.STAY_DOWN


def test_a_hole_that_is_no_longer_ours(desk: Desk, rig: Rig) -> None:
    """A partition lost while the hole was read: all of it is dropped, for its next owner sees the hole, too."""

    async def read(_hole: Hole) -> list[Any]:
        rig.ownership.release()
        return []

    rig.read_hole = read
    desk.part.next_offset = 5
    rig.run(rig.batch(desk.part.records(event())), until=lambda: bool(rig.asked) and rig.pulse.work == 0)
    assert (rig.exits, rig.acks, desk.progress()) == ([], [], -1)


def test_reading_a_hole_from_kafka(kafka_broker: Any) -> None:
    """Exactly the asked-for records come, with value, key and headers, and no consumer group is left behind."""
    topic = f"hole-{uuid.uuid4().hex[:8]}"
    url = kafka_broker.url

    async def scenario() -> tuple[list[Any], list[Any]]:
        await kafka.ensure_topics(url, [topic], 1, 1)
        producer = AIOKafkaProducer(bootstrap_servers=url, acks="all")
        await producer.start()
        try:
            for number in range(10):
                await producer.send_and_wait(topic, b"%d" % number, key=b"k", partition=0, headers=[("h", b"v")])
        finally:
            await producer.stop()
        return await read_hole(url, topic, Hole(0, 3, 6)), await read_hole(url, topic, Hole(0, 9, 9))

    records, last = asyncio.run(scenario())
    assert [(record.offset, record.value) for record in records] == [(n, b"%d" % n) for n in (3, 4, 5, 6)]
    assert (records[0].key, list(records[0].headers)) == (b"k", [("h", b"v")])
    assert [(record.offset, record.value) for record in last] == [(9, b"9")]


def test_a_log_that_begins_behind_the_hole(kafka_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When retention has passed the hole, the reader says that records are lost instead of giving what is left."""
    topic = f"hole-{uuid.uuid4().hex[:8]}"

    class Trimmed(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka brings no types
        async def beginning_offsets(self, partitions: Any) -> Any:
            return dict.fromkeys(await super().beginning_offsets(partitions), 4)

    async def scenario() -> None:
        await kafka.ensure_topics(kafka_broker.url, [topic], 1, 1)
        monkeypatch.setattr(holes, "AIOKafkaConsumer", Trimmed)
        await read_hole(kafka_broker.url, topic, Hole(0, 3, 6))

    with pytest.raises(LostRecords, match="starts at 4, needed from 3"):
        asyncio.run(scenario())


def test_a_database_that_was_set_back_gets_everything_again(desk: Desk, rig: Rig) -> None:
    """After a failover the worker remembers more than the database: the log is read again from where that stands."""
    records = desk.part.records(*(event(id=f"e-{n}", points=1) for n in range(6)))
    gives(rig, records)
    rig.ownership.committed[0] = 3  # as before the failover; the database has nothing
    rig.run(rig.batch(records[4:]))
    assert [(hole.first, hole.last) for hole in rig.asked] == [(0, 3)]
    assert sorted(desk.outcomes()) == [f"e-{n}" for n in range(6)]
    assert (desk.balance("ann"), desk.progress(), rig.ownership.committed) == (6, 5, {0: 5})
    desk.verified()
