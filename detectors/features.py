"""The features of an event: one matrix for a batch, and the bytes kept with the decision.

A row is what rules and models see, and nothing else is needed to decide again. NaN means unknown. What the columns are
is the layout's (detectors/layout.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detectors.event_types import Adjust, Event
from detectors.layout import ACCOUNT, EVENT, LINKS, NORM, Floats, Layout, by_name


class FeaturesRefused(ValueError):
    """Stored features do not have the width of the layout they are said to have."""


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


def assemble(
    layout: Layout, velocity: Floats, moments: Moments, links: Floats | None = None, lists: Floats | None = None
) -> Floats:
    """The matrix float64[n, layout.width].

    `velocity` is float64[n, len(layout.velocity)]; `links` float64[n, len(LINKS)], unknown without; `lists`
    float64[n, len(layout.lists)], on no list without. An account fact later than the event counts as simultaneous
    (0 s): a back-dated event must not slip past a rule about young accounts.
    """
    count, first = len(velocity), len(layout.velocity)
    matrix = np.empty((count, layout.width), dtype=np.float64)
    matrix[:, :first] = velocity
    for offset, since in enumerate((moments.opened_ms, moments.signed_up_ms, moments.credential_changed_ms)):
        # np.maximum keeps NaN, so unknown stays unknown.
        matrix[:, first + offset] = np.maximum((moments.occurred_ms - since) / 1_000.0, 0.0)
    first += len(ACCOUNT)
    matrix[:, first] = np.abs(moments.points)
    matrix[:, first + 1] = moments.hour
    matrix[:, first + 2] = moments.outflow
    first += len(EVENT)
    # Filled in by whoever knows the accounts' norms.
    matrix[:, first : first + len(NORM)] = np.nan
    first += len(NORM)
    matrix[:, first : first + len(LINKS)] = np.nan if links is None else links
    matrix[:, first + len(LINKS) :] = 0.0 if lists is None else lists
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
    """One row as little-endian float64."""
    return row.astype("<f8", copy=False).tobytes()


def unpack(rows: Sequence[bytes], stored: Layout, names: tuple[str, ...]) -> Floats:
    """Rows packed under the layout `stored`, to the last bit, as float64[n, len(names)]; a name it lacks is NaN."""
    wrong = [len(row) for row in rows if len(row) != 8 * stored.width]
    if wrong:
        raise FeaturesRefused(f"{wrong[0]} bytes are not the {stored.width} features of layout {stored.version}")
    matrix = np.frombuffer(b"".join(rows), dtype="<f8").astype(np.float64).reshape(len(rows), stored.width)
    return matrix if names == stored.names else by_name(matrix, stored, names)
