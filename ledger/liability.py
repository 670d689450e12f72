"""What a programme's points are worth in money, and how what is owed to members moved. Pure, integers only.

A point's value is given in millionths of the minor unit of money (terms), rates in parts per million, so that every sum
is exact; it is divided, and so rounded, once, at the end. Halves are rounded away from zero, which treats what is owed
and what is due alike. Sums of rounded figures may differ from the rounded sum by a minor unit a figure: each figure is
rounded from the exact one, never from another rounded one.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

MILLION = 1_000_000
_MONTHS = 12

Cause = Literal["issued", "redeemed", "expired", "clawed_back", "restored", "adjusted", "transferred"]
CAUSES: tuple[Cause, ...] = (
    "issued",
    "redeemed",
    "expired",
    "clawed_back",
    "restored",
    "adjusted",
    "transferred",
)


def rounded(numerator: int, denominator: int) -> int:
    """The integer nearest to numerator / denominator (positive); a half goes away from zero."""
    quotient, rest = divmod(abs(numerator), denominator)
    quotient += 2 * rest >= denominator
    return quotient if numerator >= 0 else -quotient


def worth(points: int, unit_value_micros: int) -> int:
    """Points in minor units of money, at `unit_value_micros` millionths of one a point."""
    return rounded(points * unit_value_micros, MILLION)


def months_before(moment: datetime, months: int) -> datetime:
    """The same day and time so many calendar months earlier; the month's last day where it has no such day."""
    year, index = divmod(moment.year * _MONTHS + moment.month - 1 - months, _MONTHS)
    last = monthrange(year, index + 1)[1]
    return moment.replace(year=year, month=index + 1, day=min(moment.day, last))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Points at least `from_months` old and younger than the next cohort, and the share expected to be redeemed."""

    from_months: int
    rate_ppm: int
    points: int = 0


def cohorts(redemption_rate_ppm: int, rates: Sequence[tuple[int, int]]) -> tuple[Cohort, ...]:
    """A programme's cohorts without points, youngest first: its rate from the start, then those of `rates`."""
    found = tuple(Cohort(months, rate) for months, rate in rates)
    return found if found and found[0].from_months == 0 else (Cohort(0, redemption_rate_ppm), *found)


@dataclass(frozen=True, slots=True)
class Valuation:
    """What points are worth: `unit_value_micros` millionths of the minor unit of `money` each."""

    money: str
    unit_value_micros: int

    def of(self, points: int) -> int:
        """Points in minor units of money."""
        return worth(points, self.unit_value_micros)

    def expected(self, found: Iterable[Cohort]) -> int:
        """What of these cohorts is expected to be redeemed, in minor units of money; rounded once."""
        return rounded(sum(one.points * one.rate_ppm for one in found) * self.unit_value_micros, MILLION * MILLION)


@dataclass(frozen=True, slots=True)
class Liability:
    """A programme's points at a moment, and their worth.

    `outstanding` are all posted points of members and pools. Of these `lapsed` are due and not set aside: nobody can
    spend them any more, though their expiry may not be posted yet. The others, `face`, are in `cohorts` by their age.
    Of `face`, `held_out` are set aside by open holds; `held_in` are not posted: they wait for approval. `owed` is what
    members owe (arrears), an asset of its own, not subtracted anywhere.
    """

    program: str
    at: datetime
    value: Valuation
    cohorts: tuple[Cohort, ...]
    lapsed: int
    held_out: int
    held_in: int
    owed: int

    @property
    def face(self) -> int:
        """Points that may still be spent, or are set aside to be."""
        return sum(one.points for one in self.cohorts)

    @property
    def outstanding(self) -> int:
        """Posted points, lapsed ones included: what the ledger's balances sum up to."""
        return self.face + self.lapsed

    @property
    def expected_value(self) -> int:
        """What of `face` is expected to be redeemed, in minor units of money."""
        return self.value.expected(self.cohorts)


@dataclass(frozen=True, slots=True)
class Change:
    """What one cause did in a period to members' points, and to what members owe."""

    cause: Cause
    points: int
    owed: int


@dataclass(frozen=True, slots=True)
class Roll:
    """How a programme's liability moved from `since` up to `until`: opening + changes = closing.

    `opening` and `closing` (points, owed) are found from lots and balances, `changes` from the entries in between, so
    that `adds_up` compares two accounts of the same thing. A credit that repays arrears first lowers what is owed and
    raises the points by the rest.
    """

    program: str
    since: datetime
    until: datetime
    value: Valuation
    opening: tuple[int, int]
    changes: tuple[Change, ...]
    closing: tuple[int, int]

    @property
    def adds_up(self) -> bool:
        """Whether the changes lead from the opening figures to the closing ones."""
        points = self.opening[0] + sum(change.points for change in self.changes)
        owed = self.opening[1] + sum(change.owed for change in self.changes)
        return (points, owed) == self.closing

    @property
    def breakage(self) -> int:
        """Points that expired in the period."""
        return -sum(change.points for change in self.changes if change.cause == "expired")


_CAUSE_OF: Mapping[str, Cause] = {
    "earn": "issued",
    "redeem": "redeemed",
    "expire": "expired",
    "adjust": "adjusted",
    "transfer": "transferred",
    "merge": "transferred",
}


def cause_of(kind: str, gained: int) -> Cause:
    """The cause of a transaction of that kind (a post: its hold's), which changed points less what is owed by `gained`.

    A reverse that takes is a clawback, one that gives restores what was spent, and one of a transfer does neither.
    """
    if kind != "reverse":
        return _CAUSE_OF[kind]
    if gained == 0:
        return "transferred"
    return "restored" if gained > 0 else "clawed_back"


def summed(rows: Iterable[tuple[str, int, int]]) -> tuple[Change, ...]:
    """Sum transactions, or groups of one kind and sign, given as (kind, points, owed), into one change a cause."""
    points = dict.fromkeys(CAUSES, 0)
    owed = dict.fromkeys(CAUSES, 0)
    for kind, moved, lent in rows:
        cause = cause_of(kind, moved - lent)
        points[cause] += moved
        owed[cause] += lent
    return tuple(Change(cause, points[cause], owed[cause]) for cause in CAUSES)
