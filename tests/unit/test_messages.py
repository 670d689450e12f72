"""What leaves for upstream: decisions and alerts as JSON, and what they never say."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from detectors.decision import Decision, Reason
from detectors.event import Event, Invalid, decode
from streams.deadletters import SealedPackError, pack, unpack
from streams.decisions import Decided, stored_event
from streams.effects import Outgoing, messages, quarantines, refusals
from streams.messages import AlertMessage, DecisionMessage, alert_message, decision_message
from streams.outbox import Message
from streams.records import DeadLetter, Incoming, Log
from tests.unit.event_samples import full, raw

AT = datetime(2026, 3, 1, 2, 0, 5, tzinfo=UTC)
TOPICS = Outgoing("points.decisions", "points.alerts")
REASON = Reason(code="device_shared", kind="rule", contribution=3.2, value=7.0, limit=2.0)


def decided(kind: str, outcome: str, code: str, **changes: Any) -> Decided:
    """A decision on a full event of a type."""
    event = decode(raw(full(kind)))
    assert not isinstance(event, Invalid)
    incoming = Incoming(0, 5, b"k", b"", (), 0, event.source, event, None)
    verdict = Decision(
        outcome="hold", score=0.75, reasons=(REASON,), suspicious=False, policy_version=3, model_version=None
    )
    given: dict[str, Any] = {
        "decision_id": 17, "incoming": incoming, "event": event, "device": b"d", "ip": b"i",
        "ip_prefix": None, "payment": None,
        "occurred_ms": 0, "observed_ms": 0, "outcome": outcome, "code": code, "decision": verdict, "features": None,
    }  # fmt: skip
    return Decided(**(given | changes))


def said(message: Message) -> dict[str, Any]:
    """A message's JSON."""
    value: dict[str, Any] = json.loads(message.value)
    return value


def test_a_decision_says_what_upstream_needs() -> None:
    """Identity, outcome and what the ledger did; keyed by account, so that an account's decisions stay in order."""
    (message,) = messages([decided("redeem", "approve", "posted", decision=None)], TOPICS, AT)
    assert (message.topic, message.key) == ("points.decisions", b"member-1")
    assert said(message) == {
        "decision_id": 17, "source": "pos/shop-17", "id": "e-1", "program": "demo", "account": "member-1",
        "type": "redeem", "outcome": "approve", "code": "posted", "decided_at": "2026-03-01T02:00:05Z", "points": 800,
    }  # fmt: skip


def test_a_hold_is_also_an_alert() -> None:
    """The decision names the hold, the alert tells the desk with points and score, keyed by the event."""
    decision, alert = messages([decided("earn", "hold", "held")], TOPICS, AT)
    assert said(decision)["hold_id"] == 17
    assert (alert.topic, alert.key) == ("points.alerts", b"e-1")
    assert said(alert) == {
        "alert": "hold_opened", "at": "2026-03-01T02:00:05Z", "program": "demo", "source": "pos/shop-17", "id": "e-1",
        "hold_id": 17, "points": 1200, "score": 0.75,
    }  # fmt: skip


def test_a_suspicious_fact_is_an_alert_without_a_hold() -> None:
    """It is posted already: somebody should look at it."""
    suspicious = Decision(
        outcome="approve", score=0.9, reasons=(REASON,), suspicious=True, policy_version=3, model_version=None
    )
    decision, alert = messages([decided("redeem", "approve", "posted", decision=suspicious)], TOPICS, AT)
    assert "hold_id" not in said(decision)
    assert (said(alert)["alert"], "hold_id" in said(alert)) == ("suspicious_fact", False)


@pytest.mark.parametrize("kind", ["earn", "redeem", "transfer", "adjust", "login", "device.bound"])
def test_messages_carry_no_reason_and_no_personal_data(kind: str) -> None:
    """Attackers read answers, too: neither why nor from where is told to anybody."""
    text = " ".join(message.value.decode() for message in messages([decided(kind, "hold", "held")], TOPICS, AT))
    assert not [word for word in ("device_shared", "203.0.113.77", "d-9", "clerk-3", "contribution") if word in text]


def test_a_dead_letter_is_told_by_place_and_reason() -> None:
    """Topic, partition 0 and offset 0 are said; content never is; one without an id is keyed by its place."""
    record = Incoming(0, 0, b"k", b"secret", (), 0, "s" * 200, None, Invalid("not_json", "", "detail"))
    letters = [
        DeadLetter(record, "not_json", "", "secret detail"),
        DeadLetter(record, "conflicting_duplicate", "id", ""),
    ]
    first, second = refusals(letters, Log("life-1", "points.events"), TOPICS, AT)
    assert said(first) == {
        "alert": "dead_letter", "at": "2026-03-01T02:00:05Z", "source": "s" * 128, "error": "not_json",
        "topic": "points.events", "partition": 0, "offset": 0,
    }  # fmt: skip
    assert (first.topic, first.key) == ("points.alerts", b"points.events/0/0")
    assert (said(second)["alert"], said(second)["field"]) == ("integrity_conflict", "id")


def test_a_quarantine_is_an_alert() -> None:
    """One for each source that was put in."""
    made = [said(message) for message in quarantines(["a", "b"], TOPICS, AT)]
    assert [(message["alert"], message["source"]) for message in made] == [
        ("source_quarantined", "a"),
        ("source_quarantined", "b"),
    ]


def test_numbers_of_zero_are_said_and_nothing_is_null() -> None:
    """What is not known is left out; what is 0 is known."""
    decision = DecisionMessage(
        decision_id=1, source="s", id="i", program="p", account="会员", type="earn", outcome="noted", code="noted",
        decided_at=AT, points=0,
    )  # fmt: skip
    made = decision_message("t", decision)
    assert (said(made)["points"], made.key) == (0, "会员".encode())
    assert None not in said(made).values()
    assert said(alert_message("t", AlertMessage(alert="dead_letter", at=AT, score=0.0)))["score"] == 0.0


@pytest.mark.parametrize("kind", ["earn", "redeem", "transfer", "adjust", "login"])
def test_the_stored_event_has_no_device_and_no_address(kind: str) -> None:
    """All else of it is kept as it came."""
    event = decode(raw(full(kind)))
    assert not isinstance(event, Invalid)
    stored = stored_event(event)
    assert b"d-9" not in stored
    assert b"203.0.113" not in stored
    again = decode(stored)
    assert isinstance(again, Event)
    assert (again.id, again.store, again.device, again.ip) == (event.id, event.store, None, None)


@pytest.mark.parametrize("body", [None, b"", b"\xff\x00", b"{}"])
def test_a_pack_keeps_headers_and_body(body: bytes | None) -> None:
    """Also a tombstone, an empty body and bytes that are no text; a header without a value comes back empty."""
    headers = [("ce_id", b"e-1"), ("x", None), ("x", b"\xff")]
    sealed = pack(headers, body, lambda clear: clear[::-1])
    assert unpack(sealed, lambda closed: closed[::-1]) == ([("ce_id", b"e-1"), ("x", b""), ("x", b"\xff")], body)


def test_a_pack_that_cannot_be_opened_says_so() -> None:
    """With another secret, or damaged."""
    with pytest.raises(SealedPackError, match="secret_file"):
        unpack(b"\xc1", lambda closed: closed)
