"""Calibration: a raw score as a share of the programme's events, or as a chance of fraud.

Shares come from quantiles of the scores that good events got before they were learned. The chance comes from a monotone
(isotonic) fit to what labelled events turned out to be: Ayer et al., "An empirical distribution function for sampling
with incomplete information", 1955 (pool adjacent violators).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models import CHANCE, MODELS, SHARES

STEPS = 64
"""The isotonic fit knows at most this many steps."""
DOUBT = 8.0
"""Rows at the overall rate that are mixed into every step: a step of three frauds is no certainty."""
_PLACE = MODELS.index(CHANCE)


@dataclass(frozen=True)
class Calibration:
    """How raw scores read, per programme.

    `tables` is float64[programmes, models, SHARES], quantiles ascending in the last axis, a row of NaN where a model
    has no scores yet; the first programme is "" and stands for all of them, used where a programme has no table of its
    own yet. `edges` and `chances`, float64[<= STEPS], are the isotonic fit: from an edge on its chance holds; empty
    while fraud labels are too few.
    """

    programs: tuple[str, ...]
    tables: Floats
    edges: Floats
    chances: Floats

    def numbers(self, scores: Floats, programs: Sequence[str]) -> Floats:
        """float64[n, models]: the share of its programme's events that score lower, or the chance; NaN if unknown."""
        numbers = np.full(scores.shape, np.nan)
        if self.programs:
            place = {program: row for row, program in enumerate(self.programs)}
            which = np.fromiter((place.get(program, 0) for program in programs), dtype=np.intp, count=len(programs))
            rows = np.unique(which).tolist()
            for row in rows:
                # Most batches are of one programme, and need no picking.
                chosen = np.flatnonzero(which == row) if len(rows) > 1 else slice(None)
                self._shares(row, scores[chosen], numbers, chosen)
        numbers[:, _PLACE] = self._chance(scores[:, _PLACE])
        return numbers

    def _shares(self, row: int, scores: Floats, numbers: Floats, chosen: slice | NDArray[np.intp]) -> None:
        for model in range(scores.shape[1]):
            table = self.tables[row, model]
            if model == _PLACE or np.isnan(table[0]):
                continue
            lower = np.searchsorted(table, scores[:, model], side="left") / SHARES
            numbers[chosen, model] = np.where(np.isnan(scores[:, model]), np.nan, lower)

    def _chance(self, scores: Floats) -> Floats:
        if not len(self.edges):
            return np.full(len(scores), np.nan)
        step = np.searchsorted(self.edges, scores, side="right") - 1
        return np.where(np.isnan(scores), np.nan, self.chances[np.maximum(step, 0)])


def quantiles(scores: Floats) -> Floats:
    """SHARES evenly spaced order statistics of `scores`, ascending; unknown ones are left out, NaN if all are."""
    ranked = np.sort(scores[~np.isnan(scores)])
    if not len(ranked):
        return np.full(SHARES, np.nan)
    return ranked[(np.arange(SHARES) * len(ranked)) // SHARES]


def isotonic(good: Floats, fraud: Floats, rate: float) -> tuple[Floats, Floats]:
    """Edges and chances from the scores of good and of fraudulent events, at an overall `rate` of fraud (0 to 1).

    `good` and `fraud` may be samples of different density: `rate` gives each its weight. Rising in the score.
    """
    scores = np.concatenate((good, fraud))
    # The fit needs resolution where the fraud is, so each kind gets half of the edges.
    edges = np.unique(np.concatenate([_cuts(each, STEPS // 2) for each in (good, fraud)]))
    weight = len(scores)
    each_good, each_fraud = weight * (1.0 - rate) / len(good), weight * rate / len(fraud)
    bad = each_fraud * _histogram(fraud, edges)
    total = bad + each_good * _histogram(good, edges)
    blocks: list[list[float]] = []
    for first, (mass, of) in enumerate(zip(bad.tolist(), total.tolist(), strict=True)):
        blocks.append([mass, of, first])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            mass_above, of_above, _ = blocks.pop()
            blocks[-1][0] += mass_above
            blocks[-1][1] += of_above
    chances = [(mass + DOUBT * rate) / (of + DOUBT) for mass, of, _ in blocks]
    # Steps of different weight are mixed with the rate differently, which may bend the fit: straighten it again.
    return edges[[int(first) for _, _, first in blocks]], np.maximum.accumulate(np.array(chances))


def _cuts(scores: Floats, most: int) -> Floats:
    ranked = np.sort(scores)
    return ranked[(np.arange(most) * len(ranked)) // most]


def _histogram(scores: Floats, edges: Floats) -> Floats:
    place = np.maximum(np.searchsorted(edges, scores, side="right") - 1, 0)
    return np.bincount(place, minlength=len(edges)).astype(np.float64)
