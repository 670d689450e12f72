"""The Faust app of a worker: one noack agent that hands record batches over, and nothing else.

Faust acknowledges events in a `finally`, so nothing that can fail may run inside its stream: the agent only puts record
batches into the bounded handoff. What each setting is good for stands in docs/delivery.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from config.settings import Settings
from streams.batcher import Batcher
from streams.transport import App, Positions, RecordBatches


def build(
    settings: Settings, topic: str, positions: Positions, release: Callable[[], None], pause_seconds: float
) -> App:
    """The app that reads `topic`.

    `positions` claims partitions at each assignment and says where reading goes on; `release` is called when a
    rebalance begins; `pause_seconds` lets small fetches grow.
    """
    scratch = settings.data_dir / "faust" / settings.worker_id  # Faust wants one, though without tables it stays empty
    scratch.mkdir(parents=True, exist_ok=True)
    app = App(
        f"{settings.group}-{topic}",
        version=1,
        broker=f"pointguard://{settings.required('kafka_url')}",
        processing_guarantee="at_least_once",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{settings.worker_id}-{topic}",
        stream_wait_empty=False,
        stream_buffer_maxsize=8,
        broker_max_poll_records=settings.batch_max,
        broker_max_poll_interval=1_000_000.0,  # an idle member that left would never join again
        broker_commit_interval=1.0,
        broker_commit_every=1000,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=settings.session_timeout / 3.5,
        broker_rebalance_timeout=30.0,
        broker_request_timeout=max(40.0, settings.session_timeout + 1),
        producer_acks=-1,
        datadir=str(scratch),
    )
    app.positions = positions
    app.pause_seconds = pause_seconds

    @app.on_partitions_revoked.connect(weak=False)
    async def give_up_partitions(*_: Any, **__: Any) -> None:
        release()

    return app


def pump(app: App, topic: str, batcher: Batcher) -> None:
    """Attach the one agent: it hands each record batch to `batcher`, which runs beside it as a task of its own."""
    events = app.topic(topic, schema=RecordBatches())
    running: list[asyncio.Task[None]] = []

    @app.agent(events, concurrency=1)
    async def pump(stream: Any) -> None:
        if not running:
            running.append(asyncio.create_task(batcher.run(lambda: bool(app.should_stop))))
        async for event in stream.noack().events():
            await batcher.handoff.put(event)
