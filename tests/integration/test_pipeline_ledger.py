"""What an event comes to: posted, held, refused by name, expired; and how a hold ends."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from alerts.metrics import EVENTS, POINTS
from ledger.book import Resolution
from ledger.queries import balance
from streams import review
from streams.effects import Outgoing
from tests.integration.pipeline_desk import LIVE, SIMULATION, Desk, event

LARGE = 1000
"""Points from which the desk's policy holds; from 100,000 on it rejects."""


def resolve(desk: Desk, hold_id: int, verdict: str, actor: str = "analyst") -> list[Any]:
    """What a person decides of a hold, in a transaction of its own."""
    with desk.engine.begin() as conn:
        wish = Resolution(hold_id, verdict, actor, "looked at it")  # type: ignore[arg-type]  # one of the verdicts
        return review.decide(conn, desk.ids, [wish], "points.decisions")


def points(desk: Desk, account: str = "ann", program: str = LIVE) -> tuple[int, int, int, int]:
    """Posted, pending in, pending out and owed points of a member."""
    with desk.engine.connect() as conn:
        found = balance(conn, program, account)
    assert found is not None
    return found.posted, found.pending_in, found.pending_out, found.owed


def test_a_purchase_sees_the_sign_up_before_it(desk: Desk) -> None:
    """In one batch the second event knows what the first told: 20 s after sign-up is too soon for a large earn."""
    desk.send(
        event("account.created", id="s-1", occurred_at="2026-03-01T01:59:40Z"),
        event(id="e-1", points=100),
        event("account.created", id="s-2", account="old", occurred_at="2026-03-01T00:00:00Z"),
        event(id="e-2", account="old", points=100),
    )
    reasons = {row.event_id: row.reasons for row in desk.rows("SELECT * FROM decision WHERE type = 'earn'")}
    assert [(reason["code"], reason["value"]) for reason in reasons["e-1"]] == [("fresh_account", 20.0)]
    assert reasons["e-2"] == []
    desk.verified()


def test_a_sign_up_is_remembered_by_the_account(desk: Desk) -> None:
    """The batch after it reads the time from the account's row; the first sign-up stays."""
    desk.send(event("account.created", id="s-1", occurred_at="2026-03-01T01:59:30Z"))
    desk.send(event("account.created", id="s-2", occurred_at="2026-03-01T01:59:59Z"))
    desk.send(event(id="e-1"))
    (reason,) = desk.one("SELECT reasons FROM decision WHERE event_id = 'e-1'")
    assert (reason["code"], reason["value"]) == ("fresh_account", 30.0)


def test_the_balance_runs_through_the_batch(desk: Desk) -> None:
    """Each event is decided on what the ones before it left; too little is an outcome of its own, not an error."""
    desk.send(
        event("redeem", id="r-1", points=1),
        event(id="e-1", points=100),
        event("redeem", id="r-2", points=70),
        event("redeem", id="r-3", points=31),
        event("redeem", id="r-4", points=30),
    )
    short = ("reject", "insufficient_balance")
    posted = ("approve", "posted")
    assert desk.outcomes() == {"r-1": short, "e-1": posted, "r-2": posted, "r-3": short, "r-4": posted}
    assert (points(desk), desk.count("txn")) == ((0, 0, 0, 0), 3)
    (reason,) = desk.one("SELECT reasons FROM decision WHERE event_id = 'r-3'")
    assert (reason["code"], reason["kind"], reason["value"]) == ("insufficient_balance", "ledger", 31.0)
    messages = {message["id"]: (message["outcome"], message["code"]) for message in desk.said("points.decisions")}
    assert messages == desk.outcomes()
    desk.verified()


def test_a_fact_beyond_the_balance_becomes_arrears(desk: Desk) -> None:
    """Goods are gone already: it is posted, what was missing is owed, and later points pay that first."""
    desk.send(event(id="e-1", points=50), event("redeem", id="r-1", points=80, fulfilled=True))
    assert (desk.outcomes()["r-1"], points(desk)) == (("approve", "posted"), (0, 0, 0, 30))
    desk.send(event(id="e-2", points=45))
    assert points(desk) == (15, 0, 0, 0)
    desk.verified()


