"""What every process of PointGuard shares at its start, and the relay's process. None of it needs River."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from prometheus_client import start_http_server
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError

from alerts.metrics import Metrics
from config import logs
from config.settings import Settings
from streams.anchoring import Anchoring
from streams.effects import Outgoing
from streams.errors import dependency_down
from streams.relay import Relay, RelayParams
from streams.watchdog import Limits, Pulse, Watchdog

log = structlog.get_logger()


def engine_of(settings: Settings, process: str) -> Engine:
    """The PostgreSQL engine of one process; its connections name it in pg_stat_activity."""
    return create_engine(
        settings.required("database_url"),
        pool_size=5,
        hide_parameters=True,  # an error's text goes to logs, where no account and no event belongs
        pool_use_lifo=True,  # one warm connection does the work: its statements are prepared, its caches filled
        connect_args={
            "application_name": f"pointguard-{process}",
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # The server's side of the same: a worker that vanished must not hold its rows for hours.
            "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
        },
    )


def wait_for(engine: Engine) -> None:
    """Return once PostgreSQL answers, however long it takes; what else is wrong with the address is raised."""
    while True:
        try:
            with engine.connect():
                return
        except DBAPIError as error:
            if dependency_down(error) is None:
                raise
            log.warning("waiting for the database", service="postgresql")
            time.sleep(1.0)


def serve_metrics(settings: Settings, metrics: Metrics) -> int:
    """Serve /metrics on the configured port, or on a free one that is logged and returned."""
    server, _ = start_http_server(settings.metrics_port, settings.metrics_host, metrics.registry)
    port = int(server.server_port)
    log.info("metrics are served", port=port)
    return port


def run_relay(settings: Settings) -> None:
    """The relay process, until SIGINT or SIGTERM."""
    logs.configure(settings, "relay")
    metrics = Metrics()
    serve_metrics(settings, metrics)
    asyncio.run(_until_signal(_relay(settings, metrics)))


async def _relay(settings: Settings, metrics: Metrics) -> None:
    engine = engine_of(settings, "relay")
    pulse = Pulse()
    watchdog = Watchdog(pulse, Limits(settings.stall_seconds, 60.0, settings.rss_limit_mb))
    watchdog.start()
    producer = await _started_producer(settings)
    key = settings.anchor_key()
    anchoring = key and Anchoring(key, settings.anchors_topic, settings.anchors_path, settings.anchor_seconds)
    params = RelayParams(Outgoing(settings.decisions_topic, settings.alerts_topic), anchoring=anchoring or None)
    try:
        await Relay(engine, producer, metrics, pulse, params).run()
    finally:
        watchdog.stop()
        await producer.stop()
        engine.dispose()


async def _started_producer(settings: Settings) -> AIOKafkaProducer:
    """A producer whose messages are durable when awaited; waits for the broker as long as it takes.

    Not idempotent: an idempotent producer of aiokafka can wedge, and consumers of the outbox dedupe anyway.
    """
    while True:
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.required("kafka_url"), acks="all", linger_ms=2, max_batch_size=262_144
        )
        try:
            await producer.start()
        except KafkaConnectionError as error:
            await producer.stop()
            log.warning("waiting for the broker", service="kafka", error=str(error))
            await asyncio.sleep(1.0)
        else:
            return producer


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the process is asked to stop."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
