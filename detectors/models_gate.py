"""The gate: whether a new snapshot may take the place of the one in use.

Both are compared on labelled rows that neither learned from, and on canaries: made-up events that any useful model
finds unusual. Whatever fails is named, with the figures; the old snapshot then stays. Ranking by AUC ROC and average
precision, the spread of scores by the population stability index (models_drift.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models import CHANCE, INPUT_NAMES, INPUTS, MODELS, WIDE, squash, together
from detectors.models_drift import profile, psi
from detectors.models_rows import HeldOut
from detectors.models_snapshot import Snapshot

Truths = NDArray[np.bool_]

_QUIET: Mapping[str, float] = {
    "velocity.account.count_7d": 1.0,
    "velocity.account.sum_7d": 60.0,
    "account.seconds_since_signup": 2e7,
    "account.seconds_since_credential_change": 2e7,
    "event.points": 60.0,
    "event.hour": 14.0,
}
CANARIES: Mapping[str, Mapping[str, float]] = {
    "farm": {
        "velocity.device.accounts_7d": 12.0, "velocity.device.count_24h": 14.0, "velocity.ip.accounts_24h": 12.0,
        "velocity.ip.count_1h": 14.0, "account.seconds_since_signup": 30.0, "event.points": 500.0, "event.hour": 3.0,
        "links.accounts": 12.0, "links.fresh_accounts": 12.0,
    },
    "takeover": {
        "velocity.account.devices_7d": 3.0, "velocity.account.ips_24h": 3.0, "event.points": 40_000.0,
        "account.seconds_since_credential_change": 600.0, "event.outflow": 1.0, "event.hour": 4.0,
    },
    "mule": {
        "velocity.account.count_24h": 30.0, "velocity.account.count_7d": 30.0, "velocity.account.count_1h": 20.0,
        "velocity.account.sum_24h": 90_000.0, "velocity.account.sum_7d": 90_000.0,
        "velocity.account.peers_24h": 25.0, "event.points": 80_000.0, "event.outflow": 1.0,
    },
    "script": {
        "velocity.account.count_1h": 60.0, "velocity.account.count_24h": 700.0, "velocity.account.count_7d": 4_000.0,
        "velocity.account.sum_24h": 7_000.0, "velocity.account.sum_7d": 40_000.0, "event.points": 10.0,
        "event.hour": 4.0, "velocity.device.count_24h": 700.0, "velocity.ip.count_1h": 60.0,
    },
}  # fmt: skip
"""What differs from a quiet member's event, by input; inputs that are not named stand at zero."""


_POINTS = INPUT_NAMES.index("event.points")
_UNSUPERVISED = np.array([name != CHANCE for name in MODELS])
"""Without a champion to compare with, these at least must say something of every row."""


class GateParams(msgspec.Struct, frozen=True, kw_only=True):
    """How much worse a snapshot may be, and where its scores must lie.

    AUC and average precision may fall by `auc_loss` and `precision_loss`; the shares that a model gives good rows may
    move by `psi_max` (PSI). Rankings are compared from `frauds_min` held-out frauds on, spreads from `rows_min`
    rows. What the models together say of held-out fraud, weighted by its points, may fall by `evidence_loss` of what
    it was. A canary must lie above the share `canary_share` of good rows.
    """

    auc_loss: float = 0.01
    precision_loss: float = 0.02
    evidence_loss: float = 0.05
    psi_max: float = 0.2
    frauds_min: int = 10
    rows_min: int = 200
    canary_share: float = 0.9


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: `value` of the new snapshot, `limit` it had to keep; None where there was nothing to compare."""

    name: str
    passed: bool
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Verdict:
    """All checks; the snapshot passed if each did."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether the snapshot may come into use."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """What failed, with figures; or that nothing did."""
        failed = [
            f"{check.name} {_shown(check.value)}, must be {_direction(check.name)} {_shown(check.limit)}"
            for check in self.checks
            if not check.passed
        ]
        return "; ".join(failed) or "all checks passed"


def judge(
    challenger: Snapshot, champion: Snapshot | None, reference: Snapshot | None, rows: HeldOut, params: GateParams
) -> Verdict:
    """Compare on `rows`, which none of them learned from.

    `champion` is in use now; `reference` is the one a person last vouched for, so that many small steps for the worse
    do not add up. Without them only what must hold for any snapshot counts.
    """
    return Verdict(tuple(_checks(challenger, champion, reference, rows, params)))


