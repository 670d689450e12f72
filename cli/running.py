"""The services and workers a command needs: those that run already, else a stack of its own for as long as it takes."""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from cli.context import engine_of, err
from cli.errors import CommandError
from config.settings import Settings
from ledger.programs import create_program
from streams.acts import program_created
from streams.kafka import cluster_id, partitions_of
from streams.observing import stored_epoch
from streams.velocity_store import RedisVelocityStore, VelocityUnavailableError

if TYPE_CHECKING:
    from cli.stack import Stack

READY_SECONDS = 45.0

_OWNED = text("SELECT count(*) FROM partition_progress WHERE log_id = :log_id AND topic = ANY(:topics)")


@contextmanager
def running(settings: Settings) -> Iterator[Settings]:
    """Settings of a running stack: the given ones when they name all services, else those of a stack started here."""
    if settings.database_url and settings.redis_url and settings.kafka_url:
        log_id = settings.log_id or asyncio.run(cluster_id(settings.kafka_url))
        yield settings.model_copy(update={"log_id": log_id})
        return
    from cli.stack import stack  # what a stack starts takes a second to import

    err.print("[dim]nothing is running: starting services and workers for this command[/]")
    with stack(settings) as started, _watched(started):
        await_workers(started.settings)
        yield started.settings


@contextmanager
def _watched(started: Stack) -> Iterator[None]:
    """Restart workers of the stack that end, as `up` does, until the block is left."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            started.supervisor.look()

    watcher = threading.Thread(target=watch, name="watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def await_workers(settings: Settings) -> bool:
    """Wait until workers own all partitions of both topics and velocity is warm; False if that takes too long.

    An account's events are in order within a topic only: what is sent while one topic's worker is up and the other's is
    not may be decided in the wrong order, a redemption before the earn it spends.
    """
    return asyncio.run(_ready(settings))


async def _ready(settings: Settings) -> bool:
    kafka_url, engine = settings.required("kafka_url"), engine_of(settings.required("database_url"))
    topics = (settings.events_topic, settings.requests_topic)
    expected = sum([len(await partitions_of(kafka_url, topic)) for topic in topics])
    store = RedisVelocityStore.connect(settings.required("redis_url"), None)
    deadline = time.monotonic() + READY_SECONDS
    try:
        while True:
            with engine.connect() as conn:
                owned = conn.execute(_OWNED, {"log_id": settings.log_id, "topics": list(topics)}).scalar_one()
                store.epoch = stored_epoch(conn)
            if owned >= expected and await _is_warm(store):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
    finally:
        await store.close()
        engine.dispose()


async def _is_warm(store: RedisVelocityStore) -> bool:
    try:
        return not await store.is_cold()
    except VelocityUnavailableError:
        return False


def simulation_programme(engine: Engine, name: str) -> int | None:
    """Create the programme in simulation mode unless it exists; its clock in epoch milliseconds, None if it never ran.

    Refuses a live one: events of another time must not move points that are worth something.
    """
    with engine.begin() as conn:
        found = conn.execute(
            text("SELECT mode, clock FROM program WHERE program = :name"), {"name": name}
        ).one_or_none()
        if found is None:
            program_created(conn, getpass.getuser(), create_program(conn, name, "simulation"))
            return None
    if found.mode != "simulation":
        raise CommandError(
            f"programme {name} is live",
            "give another --program: only a simulation programme takes events of another time",
        )
    return round(found.clock.timestamp() * 1_000) if found.clock else None
