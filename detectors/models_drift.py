"""Drift: whether what the models see, and what they make of it, is still what it was.

Two views. Page-Hinkley (Page, "Continuous inspection schemes", 1954; River's form of it) watches every input row by
row and notices when its mean has moved. The profile of a snapshot keeps how the series were spread when it was made;
the population stability index (PSI) compares the latest rows with the profile of a reference that stays frozen: below
0.1 nothing happened, above 0.25 the population is another one.

Neither can tell an attack from a new season: drift is shown and told, never acted upon.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, MODELS, Arrays

SERIES: tuple[str, ...] = (*INPUT_NAMES, *(f"model.{name}" for name in MODELS))
"""What is watched, all in [0, 1]: the squashed inputs, and the models' calibrated numbers."""
PARTS = 10
SHARE_MIN = 1e-3
"""An empty part counts as this share: a single row in it must not look like another world."""


@dataclass(frozen=True)
class PageHinkleyShape:
    """As River's PageHinkley with both directions: tolerated `delta`, alarm `threshold`, forgetting, rows before."""

    rows_min: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    forget: float = 1.0 - 1e-4


class PageHinkley:
    """One test a series, all at once: state arrays float64[len(SERIES)]."""

    def __init__(self, shape: PageHinkleyShape, series: int = len(SERIES)) -> None:
        self._shape = shape
        # Rows: n, mean, sum up, its minimum, sum down, its maximum.
        self._state = np.zeros((6, series))
        self._reset(np.ones(series, dtype=np.bool_))

    def update(self, values: Floats) -> NDArray[np.bool_]:
        """Take a value of each series (NaN: none) and say which of them have drifted; those begin anew."""
        known = np.isfinite(values)
        n, mean, up, low, down, high = self._state.copy()
        n = n + 1.0
        mean = mean + (values - mean) / n
        moved = values - mean
        up = self._shape.forget * up + moved - self._shape.delta
        down = self._shape.forget * down + moved + self._shape.delta
        low, high = np.minimum(low, up), np.maximum(high, down)
        np.copyto(self._state, np.stack((n, mean, up, low, down, high)), where=known)
        far = np.maximum(up - low, high - down) > self._shape.threshold
        drifted: NDArray[np.bool_] = known & far & (n >= self._shape.rows_min)
        self._reset(drifted)
        return drifted

    def _reset(self, which: NDArray[np.bool_]) -> None:
        self._state[:, which] = np.array([0.0, 0.0, 0.0, np.inf, 0.0, -1.0])[:, None]

    def export(self) -> Arrays:
        """The state as arrays; see `Learned.export`."""
        return {"state": self._state.copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over an exported state. ValueError if it does not fit."""
        self._state[:] = arrays["state"]


class Recent:
    """The values of all series in the last `rows` rows, one array."""

    def __init__(self, rows: int, series: int = len(SERIES)) -> None:
        self._values = np.full((rows, series), np.nan)
        self._put = 0

    def put(self, values: Floats) -> None:
        """Keep a row of values in the place of the oldest."""
        self._values[self._put % len(self._values)] = values
        self._put += 1

    def values(self) -> Floats:
        """float64[up to `rows`, series], in no particular order."""
        return self._values[: min(self._put, len(self._values))]

    def export(self) -> Arrays:
        """The state as arrays; see `Learned.export`."""
        return {"values": self._values.copy(), "put": np.array([self._put], dtype=np.int64)}

    def restore(self, arrays: Arrays) -> None:
        """Take over an exported state. ValueError if it does not fit."""
        self._values[:] = arrays["values"]
        self._put = int(arrays["put"][0])


@dataclass(frozen=True)
class Profile:
    """How the series were spread: `edges` float64[series, PARTS - 1], `shares` float64[series, PARTS] between them.

    A series without a value has edges of NaN.
    """

    edges: Floats
    shares: Floats


def profile(values: Floats) -> Profile:
    """The profile of values float64[n, series]: parts of about equal size, where ties allow."""
    edges = np.full((values.shape[1], PARTS - 1), np.nan)
    shares = np.zeros((values.shape[1], PARTS))
    for series, column in enumerate(values.T):
        known = np.sort(column[np.isfinite(column)])
        if len(known):
            edges[series] = known[(np.arange(1, PARTS) * len(known)) // PARTS]
            shares[series] = _shares(known, edges[series])
    return Profile(edges, shares)


def psi(reference: Profile, values: Floats) -> Floats:
    """The population stability index of each series, float64[series], NaN where either side knows nothing."""
    found = np.full(values.shape[1], np.nan)
    for series, column in enumerate(values.T):
        known = column[np.isfinite(column)]
        if len(known) and not np.isnan(reference.edges[series, 0]):
            was = np.maximum(reference.shares[series], SHARE_MIN)
            now = np.maximum(_shares(known, reference.edges[series]), SHARE_MIN)
            found[series] = float(((now - was) * np.log(now / was)).sum())
    return found


def _shares(values: Floats, edges: Floats) -> Floats:
    # A value equal to an edge lies above it: a series of one value fills the last part, the same on both sides.
    places = np.searchsorted(edges, values, side="right")
    return np.bincount(places, minlength=PARTS) / len(values)
