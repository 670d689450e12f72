"""Prequential runs: every row is scored by models that have learned the rows before it, and labels when they are known.

Models score in steps, as workers do between two snapshots: often at first, then every STEP rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from river.anomaly import HalfSpaceTrees

from bench.quality_data import Integers
from detectors.layout import Floats
from detectors.models_forest import ForestParams, LabelForest
from detectors.models_isolation import IsolationForest, IsolationParams
from detectors.models_reservoir import Reservoir
from detectors.models_tails import Side, Tails, TailsParams

STEP = 500
TOGETHER = "tails + isolation"
UNSUPERVISED = ("tails", "isolation", TOGETHER)
_SHARES_KEPT, _HORIZON = 16_384, 1_000_000


def steps(rows: int) -> list[tuple[int, int]]:
    """The parts of a stream that are scored with one snapshot: first and last row, exclusive."""
    ends = [end for end in (32, 64, 128, 256, *range(STEP, rows, STEP)) if end < rows]
    return list(zip([0, *ends], [*ends, rows], strict=True))


def without_labels(inputs: Floats, sides: Sequence[Side], seed: int, scored_from: int = 0) -> dict[str, Floats]:
    """Scores of the unsupervised models, float64[n] each, and of both together: scored, then learned.

    Rows before `scored_from` are learned only, which changes nothing but the time it takes; their scores are 0.
    """
    tails, isolation = (
        Tails(sides, TailsParams(seed=seed)),
        IsolationForest(len(sides), IsolationParams(seed=seed)),
    )
    found = {name: np.zeros(len(inputs)) for name in ("tails", "isolation")}
    for first, last in steps(len(inputs)):
        rows = inputs[first:last]
        if last > scored_from:
            found["tails"][first:last] = tails.compile().score(rows)
            found["isolation"][first:last] = isolation.compile().score(rows)
        tails.learn(rows)
        isolation.learn(rows)
    found[TOGETHER] = np.zeros(len(inputs))
    found[TOGETHER][scored_from:] = sum(rarity(found[name][scored_from:], seed) for name in ("tails", "isolation"))
    return found


def rarity(scores: Floats, seed: int) -> Floats:
    """-log of the share of earlier rows that score at least as high, against a long-memory sample of them.

    This puts models on one scale, as the calibration of workers does.
    """
    earlier, found = Reservoir(_SHARES_KEPT, 1, _HORIZON, seed), np.zeros(len(scores))
    for first, last in steps(len(scores)):
        ranked = np.sort(earlier.rows[:, 0])
        lower = np.searchsorted(ranked, scores[first:last], "left")
        found[first:last] = -np.log((len(ranked) - lower + 1.0) / (len(ranked) + 1.0))
        earlier.add(scores[first:last, None])
    return found


def stock_trees(inputs: Floats, seed: int) -> Floats:
    """River's HalfSpaceTrees as they come (10 trees of height 8, window 250) on inputs scaled to [0, 1] so far seen."""
    model: Any = HalfSpaceTrees(seed=seed)
    names, scores = range(inputs.shape[1]), np.zeros(len(inputs))
    low, high = np.minimum.accumulate(inputs), np.maximum.accumulate(inputs)
    scaled = (inputs - low) / np.where(high > low, high - low, 1.0)
    for row, values in enumerate(scaled.tolist()):
        given = dict(zip(names, values, strict=True))
        scores[row] = model.score_one(given)
        model.learn_one(given)
    return scores


def with_labels(
    inputs: Floats, fraud: Integers, known: Integers, wanted: tuple[int, int], params: ForestParams
) -> Floats:
    """Scores of rows wanted[0] to wanted[1] by the forest that learns labels as they come, float64[that many].

    `fraud` int64[n] is 1, 0 or -1 (never labelled); `known` int64[n], ascending, is how many rows have their label by
    the time each row is scored.
    """
    forest, first = LabelForest(inputs.shape[1], params), 0
    scores = np.zeros(wanted[1] - wanted[0])
    parts = [part for part in steps(len(inputs)) if part[0] < wanted[1]]
    for start, end in parts:
        last = int(known[start])
        rows = first + np.flatnonzero(fraud[first:last] >= 0)
        forest.learn(inputs[rows], fraud[rows])
        first = max(first, last)
        if end > wanted[0]:
            part = slice(max(start, wanted[0]), min(end, wanted[1]))
            scores[part.start - wanted[0] : part.stop - wanted[0]] = forest.compile().score(inputs[part])
    return scores


def packed(anomaly: Integers, bursts: int, seed: int) -> Integers:
    """An order of rows in which honest ones are shuffled and anomalies come packed in `bursts` at random places."""
    rng = np.random.default_rng(seed)
    honest, strange = rng.permutation(np.flatnonzero(anomaly == 0)), rng.permutation(np.flatnonzero(anomaly != 0))
    places = np.sort(rng.choice(np.arange(len(honest) // 20, len(honest)), bursts, replace=False))
    between = zip(np.split(honest, places), [*np.array_split(strange, bursts), strange[:0]], strict=True)
    return np.concatenate([part for pair in between for part in pair])
