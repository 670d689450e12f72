"""Made-up rows of a label log, the same for the same seed."""

from dataclasses import replace
from typing import Any

import numpy as np

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, WIDE
from detectors.models_forest import ForestParams
from detectors.models_influence import InfluenceShape
from detectors.models_isolation import IsolationParams
from detectors.models_learned import ModelParams
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_tails import TailsParams

SMALL = LearnerParams(
    models=ModelParams(
        trees=4,
        height=4,
        window_rows=40,
        cuts=8,
        warm_rows=40,
        isolation=IsolationParams(trees=5, height=4, sample_rows=32, reservoir_rows=200),
        tails=TailsParams(reservoir_rows=300, tail_knots=20, middle_knots=20),
        forest=ForestParams(
            trees=5, height=3, regrow_rows=40, fraud_rows=100, honest_rows=300, fraud_sample=50, honest_sample=100,
            labels_min=5,
        ),
    ),
    influence=InfluenceShape(rows=200, most=5),
    fraud_influence=InfluenceShape(rows=100, most=5),
    block_rows=10,
    grace_rows=100,
    frauds_min=5,
)  # fmt: skip
"""Models small enough for a test."""
FREE = InfluenceShape(most=10_000)
"""No bound that a test would meet."""


def unbounded(params: LearnerParams = SMALL, **changes: Any) -> LearnerParams:
    """The parameters without any bound of influence."""
    return replace(params, influence=FREE, fraud_influence=FREE, **changes)


def inputs(count: int, seed: int = 1, scale: float = 1.0) -> Floats:
    """float64[count, WIDE] of positive numbers."""
    return np.abs(np.random.default_rng(seed).normal(0, scale, (count, WIDE)))


def rows(count: int, seed: int = 1, first: int = 1) -> list[LabelRow]:
    """A log of harmless rows from seq `first` on, every account once, a third of them of programme q."""
    return [
        LabelRow(seq, 0, "p" if seq % 3 else "q", f"a{seq}", None, each)
        for seq, each in enumerate(inputs(count, seed), first)
    ]


def mixed(count: int, seed: int = 1, share: float = 0.1) -> list[LabelRow]:
    """A log with a share of fraud: many points, out of an account that signed up just now."""
    numbers = np.random.default_rng(seed)
    log = rows(count, seed)
    for position, fraud in enumerate(numbers.random(count) < share):
        if fraud:
            row = log[position]
            values = np.zeros(WIDE) if row.inputs is None else row.inputs.copy()
            values[INPUT_NAMES.index("event.points")] = 5_000.0
            values[INPUT_NAMES.index("account.seconds_since_signup")] = 60.0
            log[position] = replace(row, label=1, inputs=values)
    return log


def fold(log: list[LabelRow], params: LearnerParams = SMALL) -> Learner:
    """A learner after these rows."""
    learner = Learner(params)
    for row in log:
        learner.learn(row)
    return learner
