"""How fast an engine brings records from Kafka to an agent that only acks: stock Faust, Quix Streams, ours, aiokafka.

Each engine is a process of its own that reads the same preloaded backlog from its beginning; the runs of the engines
alternate, so that a slow minute of the machine hits all of them. Latency comes from an open-loop producer, at half of
the engine's own throughput and, to compare like with like, at half of that of each slower engine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from bench import measure, services, workload
from bench.tally import Job

ENGINES: Final = {
    "stock Faust, one event a message": "bench.engine_faust",
    "Quix Streams": "bench.engine_quix",
    "PointGuard's transport": "bench.engine_ours",
    "bare aiokafka `getmany`": "bench.engine_aiokafka",
}
STOCK, QUIX, OURS, FLOOR = ENGINES
WARM_UP_SECONDS: Final = 1.0
SPARE_SECONDS: Final = 20.0
DISTINCT_EVENTS: Final = 20_000
LATENCY_NOTE: Final = """\
Latency in ms from the scheduled time of an event to its ack, open loop, first second left out. The last row of an
engine is at half of its own throughput, the others at half of slower ones'. Producer, broker and engine share cores:
where the producer itself is late by more than a few ms, the machine is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: backlog size, time limit of one throughput run, length of one latency run, runs, seed.

    `compare_rates` adds latency runs at the rates of the slower engines.
    """

    events: int = 500_000
    limit_seconds: float = 20.0
    latency_seconds: float = 6.0
    runs: int = 5
    seed: int = 7
    compare_rates: bool = True


QUICK: Final = Plan(events=20_000, limit_seconds=5.0, latency_seconds=3.0, runs=1, compare_rates=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one engine, one entry a run; latencies in milliseconds by rate of events a second."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    latencies: dict[float, list[tuple[float, ...]]] = field(default_factory=dict)


def throughput(module: str, bootstrap: str, topic: str, plan: Plan, figures: Figures) -> None:
    """One run over the backlog; an engine that does not get through it within the limit is stopped there."""
    with tempfile.TemporaryDirectory() as folder:
        report = _report(_start(module, _job(bootstrap, topic, plan.events, plan.limit_seconds, Path(folder))))
    figures.rates.append(report["records"] / report["seconds"])
    figures.cpu_us.append(report["cpu_seconds"] / report["records"] * 1e6)
    figures.finished.append(bool(report["all"]))


def latency(module: str, bootstrap: str, rate: float, plan: Plan, seed: int) -> tuple[float, ...]:
    """One open-loop run at `rate` on a new topic: p50, p99, p99.9, and how late the producer itself was (p99)."""
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    workload.create_topic(bootstrap, topic)
    prime = [workload.Record(partition, b"prime", b"{}") for partition in range(workload.PARTITIONS)]
    workload.preload(bootstrap, topic, prime)
    events = int(rate * plan.latency_seconds)
    with tempfile.TemporaryDirectory() as folder:
        marks, schedule = Path(folder) / "marks.npy", Path(folder) / "schedule.npz"
        limit = plan.latency_seconds + SPARE_SECONDS
        job = _job(bootstrap, topic, events + len(prime), limit, Path(folder))
        engine = _start(module, replace(job, marks=marks))
        _wait_until_ready(engine)
        load = services.Load(bootstrap, topic, rate, events, min(events, DISTINCT_EVENTS), seed, schedule)
        late = services.lateness_ms(services.start_load(load))
        _report(engine)
        first_offsets = dict.fromkeys(range(workload.PARTITIONS), 1)
        with np.load(schedule) as times:
            values = measure.latencies_ms(dict(times), np.load(marks), first_offsets, WARM_UP_SECONDS)
    workload.delete_topics(bootstrap, [topic])
    return *measure.percentiles(values), late


def _job(bootstrap: str, topic: str, records: int, seconds: float, scratch: Path) -> Job:
    group = f"bench-{uuid.uuid4().hex[:12]}"
    return Job(bootstrap=bootstrap, topic=topic, group=group, records=records, seconds=seconds, scratch=scratch)


def _start(module: str, job: Job) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", module, *job.arguments()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _wait_until_ready(engine: subprocess.Popen[str]) -> None:
    """Return once the engine's tally has said that the first record was done."""
    if engine.stdout is None or not engine.stdout.readline():
        raise RuntimeError(f"{engine.args!r} ended before its first record")


