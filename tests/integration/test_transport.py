"""Our transport on a real broker: everything is handed over and committed, across rebalances and transactions."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.faults.audit import Place
from tests.faults.scene import Scene
from tests.services import ApacheKafka

EVENTS = 20_000
PARTITIONS = 4


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    """Make a scene of the recipe on a broker."""
    scenes: list[Scene] = []

    def make(broker: str) -> Scene:
        scenes.append(Scene(broker, "recipe", tmp_path, PARTITIONS))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.kill()


def test_a_member_joins_and_leaves_and_nothing_is_lost(kafka: str, stage: Callable[[str], Scene]) -> None:
    """20,000 events over 4 partitions while a second member comes and goes: all done, all committed."""
    scene = stage(kafka)
    ids = iter([f"event-{n}" for n in range(EVENTS)])

    def send_some() -> bool:
        scene.send(itertools.islice(ids, 200))
        return False

    scene.start_worker()
    scene.send(itertools.islice(ids, 4_000))
    scene.wait_until(lambda: len(scene.done()) >= 2_000)
    second = scene.start_worker()
    scene.wait_until(lambda: len(scene.done(1)) >= 1_000 or send_some())
    second.send_signal(signal.SIGTERM)
    scene.wait_until(lambda: second.poll() is not None or send_some())
    scene.send(ids)
    scene.wait_until(lambda: set(scene.done()) == set(scene.sent))
    ends = {part: max(place.offset for place in scene.sent.values() if place.part == part) + 1 for part in range(4)}
    scene.wait_until(lambda: scene.committed() == ends)
    report = scene.report()
    assert (len(scene.sent), report.lost, report.pending, report.foreign) == (EVENTS, (), (), ())


async def send_compressed(scene: Scene, codec: str) -> None:
    """Send 100 events as producers that compress with this codec do."""
    async with AIOKafkaProducer(bootstrap_servers=scene.broker, compression_type=codec, linger_ms=5) as producer:
        ids = [f"{codec}-{n}" for n in range(100)]
        results = [await producer.send(scene.topic, i.encode(), partition=n % 4) for n, i in enumerate(ids)]
        places = await asyncio.gather(*results)
        scene.sent |= {i: Place(at.partition, at.offset) for i, at in zip(ids, places, strict=True)}


def test_records_are_read_however_producers_compress_them(kafka: str, stage: Callable[[str], Scene]) -> None:
    """One batch of a codec that cannot be read would end every worker of its partition, again and again."""
    scene = stage(kafka)
    scene.start_worker()
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        asyncio.run(send_compressed(scene, codec))
    scene.wait_until(lambda: set(scene.done()) == set(scene.sent))


async def send_in_transactions(scene: Scene, transactions: int) -> set[str]:
    """Send 25 events in each transaction; every tenth is aborted, its ids are returned."""
    aborted: set[str] = set()
    producer = AIOKafkaProducer(bootstrap_servers=scene.broker, transactional_id=scene.topic)
    await producer.start()
    try:
        for transaction in range(transactions):
            await producer.begin_transaction()
            ids = [f"event-{transaction}-{n}" for n in range(25)]
            results = [await producer.send(scene.topic, i.encode(), partition=n % 4) for n, i in enumerate(ids)]
            places = await asyncio.gather(*results)
            if transaction % 10 == 3:
                await producer.abort_transaction()
                aborted.update(ids)
            else:
                await producer.commit_transaction()
                scene.sent |= {i: Place(at.partition, at.offset) for i, at in zip(ids, places, strict=True)}
    finally:
        await producer.stop()
    return aborted


def test_aborted_transactions_are_never_handed_over(apache_kafka: ApacheKafka, stage: Callable[[str], Scene]) -> None:
    """Nearly every fetch begins behind a marker or an aborted record: none of those is seen, nothing else is missed."""
    scene = stage(apache_kafka.url)
    scene.start_worker()
    scene.send(["first-0", "first-1", "first-2", "first-3"])
    scene.wait_until(lambda: len(scene.done()) == 4)
    aborted = asyncio.run(send_in_transactions(scene, 100))
    scene.wait_until(lambda: set(scene.done()) == set(scene.sent))
    assert len(aborted) == 250
    assert scene.report().sound
