"""A Faust app of either driver on a log in memory: real consumer, conductor, streams, agents; no broker or threads."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import faust
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from faust.types import TP

from streams import transport

TOPIC = "points"
PART = TP(TOPIC, 0)
PATIENCE_SECONDS = 10.0

Agent = Callable[[Any], Awaitable[None]]


def record(offset: int, tp: TP = PART) -> ConsumerRecord:
    """A record whose value is its offset, in text."""
    value = str(offset).encode()
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, value, None, -1, len(value), ())


class MemoryLog:
    """One partition of a log and what its group committed; it has of aiokafka's consumer what the drivers use.

    Offsets may have gaps, as compaction and transaction markers leave them. `at_once` records come with one fetch.
    """

    def __init__(self, offsets: Iterable[int], committed_offset: int | None = None, at_once: int = 500) -> None:
        self.offsets = sorted(offsets)
        self.committed_offset = committed_offset
        self.at_once = at_once
        self.begins_at = 0
        self.position_offset = committed_offset or 0
        self.assigned: set[TP] = {PART}
        self._max_poll_records = at_once
        self._closed = False
        self._fetcher = SimpleNamespace(
            _closed=False,
            _subscriptions=SimpleNamespace(fetch_context=contextlib.nullcontext),
            fetched_records=self.fetched_records,
        )

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.offsets[-1] + 1 if self.offsets else 0

    def take(self) -> list[ConsumerRecord]:
        """What a fetch at the position brings; the position moves behind it."""
        if self.position_offset < self.begins_at:
            raise OffsetOutOfRangeError({PART: self.position_offset})
        ahead = [offset for offset in self.offsets if offset >= self.position_offset][: self.at_once]
        if ahead:
            self.position_offset = ahead[-1] + 1
        return [record(offset) for offset in ahead]

    async def fetched_records(self, *_: Any, **__: Any) -> Any:
        """What Kafka's Fetcher has, without waiting for more."""
        records = self.take()
        if not records:
            await asyncio.sleep(0.001)
        return {TopicPartition(*PART): records} if records else {}

    async def getmany(self, timeout_ms: int = 0) -> Any:
        """Fetch, by the public method."""
        return await self.fetched_records(timeout=timeout_ms)

    def seek(self, tp: TP, offset: int) -> None:
        """Move the position."""
        del tp
        self.position_offset = offset

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Seek as aiokafka does: not at all if nothing, or 0, is committed."""
        if self.committed_offset:
            self.position_offset = self.committed_offset
        return {PART: self.committed_offset}

    async def committed(self, _tp: TP) -> int | None:
        """What the group committed."""
        return self.committed_offset

    async def beginning_offsets(self, partitions: Iterable[TP]) -> Mapping[TP, int]:
        """Where the log begins."""
        return dict.fromkeys(partitions, self.begins_at)

    async def commit(self, offsets: Mapping[Any, Any]) -> None:
        """Keep a commit."""
        for committed in offsets.values():
            self.committed_offset = committed.offset

    def assignment(self) -> set[TP]:
        """All partitions of this log."""
        return self.assigned

    def highwater(self, _tp: TP) -> int:
        """The offset behind the last record."""
        return self.end


class Harness:
    """A consumer on a MemoryLog, its agent if there is one, and the loop that hands records over."""

    def __init__(self, app: faust.App, log: MemoryLog) -> None:
        self.app = app
        self.log = log
        consumer: Any = app.consumer
        consumer._thread._consumer = log
        consumer._thread.call_thread = _call
        self.consumer = consumer
        self._fetcher = SimpleNamespace(_stopped=asyncio.Event(), should_stop=False)
        self._drain: asyncio.Task[None] | None = None

    async def assign(self) -> None:
        """What Faust does between an assignment and the resumption of its streams."""
        app: Any = self.app
        app.topics._acking_topics.add(TOPIC)
        self.consumer._set_active_tps({PART})
        await app.topics.on_partitions_assigned({PART})
        await self.consumer.perform_seek()
        app.flow_control.resume()
        self.consumer.resume_flow()

    def revoke(self) -> None:
        """What Faust does first when a rebalance takes partitions away."""
        app: Any = self.app
        self.consumer.stop_flow()
        app.flow_control.suspend()
        app.flow_control.clear()

    def start_reading(self) -> None:
        """Start the loop in which Faust's Fetcher hands records over."""
        self._drain = asyncio.create_task(self.consumer._drain_messages(self._fetcher))

    async def start(self) -> None:
        """Start the app's agents, assign, and read."""
        app: Any = self.app
        await app.agents.start()
        await app.topics._update_indices()
        await self.assign()
        self.start_reading()

    async def stop(self) -> None:
        """Stop in the order in which Faust's app stops what it started."""
        app: Any = self.app
        self.revoke()
        self._fetcher._stopped.set()
        self._fetcher.should_stop = True
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        for service in reversed(list(app.boot_strategy.server())):
            if service is app.agents:
                await app.agents.stop()
            elif service is self.consumer:
                await self.consumer.on_stop()
        self.consumer._thread.thread_loop.close()

    async def commit(self) -> int | None:
        """Commit as the timer would; return the offset that the group has then."""
        await self.consumer.commit()
        return self.log.committed_offset

    async def committed(self, offset: int) -> None:
        """Commit again and again, as the timer does, until the group is at this offset."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.commit() != offset:  # noqa: ASYNC110 - each turn does something
                await asyncio.sleep(0.01)


async def _call(fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
    return await fun(*args, **kwargs)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; fails after PATIENCE_SECONDS."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for lies inside Faust, which tells nobody
            await asyncio.sleep(0.001)


def app_of(driver: str, **settings: Any) -> faust.App:
    """An app of the `stock` or of `our` driver, with no broker behind it."""
    kind, scheme = {"stock": (faust.App, "kafka"), "ours": (transport.App, transport.SCHEME)}[driver]
    app = kind(
        f"harness-{uuid.uuid4().hex[:8]}",
        broker=f"{scheme}://127.0.0.1:1",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        **settings,
    )
    app.finalize()
    return app


def topic_of(app: faust.App) -> Any:
    """The topic as either driver reads it: bytes one by one, or record batches."""
    if isinstance(app, transport.App):
        return app.topic(TOPIC, schema=transport.RecordBatches())
    return app.topic(TOPIC, value_type=bytes, value_serializer="raw")


def offsets_of(event: Any) -> list[int]:
    """The offsets of the records in an event of either driver."""
    if isinstance(event.value, transport.RecordBatch):
        return [one.offset for one in event.value.records]
    return [event.message.offset]


def collect(harness: Harness) -> list[Any]:
    """Let the consumer put its messages into a list instead of the agents' channels."""
    messages: list[Any] = []

    async def keep(message: Any) -> None:
        messages.append(message)

    harness.consumer.callback = keep
    return messages


@contextlib.asynccontextmanager
async def running(harness: Harness) -> AsyncIterator[None]:
    """The app at work, stopped afterwards as Faust stops it."""
    await harness.start()
    try:
        yield
    finally:
        await harness.stop()


@contextlib.asynccontextmanager
async def reading(driver: str, log: MemoryLog, messages: int) -> AsyncIterator[tuple[Harness, list[Any]]]:
    """A consumer that has handed over `messages` messages of the log, and those messages."""
    harness = Harness(app_of(driver), log)
    received = collect(harness)
    await harness.assign()
    harness.start_reading()
    try:
        await until(lambda: len(received) == messages)
        yield harness, received
    finally:
        await harness.stop()