def _report(engine: subprocess.Popen[str]) -> dict[str, float]:
    """What the engine's tally said at its end; RuntimeError when it ended without."""
    output, _ = engine.communicate()
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{engine.args!r} ended with code {engine.returncode} and without a report")
    report: dict[str, float] = json.loads(lines[-1])
    return report


def measure_all(bootstrap: str, plan: Plan, engines: Sequence[str]) -> dict[str, Figures]:
    """All runs of all engines, alternated; throughput first, since it sets the rates of the latency runs."""
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    workload.create_topic(bootstrap, topic)
    traffic = workload.Workload(end=datetime.now(UTC), seed=plan.seed, events=plan.events)
    workload.preload(bootstrap, topic, workload.generate(traffic))
    figures = {name: Figures() for name in engines}
    for _ in range(plan.runs):
        for name in engines:
            throughput(ENGINES[name], bootstrap, topic, plan, figures[name])
    workload.delete_topics(bootstrap, [topic])
    halves = {name: measure.Spread.of(figures[name].rates).median / 2 for name in engines}
    for run in range(plan.runs):
        for name in engines:
            rates = sorted(half for half in halves.values() if half <= halves[name])
            for rate in rates if plan.compare_rates else rates[-1:]:
                measured = latency(ENGINES[name], bootstrap, rate, plan, plan.seed + run)
                figures[name].latencies.setdefault(rate, []).append(measured)
    return figures


def report(figures: dict[str, Figures], plan: Plan) -> str:
    """The Markdown page: what was done, the tables, the bars."""
    rates = {name: measure.Spread.of(figure.rates) for name, figure in figures.items()}
    runs = "one run" if plan.runs == 1 else f"{plan.runs} alternated runs, median (range)"
    throughputs = [
        [name, rates[name].show(), measure.Spread.of(one.cpu_us).show(1), _finished(one, plan)]
        for name, one in figures.items()
    ]
    latencies = [
        [name, f"{rate:,.0f}", *(measure.Spread.of(values).show(1) for values in zip(*runs, strict=True))]
        for name, figure in figures.items()
        for rate, runs in figure.latencies.items()
    ]
    backlog = f"Backlog of {plan.events:,} events in {workload.PARTITIONS} partitions, seed {plan.seed}, {runs}."
    sections = [
        "# Engine: from Kafka to an agent that only acks",
        f"{backlog} {measure.machine()}.",
        measure.markdown_table(["engine", "events/s", "CPU µs an event", "whole backlog"], throughputs),
        "CPU is that of the engine's process, all its threads; broker and producer are not in it.",
        LATENCY_NOTE,
        measure.markdown_table(["engine", "events/s sent", "p50", "p99", "p99.9", "producer late p99"], latencies),
    ]
    if {STOCK, QUIX, OURS} <= figures.keys():
        ours, stock, quix = (rates[name].median for name in (OURS, STOCK, QUIX))
        sections.append(f"Ours ÷ stock Faust: {ours / stock:.1f} (bar 15). Ours ÷ Quix: {ours / quix:.2f} (bar 1.5).")
    return "\n\n".join(sections)


def _finished(figures: Figures, plan: Plan) -> str:
    return "yes" if all(figures.finished) else f"stopped after {plan.limit_seconds:.0f} s"


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    services.add_arguments(parser)
    parser.add_argument("--engines", nargs="*", choices=sorted(ENGINES), default=list(ENGINES))
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    with services.broker(options.kafka) as bootstrap:
        figures = measure_all(bootstrap, plan, options.engines)
    measure.publish("engine-quick" if options.quick else "engine", report(figures, plan))


if __name__ == "__main__":
    main()
