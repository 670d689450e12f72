"""What PointGuard says on its two outgoing topics. Both deliver at least once: consumers dedupe by `decision_id`.

A decision tells upstream whether goods may be handed out; it does not tell why an event was held, for attackers read
answers too (security.md M8). The reasons are with the decision in PostgreSQL.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from streams.outbox import Message


class DecisionMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision on `points.decisions`.

    `outcome` is approve, hold, reject, expired or noted; `code` names what the ledger did (posted, held,
    insufficient_balance, …). A hold's resolution is a message of its own: `resolves` is the hold's id and the outcome
    is final.
    """

    decision_id: int
    source: str
    id: str
    program: str
    account: str
    type: str
    outcome: str
    code: str
    decided_at: datetime
    points: int | None = None
    hold_id: int | None = None
    resolves: int | None = None


class AlertMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One alert on `points.alerts`: what happened, to which event, and where to look.

    `alert` is hold_opened, suspicious_fact, dead_letter, integrity_conflict,
    source_quarantined, hold_escalated (it was due, and waits for a person), ledger_differs (verify found it),
    rule_paused (the circuit breaker took the effect of `rule` away; `detail` says why), model_drift (`field` is what
    moved, `score` by how much) or model_refused (`error` is why). `why_en` and `why_zh` tell the decision behind the
    first two in words (`detectors.explain.describe`).
    """

    alert: str
    at: datetime
    program: str | None = None
    source: str | None = None
    id: str | None = None
    hold_id: int | None = None
    points: int | None = None
    score: float | None = None
    error: str | None = None
    field: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    rule: str | None = None
    detail: str | None = None
    why_en: tuple[str, ...] = ()
    why_zh: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


def decision_message(topic: str, value: DecisionMessage) -> Message:
    """The message of a decision, keyed by account so that one account's decisions stay in order."""
    return Message(topic, value.account.encode(), _encode(value))


def alert_message(topic: str, value: AlertMessage) -> Message:
    """The message of an alert, keyed by what it is about."""
    place = f"{value.topic}/{value.partition}/{value.offset}" if value.topic else value.source
    about = value.id or value.hold_id or place or value.rule or value.error
    return Message(topic, str(about).encode(), _encode(value))
