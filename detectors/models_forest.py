"""A supervised forest that learns online from labels, however late they come; its trees are regrown in turn.

Labelled rows enter two reservoirs, fraud and honest, each with a long memory. After every `regrow_rows` rows the oldest
tree is grown anew from a bootstrap sample of both. So the cost per label is constant and small, there is never a stall,
rare fraud is remembered far longer than the flood of honest rows, and a flood of bad labels reaches the trees slowly.

A tree is grown as in histogram forests (Breiman 2001; Ke et al., LightGBM, 2017): inputs are cut into bins at
quantiles, a level of the tree is counted at once, and each level looks at a random part of the inputs. Counts are
integers, so a tree comes out the same to the last bit everywhere. A leaf is the chance of fraud, shrunk towards the
nodes above it.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models_reservoir import Integers, Reservoir, checked, chosen, drawn
from detectors.models_trees import CompiledTrees, blank_trees

_GAIN_MIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class ForestParams:
    """What shapes a forest; a change makes another state.

    The reservoirs hold `fraud_rows` and `honest_rows` and forget over `fraud_horizon` and `honest_horizon`. A tree sees
    up to `fraud_sample` and `honest_sample` of them, with fraud weighing `fraud_share` of the whole. Nothing is grown
    before `labels_min` rows of either kind are known. `shrinkage` is in sampled rows.
    """

    seed: int = 1
    trees: int = 80
    height: int = 8
    bins: int = 32
    inputs_a_level: int = 12
    regrow_rows: int = 1_000
    fraud_rows: int = 4_096
    fraud_horizon: int = 8_192
    honest_rows: int = 16_384
    honest_horizon: int = 200_000
    fraud_sample: int = 2_048
    honest_sample: int = 4_096
    fraud_share: float = 0.3
    labels_min: int = 20
    shrinkage: float = 5.0


class LabelForest:
    """The state of the fold over labelled rows. Not thread-safe; rows are learned in the order of the log."""

    def __init__(self, width: int, params: ForestParams) -> None:
        self.params = params
        self.width = width
        self.learned = 0
        self.grown = 0
        self._fraud = Reservoir(params.fraud_rows, width, params.fraud_horizon, params.seed * 2)
        self._honest = Reservoir(params.honest_rows, width, params.honest_horizon, params.seed * 2 + 1)
        self._trees = blank_trees(params.trees, params.height)

    @property
    def ready(self) -> bool:
        """Whether its scores mean anything: trees have been grown."""
        return self.grown > 0

    def learn(self, inputs: Floats, labels: NDArray[np.integer]) -> None:
        """Take rows float64[n, width] with their labels int[n] (1 fraud, 0 honest), in order.

        The state after a log is the same however the log was cut into batches. Raises ValueError for other labels, or
        inputs that are not finite.
        """
        checked(inputs, self.width)
        if len(labels) != len(inputs) or not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be 0 (honest) or 1 (fraud), one a row")
        every = self.params.regrow_rows
        first = 0
        while first < len(inputs):
            last = min(len(inputs), first + every - self.learned % every)
            rows, fraud = inputs[first:last], labels[first:last] == 1
            self._fraud.add(rows[fraud])
            self._honest.add(rows[~fraud])
            self.learned += last - first
            first = last
            if self.learned % every == 0:
                self._regrow()

    def compile(self) -> CompiledTrees:
        """The forest as it stands; scores are chances of fraud in [0, 1] if `fraud_share` of events were fraud.

        0 for everything while not ready.
        """
        trees = self._trees
        return CompiledTrees(trees.feature.copy(), trees.threshold.copy(), trees.leaf / self.params.trees)

    def state(self) -> bytes:
        """All that later scores depend on, as bytes for a digest."""
        head = repr((self.params, self.width)).encode() + struct.pack("<qq", self.learned, self.grown)
        trees = self._trees
        parts = (trees.feature.astype("<i2"), trees.threshold.astype("<f8"), trees.leaf.astype("<f8"))
        return head + self._fraud.state() + self._honest.state() + b"".join(part.tobytes() for part in parts)

    def _regrow(self) -> None:
        """The next tree in turn, or all of them the first time."""
        if min(len(self._fraud), len(self._honest)) < self.params.labels_min:
            return
        turns = [self.grown] if self.ready else range(self.params.trees)
        for turn in turns:
            self._grow(turn)
        self.grown += len(turns)

    def _grow(self, turn: int) -> None:
        params, tree = self.params, turn % self.params.trees
        streams = turn * (params.height + 3)
        fraud, honest = self._fraud.rows, self._honest.rows
        sample_fraud = drawn(params.seed, streams, min(params.fraud_sample, len(fraud)), len(fraud))
        sample_honest = drawn(params.seed, streams + 1, min(params.honest_sample, len(honest)), len(honest))
        rows = np.concatenate((fraud[sample_fraud], honest[sample_honest]))
        weights = (
            params.fraud_share / len(sample_fraud) * len(rows),
            (1.0 - params.fraud_share) / len(sample_honest) * len(rows),
        )
        growth = _Growth(params, rows, len(sample_fraud), weights)
        trees = self._trees
        for level in range(params.height):
            candidates = chosen(params.seed, streams + 3 + level, min(params.inputs_a_level, self.width), self.width)
            at = slice(2**level - 1, 2 ** (level + 1) - 1)
            trees.feature[tree, at], trees.threshold[tree, at] = growth.split(level, candidates)
        trees.leaf[tree] = growth.leaves()


class _Growth:
    """One tree while it grows, level by level. The first `fraud` rows are fraud, the others honest."""

    def __init__(self, params: ForestParams, rows: Floats, fraud: int, weights: tuple[float, float]) -> None:
        self.params = params
        self.fraud = fraud
        self.weights = weights
        # Cuts at every bins-th of a part of the rows: enough for quantiles, and each tree has its own.
        part = np.sort(rows[:: max(1, len(rows) // 512)], axis=0)
        self.cuts = part[(np.arange(1, params.bins) * len(part)) // params.bins]
        self.codes = np.stack(
            [np.searchsorted(self.cuts[:, column], rows[:, column], "right") for column in range(rows.shape[1])]
        )
        self.node = np.zeros(len(rows), dtype=np.int64)

    def split(self, level: int, candidates: Integers) -> tuple[NDArray[np.int16], Floats]:
        """The best feature and threshold of each node of a level, by Gini impurity; infinite where none helps."""
        nodes, bins = 2**level, self.params.bins
        best = np.full(nodes, _GAIN_MIN)
        feature, place = np.zeros(nodes, dtype=np.int64), np.full(nodes, bins - 1)
        for column in candidates.tolist():
            left = self._weighed(self.node * bins + self.codes[column], nodes * bins).reshape(2, nodes, bins)
            gain = _gain(left.cumsum(axis=2))
            at = gain.argmax(axis=1)
            highest = gain[np.arange(nodes), at]
            better = highest > best
            best[better], feature[better], place[better] = highest[better], column, at[better]
        parted = place < bins - 1
        threshold = np.where(parted, self.cuts[np.minimum(place, bins - 2), feature], np.inf)
        rows = np.arange(len(self.node))
        self.node = 2 * self.node + (self.codes[feature[self.node], rows] > place[self.node])
        return feature.astype(np.int16), threshold

    def leaves(self) -> Floats:
        """The chance of fraud in each leaf, float64[2**height]; a node with few rows leans on the one above it."""
        height = self.params.height
        fraud, honest = self._weighed(self.node, 2**height)
        chance = np.array([fraud.sum() / (fraud.sum() + honest.sum())])
        for level in range(1, height + 1):
            ours = fraud.reshape(2**level, -1).sum(axis=1)
            all_rows = ours + honest.reshape(2**level, -1).sum(axis=1)
            chance = (ours + self.params.shrinkage * np.repeat(chance, 2)) / (all_rows + self.params.shrinkage)
        return chance

    def _weighed(self, key: Integers, size: int) -> Floats:
        """Weight of fraud and of honest rows by key, float64[2, size]. Counted first: counts are exact in any order."""
        fraud = np.bincount(key[: self.fraud], minlength=size)
        honest = np.bincount(key[self.fraud :], minlength=size)
        return np.stack((fraud * self.weights[0], honest * self.weights[1]))


def _gain(below: Floats) -> Floats:
    """What each cut takes from the Gini impurity, float64[nodes, bins - 1].

    `below` float64[2, nodes, bins] is the weight of fraud and of honest rows up to each bin.
    """
    whole, left = below[:, :, -1:], below[:, :, :-1]
    return _impurity(whole) - _impurity(left) - _impurity(whole - left)


def _impurity(weight: Floats) -> Floats:
    total = weight[0] + weight[1]
    impurity: Floats = weight[0] * weight[1] / np.maximum(total, _GAIN_MIN)
    return impurity
