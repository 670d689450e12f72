"""Features: the names, the matrix of a batch, and the bytes kept with a decision."""

from datetime import UTC, datetime, timedelta, timezone
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.event_types import (
    AccountCreated,
    Adjust,
    CredentialChanged,
    Earn,
    Event,
    Login,
    Redeem,
    Reverse,
    Transfer,
)
from detectors.features import (
    FEATURES,
    FEATURES_VERSION,
    INDEX,
    ROW_BYTES,
    WIDTH,
    AccountTimes,
    FeaturesRefused,
    account_times,
    assemble,
    is_outflow,
    moments,
    pack,
    unpack,
)
from detectors.velocity import VELOCITY_FEATURES

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1_000)


def earn(account: str = "a", when: datetime = NOON, points: int = 10) -> Earn:
    """An earn of one account."""
    return Earn(id="e", source="s", program="p", account=account, occurred_at=when, points=points)


def created(account: str = "a", when: datetime = NOON) -> AccountCreated:
    """A sign-up."""
    return AccountCreated(id="c", source="s", program="p", account=account, occurred_at=when)


def test_names_are_velocity_first_and_unique() -> None:
    """The matrix begins with the velocity columns in their own order, and no name stands twice."""
    assert FEATURES[:44] == VELOCITY_FEATURES
    assert WIDTH == len(set(FEATURES)) == 50
    assert len(FEATURES_VERSION) == 16


def test_matrix_places_velocity_times_and_event() -> None:
    """Each column holds what its name says; times are seconds since, unknown stays NaN, points are absolute."""
    debit = Adjust(id="x", source="s", program="p", account="b", occurred_at=NOON, points=-70, reason="typo")
    events: list[Event] = [earn(points=25), debit]
    before = [AccountTimes(NOON_MS - 90_000, NOON_MS - 60_000, nan), AccountTimes(nan, nan, NOON_MS - 1_500)]
    velocity = np.arange(88, dtype=np.float64).reshape(2, 44)
    matrix = assemble(velocity, moments(events, [NOON_MS, NOON_MS], before))
    assert np.array_equal(matrix[:, :44], velocity)
    first = {name: matrix[0, INDEX[name]] for name in FEATURES[44:]}
    second = {name: matrix[1, INDEX[name]] for name in FEATURES[44:]}
    assert isnan(first.pop("account.seconds_since_credential_change"))
    assert first == {
        "account.age_seconds": 90.0, "account.seconds_since_signup": 60.0,
        "event.points": 25.0, "event.hour": 12.0, "event.outflow": 0.0,
    }  # fmt: skip
    assert isnan(second["account.age_seconds"])
    assert second["account.seconds_since_credential_change"] == 1.5
    assert (second["event.points"], second["event.outflow"]) == (70.0, 1.0)


def test_a_back_dated_event_counts_as_simultaneous_with_the_sign_up() -> None:
    """An event that claims to be older than its account's sign-up gets 0 seconds, not a negative or unknown time."""
    before = [AccountTimes(NOON_MS + 5_000, NOON_MS + 5_000, nan)]
    matrix = assemble(np.zeros((1, 44)), moments([earn()], [NOON_MS], before))
    assert matrix[0, INDEX["account.seconds_since_signup"]] == 0.0


def test_the_hour_is_the_producers() -> None:
    """The hour of day is the one written in occurred_at, in its own time zone."""
    shanghai = NOON.astimezone(timezone(timedelta(hours=8)))
    matrix = assemble(np.zeros((1, 44)), moments([earn(when=shanghai)], [NOON_MS], [AccountTimes()]))
    assert matrix[0, INDEX["event.hour"]] == 20.0


def test_accounts_change_within_a_batch() -> None:
    """An earn behind its sign-up in the same batch sees it; the sign-up itself does not; the first sign-up stays."""
    change = CredentialChanged(id="k", source="s", program="p", account="a", occurred_at=NOON, credential="phone")
    events: list[Event] = [created(), earn(), created(), change, earn(), earn("b")]
    times = [NOON_MS + second * 1_000 for second in range(6)]
    before, changed = account_times(events, times, {("p", "b"): AccountTimes(1.0, 2.0, 3.0)})
    assert [each.signed_up_ms for each in before[1:5]] == [NOON_MS] * 4
    assert isnan(before[0].signed_up_ms)
    assert isnan(before[3].credential_changed_ms)
    assert before[4].credential_changed_ms == NOON_MS + 3_000
    assert before[5] == AccountTimes(1.0, 2.0, 3.0)
    assert changed == {("p", "a"): AccountTimes(NOON_MS, NOON_MS, NOON_MS + 3_000)}


def test_a_late_credential_change_does_not_undo_a_newer_one() -> None:
    """The latest change counts, in whichever order changes arrive."""
    change = CredentialChanged(id="k", source="s", program="p", account="a", occurred_at=NOON, credential="phone")
    _, changed = account_times([change], [NOON_MS], {("p", "a"): AccountTimes(1.0, nan, NOON_MS + 9.0)})
    assert changed[("p", "a")].credential_changed_ms == NOON_MS + 9.0


def test_what_is_an_outflow() -> None:
    """Redemptions, transfers and debits take points out; earns, credits, reversals and information do not."""
    common: dict[str, Any] = {"id": "x", "source": "s", "program": "p", "account": "a", "occurred_at": NOON}
    out: list[Event] = [
        Redeem(**common, points=1),
        Transfer(**common, points=1, to="b"),
        Adjust(**common, points=-1, reason="r"),
    ]
    other: list[Event] = [
        earn(),
        Adjust(**common, points=1, reason="r"),
        Reverse(**common, reverses="y"),
        Login(**common),
    ]
    assert [is_outflow(event) for event in out] == [True] * 3
    assert [is_outflow(event) for event in other] == [False] * 4


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=WIDTH, max_size=WIDTH))
def test_packing_keeps_every_bit(values: list[float]) -> None:
    """What is unpacked equals what was packed, NaN and infinities included."""
    row = np.array(values, dtype=np.float64)
    packed = pack(row)
    assert len(packed) == ROW_BYTES
    assert unpack(packed).tobytes() == row.tobytes()


def test_features_of_another_width_are_refused() -> None:
    """Bytes of another version are not taken for features."""
    with pytest.raises(FeaturesRefused, match="another features version"):
        unpack(pack(np.array([1.0, inf])))
