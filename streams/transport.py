"""How records come from Kafka into a Faust agent: all that a fetch brought for a partition, as one event.

Faust's own driver pays its machinery for every message and commits past events that are still in work
(docs/delivery.md). This one, chosen by `broker="pointguard://host:9092"`, rests on one idea, the *reading*: the stretch
between a seek and the next rebalance or shutdown. Readings are numbered. A fetch bears the number that was in force in
Kafka's own thread when its records left the buffer, a batch that of its fetch. Records of another reading than the
current one are dropped, because the seek that starts a reading brings everything unfinished again; within a reading
whatever the fetcher brings is next, gaps (compaction, transaction markers) and all. So nothing is skipped, and nothing
is handed over twice within one reading.

With `streams.lenient` it alone knows private parts of Faust and aiokafka; tests/contract/test_transport_parts.py names
them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import faust
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.exceptions import ImproperlyConfigured
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as stock
from faust.types import TP, ConsumerMessage
from faust.types.tuples import ack_lock

from streams import lenient

SCHEME = "pointguard"
EXIT_UNEXPECTED = 70
EXIT_RETRY = 75
FETCH_SECONDS = 1.0
SMALL_FETCH_RECORDS = 250
SEEK_SHARE = 0.8  # of broker_request_timeout: after all of it Faust itself gives up the seek and hangs

Positions = Callable[[set[TP]], Awaitable[Mapping[TP, int]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """What one fetch brought of one partition, undecoded and in offset order: the value of an event.

    `covers_from` is the offset that was expected next. It lies below the first record where the log holds control
    records or was compacted, so the batch accounts for every offset in [covers_from, last_offset].
    """

    topic: str
    part: int
    records: Sequence[ConsumerRecord]
    covers_from: int
    last_offset: int
    reading: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Records by partition, the reading in which they left the buffer, and why the log has no more at a position."""

    reading: int
    records: Mapping[Any, Sequence[ConsumerRecord]]
    lost: Exception | None = None


class RecordBatches(faust.Schema[Any, Any]):
    """The schema of a topic read in batches: nothing is decoded, so Faust acknowledges nothing behind our back."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Make the function that wraps a message into an event as it is."""

        async def decode(message: Any, **_: Any) -> Any:
            return app.create_event(None, message.value, None, message)

        return decode


