"""Taking back what movements moved: whence the points come, how far, and what is never touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.memory import MemoryLedger
from ledger.movement import MAX_POINTS
from tests.ledger_rig import Rig


def rig(**terms: Any) -> Rig:
    """A programme in memory."""
    return Rig(MemoryLedger(), **terms)


# -- what may be taken back at all


def test_an_unknown_event() -> None:
    """Nothing of this source, another's account, another programme: unknown; and nothing changes."""
    book = rig()
    Rig(book.ledger, "south").earn("e-2", 50)
    book.earn("e-1", 100)
    assert book.reverse("e-0") == "unknown_original"
    assert book.reverse("e-1", account="bob") == "unknown_original"
    assert book.reverse("e-2") == "unknown_original"
    assert book.money() == (100, 100, 0)


def test_an_event_that_moved_nothing() -> None:
    """What was rejected or refused has nothing to give back."""
    book = rig()
    book.earn("e-1", 100, verdict="reject")
    book.redeem("r-1", 10)
    assert [book.reverse(event) for event in ("e-1", "r-1")] == ["nothing_to_reverse"] * 2


def test_a_reversal_is_final() -> None:
    """A reverse can't be taken back itself."""
    book = rig()
    book.earn("e-1", 100)
    assert book.reverse("e-1", 40, event="back") == "posted"
    assert book.reverse("back") == "nothing_to_reverse"
    assert book.money() == (60, 60, 0)


def test_parts_add_up_to_the_whole_and_no_more() -> None:
    """Asked for more than is left, a reversal takes what is left; after that there is nothing."""
    book = rig()
    book.earn("e-1", 100)
    assert [book.reverse("e-1", points) for points in (30, 30, 50, 1, 0)] == ["posted"] * 3 + ["nothing_to_reverse"] * 2
    assert [parts["from_lot"] for parts in book.reversals("e-1")] == [30, 30, 40]
    assert book.money() == (0, 0, 0)
    assert book.control("clawback") == 100


def test_a_rejected_reversal_and_points_out_of_range() -> None:
    """A verdict counts for it as for everything; points are within the terms."""
    book = rig(max_posting=500)
    book.earn("e-1", 100)
    asked = {"kind": "reverse", "account": "ann", "reverses": "e-1"}
    codes = book.post(
        {**asked, "event": "b-1", "verdict": "reject"},
        {**asked, "event": "b-2", "points": 501},
        {**asked, "event": "b-3", "points": -1},
        {**asked, "event": "b-4", "verdict": "hold"},
    )
    assert codes == ["rejected", "points_out_of_range", "points_out_of_range", "posted"]


# -- an inflow


def test_a_held_earn_gives_up_its_hold() -> None:
    """All of it: the hold is void, by a decision of policy. A part: held again for the rest, due when it was."""
    book = rig()
    book.earn("e-1", 100, verdict="hold", due_seconds=600, on_timeout="post")
    first = book.holds()[0]
    assert book.reverse("e-1", 30) == "posted"
    (again,) = book.holds()
    assert (again.amount, again.due_ms, again.on_timeout) == (70, first.due_ms, "post")
    assert book.reversals("e-1") == [{"from_hold": 30}]
    assert {review.actor for review in book.dump().reviews} == {"policy:reversal"}
    assert book.reverse("e-1") == "posted"
    assert book.holds() == []
    assert book.view().pending_in == 0
    assert book.reverse("e-1") == "nothing_to_reverse"


def test_a_partly_approved_hold_gives_back_what_was_posted() -> None:
    """30 of 100 taken while held, 50 of the other 70 approved: 50 are left to take."""
    book = rig()
    book.earn("e-1", 100, verdict="hold")
    book.reverse("e-1", 30)
    book.resolve(book.holds()[0].hold_id, "post", 50)
    assert book.money() == (50, 50, 0)
    assert book.reverse("e-1", 60) == "posted"
    assert book.reversals("e-1") == [{"from_hold": 30}, {"from_lot": 50}]
    assert book.money() == (0, 0, 0)


