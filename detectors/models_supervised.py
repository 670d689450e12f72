"""The supervised model: River's logistic regression on what analysts and time said of events.

Each input enters three times, squashed at a tenth of, at, and at ten times its half-way point: a sum of three fixed
monotone curves is free to bend where one straight line is not. Classes count alike however rare fraud is; a row's pull
is bounded by clipping its gradient, so no single label and no run of them moves the weights further than stated.
"""

from dataclasses import dataclass

import numpy as np

from detectors.layout import Floats
from detectors.models import INPUT_NAMES

SCALES: tuple[float, ...] = (0.1, 1.0, 10.0)
NAMES: tuple[str, ...] = tuple(f"{name}@{scale:g}" for scale in SCALES for name in INPUT_NAMES)
LOG_ODDS_MAX = 30.0
"""River's logistic function and this one are both clipped here; beyond it a chance is 0 or 1 in any decision."""


@dataclass(frozen=True)
class CompiledSupervised:
    """`weight` float64[len(NAMES)], `intercept` float64 scalar, `ready` 0 or 1."""

    weight: Floats
    intercept: float
    ready: float

    def score(self, inputs: Floats) -> Floats:
        """float64[n] in (0, 1), the chance of fraud if both classes were alike frequent; NaN if not ready."""
        if not self.ready:
            return np.full(len(inputs), np.nan)
        total = np.zeros(len(inputs))
        # In River's order, one addition at a time: see detectors.models on batches of any size.
        for column, weight in zip(bend(inputs).T, self.weight.tolist(), strict=True):
            total += weight * column
        total += self.intercept
        chances: Floats = 1.0 / (1.0 + np.exp(-np.clip(total, -LOG_ODDS_MAX, LOG_ODDS_MAX)))
        return chances


def bend(inputs: Floats) -> Floats:
    """float64[n, len(NAMES)] in [0, 1] from squashed inputs float64[n, WIDE].

    Of x = v / (v + h), the same v squashed at scale·h is x / (x + scale·(1 - x)).
    """
    return np.concatenate([inputs / (inputs + scale * (1.0 - inputs)) for scale in SCALES], axis=1)
