"""HalfSpaceTrees as arrays, learned by River; Tan, Ting, Liu: "Fast anomaly detection for streaming data", 2011.

River's score of a tree is a sum along the path from the root, cut short at the first node with little mass. That sum
depends on the leaf alone, so it is worked out once per leaf; a score is then a walk of `height` comparisons. All masses
are integers, so the result equals River's to the last digit.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats

if TYPE_CHECKING:
    from river.anomaly import HalfSpaceTrees


@dataclass(frozen=True)
class CompiledHst:
    """Complete binary trees of one height, nodes numbered breadth first: children of i are 2i+1 and 2i+2.

    `feature` int16[trees, 2**height - 1] and `threshold` float64 of the same shape; `leaf` float64[trees, 2**height]
    is what a tree adds for that leaf; `mass_max` the largest sum possible.
    """

    feature: NDArray[np.int16]
    threshold: Floats
    leaf: Floats
    mass_max: float

    def score(self, inputs: Floats) -> Floats:
        """float64[n] in [0, 1], higher for rarer; 0 until River's first window is full."""
        n, width = inputs.shape
        trees, inner = self.feature.shape
        height = (inner + 1).bit_length() - 1
        flat_inputs = np.ascontiguousarray(inputs).ravel()
        feature, threshold = self.feature.ravel(), self.threshold.ravel()
        # One row a tree, one column an event; positions in the flat arrays throughout.
        first_input = np.arange(n, dtype=np.int32) * np.int32(width)
        first_node = (np.arange(trees, dtype=np.int32) * np.int32(inner))[:, None]
        node = np.zeros((trees, n), dtype=np.int32)
        for _ in range(height):
            at = node + first_node
            right = flat_inputs.take(first_input + feature.take(at)) >= threshold.take(at)
            node += node
            node += right
            node += 1
        first_leaf = (np.arange(trees, dtype=np.int32) * np.int32(inner + 1))[:, None]
        mass: Floats = self.leaf.ravel().take(node - np.int32(inner) + first_leaf).sum(axis=0)
        scores: Floats = 1.0 - mass / self.mass_max
        return scores


def compile_hst(model: "HalfSpaceTrees", names: tuple[str, ...]) -> CompiledHst:
    """Copy a River model into arrays; `names` are the inputs in the order of the matrix to be scored."""
    inner, trees = 2**model.height - 1, model.n_trees
    mass_max = float(model.n_trees * model.window_size * (2 ** (model.height + 1) - 1))
    feature = np.zeros((trees, inner), dtype=np.int16)
    threshold = np.zeros((trees, inner), dtype=np.float64)
    # Before the first window is full River answers 0: the same as every leaf holding the largest mass.
    leaf = np.full((trees, inner + 1), mass_max / trees)
    column = {name: position for position, name in enumerate(names)}
    for tree, root in enumerate(model.trees):
        _copy(root, column, (feature[tree], threshold[tree]))
        if not model._first_window:  # noqa: SLF001  # River has no public name for it, and is pinned exactly
            leaf[tree] = _leaf_sums(root, model.height, 0.1 * model.window_size)
    return CompiledHst(feature, threshold, leaf, mass_max)


def _copy(root: Any, column: dict[str, int], into: tuple[NDArray[np.int16], Floats]) -> None:
    feature, threshold = into
    level = [root]
    position = 0
    while hasattr(level[0], "children"):
        for node in level:
            feature[position] = column[node.feature]
            threshold[position] = node.threshold
            position += 1
        level = [child for node in level for child in node.children]


def _leaf_sums(root: Any, height: int, size_limit: float) -> Floats:
    """For each leaf, from left to right, what a walk down to it adds up, weights doubling with depth."""
    level: list[tuple[Any, float, bool]] = [(root, 0.0, False)]
    for depth in range(height):
        below = []
        for node, above, stopped in level:
            total = above if stopped else above + node.r_mass * 2**depth
            ends = stopped or node.r_mass < size_limit
            below += [(child, total, ends) for child in node.children]
        level = below
    return np.array([total if stopped else total + node.r_mass * 2**height for node, total, stopped in level])
