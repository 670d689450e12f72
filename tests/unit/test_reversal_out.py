"""Taking back what went out: redemptions return to their lots, transfers as far as the receiver still has them."""

from __future__ import annotations

from typing import Any

from ledger.memory import MemoryLedger
from tests.ledger_rig import Rig


def rig(**terms: Any) -> Rig:
    """A programme in memory."""
    return Rig(MemoryLedger(), **terms)


# -- an outflow


def test_a_redemption_goes_back_to_its_lots_the_last_used_first() -> None:
    """Each lot gets no more than it gave, and keeps its expiry."""
    book = rig()
    book.earn("e-1", 50, expires_ms=book.now + 5 * 86_400_000)
    book.earn("e-2", 50, expires_ms=book.now + 9 * 86_400_000)
    book.redeem("r-1", 80)
    assert book.reverse("r-1", 40) == "posted"
    assert book.lots() == [(10, 0, 5), (50, 0, 9)]
    assert book.reverse("r-1") == "posted"
    assert book.lots() == [(50, 0, 5), (50, 0, 9)]
    assert book.reversals("r-1") == [{"restored": 40}, {"restored": 40}]
    assert book.control("redeemed") == 0


def test_a_redemption_repays_arrears_first() -> None:
    """What the member owes by then comes first; what was owed for the redemption itself has no lot to go back to."""
    book = rig(expiry_days=30)
    book.earn("e-1", 60)
    book.redeem("r-1", 100, fact=True)
    assert book.money() == (0, 0, 40)
    book.earn("e-2", 10)
    assert book.reverse("r-1") == "posted"
    assert book.reversals("r-1") == [{"restored": 70, "repaid": 30}]
    assert book.money() == (70, 70, 0)
    assert book.lots() == [(60, 0, 30), (10, 0, 30)]


def test_a_lot_that_is_over_gets_the_grace() -> None:
    """With days of grace the points come back in a lot of their own that is still of the old one."""
    book = rig(expiry_days=5, grace_days=3)
    book.earn("e-1", 50)
    book.redeem("r-1", 50)
    book.pass_days(6)
    assert book.reverse("r-1", 20) == "posted"
    assert book.lots() == [(20, 0, 3)]
    assert book.reverse("r-1") == "posted"
    assert [points for points, _, _ in book.lots()] == [20, 30]
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1") == [{"from_traced": 50}]


def test_a_lot_that_is_over_expires_without_grace() -> None:
    """The points are posted, and gone at their next touch: nobody gains time by a refund."""
    book = rig(expiry_days=5)
    book.earn("e-1", 50)
    book.redeem("r-1", 50)
    book.pass_days(6)
    assert book.reverse("r-1") == "posted"
    assert book.money() == (50, 0, 0)
    assert book.ledger.expire(book.program) == 1
    assert book.money() == (0, 0, 0)


def test_a_held_redemption_keeps_what_it_reserved_first() -> None:
    """Half of it taken back: the lots used last are free again, the others stay set aside."""
    book = rig()
    book.earn("e-1", 50, expires_ms=book.now + 5 * 86_400_000)
    book.earn("e-2", 50)
    book.redeem("r-1", 80, verdict="hold")
    assert book.reverse("r-1", 40) == "posted"
    assert book.lots() == [(50, 40, 5), (50, 0, None)]
    assert book.reversals("r-1") == [{"from_hold": 40}]
    assert book.reverse("r-1") == "posted"
    assert book.lots() == [(50, 0, 5), (50, 0, None)]


def test_a_held_redemption_frees_due_points_without_grace() -> None:
    """The void is not ours, so what fell due meanwhile is over."""
    book = rig(expiry_days=5, grace_days=3)
    book.earn("e-1", 50)
    book.redeem("r-1", 50, verdict="hold")
    book.pass_days(6)
    assert book.reverse("r-1", 20) == "posted"
    assert book.money() == (30, 0, 0)
    assert book.control("expired") == 20


def test_a_negative_adjustment_is_given_back() -> None:
    """Taken by adjust, returned to adjust; held or posted."""
    book = rig()
    book.earn("e-1", 50)
    book.adjust("a-1", -30)
    book.adjust("a-2", -10, verdict="hold")
    assert [book.reverse("a-1"), book.reverse("a-2", 4)] == ["posted", "posted"]
    assert book.money() == (50, 44, 0)
    assert [hold.amount for hold in book.holds()] == [-6]
    assert book.control("adjust") == 0


# -- a transfer


def test_a_transfer_fetches_what_the_receiver_still_has() -> None:
    """What is spent is spent; the rest goes home to the lots it came from."""
    book = rig()
    book.earn("e-1", 100, expires_ms=book.now + 7 * 86_400_000)
    book.transfer("t-1", 80, "bob")
    book.redeem("r-1", 30, account="bob")
    book.earn("b-1", 500, account="bob")
    assert book.reverse("t-1") == "posted"
    assert book.lots() == [(70, 0, 7)]
    assert book.money("bob") == (500, 500, 0)
    assert book.reversals("t-1") == [{"from_lot": 50}]
    assert book.reverse("t-1") == "nothing_to_reverse"


def test_a_transfer_is_fetched_from_third_hands_and_holds() -> None:
    """Bob moved some on to cid and holds some for a redemption."""
    book = rig()
    book.earn("e-1", 100)
    book.transfer("t-1", 100, "bob")
    book.transfer("t-2", 30, "cid", account="bob")
    book.redeem("r-1", 50, account="bob", verdict="hold")
    assert book.reverse("t-1", 90) == "posted"
    assert book.reversals("t-1") == [{"from_lot": 20, "from_reserved": 50, "from_traced": 20}]
    assert book.money("ann") == (90, 90, 0)
    assert book.money("cid") == (10, 10, 0)
    assert book.holds() == []


def test_a_transfer_back_repays_the_senders_arrears_first() -> None:
    """Ann owes by now; what comes back pays that."""
    book = rig()
    book.earn("e-1", 100)
    book.earn("e-2", 20)
    book.transfer("t-1", 120, "bob")
    book.reverse("e-2")
    assert book.money("bob") == (100, 100, 0)
    book.redeem("r-1", 40, fact=True)
    assert book.money() == (0, 0, 40)
    assert book.reverse("t-1") == "posted"
    assert book.money() == (60, 60, 0)


def test_a_fact_transfer_beyond_the_balance_is_fetched_whole() -> None:
    """The receiver's lot for what the sender lacked is found, too, also after it was moved on."""
    book = rig()
    book.earn("e-1", 30)
    book.transfer("t-1", 100, "bob", fact=True)
    book.transfer("t-2", 100, "cid", account="bob")
    assert book.money() == (0, 0, 70)
    assert book.reverse("t-1") == "posted"
    assert book.money() == (30, 30, 0)
    assert book.money("cid") == (0, 0, 0)


def test_a_held_transfer_is_void() -> None:
    """Before it went through there is only the hold."""
    book = rig()
    book.earn("e-1", 100)
    book.transfer("t-1", 80, "bob", verdict="hold")
    assert book.reverse("t-1", 50) == "posted"
    assert (book.view().available, book.view("bob").pending_in) == (70, 30)
    assert book.reverse("t-1") == "posted"
    assert (book.view().available, book.view("bob").pending_in) == (100, 0)
