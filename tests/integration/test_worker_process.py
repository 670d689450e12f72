"""A real worker process, over a real broker, that is sent everything a producer can get wrong."""

import asyncio
import json
import random
import uuid
from pathlib import Path

from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from embedded.process import Service
from ledger.verify import verify
from tests.faults.world import PROGRAM, Places, World, traffic, world
from tests.integration.bad_records import Bad, bad_records

_LETTERS = text('SELECT "offset", error, field FROM dead_letter')
_DECIDED = text("SELECT event_id, outcome FROM decision")


async def produce(made: World, bad: list[Bad], good: list[dict[str, object]]) -> dict[int, tuple[str, str, str]]:
    """Send bad records to partition 0 with good ones between; what is expected of each bad one, by offset."""
    producer = AIOKafkaProducer(bootstrap_servers=made.places.kafka, acks="all")
    expected = {}
    await producer.start()
    try:
        for one, other in zip(bad, good, strict=True):
            sent = await producer.send_and_wait(made.topic, one.value, key=b"k", partition=0, headers=list(one.headers))
            expected[sent.offset] = (one.name, one.error, one.field)
            await producer.send_and_wait(made.topic, json.dumps(other).encode(), key=b"k", partition=0)
    finally:
        await producer.stop()
    return expected


def test_a_worker_survives_everything_it_is_sent(
    database: str, redis_url: str, kafka_broker: Service, tmp_path: Path, rng: random.Random
) -> None:
    """Every bad record through Kafka is its named dead letter, the good ones are decided, and the process lives on."""
    places = Places(database, redis_url, kafka_broker.url, kafka_broker.log_id or uuid.uuid4().hex, tmp_path)
    bad = bad_records(PROGRAM)
    good = [event | {"type": "earn", "points": 5} for event in traffic(rng, len(bad))]
    with world(places, ("w0",)) as made:
        process = made.workers[0].process
        assert process is not None
        expected = asyncio.run(produce(made, bad, good))
        made.wait_until(lambda: made.handled() >= len(bad) + len(good), 60, "everything is handled")
        with made.engine.connect() as conn:
            letters = {row.offset: (row.error, row.field) for row in conn.execute(_LETTERS)}
            decided = dict(tuple(row) for row in conn.execute(_DECIDED))
        assert letters == {offset: (error, field) for offset, (_, error, field) in expected.items()}
        assert decided == {event["id"]: "approve" for event in good}
        assert verify(made.engine).ok
        assert (made.workers[0].process, process.poll()) == (process, None)
