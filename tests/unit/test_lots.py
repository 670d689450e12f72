"""Lots: used in order, moved with their expiry and origin, always adding up, and unmoved by what is refused."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.desk import Desk
from ledger.lots import Grant, Lot, LotsError, Part, Purse, order_of_use
from ledger.movement import POSTED, Accounts, AccountState, LotState, OpenHold
from ledger.plan import Txn
from ledger.posting import plan
from ledger.terms import Terms
from tests.unit.lot_books import Books, day, sound

INFLOWS = st.tuples(st.integers(1, 50), st.one_of(st.none(), st.integers(1, 6)), st.integers(0, 3))


@given(st.lists(INFLOWS, min_size=1, max_size=8), st.data())
def test_what_expires_first_is_used_first(inflows: list[tuple[int, int | None, int]], data: st.DataObject) -> None:
    """A redemption empties lots by expiry, those without last, then by when they were earned, then by age."""
    books = Books()
    for points, lasts, ago in inflows:
        books.move("earn", points, lasts=lasts, occurred_ms=day(-ago))
    lots = [(lasts or 99, -ago, number, points) for number, (points, lasts, ago) in enumerate(inflows)]
    asked = data.draw(st.integers(1, sum(points for points, _, _ in inflows)))
    books.move("redeem", asked)
    expected = []
    for _, _, _, points in sorted(lots):
        used = min(points, asked)
        asked -= used
        expected += [points - used] if points > used else []
    assert books.left() == expected
    sound(books.dump())


def test_an_earn_of_the_same_batch_is_used_in_its_place() -> None:
    """A lot that came in a moment ago, and expires first, is spent first; the plan writes it once, as it ended."""
    books = Books()
    books.move("earn", 10, lasts=9)
    earn, redeem = books.asked("earn", 10, lasts=5), books.asked("redeem", 4)
    state = books.ledger.tables.state(books.ledger.tables.accounts[6])
    accounts = Accounts({("north", "ann"): state}, books.ledger.tables.controls("north"))
    planned = plan(accounts, [earn, redeem], {"north": books.now}, count(100))
    assert [(lot.lot_id, lot.issued, lot.remaining) for lot in planned.lots] == [(earn.id, 10, 6)]
    assert planned.lot_changes == ()


def test_a_lot_says_where_it_is_from() -> None:
    """An earn's lot has the id of its transaction, its store and its expiry; by the terms if the event has none."""
    books = Books(expiry_days=30)
    books.move("earn", 5, store="s1", occurred_ms=day(-1))
    books.move("earn", 7, lasts=3)
    by_event, by_terms = books.lots()
    assert (by_terms.lot_id, by_terms.txn_id, by_terms.store) == (by_terms.txn_id, by_terms.txn_id, "s1")
    assert (by_terms.earned_ms, by_terms.expires_ms, by_event.expires_ms) == (day(-1), day(29), day(3))


def test_expiry_may_count_from_the_approval() -> None:
    """What is told late and posted at once is approved now, not when it happened."""
    books = Books(expiry_days=30, expiry_from="approved")
    books.move("earn", 5, occurred_ms=day(-3))
    assert [(lot.earned_ms, lot.expires_ms) for lot in books.lots()] == [(day(-3), day(30))]


def test_transferred_points_keep_their_expiry_and_origin() -> None:
    """The receiver gets a child of each lot, in the order in which they were used; the first has the transfer's id."""
    books = Books(expiry_days=30)
    books.move("earn", 10, lasts=5, store="s1", occurred_ms=day(-2))
    books.move("earn", 10, lasts=9)
    near, far = books.lots()
    books.move("transfer", 15, to="bob")
    first, second = books.lots("bob")
    assert (first.parent, first.issued, first.expires_ms, first.earned_ms, first.store) == (
        near[0],
        10,
        *near[9:7:-1],
        "s1",
    )
    assert (second.parent, second.issued, second.expires_ms) == (far.lot_id, 5, far.expires_ms)
    assert first.lot_id == first.txn_id == second.txn_id != second.lot_id
    assert books.uses("transfer") == [(near.lot_id, 10), (far.lot_id, 5)]
    sound(books.dump())


