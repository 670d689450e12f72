"""What the online models have in common: their inputs, and how a raw score becomes a share and a contribution.

River learns (models_learner.py), arrays score (models_hst.py, models_loda.py), a snapshot carries both and the
calibration (models_snapshot.py). Everything here gives the same bits for a batch of one as for a batch of 500:
only element-wise arithmetic, no matrix products, so a stored decision recomputes exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from detectors.layout import Floats
from detectors.policy import ModelName, ModelTerm

MODELS: tuple[ModelName, ...] = ("hst", "loda")

_DAY = 86_400.0
# Name and half-way point: a value equal to the second becomes 0.5.
INPUTS: tuple[tuple[str, float], ...] = (
    ("velocity.account.count_1h", 2.0),
    ("velocity.account.count_24h", 4.0),
    ("velocity.account.count_7d", 10.0),
    ("velocity.account.sum_24h", 500.0),
    ("velocity.account.sum_7d", 2_000.0),
    ("velocity.account.devices_7d", 1.0),
    ("velocity.account.ips_24h", 1.0),
    ("velocity.account.peers_24h", 1.0),
    ("velocity.device.count_24h", 4.0),
    ("velocity.device.accounts_7d", 1.0),
    ("velocity.ip.count_1h", 4.0),
    ("velocity.ip.accounts_24h", 2.0),
    ("account.seconds_since_signup", 3 * _DAY),
    ("account.seconds_since_credential_change", 3 * _DAY),
    ("event.points", 100.0),
    ("event.hour", 12.0),
    ("event.outflow", 1.0),
)
INPUT_NAMES: tuple[str, ...] = tuple(name for name, _ in INPUTS)
_HALF = np.array([half for _, half in INPUTS], dtype=np.float64)

SHARES = 1_000
"""A calibration knows shares in steps of a thousandth: the table has this many quantiles."""


class Scorer(Protocol):
    """A compiled model. Higher means rarer; the scale is the model's own, which calibration removes."""

    def score(self, inputs: Floats) -> Floats:
        """float64[n] for float64[n, len(INPUTS)], equal to the River model's `score_one` row by row."""
        ...


def squash(inputs: Floats) -> Floats:
    """The models' inputs in [0, 1], float64[n, len(INPUTS)], from those features in the order of INPUT_NAMES.

    x / (x + half) is fixed and monotone: nothing to learn, so nothing an attacker could stretch. Unknown becomes 1,
    like a time long past.
    """
    with np.errstate(invalid="ignore"):
        squashed = inputs / (inputs + _HALF)
    return np.where(np.isfinite(squashed), squashed, 1.0)


@dataclass(frozen=True)
class Calibration:
    """Quantiles of the scores that events got before they were learned, per programme.

    `tables` is float64[programmes, models, SHARES], ascending in the last axis; the first programme is "" and stands
    for all of them, used where a programme has no table of its own yet.
    """

    programs: tuple[str, ...]
    tables: Floats

    def shares(self, scores: Floats, programs: Sequence[str]) -> Floats:
        """The share of its programme's events that score lower, float64[n, models]; NaN if there is no table at all."""
        shares = np.full(scores.shape, np.nan)
        if not self.programs:
            return shares
        place = {program: row for row, program in enumerate(self.programs)}
        which = np.fromiter((place.get(program, 0) for program in programs), dtype=np.intp, count=len(programs))
        for row in np.unique(which).tolist():
            chosen = np.flatnonzero(which == row)
            for model in range(scores.shape[1]):
                lower = np.searchsorted(self.tables[row, model], scores[chosen, model], side="left")
                shares[chosen, model] = lower / SHARES
        return shares


def quantiles(scores: Floats) -> Floats:
    """SHARES evenly spaced order statistics of `scores` (at least one), ascending."""
    ranked = np.sort(scores)
    return ranked[(np.arange(SHARES) * len(ranked)) // SHARES]


def contribution(share: float, term: ModelTerm) -> float:
    """Log-odds for a share: 0 up to `above` and when unknown, `cap` from 99.9 % on, in between by how rare it is.

    Rarity is -log(1 - share): twice as rare adds the same step everywhere.
    """
    if not share > term.above:
        return 0.0
    top = 1.0 - 1.0 / SHARES
    if share >= top:
        return term.cap
    common = 1.0 - term.above
    return term.cap * math.log(common / (1.0 - share)) / math.log(common * SHARES)
