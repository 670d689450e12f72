"""PointGuard's transport: an agent that hands record batches to a bounded queue, and acks in order from there."""

import asyncio
from typing import Any

import faust

from bench.tally import Job, Tally, job_from_arguments
from streams import transport


def build(job: Job) -> transport.App:
    """The application, with the settings of `streams.app`."""
    tally = Tally(job)
    app = transport.App(
        job.group,
        version=1,
        broker=f"pointguard://{job.bootstrap}",
        processing_guarantee="at_least_once",
        store="memory://",
        web_enabled=False,
        datadir=str(job.scratch),
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        stream_buffer_maxsize=8,
        broker_max_poll_records=500,
        broker_max_poll_interval=300.0,
        broker_commit_interval=1.0,
        broker_commit_every=1000,
    )
    topic = app.topic(job.topic, schema=transport.RecordBatches())
    handoff: asyncio.Queue[Any] = asyncio.Queue(maxsize=4)

    async def acknowledge() -> None:
        while True:
            event = await handoff.get()
            event.ack()
            batch = event.value
            tally.done(batch.part, batch.last_offset, len(batch.records))

    async def pump(stream: Any) -> None:
        acknowledging = asyncio.create_task(acknowledge())
        async for event in stream.noack().events():
            await handoff.put(event)
        await acknowledging

    app.agent(topic, concurrency=1)(pump)
    return app


if __name__ == "__main__":
    faust.Worker(build(job_from_arguments()), loglevel="WARNING").execute_from_commandline()
