"""Lists and snoozes in memory: who is found, in which programme, at which time."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.entity import Keys
from detectors.event_types import Earn
from detectors.register import ALL_PROGRAMS, Entity, Entry, Register, Snooze, columns, register_of, silenced
from streams.listing import ListingError, entities, target_of

KEYS = Keys(b"k" * 32)
NAMES = ("lists.allow", "lists.block", "lists.final", "lists.watch", "lists.vip")


def values(**of: list[Entity | None]) -> object:
    """A batch's entities by kind; nobody of the others."""
    rows = max(map(len, of.values()))
    return lambda kind: of.get(kind, [None] * rows)


def test_an_entry_counts_in_its_programme_until_its_end() -> None:
    """One of a programme, one of all programmes; the last moment still counts."""
    register = register_of([
        (("account", "p", "ann"), Entry(1, "block", "block", 100)),
        (("account", ALL_PROGRAMS, "bob"), Entry(2, "watch", "watch")),
    ])  # fmt: skip
    batch = values(account=["ann", "ann", "ann", "bob", None])
    found = register.find(["p", "p", "q", "q", "p"], [100, 101, 50, 10**15, 0], batch)  # type: ignore[arg-type]  # a lambda
    assert found == [(0, Entry(1, "block", "block", 100)), (3, Entry(2, "watch", "watch"))]


def test_an_empty_register_asks_for_nothing() -> None:
    """Who keeps no lists pays nothing: not even the entities are looked up."""

    def never(kind: str) -> list[Entity | None]:
        raise AssertionError(kind)

    assert Register[Entry]().find(["p"], [0], never) == []


def test_columns_tell_the_lowest_entry_by_tier_and_by_name() -> None:
    """A row on several lists names the first entry of each; nobody else's row is touched."""
    found = [(0, Entry(9, "vip", "allow")), (0, Entry(4, "allow", "allow")), (2, Entry(7, "vip", "plain"))]
    assert columns(found, 3, NAMES).tolist() == [[4.0, 0.0, 0.0, 0.0, 9.0], [0.0] * 5, [0.0, 0.0, 0.0, 0.0, 7.0]]


def test_a_list_may_be_called_plain() -> None:
    """It is a list like any other: entries of plain lists are none of its own."""
    found = [(0, Entry(1, "vip", "plain")), (1, Entry(2, "plain", "block"))]
    assert columns(found, 2, ("lists.block", "lists.plain")).tolist() == [[0.0, 0.0], [2.0, 2.0]]


def test_snoozes_by_row() -> None:
    """All rules that are snoozed for any entity of a row."""
    found = [(1, Snooze(1, "a", 5)), (1, Snooze(2, "b", 5)), (4, Snooze(1, "a", 5))]
    assert silenced(found) == {1: frozenset({"a", "b"}), 4: frozenset({"a"})}


PLACES = st.tuples(st.sampled_from(["account", "store"]), st.sampled_from(["", "p", "q"]), st.sampled_from(["x", "y"]))


@given(st.lists(st.tuples(PLACES, st.integers(0, 20))), st.lists(st.tuples(PLACES, st.integers(0, 20)), max_size=6))
def test_a_register_finds_what_a_scan_finds(
    items: list[tuple[tuple[str, str, str], int]], events: list[tuple[tuple[str, str, str], int]]
) -> None:
    """Against reading all entries for each event."""
    register = register_of(
        (place, Entry(number, "block", "block", until)) for number, (place, until) in enumerate(items)
    )
    programs, times = [place[1] for place, _ in events], [time for _, time in events]
    got = register.find(programs, times, lambda kind: [place[2] if place[0] == kind else None for place, _ in events])
    scanned = {
        (row, number)
        for row, ((kind, program, value), time) in enumerate(events)
        for number, ((of, where, what), until) in enumerate(items)
        if (of, what) == (kind, value) and where in {program, ALL_PROGRAMS} and time <= until
    }
    assert {(row, entry.number) for row, entry in got} == scanned


@pytest.mark.parametrize(
    ("network", "address", "inside"),
    [
        ("203.0.113.0/24", "203.0.113.200", True),
        ("203.0.113.0/24", "203.0.114.1", False),
        ("203.0.113.0/24", "::ffff:203.0.113.9", True),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("32.1.13.184/30", "2001:db8::1", False),
        ("203.0.113.7/32", "203.0.113.7", True),
    ],
)
def test_networks(network: str, address: str, inside: bool) -> None:
    """An address is found by any network it lies in, of its own version only; whole addresses are networks too."""
    target = target_of("ip", network, KEYS)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    event = Earn(id="e", source="pos", program="p", account="a", occurred_at=at, points=1, ip=address)
    of = entities([event], KEYS)
    kinds = ["ip"] if target.prefix == 0 else [f"ip{version}/{target.prefix}" for version in (4, 6)]
    assert any(of(kind)[0] == target.value for kind in kinds) == inside


@pytest.mark.parametrize(
    ("kind", "value", "remedy"),
    [
        ("shoe", "x", "take one of account"),
        ("account", " ", "as events carry it"),
        ("ip", "1.2.3", "203.0.113.7"),
        ("ip", "203.0.113.7/24", "has host bits set"),
        ("ip", "0.0.0.0/0", "longer prefix"),
    ],
)
def test_what_cannot_stand_on_a_list(kind: str, value: str, remedy: str) -> None:
    """Each mistake says what to do."""
    with pytest.raises(ListingError, match=remedy):
        target_of(kind, value, KEYS)


def test_what_is_shown_of_an_entity() -> None:
    """Names as they are; devices, addresses and small networks hidden; a network of 256 lines as it is."""
    assert target_of("store", "s-1", KEYS).shown == "s-1"
    assert target_of("ip", "203.0.113.0/24", KEYS).shown == "203.0.113.0/24"
    assert target_of("ip", "2001:db8::/40", KEYS).shown == "2001:db8::/40"
    addresses = ("203.0.113.7", "203.0.113.0/28", "2001:db8:0:7::/64", "2001:db8:7::/48")
    for kind, value in (("device", "d-1"), *(("ip", address) for address in addresses)):
        shown = target_of(kind, value, KEYS).shown
        assert shown.startswith("…")
        assert value.split("/")[0] not in shown
