"""PointGuard's stages fed by Quix Streams' consumer, with PointGuard's overlap: one batch commits, the next prepares.

A dataframe hands over single messages; the consumer of its application is the only part of its interface that gives
batches, so that is what feeds the stages here. Offsets are stored after the commit, and committed by the client.
"""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from quixstreams import Application

from bench import naive_parts, own_stages, workload
from config.settings import Settings

LINGER_SECONDS = 0.02


def run(app: Application, topic: str, settings: Settings) -> None:
    """Consume, prepare and commit until the process is stopped."""
    stages = own_stages.build(settings, topic, workload.PARTITIONS)
    pipeline = stages.pipeline
    committing: Future[Any] | None = None
    waiting: list[Any] = []
    with app.get_consumer() as consumer, ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:
        runner.run(stages.observer.warm_up())
        consumer.subscribe([topic])
        while True:
            messages = consumer.consume(settings.batch_max, LINGER_SECONDS)
            records = [
                own_stages.Record(m.partition(), m.offset(), m.key(), m.value(), (), m.timestamp()[1]) for m in messages
            ]
            prepared = runner.run(pipeline.prepare(records, stages.spans(records), {})) if records else None
            if committing is not None:
                committing.result()
                for message in waiting:
                    consumer.store_offsets(message)
            committing = None if prepared is None else pool.submit(pipeline.commit, prepared)
            waiting = list({message.partition(): message for message in messages}.values())


def main() -> None:
    """Run until stopped."""
    options = naive_parts.options(__doc__)
    app = Application(
        broker_address=options.bootstrap,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="WARNING",
    )
    run(app, options.topic, Settings())


if __name__ == "__main__":
    main()