def test_what_a_fact_transfers_beyond_the_balance_is_new() -> None:
    """The sender owes what was lacking; to the receiver it is points by the terms from now, of no lot."""
    books = Books(expiry_days=30)
    books.move("earn", 10, lasts=5)
    assert books.move("transfer", 25, to="bob", fact=True) == ("posted", 0, 15)
    assert [(lot.issued, lot.parent is None, lot.expires_ms) for lot in books.lots("bob")] == [
        (10, False, day(5)),
        (15, True, day(30)),
    ]
    sound(books.dump())


def test_arrears_are_repaid_out_of_the_first_lots() -> None:
    """A debt takes the incoming lots in order; a lot that is wholly used up so is there, but empty."""
    books = Books()
    books.move("redeem", 12, fact=True)
    books.move("earn", 10, account="bob", lasts=3)
    books.move("earn", 10, account="bob", lasts=5)
    assert books.move("transfer", 20, account="bob", to="ann").code == "posted"
    assert books.figures() == (8, 0, 0, 8, 0)
    used, kept = sorted((lot for lot in books.dump().lots if lot.parent is not None), key=order_of_use)
    assert (used.remaining, kept.remaining) == (0, 8)
    assert books.uses("repay") == [(used.lot_id, 10), (kept.lot_id, 2)]
    sound(books.dump())


def test_stores_fund_points_where_the_terms_say_so() -> None:
    """Then a store gives what is earned there and gets what is redeemed there; adjustments stay the programme's."""
    books = Books(funding="store")
    books.move("earn", 30, store="s1")
    books.move("redeem", 10, store="s2")
    books.move("adjust", 5, store="s1")
    books.move("earn", 1)
    totals = {one.name: one.posted_cr - one.posted_dr for one in books.dump().accounts if one.kind != "member"}
    assert totals == {"s1": -30, "s2": 10, "adjust": -5, "issued": -1, "redeemed": 0, "expired": 0, "clawback": 0}


REFUSALS = st.tuples(
    st.sampled_from(["earn", "redeem", "transfer", "adjust", "adjust"]),
    st.sampled_from([0, -1, 1, 30, -30, 70, -70, 101, 2**53]),
    st.sampled_from(["post", "hold", "reject"]),
    st.sampled_from([None, "ann", "bob", "pool:x", "pool:y"]),
    st.sampled_from([None, "x", "y"]),
)


