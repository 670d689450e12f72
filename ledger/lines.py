"""A member's statement, line by line, with running balances. Pure: works on the entries of an account as they are read.

A statement has a line for each transaction that touched the account or its arrears. Each of the two numbers its entries
1, 2, 3, …; a transaction may be in either or in both. Lines are in the order of both numberings, and where these leave
it open, of time and transaction id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

from ledger.movement import PENDING, POSTED

Step = Literal["posted", "held", "approved", "released"]


class Leg(NamedTuple):
    """An entry of the account, or of its arrears: its number, its transaction, and how much on which layer.

    `kind` is that of the movement: of a post or void the hold's. `shared`: the transaction touched both of the two.
    """

    seq: int
    txn_id: int
    recorded_ms: int
    kind: str
    step: Step
    amount: int
    layer: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Points at a moment, or what changes them: posted, waiting to come in, set aside to go out, and owed."""

    posted: int = 0
    pending_in: int = 0
    pending_out: int = 0
    owed: int = 0

    def plus(self, change: Standing, times: int = 1) -> Standing:
        """This standing after a change, or before it with `times` -1."""
        return Standing(
            self.posted + times * change.posted,
            self.pending_in + times * change.pending_in,
            self.pending_out + times * change.pending_out,
            self.owed + times * change.owed,
        )


class Place(NamedTuple):
    """A point in an account's history: after so many of its entries, and of its arrears' entries."""

    entries: int
    arrears: int

    @classmethod
    def read(cls, text: str) -> Place:
        """A place from the text that `str` makes of it; ValueError for another text."""
        numbers = text.split(".")
        if [str(int(one)) for one in numbers if one.isdecimal()] != numbers or len(numbers) != len(cls._fields):
            raise ValueError(f"{text!r} is no place in a statement")
        return cls(*map(int, numbers))

    def __str__(self) -> str:
        return f"{self.entries}.{self.arrears}"


@dataclass(frozen=True, slots=True)
class Line:
    """What one transaction changed, and how the account stood after it; `before` and `after` are places for paging."""

    txn_id: int
    recorded_ms: int
    kind: str
    step: Step
    change: Standing
    standing: Standing
    before: Place
    after: Place


class _Turn(NamedTuple):
    """The entries of one transaction on one of the two accounts."""

    first: Leg
    legs: int
    change: Standing


def lines(
    own: Iterable[Leg], arrears: Iterable[Leg], start: Place, standing: Standing, *, newer: bool
) -> Iterator[Line]:
    """Merge the entries next to `start`, where the account stood at `standing`, into lines going away from it.

    Entries come in the order of the walk: rising numbers from `start` on if `newer`, else falling ones down to 1.
    """
    step = 1 if newer else -1
    ours, theirs = _turns(own, _points), _turns(arrears, _debt)
    mine, other = next(ours, None), next(theirs, None)
    while (turn := _next(mine, other, newer=newer)) is not None:
        change, place = Standing(), start
        if mine is not None and mine.first.txn_id == turn.txn_id:
            change, place = change.plus(mine.change), Place(place.entries + step * mine.legs, place.arrears)
            mine = next(ours, None)
        if other is not None and other.first.txn_id == turn.txn_id:
            change, place = change.plus(other.change), Place(place.entries, place.arrears + step * other.legs)
            other = next(theirs, None)
        passed = standing.plus(change, step)
        head = (turn.txn_id, turn.recorded_ms, turn.kind, turn.step, change)
        yield Line(*head, passed, start, place) if newer else Line(*head, standing, place, start)
        start, standing = place, passed


def _next(mine: _Turn | None, other: _Turn | None, *, newer: bool) -> Leg | None:
    """An entry of the transaction that comes next."""
    if mine is None or other is None:
        turn = mine or other
        return turn.first if turn is not None else None
    if mine.first.shared != other.first.shared:
        # A transaction in both waits until both numberings have come to it.
        return other.first if mine.first.shared else mine.first
    first, second = ((leg.recorded_ms, leg.txn_id) for leg in (mine.first, other.first))
    return mine.first if (first < second) == newer else other.first


def _turns(legs: Iterable[Leg], change_of: Callable[[Leg], Standing]) -> Iterator[_Turn]:
    for _, group in groupby(legs, key=attrgetter("txn_id")):
        found = list(group)
        yield _Turn(found[0], len(found), reduce(Standing.plus, map(change_of, found), Standing()))


def _points(leg: Leg) -> Standing:
    """What an entry of the account itself changes."""
    if leg.layer == POSTED:
        return Standing(posted=leg.amount)
    opened = leg.amount if leg.layer == PENDING else -leg.amount
    return Standing(pending_in=opened) if leg.amount > 0 else Standing(pending_out=-opened)


def _debt(leg: Leg) -> Standing:
    """What an entry of the arrears changes: these are debited when something is owed."""
    return Standing(owed=-leg.amount)
