"""The whole product on one machine: services, schema, topics and processes, as one context."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from cli.supervisor import Supervisor
from config import settings as configuration
from config.settings import Settings
from embedded.process import ServiceError, free_port
from embedded.services import Services
from ledger.migrate import migrate
from streams import setup
from streams.anchoring import ensure_key
from streams.kafka import cluster_id, ensure_topics

SIMULATE = "simulate"


@dataclass(frozen=True)
class Size:
    """How many workers for facts and for requests, and whether the demo traffic runs."""

    workers: int = 1
    request_workers: int = 1
    demo: bool = False
    apache_kafka: Path | None = None


@dataclass(frozen=True)
class Stack:
    """A running stack: settings with every address filled in, its supervisor, its services, and ports of /metrics."""

    settings: Settings
    supervisor: Supervisor
    services: Services
    metrics: Mapping[str, int]


@contextlib.contextmanager
def stack(settings: Settings, size: Size = Size(), say: Callable[[str], None] = lambda _: None) -> Iterator[Stack]:
    """Start what has no address, bring the schema and topics up to date, start the processes; stop all on leaving."""
    with contextlib.ExitStack() as cleanup:
        services = cleanup.enter_context(
            Services.start(
                settings.data_dir,
                database_url=settings.database_url,
                redis_url=settings.redis_url,
                kafka_url=settings.kafka_url,
                apache_kafka=size.apache_kafka,
            )
        )
        _ask_redis(services.urls.redis)
        say("services answer; bringing the schema up to date")
        filled = settings.model_copy(
            update={
                "database_url": services.urls.database,
                "redis_url": services.urls.redis,
                "kafka_url": services.urls.kafka,
            }
        )
        if settings.secret_file is None:
            configuration.ensure_secret(settings.data_dir)
        if settings.anchor_key_file is None:
            ensure_key(settings.data_dir)
        migrate(filled.required("database_url"))
        setup.seed(filled)
        asyncio.run(_prepare_topics(filled))
        log_id = settings.log_id or services.log_id or asyncio.run(cluster_id(filled.required("kafka_url")))
        embedded = settings.kafka_url is None and size.apache_kafka is None
        filled = filled.model_copy(update={"log_id": log_id, "trust_end_offsets": not embedded})
        commands = _commands(size)
        metrics = {name: free_port() for name in commands if name != SIMULATE}
        _publish(filled, metrics, cleanup)
        supervisor = cleanup.enter_context(Supervisor(settings.data_dir))
        for name, arguments in commands.items():
            port = ["--metrics-port", str(metrics[name])] if name in metrics else []
            supervisor.start(name, [*arguments, *port])
        yield Stack(filled, supervisor, services, metrics)


def _ask_redis(url: str) -> None:
    """Refuse to start on a Redis that does not answer: the workers would wait for it in silence."""
    try:
        with Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except RedisError as error:
        raise ServiceError(f"Redis does not answer ({error}): check POINTGUARD_REDIS_URL") from error


async def _prepare_topics(settings: Settings) -> None:
    topics = (settings.events_topic, settings.requests_topic, settings.decisions_topic, settings.alerts_topic)
    await ensure_topics(settings.required("kafka_url"), topics, settings.partitions, settings.replication)
    await ensure_topics(settings.required("kafka_url"), (settings.anchors_topic,), 1, settings.replication)


def _publish(settings: Settings, metrics: Mapping[str, int], cleanup: contextlib.ExitStack) -> None:
    addresses = {name: getattr(settings, name) for name in configuration.RUN_FIELDS}
    running = addresses | {"pid": os.getpid(), "metrics": dict(metrics)}
    configuration.write_run(settings.data_dir, running)
    run_file = settings.data_dir / configuration.RUN_FILE
    cleanup.callback(lambda: run_file.unlink(missing_ok=True))


def _commands(size: Size) -> dict[str, list[str]]:
    """The processes of a stack by name, each with its `pointguard` arguments."""
    host = socket.gethostname()  # members of one group on several machines need different names
    commands = {f"worker-events-{n}": ["worker", "--id", f"{host}-events-{n}"] for n in range(size.workers)}
    for n in range(size.request_workers):
        commands[f"worker-requests-{n}"] = ["worker", "--topic", "requests", "--id", f"{host}-requests-{n}"]
    commands |= {"relay": ["relay"], "trainer": ["trainer"]}
    if size.demo:
        commands[SIMULATE] = ["simulate", "--program", "demo", "--rate", "50", "--speed", "60"]
    return commands
