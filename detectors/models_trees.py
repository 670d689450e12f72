"""Decision trees as arrays: the one compiled form of every forest here, whatever it was grown for.

All trees are complete and of one height, their nodes numbered breadth first (children of i are 2i+1 and 2i+2), so a
batch walks down all of them together, `height` comparisons deep. A node that should not part its rows has an infinite
threshold and sends everything to the left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats


@dataclass(frozen=True)
class CompiledTrees:
    """`feature` int16[trees, 2**height - 1], `threshold` float64 of that shape, `leaf` float64[trees, 2**height].

    A row goes to the right where its feature is at or above the threshold. The score is the sum of the leaves that a
    row ends in, one from each tree.
    """

    feature: NDArray[np.int16]
    threshold: Floats
    leaf: Floats

    @property
    def height(self) -> int:
        """Comparisons from the root to a leaf."""
        return int(self.feature.shape[1]).bit_length()

    def score(self, inputs: Floats) -> Floats:
        """float64[n] for float64[n, width]; the same bits for a row whatever batch it comes in."""
        total = np.zeros(len(inputs))
        for row in self.leaf.ravel().take(self._leaves(inputs)):
            # One tree after the other: a sum over an axis would add in an order that depends on the batch.
            total += row
        return total

    def _leaves(self, inputs: Floats) -> NDArray[np.int32]:
        """Where each row ends in each tree, as positions in the flat `leaf`: int32[trees, n]."""
        n, width = inputs.shape
        trees, inner = self.feature.shape
        flat = np.ascontiguousarray(inputs).ravel()
        feature, threshold = self.feature.ravel(), self.threshold.ravel()
        first_input = np.arange(n, dtype=np.int32) * np.int32(width)
        first_node = (np.arange(trees, dtype=np.int32) * np.int32(inner))[:, None]
        node = np.zeros((trees, n), dtype=np.int32)
        for _ in range(self.height):
            at = node + first_node
            right = flat.take(first_input + feature.take(at)) >= threshold.take(at)
            node += node
            node += right
            node += 1
        first_leaf = (np.arange(trees, dtype=np.int32) * np.int32(inner + 1))[:, None]
        leaves: NDArray[np.int32] = node - np.int32(inner) + first_leaf
        return leaves


def blank_trees(trees: int, height: int) -> CompiledTrees:
    """A forest that scores 0 for everything: what there is before anything was learned. Its arrays may be filled."""
    return CompiledTrees(
        np.zeros((trees, 2**height - 1), dtype=np.int16),
        np.full((trees, 2**height - 1), np.inf),
        np.zeros((trees, 2**height)),
    )
