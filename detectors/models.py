"""What the online models have in common: their inputs, and how a raw score becomes a share and a contribution.

River learns (models_learner.py), arrays score (one module a model, listed in models_registry.py), a snapshot carries
them with their calibration (models_snapshot.py). Everything here gives the same bits for a batch of one as for a batch
of 500: only element-wise arithmetic, no matrix products, so a stored decision recomputes exactly.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.policy import ModelName, ModelTerm

MODELS: tuple[ModelName, ...] = get_args(ModelName)
CHANCE: ModelName = "forest"
"""The one model whose calibrated number is the chance of fraud; the others' is a share of the programme's events."""

_DAY = 86_400.0


class Input(NamedTuple):
    """One input: the feature it reads, the value that becomes 0.5, and what an unknown one counts as."""

    name: str
    half: float
    unknown: float = 1.0


INPUTS: tuple[Input, ...] = (
    Input("velocity.account.count_1h", 2.0),
    Input("velocity.account.count_24h", 4.0),
    Input("velocity.account.count_7d", 10.0),
    Input("velocity.account.sum_24h", 500.0),
    Input("velocity.account.sum_7d", 2_000.0),
    Input("velocity.account.devices_7d", 1.0),
    Input("velocity.account.ips_24h", 1.0),
    Input("velocity.account.peers_24h", 1.0),
    Input("velocity.device.count_24h", 4.0),
    Input("velocity.device.accounts_7d", 1.0),
    Input("velocity.ip.count_1h", 4.0),
    Input("velocity.ip.accounts_24h", 2.0),
    Input("account.seconds_since_signup", 3 * _DAY),
    Input("account.seconds_since_credential_change", 3 * _DAY),
    Input("event.points", 100.0),
    Input("event.hour", 12.0),
    Input("event.outflow", 1.0),
    # An account without links is alone. What became of others in its cluster would be label feedback: left to rules.
    Input("links.accounts", 4.0, 0.0),
    Input("links.fresh_accounts", 2.0, 0.0),
    # An account without a norm is not unusual beside it.
    Input("account.unusual_points", 3.0, 0.0),
    Input("account.unusual_day", 3.0, 0.0),
)
INPUT_NAMES: tuple[str, ...] = tuple(each.name for each in INPUTS)
WIDE = len(INPUTS)
_HALF = np.array([each.half for each in INPUTS], dtype=np.float64)
_UNKNOWN = np.array([each.unknown for each in INPUTS], dtype=np.float64)

SHARES = 1_000
"""A calibration knows shares in steps of a thousandth: the table has this many quantiles."""
TOP = 1.0 - 1.0 / SHARES
"""The largest share that still tells how rare an event is."""

Arrays = Mapping[str, NDArray[Any]]
"""A state or a compiled model as named arrays: what is stored, and nothing that could execute."""


class Scorer(Protocol):
    """A compiled model: a frozen dataclass of arrays. Higher means rarer, or likelier fraud, on a scale of its own."""

    def score(self, inputs: Floats) -> Floats:
        """float64[n] for squashed inputs float64[n, WIDE]; a River model's answer, where River has the model."""
        ...


class Learned(Protocol):
    """A model while it learns; the trainer alone holds one. Deterministic: same rows and seed, same state."""

    @property
    def ready(self) -> bool:
        """Whether its scores mean anything yet."""
        ...

    def learn(self, inputs: Floats, fraud: NDArray[np.bool_]) -> None:
        """Take rows float64[n, WIDE] in their order, `fraud` bool[n]; however they are cut, the state is the same."""
        ...

    def compile(self) -> Scorer:
        """The model as arrays."""
        ...

    def export(self) -> Arrays:
        """The whole state as arrays; `restore` makes it go on from there as if nothing had happened."""
        ...

    def restore(self, arrays: Arrays) -> None:
        """Take over a state exported by a model of the same parameters. KeyError or ValueError if it is none."""
        ...


def squash(inputs: Floats) -> Floats:
    """The inputs in [0, 1], float64[n, WIDE], from those features in the order of INPUT_NAMES.

    x / (x + half) is fixed and monotone: nothing to learn, so nothing an attacker could stretch. An unknown number
    mostly becomes 1, like a time long past.
    """
    with np.errstate(invalid="ignore"):
        # Written so that it stays monotone when rounded, too.
        squashed = 1.0 - _HALF / (inputs + _HALF)
    return np.where(np.isfinite(squashed), squashed, _UNKNOWN)


def contribution(share: float, term: ModelTerm) -> float:
    """Log-odds for a share: 0 up to `above` and when unknown, `cap` from 99.9 % on, in between by how rare it is.

    Rarity is -log(1 - share): twice as rare adds the same step everywhere.
    """
    if not share > term.above:
        return 0.0
    if share >= TOP:
        return term.cap
    common = 1.0 - term.above
    return term.cap * math.log(common / (1.0 - share)) / math.log(common * SHARES)


def evidence(chance: float, term: ModelTerm) -> float:
    """Log-odds for a calibrated chance of fraud: what it lies above `above`, at most `cap`; 0 below and when unknown.

    With `above` at the policy's base the sum of base and evidence is the calibrated chance itself.
    """
    if not chance > term.above:
        return 0.0
    if chance >= 1.0:
        return term.cap
    return min(term.cap, math.log(chance / (1.0 - chance)) - math.log(term.above / (1.0 - term.above)))


def added(name: ModelName, number: float, term: ModelTerm) -> float:
    """What the calibrated number of a model adds to an event's log-odds under this term."""
    return evidence(number, term) if name == CHANCE else contribution(number, term)


def together(numbers: Floats) -> Floats:
    """One ensemble score, float64[n], of calibrated numbers float64[n, models]: additive in log-odds, without a policy.

    Rarity for shares, log-odds for the chance of fraud; a model that knows nothing adds nothing. For comparing
    snapshots and for evaluation: what a decision adds is capped by its policy.
    """
    total = np.zeros(len(numbers))
    for column, name in enumerate(MODELS):
        number = numbers[:, column]
        known = np.isfinite(number)
        number = np.clip(np.where(known, number, 0.0), 0.0, TOP)
        part = np.log(np.maximum(number, 1e-3) / (1.0 - number)) if name == CHANCE else -np.log1p(-number)
        total += np.where(known, part, 0.0)
    return total
