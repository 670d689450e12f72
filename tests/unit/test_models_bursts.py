"""Bursts: anomalies that come packed together blind one short memory, and not the models together."""

from dataclasses import replace
from typing import Any

import numpy as np
from river.anomaly import HalfSpaceTrees

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, squash, together
from detectors.models_gate import auc
from detectors.models_learned import ModelParams
from detectors.models_learner import LabelRow, Learner, LearnerParams
from tests.unit.model_rows import FREE
from tests.unit.model_streams import Stream, packed, spread

WINDOW = 20
"""A window that one burst fills twice, as bursts of real data fill River's 250."""
ROWS, ODD, CALM, BLOCK = 4_000, 200, 1_000, 100
PARAMS = LearnerParams(
    models=ModelParams(trees=10, window_rows=WINDOW, cuts=30),
    influence=FREE,
    block_rows=BLOCK,
    grace_rows=0,
    hold_out_every=ROWS,
)


def ensemble(stream: Stream) -> Floats:
    """What the models together say of each row before any of its block is learned; nobody ever labels anything."""
    learner, found = Learner(PARAMS), []
    for first in range(0, ROWS, BLOCK):
        rows = stream.inputs[first : first + BLOCK]
        found.append(together(learner.snapshot(1).numbers(rows, ["p"] * BLOCK)))
        for place, row in enumerate(rows, first + 1):
            learner.learn(LabelRow(place, 0, "p", f"a{place}", None, row))
    return np.concatenate(found)


def stock(stream: Stream) -> Floats:
    """River's HalfSpaceTrees as they come, row by row."""
    model: Any = HalfSpaceTrees(seed=1, window_size=WINDOW)
    scores = []
    for row in squash(stream.inputs).tolist():
        event = dict(zip(INPUT_NAMES, row, strict=True))
        scores.append(model.score_one(event))
        model.learn_one(event)
    return np.array(scores)


def test_five_bursts_cost_the_models_together_at_most_a_twentieth() -> None:
    """Packed into bursts the same anomalies rank as high as before, where stock HalfSpaceTrees fall below chance."""
    found = {}
    for name, stream in (("spread", spread(1, ROWS, ODD, CALM)), ("packed", packed(1, ROWS, ODD, CALM))):
        late = slice(CALM, None)
        found[name] = [auc(scores(stream)[late], stream.strange[late]) for scores in (ensemble, stock)]
    (ours, stocks), (ours_packed, stocks_packed) = found["spread"], found["packed"]
    assert ours > 0.95
    assert stocks > 0.9
    assert ours - ours_packed <= 0.05
    assert stocks_packed < 0.5


def test_the_params_of_this_test_learn_everything() -> None:
    """No bound and no hold-out spares the models the bursts: what withstands is their memory."""
    learner = Learner(replace(PARAMS, block_rows=1))
    taken = [
        learner.learn(LabelRow(seq, 0, "p", "one", b"d", row))
        for seq, row in enumerate(packed(1, 50, 10, 10, 2).inputs, 1)
    ]
    assert all(taken)