def test_a_suspicious_fact_is_posted_and_marked(desk: Desk) -> None:
    """What the policy would have stopped but has happened is posted, marked and told; it teaches no model."""
    desk.send(
        event("redeem", id="r-1", points=LARGE, fulfilled=True), event("redeem", id="r-2", points=5, fulfilled=True)
    )
    rows = {row.event_id: (row.outcome, row.code, row.suspicious) for row in desk.rows("SELECT * FROM decision")}
    assert rows == {"r-1": ("approve", "posted", True), "r-2": ("approve", "posted", False)}
    assert [(alert["alert"], alert["id"]) for alert in desk.said("points.alerts")] == [("suspicious_fact", "r-1")]
    taught = desk.rows("SELECT event_id FROM label_pending JOIN decision USING (decision_id)")
    assert [row.event_id for row in taught] == ["r-2"]
    assert points(desk) == (0, 0, 0, LARGE + 5)
    desk.verified()


def test_a_request_past_its_time_moves_nothing(desk: Desk) -> None:
    """Nobody waits for the answer any more: expired, whatever the policy says; a fact has no such time."""
    late = "2026-03-01T02:00:01Z"
    desk.send(
        event(id="e-1", points=500),
        event("redeem", id="r-1", points=10, decide_by=late),
        event("transfer", id="t-1", points=10, to="bob", decide_by=late),
        event("redeem", id="r-2", points=LARGE, decide_by=late),
        event("redeem", id="r-3", points=10, decide_by="2199-01-01T00:00:00Z"),
        event("redeem", id="r-4", points=10, decide_by=late, fulfilled=True),
    )
    expired = dict.fromkeys(("r-1", "t-1", "r-2"), ("expired", "expired"))
    assert desk.outcomes() == expired | dict.fromkeys(("e-1", "r-3", "r-4"), ("approve", "posted"))
    assert (points(desk), desk.count("hold")) == ((480, 0, 0, 0), 0)
    assert desk.metrics.counter(EVENTS, desk.log.topic, "redeem", "expired")._value.get() == 2
    desk.verified()


