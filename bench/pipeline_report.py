"""The page of the pipeline benchmark: tables, ratios against the bars, the profile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench import measure, programs
from bench.programs import Program

if TYPE_CHECKING:
    from bench.pipeline import Figures

GROUPS: Final = ("program", "PostgreSQL", "Valkey", "Kafka")
CPU_NOTE: Final = """\
All programs do the same per event; (a) and (b2) get a part of the backlog only, because they are slow. CPU is what all
processes of a kind used between the first commit seen and the last, divided by the events committed between."""
LATENCY_NOTE: Final = """\
Latency in ms from the scheduled time of an event until another connection sees it committed (it looks every 5 ms), open
loop, first {warm_up:.0f} s left out. The last row of a program is at half of its own throughput, the others at that of
slower ones."""
BARS: Final = ((programs.NAIVE, 12.0), (programs.QUIX_STAGES, 1.0), (programs.QUIX_GUIDE, 1.0), (programs.FLOOR, 0.6))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says of how it was measured."""

    events: int
    seed: int
    runs: int
    warm_up_seconds: float
    durability: str


def page(figures: "Mapping[str, Figures]", chosen: Sequence[Program], facts: Facts) -> str:
    """The whole page as Markdown."""
    runs = "one run" if facts.runs == 1 else f"{facts.runs} alternated runs, median (range)"
    backlog = f"Backlog of {facts.events:,} events, seed {facts.seed}, {runs}. PostgreSQL with {facts.durability}."
    sections = [
        "# Pipeline: from Kafka to the ledger's commit",
        f"{backlog} All services, the producer and the program share one machine: {measure.machine()}.",
        _throughput(figures, chosen),
        CPU_NOTE,
        _ratios(figures),
        LATENCY_NOTE.format(warm_up=facts.warm_up_seconds),
        _latency(figures, chosen),
        "What the events came to, in per cent:",
        _outcomes(figures, chosen),
    ]
    ours, floor = figures.get(programs.OURS.name), figures.get(programs.FLOOR.name)
    if ours and ours.stages:
        sections += ["Where PointGuard's worker spends its time; neighbouring batches overlap:", _shares(ours.stages)]
    if floor and floor.steps:
        sections += ["The same step by step, as the floor runs it, one batch after the other:", _shares(floor.steps)]
    return "\n\n".join(section for section in sections if section)


def _throughput(figures: "Mapping[str, Figures]", chosen: Sequence[Program]) -> str:
    rows = []
    for program in chosen:
        figure = figures[program.name]
        cpu = [measure.Spread.of([run[group] for run in figure.cpu_us]) for group in GROUPS]
        total = measure.Spread.of([sum(run.values()) for run in figure.cpu_us])
        events = measure.Spread.of(figure.events).show()
        rows.append(
            [program.name, events, measure.Spread.of(figure.rates).show(), *(one.show() for one in cpu), total.show()]
        )
    header = ["program", "events", "events/s", *(f"µs {group}" for group in GROUPS), "µs all"]
    return measure.markdown_table(header, rows)


def _ratios(figures: "Mapping[str, Figures]") -> str:
    ours = figures.get(programs.OURS.name)
    if ours is None:
        return ""
    rate = measure.Spread.of(ours.rates).median
    rows = [
        [program.name, f"{rate / measure.Spread.of(figures[program.name].rates).median:.2f}", f"{bar:.1f}"]
        for program, bar in BARS
        if program.name in figures
    ]
    return measure.markdown_table(["PointGuard ÷", "measured", "bar"], rows)


def _latency(figures: "Mapping[str, Figures]", chosen: Sequence[Program]) -> str:
    rows = [
        [program.name, f"{rate:,.0f}", *(measure.Spread.of(values).show(1) for values in zip(*runs, strict=True))]
        for program in chosen
        for rate, runs in figures[program.name].latencies.items()
    ]
    return measure.markdown_table(["program", "events/s sent", "p50", "p99", "p99.9", "producer late p99"], rows)


def _outcomes(figures: "Mapping[str, Figures]", chosen: Sequence[Program]) -> str:
    names = sorted({name for figure in figures.values() for name in figure.outcomes})
    rows = []
    for program in chosen:
        counts = figures[program.name].outcomes
        rows.append([program.name, *(f"{counts.get(name, 0) / sum(counts.values()):.1%}" for name in names)])
    return measure.markdown_table(["program", *names], rows)


def _shares(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    rows = [[name, f"{value:.2f}", f"{value / total:.0%}"] for name, value in seconds.items()]
    return measure.markdown_table(["step", "seconds", "share"], rows)