def test_a_voided_hold_has_nothing_left() -> None:
    """What an analyst refused is not there to be taken."""
    book = rig()
    book.earn("e-1", 100, verdict="hold")
    book.resolve(book.hold_of("e-1"), "void")
    assert book.reverse("e-1") == "nothing_to_reverse"


def test_its_own_lot_comes_first_then_other_lots_then_arrears() -> None:
    """Spent points are taken from what the member has besides, in order of use; what is missing is owed and repaid."""
    book = rig(expiry_days=30)
    book.earn("e-1", 100)
    book.redeem("r-1", 70)
    book.pass_days(1)
    book.earn("e-2", 25)
    book.earn("e-3", 25, expires_ms=book.now + 1)
    assert book.reverse("e-1", 60) == "posted"
    assert book.reversals("e-1") == [{"from_lot": 30, "from_other": 30}]
    assert book.lots() == [(20, 0, 30)]
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1")[1] == {"from_other": 20, "to_arrears": 20}
    assert book.money() == (0, 0, 20)
    book.earn("e-4", 50)
    assert book.money() == (30, 30, 0)


def test_a_clamped_programme_forgives() -> None:
    """With shortfall clamp nothing is owed, and what was forgiven is not asked for again."""
    book = rig(shortfall="clamp")
    book.earn("e-1", 100)
    book.redeem("r-1", 100)
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1") == [{"forgiven": 100}]
    book.earn("e-2", 10)
    assert book.money() == (10, 10, 0)
    assert book.reverse("e-1") == "nothing_to_reverse"
    assert not any(txn.kind == "reverse" for txn in book.dump().txns)


def test_due_points_of_the_lot_are_taken_and_other_due_points_expire() -> None:
    """The lot gives what it has even if that is due; other points that are due are nobody's to take."""
    book = rig(expiry_days=10)
    book.earn("e-1", 100)
    book.earn("e-2", 40)
    book.redeem("r-1", 60)
    book.pass_days(10)
    book.earn("e-3", 15)
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1") == [{"from_lot": 40, "from_other": 15, "to_arrears": 45}]
    assert book.control("expired") == 40


def test_a_hold_that_reserves_the_lot_is_held_again_for_the_rest() -> None:
    """Policy ends it, with the reason on record; its other reservations stay, and only so much is taken as is asked."""
    book = rig()
    book.earn("e-1", 100, expires_ms=book.now + 1_000)
    book.earn("e-2", 100)
    book.redeem("r-1", 150, verdict="hold", due_seconds=60, on_timeout="void")
    assert book.lots() == [(100, 100, 0), (100, 50, None)]
    assert book.reverse("e-1", 30) == "posted"
    assert book.reversals("e-1") == [{"from_reserved": 30}]
    (hold,) = book.holds()
    assert (hold.kind, hold.amount, [points for _, points in hold.lots]) == ("redeem", 120, [70, 50])
    assert book.lots() == [(70, 70, 0), (100, 50, None)]
    assert book.resolve(hold.hold_id).posted == 120


def test_the_latest_hold_gives_first() -> None:
    """Whoever was first keeps what was set aside, as long as later holds suffice."""
    book = rig()
    book.earn("e-1", 100)
    book.redeem("r-1", 40, verdict="hold")
    book.redeem("r-2", 50, verdict="hold")
    assert book.reverse("e-1", 70) == "posted"
    assert book.reversals("e-1") == [{"from_lot": 10, "from_reserved": 60}]
    assert [(hold.hold_id, hold.amount) for hold in book.holds() if hold.hold_id == book.hold_of("r-1")] == []
    assert [hold.amount for hold in book.holds()] == [30]


def test_tainted_points_are_traced_to_whom_they_went() -> None:
    """What bob got of the lot is taken from bob, what he holds besides is not; then it is ann's to pay."""
    book = rig()
    book.earn("b-1", 500, account="bob")
    book.earn("e-1", 100)
    book.transfer("t-1", 60, "bob")
    book.transfer("t-2", 20, "cid", account="bob", occurred_ms=book.now)
    book.redeem("r-1", 40)
    assert book.reverse("e-1") == "posted"
    (parts,) = book.reversals("e-1")
    assert parts == {"from_traced": 60, "to_arrears": 40}
    assert book.money("bob") == (480, 480, 0)
    assert book.money("cid") == (20, 20, 0)


