"""Stock Faust, run with the same care as PointGuard: `noack`, a bounded queue, acks in order; one event a message."""

import asyncio
from typing import Any

import faust

from bench.tally import Job, Tally, job_from_arguments


def build(job: Job) -> faust.App:
    """The application: an agent that hands events to a bounded queue and a task that acks what comes out of it."""
    tally = Tally(job)
    app = faust.App(
        job.group,
        version=1,
        broker=f"kafka://{job.bootstrap}",
        processing_guarantee="at_least_once",
        store="memory://",
        web_enabled=False,
        datadir=str(job.scratch),
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        broker_commit_interval=1.0,
        broker_commit_every=10_000,
    )
    topic = app.topic(job.topic, key_serializer="raw", value_serializer="raw", value_type=bytes)
    handoff: asyncio.Queue[faust.EventT[bytes]] = asyncio.Queue(maxsize=500)

    async def acknowledge() -> None:
        while True:
            event = await handoff.get()
            event.ack()
            tally.done(event.message.partition, event.message.offset, 1)

    async def pump(stream: Any) -> None:
        acknowledging = asyncio.create_task(acknowledge())
        async for event in stream.noack().events():
            await handoff.put(event)
        await acknowledging

    app.agent(topic, concurrency=1)(pump)
    return app


if __name__ == "__main__":
    faust.Worker(build(job_from_arguments()), loglevel="WARNING").execute_from_commandline()
