"""The features of an event: their names, one matrix for a batch, and the bytes kept with the decision.

A row is what rules and models see, and nothing else is needed to decide again. NaN means unknown.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.event_types import Adjust, Event
from detectors.velocity import VELOCITY_FEATURES

Floats = NDArray[np.float64]

FEATURES: tuple[str, ...] = (
    *VELOCITY_FEATURES,
    "account.age_seconds",
    "account.seconds_since_signup",
    "account.seconds_since_credential_change",
    "event.points",
    "event.hour",
    "event.outflow",
)
WIDTH = len(FEATURES)
INDEX: dict[str, int] = {name: column for column, name in enumerate(FEATURES)}
FEATURES_VERSION = hashlib.sha256("\n".join(FEATURES).encode()).hexdigest()[:16]
ROW_BYTES = 8 * WIDTH


class FeaturesRefused(ValueError):
    """Stored features do not have the width of this version."""


@dataclass(frozen=True)
class Moments:
    """What the matrix needs besides velocity, one element an event; times are milliseconds since 1970, NaN unknown.

    `opened_ms`, `signed_up_ms` and `credential_changed_ms` belong to the event's account, as they stood before it.
    `points` is the signed or unsigned amount of the event (0 if it moves none); `hour` is 0 to 23 as the producer
    wrote it, in the time zone of `occurred_at`.
    """

    occurred_ms: Floats
    opened_ms: Floats
    signed_up_ms: Floats
    credential_changed_ms: Floats
    points: Floats
    hour: Floats
    outflow: Floats


def assemble(velocity: Floats, moments: Moments) -> Floats:
    """The matrix float64[n, WIDTH] in the order of FEATURES.

    An account fact later than the event counts as simultaneous (0 s): a back-dated event must not slip past a rule
    about young accounts.
    """
    matrix = np.empty((len(velocity), WIDTH), dtype=np.float64)
    first = len(VELOCITY_FEATURES)
    matrix[:, :first] = velocity
    for offset, since in enumerate((moments.opened_ms, moments.signed_up_ms, moments.credential_changed_ms)):
        # np.maximum keeps NaN, so unknown stays unknown.
        matrix[:, first + offset] = np.maximum((moments.occurred_ms - since) / 1_000.0, 0.0)
    matrix[:, first + 3] = np.abs(moments.points)
    matrix[:, first + 4] = moments.hour
    matrix[:, first + 5] = moments.outflow
    return matrix


class AccountTimes(NamedTuple):
    """When an account was first seen, signed up, and last changed a credential: Unix ms, NaN where unknown."""

    opened_ms: float = math.nan
    signed_up_ms: float = math.nan
    credential_changed_ms: float = math.nan


AccountKey = tuple[str, str]
"""Programme and account."""


def account_times(
    events: Sequence[Event], occurred_ms: Sequence[int], stored: Mapping[AccountKey, AccountTimes]
) -> tuple[list[AccountTimes], dict[AccountKey, AccountTimes]]:
    """What was known of each event's account just before it, and the accounts whose times this batch changed.

    `stored` holds the accounts of the batch as the ledger has them; one it lacks is opened by its first event here. The
    first sign-up counts, and the latest change of a credential.
    """
    current: dict[AccountKey, AccountTimes] = {}
    before: list[AccountTimes] = []
    changed: dict[AccountKey, AccountTimes] = {}
    for event, when in zip(events, occurred_ms, strict=True):
        key = (event.program, event.account)
        times = current.get(key) or stored.get(key)
        if times is None:
            times = changed[key] = AccountTimes(opened_ms=float(when))
        before.append(times)
        if event.type == "account.created" and math.isnan(times.signed_up_ms):
            times = changed[key] = times._replace(signed_up_ms=float(when))
        elif event.type == "credential.changed":
            # fmax ignores NaN: the later of what is known.
            latest = float(np.fmax(times.credential_changed_ms, when))
            times = changed[key] = times._replace(credential_changed_ms=latest)
        current[key] = times
    return before, changed


def moments(events: Sequence[Event], occurred_ms: Sequence[int], before: Sequence[AccountTimes]) -> Moments:
    """The columns besides velocity for a batch; `occurred_ms` is already clamped, `before` comes from account_times."""
    times = np.array(before, dtype=np.float64).reshape(len(events), 3)
    points = [float(getattr(event, "points", None) or 0) for event in events]
    return Moments(
        occurred_ms=np.array(occurred_ms, dtype=np.float64),
        opened_ms=times[:, 0],
        signed_up_ms=times[:, 1],
        credential_changed_ms=times[:, 2],
        points=np.array(points, dtype=np.float64),
        hour=np.array([event.occurred_at.hour for event in events], dtype=np.float64),
        outflow=np.array([float(is_outflow(event)) for event in events], dtype=np.float64),
    )


def is_outflow(event: Event) -> bool:
    """Whether the event takes points out of its account; a reversal counts as neither in nor out."""
    return event.type in ("redeem", "transfer") or (isinstance(event, Adjust) and event.points < 0)


def pack(row: Floats) -> bytes:
    """One row as little-endian float64, ROW_BYTES long."""
    return row.astype("<f8", copy=False).tobytes()


def unpack(data: bytes) -> Floats:
    """The row again, to the last bit."""
    if len(data) != ROW_BYTES:
        raise FeaturesRefused(f"{len(data)} bytes are not {WIDTH} features: written under another features version")
    return np.frombuffer(data, dtype="<f8").astype(np.float64)
