"""LODA as arrays. Learned by River; after Pevny, "Loda: lightweight on-line detector of anomalies", 2016.

A cut projects an event onto a few weighted inputs and looks the value up in a histogram; the score is the mean negative
log-likelihood over the cuts. Sums run in River's order, one addition at a time: no matrix product, whose order of
additions would depend on the size of the batch.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats

if TYPE_CHECKING:
    from river.anomaly import LODA

DENSITY_MIN = 1e-12
SURPRISE_MAX = -math.log(DENSITY_MIN)


@dataclass(frozen=True)
class CompiledLoda:
    """Histograms of up to `bins` bins for each cut.

    `column` intp[cuts, k] and `weight` float64[cuts, k] are the projections; `left` and `right` float64[cuts, bins + 1]
    the edges, ascending and filled up with infinity; `surprise` float64[cuts, bins + 1] is -log(density).
    """

    column: NDArray[np.intp]
    weight: Floats
    left: Floats
    right: Floats
    surprise: Floats

    def score(self, inputs: Floats) -> Floats:
        """float64[n], higher for rarer; 0 before anything was learned."""
        n = len(inputs)
        cuts, slots = self.left.shape
        total = np.zeros(n)
        if not cuts:
            return total
        by_input = np.ascontiguousarray(inputs.T)
        value = np.zeros((cuts, n))
        for k in range(self.column.shape[1]):
            value += self.weight[:, k, None] * by_input[self.column[:, k]]
        # The bin is the first whose right edge is not below the value; the last slot means "beyond all bins".
        place = np.zeros((cuts, n), dtype=np.int32)
        for slot in range(slots - 1):
            place += value > self.right[:, slot, None]
        place += (np.arange(cuts, dtype=np.int32) * np.int32(slots))[:, None]
        surprise = self.surprise.ravel().take(place)
        surprise[value < self.left.ravel().take(place)] = SURPRISE_MAX
        for row in surprise:
            total += row
        total /= cuts
        return total


def compile_loda(model: "LODA", names: tuple[str, ...]) -> CompiledLoda:
    """Copy a River model into arrays; `names` are the inputs in the order of the matrix to be scored."""
    cuts = len(model.projections_)
    k = len(model.projections_[0]) if cuts else 0
    column = np.zeros((cuts, k), dtype=np.intp)
    weight = np.zeros((cuts, k), dtype=np.float64)
    left = np.full((cuts, model.n_bins + 1), np.inf)
    right = np.full((cuts, model.n_bins + 1), np.inf)
    surprise = np.full((cuts, model.n_bins + 1), SURPRISE_MAX)
    place = {name: position for position, name in enumerate(names)}
    for cut, (projection, histogram) in enumerate(zip(model.projections_, model.histograms_, strict=True)):
        column[cut] = [place[name] for name in projection]
        weight[cut] = list(projection.values())
        bins = histogram.data
        left[cut, : len(bins)] = [each.left for each in bins]
        right[cut, : len(bins)] = [each.right for each in bins]
        surprise[cut, : len(bins)] = [
            -math.log(max(_density(bins, i, histogram.n), DENSITY_MIN)) for i in range(len(bins))
        ]
    return CompiledLoda(column, weight, left, right, surprise)


def _density(bins: list[Any], i: int, n: int) -> float:
    """The density of bin i; a bin of one value borrows its width from the nearer neighbour."""
    share = float(bins[i].count / n)
    width = bins[i].right - bins[i].left
    if width <= 0:
        before = bins[i].left - bins[i - 1].right if i > 0 else math.inf
        after = bins[i + 1].left - bins[i].right if i + 1 < len(bins) else math.inf
        width = min(before, after)
        if not math.isfinite(width) or width <= 0:
            return share
    return share / float(width)
