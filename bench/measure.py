"""What the benchmarks share: medians and ranges, latency from a schedule, CPU of process trees, Markdown tables."""

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil

PERCENTILES: Final = (50.0, 99.0, 99.9)
PACKAGES: Final = ("faust-streaming", "aiokafka", "quixstreams", "confluent-kafka", "river", "sqlalchemy", "redis")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several runs: its median and its range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 0) -> str:
        """As a table cell: `median (low–high)`, the range left out when all runs agree."""
        figures = [f"{value:,.{digits}f}" for value in (self.median, self.low, self.high)]
        return figures[0] if figures[1] == figures[2] else f"{figures[0]} ({figures[1]}–{figures[2]})"


def latencies_ms(
    schedule: Mapping[str, npt.NDArray[np.int64]],
    marks: npt.NDArray[np.int64],
    first_offsets: Mapping[int, int],
    warm_up_seconds: float,
) -> npt.NDArray[np.float64]:
    """How long after its scheduled time each event was done, in milliseconds; infinity for one that never was.

    `schedule` has the due times of each partition's events (p0, p1, …), the first of them at that partition's
    `first_offsets`. `marks` has rows (partition, last offset done, when), in the order they happened. Events due in the
    first `warm_up_seconds` are left out.
    """
    begin = min(int(times[0]) for times in schedule.values() if len(times)) + int(warm_up_seconds * 1e9)
    parts = []
    for name, times in schedule.items():
        partition = int(name.removeprefix("p"))
        rows = marks[marks[:, 0] == partition]
        reached = np.maximum.accumulate(rows[:, 1]) if len(rows) else rows[:, 1]
        offsets = first_offsets.get(partition, 0) + np.arange(len(times))
        at = np.searchsorted(reached, offsets)
        done = np.append(rows[:, 2].astype(np.float64), np.inf)[at]
        parts.append(((done - times) / 1e6)[times >= begin])
    return np.concatenate(parts)


def percentiles(latencies: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """p50, p99 and p99.9, each an observed value."""
    return tuple(float(value) for value in np.percentile(latencies, PERCENTILES, method="higher"))


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its descendants, also of those that have ended and been waited for."""
    total = 0.0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def listener_pid(port: int) -> int:
    """The process that listens on a local TCP port; LookupError when there is none (a server on another machine)."""
    for connection in psutil.net_connections("tcp"):
        address = connection.laddr
        if address and connection.status == psutil.CONN_LISTEN and address.port == port and connection.pid:
            return connection.pid
    raise LookupError(f"no process of this machine listens on port {port}; its CPU cannot be measured")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column left and the others right aligned."""
    lines = [" | ".join(header), " | ".join(["---"] + ["---:"] * (len(header) - 1))]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def machine() -> str:
    """One line on what a table was measured with."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}; {packages}"


def publish(name: str, text: str) -> None:
    """Print a report and keep it as `bench/results/<name>.md`."""
    print(text)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
