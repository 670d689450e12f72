"""Points in money: exact sums, one rounding at the end, calendar months, and a roll that adds up."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.liability import (
    CAUSES,
    MILLION,
    Cohort,
    Liability,
    Roll,
    Valuation,
    cause_of,
    cohorts,
    months_before,
    rounded,
    summed,
    worth,
)

POINTS = st.integers(-(2**53), 2**53)
MICROS = st.integers(0, 10**12)
NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
FEN = Valuation("CNY", MILLION)


def exactly(value: Fraction) -> int:
    """The nearest integer, halves away from zero, by exact fractions."""
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


@given(POINTS, MICROS)
def test_worth_is_the_exact_product_rounded_once(points: int, micros: int) -> None:
    """Whatever the size: no float, no drift, and a debt is worth what the same claim is."""
    assert worth(points, micros) == exactly(Fraction(points * micros, MILLION))
    assert worth(-points, micros) == -worth(points, micros)


@pytest.mark.parametrize(("given", "nearest"), [(5, 1), (4, 0), (-5, -1), (15, 2), (14, 1), (0, 0)])
def test_halves_go_away_from_zero(given: int, nearest: int) -> None:
    """The rounding that the documentation states."""
    assert rounded(given, 10) == nearest


@given(st.lists(st.tuples(st.integers(0, 2**53), st.integers(0, MILLION)), max_size=9), MICROS)
def test_expected_value_is_exact_and_never_above_face(found: list[tuple[int, int]], micros: int) -> None:
    """The sum over cohorts is rounded once, and with rates up to one it does not exceed the face value."""
    parts = [Cohort(age, rate, points) for age, (points, rate) in enumerate(found)]
    value = Valuation("CNY", micros)
    exact = sum((Fraction(points * rate * micros, MILLION * MILLION) for points, rate in found), Fraction())
    assert value.expected(parts) == exactly(exact)
    assert value.expected(parts) <= value.of(sum(points for points, _ in found))


def test_the_example_of_the_reference() -> None:
    """2,000 points of 0.10 that are redeemed to 85 %: 170.00 expected, in fen."""
    assert Valuation("CNY", 10 * MILLION).expected([Cohort(0, 850_000, 2_000)]) == 17_000


@pytest.mark.parametrize(
    ("months", "day"),
    [(0, (2026, 3, 31)), (1, (2026, 2, 28)), (3, (2025, 12, 31)), (4, (2025, 11, 30)), (25, (2024, 2, 29))],
)
def test_months_are_the_calendars(months: int, day: tuple[int, int, int]) -> None:
    """A month before the 31st is the last day of a shorter month; the time of day stays."""
    assert months_before(NOON, months) == datetime(*day, 12, tzinfo=UTC)


def test_the_programmes_rate_holds_until_the_first_cohort() -> None:
    """Cohorts begin at zero months, with the programme's own rate unless one of them begins there."""
    assert cohorts(900, ()) == (Cohort(0, 900),)
    assert cohorts(900, ((6, 500), (12, 100))) == (Cohort(0, 900), Cohort(6, 500), Cohort(12, 100))
    assert cohorts(900, ((0, 800), (12, 100))) == (Cohort(0, 800), Cohort(12, 100))


def test_the_three_figures_of_a_liability() -> None:
    """Face is what can be spent, expected what will be, and lapsed points are in neither."""
    found = Liability("p", NOON, FEN, (Cohort(0, MILLION, 70), Cohort(12, 500_000, 30)), 5, 10, 40, 3)
    assert (found.face, found.outstanding, found.expected_value) == (100, 105, 85)


@pytest.mark.parametrize(
    ("kind", "gained", "cause"),
    [
        ("earn", 5, "issued"),
        ("redeem", -5, "redeemed"),
        ("expire", -5, "expired"),
        ("adjust", 5, "adjusted"),
        ("transfer", 0, "transferred"),
        ("merge", 0, "transferred"),
        ("reverse", -5, "clawed_back"),
        ("reverse", 5, "restored"),
        ("reverse", 0, "transferred"),
    ],
)
def test_every_kind_has_its_line(kind: str, gained: int, cause: str) -> None:
    """A reverse is told by what it did: taken back, given back, or a transfer undone."""
    assert cause_of(kind, gained) == cause


KINDS = st.sampled_from(["earn", "redeem", "expire", "adjust", "transfer", "merge", "reverse"])


@given(st.lists(st.tuples(KINDS, POINTS, POINTS)), POINTS, POINTS)
def test_the_roll_adds_up(rows: list[tuple[str, int, int]], points: int, owed: int) -> None:
    """Opening and all changes make the closing figures, whatever moved; one point more is noticed."""
    closing = (points + sum(row[1] for row in rows), owed + sum(row[2] for row in rows))
    changes = summed(rows)
    assert tuple(change.cause for change in changes) == CAUSES
    roll = Roll("p", NOON, NOON, FEN, (points, owed), changes, closing)
    assert roll.adds_up
    assert not Roll("p", NOON, NOON, FEN, (points, owed), changes, (closing[0] + 1, closing[1])).adds_up


def test_breakage_is_what_expired() -> None:
    """Expired points are released; other losses of points are not breakage."""
    changes = summed([("expire", -30, 0), ("expire", -12, 0), ("redeem", -50, 0)])
    assert Roll("p", NOON, NOON, FEN, (100, 0), changes, (8, 0)).breakage == 42