def test_traced_points_are_followed_breadth_first_and_out_of_holds() -> None:
    """From ann to bob to cid, who holds a redemption of them: bob's come first, then cid's, out of the hold."""
    book = rig()
    book.earn("e-1", 100)
    book.transfer("t-1", 100, "bob")
    book.transfer("t-2", 60, "cid", account="bob")
    book.redeem("r-1", 50, account="cid", verdict="hold")
    assert book.reverse("e-1", 80) == "posted"
    assert book.reversals("e-1") == [{"from_traced": 80}]
    assert book.money("bob") == (0, 0, 0)
    assert (book.view("cid").posted, [hold.amount for hold in book.holds()]) == (20, [20])


def test_what_was_spent_elsewhere_is_not_taken_from_others() -> None:
    """Taint ends where the points were spent: bob's own later earnings stay his."""
    book = rig()
    book.earn("e-1", 100)
    book.transfer("t-1", 100, "bob")
    book.redeem("r-1", 100, account="bob")
    book.earn("b-1", 300, account="bob")
    assert book.reverse("e-1") == "posted"
    assert book.money("bob") == (300, 300, 0)
    assert book.money("ann") == (0, 0, 100)


def test_points_that_came_back_are_found() -> None:
    """A lot moved to bob and back again is still the same points."""
    book = rig()
    book.earn("e-1", 100)
    book.transfer("t-1", 100, "bob")
    book.transfer("t-2", 100, "ann", account="bob")
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1") == [{"from_traced": 100}]


def test_a_positive_adjustment_is_taken_back_like_an_earn() -> None:
    """Adjustments that give are inflows; the clawback account takes them."""
    book = rig(funding="store")
    book.adjust("a-1", 100, store="s-1")
    assert book.reverse("a-1") == "posted"
    assert (book.control("adjust"), book.control("clawback"), book.control("s-1")) == (-100, 100, 0)


def test_a_store_that_paid_gets_its_points_back() -> None:
    """Where stores fund the points, the store that gave them is credited."""
    book = rig(funding="store")
    book.earn("e-1", 100, store="s-1")
    book.redeem("r-1", 30, store="s-2")
    assert book.reverse("e-1") == "posted"
    assert (book.control("s-1"), book.control("s-2"), book.control("clawback")) == (0, 30, 0)
    assert book.reverse("r-1") == "posted"
    assert (book.control("s-1"), book.control("s-2")) == (0, 0)


# -- pools and merged accounts


def test_points_of_a_pool_go_back_to_the_pool() -> None:
    """Whoever acted for it, and whether or not they are still a member."""
    book = rig()
    book.earn("e-1", 100)
    book.ledger.join_pool(book.program, "home", "ann")
    book.ledger.join_pool(book.program, "home", "bob")
    assert book.transfer("t-1", 100, "pool:home") == "posted"
    assert book.redeem("r-1", 60, account="bob", pool="home") == "posted"
    book.ledger.leave_pool(book.program, "home", "bob")
    assert book.reverse("r-1", account="ann") == "unknown_original"
    assert book.reverse("r-1", account="bob") == "posted"
    assert book.money("pool:home") == (100, 100, 0)
    assert book.reverse("e-1") == "posted"
    assert book.reversals("e-1") == [{"from_traced": 100}]


def test_a_merged_members_events_are_taken_back_from_the_one_that_stays() -> None:
    """By the old name or the new one, traced through the lots that moved."""
    book = rig()
    book.earn("e-1", 100, expires_ms=book.now + 9 * 86_400_000)
    book.earn("b-1", 5, account="bob")
    book.redeem("r-1", 30)
    assert book.merge("ann", "bob") == "posted"
    assert book.reverse("r-1", 10) == "posted"
    assert book.reverse("r-1", 20, account="bob") == "posted"
    assert book.lots("bob") == [(70, 0, 9), (10, 0, 9), (20, 0, 9), (5, 0, None)]
    assert book.reverse("e-1", account="bob") == "posted"
    assert book.reversals("e-1") == [{"from_traced": 100}]
    assert book.money("bob") == (5, 5, 0)


