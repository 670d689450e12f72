"""What the models cost: a batch scored as arrays, River's own `score_one` beside it, and what the trainer pays.

    python -m bench.models [--quick]

CPU time of one process, so that a busy machine stretches nothing but the run. The events are made up from a seed, with
three kinds of honest members and one kind of fraud; the cost of a score does not depend on what they are.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bench.measure import Spread, machine, markdown_table, publish
from detectors.layout import Floats
from detectors.models import INPUT_NAMES, INPUTS, MODELS, WIDE, squash
from detectors.models_checkpoint import restore_state, seal_state
from detectors.models_gate import GateParams, judge
from detectors.models_learned import LearnedHst, LearnedLoda
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_snapshot import Snapshot, seal

BATCH: Final = 500
BUDGET_US: Final = 8.0
KEY: Final = b"a bench signs nothing of worth!!"
FRAUD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Size:
    """Rows learned before anything is measured, how often each figure is taken, and rows that River scores."""

    learned: int
    runs: int
    river_rows: int
    seed: int = 7


FULL: Final = Size(learned=12_000, runs=50, river_rows=500)
QUICK: Final = Size(learned=1_500, runs=5, river_rows=50)


def rows(seed: int, count: int) -> list[LabelRow]:
    """A label log: honest members of three kinds, and fraud far out in some inputs."""
    numbers = np.random.default_rng(seed)
    halves = np.array([each.half for each in INPUTS])
    centres = numbers.gamma(1.5, 1.0, (4, WIDE))
    centres[3, numbers.random(WIDE) < 0.4] *= 8
    fraud = numbers.random(count) < FRAUD
    kinds = np.where(fraud, 3, numbers.integers(0, 3, count))
    inputs = centres[kinds] * np.exp(numbers.normal(0, 0.35, (count, WIDE))) * halves
    return [
        LabelRow(seq, int(fraud[seq - 1]), "bench", f"m{seq % 5_000}", None, row) for seq, row in enumerate(inputs, 1)
    ]


def micros(work: Callable[[], object], events: int, runs: int) -> Spread:
    """CPU time an event, in µs, over several runs; the first, which warms up, does not count."""
    work()
    spent = []
    for _ in range(runs):
        started = time.process_time()
        work()
        spent.append((time.process_time() - started) / events * 1e6)
    return Spread.of(spent)


def river_micros(learner: Learner, squashed: Floats, runs: int) -> dict[str, Spread]:
    """River's own scores of the same models, row by row."""
    events = [dict(zip(INPUT_NAMES, row, strict=True)) for row in squashed.tolist()]
    found: dict[str, Spread] = {}
    for name, model in learner.models.items():
        if isinstance(model, LearnedHst | LearnedLoda):
            river = model.river
            found[name] = micros(lambda river=river: [river.score_one(event) for event in events], len(events), runs)  # type: ignore[misc]  # bound at once
    return found


def scoring(snapshot: Snapshot, learner: Learner, inputs: Floats, size: Size) -> str:
    """The table of what scoring costs."""
    squashed = squash(inputs)
    programs = ["bench"] * len(inputs)
    beside = river_micros(learner, squashed[: size.river_rows], max(3, size.runs // 10))
    table = []
    for name in MODELS:
        scorer = snapshot.scorers[name]
        batch = micros(lambda scorer=scorer: scorer.score(squashed), len(inputs), size.runs)  # type: ignore[misc]  # bound at once
        single = micros(lambda scorer=scorer: scorer.score(squashed[:1]), 1, size.runs)  # type: ignore[misc]  # bound at once
        river = beside[name].show(1) if name in beside else "–"
        table.append([name, batch.show(2), single.show(0), river])
    whole = micros(lambda: snapshot.numbers(inputs, programs), len(inputs), size.runs)
    single = micros(lambda: snapshot.numbers(inputs[:1], programs[:1]), 1, size.runs)
    table.append(["all, squashed and calibrated", whole.show(2), single.show(0), "–"])
    verdict = "within" if whole.median <= BUDGET_US else "over"
    return "\n".join(
        [
            markdown_table(["model", f"µs an event in batches of {BATCH}", "µs alone", "River's score_one, µs"], table),
            "",
            f"Budget: {BUDGET_US:g} µs an event in batches of {BATCH}: {verdict}. Median (range) of {size.runs} runs.",
        ]
    )


def learning(learner: Learner, size: Size, seconds: float) -> str:
    """The table of what the trainer pays."""
    snapshot = learner.snapshot(1)
    sealed, state = seal(snapshot, KEY, {}), seal_state(learner, KEY, {})
    kept, gate = learner.held_out(), GateParams()

    def resume() -> None:
        restore_state(Learner(learner.params), state, KEY, {})

    def millis(work: Callable[[], object]) -> str:
        spread = micros(work, 1_000, max(3, size.runs // 10))
        return spread.show(1)

    table = [
        [
            "learn a row, µs",
            f"{seconds / size.learned * 1e6:,.0f}",
            "scoring before learning, calibration and drift included",
        ],
        ["seal a snapshot, ms", millis(lambda: seal(snapshot, KEY, {})), f"{len(sealed.arrays) / 1024:,.0f} KiB"],
        [
            "judge it, ms",
            millis(lambda: judge(snapshot, snapshot, snapshot, kept, gate)),
            f"{len(kept.fraud):,} rows",
        ],
        ["seal a checkpoint, ms", millis(lambda: seal_state(learner, KEY, {})), f"{len(state.arrays) / 1024:,.0f} KiB"],
        ["resume from it, ms", millis(resume), "verified to the digest"],
    ]
    return markdown_table(["trainer", "CPU", "remark"], table)


def page(size: Size) -> str:
    """Learn, measure, and say with what."""
    params = LearnerParams()
    params = replace(params, models=replace(params.models, seed=size.seed))
    learner, log = Learner(params), rows(size.seed, size.learned)
    started = time.process_time()
    for row in log:
        learner.learn(row)
    seconds = time.process_time() - started
    inputs = np.array([row.inputs for row in rows(size.seed + 1, BATCH)])
    snapshot = replace(learner.snapshot(1), ready=True)
    return "\n".join(
        [
            "# Models",
            "",
            f"{machine()}; seed {size.seed}; {size.learned:,} labels learned before.",
            "",
            scoring(snapshot, learner, inputs, size),
            "",
            learning(learner, size, seconds),
        ]
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: shows that it works, no figures")
    size = QUICK if parser.parse_args().quick else FULL
    publish("models-quick" if size is QUICK else "models", page(size))


if __name__ == "__main__":
    main()
