"""An account's own norm: how many points its events and its days usually move, and how unusual one is beside that.

Robust and online: mean and spread of the logarithm of points follow each good event by a step of at most 1/MEMORY, and
what lies further out than CLIP spreads counts as if it lay there (Huber, "Robust estimation of a location parameter",
1964). So one event, however large, moves the norm by a bounded step, and it takes a habit to change it.

Three quantities: points of an inflow, points of an outflow, and all points within the 24 hours up to an event. A state
is three numbers for each (count, mean, spread), 72 bytes an account.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.layout import NORM, Floats
from detectors.models import INPUT_NAMES

QUANTITIES = 3
INFLOW, OUTFLOW, DAY = range(QUANTITIES)
MEMORY = 30.0
CLIP = 2.5
SPREAD_FIRST = 0.5
"""Before an account has shown its own spread: amounts between 60 % and 165 % of the usual are ordinary."""
SPREAD_MIN = 0.1
KNOWN_ROWS = 5
"""A norm of fewer events is none."""
_HALF_NORMAL = 1.2533141373155
"""sqrt(pi / 2): the standard deviation of a normal variable over its mean absolute deviation."""
_ROWS, _MEAN, _SPREAD = range(3)

States = Floats
"""float64[accounts, QUANTITIES, 3]: rows seen, mean and spread of log(1 + points)."""


@dataclass(frozen=True)
class Amounts:
    """What events move, each float64[n]: their own points, and the account's within 24 hours, their own included.

    `outflow` is bool[n].
    """

    points: Floats
    day: Floats
    outflow: NDArray[np.bool_]


AMOUNT_NAMES: Final = ("event.points", "velocity.account.sum_24h", "event.outflow")
"""The features that amounts are made of."""


def no_states(accounts: int) -> States:
    """States of accounts that nothing is known of."""
    return np.zeros((accounts, QUANTITIES, 3))


def amounts_of(inputs: Floats, names: Sequence[str] = INPUT_NAMES) -> Amounts:
    """The amounts in a matrix whose columns have these names, such as the models' inputs or a layout's features."""
    points, before, outflow = (inputs[:, names.index(name)] for name in AMOUNT_NAMES)
    return Amounts(points, before + points, outflow > 0.0)


def learn(states: States, accounts: NDArray[np.intp], amounts: Amounts) -> States:
    """The states after these events, in their order; `accounts` intp[n] says whose state each event belongs to.

    Events of different accounts are taken together, those of one account one after the other.
    """
    after = states.copy()
    turns = _turns(accounts)
    for turn in range(int(turns.max(initial=-1)) + 1):
        now = np.flatnonzero(turns == turn)
        who = accounts[now]
        kind = np.where(amounts.outflow[now], OUTFLOW, INFLOW)
        after[who, kind] = _follow(after[who, kind], np.log1p(amounts.points[now]))
        after[who, DAY] = _follow(after[who, DAY], np.log1p(amounts.day[now]))
    return after


def compare(states: States, amounts: Amounts) -> Floats:
    """Beside each event's own account (`states`, one an event) float64[n, len(NORM)]: NaN where it has no norm yet.

    Times the usual points, times the usual day, and for both how many spreads above the usual it lies, 0 below.
    """
    n = len(states)
    compared = np.full((n, len(NORM)), np.nan)
    kinds = (np.where(amounts.outflow, OUTFLOW, INFLOW), np.full(n, DAY))
    for place, (kind, moved) in enumerate(zip(kinds, (amounts.points, amounts.day), strict=True)):
        state = states[np.arange(n), kind]
        known = state[:, _ROWS] >= KNOWN_ROWS
        usual = np.maximum(np.expm1(state[:, _MEAN]), 1.0)
        above = np.maximum((np.log1p(moved) - state[:, _MEAN]) / np.maximum(state[:, _SPREAD], SPREAD_MIN), 0.0)
        compared[:, place] = np.where(known, moved / usual, np.nan)
        compared[:, 2 + place] = np.where(known, above, np.nan)
    return compared


def _follow(state: Floats, value: Floats) -> Floats:
    """States float64[n, 3] after one more value each."""
    rows, mean, spread = state.T
    first = rows == 0
    mean, spread = np.where(first, value, mean), np.where(first, SPREAD_FIRST, spread)
    reach = CLIP * spread
    off = np.clip(value - mean, -reach, reach)
    step = 1.0 / np.minimum(rows + 1.0, MEMORY)
    # The first spread counts as one observation, so that two equal amounts do not make everything else unusual.
    spread_step = 1.0 / np.minimum(rows + 2.0, MEMORY)
    spread = np.maximum(spread + spread_step * (_HALF_NORMAL * np.abs(off) - spread) * ~first, SPREAD_MIN)
    return np.stack((rows + 1.0, mean + step * off, spread), axis=1)


def _turns(accounts: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each event how many of the same account come before it."""
    order = np.argsort(accounts, kind="stable")
    ranked = accounts[order]
    begins = (
        np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if len(ranked) else np.zeros(0, dtype=np.intp)
    )  # the first begins a run
    lengths = np.diff(np.append(begins, len(ranked)))
    turns = np.empty(len(accounts), dtype=np.intp)
    turns[order] = np.arange(len(ranked)) - np.repeat(begins, lengths)
    return turns


@dataclass(frozen=True)
class CompiledNorm:
    """The model of an account's own norm: nothing to learn but its calibration; `column` intp[k] are its inputs."""

    column: NDArray[np.intp]

    def score(self, inputs: Floats) -> Floats:
        """float64[n] in [0, 1]: the larger of how unusual event and day are; 0 while the account has no norm."""
        scores: Floats = inputs[:, self.column].max(axis=1)
        return scores


def compile_norm() -> CompiledNorm:
    """The model; the states of accounts are no part of it, they come with the event as features."""
    return CompiledNorm(np.array([INPUT_NAMES.index(name) for name in NORM[2:]], dtype=np.intp))