def test_a_request_expires_by_the_programmes_clock(desk: Desk) -> None:
    """In a simulation the time is the events' own: a request in the file's past is not late."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(
        event(id="e-1", **at),
        event("redeem", id="r-1", points=5, decide_by="2020-01-01T00:00:30Z", **at),
        event("redeem", id="r-2", points=5, decide_by="2019-12-31T23:59:59Z", **at),
    )
    assert (desk.outcomes()["r-1"], desk.outcomes()["r-2"]) == (("approve", "posted"), ("expired", "expired"))


def test_transfers(desk: Desk) -> None:
    """Points go to another member, also one never seen; to oneself or beyond the balance they go nowhere."""
    desk.send(
        event(id="e-1", points=100),
        event("transfer", id="t-1", points=60, to="bob"),
        event("transfer", id="t-2", points=60, to="bob"),
        event("transfer", id="t-3", points=10, to="ann"),
        event("redeem", id="r-1", account="bob", points=60),
    )
    assert desk.outcomes() == {
        "e-1": ("approve", "posted"), "t-1": ("approve", "posted"), "t-2": ("reject", "insufficient_balance"),
        "t-3": ("reject", "same_account"), "r-1": ("approve", "posted"),
    }  # fmt: skip
    assert (points(desk), points(desk, "bob")) == ((40, 0, 0, 0), (0, 0, 0, 0))
    desk.verified()


def test_adjustments_of_both_signs(desk: Desk) -> None:
    """A correction gives or takes; a debit is a request and needs the balance, unless it is a fact."""
    reason = {"reason": "counted twice"}
    desk.send(
        event("adjust", id="a-1", points=30, **reason),
        event("adjust", id="a-2", points=-10, **reason),
        event("adjust", id="a-3", points=-21, **reason),
        event("adjust", id="a-4", points=-25, fulfilled=True, **reason),
        event("adjust", id="a-5", points=-LARGE, **reason),
        event("adjust", id="a-6", points=LARGE, **reason),
    )
    assert desk.outcomes() == {
        "a-1": ("approve", "posted"), "a-2": ("approve", "posted"), "a-3": ("reject", "insufficient_balance"),
        "a-4": ("approve", "posted"), "a-5": ("reject", "insufficient_balance"), "a-6": ("hold", "held"),
    }  # fmt: skip
    assert points(desk) == (0, LARGE, 0, 5)
    moved = [message["points"] for message in desk.said("points.decisions")]
    assert moved == [30, -10, -21, -25, -LARGE, LARGE]
    desk.verified()


def test_a_held_earn_that_is_approved(desk: Desk) -> None:
    """Pending until a person decides; then posted once, with a label, a message and the name of who decided."""
    desk.send(event(id="e-1", points=LARGE))
    assert (desk.outcomes(), points(desk)) == ({"e-1": ("hold", "held")}, (0, LARGE, 0, 0))
    hold_id = desk.one("SELECT hold_id FROM hold")
    assert [(alert["alert"], alert["hold_id"]) for alert in desk.said("points.alerts")] == [("hold_opened", hold_id)]
    assert desk.count("label_pending") == 0

    (resolved,) = resolve(desk, hold_id, "post")
    (late,) = resolve(desk, hold_id, "void", "somebody else")
    assert (resolved.outcome, late.outcome, late.verdict, late.actor) == (
        "resolved",
        "already_resolved",
        "post",
        "analyst",
    )
    assert points(desk) == (LARGE, 0, 0, 0)
    labels = desk.rows("SELECT decision_id, label, origin FROM label_pending")
    assert [tuple(row) for row in labels] == [(hold_id, 0, "review")]
    held, ended = desk.said("points.decisions")
    assert (held["outcome"], held["hold_id"]) == ("hold", hold_id)
    assert (ended["outcome"], ended["code"], ended["resolves"], ended["id"]) == ("approve", "posted", hold_id, "e-1")
    assert ended["decision_id"] == resolved.decision_id != hold_id
    desk.verified()


def test_a_held_redemption_that_is_refused(desk: Desk) -> None:
    """Its points are set aside meanwhile and come back; the label says fraud."""
    desk.send(event(id="e-1", points=999), event(id="e-2", points=501), event("redeem", id="r-1", points=LARGE))
    hold_id = desk.one("SELECT hold_id FROM hold")
    assert points(desk) == (1500, 0, LARGE, 0)
    desk.send(event("redeem", id="r-2", points=501))
    assert desk.outcomes()["r-2"] == ("reject", "insufficient_balance")
    resolve(desk, hold_id, "void")
    assert points(desk) == (1500, 0, 0, 0)
    assert desk.one("SELECT label FROM label_pending WHERE decision_id = :id", id=hold_id) == 1
    assert desk.said("points.decisions")[-1]["outcome"] == "reject"
    desk.verified()


def test_a_reviewers_label_replaces_the_one_that_matures(desk: Desk) -> None:
    """Of one event there is one label: what a person saw counts more than that nobody objected."""
    desk.send(event(id="e-1", points=LARGE))
    hold_id = desk.one("SELECT hold_id FROM hold")
    with desk.engine.begin() as conn:
        conn.execute(
            text("""INSERT INTO label_pending (decision_id, program, label, origin, due_at)
                    VALUES (:id, :program, 0, 'matured', now())"""),
            {"id": hold_id, "program": LIVE},
        )
    resolve(desk, hold_id, "void")
    assert [tuple(row) for row in desk.rows("SELECT label, origin FROM label_pending")] == [(1, "review")]


def test_what_nobody_decided_is_decided_by_the_policy(desk: Desk) -> None:
    """Due holds end as each one's `on_timeout` says, recorded as the policy's decision; no label, for nobody looked."""
    at = {"program": SIMULATION, "account": "ann"}
    before, after = "2020-01-01T00:00:00Z", "2020-01-01T00:10:00Z"
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "earn": lambda: event(id="e-1", points=LARGE, occurred_at=before, **at),
        "redeem": lambda: event("redeem", id="r-1", points=LARGE, occurred_at=before, **at),
        "adjust": lambda: event("adjust", id="a-1", points=LARGE, reason="gift", occurred_at=before, **at),
    }
    desk.send(*(event(id=f"e-0{i}", points=600, occurred_at=before, **at) for i in range(2)))
    desk.send(*(make() for make in kinds.values()))
    told = len(desk.said("points.decisions"))

    def timeouts() -> dict[str, str | None]:
        with desk.engine.begin() as conn:
            done = review.decide_due(conn, desk.ids, Outgoing("points.decisions", "points.alerts"))
        names = {row.decision_id: row.type for row in desk.rows("SELECT decision_id, type FROM decision")}
        return {names[one.hold_id]: one.verdict for one in done}

    assert timeouts() == {}
    desk.send(event(id="later", account="bob", program=SIMULATION, occurred_at=after))
    assert timeouts() == {"earn": "post", "redeem": "void", "adjust": "escalate"}
    assert timeouts() == {}
    assert points(desk, program=SIMULATION) == (1200 + LARGE, LARGE, 0, 0)
    actors = desk.rows("SELECT actor FROM review_decision")
    assert {row.actor for row in actors} == {"policy:timeout"}
    assert desk.rows("SELECT 1 FROM label_pending WHERE origin = 'review'") == []
    ended = desk.said("points.decisions")[told + 1 :]
    assert {(message["type"], message["outcome"], message["code"]) for message in ended} == {
        ("earn", "approve", "posted"), ("redeem", "reject", "voided"),
    }  # fmt: skip
    desk.verified()


def test_a_rejected_event_moves_nothing_and_says_so(desk: Desk) -> None:
    """A hard rule refuses an inflow for good: an outcome with its rule, no transaction and no hold."""
    desk.send(event(id="e-1", points=100_000))
    assert (desk.outcomes(), desk.count("txn"), desk.count("hold")) == ({"e-1": ("reject", "rejected")}, 0, 0)
    assert desk.one("SELECT reasons FROM decision")[0]["code"] == "forbidden"
    assert desk.metrics.counter(POINTS, "earn", "reject")._value.get() == 100_000
    desk.verified()


def test_programmes_of_one_batch_do_not_mix(desk: Desk) -> None:
    """The same member name in two programmes is two accounts, each with its own times and balance."""
    past = "2020-01-01T00:00:00Z"
    desk.send(
        event(id="e-1", points=10),
        event(id="e-2", points=20, program=SIMULATION, occurred_at=past),
        event("redeem", id="r-1", points=15),
        event("redeem", id="r-2", points=15, program=SIMULATION, occurred_at=past),
    )
    assert (desk.outcomes()["r-1"][1], desk.outcomes()["r-2"][1]) == ("insufficient_balance", "posted")
    assert (points(desk), points(desk, program=SIMULATION)) == ((10, 0, 0, 0), (5, 0, 0, 0))
    desk.verified()


@pytest.mark.parametrize("kind", ["login", "credential.changed", "device.bound", "verification.passed"])
def test_an_event_that_informs_is_noted(desk: Desk, kind: str) -> None:
    """It gets a decision row without score or features, and moves no points."""
    extra = {"credential.changed": {"credential": "password"}, "verification.passed": {"challenge": "c-1"}}
    desk.send(event(kind, id="i-1", device="d-1", **extra.get(kind, {})))
    (row,) = desk.rows("SELECT * FROM decision")
    assert (row.outcome, row.code, row.score, row.features, row.points) == ("noted", "noted", None, None, None)
    assert (desk.count("txn"), len(bytes(row.device))) == (0, 16)
    assert "d-1" not in str(row.event)
