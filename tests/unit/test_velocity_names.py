"""The names of velocity: what is one, what it asks for, and what to write instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.velocity_names import (
    APPROXIMATE,
    DAY_MS,
    KIND_OF_OTHERS,
    KINDS,
    OTHERS,
    OTHERS_MAX,
    SINCE_MS,
    Coverage,
    Spec,
    advice,
    demand_of,
    is_velocity,
    ordered,
    spec_of,
)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("velocity.account.count_1m", Spec(0, "count", 60_000)),
        ("velocity.staff.sum_24h", Spec(5, "sum", DAY_MS)),
        ("velocity.device.accounts_30d", Spec(1, "accounts", 30 * DAY_MS)),
        ("velocity.ip_prefix.max_90d", Spec(3, "max", 90 * DAY_MS)),
        ("velocity.store.staff_2160h", Spec(4, "staff", 90 * DAY_MS)),
        ("velocity.account.seconds_since_last", Spec(0, "seconds_since_last", SINCE_MS)),
    ],
)
def test_a_name_says_kind_aggregate_and_window(name: str, spec: Spec) -> None:
    """Every part of a name is read."""
    assert spec_of(name) == spec
    assert is_velocity(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("velocity.devise.count_1h", "did you mean velocity.device.count_1h?"),
        ("velocity.shop.count_1h", "use one of account, device, ip"),
        ("velocity.device.devices_1h", "device has no 'devices', use one of count, sum, avg, max, accounts, ips"),
        ("velocity.device.acounts_1h", "did you mean velocity.device.accounts_1h"),
        ("velocity.device.count_91d", "'91d' is no window: write a number and m, h or d, from 1m to 90d"),
        ("velocity.device.count_0m", "'0m' is no window"),
        ("velocity.device.count_05m", "'05m' is no window"),
        ("velocity.device.count_30s", "'30s' is no window"),
        ("velocity.device.count_2161h", "'2161h' is no window"),
        ("velocity.device.count", "say over which window, for instance velocity.device.count_24h"),
        (
            "velocity.account.seconds_since",
            "did you mean velocity.account.seconds_since_last or velocity.account.seconds_since_first",
        ),
        ("velocity.account.peers_1h.x", "no window"),
        ("velocity.account", "account has no ''"),
        ("velocity.", "there is no kind ''"),
    ],
)
def test_what_is_no_name_is_told_what_to_write(name: str, remedy: str) -> None:
    """Kind, aggregate and window each have their own advice."""
    assert not is_velocity(name)
    assert remedy in advice(name)
    with pytest.raises(ValueError, match="no velocity name"):
        demand_of((name,))


@given(st.text("velocityaccountdevice._0123456789mhd{}", max_size=40))
def test_advice_never_fails(rest: str) -> None:
    """Whatever stands behind the prefix."""
    assert is_velocity(f"velocity.{rest}") or advice(f"velocity.{rest}")


def test_names_have_one_order() -> None:
    """By kind, aggregate and length of the window, so that equal sets of names are equal layouts."""
    names = (
        "velocity.account.count_1m", "velocity.account.count_24h", "velocity.account.count_1d",
        "velocity.account.count_7d", "velocity.account.sum_1m", "velocity.account.peers_1h",
        "velocity.account.seconds_since_first", "velocity.device.count_1m", APPROXIMATE,
    )  # fmt: skip
    order = ordered(names[::-1])
    assert order == ordered(names)
    assert order[1:3] == ("velocity.account.count_1d", "velocity.account.count_24h"), "equal windows by name"
    assert (order[0], order[3:]) == (names[0], names[3:])


def test_records_have_room_for_all_others() -> None:
    """No kind shows more others than a record holds, and each is some kind's entity or a peer."""
    assert max(map(len, OTHERS.values())) == OTHERS_MAX
    assert tuple(OTHERS) == KINDS
    assert {name for others in OTHERS.values() for name in others} - {"peers"} == set(KIND_OF_OTHERS)


def test_a_demand_covers_its_longest_windows() -> None:
    """Kinds that no name asks for are not kept; first and last reach over 90 days."""
    demand = demand_of(("velocity.account.count_1m", "velocity.account.sum_7d", "velocity.staff.seconds_since_last"))
    memory = dict(zip(KINDS, demand.coverage.memory_ms, strict=True))
    assert {kind: ms for kind, ms in memory.items() if ms} == {"account": 7 * DAY_MS, "staff": SINCE_MS}
    assert [KINDS[kind] for kind in demand.coverage.kinds] == ["account", "staff"]


def test_coverages_are_compared_kind_by_kind() -> None:
    """What one lacks of another, what covers both, and parts of one."""
    one, other = Coverage((5, 0, 7) + (0,) * 6), Coverage((6, 3, 7) + (0,) * 6)
    assert (one.lacks(other), other.lacks(one), one.lacks(one)) == ((0, 1), (), ())
    assert one.joined(other) == other.joined(one) == other
    assert one.without([0]) == one.of([1, 2]) == Coverage((0, 0, 7) + (0,) * 6)
    assert one.without([0]).joined(one.of([0])) == one
