"""Small questions to Kafka that need no consumer group: topics, the cluster's name, where logs begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

LOG_APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}


class TopicError(RuntimeError):
    """A topic cannot be created or does not fit; the message names it and says what to do."""


async def ensure_topics(kafka_url: str, topics: Iterable[str], partitions: int, replication: int) -> None:
    """Create the topics that are missing; those that exist are left as they are.

    Records get the broker's own time where it supports it, so that `observed_at` is no claim of a producer.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        missing = [
            NewTopic(name, partitions, replication, topic_configs=LOG_APPEND_TIME)
            for name in topics
            if name not in existing
        ]
        if missing:
            answer = await admin.create_topics(missing)
            for name, code, *rest in answer.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise TopicError(f"topic {name}: {for_code(code).__name__} {rest}: create it by hand")
    finally:
        await admin.close()


async def cluster_id(kafka_url: str) -> str:
    """The cluster's id, which names one life of its log."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url)
    await admin.start()
    try:
        described = await admin.describe_cluster()
        return str(described["cluster_id"])
    finally:
        await admin.close()


async def log_bounds(kafka_url: str, topic: str, parts: Sequence[int]) -> Mapping[int, tuple[int, int]]:
    """First offset still in the log, and the one behind the last record that may be read, of each partition."""
    if not parts:  # a spare worker's; a consumer that is stopped before it has asked anything raises CancelledError
        return {}
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_url, enable_auto_commit=False, isolation_level="read_committed")
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, part) for part in parts]
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        return {tp.partition: (begins[tp], ends[tp]) for tp in partitions}
    finally:
        await consumer.stop()


async def partitions_of(kafka_url: str, topic: str) -> list[int]:
    """The partitions of a topic, in order; empty when there is no such topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_url, enable_auto_commit=False)
    try:
        await consumer.start()
        await consumer.topics()
        return sorted(consumer.partitions_for_topic(topic) or ())
    finally:
        await consumer.stop()