class App(faust.App):
    """A Faust app that reads record batches.

    `positions`, set before the worker starts, tells for partitions the offset at which reading goes on; one that it
    leaves out is read from its earliest record. It is awaited at each rebalance after the partitions are ours and
    before any of their records is handed over, and may be cancelled by the next rebalance. Without it Kafka's committed
    offsets count.
    """

    positions: Positions | None = None
    pause_seconds: float = 0.0
    """How long to wait after a small fetch. A broker answers with whatever little has come, and each fetch costs the
    same machinery: without a pause, at half load, that machinery is what records queue for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        register()
        super().__init__(*args, **options)

    def is_current(self, batch: RecordBatch) -> bool:
        """Whether no rebalance has begun since this batch was fetched; what is not current comes again, so drop it."""
        return batch.reading == cast("Consumer", self.consumer).reading

    def unacked(self) -> dict[TP, int]:
        """Records by partition that were handed over and not acked yet."""
        return cast("Consumer", self.consumer).unacked_records()

    async def next_offsets(self) -> dict[TP, int]:
        """Tell, of each assigned partition, the offset that will be fetched next; past control records, too."""
        return await cast("Consumer", self.consumer).next_offsets()

    def give_up(self, reason: str, error: Exception, exit_code: int) -> NoReturn:
        """End the process at once: un-acked records come again, whereas an exception inside Faust may lose or hang."""
        log.critical("%s, exit %d: %r", reason, exit_code, error, exc_info=error)
        logging.shutdown()
        os._exit(exit_code)


def joined_on(records: Sequence[ConsumerRecord], expected: int) -> Sequence[ConsumerRecord]:
    """The records at or after the expected offset; those before it were handed over already."""
    if records and records[0].offset < expected:
        return [record for record in records if record.offset >= expected]
    return records


class Consumer(stock.Consumer):
    """Faust's consumer with its own hand-over, commit point and seek."""

    app: App

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        if transport.app.conf.stream_wait_empty or transport.app.in_transaction:
            raise ImproperlyConfigured("record batches need stream_wait_empty=False and at_least_once")
        self.reading: int | None = None
        self._turns = 0
        self._expected: dict[TP, int] = {}
        self._unfinished: dict[TP, deque[ConsumerMessage]] = {}
        self._committable: dict[TP, int] = {}
        super().__init__(transport, *args, **kwargs)

    # -- commit point: the first batch not acked yet, whatever the offsets between batches

    def ack(self, message: Any) -> bool:
        """Note that a batch is done; one of an earlier reading is in no book any more and changes nothing."""
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            self._advance(message.tp)
        return True

    def _advance(self, tp: TP) -> None:
        waiting = self._unfinished.get(tp)
        while waiting and waiting[0].acked:
            self._committable[tp] = waiting.popleft().offset + 1

    def _new_offset(self, tp: TP) -> int | None:
        with ack_lock:
            self._advance(tp)
            return self._committable.pop(tp, None)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        partitions = set(self._committable) | set(self._unfinished)
        return (tp for tp in partitions if topics is None or tp in topics or tp.topic in topics)

    def unacked_records(self) -> dict[TP, int]:
        """Records by partition in batches that were handed over and not acked yet."""
        with ack_lock:
            return {
                tp: sum(len(cast("RecordBatch", message.value).records) for message in waiting if not message.acked)
                for tp, waiting in self._unfinished.items()
            }

    async def next_offsets(self) -> dict[TP, int]:
        """The offset that will be fetched next of each assigned partition."""
        return await cast("ConsumerThread", self._thread).next_offsets()

    # -- readings: a seek starts one, a rebalance or a shutdown ends it

    def stop_flow(self) -> None:
        """End the current reading: nothing more is handed over, and a put that waits for room is given up."""
        self._turns += 1
        self.reading = None
        super().stop_flow()

    def resume_flow(self) -> None:
        """Hand over again, but only after a seek: Faust also resumes when another rebalance has begun meanwhile."""
        if self.reading is not None:
            super().resume_flow()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """A rebalance begins. It is eager, so every partition counts; Faust stops the flow only of an owner."""
        self.stop_flow()
        self._forget()
        await super().on_partitions_revoked(revoked)

    def _forget(self) -> None:
        with ack_lock:
            self._unfinished.clear()
            self._committable.clear()
            self._committed_offset.clear()

    async def perform_seek(self) -> None:
        """Start a reading where the sink stands, or end the process: a flow without a seek would skip records."""
        self._turns += 1
        turn = self._turns
        try:
            async with asyncio.timeout(SEEK_SHARE * self.app.conf.broker_request_timeout):
                positions = await self.seek_to_committed()
        except IllegalStateError:  # Faust's recovery takes it for what it is: partitions changed hands meanwhile
            raise
        except Exception as error:  # whatever failed, only another process can start over
            if self.app.should_stop:
                raise
            self.app.give_up("no seek after a rebalance", error, EXIT_RETRY)
        if turn == self._turns:
            self._forget()
            with ack_lock:
                self._expected, self.reading = dict(positions), turn
                self._committable.update(positions)  # so that Kafka shows what the sink has, even if nothing follows

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to where the sink stands, or to its earliest record; tell where that is."""
        turn, partitions = self._turns, self.assignment()
        known = await self.app.positions(partitions) if self.app.positions else None
        return await cast("ConsumerThread", self._thread).start_reading(turn, partitions, known)

    # -- hand-over

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: the bounded channel holds the fetcher back, pausing partitions would stall it."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing, as nothing was paused."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher.should_stop):
                if self.flow_active:
                    fetch = await cast("ConsumerThread", self._thread).fetch(FETCH_SECONDS)
                    await self._hand_over(fetch)
                    small = sum(map(len, fetch.records.values())) < SMALL_FETCH_RECORDS
                    await asyncio.sleep(self.app.pause_seconds if small else 0)
                else:
                    await self.wait(cast("Any", self.can_resume_flow))
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise
        except Exception as error:  # whatever it is, going on might skip records
            if self.app.should_stop:
                raise
            self.app.give_up("reading from Kafka failed", error, EXIT_UNEXPECTED)

    async def _hand_over(self, fetch: Fetch) -> None:
        """Put a fetch on the agents' channel, partition by partition, as long as its reading lasts."""
        while not self.flow_active and not self._stopped.is_set():
            await self.wait(cast("Any", self.can_resume_flow))
        if fetch.lost is not None and fetch.reading == self.reading:
            raise fetch.lost
        for partition, records in fetch.records.items():
            if fetch.reading != self.reading:
                return
            tp = TP(partition.topic, partition.partition)
            fresh = joined_on(records, self._expected[tp])
            if fresh:
                message = self._message(tp, fresh, fetch.reading)
                self._expected[tp] = message.offset + 1
                self._unfinished.setdefault(tp, deque()).append(message)
                await self.wait_first(self.callback(message), cast("Any", self.suspend_flow))

    def _message(self, tp: TP, records: Sequence[ConsumerRecord], reading: int) -> ConsumerMessage:
        last = records[-1]
        batch = RecordBatch(tp.topic, tp.partition, records, self._expected[tp], last.offset, reading)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            timestamp=last.timestamp / 1000,
            timestamp_type=last.timestamp_type,
            headers=None,
            key=None,
            value=cast("Any", batch),
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class ConsumerThread(stock.AIOKafkaConsumerThread):
    """Kafka's own thread, in which fetches and seeks cannot interleave: here the reading of a fetch is certain."""

    _reading = 0
    _newest_seek = 0

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        lenient.install()
        consumer = super()._create_worker_consumer(transport)
        # Stock reads records of aborted transactions, and goes to the earliest record if the position is out of range:
        # the records between would be gone in silence, and behind a cut log all would be taken for redelivery.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - Faust has no setting for it
        consumer._auto_offset_reset = "none"  # noqa: SLF001 - Faust's setting knows no such value
        return consumer

    async def fetch(self, wait_seconds: float) -> Fetch:
        """The records that have arrived, waiting at most so long for the first."""
        return cast("Fetch", await self.call_thread(self._fetch, wait_seconds))

    async def _fetch(self, wait_seconds: float) -> Fetch:
        try:
            records = await self._ensure_consumer().getmany(timeout_ms=int(wait_seconds * 1000))
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as lost:  # normal between assignment and seek
            return Fetch(self._reading, {}, lost)
        return Fetch(self._reading, records)

    async def next_offsets(self) -> dict[TP, int]:
        """The offset that will be fetched next of each assigned partition."""
        return cast("dict[TP, int]", await self.call_thread(self._next_offsets))

    async def _next_offsets(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        return {TP(tp.topic, tp.partition): await consumer.position(tp) for tp in consumer.assignment()}

    async def start_reading(
        self, reading: int, partitions: Iterable[TP], known: Mapping[TP, int] | None
    ) -> Mapping[TP, int]:
        """Seek all partitions and number the reading that begins with it; return where each one stands.

        A partition that is not `known` is sought to its earliest record; if None, Kafka's committed offsets are known.
        Raises IllegalStateError if a partition is no longer ours or a newer seek was asked for.
        """
        return cast("Mapping[TP, int]", await self.call_thread(self._start_reading, reading, set(partitions), known))

    async def _start_reading(
        self, reading: int, partitions: set[TP], known: Mapping[TP, int] | None
    ) -> Mapping[TP, int]:
        self._newest_seek = max(self._newest_seek, reading)
        consumer = self._ensure_consumer()
        positions = await self._committed(partitions) if known is None else dict(known)
        new = [tp for tp in partitions if tp not in positions]
        earliest = await consumer.beginning_offsets(new) if new else {}
        positions = {tp: positions[tp] if tp in positions else earliest[tp] for tp in partitions}
        if reading != self._newest_seek:
            raise IllegalStateError("a newer rebalance has asked for a seek of its own")
        for tp, offset in positions.items():  # from here on nothing is awaited: all of it happens between two fetches
            consumer.seek(tp, offset)
        self._reading = reading
        return positions

    async def _committed(self, partitions: Iterable[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        committed = {tp: await consumer.committed(tp) for tp in partitions}
        return {tp: offset for tp, offset in committed.items() if offset is not None and offset >= 0}


class Transport(stock.Transport):
    """The transport behind `pointguard://`."""

    Consumer = Consumer


def register() -> None:
    """Make `pointguard://` known to Faust; `App` does it itself."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:Transport"