@settings(deadline=None)
@given(st.lists(REFUSALS, max_size=12))
def test_a_refusal_leaves_everything_as_it_was(asked: list[tuple[Any, ...]]) -> None:
    """Not a counter, not a lot changes, and nothing that is due expires either (I8); lots always add up (I9)."""
    books = Books(max_posting=100, max_open_holds=2, max_balance=120)
    books.ledger.join_pool("north", "x", "ann")
    books.move("earn", 20, lasts=1)
    books.move("earn", 60, lasts=4)
    books.move("earn", 100, account="bob")
    books.today(2)
    for kind, points, verdict, to, pool in asked:
        before = books.dump()
        result = books.move(kind, points, verdict, to=to, pool=pool)
        if result.code not in {"posted", "held"}:
            assert books.dump() == before
        sound(books.dump())


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"kind": "redeem", "points": 61}, "insufficient_balance"),
        ({"kind": "redeem", "points": 60}, "posted"),
        ({"kind": "redeem", "points": 100, "fact": True}, "posted"),
        ({"kind": "redeem", "points": 5, "pool": "y"}, "not_in_pool"),
        ({"kind": "redeem", "points": 5, "pool": "x", "account": "bob"}, "not_in_pool"),
        ({"kind": "redeem", "points": 5, "pool": "x"}, "posted"),
        ({"kind": "redeem", "points": 8, "pool": "x", "fact": True}, "insufficient_balance"),
        ({"kind": "adjust", "points": -5, "pool": "x"}, "not_in_pool"),
        ({"kind": "earn", "points": 5, "pool": "x"}, "not_in_pool"),
        ({"kind": "earn", "points": 5, "account": "pool:x"}, "not_in_pool"),
        ({"kind": "transfer", "points": 5, "to": "pool:x"}, "posted"),
        ({"kind": "transfer", "points": 5, "to": "pool:x", "account": "bob"}, "not_in_pool"),
        ({"kind": "transfer", "points": 5, "to": "pool:y"}, "not_in_pool"),
        ({"kind": "transfer", "points": 5, "to": "bob", "pool": "x"}, "posted"),
        ({"kind": "transfer", "points": 5, "to": "ann", "pool": "x"}, "posted"),
        ({"kind": "transfer", "points": 5, "to": "pool:x", "pool": "x"}, "same_account"),
        ({"kind": "earn", "points": 151}, "points_out_of_range"),
        ({"kind": "earn", "points": 119}, "posted"),
        ({"kind": "earn", "points": 120}, "balance_out_of_range"),
        ({"kind": "transfer", "points": 51, "to": "bob"}, "balance_out_of_range"),
        ({"kind": "earn", "points": 5, "verdict": "hold"}, "too_many_holds"),
        ({"kind": "redeem", "points": 5, "verdict": "hold"}, "too_many_holds"),
    ],
)
def test_each_result_has_its_name(asked: dict[str, Any], code: str) -> None:
    """On 60 points that may be spent, 20 that are due, and 7 in a pool, with one hold open of one allowed."""
    books = Books(max_posting=150, max_open_holds=1, max_balance=200)
    books.ledger.join_pool("north", "x", "ann")
    books.move("earn", 150, account="bob")
    books.move("earn", 7)
    books.move("transfer", 7, to="pool:x")
    books.move("earn", 20, lasts=1)
    books.move("earn", 60)
    books.hold("earn", 1)
    books.today(2)
    assert books.move(**({"verdict": "post"} | asked)).code == code
    sound(books.dump())


def test_a_merged_name_acts_on_the_account_it_became() -> None:
    """Two names of one account share one working copy, also within a batch, and can't send points to each other."""
    state = AccountState(1, 0, 0, 0, 0, 0, 0)
    accounts = Accounts(
        {("north", "ann"): state, ("north", "ann2"): state._replace(merged_into="ann")},
        {("north", "issued"): 101, ("north", "redeemed"): 102},
    )
    books = Books()
    asked = [
        books.asked("earn", 10, account="ann2"),
        books.asked("redeem", 10),
        books.asked("transfer", 1, to="ann2"),
        books.asked("redeem", 3, account="ann2", fact=True),
    ]
    planned = plan(accounts, asked, {"north": 0}, count(100), {("north", "ann"): 8, ("north", "ann2"): 5})
    assert [result.code for result in planned.results] == ["posted", "posted", "same_account", "posted"]
    assert [(new.program, new.name) for new in planned.new_arrears] == [("north", "ann")]
    assert [(one.account_id, one.signed_up_ms) for one in planned.changes] == [(1, 5), (-1, 0)]


def lot_state(lot_id: int, **rest: Any) -> LotState:
    """A lot of ten points."""
    usual = {"program": "north", "account_id": 1, "txn_id": lot_id, "parent": None, "issued": 10, "remaining": 10}
    usual |= {"reserved": 0, "earned_ms": lot_id, "expires_ms": None, "store": None}
    return LotState(lot_id=lot_id, **(usual | rest))  # type: ignore[arg-type]  # names


