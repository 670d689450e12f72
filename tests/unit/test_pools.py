"""Pools: who may put points in and take them out, and that a pool never owes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.memory import MemoryLedger
from tests.ledger_rig import Rig


def rig(**terms: Any) -> Rig:
    """A programme with a pool of ann and bob, and 100 points of ann's in it."""
    book = Rig(MemoryLedger(), **terms)
    book.earn("e-1", 100)
    for name in ("ann", "bob"):
        assert book.ledger.join_pool(book.program, "home", name)
    assert book.transfer("t-1", 100, "pool:home") == "posted"
    return book


def test_members_spend_what_is_in_it() -> None:
    """Any member's redemption or transfer with the pool named; the lots keep their expiry in there."""
    book = rig(expiry_days=5)
    assert book.lots("pool:home") == [(100, 0, 5)]
    assert book.redeem("r-1", 30, account="bob", pool="home") == "posted"
    assert book.transfer("t-2", 20, "cid", account="bob", pool="home") == "posted"
    assert book.transfer("t-3", 10, "bob", account="bob", pool="home") == "posted"
    assert book.money("pool:home") == (40, 40, 0)
    assert book.lots("bob") == [(10, 0, 5)]


def test_nobody_else_does() -> None:
    """Strangers, a pool that does not exist, kinds that pools do not know, and the pool as if it were a member."""
    book = rig()
    book.earn("c-1", 50, account="cid")
    assert book.redeem("r-1", 1, account="cid", pool="home") == "not_in_pool"
    assert book.transfer("t-2", 1, "pool:home", account="cid") == "not_in_pool"
    assert book.redeem("r-2", 1, pool="attic") == "not_in_pool"
    assert book.transfer("t-3", 1, "pool:attic") == "not_in_pool"
    assert book.earn("e-2", 5, account="pool:home") == "not_in_pool"
    assert book.earn("e-3", 5, pool="home") == "not_in_pool"
    assert book.adjust("a-1", -5, pool="home") == "not_in_pool"
    assert book.money("pool:home") == (100, 100, 0)


def test_who_left_may_not_and_who_comes_back_may() -> None:
    """Joining twice and leaving twice say that nothing changed."""
    book = rig()
    ledger, program = book.ledger, book.program
    assert not ledger.join_pool(program, "home", "bob")
    assert ledger.leave_pool(program, "home", "bob")
    assert not ledger.leave_pool(program, "home", "bob")
    assert not ledger.leave_pool(program, "attic", "bob")
    assert not ledger.leave_pool(program, "home", "nobody")
    assert book.redeem("r-1", 1, account="bob", pool="home") == "not_in_pool"
    assert ledger.join_pool(program, "home", "bob")
    assert book.redeem("r-2", 1, account="bob", pool="home") == "posted"


def test_a_pool_has_no_arrears() -> None:
    """Not even a fact takes out what is not there."""
    book = rig()
    assert book.redeem("r-1", 101, pool="home", fact=True) == "insufficient_balance"
    assert book.transfer("t-2", 101, "bob", pool="home", fact=True) == "insufficient_balance"
    assert book.redeem("r-2", 100, pool="home", fact=True) == "posted"
    assert book.money("pool:home") == (0, 0, 0)


def test_what_is_held_of_a_pool_survives_a_member_that_leaves() -> None:
    """The hold is the pool's; taken back by whoever's event it was."""
    book = rig()
    book.redeem("r-1", 60, account="bob", pool="home", verdict="hold")
    assert book.view("pool:home").available == 40
    book.ledger.leave_pool(book.program, "home", "bob")
    assert book.reverse("r-1", 20, account="bob") == "posted"
    assert book.view("pool:home").available == 60
    (hold,) = book.holds()
    assert (hold.account, book.resolve(hold.hold_id).posted) == ("pool:home", 40)


def test_from_a_pool_to_itself_or_another() -> None:
    """Into itself makes no sense; into another one needs membership of both."""
    book = rig()
    assert book.transfer("t-2", 5, "pool:home", pool="home") == "same_account"
    assert book.transfer("t-3", 5, "pool:trip", pool="home") == "not_in_pool"
    book.ledger.join_pool(book.program, "trip", "ann")
    assert book.transfer("t-4", 5, "pool:trip", pool="home") == "posted"
    assert book.money("pool:trip") == (5, 5, 0)


def test_a_transfer_into_a_pool_is_taken_back() -> None:
    """What others spent of it is gone; the rest comes home."""
    book = rig()
    book.redeem("r-1", 70, account="bob", pool="home")
    assert book.reverse("t-1") == "posted"
    assert (book.money(), book.money("pool:home")) == ((30, 30, 0), (0, 0, 0))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["in", "out", "join", "leave", "back"]), st.sampled_from(["ann", "bob"]), st.integers(1, 90)
        ),
        max_size=15,
    )
)
def test_points_are_only_moved_never_made(steps: list[tuple[str, str, int]]) -> None:
    """Whoever joins, leaves, puts in and takes out: members and pool together always have what they began with."""
    book = rig()
    book.earn("b-1", 100, account="bob")
    members = {"ann", "bob"}
    for number, (kind, name, points) in enumerate(steps):
        if kind == "join":
            assert book.ledger.join_pool(book.program, "home", name) == (name not in members)
            members.add(name)
        elif kind == "leave":
            assert book.ledger.leave_pool(book.program, "home", name) == (name in members)
            members.discard(name)
        elif kind == "back":
            book.reverse(f"m-{points % (number + 1)}", account=name)
        else:
            way = {"to": "pool:home"} if kind == "in" else {"to": name, "pool": "home"}
            code = book.transfer(f"m-{number}", points, account=name, **way)
            assert (code == "not_in_pool") == (name not in members)
        assert sum(book.money(one)[0] for one in ("ann", "bob", "pool:home")) == 200
        assert all(book.money(one)[2] == 0 for one in ("ann", "bob", "pool:home"))
