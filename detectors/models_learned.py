"""The models while they learn, as the trainer holds them: River's HalfSpaceTrees and LODA, and forests of our own.

`BUILD` is the list: a line a model, beside that of `models_registry.COMPILED`. Each adapter gives its model the
contract of `models.Learned`: rows in blocks, the whole state as arrays, and the same state again from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.anomaly import LODA, HalfSpaceTrees
from river.sketch.histogram import Bin

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, WIDE, Arrays, Learned
from detectors.models_forest import ForestParams, LabelForest
from detectors.models_hst import CompiledHst, compile_hst
from detectors.models_isolation import IsolationForest, IsolationParams
from detectors.models_loda import CompiledLoda, compile_loda
from detectors.models_norm import CompiledNorm, compile_norm
from detectors.models_registry import nested, part
from detectors.models_reservoir import Reservoir
from detectors.models_tails import CompiledTails, Side, Tails, TailsParams
from detectors.models_trees import CompiledTrees
from detectors.policy import ModelName

Truths = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """The shapes of all models; a change makes other models, so it goes into the digest of the state.

    `warm_rows` is how many good rows LODA and the accounts' norm see before they say anything; HalfSpaceTrees are
    silent for their first window.
    """

    seed: int = 1
    trees: int = 25
    height: int = 8
    window_rows: int = 500
    cuts: int = 60
    bins: int = 12
    warm_rows: int = 500
    isolation: IsolationParams = field(default_factory=lambda: IsolationParams(trees=64))
    tails: TailsParams = field(default_factory=TailsParams)
    forest: ForestParams = field(default_factory=ForestParams)


class LearnedHst:
    """River's HalfSpaceTrees: a short memory, quick to follow and easily blinded."""

    def __init__(self, params: ModelParams) -> None:
        # Any: River's methods have no types.
        self.river: Any = HalfSpaceTrees(
            n_trees=params.trees, height=params.height, window_size=params.window_rows, seed=params.seed
        )
        self._rows, self._window_rows = 0, params.window_rows
        self._compiled: tuple[int, CompiledHst] | None = None

    @property
    def ready(self) -> bool:
        """As `Learned.ready`: once the first window is full."""
        return not self.river._first_window  # noqa: SLF001  # River has no public name for it, and is pinned exactly

    def learn(self, inputs: Floats, fraud: Truths) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        for row in inputs[~fraud].tolist():
            self.river.learn_one(dict(zip(INPUT_NAMES, row, strict=True)))
        self._rows += int((~fraud).sum())

    def compile(self) -> CompiledHst:
        """As `Learned.compile`. What it scores by changes once a window, so it is worked out once a window."""
        window = self._rows // self._window_rows if self._rows else -1
        if self._compiled is None or self._compiled[0] != window:
            self._compiled = window, compile_hst(self.river, INPUT_NAMES)
        return self._compiled[1]

    def export(self) -> Arrays:
        """As `Learned.export`: the masses; the trees themselves grow again from the seed."""
        masses = [[(node.l_mass, node.r_mass) for node in nodes] for nodes in self._nodes()]
        splits = [[node.threshold for node in nodes if hasattr(node, "threshold")] for nodes in self._nodes()]
        return {
            "counters": np.array([self.river.counter, not self.ready, self._rows], dtype=np.int64),
            "masses": np.array(masses, dtype=np.int64),
            "splits": np.array(splits, dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        counter, first_window, self._rows = arrays["counters"].tolist()
        self._compiled = None
        if len(arrays["masses"]):
            self.river.learn_one(dict.fromkeys(INPUT_NAMES, 0.0))
            if not np.array_equal(self.export()["splits"], arrays["splits"]):
                raise ValueError("the trees that grow from this seed are others than those of the stored state")
            for nodes, masses in zip(self._nodes(), arrays["masses"].tolist(), strict=True):
                for node, (left, right) in zip(nodes, masses, strict=True):
                    node.l_mass, node.r_mass = left, right
        self.river.counter, self.river._first_window = counter, bool(first_window)  # noqa: SLF001  # as above

    def _nodes(self) -> Any:
        # River makes the list with the trees, at the first row.
        return self.river._tree_nodes if self.river.trees else []  # noqa: SLF001  # as above


class LearnedLoda:
    """River's LODA: it never forgets."""

    def __init__(self, params: ModelParams) -> None:
        self._warm_rows = params.warm_rows
        # Any: River's methods have no types.
        self.river: Any = LODA(n_bins=params.bins, n_random_cuts=params.cuts, seed=params.seed)

    @property
    def ready(self) -> bool:
        """As `Learned.ready`."""
        histograms = self.river.histograms_
        return bool(histograms) and histograms[0].n >= self._warm_rows

    def learn(self, inputs: Floats, fraud: Truths) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        for row in inputs[~fraud].tolist():
            self.river.learn_one(dict(zip(INPUT_NAMES, row, strict=True)))

    def compile(self) -> CompiledLoda:
        """As `Learned.compile`."""
        return compile_loda(self.river, INPUT_NAMES)

    def export(self) -> Arrays:
        """As `Learned.export`: the histograms; the cuts are drawn again from the seed."""
        histograms = self.river.histograms_
        bins = [(each.left, each.right, each.count) for histogram in histograms for each in histogram.data]
        return {
            "rows": np.array([histogram.n for histogram in histograms], dtype=np.int64),
            "filled": np.array([len(histogram.data) for histogram in histograms], dtype=np.int64),
            "bins": np.array(bins, dtype=np.float64).reshape(-1, 3),
            "weights": np.array([list(each.values()) for each in self.river.projections_], dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        if not len(arrays["rows"]):
            return
        self.river.learn_one(dict.fromkeys(INPUT_NAMES, 0.0))
        if not np.array_equal(self.export()["weights"], arrays["weights"]):
            raise ValueError("the cuts that are drawn from this seed are others than those of the stored state")
        bins = iter(arrays["bins"].tolist())
        for histogram, rows, filled in zip(
            self.river.histograms_, arrays["rows"].tolist(), arrays["filled"].tolist(), strict=True
        ):
            histogram.n = rows
            histogram.data = [
                Bin(left, right, int(count))  # type: ignore[no-untyped-call]  # River's
                for left, right, count in islice(bins, filled)
            ]


class LearnedNorm:
    """The model of the account's own norm: the norms are learned elsewhere, here only when it begins to speak."""

    def __init__(self, params: ModelParams) -> None:
        self._warm_rows, self._seen = params.warm_rows, 0

    @property
    def ready(self) -> bool:
        """As `Learned.ready`."""
        return self._seen >= self._warm_rows

    def learn(self, inputs: Floats, fraud: Truths) -> None:  # noqa: ARG002  # the contract of all models
        """As `Learned.learn`."""
        self._seen += int((~fraud).sum())

    def compile(self) -> CompiledNorm:
        """As `Learned.compile`."""
        return compile_norm()

    def export(self) -> Arrays:
        """As `Learned.export`."""
        return {"seen": np.array([self._seen], dtype=np.int64)}

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        self._seen = int(arrays["seen"][0])


class LearnedIsolation:
    """The isolation forest: a long memory that bursts fill only by their share of the whole stream."""

    def __init__(self, params: ModelParams) -> None:
        self._model = IsolationForest(WIDE, params.isolation)

    @property
    def ready(self) -> bool:
        """As `Learned.ready`."""
        return self._model.ready

    def learn(self, inputs: Floats, fraud: Truths) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        self._model.learn(inputs[~fraud])

    def compile(self) -> CompiledTrees:
        """As `Learned.compile`."""
        return self._model.compile()

    def export(self) -> Arrays:
        """As `Learned.export`."""
        return {
            "counts": np.array([self._model.learned, self._model.grown], dtype=np.int64),
            **_trees_of(self._model._trees),  # noqa: SLF001  # its state is taken apart here and nowhere else
            **_rows_of("held", self._model._reservoir),  # noqa: SLF001  # as above
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        self._model.learned, self._model.grown = arrays["counts"].tolist()
        _take_trees(self._model._trees, arrays)  # noqa: SLF001  # as above
        _take_rows("held", self._model._reservoir, arrays)  # noqa: SLF001  # as above


# Of counts and amounts only much is suspicious; of times since and hours of the day both ends are.
_SIDES: list[Side] = ["both" if "seconds" in name or "hour" in name else "high" for name in INPUT_NAMES]


class LearnedTails:
    """How far out each input lies, by a long memory."""

    def __init__(self, params: ModelParams) -> None:
        self._model = Tails(_SIDES, params.tails)

    @property
    def ready(self) -> bool:
        """As `Learned.ready`."""
        return self._model.ready

    def learn(self, inputs: Floats, fraud: Truths) -> None:
        """As `Learned.learn`; fraud teaches nothing."""
        self._model.learn(inputs[~fraud])

    def compile(self) -> CompiledTails:
        """As `Learned.compile`."""
        return self._model.compile()

    def export(self) -> Arrays:
        """As `Learned.export`."""
        return _rows_of("held", self._model._reservoir)  # noqa: SLF001  # as for the isolation forest

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        _take_rows("held", self._model._reservoir, arrays)  # noqa: SLF001  # as for the isolation forest


class LearnedForest:
    """The supervised forest: learns from fraud and good rows alike."""

    def __init__(self, params: ModelParams) -> None:
        self._model = LabelForest(WIDE, params.forest)

    @property
    def ready(self) -> bool:
        """As `Learned.ready`."""
        return self._model.ready

    def learn(self, inputs: Floats, fraud: Truths) -> None:
        """As `Learned.learn`."""
        self._model.learn(inputs, fraud.astype(np.int64))

    def compile(self) -> CompiledTrees:
        """As `Learned.compile`."""
        return self._model.compile()

    def export(self) -> Arrays:
        """As `Learned.export`."""
        return {
            "counts": np.array([self._model.learned, self._model.grown], dtype=np.int64),
            **_trees_of(self._model._trees),  # noqa: SLF001  # as for the isolation forest
            **_rows_of("fraud", self._model._fraud),  # noqa: SLF001  # as for the isolation forest
            **_rows_of("honest", self._model._honest),  # noqa: SLF001  # as for the isolation forest
        }

    def restore(self, arrays: Arrays) -> None:
        """As `Learned.restore`."""
        self._model.learned, self._model.grown = arrays["counts"].tolist()
        _take_trees(self._model._trees, arrays)  # noqa: SLF001  # as for the isolation forest
        _take_rows("fraud", self._model._fraud, arrays)  # noqa: SLF001  # as for the isolation forest
        _take_rows("honest", self._model._honest, arrays)  # noqa: SLF001  # as for the isolation forest


def _rows_of(name: str, reservoir: Reservoir) -> Arrays:
    rows = {"seen": np.array([reservoir.seen], dtype=np.int64), "rows": reservoir.rows.copy()}
    return nested({name: rows})


def _take_rows(name: str, reservoir: Reservoir, arrays: Arrays) -> None:
    stored = part(arrays, name)
    reservoir.seen = int(stored["seen"][0])
    reservoir.rows[:] = stored["rows"]


def _trees_of(trees: CompiledTrees) -> Arrays:
    return {"feature": trees.feature.copy(), "threshold": trees.threshold.copy(), "leaf": trees.leaf.copy()}


def _take_trees(trees: CompiledTrees, arrays: Arrays) -> None:
    for into, name in ((trees.feature, "feature"), (trees.threshold, "threshold"), (trees.leaf, "leaf")):
        into[:] = arrays[name]


BUILD: Mapping[ModelName, Callable[[ModelParams], Learned]] = {
    "hst": LearnedHst,
    "loda": LearnedLoda,
    "isolation": LearnedIsolation,
    "tails": LearnedTails,
    "norm": LearnedNorm,
    "forest": LearnedForest,
}


def build(params: ModelParams) -> dict[ModelName, Learned]:
    """Every model, before its first row."""
    return {name: make(params) for name, make in BUILD.items()}
