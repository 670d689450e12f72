"""How far out in its tails an event lies, input by input: robust, with a long memory, and readable as it stands.

For each input the model keeps a long-memory sample of what was seen. The rarity of a value is -log of the share of rows
at least as extreme, so a value beyond 99.9 % of all others counts 6.9 wherever its unit or scale; the half nearer to
the middle counts nothing. The score adds the cubes, so one very rare value outweighs several that are a bit unusual,
and what each input adds can be shown. After ECOD (Li et al., "Unsupervised outlier detection using empirical cumulative
distribution functions", 2022), with tails per input instead of one skewness for all.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models_reservoir import Integers, Reservoir, checked

Side = Literal["both", "high"]
"""Which values of an input may be suspicious: both extremes, or only high ones."""


@dataclass(frozen=True, kw_only=True)
class TailsParams:
    """What shapes the model; a change makes another state.

    The sample holds `reservoir_rows`, which fade over `horizon_rows`. Compiled, it is a table of the `tail_knots` most
    extreme values on either side and `middle_knots` quantiles between. Nothing is said before `ready_rows`.
    """

    seed: int = 1
    reservoir_rows: int = 16_384
    horizon_rows: int = 1_000_000
    tail_knots: int = 128
    middle_knots: int = 256
    ready_rows: int = 32


@dataclass(frozen=True)
class CompiledTails:
    """`knots` float64[width, k] are values in ascending order, `below` float64[k] the sampled rows before each.

    `rows` is the size of the sample, 0 before anything may be said; `both` bool[width] whether low values count too.
    """

    knots: Floats
    below: Floats
    rows: int
    both: NDArray[np.bool_]

    def score(self, inputs: Floats) -> Floats:
        """float64[n], higher for rarer: the sum of the cubes of `rarities`. 0 while not ready."""
        total = np.zeros(len(inputs))
        for column in self.rarities(inputs).T:
            # One input after the other: a sum over an axis would add in an order that depends on the batch.
            total += column * column * column
        return total

    def rarities(self, inputs: Floats) -> Floats:
        """How rare each value is, float64[n, width]: -log of twice the share at least as extreme, 0 in the middle."""
        rarity = np.zeros(inputs.shape)
        if not self.rows:
            return rarity
        edges = np.append(self.below, self.rows)
        for column, knots in enumerate(self.knots):
            value = inputs[:, column]
            extreme = self.rows - edges[np.searchsorted(knots, value, "left")]
            if self.both[column]:
                extreme = np.minimum(extreme, edges[np.searchsorted(knots, value, "right")])
            rarity[:, column] = np.log((self.rows + 1.0) / (2.0 * extreme + 1.0))
        return np.maximum(rarity, 0.0)


class Tails:
    """The state of the fold over trusted rows. Not thread-safe; rows are learned in the order of the log."""

    def __init__(self, sides: Sequence[Side], params: TailsParams) -> None:
        self.params = params
        self.sides = tuple(sides)
        self._reservoir = Reservoir(params.reservoir_rows, len(self.sides), params.horizon_rows, params.seed)

    @property
    def ready(self) -> bool:
        """Whether its scores mean anything."""
        return len(self._reservoir) >= self.params.ready_rows

    def learn(self, inputs: Floats) -> None:
        """Take rows float64[n, width], in order; how they are cut into batches makes no difference."""
        self._reservoir.add(checked(inputs, len(self.sides)))

    def compile(self) -> CompiledTails:
        """The model as it stands."""
        rows = len(self._reservoir) if self.ready else 0
        ranked = np.sort(self._reservoir.rows[:rows], axis=0)
        place = self._places(rows)
        both = np.array([side == "both" for side in self.sides], dtype=np.bool_)
        return CompiledTails(np.ascontiguousarray(ranked[place].T), place.astype(np.float64), rows, both)

    def state(self) -> bytes:
        """All that later scores depend on, as bytes for a digest."""
        head = repr((self.params, self.sides)).encode() + struct.pack("<q", len(self._reservoir))
        return head + self._reservoir.state()

    def _places(self, rows: int) -> Integers:
        """Ranks kept in the table: all in the tails, evenly spaced ones between, at most two tails and the middle."""
        ranks = np.arange(rows)
        step = max(1, math.ceil((rows - 2 * self.params.tail_knots) / self.params.middle_knots))
        edge = np.minimum(ranks, rows - 1 - ranks) < self.params.tail_knots
        kept: Integers = ranks[edge | (ranks % step == 0)]
        return kept
