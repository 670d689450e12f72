"""Tells upstream how held events end: by a person's decision, by time, or since a reversal took points back.

A hold from which a reversal took a part is ended, and held again for what is left. All of these stand for the event
that opened the first one, so the message names that event, whichever hold it is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, Row, text

from ledger.plan import Plan
from streams.messages import DecisionMessage, decision_message
from streams.outbox import enqueue

_ROOTS = text("""
WITH RECURSIVE chain AS (
    SELECT hold_id AS asked, hold_id, replaces FROM hold WHERE hold_id = ANY(:ids)
    UNION ALL
    SELECT c.asked, h.hold_id, h.replaces FROM chain c JOIN hold h ON h.hold_id = c.replaces)
SELECT asked, hold_id FROM chain WHERE replaces IS NULL""")
_ABOUT = text("""
SELECT decision_id, source, event_id, program, account, type, points FROM decision WHERE decision_id = ANY(:ids)""")


class Ending(NamedTuple):
    """A hold that ended by the decision `decision_id`, `posted` points of it (without sign; 0: none) went through.

    `again` is the hold that took its place, for `again_points`.
    """

    hold_id: int
    decision_id: int
    posted: int = 0
    again: int | None = None
    again_points: int = 0


def endings_of(plans: Iterable[Plan]) -> list[Ending]:
    """The holds that reversals of a batch ended."""
    found: list[Ending] = []
    for plan in plans:
        again = {hold.replaces: hold for hold in plan.holds if hold.replaces is not None}
        for end in plan.hold_ends:
            rest = again.get(end.hold_id)
            more = () if rest is None else (rest.hold_id, abs(rest.amount))
            found.append(Ending(end.hold_id, end.decision_id, end.posted, *more))
    return found


def roots_of(conn: Connection, hold_ids: Collection[int]) -> dict[int, int]:
    """The decisions that first held what these holds hold, by hold: for most it is the hold's own id."""
    return {row.asked: row.hold_id for row in conn.execute(_ROOTS, {"ids": list(hold_ids)})} if hold_ids else {}


def tell(conn: Connection, endings: Sequence[Ending], topic: str) -> None:
    """Leave a message in the outbox for each hold that ended; holds of no event (adjustments by hand) have none."""
    if not endings:
        return
    roots = roots_of(conn, [one.hold_id for one in endings])
    about = {row.decision_id: row for row in conn.execute(_ABOUT, {"ids": list(set(roots.values()))})}
    now = datetime.now(UTC)
    enqueue(
        conn,
        [
            decision_message(topic, _message(one, row, now))
            for one in endings
            if (row := about.get(roots.get(one.hold_id, 0))) is not None
        ],
    )


def _message(one: Ending, row: Row[tuple[object, ...]], now: datetime) -> DecisionMessage:
    outcome, code = ("approve", "posted") if one.posted else ("reject", "voided")
    points = one.posted or abs(row.points)
    if one.again is not None:
        outcome, code, points = "hold", "held", one.again_points
    return DecisionMessage(
        decision_id=one.decision_id,
        source=row.source,
        id=row.event_id,
        program=row.program,
        account=row.account,
        type=row.type,
        outcome=outcome,
        code=code,
        decided_at=now,
        points=points if row.points > 0 else -points,
        hold_id=one.again,
        resolves=one.hold_id,
    )
