"""An open-loop producer, in a process of its own: every event has its time in a schedule fixed beforehand.

The schedule never waits for whoever reads. An event that leaves late, because the producer, the broker or the reader
was slow, is still counted from the time it should have left, so that no delay hides itself (“coordinated omission”).
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer  # type: ignore[import-untyped]  # ships no types

from bench.workload import PARTITIONS, Record, Workload, generate

NAP_SECONDS: Final = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`events` events at `rate` a second, the first at `start_ns` (monotonic); the records are used in turn."""

    start_ns: int
    rate: float
    events: int

    def times(self) -> npt.NDArray[np.int64]:
        """When each event is due, in nanoseconds of the monotonic clock."""
        return self.start_ns + (np.arange(self.events) * (1e9 / self.rate)).astype(np.int64)


def send(bootstrap: str, topic: str, records: list[Record], schedule: Schedule) -> npt.NDArray[np.int64]:
    """Produce on schedule and return when each event was handed to the client library, in monotonic nanoseconds."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 3,
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    sent = np.zeros(schedule.events, dtype=np.int64)
    step_ns, position = 1e9 / schedule.rate, 0
    produce, distinct = producer.produce, len(records)
    while position < schedule.events:
        now = time.monotonic_ns()
        due = min(schedule.events, int((now - schedule.start_ns) / step_ns) + 1)
        if due <= position:
            producer.poll(0)
            time.sleep(NAP_SECONDS)
            continue
        sent[position:due] = now
        for index in range(position, due):
            record = records[index % distinct]
            produce(topic, record.value, record.key, record.partition)
        position = due
    if left := producer.flush(60):
        raise TimeoutError(f"{left} events of {topic} were still not written a minute after the last was due")
    return sent


def by_partition(records: list[Record], times: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """The schedule partition by partition (keys p0, p1, …): the n-th time is that of the n-th record sent there."""
    cycle = np.array([record.partition for record in records], dtype=np.int64)
    partitions = np.resize(cycle, len(times))
    return {f"p{partition}": times[partitions == partition] for partition in range(PARTITIONS)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--distinct", type=int, required=True, help="make this many events and send them in turn")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--schedule", type=Path, required=True, help="where the schedule goes (.npz)")
    return parser.parse_args()


def main() -> None:
    """Send what the command line asks for and write the schedule, partition by partition, as an `.npz` file."""
    options = _arguments()
    records = generate(Workload(end=datetime.now(UTC), seed=options.seed, events=options.distinct, tag="open"))
    schedule = Schedule(start_ns=time.monotonic_ns() + 50_000_000, rate=options.rate, events=options.events)
    sent = send(options.bootstrap, options.topic, records, schedule)
    times = schedule.times()
    np.savez(options.schedule, **by_partition(records, times))  # type: ignore[arg-type]  # numpy's stub takes ** for allow_pickle
    late_ms = (sent - times) / 1e6
    report = {"start_ns": schedule.start_ns, "late_p99_ms": float(np.percentile(late_ms, 99))}
    os.write(1, (json.dumps(report) + "\n").encode())


if __name__ == "__main__":
    main()
