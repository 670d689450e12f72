"""Refunds of orders: the arithmetic, each step once, and nothing to be gained by buying and returning."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.memory import MemoryLedger
from ledger.origin import Origin
from ledger.refunds import owing
from tests.ledger_rig import Rig


def rig(**terms: Any) -> Rig:
    """A programme in memory."""
    return Rig(MemoryLedger(), **terms)


def taken(book: Rig, event: str) -> int:
    """Points of an event taken back or given back so far."""
    return sum(sum(parts.values()) for parts in book.reversals(event))


def origin(posted: int, returned: int = 0, unheld: int = 0) -> Origin:
    """An earn as it stands."""
    return Origin(1, "north", "earn", 100, "ann", "ann", posted=posted, returned=returned, unheld=unheld)


def test_a_share_is_rounded_down_and_what_was_taken_counts() -> None:
    """The floor of all that moved, less all that was taken back already, never below nothing."""
    assert owing([origin(100)], 1, 3) == 33
    assert owing([origin(100, returned=30)], 1, 3) == 3
    assert owing([origin(100, returned=50)], 1, 3) == 0
    assert owing([origin(70, unheld=30)], 1, 2) == 20
    assert owing([origin(100), origin(101)], 1, 2) == 100
    assert owing([origin(100)], 900, 300) == 100
    assert owing([], 1, 2) == 0


@given(st.integers(0, 2**53 - 1), st.integers(1, 10**12), st.lists(st.integers(1, 10**12), min_size=1, max_size=20))
def test_steps_never_drift(points: int, total: int, amounts: list[int]) -> None:
    """After any refunds, what was taken is exactly the share of what was refunded; all of it at the end."""
    returned = refunded = 0
    for amount in amounts:
        refunded += amount
        returned += owing([origin(points, returned)], refunded, total)
        assert returned == points * min(refunded, total) // total
    assert returned + owing([origin(points, returned)], total, total) == points


def test_many_small_refunds_come_to_the_same_as_one() -> None:
    """Three thirds of an earn of 100 take 33, 33 and 34."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    steps = []
    for number in range(3):
        before = taken(book, "e-1")
        assert book.refund(f"f-{number}", 1, total=3) == "posted"
        steps.append(taken(book, "e-1") - before)
    assert steps == [33, 33, 34]
    assert book.money() == (0, 0, 0)


def test_a_refund_told_again_is_a_duplicate_whatever_it_says() -> None:
    """The first word stands; nothing moves, and the share does not grow."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    assert [book.refund("f-1", amount) for amount in (100, 100, 900)] == ["posted", "duplicate", "duplicate"]
    assert taken(book, "e-1") == 10
    book.refund("f-2", 100)
    assert taken(book, "e-1") == 20


def test_an_order_that_nobody_knows_may_come_later() -> None:
    """The refund is not remembered, so it is done when it is told again behind the earn."""
    book = rig()
    assert book.refund("f-1", 100) == "unknown_original"
    book.earn("e-1", 100, order="o-1")
    assert book.refund("f-1", 100) == "posted"
    assert taken(book, "e-1") == 10


def test_amounts_that_are_none() -> None:
    """Nothing, less than nothing, and an order that cost nothing."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    assert [book.refund("f-1", 0), book.refund("f-1", -5), book.refund("f-1", 5, total=0)] == [
        "points_out_of_range"
    ] * 3
    assert taken(book, "e-1") == 0


def test_more_refunded_than_the_order_cost_takes_all_and_no_more() -> None:
    """The sum of the steps is capped at the order's total."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    assert [book.refund(f"f-{number}", 700) for number in range(3)] == ["posted"] * 3
    assert taken(book, "e-1") == 100


def test_a_rounded_step_that_takes_nothing_is_remembered() -> None:
    """Too small for a point by itself; together with the next it makes one."""
    book = rig()
    book.earn("e-1", 1, order="o-1")
    assert book.refund("f-1", 999) == "posted"
    assert taken(book, "e-1") == 0
    book.refund("f-2", 1)
    assert taken(book, "e-1") == 1


def test_what_a_reversal_took_is_not_taken_again() -> None:
    """A reversal of 30 and a refund of half take half together."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    book.reverse("e-1", 30)
    book.refund("f-1", 500)
    assert taken(book, "e-1") == 50


