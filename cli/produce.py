"""Producing events and waiting for what becomes of each: at full speed, but with a bound on those in flight.

The bound matters to the result, too: a device's events lie in several partitions, and what one partition is ahead of
another is seen late. "Done" means that every event has its row in PostgreSQL; the broker's end offsets are never asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaProducer

from cli.errors import TIMEOUT, CommandError

POLL_SECONDS = 0.05
ASKED_AT_ONCE = 2_000
UNCONFIRMED_MAX = 5_000
AHEAD_SECONDS = 0.002


class Record(NamedTuple):
    """A record to produce; `id` is its event's id, `at_ms` the event's time. Without `part` the key decides."""

    id: str
    at_ms: int
    topic: str
    key: bytes
    value: bytes
    part: int | None = None


class Place(NamedTuple):
    """Where the broker put a record."""

    topic: str
    part: int
    offset: int


class Bus(Protocol):
    """Something that takes records: Kafka, or a list in tests."""

    async def send(self, record: Record) -> asyncio.Future[Place]:
        """Queue the record; the future has its place once all replicas have it."""


Settle = Callable[[Mapping[str, Place | None]], Mapping[str, str]]
"""Given ids and where the records are (None: not yet confirmed), the outcome of those that have one. May block."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many events may be undecided at a time, and after how many seconds without any decision to give up."""

    in_flight: int = 2_000
    patience_seconds: float = 60.0


class KafkaBus:
    """A `Bus` on an aiokafka producer that waits for all replicas."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(self, record: Record) -> asyncio.Future[Place]:
        """Queue the record, waiting while the producer's buffer is full."""
        sent = await self._producer.send(record.topic, key=record.key, value=record.value, partition=record.part)
        return asyncio.ensure_future(_placed(sent))


async def _placed(sent: Awaitable[object]) -> Place:
    metadata = await sent
    return Place(getattr(metadata, "topic"), getattr(metadata, "partition"), getattr(metadata, "offset"))  # noqa: B009 - untyped library


@asynccontextmanager
async def kafka_bus(kafka_url: str) -> AsyncIterator[KafkaBus]:
    """A bus to the brokers at `kafka_url`; what was sent is flushed at the end."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_url, acks="all", linger_ms=5, request_timeout_ms=20_000)
    await producer.start()
    try:
        yield KafkaBus(producer)
    finally:
        await producer.stop()


async def deliver(
    records: Iterable[Record],
    bus: Bus,
    settle: Settle,
    told: Callable[[int, Mapping[str, str]], None],
    limits: Limits = Limits(),
) -> None:
    """Produce all records and wait until each has an outcome; `told(produced, settled)` hears of every step.

    Raises `CommandError` when for `limits.patience_seconds` nothing is decided, and what the bus raises when it refuses
    a record.
    """
    source, waiting, produced, more = iter(records), dict[str, asyncio.Future[Place]](), 0, True
    last_step = time.monotonic()
    while more or waiting:
        for record in islice(source, limits.in_flight - len(waiting)):
            waiting[record.id] = await bus.send(record)
            produced += 1
        more = len(waiting) >= limits.in_flight
        asked = {event_id: _place(waiting[event_id]) for event_id in islice(waiting, ASKED_AT_ONCE)}
        settled = await asyncio.to_thread(settle, asked) if asked else {}
        for event_id in settled:
            await waiting.pop(event_id)
        told(produced, settled)
        if settled:
            last_step = time.monotonic()
        elif time.monotonic() - last_step > limits.patience_seconds:
            raise _stalled(len(waiting), limits.patience_seconds)
        if len(settled) * 2 < len(asked):
            await asyncio.sleep(POLL_SECONDS)


def _place(sent: asyncio.Future[Place]) -> Place | None:
    """The record's place; None while the broker has not confirmed it. Raises what the broker answered instead."""
    return sent.result() if sent.done() else None


def _stalled(undecided: int, seconds: float) -> CommandError:
    return CommandError(
        f"nothing was decided for {seconds:.0f} s; {undecided} events still wait",
        "is a worker running? `pointguard worker` starts one, `pointguard up` all of it. Then run the same command "
        "again: what is decided stays decided",
        TIMEOUT,
    )


class Sent:
    """A `Bus` for records that were sent already: it gives their places."""

    def __init__(self, sent: Iterable[tuple[Record, asyncio.Future[Place]]]) -> None:
        self._places = {record.id: place for record, place in sent}

    async def send(self, record: Record) -> asyncio.Future[Place]:
        """Where the record was or will be put."""
        return self._places[record.id]


async def send_paced(
    records: Iterable[Record], bus: Bus, speed: float, told: Callable[[int], None], keep: bool
) -> list[tuple[Record, asyncio.Future[Place]]]:
    """Send records at `speed` simulated seconds a second, and wait until the bus has all.

    Returns them with their places if `keep`, else nothing, so that an endless run needs no more memory over time.
    """
    kept, unconfirmed = list[tuple[Record, asyncio.Future[Place]]](), deque[asyncio.Future[Place]]()
    begin, first_ms, number = time.monotonic(), None, 0
    for number, record in enumerate(records, start=1):
        first_ms = record.at_ms if first_ms is None else first_ms
        ahead = (record.at_ms - first_ms) / 1_000 / speed - (time.monotonic() - begin)
        if ahead > AHEAD_SECONDS or number % 100 == 0:
            told(number)
            await asyncio.sleep(max(ahead, 0))
        sent = await bus.send(record)
        unconfirmed.append(sent)
        if keep:
            kept.append((record, sent))
        while unconfirmed and (unconfirmed[0].done() or len(unconfirmed) > UNCONFIRMED_MAX):
            await unconfirmed.popleft()
    for sent in unconfirmed:
        await sent
    told(number)
    return kept
