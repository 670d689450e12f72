"""Reads offsets that were skipped, with a consumer that belongs to no group."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.records import Hole

READ_SECONDS = 30.0


class LostRecords(Exception):
    """The log begins beyond the hole: retention was shorter than the outage, and records are gone for good."""


async def read_hole(kafka_url: str, topic: str, hole: Hole) -> list[Any]:
    """The records of `hole` that exist, in order; an empty list where the offsets are control records or compacted.

    Raises LostRecords when the log starts beyond the hole's first offset, and TimeoutError when the broker does not
    bring the reader past the hole in time.
    """
    partition = TopicPartition(topic, hole.part)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka_url,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="none",
    )
    await consumer.start()
    try:
        consumer.assign([partition])
        start = (await consumer.beginning_offsets([partition]))[partition]
        if start > hole.first:
            raise LostRecords(f"partition {hole.part} starts at {start}, needed from {hole.first}")
        consumer.seek(partition, hole.first)
        found: list[Any] = []
        async with asyncio.timeout(READ_SECONDS):
            while (await consumer.position(partition)) <= hole.last:
                for record in (await consumer.getmany(partition, timeout_ms=500)).get(partition, []):
                    if record.offset > hole.last:
                        return found
                    found.append(record)
        return found
    finally:
        await consumer.stop()