def desk(*lots: LotState, terms: Terms | None = None) -> Desk:
    """A desk with one account that has these lots."""
    points = sum(lot.remaining for lot in lots)
    state = AccountState(1, 0, points, sum(lot.reserved for lot in lots), 0, 1, 0, lots=lots)
    controls = {("north", name): 100 + n for n, name in enumerate(("issued", "redeemed", "expired"))}
    return Desk(
        Accounts({("north", "ann"): state}, controls, terms={"north": terms or Terms()}), {"north": 50}, count(900)
    )


def test_lots_that_do_not_cover_a_balance_stop_the_batch() -> None:
    """Too few lots loaded, or lots that contradict the counters, are an error of the program, not a refusal."""
    state = AccountState(1, 0, 10, 0, 0, 1, 0)
    accounts = Accounts({("north", "ann"): state}, {("north", "redeemed"): 102})
    with pytest.raises(LotsError, match="lack 4 of 4"):
        plan(accounts, [Books().asked("redeem", 4)], {"north": 0}, count(100))


@pytest.mark.parametrize(("action", "amount"), [("debit", 9), ("debit", 0), ("restore", 3), ("clawback", -1)], ids=str)
def test_a_lot_is_never_used_beyond_itself(action: Any, amount: int) -> None:
    """Eight of ten points are left: neither nine can be taken nor three restored."""
    one = desk(lot_state(7, remaining=8))
    with pytest.raises(LotsError):
        one.use(20, one.lot(7), amount, action)


def test_reservations_are_never_beyond_the_lot() -> None:
    """No more is reserved than is left, nor freed than was reserved; a lot nobody loaded is no lot."""
    one = desk(lot_state(7))
    with pytest.raises(LotsError, match="reserve"):
        one.reserve_parts(20, [Part(one.lot(7), 11)])
    two = desk(lot_state(7, reserved=3))
    with pytest.raises(LotsError, match="did not reserve"):
        two.free(OpenHold(20, "north", "redeem", 4, "ann", lots=((7, 4),)))
    with pytest.raises(LotsError, match="not loaded"):
        two.lot(8)


def test_a_lot_knows_whose_it_is_and_adds_up_its_uses() -> None:
    """Two takes of a lot by one transaction are one use; a lot the batch gave is found by its id too."""
    one = desk(lot_state(7))
    ann = one.account(("north", "ann"))
    one.use(20, one.lot(7), 2, "clawback")
    one.use(20, one.lot(7), 3, "clawback")
    made = one.add_lot(20, ann, Grant(4, 1, None))
    assert one.holder(one.lot(made.lot_id)) is ann
    assert one.close().lot_uses == ((20, 7, "clawback", 5),)


def test_a_transaction_may_be_taken_up_again() -> None:
    """Its legs go on counting where they were."""
    one = desk(lot_state(7))
    ann, gone = one.account(("north", "ann")), one.control("north", "redeemed")
    for txn_id in (20, 21):
        one.begin(Txn(txn_id, "north", "redeem", "till", str(txn_id), None, 1, pending=False, occurred_ms=1))
        one.enter(txn_id, ann, -1, POSTED)
    one.enter(20, gone, 1, POSTED)
    one.enter(21, gone, 1, POSTED)
    assert [(entry.txn_id, entry.leg) for entry in one.close().entries] == [(20, 0), (21, 0), (20, 1), (21, 1)]


def test_a_purse_copies_only_what_it_touches() -> None:
    """Lots nobody asks for stay as they were loaded; used-up and due ones are passed over."""
    touched: dict[int, Lot] = {}
    states = [lot_state(1, expires_ms=40), lot_state(2, remaining=0), lot_state(3, reserved=4), lot_state(4)]
    purse = Purse(sorted(states, key=order_of_use), touched)
    assert purse.due_points(50) == 10
    assert [(part.lot.lot_id, part.amount) for part in purse.pick(8, 50)] == [(3, 6), (4, 2)]
    assert set(touched) == {3, 4}
    assert [lot.lot_id for lot in purse.open_lots()] == [1, 3, 4]
    assert [lot.lot_id for lot in purse.spendable(50)] == [3, 4]
