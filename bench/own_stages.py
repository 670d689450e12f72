"""PointGuard's stages without its engine, composed as `streams.worker` does, for programs that feed them otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alerts.metrics import Metrics
from config.settings import Settings
from streams import inbox
from streams.observing import Observer
from streams.pipeline import Pipeline
from streams.processes import engine_of
from streams.records import Log, Span
from streams.worker import compose


class Record(NamedTuple):
    """What the stages need of a Kafka record; `timestamp` in Unix ms."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


@dataclass(frozen=True, slots=True)
class Stages:
    """The pipeline with the epochs it claimed, partition by partition."""

    pipeline: Pipeline
    observer: Observer
    metrics: Metrics
    epochs: dict[int, int]

    def spans(self, records: Sequence[Any]) -> list[Span]:
        """The offsets that `records` cover, one span a partition; the records of each stand in order, without gaps."""
        bounds: dict[int, tuple[int, int]] = {}
        for record in records:
            first, _ = bounds.get(record.partition, (record.offset, 0))
            bounds[record.partition] = (first, record.offset)
        return [Span(part, first, last, self.epochs[part]) for part, (first, last) in bounds.items()]


def build(settings: Settings, topic: str, partitions: int) -> Stages:
    """Compose the stages and claim all partitions of `topic` from their beginning."""
    metrics, engine = Metrics(), engine_of(settings, "bench")
    where = Log(str(settings.log_id), topic)
    made = compose(settings, where, engine, metrics)
    with engine.begin() as conn:
        claims = inbox.claim(conn, where, dict.fromkeys(range(partitions), 0), "bench")
    return Stages(made.pipeline, made.observer, metrics, {part: claimed.epoch for part, claimed in claims.items()})
