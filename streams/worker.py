"""The composition root of a worker: builds every part from the settings and runs the Faust app."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.types import TP
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from alerts.metrics import LAG, STAGE, Metrics
from config import logs
from config.settings import Settings
from detectors.entity import Keys
from ledger.ids import IdBlocks
from streams import exits, inbox, kafka
from streams.app import build, pump
from streams.batcher import Batcher, Outside, Ownership
from streams.catalog import Catalog
from streams.effects import Outgoing
from streams.errors import dependency_down, described
from streams.handoff import BatchParams
from streams.holes import read_hole
from streams.keys import model_key
from streams.observing import Observer
from streams.pipeline import Parts, Pipeline
from streams.posting import Poster
from streams.processes import engine_of, serve_metrics, wait_for
from streams.records import Log
from streams.transport import App
from streams.velocity_store import RedisVelocityStore
from streams.watchdog import Limits, Pulse, Watchdog, tick

BROKER_LOOK_SECONDS = 10.0
CLAIM_SECONDS = 20.0
SETTLE_SECONDS = 3.0
MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

log = structlog.get_logger()


class Partitions:
    """Claims partitions in the database whenever Kafka assigns them, and says where reading goes on.

    PostgreSQL is the truth: reading goes on behind the progress row, whatever Kafka has noted.
    """

    def __init__(self, settings: Settings, engine: Engine, where: Log, ownership: Ownership) -> None:
        self._settings, self._engine, self._log, self._ownership = settings, engine, where, ownership
        self._trust_end = settings.trust_end_offsets is not False

    async def positions(self, assigned: set[TP]) -> Mapping[TP, int]:
        """Claim `assigned`; the offset to read next of each partition."""
        parts = sorted(tp.partition for tp in assigned if tp.topic == self._log.topic)
        bounds = await kafka.log_bounds(self._settings.required("kafka_url"), self._log.topic, parts)
        claims = await asyncio.to_thread(self._claim, {part: bounds[part][0] for part in parts})
        for part, claimed in claims.items():
            first, end = bounds[part]
            if self._trust_end and first > claimed.last_offset + 1:
                log.critical("records are gone from the log", partition=part, last=claimed.last_offset, first=first)
                os._exit(exits.LOST)
            if self._trust_end and end < claimed.last_offset + 1:
                log.critical("the log was cut or made anew", partition=part, last=claimed.last_offset, offset=end)
                os._exit(exits.LOG_CUT)
            self._ownership.take(part, claimed.epoch, claimed.last_offset)
            log.info("partition claimed", partition=part, epoch=claimed.epoch, last=claimed.last_offset, first=first)
        return {TP(self._log.topic, part): claimed.last_offset + 1 for part, claimed in claims.items()}

    def _claim(self, starts: Mapping[int, int]) -> dict[int, inbox.Claim]:
        """Claim, waiting a while for a worker that still holds a row; PostgreSQL ends its session if it is frozen."""
        deadline = time.monotonic() + CLAIM_SECONDS
        while True:
            try:
                return self._claim_once(starts)
            except DBAPIError as error:
                if dependency_down(error) is None or time.monotonic() > deadline:
                    raise
                log.warning("cannot claim yet", error=described(error))
                time.sleep(0.5)

    def _claim_once(self, starts: Mapping[int, int]) -> dict[int, inbox.Claim]:
        with self._engine.begin() as conn:
            conn.execute(text("SELECT set_config('lock_timeout', '3s', true)"))
            return inbox.claim(conn, self._log, starts, f"{self._settings.worker_id}/{os.getpid()}")


@dataclass(frozen=True)
class Stages:
    """A worker without its engine: the pipeline, and what has to run beside it."""

    pipeline: Pipeline
    observer: Observer
    catalog: Catalog


def compose(settings: Settings, where: Log, engine: Engine, metrics: Metrics) -> Stages:
    """Build the stages of a worker for one topic from the settings."""
    secret = settings.secret()
    keys = Keys(secret)
    catalog = Catalog(engine, model_key(secret), metrics)
    store = RedisVelocityStore.connect(settings.required("redis_url"), None)
    observer = Observer(store, engine, keys, lambda: catalog.judge.policy.layout)
    topics = Outgoing(settings.decisions_topic, settings.alerts_topic)
    decide_stage = metrics.histogram(STAGE, where.topic, "decide")
    poster = Poster(keys, IdBlocks(), decide_stage.observe)
    parts = Parts(engine, where, keys, catalog, observer, poster, topics, metrics)
    return Stages(Pipeline(parts), observer, catalog)


def run(settings: Settings, topic: str) -> None:
    """Consume `topic` until stopped; the process ends by itself on anything unexpected."""
    logs.configure(settings, f"worker-{topic}")
    metrics = Metrics()
    serve_metrics(settings, metrics)
    engine = engine_of(settings, settings.worker_id)
    wait_for(engine)
    where = Log(settings.log_id or asyncio.run(kafka.cluster_id(settings.required("kafka_url"))), topic)
    stages = compose(settings, where, engine, metrics)
    ownership, pulse = Ownership(), Pulse()
    linger = settings.linger_requests_ms if topic == settings.requests_topic else settings.linger_ms
    partitions = Partitions(settings, engine, where, ownership)

    async def positions(assigned: set[TP]) -> Mapping[TP, int]:
        await stages.observer.settled(SETTLE_SECONDS)
        claimed = await partitions.positions(assigned)
        pulse.joining = None
        return claimed

    def release() -> None:
        ownership.release()
        pulse.joining = time.monotonic()

    app = build(settings, topic, positions, release, linger / 2000)
    outside = Outside(app.is_current, lambda hole: read_hole(settings.required("kafka_url"), topic, hole))
    batcher = Batcher(stages.pipeline, ownership, BatchParams(settings.batch_max, linger / 1000), pulse, outside)
    pump(app, topic, batcher)
    beside = [
        stages.observer.keep_warm(),
        stages.catalog.keep_current(),
        tick(pulse),
        _show_lag(app, topic, metrics),
        _watch_broker(settings, app, topic, pulse),
    ]
    _attach(app, beside)
    pulse.joining = time.monotonic()
    Watchdog(pulse, Limits(settings.stall_seconds, 10.0, settings.rss_limit_mb)).start()
    _calm_memory()
    worker = faust.Worker(app, loglevel="WARNING", redirect_stdouts=False, quiet=True, override_logging=False)
    worker.execute_from_commandline()


def _calm_memory() -> None:
    """Keep collector and allocator off the hot path: a batch makes thousands of values and a few large arrays.

    What was imported is never garbage and is not looked at again; young values, which hardly form cycles, are looked at
    once in some batches. Where the C library is glibc, arrays are cut from the heap, not mapped anew for every batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOPT_MMAP_THRESHOLD, 100_000_000)
        mallopt(MALLOPT_TRIM_THRESHOLD, 1_000_000_000)


