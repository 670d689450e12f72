"""The end of a hold, with all that goes with it in one transaction: posting, label, message.

Used by the desk (a person decides) and by the relay (the policy decides what is due). A person's decision is a label
for the models at once; a timer's is none, for nobody looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from ledger.holds import DueHold, Resolution, Resolved, due, resolve
from ledger.ids import IdBlocks
from ledger.programs import load_programs
from ledger.roll import roll_up
from streams.effects import Outgoing
from streams.messages import AlertMessage, DecisionMessage, alert_message, decision_message
from streams.outbox import enqueue

POLICY_ACTOR = "policy:timeout"
DUE_MOST = 200

_ABOUT = text("""
SELECT decision_id, source, event_id, program, account, type, points FROM decision WHERE decision_id = ANY(:ids)""")
_LABEL = text("""
INSERT INTO label_pending (decision_id, program, label, origin, due_at)
SELECT id, program, label, 'review', coalesce(p.clock, clock_timestamp())
  FROM unnest(CAST(:ids AS bigint[]), CAST(:labels AS smallint[])) AS t(id, label)
  JOIN decision d ON d.decision_id = t.id JOIN program p USING (program)
ON CONFLICT (decision_id) DO UPDATE SET label = excluded.label, origin = excluded.origin, due_at = excluded.due_at""")


def decide(conn: Connection, ids: IdBlocks, resolutions: Sequence[Resolution], decisions_topic: str) -> list[Resolved]:
    """Resolve holds as persons decided; each ends at most once, and whoever comes later is told who was first."""
    resolved = resolve(conn, ids, resolutions)
    ended = [one for one in resolved if one.outcome == "resolved"]
    if ended:
        labels = {"ids": [one.hold_id for one in ended], "labels": [int(one.verdict == "void") for one in ended]}
        conn.execute(_LABEL, labels)
        _tell(conn, ended, decisions_topic)
    return resolved


def due_now(conn: Connection) -> list[DueHold]:
    """Holds whose time is over and that nobody else is deciding."""
    return due(conn, list(load_programs(conn)), DUE_MOST)


def decide_due(conn: Connection, ids: IdBlocks, topics: Outgoing) -> list[Resolved]:
    """Let the policy decide holds whose time is over, as each hold's own `on_timeout` says."""
    return _time_out(conn, ids, topics, due_now(conn))


def decide_one(conn: Connection, ids: IdBlocks, topics: Outgoing, hold: DueHold) -> list[Resolved]:
    """Let the policy decide one hold whose time is over."""
    return _time_out(conn, ids, topics, [hold])


def _time_out(conn: Connection, ids: IdBlocks, topics: Outgoing, holds: Sequence[DueHold]) -> list[Resolved]:
    resolutions = [
        Resolution(hold.hold_id, hold.on_timeout, POLICY_ACTOR, "nobody decided before the hold was due")
        for hold in holds
    ]
    resolved = resolve(conn, ids, resolutions)
    _tell(conn, [one for one in resolved if one.outcome == "resolved"], topics.decisions)
    escalated = [one for one in resolved if one.outcome == "escalated"]
    now = datetime.now(UTC)
    alerts = [AlertMessage(alert="hold_escalated", at=now, hold_id=one.hold_id) for one in escalated]
    enqueue(conn, [alert_message(topics.alerts, alert) for alert in alerts])
    return resolved


def fold_controls(conn: Connection) -> int:
    """Fold the control accounts' tails into their rows; how many rows were folded."""
    return roll_up(conn)


def _tell(conn: Connection, ended: Sequence[Resolved], topic: str) -> None:
    about = {row.decision_id: row for row in conn.execute(_ABOUT, {"ids": [one.hold_id for one in ended]})}
    messages = []
    for one in ended:
        row = about.get(one.hold_id)
        if row is None or one.decision_id is None:
            continue
        value = DecisionMessage(
            decision_id=one.decision_id,
            source=row.source,
            id=row.event_id,
            program=row.program,
            account=row.account,
            type=row.type,
            outcome="approve" if one.verdict == "post" else "reject",
            code="posted" if one.verdict == "post" else "voided",
            decided_at=datetime.now(UTC),
            points=row.points,
            resolves=one.hold_id,
        )
        messages.append(decision_message(topic, value))
    enqueue(conn, messages)
