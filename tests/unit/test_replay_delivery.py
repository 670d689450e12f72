"""Producing and waiting: everything gets its outcome, few are in flight at a time, and silence ends in words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from cli.errors import TIMEOUT, CommandError
from cli.produce import Limits, Place, Record, Sent, deliver, send_paced


def records(count: int, step_ms: int = 0) -> list[Record]:
    """Records with ids 0, 1, …, `step_ms` simulated milliseconds apart."""
    return [Record(str(n), n * step_ms, "t", b"k", b"v") for n in range(count)]


class ListBus:
    """A bus that keeps what it gets; record n is at offset n, unless the broker refuses it."""

    def __init__(self, refuses: str | None = None) -> None:
        self.sent: list[Record] = []
        self.refuses = refuses

    async def send(self, record: Record) -> asyncio.Future[Place]:
        """Take a record and confirm it at once."""
        place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        if record.id == self.refuses:
            place.set_exception(ConnectionError("gone"))
        else:
            place.set_result(Place(record.topic, 0, len(self.sent)))
        self.sent.append(record)
        return place


class Worker:
    """Decides some of what it is asked about at each question, and notes how much waits."""

    def __init__(self, at_once: int) -> None:
        self.at_once, self.asked, self.most = at_once, 0, 0

    def settle(self, asked: Mapping[str, Place | None]) -> dict[str, str]:
        """The first few have an outcome."""
        self.asked += 1
        self.most = max(self.most, len(asked))
        return dict.fromkeys(list(asked)[: self.at_once], "approve")


def test_every_record_gets_its_outcome_once() -> None:
    """All are produced, in order, and all outcomes are told."""
    bus, found = ListBus(), list[str]()
    asyncio.run(deliver(records(50), bus, Worker(7).settle, lambda _, settled: found.extend(settled), Limits(10, 5)))
    assert [record.id for record in bus.sent] == found == [str(n) for n in range(50)]


def test_no_more_than_the_limit_are_in_flight() -> None:
    """Partitions must not run away from each other, whatever the speed of the producer."""
    bus, worker, ahead = ListBus(), Worker(3), list[int]()

    def told(produced: int, settled: Mapping[str, str]) -> None:
        done = sum(ahead) + len(settled)
        ahead.append(len(settled))
        assert produced - done <= 10

    asyncio.run(deliver(records(100), bus, worker.settle, told, Limits(in_flight=10, patience_seconds=5)))
    assert worker.most == 10


def test_records_that_were_decided_before_are_done_at_once() -> None:
    """A second replay waits for nothing."""
    worker = Worker(10_000)
    asyncio.run(deliver(records(30), ListBus(), worker.settle, lambda *_: None, Limits(10, 5)))
    assert worker.asked == 3


def test_silence_ends_with_what_to_do() -> None:
    """Without a worker the command must not wait for ever: it says how to start one."""
    with pytest.raises(CommandError) as stalled:
        asyncio.run(deliver(records(5), ListBus(), Worker(0).settle, lambda *_: None, Limits(10, 0.1)))
    assert stalled.value.code == TIMEOUT
    assert "5 events still wait" in stalled.value.what
    assert "pointguard worker" in stalled.value.remedy


def test_a_refusal_of_the_broker_is_raised() -> None:
    """A record that Kafka refused will never be decided: say so now."""
    with pytest.raises(ConnectionError):
        asyncio.run(deliver(records(5), ListBus(refuses="3"), Worker(0).settle, lambda *_: None, Limits(10, 5)))


def test_nothing_to_send_is_done() -> None:
    """No records, no waiting."""
    asyncio.run(deliver([], ListBus(), Worker(0).settle, lambda *_: None, Limits(10, 0.1)))


def test_simulated_time_passes_at_the_speed_asked_for() -> None:
    """1,000 ms apart at 50 simulated seconds a second: 10 records take 0.18 s."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await send_paced(records(10, 1_000), ListBus(), 50.0, lambda _: None, keep=False)
        return loop.time() - begin

    assert 0.15 <= asyncio.run(run()) < 1.0


def test_what_was_sent_is_waited_for_by_its_places() -> None:
    """`simulate --events` sends first, in its time, and waits then."""

    async def run() -> dict[str, str]:
        found: dict[str, str] = {}
        sent = await send_paced(records(20), ListBus(), 1.0, lambda _: None, keep=True)
        everything = [record for record, _ in sent]
        await deliver(
            everything, Sent(sent), Worker(5).settle, lambda _, settled: found.update(settled), Limits(100, 5)
        )
        return found

    assert len(asyncio.run(run())) == 20


def test_a_broker_that_fails_ends_an_endless_simulation() -> None:
    """A refused record is noticed while sending, not at the end that never comes."""
    with pytest.raises(ConnectionError):
        asyncio.run(send_paced(records(10), ListBus(refuses="2"), 1.0, lambda _: None, keep=False))