def _attach(app: App, tasks: list[Any]) -> None:
    """Run coroutines beside the app's agents for as long as it runs."""

    @app.task  # type: ignore[untyped-decorator]  # Faust brings no types for it
    async def beside() -> None:
        try:
            await asyncio.gather(*tasks)
        except Exception as error:  # an exception that travelled into Faust might acknowledge what is not done
            log.critical(
                "a task beside the stream failed", error=described(error), exc_info=True, code=exits.UNEXPECTED
            )
            os._exit(exits.UNEXPECTED)


async def _show_lag(app: App, topic: str, metrics: Metrics) -> None:
    while True:
        for tp, records in app.unacked().items():
            metrics.gauge(LAG, topic, str(tp.partition)).set(records)
        await asyncio.sleep(1.0)


async def _watch_broker(settings: Settings, app: App, topic: str, pulse: Pulse) -> None:
    """Tell the watchdog how much of the log is still unread, so that a consumer that fell silent is noticed, too."""
    if settings.trust_end_offsets is False:
        return
    while True:
        await asyncio.sleep(BROKER_LOOK_SECONDS)
        try:
            async with asyncio.timeout(BROKER_LOOK_SECONDS):
                reached = {tp.partition: offset for tp, offset in (await app.next_offsets()).items()}
                bounds = await kafka.log_bounds(settings.required("kafka_url"), topic, sorted(reached))
        except (KafkaError, TimeoutError) as error:
            pulse.broker_lag = None
            log.warning("broker does not answer", service="kafka", error=repr(error))
        else:
            lag = sum(max(0, bounds[part][1] - offset) for part, offset in reached.items())
            if lag and not pulse.broker_lag and pulse.work == 0:
                pulse.beat()  # the watchdog's clock starts with the lag
            pulse.broker_lag = lag
