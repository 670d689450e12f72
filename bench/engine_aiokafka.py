"""The floor of the engine benchmark: aiokafka's own `getmany` and nothing around it."""

import asyncio

from aiokafka import AIOKafkaConsumer

from bench.tally import Job, Tally, job_from_arguments


async def consume(job: Job) -> None:
    """Read record batches until the tally ends the process; offsets are committed once a second."""
    tally = Tally(job)
    consumer = AIOKafkaConsumer(
        job.topic,
        bootstrap_servers=job.bootstrap,
        group_id=job.group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=1000,
    )
    await consumer.start()
    while True:
        for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
            tally.done(partition.partition, records[-1].offset, len(records))


if __name__ == "__main__":
    asyncio.run(consume(job_from_arguments()))
