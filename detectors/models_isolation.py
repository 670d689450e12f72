"""An isolation forest with a long memory: rows that few random cuts set apart are rare, and bursts can't become normal.

Liu, Ting and Zhou, "Isolation forest", 2008, made online: the trees are regrown in turn, each from a fresh sample of a
reservoir that holds all of the past alike. HalfSpaceTrees and other short windows forget what is normal when anomalies
come packed together; here a burst of anomalies has the weight of its share of the whole stream.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models_reservoir import Integers, Reservoir, checked, dice
from detectors.models_trees import CompiledTrees, blank_trees

_EULER = 0.5772156649015329


@dataclass(frozen=True, kw_only=True)
class IsolationParams:
    """What shapes a forest; a change makes another state.

    A tree isolates `sample_rows` rows out of the `reservoir_rows` held, which fade over `horizon_rows`. All trees are
    grown at `first_rows` learned and again whenever that number has doubled, until `sample_rows` x 4; from then on one
    tree in turn after every `regrow_rows` rows.
    """

    seed: int = 1
    trees: int = 100
    height: int = 8
    sample_rows: int = 256
    reservoir_rows: int = 8_192
    horizon_rows: int = 1_000_000
    first_rows: int = 32
    regrow_rows: int = 200


class IsolationForest:
    """The state of the fold over trusted rows. Not thread-safe; rows are learned in the order of the log."""

    def __init__(self, width: int, params: IsolationParams) -> None:
        self.params = params
        self.width = width
        self.learned = 0
        self.grown = 0
        self._reservoir = Reservoir(params.reservoir_rows, width, params.horizon_rows, params.seed)
        self._trees = blank_trees(params.trees, params.height)

    @property
    def ready(self) -> bool:
        """Whether its scores mean anything: trees have been grown."""
        return self.grown > 0

    def learn(self, inputs: Floats) -> None:
        """Take rows float64[n, width], in order; how they are cut into batches makes no difference."""
        checked(inputs, self.width)
        first = 0
        while first < len(inputs):
            due = self._due()
            last = min(len(inputs), first + due - self.learned)
            self._reservoir.add(inputs[first:last])
            self.learned += last - first
            first = last
            if self.learned == due:
                self._regrow()

    def compile(self) -> CompiledTrees:
        """The forest as it stands. Scores lie in [0, 1], higher for rarer; 0 for everything while not ready.

        1 less the mean depth, as a share of the greatest depth a tree can tell: the order of Liu's anomaly score.
        """
        trees = self._trees
        return CompiledTrees(trees.feature.copy(), trees.threshold.copy(), trees.leaf / self.params.trees)

    def state(self) -> bytes:
        """All that later scores depend on, as bytes for a digest."""
        head = repr((self.params, self.width)).encode() + struct.pack("<qq", self.learned, self.grown)
        trees = self._trees
        parts = (trees.feature.astype("<i2"), trees.threshold.astype("<f8"), trees.leaf.astype("<f8"))
        return head + self._reservoir.state() + b"".join(part.tobytes() for part in parts)

    def _due(self) -> int:
        """The number of rows learned at which trees are grown next."""
        params, due = self.params, self.params.first_rows
        while due <= self.learned and due < 4 * params.sample_rows:
            due *= 2
        return due if due > self.learned else (self.learned // params.regrow_rows + 1) * params.regrow_rows

    def _regrow(self) -> None:
        """One tree in turn, or all while the stream is young."""
        young = self.learned <= 4 * self.params.sample_rows
        turns = np.arange(self.grown, self.grown + (self.params.trees if young else 1))
        held, size = self._reservoir.rows, min(self.params.sample_rows, len(self._reservoir))
        # Of each tree a sample without replacement: the rows with the smallest draws.
        samples = [held[np.argpartition(self._draw(turn, 0, len(held)), size - 1)[:size]] for turn in turns.tolist()]
        at = turns % self.params.trees
        trees = self._trees
        trees.feature[at], trees.threshold[at], trees.leaf[at] = self._isolate(np.stack(samples), turns.tolist())
        self.grown += len(turns)

    def _isolate(self, samples: Floats, turns: list[int]) -> tuple[NDArray[np.int16], Floats, Floats]:
        """Trees for samples float64[trees, rows, width], all grown together: features, thresholds and leaves."""
        count, size, width = samples.shape
        height = self.params.height
        rows = samples.reshape(-1, width)
        tree = np.repeat(np.arange(count), size)
        node = np.zeros(len(rows), dtype=np.int64)
        depth = np.zeros((count, 1))
        features, thresholds = [], []
        for level in range(height):
            nodes = 2**level
            draws = np.stack([self._draw(turn, 1 + level, 2 * nodes) for turn in turns]).reshape(-1, 2)
            feature, threshold = _cuts(rows, tree * nodes + node, draws)
            depth = np.repeat(depth + np.isfinite(threshold).reshape(count, nodes), 2, axis=1)
            at = tree * nodes + node
            node = 2 * node + (rows[np.arange(len(rows)), feature[at]] >= threshold[at])
            features.append(feature.reshape(count, nodes))
            thresholds.append(threshold.reshape(count, nodes))
        held = np.bincount(tree * 2**height + node, minlength=count * 2**height).reshape(count, -1)
        most = height + _unsuccessful(np.array([size]))[0]
        leaf = 1.0 - (depth + _unsuccessful(held)) / most
        return np.concatenate(features, axis=1).astype(np.int16), np.concatenate(thresholds, axis=1), leaf

    def _draw(self, turn: int, level: int, count: int) -> Floats:
        return dice(self.params.seed, turn * (self.params.height + 1) + level + 1, 0, count)


def _cuts(rows: Floats, at: Integers, draws: Floats) -> tuple[Integers, Floats]:
    """A random feature that differs within the node, and a random place between its extremes; infinite if none does.

    `at` int64[n] is each row's node, `draws` float64[nodes, 2] decides.
    """
    order = np.argsort(at, kind="stable")
    held, first = np.unique(at[order], return_index=True)
    least = np.minimum.reduceat(rows[order], first, axis=0)
    most = np.maximum.reduceat(rows[order], first, axis=0)
    differs = most > least
    pick = np.floor(draws[held, 0] * differs.sum(axis=1)).astype(np.int64)
    which = (differs.cumsum(axis=1) > pick[:, None]).argmax(axis=1)
    nodes = np.arange(len(held))
    low, high = least[nodes, which], most[nodes, which]
    cut = low + draws[held, 1] * (high - low)
    # Rows at the cut go to the right: at the lowest value the left side would stay empty.
    cut = np.where(cut > low, cut, high)
    feature, threshold = np.zeros(len(draws), dtype=np.int64), np.full(len(draws), math.inf)
    feature[held] = which
    threshold[held] = np.where(differs.any(axis=1), cut, math.inf)
    return feature, threshold


def _unsuccessful(size: Integers) -> Floats:
    """Mean depth at which a search in a random tree of so many rows ends: what a leaf with several rows stands for."""
    n = np.maximum(size, 2).astype(np.float64)
    mean = 2.0 * (np.log(n - 1.0) + _EULER) - 2.0 * (n - 1.0) / n
    depth: Floats = np.where(size > 2, mean, np.where(size == 2, 1.0, 0.0))  # noqa: PLR2004  # two rows are one cut
    return depth
