"""Statements: lines from numbered entries, both ways, in pieces, with balances that always agree."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.lines import Leg, Line, Place, Standing, lines

START = Place(0, 0)
# What a transaction may do: entries of the account as (amount, layer), and of its arrears as amounts.
SHAPES = st.sampled_from(
    [
        ("earn", "posted", [(7, 0)], []),
        ("earn", "posted", [(3, 0)], [4]),
        ("earn", "posted", [], [5]),
        ("earn", "held", [(9, 1)], []),
        ("earn", "approved", [(9, 2), (9, 0)], []),
        ("redeem", "posted", [(-6, 0)], [-2]),
        ("redeem", "held", [(-8, 1)], []),
        ("redeem", "released", [(-8, 2)], []),
        ("expire", "posted", [(-1, 0)], []),
    ]
)
HISTORIES = st.lists(st.tuples(SHAPES, st.booleans(), st.integers(0, 1)), max_size=25)


def history(
    given: list[tuple[tuple[str, str, list[tuple[int, int]], list[int]], bool, int]],
) -> tuple[list[Leg], list[Leg]]:
    """Number the entries of transactions in the order they were written; ids may fall, times may stand still."""
    own: list[Leg] = []
    arrears: list[Leg] = []
    at = 1000
    for number, ((kind, step, entries, debts), falling, later) in enumerate(given):
        at += later
        txn_id = (10_000 - number) if falling else (20_000 + number)
        shared = bool(entries and debts)
        for amount, layer in entries:
            own.append(Leg(len(own) + 1, txn_id, at, kind, step, amount, layer, shared))  # type: ignore[arg-type]  # a step
        for amount in debts:
            arrears.append(Leg(len(arrears) + 1, txn_id, at, kind, step, amount, 0, shared))  # type: ignore[arg-type]  # a step
    return own, arrears


def walk_newer(own: list[Leg], arrears: list[Leg], start: Place, standing: Standing) -> list[Line]:
    """All lines after a place."""
    return list(lines(own[start.entries :], arrears[start.arrears :], start, standing, newer=True))


def walk_older(own: list[Leg], arrears: list[Leg], start: Place, standing: Standing) -> list[Line]:
    """All lines before a place, the newest first."""
    return list(lines(own[: start.entries][::-1], arrears[: start.arrears][::-1], start, standing, newer=False))


@given(HISTORIES)
def test_both_ways_tell_the_same(
    given: list[tuple[tuple[str, str, list[tuple[int, int]], list[int]], bool, int]],
) -> None:
    """Read from the start or back from the end, every transaction has one line and every balance is the same."""
    own, arrears = history(given)
    forth = walk_newer(own, arrears, START, Standing())
    assert sorted(line.txn_id for line in forth) == sorted({leg.txn_id for leg in own + arrears})
    end = forth[-1].standing if forth else Standing()
    back = walk_older(own, arrears, Place(len(own), len(arrears)), end)
    # Only where neither numbering nor time tells an order may two lines stand the other way round.
    if all(one.recorded_ms < two.recorded_ms for one, two in pairwise(forth)):
        assert back[::-1] == forth
    assert sorted(line.txn_id for line in back) == sorted(line.txn_id for line in forth)
    assert (back[-1].before, back[-1].standing.plus(back[-1].change, -1)) == (START, Standing()) if back else True


@given(HISTORIES)
def test_balances_are_the_sums_of_changes(
    given: list[tuple[tuple[str, str, list[tuple[int, int]], list[int]], bool, int]],
) -> None:
    """Each line stands at the line before plus its own change, and the end at the sum of all entries."""
    own, arrears = history(given)
    standing, place = Standing(), START
    for line in walk_newer(own, arrears, START, standing):
        standing = standing.plus(line.change)
        assert (line.standing, line.before) == (standing, place)
        place = line.after
    assert place == Place(len(own), len(arrears))
    assert standing.posted == sum(leg.amount for leg in own if leg.layer == 0)
    assert standing.owed == -sum(leg.amount for leg in arrears)


@given(HISTORIES, st.integers(1, 4), st.booleans())
def test_pages_make_the_whole(
    given: list[tuple[tuple[str, str, list[tuple[int, int]], list[int]], bool, int]], size: int, newer: bool
) -> None:
    """Page after page from the place where the last one ended gives what one walk gives, however small the pages."""
    own, arrears = history(given)
    forth = walk_newer(own, arrears, START, Standing())
    walk = walk_newer if newer else walk_older
    place = START if newer else Place(len(own), len(arrears))
    standing = Standing() if newer or not forth else forth[-1].standing
    whole = walk(own, arrears, place, standing)
    found: list[Line] = []
    while page := list(islice(walk(own, arrears, place, standing), size)):
        found += page
        last = page[-1]
        place = last.after if newer else last.before
        standing = last.standing if newer else last.standing.plus(last.change, -1)
    assert found == whole


def test_a_credit_that_only_repays_has_a_line() -> None:
    """An earn that went to what was owed wholly touched the arrears alone, and is told all the same, in its place."""
    own = [Leg(1, 1, 10, "earn", "posted", 5, 0), Leg(2, 2, 20, "redeem", "posted", -5, 0, shared=True)]
    arrears = [
        Leg(1, 2, 20, "redeem", "posted", -8, 0, shared=True),
        Leg(2, 3, 30, "earn", "posted", 8, 0),
    ]
    told = [
        (line.kind, line.standing.posted, line.standing.owed) for line in walk_newer(own, arrears, START, Standing())
    ]
    assert told == [("earn", 5, 0), ("redeem", 0, 8), ("earn", 0, 0)]


def test_within_one_moment_a_shared_transaction_keeps_both_orders() -> None:
    """Ids and times say nothing here; the numberings do: what only repaid came before the redemption in both."""
    own = [Leg(1, 5, 10, "redeem", "posted", -5, 0, shared=True)]
    arrears = [Leg(1, 9, 10, "earn", "posted", 2, 0), Leg(2, 5, 10, "redeem", "posted", -1, 0, shared=True)]
    assert [line.txn_id for line in walk_newer(own, arrears, START, Standing(5, 0, 0, 2))] == [9, 5]


def test_holds_wait_and_leave() -> None:
    """A hold sets aside, its release gives back, an approval posts: on one line each."""
    own = [
        Leg(1, 1, 10, "earn", "held", 9, 1),
        Leg(2, 2, 11, "earn", "approved", 9, 2),
        Leg(3, 2, 11, "earn", "approved", 6, 0),
        Leg(4, 3, 12, "redeem", "held", -4, 1),
        Leg(5, 4, 13, "redeem", "released", -4, 2),
    ]
    told = [line.standing for line in walk_newer(own, [], START, Standing())]
    assert told == [Standing(0, 9), Standing(6), Standing(6, 0, 4), Standing(6)]


def test_a_place_is_a_text() -> None:
    """Cursors survive an URL and a command line; anything else is refused."""
    assert Place.read(str(Place(12, 3))) == Place(12, 3)
    for wrong in ("", "12", "12.", ".3", "1.2.3", "-1.2", "a.b", "１2.3", "01.2"):
        with pytest.raises(ValueError, match="no place"):
            Place.read(wrong)
