"""What people read of the ledger: open holds, one hold, a balance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, tuple_

from ledger.schema import account, hold, hold_resolution, review_decision, txn


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision that ended a hold."""

    decision_id: int
    verdict: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold and what it freezes: `amount` points of `account` (signed for an adjust), for `to` in a transfer.

    `source`, `event_id` and `occurred_at` are the event's; the decision that opened the hold has the id `hold_id`.
    """

    hold_id: int
    program: str
    account: str
    to: str | None
    kind: str
    amount: int
    opened_at: datetime
    due_at: datetime | None
    on_timeout: str
    source: str
    event_id: str
    occurred_at: datetime
    decided: Decided | None


@dataclass(frozen=True, slots=True)
class HoldFilter:
    """Which open holds to list; None filters nothing."""

    program: str | None = None
    account: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """A member's points. `available` may be spent now, `pending_in` waits for approval, `pending_out` is set aside."""

    posted: int
    pending_in: int
    pending_out: int
    available: int
    owed: int


_MEMBER = account.alias("member")
_PEER = account.alias("peer")


def open_holds(
    conn: Connection, wanted: HoldFilter | None = None, after: HoldView | None = None, limit: int = 100
) -> list[HoldView]:
    """List open holds, oldest first; for the next page give the last one of this page as `after`."""
    wanted = wanted or HoldFilter()
    found = _holds().where(hold.c.resolved_at.is_(None)).order_by(hold.c.opened_at, hold.c.hold_id).limit(limit)
    if wanted.program is not None:
        found = found.where(hold.c.program == wanted.program)
    if wanted.account is not None:
        found = found.where(_MEMBER.c.name == wanted.account)
    if wanted.kind is not None:
        found = found.where(hold.c.kind == wanted.kind)
    if after is not None:
        found = found.where(tuple_(hold.c.opened_at, hold.c.hold_id) > (after.opened_at, after.hold_id))
    return [_view(row) for row in conn.execute(found)]


def find_hold(conn: Connection, hold_id: int) -> HoldView | None:
    """Read one hold, open or ended; None if there is none of that id."""
    row = conn.execute(_holds().where(hold.c.hold_id == hold_id)).one_or_none()
    return None if row is None else _view(row)


def balance(conn: Connection, program: str, name: str) -> Balance | None:
    """Read a member's balance; None for a member that no event has named yet."""
    owed = account.alias("owed")
    row = conn.execute(
        select(account, owed.c.posted_dr.label("owed_dr"), owed.c.posted_cr.label("owed_cr"))
        .outerjoin(owed, owed.c.account_id == account.c.arrears_id)
        .where(account.c.program == program, account.c.kind == "member", account.c.name == name)
    ).one_or_none()
    if row is None:
        return None
    posted = row.posted_cr - row.posted_dr
    owing = 0 if row.owed_dr is None else row.owed_dr - row.owed_cr
    return Balance(posted, row.pending_cr, row.pending_dr, posted - row.pending_dr, owing)


def _holds() -> Select[Any]:
    return (
        select(
            hold,
            _MEMBER.c.name.label("member"),
            _PEER.c.name.label("peer"),
            txn.c.source,
            txn.c.event_id,
            txn.c.occurred_at,
            review_decision.c.decision_id,
            review_decision.c.verdict,
            review_decision.c.actor,
            review_decision.c.reason,
            hold_resolution.c.resolved_at.label("ended_at"),
        )
        .join(_MEMBER, _MEMBER.c.account_id == hold.c.account_id)
        .join(txn, txn.c.txn_id == hold.c.hold_id)
        .outerjoin(_PEER, _PEER.c.account_id == hold.c.peer_id)
        .outerjoin(hold_resolution, hold_resolution.c.hold_id == hold.c.hold_id)
        .outerjoin(review_decision, review_decision.c.decision_id == hold_resolution.c.decision_id)
    )


def _view(row: Row[Any]) -> HoldView:
    decided = (
        None if row.decision_id is None else Decided(row.decision_id, row.verdict, row.actor, row.reason, row.ended_at)
    )
    return HoldView(
        row.hold_id,
        row.program,
        row.member,
        row.peer,
        row.kind,
        row.amount,
        row.opened_at,
        row.due_at,
        row.on_timeout,
        row.source,
        row.event_id,
        row.occurred_at,
        decided,
    )
