"""The models while they learn, each River's own around which state and scores become arrays; the trainer's alone.

`BUILD` is the list: a line a model, beside that of `models_registry.COMPILED`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from river.anomaly import LODA, HalfSpaceTrees
from river.linear_model import LogisticRegression
from river.optim import SGD
from river.sketch.histogram import Bin
from river.utils import VectorDict

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, WIDE, Arrays, Learned
from detectors.models_hst import CompiledHst, compile_hst
from detectors.models_loda import CompiledLoda, compile_loda
from detectors.models_supervised import NAMES, CompiledSupervised, bend
from detectors.policy import ModelName


@dataclass(frozen=True)
class HstShape:
    """How many trees of which height, over how many rows, and which part of the rows they read (one in `every`)."""

    trees: int
    height: int
    window_rows: int
    every: int = 1


@dataclass(frozen=True)
class SupervisedShape:
    """The step a row makes, how fast weights fade, the largest gradient, the largest weight of the rarer class.

    Silent until it has seen `frauds_min` rows of fraud and as many good ones.
    """

    step: float = 0.05
    fade: float = 1e-5
    clip: float = 5.0
    balance_max: float = 50.0
    frauds_min: int = 30


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """The shapes of all models; a change makes other models, so it goes into the digest of the state.

    `far_every` is how many times further back the second half-space trees look.
    """

    seed: int = 1
    trees: int = 25
    height: int = 8
    window_rows: int = 500
    far_every: int = 8
    cuts: int = 60
    bins: int = 12
    supervised: SupervisedShape = field(default_factory=SupervisedShape)


class LearnedHst:
    """River's HalfSpaceTrees while they learn, from one good row in `every`.

    Reading every k-th row makes a window of the same size reach back k times as far: a memory that a burst fills only
    to a k-th part, at a k-th of the cost.
    """

    def __init__(self, shape: HstShape, seed: int) -> None:
        self._every = shape.every
        self._seen = 0
        # Any: River's methods have no types.
        self._model: Any = HalfSpaceTrees(
            n_trees=shape.trees, height=shape.height, window_size=shape.window_rows, seed=seed
        )

    def score(self, inputs: Floats) -> float:
        """As `Learned.score`: unknown until the first window is full, where River says 0."""
        if self._model._first_window:  # noqa: SLF001  # River has no public name for it, and is pinned exactly
            return math.nan
        return float(self._model.score_one(_named(inputs)))

    def learn(self, inputs: Floats, *, fraud: bool) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        if fraud:
            return
        if self._seen % self._every == 0:
            self._model.learn_one(_named(inputs))
        self._seen += 1

    def compile(self) -> CompiledHst:
        """As `Learned.compile`."""
        return compile_hst(self._model, INPUT_NAMES)

    def export(self) -> Arrays:
        """As `Learned.export`: the masses; the trees themselves grow again from the seed."""
        masses = [[(node.l_mass, node.r_mass) for node in nodes] for nodes in self._nodes()]
        splits = [[node.threshold for node in nodes if hasattr(node, "threshold")] for nodes in self._nodes()]
        return {
            "counters": np.array([self._seen, self._model.counter, self._model._first_window], dtype=np.int64),  # noqa: SLF001  # as above
            "masses": np.array(masses, dtype=np.int64),
            "splits": np.array(splits, dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        self._seen, counter, first_window = arrays["counters"].tolist()
        if len(arrays["masses"]):
            self._model.learn_one(dict.fromkeys(INPUT_NAMES, 0.0))
            if not np.array_equal(self.export()["splits"], arrays["splits"]):
                raise ValueError("the trees that grow from this seed are others than those of the stored state")
            for nodes, masses in zip(self._nodes(), arrays["masses"].tolist(), strict=True):
                for node, (left, right) in zip(nodes, masses, strict=True):
                    node.l_mass, node.r_mass = left, right
        self._model.counter, self._model._first_window = counter, bool(first_window)  # noqa: SLF001  # as above

    def _nodes(self) -> Any:
        # River makes the list with the trees, at the first row.
        return self._model._tree_nodes if self._model.trees else []  # noqa: SLF001  # as above


class LearnedLoda:
    """River's LODA while it learns, from good rows only; it never forgets. Silent for its first `warm_rows` rows."""

    def __init__(self, cuts: int, bins: int, warm_rows: int, seed: int) -> None:
        self._warm_rows = warm_rows
        # Any: River's methods have no types.
        self._model: Any = LODA(n_bins=bins, n_random_cuts=cuts, seed=seed)

    def score(self, inputs: Floats) -> float:
        """As `Learned.score`."""
        histograms = self._model.histograms_
        if not histograms or histograms[0].n < self._warm_rows:
            return math.nan
        return float(self._model.score_one(_named(inputs)))

    def learn(self, inputs: Floats, *, fraud: bool) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        if not fraud:
            self._model.learn_one(_named(inputs))

    def compile(self) -> CompiledLoda:
        """As `Learned.compile`."""
        return compile_loda(self._model, INPUT_NAMES)

    def export(self) -> Arrays:
        """As `Learned.export`: the histograms; the cuts are drawn again from the seed."""
        histograms = self._model.histograms_
        bins = [(each.left, each.right, each.count) for histogram in histograms for each in histogram.data]
        return {
            "rows": np.array([histogram.n for histogram in histograms], dtype=np.int64),
            "filled": np.array([len(histogram.data) for histogram in histograms], dtype=np.int64),
            "bins": np.array(bins, dtype=np.float64).reshape(-1, 3),
            "weights": np.array([list(each.values()) for each in self._model.projections_], dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        if not len(arrays["rows"]):
            return
        self._model.learn_one(dict.fromkeys(INPUT_NAMES, 0.0))
        if not np.array_equal(self.export()["weights"], arrays["weights"]):
            raise ValueError("the cuts that are drawn from this seed are others than those of the stored state")
        bins = iter(arrays["bins"].tolist())
        for histogram, rows, filled in zip(
            self._model.histograms_, arrays["rows"].tolist(), arrays["filled"].tolist(), strict=True
        ):
            histogram.n = rows
            histogram.data = [
                Bin(left, right, int(count))  # type: ignore[no-untyped-call]  # River's
                for left, right, count in islice(bins, filled)
            ]


class LearnedSupervised:
    """River's logistic regression while it learns, from both kinds. It begins at zero and draws nothing: no seed."""

    def __init__(self, shape: SupervisedShape) -> None:
        self._shape = shape
        self._rows = [0, 0]
        # Any: River's methods have no types.
        self._model: Any = LogisticRegression(
            optimizer=SGD(shape.step), l2=shape.fade, clip_gradient=shape.clip, intercept_lr=shape.step
        )

    @property
    def ready(self) -> bool:
        """Whether it has seen enough of both kinds to say anything."""
        return min(self._rows) >= self._shape.frauds_min

    def score(self, inputs: Floats) -> float:
        """As `Learned.score`."""
        if not self.ready:
            return math.nan
        return float(self._model.predict_proba_one(_bent(inputs))[True])

    def learn(self, inputs: Floats, *, fraud: bool) -> None:
        """As `Learned.learn`: a fraud weighs as many times more as it is rarer, at most `balance_max`."""
        self._rows[fraud] += 1
        good, bad = self._rows
        weight = min(self._shape.balance_max, max(1.0, good / max(1, bad))) if fraud else 1.0
        self._model.learn_one(_bent(inputs), fraud, w=weight)

    def compile(self) -> CompiledSupervised:
        """As `Learned.compile`."""
        weights: Mapping[str, float] = self._model.weights
        ordered = np.array([weights.get(name, 0.0) for name in NAMES])
        return CompiledSupervised(ordered, float(self._model.intercept), float(self.ready))

    def export(self) -> Arrays:
        """As `Learned.export`."""
        compiled = self.compile()
        return {
            "rows": np.array([*self._rows, self._model.optimizer.n_iterations], dtype=np.int64),
            "weights": np.append(compiled.weight, compiled.intercept),
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        good, bad, steps = arrays["rows"].tolist()
        *weights, intercept = arrays["weights"].tolist()
        self._rows = [good, bad]
        self._model.optimizer.n_iterations = steps
        self._model.intercept = intercept
        if steps:
            self._model._weights = VectorDict(dict(zip(NAMES, weights, strict=True)))  # noqa: SLF001  # River has no public way to set them, and is pinned exactly


def build(params: ModelParams) -> dict[ModelName, Learned]:
    """Every model, before its first row."""
    return {name: make(params) for name, make in BUILD.items()}


def _hst(params: ModelParams) -> Learned:
    return LearnedHst(HstShape(params.trees, params.height, params.window_rows), params.seed)


def _hst_far(params: ModelParams) -> Learned:
    shape = HstShape(params.trees, params.height, params.window_rows, params.far_every)
    return LearnedHst(shape, params.seed + 1)


def _loda(params: ModelParams) -> Learned:
    return LearnedLoda(params.cuts, params.bins, params.window_rows, params.seed)


def _supervised(params: ModelParams) -> Learned:
    return LearnedSupervised(params.supervised)


BUILD: Mapping[ModelName, Callable[[ModelParams], Learned]] = {
    "hst": _hst,
    "hst_far": _hst_far,
    "loda": _loda,
    "supervised": _supervised,
}


def _named(inputs: Floats) -> dict[str, float]:
    return dict(zip(INPUT_NAMES, inputs.tolist(), strict=True))


def _bent(inputs: Floats) -> dict[str, float]:
    return dict(zip(NAMES, bend(inputs.reshape(1, WIDE))[0].tolist(), strict=True))
