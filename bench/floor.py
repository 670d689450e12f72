"""The floor: PointGuard's stages one after the other on batches that are in memory already, without any engine.

What an engine adds to this sum is its cost; what overlapping saves is its gain. Beside it runs the profile: every step
of the batch transaction is timed from outside, and the sums are kept as `profile.json` in the scratch directory.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from alerts.metrics import STAGE
from bench import naive_parts, own_stages, workload
from config.settings import Settings
from ledger import batch
from streams import decisions, effects, inbox, outbox, pipeline, posting
from streams.pipeline import Pipeline

STEPS: Final[dict[str, tuple[Any, str]]] = {
    "fence": (inbox, "fence"),
    "inbox": (inbox, "admit"),
    "lock accounts": (posting, "lock_batch"),
    "account times": (posting, "account_times"),
    "moments": (posting, "moments"),
    "assemble features": (posting, "assemble"),
    "rules and models": (posting, "decide"),
    "load lots": (batch, "load"),
    "plan postings": (batch, "plan"),
    "write postings": (batch, "write"),
    "write decisions": (decisions, "insert"),
    "expect labels": (effects, "expect_labels"),
    "make messages": (effects, "messages"),
    "outbox": (outbox, "enqueue"),
    "seal": (pipeline, "seal"),
    "progress": (inbox, "advance"),
}
AFTER: Final[dict[str, tuple[Any, str]]] = {"count metrics": (Pipeline, "_count")}
STAGES: Final = ("decode", "velocity", "ledger", "commit")
REPORT_EVERY: Final = 20
PROFILE: Final = "profile.json"


def timed(step: str, function: Callable[..., Any], seconds: "Counter[str]") -> Callable[..., Any]:
    """`function`, with the time spent in it added up under the name of its step."""

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[step] += time.perf_counter() - started  # type: ignore[assignment]  # a counter of floats

    return measured


async def read_all(bootstrap: str, topic: str) -> list[list[Any]]:
    """Every record of the topic, one list a partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    partitions = [TopicPartition(topic, part) for part in range(workload.PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    records: dict[TopicPartition, list[Any]] = {partition: [] for partition in partitions}
    while any(len(records[partition]) < ends[partition] for partition in partitions):
        for partition, fetched in (await consumer.getmany(timeout_ms=1000)).items():
            records[partition] += fetched
    await consumer.stop()
    return list(records.values())


def batches(partitions: list[list[Any]], size: int) -> Iterator[list[Any]]:
    """Batches of about `size` records, partition after partition in turn, as a worker with a backlog gets them."""
    for start in range(0, max(map(len, partitions)), size):
        for records in partitions:
            if batch := records[start : start + size]:
                yield batch


def keep_profile(stages: own_stages.Stages, topic: str, steps: "Counter[str]", folder: str) -> None:
    """Write the sums so far, seconds by step."""
    histogram = {name: stages.metrics.histogram(STAGE, topic, name) for name in STAGES}
    sums = {name: one._sum.get() for name, one in histogram.items()}  # noqa: SLF001  # the client shows it as text only
    inside = {name: steps[name] for name in STEPS}
    told = {"decode": sums["decode"], "velocity": sums["velocity"], **inside}
    told |= {"rest of the transaction": sums["ledger"] - sum(inside.values()), "commit": sums["commit"]}
    told |= {name: steps[name] for name in AFTER}
    Path(folder, PROFILE).write_text(json.dumps(told), encoding="utf-8")


async def main() -> None:
    """Read the topic, then work through it batch by batch."""
    options, settings = naive_parts.options(__doc__), Settings()
    partitions = await read_all(options.bootstrap, options.topic)
    steps: Counter[str] = Counter()
    for step, (place, name) in (STEPS | AFTER).items():
        setattr(place, name, timed(step, getattr(place, name), steps))
    stages = own_stages.build(settings, options.topic, workload.PARTITIONS)
    await stages.observer.warm_up()
    for count, records in enumerate(batches(partitions, settings.batch_max), start=1):
        stages.pipeline.commit(await stages.pipeline.prepare(records, stages.spans(records), {}))
        if count % REPORT_EVERY == 0:
            keep_profile(stages, options.topic, steps, options.scratch)
    keep_profile(stages, options.topic, steps, options.scratch)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
