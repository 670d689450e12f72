"""Both brokers the tests use: topics, records, and what is left of them after kill -9."""

import asyncio
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from embedded import kafka as apache
from embedded.process import Service, ServiceError
from tests.services import ApacheKafka

PARTITIONS = 4


async def create(url: str, topic: str) -> str:
    """Create a topic and return the cluster's id."""
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS, replication_factor=1)])
        described = await admin.describe_topics([topic])
        assert len(described[0]["partitions"]) == PARTITIONS
        return str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()


async def send(url: str, topic: str, values: Sequence[bytes]) -> None:
    """Send values to the last partition and wait until the broker has them."""
    async with AIOKafkaProducer(bootstrap_servers=url, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=PARTITIONS - 1)


async def read(url: str, topic: str, count: int) -> list[bytes | None]:
    """Read the first values of the last partition."""
    async with AIOKafkaConsumer(bootstrap_servers=url, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, PARTITIONS - 1)])
        await consumer.seek_to_beginning()
        return [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(count)]


def topic_name() -> str:
    """Return a name that no other test uses."""
    return f"test.brokers.{uuid.uuid4().hex[:8]}"


def test_embedded_broker_keeps_records(kafka_broker: Service) -> None:
    """The embedded broker makes four partitions, keeps records in order and tells its log id as the cluster's."""
    topic = topic_name()
    assert asyncio.run(create(kafka_broker.url, topic)) == kafka_broker.log_id
    asyncio.run(send(kafka_broker.url, topic, [b"one", b"two"]))
    assert asyncio.run(read(kafka_broker.url, topic, 2)) == [b"one", b"two"]


def test_apache_kafka_keeps_records_over_kill_9(apache_kafka: ApacheKafka) -> None:
    """What a real Kafka acknowledged is there after kill -9 and a restart at the same address, in the same log."""
    topic = topic_name()
    log_id = asyncio.run(create(apache_kafka.url, topic))
    asyncio.run(send(apache_kafka.url, topic, [b"one"]))
    if apache_kafka.can_be_killed:
        assert log_id == apache_kafka.log_id
        apache_kafka.kill()
        apache_kafka.restart()
    asyncio.run(send(apache_kafka.url, topic, [b"two"]))
    assert asyncio.run(read(apache_kafka.url, topic, 2)) == [b"one", b"two"]


def test_missing_java_and_maven_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Java, with an old one, and without Maven, the error says what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match=re.escape("no java on the PATH")):
        apache.start(tmp_path, tmp_path)
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", encoding="ascii")
    java.chmod(0o755)
    with pytest.raises(ServiceError, match=r"needs Java 17 or newer; .* version \"11"):
        apache.start(tmp_path, tmp_path)
    with pytest.raises(ServiceError, match="no mvn on the PATH"):
        apache.fetch_jars(tmp_path)
