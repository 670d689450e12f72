"""Expiry: each lot once, on its day and not before, and right even before the job that does it has run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.lot_books import Books, day, sound

EARNS = st.lists(st.tuples(st.integers(1, 30), st.one_of(st.none(), st.integers(1, 5))), max_size=7)


def test_one_transaction_a_lot() -> None:
    """The job expires what is due and says how many lots; a transaction is named after its lot, dated by its day."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.move("earn", 5, lasts=2)
    books.move("earn", 3)
    books.today(4)
    assert books.ledger.expire("north") == 2
    first, second = books.dump().txns[3:]
    ids = [lot.lot_id for lot in books.dump().lots]
    assert first[1:] == ("north", "expire", "pointguard:expiry", str(ids[0]), None, 10, False, day(1), None)
    assert (second.event_id, second.amount, second.occurred_ms) == (str(ids[1]), 5, day(2))
    assert books.figures() == (3, 0, 0, 3, 0)
    assert {one.name: one.posted_cr for one in books.dump().accounts}["expired"] == 15
    sound(books.dump())


def test_a_second_run_finds_nothing() -> None:
    """Expiry is idempotent: the same moment again changes nothing at all."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.today(1)
    assert books.ledger.expire("north") == 1
    before = books.dump()
    assert books.ledger.expire("north") == 0
    assert books.dump() == before


def test_a_lot_lives_until_its_moment() -> None:
    """A millisecond before its time it may be spent, at its time no more."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.today(1 - 1 / 86_400_000)
    assert (books.ledger.expire("north"), books.move("redeem", 4).code) == (0, "posted")
    books.today(1)
    assert (books.move("redeem", 4).code, books.ledger.expire("north")) == ("insufficient_balance", 1)


def test_a_bounded_run_takes_the_oldest_first() -> None:
    """Many due lots are done in batches, the ones that fell due first in the first."""
    books = Books()
    for lasts in (3, 1, 2):
        books.move("earn", lasts, lasts=lasts, account=f"m{lasts}")
    books.today(5)
    left = []
    while books.ledger.expire("north", 1):
        left.append([books.figures(f"m{lasts}")[0] for lasts in (1, 2, 3)])
    assert left == [[0, 2, 3], [0, 0, 3], [0, 0, 0]]


def test_reserved_points_do_not_expire() -> None:
    """Of a lot that a hold reserves only the rest expires; what the hold frees expires then, under the lot's name."""
    books = Books()
    books.move("earn", 10, lasts=1)
    hold_id = books.hold("redeem", 6)
    books.today(1)
    assert books.ledger.expire("north") == 1
    assert books.figures() == (6, 0, 6, 0, 0)
    assert books.ledger.expire("north") == 0
    books.end(hold_id, "void")
    assert books.figures() == (0, 0, 0, 0, 0)
    names = {(txn.event_id, txn.amount) for txn in books.dump().txns if txn.kind == "expire"}
    assert names == {(str(books.dump().lots[0].lot_id), 4), (str(books.dump().lots[0].lot_id), 6)}
    sound(books.dump())


@settings(deadline=None)
@given(EARNS, st.integers(0, 6), st.integers(1, 60))
def test_spending_is_right_before_the_job_ran(earns: list[tuple[int, int | None]], today: int, asked: int) -> None:
    """With or without the job, the same may be spent, the same lots are used, and the same is left."""
    ran, not_ran = Books(), Books()
    for books in (ran, not_ran):
        books.move("redeem", 0)
        for points, lasts in earns:
            books.move("earn", points, lasts=lasts)
        books.today(today)
    ran.ledger.expire("north")
    assert ran.figures()[3] == not_ran.figures()[3] == sum(n for n, lasts in earns if lasts is None or lasts > today)
    assert ran.move("redeem", asked).code == not_ran.move("redeem", asked).code
    assert (ran.uses("debit"), ran.figures()[3]) == (not_ran.uses("debit"), not_ran.figures()[3])
    not_ran.ledger.expire("north")
    assert ran.left() == not_ran.left()
    sound(not_ran.dump())


@pytest.mark.parametrize(("kind", "points"), [("redeem", 5), ("transfer", 5), ("adjust", -5)])
@pytest.mark.parametrize("verdict", ["post", "hold"])
def test_whatever_takes_points_expires_what_is_due_first(kind: str, points: int, verdict: str) -> None:
    """An outflow that goes through, held or posted, leaves no due points behind."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.move("earn", 10, lasts=3)
    books.today(2)
    assert books.move(kind, points, verdict, to="bob").code in {"posted", "held"}
    assert [txn.kind for txn in books.ledger.tables.txns.values()][2:] == ["expire", kind]
    sound(books.dump())


def test_a_fact_beyond_what_may_be_spent_becomes_arrears() -> None:
    """Due points do not cover a fact: they expire, and what lacks is owed."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.move("earn", 10, lasts=3)
    books.today(2)
    assert books.move("redeem", 25, fact=True) == ("posted", 0, 15)
    assert books.uses("expire") == [(books.dump().lots[0].lot_id, 10)]


def test_what_comes_in_expires_nothing() -> None:
    """An inflow needs no lots of its account, and touches none."""
    books = Books()
    books.move("earn", 10, lasts=1)
    books.today(2)
    assert books.move("earn", 5) == ("posted", 15, 0)
    assert books.figures() == (15, 0, 0, 5, 0)
