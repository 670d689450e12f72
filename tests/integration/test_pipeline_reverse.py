"""A reverse event on its way through the pipeline: decided, carried out, told to those whose holds it ended."""

from typing import Any

import pytest

from ledger.book import Resolution
from ledger.queries import balance
from streams import review
from tests.integration.pipeline_desk import LIVE, Desk, event, velocity_of

LARGE = 1000
"""Points from which the desk's policy holds."""


def reverse(event_id: str, reverses: str, points: int | None = None, **changes: Any) -> dict[str, Any]:
    """The fields of a reverse."""
    return event("reverse", id=event_id, reverses=reverses, points=points, **changes)


def told(desk: Desk, event_id: str) -> list[tuple[str, str, int | None, bool]]:
    """Messages on decisions about an event: outcome, code, points, and whether they end a hold."""
    return [
        (message["outcome"], message["code"], message.get("points"), "resolves" in message)
        for message in desk.said("points.decisions")
        if message["id"] == event_id
    ]


def test_a_reverse_is_approved_and_takes_the_points_back(desk: Desk) -> None:
    """In full or in part, by its own source; its decision says posted, and the ledger proves itself."""
    desk.send(event(id="e-1", points=100), event(id="e-2", points=50))
    desk.send(reverse("b-1", "e-1"), reverse("b-2", "e-2", 20))
    posted = ("approve", "posted")
    assert desk.outcomes() == {"e-1": posted, "e-2": posted, "b-1": posted, "b-2": posted}
    assert desk.balance("ann") == 30
    rows = desk.rows("SELECT source, event_id, amount FROM txn WHERE kind = 'reverse' ORDER BY txn_id")
    assert [tuple(row) for row in rows] == [("pos", "b-1", 100), ("pos", "b-2", 20)]
    desk.verified()


def test_what_can_not_be_taken_back_is_rejected_by_name(desk: Desk) -> None:
    """An unknown event, another source's, another account's, one taken back already, and a reverse itself."""
    desk.send(event(id="e-1"), event("login", id="l-1"), event("redeem", id="r-1", points=7, account="poor"))
    desk.send(
        reverse("b-1", "none"),
        reverse("b-2", "e-1", source="app"),
        reverse("b-3", "e-1", account="bob"),
        reverse("b-4", "e-1"),
        reverse("b-5", "e-1", 1),
        reverse("b-6", "b-4"),
        reverse("b-7", "l-1"),
        reverse("b-8", "r-1", account="poor"),
    )
    unknown, nothing = ("reject", "unknown_original"), ("reject", "nothing_to_reverse")
    outcomes = desk.outcomes()
    assert [outcomes[f"b-{n}"] for n in range(1, 9)] == [
        *(unknown, unknown, unknown, ("approve", "posted"), nothing, nothing, nothing, nothing)
    ]
    (reason,) = desk.one("SELECT reasons FROM decision WHERE event_id = 'b-1'")
    assert (reason["code"], reason["kind"]) == ("unknown_original", "ledger")
    desk.verified()


def test_order_within_a_batch_counts(desk: Desk) -> None:
    """Before its original it is unknown; behind it, it sees what else came before."""
    desk.send(
        reverse("b-1", "e-1"),
        event(id="e-1", points=100),
        event("redeem", id="r-1", points=60),
        reverse("b-2", "e-1"),
        event(id="e-2", points=70),
        reverse("b-3", "r-1", 10),
    )
    outcomes = desk.outcomes()
    assert (outcomes["b-1"], outcomes["b-2"]) == (("reject", "unknown_original"), ("approve", "posted"))
    assert desk.balance("ann") == 20
    desk.verified()


def test_a_held_earn_is_ended_and_upstream_is_told(desk: Desk) -> None:
    """A part: the hold goes on under another number, for the same event. All: it is over. What remains is approved."""
    desk.send(event(id="e-1", points=LARGE), event(id="e-2", points=LARGE))
    desk.send(reverse("b-1", "e-1", 300), reverse("b-2", "e-2"))
    assert told(desk, "e-1") == [("hold", "held", LARGE, False), ("hold", "held", LARGE - 300, True)]
    assert told(desk, "e-2") == [("hold", "held", LARGE, False), ("reject", "voided", LARGE, True)]
    (hold_id,) = [row.hold_id for row in desk.rows("SELECT hold_id FROM hold WHERE resolved_at IS NULL")]
    with desk.engine.begin() as conn:
        review.decide(conn, desk.ids, [Resolution(hold_id, "post", "ann.alyst", "fine")], "points.decisions")
    assert told(desk, "e-1")[-1] == ("approve", "posted", LARGE - 300, True)
    label = "SELECT label, origin FROM label_pending JOIN decision USING (decision_id) WHERE event_id = 'e-1'"
    assert [tuple(row) for row in desk.rows(label)] == [(0, "review")]
    assert desk.balance("ann") == LARGE - 300
    desk.verified()


