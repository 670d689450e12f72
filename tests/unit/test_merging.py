"""Merging members: what passes on, what forbids it, and that no point is gained or lost by it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.memory import MemoryLedger
from ledger.movement import MAX_POINTS
from ledger.terms import DAY_MS
from tests.ledger_rig import Rig


def rig(**terms: Any) -> Rig:
    """A programme in memory with ann, who has points, and bob."""
    book = Rig(MemoryLedger(), **terms)
    book.earn("bob", 10, account="bob")
    return book


def test_lots_keep_their_expiry_and_origin() -> None:
    """Each lot becomes a child of itself in the other account; what is due already does not come along."""
    book = rig()
    book.earn("e-1", 30, expires_ms=book.now + DAY_MS)
    book.earn("e-2", 40, expires_ms=book.now + 9 * DAY_MS, store="s-1")
    book.pass_days(2)
    assert book.merge("ann", "bob") == "posted"
    assert book.lots("bob") == [(40, 0, 7), (10, 0, None)]
    (moved,) = [lot for lot in book.view("bob").lots if lot.parent is not None]
    assert (moved.parent, moved.store) == (book.ids["e-2"], "s-1")
    assert book.control("expired") == 30
    (merge,) = [txn for txn in book.dump().txns if txn.kind == "merge"]
    assert merge.amount == 40


def test_debts_pass_on_and_are_paid_at_once() -> None:
    """Whoever owes, what the two have together pays first."""
    for debtor, other in (("ann", "bob"), ("bob", "ann")):
        book = Rig(MemoryLedger())
        book.redeem("r-1", 25, account=debtor, fact=True)
        book.earn("e-1", 10, account=other)
        assert book.merge("ann", "bob") == "posted"
        points, owed = (0, 15) if debtor == "bob" else (10, 25)
        assert book.money("bob") == (points, points, owed)
        assert book.earn("e-2", 40, account="ann") == "posted"
        assert book.money("bob") == (points + 40 - owed, points + 40 - owed, 0)


def test_points_and_debt_of_the_same_member() -> None:
    """A hold that was voided leaves both: the points pay the debt on the way."""
    book = rig()
    book.earn("e-1", 50)
    book.redeem("r-1", 50, verdict="hold")
    book.redeem("r-2", 20, fact=True)
    book.resolve(book.hold_of("r-1"), "void")
    assert book.money() == (50, 50, 20)
    assert book.merge("ann", "bob") == "posted"
    assert book.money("bob") == (40, 40, 0)


def test_what_forbids_a_merge() -> None:
    """In the order of the documented codes; a refused merge changes nothing."""
    book = rig()
    book.earn("e-1", 50)
    book.ledger.join_pool(book.program, "home", "ann")
    assert book.merge("ann", "ann") == "same_account"
    assert book.merge("ann", "nobody") == "unknown_account"
    assert book.merge("nobody", "ann") == "unknown_account"
    assert book.merge("pool:home", "ann") == "unknown_account"
    book.redeem("r-1", 5, verdict="hold")
    assert book.merge("ann", "bob") == "open_holds"
    book.resolve(book.hold_of("r-1"), "void")
    book.transfer("t-1", 5, "ann", account="bob", verdict="hold")
    assert book.merge("ann", "bob") == "open_holds"
    book.resolve(book.hold_of("t-1"), "void")
    assert book.merge("ann", "bob") == "posted"
    assert book.merge("ann", "bob") == "account_merged"
    book.earn("c-1", 1, account="cid")
    assert book.merge("cid", "ann") == "account_merged"


def test_holds_of_the_one_that_stays_do_not_matter() -> None:
    """What bob has set aside is bob's before and after."""
    book = rig()
    book.earn("e-1", 50)
    book.redeem("r-1", 10, account="bob", verdict="hold")
    assert book.merge("ann", "bob") == "posted"
    assert book.resolve(book.hold_of("r-1"), "post").posted == 10
    assert book.money("bob") == (50, 50, 0)


def test_the_old_name_stands_for_the_new() -> None:
    """Whatever names ann now means bob, also through a second merge."""
    book = rig()
    book.earn("e-1", 50)
    book.merge("ann", "bob")
    assert book.earn("e-2", 5) == "posted"
    assert book.redeem("r-1", 60) == "posted"
    assert book.transfer("t-1", 5, "bob") == "same_account"
    book.earn("c-1", 1, account="cid")
    assert book.merge("bob", "cid") == "posted"
    assert book.earn("e-3", 7) == "posted"
    assert book.money("cid") == (13, 13, 0)


def test_nothing_to_move_needs_no_transaction() -> None:
    """An empty account can be merged, too: only its name passes on."""
    book = rig()
    book.earn("e-1", 5)
    book.redeem("r-1", 5)
    assert book.merge("ann", "bob") == "posted"
    assert not any(txn.kind == "merge" for txn in book.dump().txns)
    assert [(merge.actor, merge.reason) for merge in book.dump().merges] == [("bea", "one person")]


def test_memberships_pass_on() -> None:
    """Who was in a pool is still, by either name; joining again says so."""
    book = rig()
    book.earn("e-1", 50)
    book.ledger.join_pool(book.program, "home", "ann")
    book.transfer("t-1", 30, "pool:home")
    book.merge("ann", "bob")
    assert book.redeem("r-1", 10, pool="home") == "posted"
    assert book.redeem("r-2", 10, account="bob", pool="home") == "posted"
    assert not book.ledger.join_pool(book.program, "home", "ann")
    assert book.ledger.leave_pool(book.program, "home", "ann")
    assert book.redeem("r-3", 10, account="bob", pool="home") == "not_in_pool"


def test_a_balance_beyond_what_can_be_counted() -> None:
    """Two fortunes do not fit into one account."""
    book = rig()
    book.earn("e-1", MAX_POINTS - 5)
    assert book.merge("ann", "bob") == "balance_out_of_range"
    assert book.money()[0] == MAX_POINTS - 5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["earn", "redeem", "give"]), st.sampled_from(["ann", "bob"]), st.integers(1, 80)),
        max_size=10,
    )
)
def test_together_they_have_what_they_had_apart(steps: list[tuple[str, str, int]]) -> None:
    """Points less debts are the same before and after; so are those of every earn that is taken back later."""
    book = Rig(MemoryLedger())
    for name in ("ann", "bob"):
        book.earn(f"own-{name}", 20, account=name)
    for number, (kind, name, points) in enumerate(steps):
        if kind == "earn":
            book.earn(f"e-{number}", points, account=name)
        elif kind == "redeem":
            book.redeem(f"e-{number}", points, account=name, fact=True)
        else:
            book.transfer(f"e-{number}", points, "bob" if name == "ann" else "ann", account=name)
    before = sum(book.money(name)[0] - book.money(name)[2] for name in ("ann", "bob"))
    assert book.merge("ann", "bob") == "posted"
    assert book.money("bob")[0] - book.money("bob")[2] == before
    assert book.money("bob")[1:] == book.money("ann")[1:]
    assert book.reverse("own-ann") == "posted"
    assert book.money("bob")[0] - book.money("bob")[2] == before - 20