# -- bounds, and nobody gains


def test_points_returned_beyond_what_can_be_counted() -> None:
    """A counter's end refuses, and changes nothing."""
    book = rig()
    book.earn("e-1", MAX_POINTS - 10)
    book.redeem("r-1", 100)
    assert book.earn("e-2", 10) == "posted"
    assert book.reverse("r-1") == "balance_out_of_range"
    assert book.reversals("r-1") == []


def test_two_reversals_of_one_event_in_one_batch() -> None:
    """The second sees what the first left, also between other movements."""
    book = rig()
    book.earn("e-1", 100)
    back = {"kind": "reverse", "account": "ann", "reverses": "e-1"}
    codes = book.post(
        {**back, "event": "b-1", "points": 70},
        {"event": "r-1", "kind": "redeem", "account": "ann", "points": 30},
        {**back, "event": "b-2", "points": 70},
        {**back, "event": "b-3", "points": 70},
    )
    assert codes == ["posted", "posted", "posted", "nothing_to_reverse"]
    assert book.reversals("e-1") == [{"from_lot": 70}, {"to_arrears": 30}]


def test_a_reversal_before_its_original_in_the_same_batch() -> None:
    """It comes too early, whoever sent it; after its original it is in time."""
    book = rig()
    back = {"kind": "reverse", "account": "ann", "reverses": "e-1"}
    earn = {"event": "e-1", "kind": "earn", "account": "ann", "points": 9}
    codes = book.post({**back, "event": "b-1"}, earn, {**back, "event": "b-2"})
    assert codes == ["unknown_original", "posted", "posted"]


@pytest.mark.parametrize("shortfall", ["arrears", "clamp"])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=6))
def test_earning_and_reversing_gains_nothing(shortfall: str, rounds: list[tuple[int, bool]]) -> None:
    """Buy, move the points to a friend or not, take the purchase back, again and again: nobody has more than before."""
    book = rig(shortfall=shortfall)
    book.earn("own", 50)
    book.earn("friends", 50, account="bob")
    for number, (points, moved) in enumerate(rounds):
        book.earn(f"e-{number}", points)
        if moved:
            book.transfer(f"t-{number}", points, "bob")
        assert book.reverse(f"e-{number}") == "posted"
        assert book.money()[0] + book.money("bob")[0] == 100
        assert book.money()[2] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.sampled_from(["bob", "cid", "ann"]), st.sampled_from(["ann", "bob", "cid"]),
                       st.integers(1, 120), st.booleans()), max_size=8),
    st.integers(0, 250),
)  # fmt: skip
def test_taint_takes_no_more_than_came_from_the_lot(
    points: int, moves: list[tuple[str, str, int, bool]], asked: int
) -> None:
    """However points are passed on or held, others lose at most what they have of the reversed lot."""
    book = rig()
    for name in ("bob", "cid"):
        book.earn(f"own-{name}", 100, account=name)
    book.earn("e-1", points)
    for number, (sender, receiver, amount, held) in enumerate(moves):
        book.transfer(f"t-{number}", amount, receiver, account=sender, verdict="hold" if held else "post")
    tainted = _tainted(book, book.ids["e-1"])
    before = {name: book.view(name).posted for name in ("bob", "cid")}
    assert book.reverse("e-1", asked) == "posted"
    for name, had in before.items():
        assert had - book.view(name).posted <= tainted.get(name, 0)
    taken = sum(sum(parts.values()) for parts in book.reversals("e-1"))
    assert taken == min(asked or points, points)


def _tainted(book: Rig, root: int) -> dict[str, int]:
    """Points of each account that came from a lot."""
    dump = book.dump()
    names = {one.account_id: one.name for one in dump.accounts}
    parents = {lot.lot_id: lot.parent for lot in dump.lots}
    found: dict[str, int] = {}
    for lot in dump.lots:
        above: int | None = lot.lot_id
        while above is not None and above != root:
            above = parents[above]
        if above == root:
            name = names[lot.account_id]
            found[name] = found.get(name, 0) + lot.remaining
    return found
