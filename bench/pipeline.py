"""How fast whole pipelines are, ledger commit included: PointGuard against programs that do the same in other ways.

Every run has its own copy of an empty database, an emptied Valkey and a new consumer group; the programs alternate. A
program is done when the database says so: another connection sees the rows. Clock and CPU count begin with the first
commit that is seen, so that no start-up is in them. Latency comes from an open-loop producer, at half of the program's
own throughput and, with `--compare`, at half of that of each slower program, too.
"""

import argparse
import json
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from alerts.metrics import PREFIX, STAGE
from bench import floor, measure, pipeline_report, programs, services, setting, workload
from bench.programs import Program
from bench.stack import Site, Stack, engine_for, stack
from bench.watch import Watch, outcomes

START_SECONDS: Final = 90.0
SPARE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: backlog, time limit of a throughput run, length of a latency run, number of runs, seed.

    `compare_rates` adds latency runs at the rates of the slower programs; `warm_up_seconds` of each are left out.
    """

    events: int = 200_000
    limit_seconds: float = 45.0
    latency_seconds: float = 12.0
    runs: int = 5
    seed: int = 7
    warm_up_seconds: float = 3.0
    compare_rates: bool = False


QUICK: Final = Plan(events=20_000, limit_seconds=15.0, latency_seconds=3.0, runs=1, warm_up_seconds=1.0)


@dataclass(slots=True)
class Figures:
    """What was measured of one program, one entry a run: CPU in µs an event by process group, latency in ms by rate."""

    events: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_us: list[Mapping[str, float]] = field(default_factory=list)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, float] = field(default_factory=dict)
    latencies: dict[float, list[tuple[float, ...]]] = field(default_factory=dict)


class Failed(RuntimeError):
    """A program did not commit anything; the message has the end of what it said."""


def throughput(program: Program, services_: Stack, topic: str, plan: Plan, figures: Figures) -> None:
    """One run over the backlog (or the program's share of it)."""
    target = int(plan.events * program.share)
    with services_.site() as site, engine_for(site.database_url).connect() as conn:
        watch = Watch(conn, program.progress, topic)
        process = program.start(site, topic)
        try:
            first = _first_commit(watch, process, site)
            begun, before = time.monotonic(), _cpu(services_, process)
            done = watch.until(lambda done: done >= target, begun + plan.limit_seconds, LOOK_SECONDS)
            seconds, after = time.monotonic() - begun, _cpu(services_, process)
            stages = _stages(site) if program is programs.OURS else {}
        finally:
            _stop(process)
        figures.outcomes = outcomes(conn, program.outcomes)
        if program is programs.FLOOR:
            figures.steps = json.loads((site.data_dir / floor.PROFILE).read_text(encoding="utf-8"))
    count = done - first
    figures.events.append(count)
    figures.rates.append(count / seconds)
    figures.cpu_us.append({name: (after[name] - before[name]) / count * 1e6 for name in after})
    figures.stages = stages or figures.stages


def latency(program: Program, services_: Stack, rate: float, plan: Plan, seed: int) -> tuple[float, ...]:
    """One open-loop run at `rate` on a new topic: p50, p99, p99.9, and how late the producer itself was (p99)."""
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    prime = _prime(seed)
    workload.create_topic(services_.urls.kafka, topic)
    workload.preload(services_.urls.kafka, topic, prime)
    events = max(int(rate * plan.latency_seconds), 100)
    with services_.site() as site, engine_for(site.database_url).connect() as conn:
        watch = Watch(conn, program.progress, topic)
        process = program.start(site, topic)
        try:
            _first_commit(watch, process, site)
            watch.until(lambda done: done >= len(prime), time.monotonic() + START_SECONDS, LOOK_SECONDS)
            schedule = site.data_dir / "schedule.npz"
            producer = services.start_load(services.Load(site.bootstrap, topic, rate, events, events, seed, schedule))
            deadline = time.monotonic() + events / rate + SPARE_SECONDS
            watch.until(lambda done: done >= len(prime) + events, deadline, LOOK_SECONDS)
            late = services.lateness_ms(producer)
        finally:
            _stop(process)
        with np.load(schedule) as times:
            marks = np.array(watch.marks, dtype=np.int64)
            first_offsets = dict.fromkeys(range(workload.PARTITIONS), 1)
            values = measure.latencies_ms(dict(times), marks, first_offsets, plan.warm_up_seconds)
    workload.delete_topics(services_.urls.kafka, [topic])
    return *measure.percentiles(values), late


def _prime(seed: int) -> list[workload.Record]:
    """One event a partition, whose commit shows that the program is up and reads."""
    records = workload.generate(workload.Workload(end=datetime.now(UTC), seed=seed, events=200, tag="prime"))
    return [next(record for record in records if record.partition == part) for part in range(workload.PARTITIONS)]


def _first_commit(watch: Watch, process: "subprocess.Popen[bytes]", site: Site) -> int:
    """Wait for the first rows; what was done by then."""
    deadline = time.monotonic() + START_SECONDS
    done = watch.until(lambda done: done > 0 or process.poll() is not None, deadline, LOOK_SECONDS)
    if not done:
        said = (site.data_dir / "log").read_text(errors="replace")[-2000:]
        raise Failed(f"{process.args!r} committed nothing; it said:\n{said}")
    return done


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cpu(services_: Stack, process: "subprocess.Popen[bytes]") -> dict[str, float]:
    return {"program": measure.tree_cpu_seconds(process.pid), **services_.cpu_seconds()}


def _stages(site: Site) -> dict[str, float]:
    """Seconds the worker spent in each stage, from its own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            sample.labels["stage"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"{PREFIX}{STAGE.name}_sum"
        }


def measure_all(services_: Stack, plan: Plan, chosen: Sequence[Program]) -> dict[str, Figures]:
    """All runs of all programs, alternated; throughput first, since it sets the rates of the latency runs."""
    setting.prepare(services_, plan.seed)
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    workload.create_topic(services_.urls.kafka, topic)
    traffic = workload.Workload(end=datetime.now(UTC), seed=plan.seed, events=plan.events)
    workload.preload(services_.urls.kafka, topic, workload.generate(traffic))
    figures = {program.name: Figures() for program in chosen}
    for _ in range(plan.runs):
        for program in chosen:
            throughput(program, services_, topic, plan, figures[program.name])
    halves = {program.name: measure.Spread.of(figures[program.name].rates).median / 2 for program in chosen}
    streaming = [program for program in chosen if program.streams]
    for run in range(plan.runs):
        for program in streaming:
            own = halves[program.name]
            rates = sorted(halves[other.name] for other in streaming if halves[other.name] <= own)
            for rate in rates if plan.compare_rates else [own]:
                measured = latency(program, services_, rate, plan, plan.seed + 1 + run)
                figures[program.name].latencies.setdefault(rate, []).append(measured)
    return figures


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 events, one run: shows that it works, no figures")
    parser.add_argument("--compare", action="store_true", help="also latency at the rates of slower programs (longer)")
    parser.add_argument("--only", nargs="*", help="modules of the programs to run", default=None)
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan(compare_rates=options.compare)
    chosen = [one for one in programs.PROGRAMS if options.only is None or one.module.split(".")[-1] in options.only]
    with stack() as running:
        durability = running.durability()
        figures = measure_all(running, plan, chosen)
    facts = pipeline_report.Facts(plan.events, plan.seed, plan.runs, plan.warm_up_seconds, durability)
    page = pipeline_report.page(figures, chosen, facts)
    measure.publish("pipeline-quick" if options.quick else "pipeline", page)


if __name__ == "__main__":
    main()
