"""The end of a hold, with all that goes with it in one transaction: posting, label, message.

Used by the desk (a person decides) and by the relay (the policy decides what is due). A person's decision is a label
for the models at once; a timer's is none, for nobody looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from ledger.book import TIMEOUT_ACTOR, TIMEOUT_REASON, Resolution, Resolved
from ledger.chain_store import Act, NotedIds, record
from ledger.expire import expire_due
from ledger.holds import DueHold, due, resolve
from ledger.ids import IdBlocks
from ledger.programs import load_programs
from ledger.roll import roll_up
from streams.effects import Outgoing
from streams.endings import Ending, roots_of, tell
from streams.link_store import flag_holders
from streams.messages import AlertMessage, alert_message
from streams.outbox import enqueue

EXPIRY_ACTOR = "policy:expiry"
DUE_MOST = 200
EXPIRED_MOST = 1000

_LABEL = text("""
INSERT INTO label_pending (decision_id, program, label, origin, due_at)
SELECT id, program, label, 'review', coalesce(p.clock, clock_timestamp())
  FROM unnest(CAST(:ids AS bigint[]), CAST(:labels AS smallint[])) AS t(id, label)
  JOIN decision d ON d.decision_id = t.id JOIN program p USING (program)
ON CONFLICT (decision_id) DO UPDATE SET label = excluded.label, origin = excluded.origin, due_at = excluded.due_at""")


def decide(conn: Connection, ids: IdBlocks, resolutions: Sequence[Resolution], decisions_topic: str) -> list[Resolved]:
    """Resolve holds as persons decided; each ends at most once, and whoever comes later is told who was first."""
    noted = NotedIds(ids)
    resolved = resolve(conn, noted, resolutions)
    ended = [one for one in resolved if one.outcome == "resolved"]
    if ended:
        roots = roots_of(conn, [one.hold_id for one in ended])
        events = [roots[one.hold_id] for one in ended]
        conn.execute(_LABEL, {"ids": events, "labels": [int(one.verdict == "void") for one in ended]})
        flag_holders(conn, [one.hold_id for one in ended if one.verdict == "void"])
        _tell(conn, ended, decisions_topic)
    if noted.taken:
        actors = sorted({resolution.actor for resolution in resolutions})
        record(conn, Act("review", ", ".join(actors), "holds.decided"), noted.taken)
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
    resolutions = [Resolution(hold.hold_id, hold.on_timeout, TIMEOUT_ACTOR, TIMEOUT_REASON) for hold in holds]
    noted = NotedIds(ids)
    resolved = resolve(conn, noted, resolutions)
    _tell(conn, [one for one in resolved if one.outcome == "resolved"], topics.decisions)
    escalated = [one for one in resolved if one.outcome == "escalated"]
    now = datetime.now(UTC)
    alerts = [AlertMessage(alert="hold_escalated", at=now, hold_id=one.hold_id) for one in escalated]
    enqueue(conn, [alert_message(topics.alerts, alert) for alert in alerts])
    if noted.taken:
        record(conn, Act("timeout", TIMEOUT_ACTOR, "holds.timed_out"), noted.taken)
    return resolved


def expire_lots(conn: Connection, ids: IdBlocks) -> int:
    """Expire lots that are due, the oldest first, at most `EXPIRED_MOST`; how many were."""
    noted = NotedIds(ids)
    expired = expire_due(conn, noted, None, EXPIRED_MOST)
    if noted.taken:
        record(conn, Act("expiry", EXPIRY_ACTOR, "lots.expired"), noted.taken)
    return expired


def fold_controls(conn: Connection) -> int:
    """Fold the control accounts' tails into their rows; how many rows were folded."""
    return roll_up(conn)


def _tell(conn: Connection, ended: Sequence[Resolved], topic: str) -> None:
    endings = [Ending(one.hold_id, one.decision_id, one.posted) for one in ended if one.decision_id is not None]
    tell(conn, endings, topic)