def test_somebody_elses_held_redemption_is_held_again_for_less(desk: Desk) -> None:
    """Tainted points are taken out of a redemption that waits; its till hears of it, and of the end later."""
    desk.send(event(id="e-1", points=900), event("transfer", id="t-1", points=900, to="bob"))
    desk.send(event(id="e-2", account="bob", points=500))
    desk.send(event("redeem", id="r-1", account="bob", points=LARGE))
    desk.send(reverse("b-1", "e-1"))
    with desk.engine.connect() as conn:
        found = balance(conn, LIVE, "bob")
    assert found is not None
    assert (found.posted, found.pending_out) == (500, 100)
    assert told(desk, "r-1") == [("hold", "held", LARGE, False), ("hold", "held", 100, True)]
    (hold,) = desk.rows("SELECT hold_id FROM hold WHERE resolved_at IS NULL")
    with desk.engine.begin() as conn:
        review.decide(conn, desk.ids, [Resolution(hold.hold_id, "void", "ann.alyst", "no")], "points.decisions")
    assert told(desk, "r-1")[-1] == ("reject", "voided", LARGE, True)
    desk.verified()


def test_a_hold_of_the_same_batch_is_told_before_its_end(desk: Desk) -> None:
    """Who reads the messages in order never hears of the end of a hold that was not opened."""
    desk.send(event(id="e-1", points=LARGE), reverse("b-1", "e-1"))
    assert told(desk, "e-1") == [("hold", "held", LARGE, False), ("reject", "voided", LARGE, True)]


def test_the_policy_can_mark_a_reversal_but_not_stop_it(desk: Desk) -> None:
    """It is a fact: whatever speaks against it, it is carried out, at most marked suspicious; it teaches nothing."""
    desk.send(event(id="e-1", points=100), event(id="e-2", points=100))
    desk.run(desk.stages.observer._store.clear())
    desk.send(reverse("b-1", "e-1", 100), reverse("b-2", "e-2"))
    assert desk.outcomes()["b-1"] == ("approve", "posted")
    waiting = "SELECT event_id FROM label_pending JOIN decision USING (decision_id)"
    assert {row.event_id for row in desk.rows(waiting)} == {"e-1", "e-2"}
    desk.verified()


def test_a_reverse_counts_as_an_event_but_moves_nothing(desk: Desk) -> None:
    """Velocity sees that somebody is busy; what was taken back is not counted as spent a second time."""
    desk.send(event(id="e-1", points=100))
    desk.send(reverse("b-1", "e-1", 100))
    prepared = desk.prepare(desk.part.records(event(id="e-2", points=1)))
    assert velocity_of(prepared, "account.count_24h") == [2.0]
    assert velocity_of(prepared, "account.sum_24h") == [100.0]


def test_delivered_again_it_takes_nothing_more(desk: Desk) -> None:
    """The same reverse in another record is a duplicate; under another id it finds nothing left."""
    desk.send(event(id="e-1", points=100))
    taken = reverse("b-1", "e-1")
    assert desk.send(taken).duplicates == 0
    assert desk.send(taken).duplicates == 1
    desk.send(reverse("b-2", "e-1"))
    assert desk.outcomes()["b-2"] == ("reject", "nothing_to_reverse")
    assert desk.balance("ann") == 0
    desk.verified()


@pytest.mark.parametrize("pool", ["home", None])
def test_points_come_out_of_a_pool_for_its_members_only(desk: Desk, pool: str | None) -> None:
    """Until somebody lets the account into the pool it is refused by name; nobody is a pool himself."""
    desk.send(event(id="e-1", points=100), event("redeem", id="r-1", points=10, pool=pool))
    expected = ("reject", "not_in_pool") if pool else ("approve", "posted")
    assert desk.outcomes()["r-1"] == expected
    letters = desk.send(event(id="e-2", account="pool:home")).letters
    assert [letter.error for letter in letters] == ["reserved_account"]
    desk.verified()
