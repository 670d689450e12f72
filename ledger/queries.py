"""What people read of the ledger as it stands: open holds with what they freeze, a balance, lots, what expires when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, tzinfo
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, false, or_, select, text, tuple_

from ledger.history import LotView, acting_account, lots_at, place_at, standing_at
from ledger.schema import account, hold, hold_resolution, review_decision, txn


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision that ended a hold; `posted` points of it went through."""

    decision_id: int
    verdict: str
    actor: str
    reason: str
    at: datetime
    posted: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a hold reserves of a lot, and when that lot falls due; reserved points do not expire meanwhile."""

    lot_id: int
    points: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold and what it freezes: `amount` points of `account` (signed for an adjust), for `to` in a transfer.

    `source`, `event_id` and `occurred_at` are the event's; the decision that opened the hold has the id `hold_id`. A
    hold that `replaces` another holds again what a reversal left of it. `frozen` are the lots an outflow set aside.
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
    store: str | None = None
    order: str | None = None
    replaces: int | None = None
    frozen: tuple[Frozen, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldFilter:
    """Which open holds to list; None filters nothing. `coming`: also the transfers on their way to the account."""

    program: str | None = None
    account: str | None = None
    kind: str | None = None
    coming: bool = False


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's points at a moment.

    `available` may be spent: neither set aside by a hold (`pending_out`) nor `lapsed`, that is due, whether or not its
    expiry has been posted yet. `pending_in` waits for approval, `owed` is what later credits repay first.
    """

    posted: int
    pending_in: int
    pending_out: int
    available: int
    owed: int
    lapsed: int = 0


@dataclass(frozen=True, slots=True)
class Expiring:
    """Points that expire when the day `on` is over, or in its course, in `lots` lots: so long they may be spent.

    `reserved` ones expire only if the hold that set them aside is voided.
    """

    on: date
    points: int
    reserved: int
    lots: int


@dataclass(frozen=True, slots=True)
class Reminder:
    """What an account has to be told: so many points of its expire on that day."""

    account: str
    expiring: Expiring


_MEMBER = account.alias("member")
_PEER = account.alias("peer")
_TICK = timedelta(milliseconds=1)
_ROWS = 1000  # fetched at a time where there may be very many

_FROZEN = text("""
SELECT x.hold_id, x.lot_id, x.amount, l.expires_at FROM hold_lot x JOIN lot l USING (lot_id)
 WHERE x.hold_id = ANY(CAST(:ids AS bigint[])) ORDER BY x.hold_id, l.expires_at, l.earned_at, l.lot_id""")

_DUE_LOTS = text("""
SELECT expires_at, sum(remaining - reserved)::bigint AS points, sum(reserved)::bigint AS reserved, count(*) AS lots
  FROM lot
 WHERE program = :program AND open AND expires_at <= to_timestamp(CAST(:until_ms AS bigint) / 1000.0)
 GROUP BY expires_at ORDER BY expires_at""")

_REMINDERS = text("""
SELECT a.name, l.expires_at, sum(l.remaining - l.reserved)::bigint AS points, sum(l.reserved)::bigint AS reserved,
       count(*) AS lots
  FROM lot l JOIN account a USING (account_id)
 WHERE l.program = :program AND l.open AND l.expires_at > to_timestamp(CAST(:since_ms AS bigint) / 1000.0)
   AND l.expires_at <= to_timestamp(CAST(:until_ms AS bigint) / 1000.0)
 GROUP BY a.name, l.expires_at ORDER BY a.name, l.expires_at""")


def open_holds(
    conn: Connection, wanted: HoldFilter | None = None, after: HoldView | None = None, limit: int = 100
) -> list[HoldView]:
    """List open holds, oldest first; for the next page give the last one of this page as `after`."""
    wanted = wanted or HoldFilter()
    found = _holds().where(hold.c.resolved_at.is_(None)).order_by(hold.c.opened_at, hold.c.hold_id).limit(limit)
    if wanted.program is not None:
        found = found.where(hold.c.program == wanted.program)
    if wanted.account is not None:
        ids = _named(conn, wanted)
        coming = hold.c.peer_id.in_(ids) if wanted.coming else false()
        found = found.where(or_(hold.c.account_id.in_(ids), coming))
    if wanted.kind is not None:
        found = found.where(hold.c.kind == wanted.kind)
    if after is not None:
        found = found.where(tuple_(hold.c.opened_at, hold.c.hold_id) > (after.opened_at, after.hold_id))
    return _with_lots(conn, [_view(row) for row in conn.execute(found)])


def find_hold(conn: Connection, hold_id: int) -> HoldView | None:
    """Read one hold, open or ended; None if there is none of that id."""
    row = conn.execute(_holds().where(hold.c.hold_id == hold_id)).one_or_none()
    return None if row is None else _with_lots(conn, [_view(row)])[0]


