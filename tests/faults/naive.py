"""Agents that lose events, on Faust's own driver, and one that does not, on ours: `python -m tests.faults.naive …`.

Each notes the id of an event (its value), and when, in a file once its work is done. Ids that contain `bad` raise, ids
that contain `slow` never finish. What each of them loses, and why, is in docs/delivery.md.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faust

from streams import transport

EXIT_FAILED = 70
TAKEN = 50


@dataclass(frozen=True)
class Run:
    """One worker: which agent, on what, the file for the ids that are done, and how long the work for each takes.

    A worker that is not heard of for `session_seconds` is out of its group.
    """

    agent: str
    broker: str
    topic: str
    done: Path
    work_seconds: float
    session_seconds: float

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that all agents share; the group is named after the topic."""
        return {
            "version": 1,
            "processing_guarantee": "at_least_once",
            "store": "memory://",
            "web_enabled": False,
            "topic_disable_leader": True,
            "topic_allow_declare": False,
            "consumer_auto_offset_reset": "earliest",
            "stream_wait_empty": False,
            "broker_commit_interval": 0.5,
            "broker_session_timeout": self.session_seconds,
            "broker_heartbeat_interval": self.session_seconds / 4,
            "broker_request_timeout": 40,
            "datadir": str(self.done.parent / f"faust-{os.getpid()}"),
        }


class Work:
    """The work that agents do for an event."""

    def __init__(self, run: Run) -> None:
        self._done = run.done.open("a", buffering=1)
        self._seconds = run.work_seconds

    async def do(self, event_id: str) -> None:
        """Do it: fail for a bad one, hang at a slow one, else note it as done."""
        if "bad" in event_id:
            raise ValueError(event_id)
        if "slow" in event_id:
            await asyncio.Event().wait()
        if self._seconds:
            await asyncio.sleep(self._seconds)
        self._done.write(f"{time.monotonic_ns()} {event_id}\n")


def stock(run: Run, concurrency: int, body: Callable[[Any, Work], Any]) -> faust.App:
    """An app of Faust's own driver, whose agent has this body."""
    app = faust.App(run.topic, broker=f"kafka://{run.broker}", **run.settings)
    topic = app.topic(run.topic, value_type=bytes, value_serializer="raw", key_serializer="raw")
    work = Work(run)

    async def agent(stream: Any) -> None:
        await body(stream, work)

    app.agent(topic, concurrency=concurrency)(agent)
    return app


async def each(stream: Any, work: Work) -> None:
    """Auto-ack: Faust acks in a `finally`, raised or not, cancelled or not."""
    async for value in stream:
        await work.do(value.decode())


async def take(stream: Any, work: Work, within: float = 0.5) -> None:
    """`take_events`: acks the batch in a `finally`; after the second error a drainer acks all the rest."""
    async for events in stream.take_events(TAKEN, within=within):
        for event in events:
            await work.do(event.value.decode())


def recipe(run: Run) -> faust.App:
    """What PointGuard does: the agent only hands over, acks follow the work, an error ends the process."""
    app = transport.App(run.topic, broker=f"{transport.SCHEME}://{run.broker}", stream_buffer_maxsize=8, **run.settings)
    topic, work = app.topic(run.topic, schema=transport.RecordBatches()), Work(run)
    handoff: asyncio.Queue[Any] = asyncio.Queue(maxsize=4)
    working: list[asyncio.Task[None]] = []

    async def batcher() -> None:
        try:
            while True:
                event = await handoff.get()
                if app.is_current(event.value):
                    for record in event.value.records:
                        await work.do(record.value.decode())
                    event.ack()
        except ValueError:
            os._exit(EXIT_FAILED)

    async def agent(stream: Any) -> None:
        if not working:
            working.append(asyncio.create_task(batcher()))
        async for event in stream.noack().events():
            await handoff.put(event)

    app.agent(topic, concurrency=1)(agent)
    return app


AGENTS: dict[str, Callable[[Run], faust.App]] = {
    "auto-ack": lambda run: stock(run, 1, each),
    "auto-ack-2": lambda run: stock(run, 2, each),
    "take": lambda run: stock(run, 1, take),
    "take-full": lambda run: stock(run, 1, partial(take, within=3_600)),  # no batch is cut by the clock
    "recipe": recipe,
}


if __name__ == "__main__":
    name, broker_address, topic_name, done_file, *seconds = sys.argv[1:]
    built = AGENTS[name](Run(name, broker_address, topic_name, Path(done_file), *map(float, seconds)))
    faust.Worker(built, loglevel="WARNING").execute_from_commandline()
