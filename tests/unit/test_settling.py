"""The ends of holds: all, a part or nothing goes through, at most once, and nobody loses points by waiting."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.book import TIMEOUT_ACTOR
from ledger.desk import Desk
from ledger.lots import Part
from ledger.movement import Accounts, AccountState, LotState, OpenHold, Settlement
from ledger.settling import close_hold, reopen, settle, split, sweep
from tests.unit.lot_books import Books, day, sound

NOW = {"north": 50}


@pytest.mark.parametrize(
    ("kind", "points", "posted", "ann", "bob"),
    [
        ("earn", 40, 25, (125, 0, 0, 125, 0), (0, 0, 0, 0, 0)),
        ("redeem", 40, 25, (75, 0, 0, 75, 0), (0, 0, 0, 0, 0)),
        ("transfer", 40, 25, (75, 0, 0, 75, 0), (25, 0, 0, 25, 0)),
        ("adjust", 40, 25, (125, 0, 0, 125, 0), (0, 0, 0, 0, 0)),
        ("adjust", -40, 25, (75, 0, 0, 75, 0), (0, 0, 0, 0, 0)),
    ],
)
def test_a_part_of_a_hold_may_go_through(kind: str, points: int, posted: int, ann: Any, bob: Any) -> None:
    """Of forty held points 25 are posted, and the rest is as if it had been voided."""
    books = Books()
    books.move("earn", 100)
    books.move("redeem", 0, account="bob")
    hold_id = books.hold(kind, points, to="bob")
    ended = books.end(hold_id, "post", posted)
    assert (ended.outcome, ended.verdict, ended.posted) == ("resolved", "post", posted)
    assert (books.figures(), books.figures("bob")) == (ann, bob)
    dump = books.dump()
    txn = dump.txns[-1]
    assert (txn.kind, txn.resolves, txn.amount) == ("post", hold_id, posted if points > 0 else -posted)
    sound(dump)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=5), st.data())
def test_a_hold_uses_its_own_lots_in_order(lots: list[tuple[int, int]], data: st.DataObject) -> None:
    """Whatever comes in or falls due meanwhile, a part of a hold takes what was reserved for it, in order of use."""
    books = Books()
    for points, lasts in lots:
        books.move("earn", points, lasts=lasts)
    asked = data.draw(st.integers(1, sum(points for points, _ in lots)))
    hold_id = books.hold("redeem", asked)
    reserved = [(part.lot_id, part.amount) for part in books.ledger.tables.hold_lots[hold_id]]
    assert [lot_id for lot_id, _ in reserved] == [lot.lot_id for lot in books.lots()][: len(reserved)]
    books.move("earn", 30, lasts=1)
    books.today(data.draw(st.sampled_from([0, 2, 4, 6])))
    part = data.draw(st.integers(1, asked))
    books.end(hold_id, "post", part)
    expected = []
    for lot_id, points in reserved:
        expected += [(lot_id, min(points, part))] if part else []
        part -= min(points, part)
    assert sorted(books.uses("debit")) == sorted(expected)
    sound(books.dump())


@pytest.mark.parametrize("verdict", ["void", "post"])
def test_a_hold_is_as_if_it_had_not_waited(verdict: str) -> None:
    """Points that fell due while a redemption waited are still spent by its approval, at no loss to anybody."""
    books = Books()
    books.move("earn", 10, lasts=1)
    hold_id = books.hold("redeem", 10)
    books.today(2)
    assert books.end(hold_id, verdict).posted == (10 if verdict == "post" else 0)
    assert books.uses("debit" if verdict == "post" else "expire") == [(books.dump().lots[0].lot_id, 10)]
    sound(books.dump())


def test_points_that_fell_due_in_our_keeping_get_the_grace() -> None:
    """Voided after their day, they become a lot of the same origin that lasts the days of grace from now; no entry."""
    books = Books(grace_days=3)
    books.move("earn", 10, lasts=1, store="s1", occurred_ms=day(-1))
    hold_id = books.hold("redeem", 8)
    books.today(2)
    assert books.figures() == (10, 0, 8, 0, 0)
    ended = books.end(hold_id, "void")
    (old,), (new,) = ([lot for lot in books.lots() if (lot.parent is None) == first] for first in (True, False))
    assert (old.remaining, old.reserved, books.figures()) == (2, 0, (10, 0, 0, 8, 0))
    assert new[3:] == (ended.decision_id, old.lot_id, 8, 8, 0, day(-1), day(5), "s1")
    assert len([entry for entry in books.dump().entries if entry.txn_id == ended.decision_id]) == 2
    assert books.move("redeem", 8).code == "posted"
    sound(books.dump())


def test_without_grace_they_expire_when_they_are_freed() -> None:
    """The rest of a part posted late expires by a transaction of its own in the same stroke."""
    books = Books()
    books.move("earn", 10, lasts=1)
    hold_id = books.hold("redeem", 8)
    books.today(2)
    books.end(hold_id, "post", 5)
    assert [(txn.kind, txn.amount) for txn in books.dump().txns[2:]] == [("post", 5), ("expire", 3)]
    assert books.figures() == (2, 0, 0, 0, 0)
    assert books.ledger.expire("north") == 1
    sound(books.dump())


def test_an_approved_earn_becomes_a_lot_by_the_terms_then() -> None:
    """Earned when it occurred, expiring by the terms at the approval, or when the event said; arrears go first."""
    books = Books(expiry_days=10, grace_days=4)
    books.move("redeem", 30, fact=True)
    by_terms, by_event = books.hold("earn", 50), books.hold("earn", 5, lasts=7)
    books.today(9)
    ended = books.end(by_terms, "post")
    assert books.figures() == (20, 5, 0, 20, 0)
    (lot,) = books.lots()
    assert lot[3:] == (ended.decision_id, None, 50, 20, 0, day(0), day(13), None)
    books.end(by_event, "post")
    assert [lot.expires_ms for lot in books.lots()] == [day(7), day(13)]
    assert books.figures() == (25, 0, 0, 20, 0)
    sound(books.dump())


def test_a_hold_ends_once() -> None:
    """Whoever comes later is told what stands; an escalation stops the timer and leaves the hold open."""
    books = Books()
    hold_id = books.hold("earn", 5, due_seconds=60, on_timeout="post")
    assert books.end(hold_id, "escalate").outcome == "escalated"
    books.today(1)
    assert books.ledger.time_out("north") == []
    first = books.end(hold_id, "void")
    before = books.dump()
    again = books.end(hold_id, "post", 3)
    assert (again.outcome, again.decision_id, again.verdict) == ("already_resolved", first.decision_id, "void")
    assert books.end(10**6, "void").outcome == "unknown_hold"
    assert books.dump() == before


@pytest.mark.parametrize("points", [0, -1, 41])
def test_no_more_is_posted_than_was_held(points: int) -> None:
    """A part must be of the hold: else nothing is recorded, and the core refuses to compute it."""
    books = Books()
    hold_id = books.hold("earn", 40)
    before = books.dump()
    assert books.end(hold_id, "post", points).outcome == "points_out_of_range"
    assert books.dump() == before
    (hold,) = books.ledger.holds("north")
    with pytest.raises(ValueError, match="40 points"):
        settle(Accounts({}, {}), [Settlement(99, hold, "post", points)], NOW, count(100))


def test_policy_ends_what_is_due_as_the_hold_says() -> None:
    """At its time, and not before, with a recorded decision; the earliest first."""
    books = Books()
    books.move("earn", 50)
    void = books.hold("redeem", 10, due_seconds=7200, on_timeout="void")
    post = books.hold("earn", 7, due_seconds=3600, on_timeout="post")
    books.hold("redeem", 5, due_seconds=86_400 * 2, on_timeout="void")
    assert books.ledger.time_out("north") == []
    books.today(1)
    ended = books.ledger.time_out("north")
    assert [(one.hold_id, one.verdict, one.actor) for one in ended] == [
        (post, "post", TIMEOUT_ACTOR),
        (void, "void", TIMEOUT_ACTOR),
    ]
    assert books.figures() == (57, 0, 5, 52, 0)


def held(*lots: tuple[int, int, int | None], kind: str = "redeem", amount: int = 0) -> tuple[Desk, OpenHold]:
    """A desk with one account whose lots (id, points, expiry) are all reserved by hold 5."""
    states = tuple(LotState(n, "north", 1, n, None, points, points, points, 0, at, None) for n, points, at in lots)
    total = sum(points for _, points, _ in lots)
    coming = 0 if lots else amount
    state = AccountState(1, 0, total, total, coming, 2, 0, open_holds=1, lots=states)
    hold = OpenHold(
        5, "north", kind, amount or total, "ann", due_ms=70, lots=tuple((n, points) for n, points, _ in lots)
    )
    controls = {("north", name): 100 + n for n, name in enumerate(("issued", "redeemed", "expired", "adjust"))}
    return Desk(Accounts({("north", "ann"): state}, controls), NOW, count(900)), hold


def test_what_is_left_is_held_again() -> None:
    """After a part was taken back: a hold in place of the first, due when that was, of lots it had, due ones too."""
    desk, hold = held((1, 10, 40), (2, 10, None))
    freed = close_hold(desk, Settlement(90, hold, "void", actor="policy:reversal", reason="taken back"))
    kept, rest = split(freed, 14)
    again = reopen(desk, hold, 14, kept)
    sweep(desk, 90, rest, graced=True)
    assert desk.current(hold) == again
    assert (again.hold_id, again.amount, again.due_ms, again.lots) == (900, 14, 70, ((1, 10), (2, 4)))
    plan = desk.close()
    assert [(new.hold_id, new.replaces, new.amount, new.due_ms) for new in plan.holds] == [(900, 5, 14, 70)]
    assert [(end.hold_id, end.verdict, end.posted, end.actor) for end in plan.hold_ends] == [
        (5, "void", 0, "policy:reversal")
    ]
    assert [(txn.kind, txn.source, txn.event_id) for txn in plan.txns] == [
        ("void", None, None),
        ("redeem", "pointguard:reversal", "5"),
    ]
    assert [(change.pending_dr, change.open_holds) for change in plan.changes] == [(-6, 0)]
    assert plan.lot_changes == ((2, 0, -6),)


@pytest.mark.parametrize(("kind", "amount"), [("earn", 10), ("adjust", 10)])
def test_what_comes_in_is_held_again_without_lots(kind: str, amount: int) -> None:
    """A pending credit has no lots; the rest of it stays pending."""
    desk, hold = held(kind=kind, amount=amount)
    assert close_hold(desk, Settlement(90, hold, "void")) == []
    again = reopen(desk, hold, 3, [])
    assert (again.amount, again.lots, again.takes) == (3, (), False)
    assert [(change.pending_cr, change.open_holds) for change in desk.close().changes] == [(-7, 0)]


def test_what_ended_is_no_hold_any_more() -> None:
    """Within a batch a hold that ended is known to have, whatever was loaded."""
    desk, hold = held((1, 10, None))
    assert desk.current(hold) == hold
    close_hold(desk, Settlement(90, hold, "void"))
    assert desk.current(hold) is None
    assert split([Part(desk.lot(1), 10)], 0) == ([], [Part(desk.lot(1), 10)])
