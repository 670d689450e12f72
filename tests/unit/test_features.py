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
    AccountTimes,
    FeaturesRefused,
    account_times,
    assemble,
    is_outflow,
    moments,
    pack,
    unpack,
)
from detectors.layout import FIXED, LINKS, LISTS, NORM, Layout, UnknownFeature, by_name, layout_of

LAYOUT = layout_of(["velocity.account.count_1h", "velocity.device.accounts_7d", "lists.vip"])
NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1_000)


def earn(account: str = "a", when: datetime = NOON, points: int = 10) -> Earn:
    """An earn of one account."""
    return Earn(id="e", source="s", program="p", account=account, occurred_at=when, points=points)


def created(account: str = "a", when: datetime = NOON) -> AccountCreated:
    """A sign-up."""
    return AccountCreated(id="c", source="s", program="p", account=account, occurred_at=when)


def test_a_layout_has_the_demanded_names_and_the_fixed_ones_in_one_order() -> None:
    """Whatever the order and number of demands, equal sets of names give one layout; velocity stands first."""
    assert LAYOUT.names == ("velocity.account.count_1h", "velocity.device.accounts_7d", *FIXED, "lists.vip")
    assert LAYOUT.velocity == (*LAYOUT.names[:2], "velocity.approximate")
    assert LAYOUT.lists == (*LISTS, "lists.vip")
    assert layout_of([*reversed(LAYOUT.names), "event.points", "lists.vip"]) == LAYOUT
    assert [LAYOUT.index[name] for name in LAYOUT.names] == list(range(LAYOUT.width))
    assert layout_of([]).names == FIXED


def test_a_layouts_version_is_that_of_its_names() -> None:
    """Equal names have equal versions, other names or another order others."""
    names = LAYOUT.names
    assert Layout(names).version == LAYOUT.version
    assert len({Layout(each).version for each in (names, names[1:], names[::-1], ())}) == 4
    assert len(LAYOUT.version) == 16


@pytest.mark.parametrize("name", ["", "velocity.account.count_1y", "lists.", "lists.Vip", "event.store", "links.size"])
def test_a_layout_refuses_what_is_no_feature(name: str) -> None:
    """A name that nothing fills can't become a column."""
    with pytest.raises(UnknownFeature, match=repr(name)):
        layout_of(["event.points", name])


def test_matrix_places_velocity_times_and_event() -> None:
    """Each column holds what its name says; times are seconds since, unknown stays NaN, points are absolute."""
    debit = Adjust(id="x", source="s", program="p", account="b", occurred_at=NOON, points=-70, reason="typo")
    events: list[Event] = [earn(points=25), debit]
    before = [AccountTimes(NOON_MS - 90_000, NOON_MS - 60_000, nan), AccountTimes(nan, nan, NOON_MS - 1_500)]
    velocity = np.array([[0.0, 1.0, 0.0], [2.0, 3.0, 1.0]])
    links = np.arange(10, dtype=np.float64).reshape(2, 5)
    lists = np.array([[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0, 0.0]])
    matrix = assemble(LAYOUT, velocity, moments(events, [NOON_MS, NOON_MS], before), links, lists)
    first, second = (dict(zip(LAYOUT.names, row.tolist(), strict=True)) for row in matrix)
    assert isnan(first.pop("account.seconds_since_credential_change"))
    # The account's norm is for whoever reads it from the database.
    assert all(isnan(first.pop(name)) for name in NORM)
    assert first == {
        "velocity.account.count_1h": 0.0, "velocity.device.accounts_7d": 1.0, "velocity.approximate": 0.0,
        "account.age_seconds": 90.0, "account.seconds_since_signup": 60.0,
        "event.points": 25.0, "event.hour": 12.0, "event.outflow": 0.0,
        "links.accounts": 0.0, "links.fresh_accounts": 1.0, "links.held_accounts": 2.0, "links.points": 3.0,
        "links.risk": 4.0, "lists.allow": 1.0, "lists.block": 0.0, "lists.final": 0.0,
        "lists.watch": 0.0, "lists.vip": 1.0,
    }  # fmt: skip
    assert isnan(second["account.age_seconds"])
    assert second["account.seconds_since_credential_change"] == 1.5
    assert (second["event.points"], second["event.outflow"], second["lists.watch"]) == (70.0, 1.0, 1.0)


def test_without_links_and_lists_the_one_is_unknown_and_the_other_no() -> None:
    """Who does not look can't know a cluster's size; who has no lists has nobody on one."""
    row = assemble(LAYOUT, np.zeros((1, 3)), moments([earn()], [NOON_MS], [AccountTimes()]))
    assert np.isnan(by_name(row, LAYOUT, LINKS)).all()
    assert by_name(row, LAYOUT, LAYOUT.lists).tolist() == [[0.0] * 5]


def test_a_back_dated_event_counts_as_simultaneous_with_the_sign_up() -> None:
    """An event that claims to be older than its account's sign-up gets 0 seconds, not a negative or unknown time."""
    before = [AccountTimes(NOON_MS + 5_000, NOON_MS + 5_000, nan)]
    matrix = assemble(LAYOUT, np.zeros((1, 3)), moments([earn()], [NOON_MS], before))
    assert matrix[0, LAYOUT.index["account.seconds_since_signup"]] == 0.0


def test_the_hour_is_the_producers() -> None:
    """The hour of day is the one written in occurred_at, in its own time zone."""
    shanghai = NOON.astimezone(timezone(timedelta(hours=8)))
    matrix = assemble(LAYOUT, np.zeros((1, 3)), moments([earn(when=shanghai)], [NOON_MS], [AccountTimes()]))
    assert matrix[0, LAYOUT.index["event.hour"]] == 20.0


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


WIDTH = LAYOUT.width


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=WIDTH, max_size=WIDTH), st.integers(1, 3))
def test_packing_keeps_every_bit(values: list[float], count: int) -> None:
    """What is unpacked equals what was packed, NaN and infinities included."""
    row = np.array(values, dtype=np.float64)
    packed = pack(row)
    assert len(packed) == 8 * WIDTH
    assert unpack([packed] * count, LAYOUT, LAYOUT.names).tobytes() == row.tobytes() * count


@given(st.permutations(LAYOUT.names), st.integers(0, WIDTH))
def test_a_stored_row_is_read_by_name_under_any_layout(names: list[str], kept: int) -> None:
    """Columns that both layouts have are the same number, whatever their place; the others are unknown."""
    stored = Layout(tuple(names[:kept]))
    row = np.arange(1.0, kept + 1.0)
    read = unpack([pack(row)], stored, LAYOUT.names)[0]
    expected = {name: row[place] if place < kept else nan for place, name in enumerate(names)}
    assert np.array_equal(read, [expected[name] for name in LAYOUT.names], equal_nan=True)


def test_features_of_another_width_are_refused() -> None:
    """Bytes of another layout are not taken for features of this one."""
    with pytest.raises(FeaturesRefused, match=f"16 bytes are not the {WIDTH} features of layout {LAYOUT.version}"):
        unpack([pack(np.array([1.0, inf]))], LAYOUT, LAYOUT.names)