def test_several_earns_give_oldest_first() -> None:
    """The share is of all of them together."""
    book = rig()
    book.earn("e-1", 50, order="o-1")
    book.earn("e-2", 51, order="o-1")
    book.earn("e-3", 99, order="o-2")
    book.refund("f-1", 600)
    assert (taken(book, "e-1"), taken(book, "e-2"), taken(book, "e-3")) == (50, 10, 0)


def test_a_held_earn_is_refunded_out_of_its_hold() -> None:
    """A part of the hold goes; when the rest is approved in part, the share is of what counts by then."""
    book = rig()
    book.earn("e-1", 100, order="o-1", verdict="hold")
    book.refund("f-1", 200)
    assert book.reversals("e-1") == [{"from_hold": 20}]
    book.resolve(book.holds()[0].hold_id, "post", 60)
    book.refund("f-2", 300)
    assert book.reversals("e-1") == [{"from_hold": 20}, {"from_lot": 20}]


def test_what_was_spent_on_the_order_comes_back() -> None:
    """Half of the order refunded: half of the redemption restored, half of the earn taken; unless terms say no."""
    for restores in (True, False):
        book = rig(refund_restores=restores)
        book.earn("e-0", 500)
        book.redeem("r-1", 80, order="o-1")
        book.earn("e-1", 100, order="o-1")
        book.refund("f-1", 500)
        assert (taken(book, "e-1"), taken(book, "r-1")) == (50, 40 if restores else 0)


def test_what_comes_back_pays_for_what_is_taken() -> None:
    """All spent: the restored points are there to be taken, so nothing is owed and nothing forgiven."""
    for shortfall in ("arrears", "clamp"):
        book = rig(shortfall=shortfall)
        book.earn("e-0", 100)
        book.redeem("r-1", 100, order="o-1")
        book.earn("e-1", 100, order="o-1")
        book.redeem("r-2", 100)
        book.refund("f-1", 1_000)
        assert book.money() == (0, 0, 0)
        assert book.reversals("e-1") == [{"from_other": 100}]


def test_a_restored_lot_that_is_over_is_traced_within_the_refund() -> None:
    """The redemption's points return in a lot with the grace, and are taken as those of the order's own earn."""
    book = rig(expiry_days=5, grace_days=2)
    book.earn("e-1", 100, order="o-1")
    book.redeem("r-1", 100, order="o-1")
    book.pass_days(6)
    book.refund("f-1", 1_000)
    assert book.reversals("e-1") == [{"from_traced": 100}]
    assert book.money() == (0, 0, 0)


def test_a_transfer_of_the_order_stays() -> None:
    """Who gave points away did not spend them on the order; by itself it makes none."""
    book = rig()
    book.earn("e-0", 100)
    book.transfer("t-1", 50, "bob", order="o-1")
    assert book.refund("f-1", 1_000) == "unknown_original"
    book.redeem("r-1", 10, order="o-1")
    assert book.refund("f-1", 1_000) == "posted"
    assert (book.money(), book.money("bob")) == ((50, 50, 0), (50, 50, 0))


def test_reversed_by_hand_after_the_refund() -> None:
    """A reverse takes what the refunds left, no more."""
    book = rig()
    book.earn("e-1", 100, order="o-1")
    book.refund("f-1", 700)
    assert book.reverse("e-1") == "posted"
    assert taken(book, "e-1") == 100
    book.refund("f-2", 300)
    assert taken(book, "e-1") == 100


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 300), st.integers(1, 4), st.booleans()), min_size=1, max_size=5
    ),
    st.sampled_from(["arrears", "clamp"]),
)
def test_buying_and_returning_gains_nothing(rounds: list[tuple[int, int, int, bool]], shortfall: str) -> None:
    """Orders that earn, and are paid with points in part, all refunded in steps: points as before, nothing owed."""
    book = rig(shortfall=shortfall)
    book.earn("own", 400)
    for number, (earned, spent, steps, held) in enumerate(rounds):
        order = f"o-{number}"
        verdict = "hold" if held else "post"
        if spent:
            book.redeem(f"r-{number}", spent, order=order, verdict=verdict)
        book.earn(f"e-{number}", earned, order=order, verdict=verdict)
        for step in range(steps):
            assert book.refund(f"f-{step}", 100, order=order, total=100 * steps) == "posted"
        assert book.money() == (400, 400, 0)
        assert book.holds() == []