def balance(conn: Connection, program: str, name: str, at_ms: int | None = None) -> Balance | None:
    """Read the balance of a member or pool (`pool:…`), as of `at_ms` (None: now, by the programme's ledger clock).

    A merged account has that of the account it was merged into. None for a name that no event has named yet.
    """
    found = acting_account(conn, program, name, at_ms)
    if found is None:
        return None
    standing, lapsed = found.standing, found.lapsed
    if at_ms is not None:
        place = place_at(conn, found, at_ms)
        standing = standing_at(conn, found, place)
        lapsed = sum(lot.free for lot in lots_at(conn, found, place) if lot.due(at_ms))
    available = standing.posted - standing.pending_out - lapsed
    return Balance(standing.posted, standing.pending_in, standing.pending_out, available, standing.owed, lapsed)


def lots(conn: Connection, program: str, name: str, at_ms: int | None = None) -> list[LotView]:
    """Read the lots of an account that hold points, in the order in which they are used, as of `at_ms` (None: now)."""
    found = acting_account(conn, program, name, at_ms)
    if found is None:
        return []
    return lots_at(conn, found, None if at_ms is None else place_at(conn, found, at_ms))


def expiring(found: Iterable[LotView], zone: tzinfo) -> list[Expiring]:
    """Sum up what expires on each day of a time zone, the first day first; lots without expiry are left out."""
    days: dict[date, list[LotView]] = {}
    for lot in found:
        if lot.expires_at is not None and not lot.lasting:
            days.setdefault(_last_day(lot.expires_at, zone), []).append(lot)
    return [
        Expiring(day, sum(lot.free for lot in some), sum(lot.reserved for lot in some), len(some))
        for day, some in sorted(days.items())
    ]


def expiring_days(conn: Connection, program: str, until_ms: int, zone: tzinfo) -> list[Expiring]:
    """Sum up what expires of a whole programme on each day up to `until_ms`; what is due already comes first."""
    days: dict[date, Expiring] = {}
    for row in conn.execute(_DUE_LOTS, {"program": program, "until_ms": until_ms}).yield_per(_ROWS):
        day = _last_day(row.expires_at, zone)
        so_far = days.get(day, Expiring(day, 0, 0, 0))
        days[day] = Expiring(day, so_far.points + row.points, so_far.reserved + row.reserved, so_far.lots + row.lots)
    return list(days.values())


def reminders(conn: Connection, program: str, since_ms: int, until_ms: int, zone: tzinfo) -> Iterator[Reminder]:
    """Tell of every account what expires on each day between two moments: who is to be reminded of how much.

    In the order of accounts and days, read as they are taken: there may be very many. Nothing that is only reserved.
    """
    asked = {"program": program, "since_ms": since_ms, "until_ms": until_ms}
    rows = conn.execute(_REMINDERS, asked, execution_options={"yield_per": _ROWS})
    for (name, day), some in groupby(rows, lambda row: (row.name, _last_day(row.expires_at, zone))):
        points, reserved, lots = map(sum, zip(*((row.points, row.reserved, row.lots) for row in some), strict=True))
        if points:
            yield Reminder(name, Expiring(day, points, reserved, lots))


def _last_day(expires_at: datetime, zone: tzinfo) -> date:
    """The last day with a moment at which they are not due: midnight ends the day before."""
    return (expires_at - _TICK).astimezone(zone).date()


def _named(conn: Connection, wanted: HoldFilter) -> Sequence[int]:
    """The accounts of the name that is asked for."""
    named = select(account.c.account_id).where(account.c.kind.in_(("member", "pool")), account.c.name == wanted.account)
    if wanted.program is not None:
        named = named.where(account.c.program == wanted.program)
    return conn.execute(named).scalars().all()


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
            hold_resolution.c.posted,
        )
        .join(_MEMBER, _MEMBER.c.account_id == hold.c.account_id)
        .join(txn, txn.c.txn_id == hold.c.hold_id)
        .outerjoin(_PEER, _PEER.c.account_id == hold.c.peer_id)
        .outerjoin(hold_resolution, hold_resolution.c.hold_id == hold.c.hold_id)
        .outerjoin(review_decision, review_decision.c.decision_id == hold_resolution.c.decision_id)
    )


def _view(row: Row[Any]) -> HoldView:
    decided = None
    if row.decision_id is not None:
        decided = Decided(row.decision_id, row.verdict, row.actor, row.reason, row.ended_at, row.posted)
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
        row.store,
        row.order_id,
        row.replaces,
    )


def _with_lots(conn: Connection, views: Sequence[HoldView]) -> list[HoldView]:
    """The same holds with the lots they reserve; an ended hold keeps saying what it had reserved."""
    frozen: dict[int, list[Frozen]] = {}
    for row in conn.execute(_FROZEN, {"ids": [view.hold_id for view in views]}) if views else ():
        frozen.setdefault(row.hold_id, []).append(Frozen(row.lot_id, row.amount, row.expires_at))
    return [replace(view, frozen=tuple(frozen.get(view.hold_id, ()))) for view in views]
