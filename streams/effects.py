"""What leaves with a decided batch besides the ledger: messages for the outbox, and candidates for the label log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from detectors.decision import CompiledPolicy, is_trusted
from detectors.entity import Keys
from detectors.explain import Language, describe
from detectors.policy import Training
from ledger.arrays import bigints, run, texts, timestamps
from streams.decisions import Decided
from streams.messages import AlertMessage, DecisionMessage, alert_message, decision_message
from streams.outbox import Message
from streams.records import DeadLetter, Log

CONFLICT = "conflicting_duplicate"
_HASHES = 2**64

_PENDING = """
INSERT INTO label_pending (decision_id, program, label, origin, due_at)
SELECT id, program, 0, 'matured', due FROM unnest(%(ids)s, %(programs)s, %(due)s) AS t(id, program, due)"""


@dataclass(frozen=True)
class Outgoing:
    """The topics PointGuard publishes on."""

    decisions: str
    alerts: str


def messages(
    decided: Sequence[Decided], topics: Outgoing, at: datetime, policy: CompiledPolicy | None = None
) -> list[Message]:
    """One message a decision, and an alert, told in the words of `policy`, for each new hold and suspicious fact."""
    made = [decision_message(topics.decisions, _decision(row, at)) for row in decided]
    made += [
        alert_message(topics.alerts, _alert("hold_opened", row, at, policy)) for row in decided if row.outcome == "hold"
    ]
    made += [
        alert_message(topics.alerts, _alert("suspicious_fact", row, at, policy))
        for row in decided
        if row.decision is not None and row.decision.suspicious
    ]
    return made


def refusals(letters: Sequence[DeadLetter], log: Log, topics: Outgoing, at: datetime) -> list[Message]:
    """An alert for each dead letter; it names place and reason, never the content."""
    return [
        alert_message(
            topics.alerts,
            AlertMessage(
                alert="integrity_conflict" if letter.error == CONFLICT else "dead_letter",
                at=at,
                source=letter.record.source[:128],
                id=letter.record.event_id,
                error=letter.error,
                field=letter.field or None,
                topic=log.topic,
                partition=letter.record.part,
                offset=letter.record.offset,
            ),
        )
        for letter in letters
    ]


def quarantines(sources: Sequence[str], topics: Outgoing, at: datetime) -> list[Message]:
    """An alert for each source that was put in quarantine."""
    return [
        alert_message(topics.alerts, AlertMessage(alert="source_quarantined", at=at, source=source))
        for source in sources
    ]


def expect_labels(conn: Connection, decided: Sequence[Decided], training: Training, keys: Keys) -> None:
    """Note which events may teach the models once they have matured without objection.

    Only events that moved points, were approved and that no rule objected to; of those a share, chosen by a hash of
    the identity, so that the choice is the same on every replay. Reversals teach nothing: they are always approved.
    """
    quiet = [row for row in decided if _is_quiet(row) and _share(row, keys) < training.share]
    if not quiet:
        return
    due = [row.observed_ms + training.maturity_seconds * 1000 for row in quiet]
    run(
        conn,
        _PENDING,
        {
            "ids": bigints([row.decision_id for row in quiet]),
            "programs": texts([row.event.program for row in quiet]),
            "due": timestamps(due),
        },
    )


def _is_quiet(row: Decided) -> bool:
    decision = row.decision
    approved = row.outcome == "approve" and row.event.type != "reverse"
    return approved and decision is not None and is_trusted(decision)


def _share(row: Decided, keys: Keys) -> float:
    identity = f"{row.event.source}\x1f{row.event.id}".encode()
    return keys.event_hash64(row.event.program, "label", identity) / _HASHES


def _decision(row: Decided, at: datetime) -> DecisionMessage:
    event = row.event
    return DecisionMessage(
        decision_id=row.decision_id,
        source=event.source,
        id=event.id,
        program=event.program,
        account=event.account,
        type=event.type,
        outcome=row.outcome,
        code=row.code,
        decided_at=at,
        points=getattr(event, "points", None),
        hold_id=row.decision_id if row.outcome == "hold" else None,
    )


def _alert(alert: str, row: Decided, at: datetime, policy: CompiledPolicy | None) -> AlertMessage:
    return AlertMessage(
        alert=alert,
        at=at,
        program=row.event.program,
        source=row.event.source,
        id=row.event.id,
        hold_id=row.decision_id if row.outcome == "hold" else None,
        points=getattr(row.event, "points", None),
        score=row.decision.score if row.decision else None,
        why_en=_why(row, policy, "en"),
        why_zh=_why(row, policy, "zh"),
    )


def _why(row: Decided, policy: CompiledPolicy | None, lang: Language) -> tuple[str, ...]:
    if row.decision is None or policy is None:
        return ()
    features = None if row.features is None else dict(zip(policy.layout.names, row.features.tolist(), strict=True))
    return describe(row.decision, policy.policy, lang, features)