def _checks(
    challenger: Snapshot, champion: Snapshot | None, reference: Snapshot | None, rows: HeldOut, params: GateParams
) -> Iterator[Check]:
    new = challenger.compare(rows)
    ready = float(challenger.ready)
    yield Check(name="past its grace period", passed=challenger.ready, value=ready, limit=1.0)
    known = np.isfinite(champion.compare(rows)) if champion is not None else np.tile(_UNSUPERVISED, (len(new), 1))
    lost = float((known & np.isnan(new)).sum())
    yield Check(name="rows a model no longer scores", passed=lost == 0.0, value=lost, limit=0.0)
    score = together(new)
    good = score[~rows.fraud]
    if len(good) >= params.rows_min:
        yield from _canaries(challenger, good, params)
        if champion is not None:
            moved = _moved(new[~rows.fraud], champion.compare(rows)[~rows.fraud])
            yield Check(name="PSI of shares", passed=moved <= params.psi_max, value=moved, limit=params.psi_max)
    if int(rows.fraud.sum()) < params.frauds_min or not len(good):
        return
    for whose, other in (("the champion's", champion), ("the reference's", reference)):
        if other is not None:
            yield from _rankings(score, together(other.compare(rows)), rows, params, whose)


def _moved(new: Floats, old: Floats) -> float:
    """How far the shares of good rows have moved, of the model that moved furthest; 0 where only one side speaks.

    A chance has few steps, which are not the same ones in two snapshots: how it ranks fraud is what counts there.
    """
    shares = psi(profile(old), new)[_UNSUPERVISED]
    return float(np.nanmax(shares, initial=0.0))


def _rankings(new: Floats, old: Floats, rows: HeldOut, params: GateParams, whose: str) -> Iterator[Check]:
    """That known fraud stands out no less than it did."""
    fraud, weight = rows.fraud, points(rows)
    yield _not_worse(f"AUC beside {whose}", auc(new, fraud), auc(old, fraud) - params.auc_loss)
    least = average_precision(old, fraud) - params.precision_loss
    yield _not_worse(f"average precision beside {whose}", average_precision(new, fraud), least)
    found, was = (float(np.average(np.maximum(score[fraud], 0.0), weights=weight[fraud])) for score in (new, old))
    yield _not_worse(f"evidence against fraud beside {whose}", found, was * (1.0 - params.evidence_loss))


def points(rows: HeldOut) -> Floats:
    """The points of each row, at least 1, float64[n]: what `squash` did is undone."""
    squashed = np.minimum(rows.inputs[:, _POINTS], 1.0 - 1e-9)
    return np.maximum(INPUTS[_POINTS].half * squashed / (1.0 - squashed), 1.0)


def _canaries(challenger: Snapshot, good: Floats, params: GateParams) -> Iterator[Check]:
    inputs = np.array([[{**_QUIET, **canary}.get(name, 0.0) for name in INPUT_NAMES] for canary in CANARIES.values()])
    kept = HeldOut(squash(inputs.reshape(-1, WIDE)), np.ones(len(inputs), dtype=np.bool_), [""] * len(inputs))
    ranked = np.sort(good)
    for name, score in zip(CANARIES, together(challenger.compare(kept)), strict=True):
        share = float(np.searchsorted(ranked, score) / len(ranked))
        yield _not_worse(f"canary {name}", share, params.canary_share)


def _not_worse(name: str, value: float, limit: float) -> Check:
    return Check(name=name, passed=value >= limit, value=value, limit=limit)


def auc(scores: Floats, fraud: Truths) -> float:
    """The chance that a fraud scores above a good row, ties counting half; NaN if either kind is missing."""
    bad, good = scores[fraud], np.sort(scores[~fraud])
    if not len(bad) or not len(good):
        return float("nan")
    below = np.searchsorted(good, bad, side="left") + np.searchsorted(good, bad, side="right")
    return float(below.mean() / (2 * len(good)))


def average_precision(scores: Floats, fraud: Truths) -> float:
    """Precision averaged over the frauds in the order of their scores, tied rows taken together; NaN without fraud."""
    if not fraud.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(fraud[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the end of the last run of ties
    found, seen = hits[last], last + 1
    return float((np.diff(np.concatenate(([0], found))) * found / seen).sum() / fraud.sum())


def _direction(name: str) -> str:
    return "at most" if name.startswith(("PSI", "rows")) else "at least"


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.3f}"
