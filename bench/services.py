"""What a benchmark runs on and with: the broker, the open-loop producer, the options every benchmark has."""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from embedded import kafka

JARS: Final = Path(".pointguard") / "kafka-jars"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark."""
    parser.add_argument("--quick", action="store_true", help="20,000 events, one run: shows that it works, no figures")
    parser.add_argument("--kafka", help="bootstrap servers of a broker that runs; without it Apache Kafka is started")


@contextlib.contextmanager
def broker(bootstrap: str | None) -> Iterator[str]:
    """The broker at `bootstrap`, or an Apache Kafka of our own in a temporary directory, stopped at the end."""
    if bootstrap:
        yield bootstrap
        return
    with tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder:
        server = kafka.start(Path(folder), JARS)
        try:
            yield server.url
        finally:
            server.process.stop()


@dataclass(frozen=True, slots=True)
class Load:
    """An open-loop run: how many events at which rate, `distinct` different ones in turn; writes `schedule`."""

    bootstrap: str
    topic: str
    rate: float
    events: int
    distinct: int
    seed: int
    schedule: Path


def start_load(load: Load) -> "subprocess.Popen[str]":
    """Start the producer; it sends the first event as soon as it has made them all."""
    arguments = [part for name, value in asdict(load).items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-W", "ignore", "-m", "bench.openloop", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lateness_ms(producer: "subprocess.Popen[str]") -> float:
    """Wait for the producer's end; how late it was itself (p99, in milliseconds)."""
    output, _ = producer.communicate()
    if producer.returncode:
        raise RuntimeError(f"the open-loop producer ended with code {producer.returncode}")
    return float(json.loads(output)["late_p99_ms"])
