"""A member's statement: every change with its cause, the balance after it and the lots it used, a page at a time.

Pages are cut by place (how many entries lie before), never by offset: a deep page costs what the first does, and lines
that are written meanwhile shift nothing. A page is read in four or five statements, however long the history is; only a
filter by kind may have to read over many lines to fill a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, text

from ledger.history import Account, find_account, moment, place_at, standing_at
from ledger.lines import Leg, Line, Place, Standing, Step, lines

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines: recorded from `since_ms` up to, not including, `until_ms`, of these kinds; None filters nothing."""

    since_ms: int | None = None
    until_ms: int | None = None
    kinds: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page: up to `size` lines before `place`, or if `newer` after it; without a place from that end."""

    place: Place | None = None
    newer: bool = False
    size: int = 50


@dataclass(frozen=True, slots=True)
class LotTouch:
    """What a transaction did to a lot of the account: `give` made it, `reserve` set aside of it, else as in lot_use."""

    lot_id: int
    action: str
    points: int
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why points moved: the event behind it, and who decided with which reason, a person's words or a policy's codes.

    For an approval or release of a hold the event is the held one. `peers` are the other members' accounts it touched.
    `parts` says of a reversal whence it took and where it gave.
    """

    source: str
    event_id: str
    occurred_at: datetime
    order: str | None = None
    store: str | None = None
    hold_id: int | None = None
    actor: str | None = None
    checker: str | None = None
    reason: str | None = None
    codes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    lots: tuple[LotTouch, ...] = ()
    parts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A line: what changed, how the account stood after it, and why."""

    txn_id: int
    recorded_at: datetime
    kind: str
    step: Step
    change: Standing
    standing: Standing
    cause: Cause


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of a statement, the newest line first. `older` and `newer` are where the next pages begin; None at an end.

    `merged_into` names the account that this one became: what happened since is in that one's statement.
    """

    program: str
    account: str
    lines: tuple[StatementLine, ...]
    older: Place | None
    newer: Place | None
    merged_into: str | None


_LEGS = """
SELECT e.account_seq AS seq, e.txn_id, floor(date_part('epoch', t.recorded_at) * 1000)::bigint AS recorded_ms,
       coalesce(h.kind, t.kind) AS kind,
       CASE WHEN t.kind = 'post' THEN 'approved' WHEN t.kind = 'void' THEN 'released' WHEN t.pending THEN 'held'
            ELSE 'posted' END AS step,
       e.amount, e.layer, EXISTS (
           SELECT FROM entry o WHERE o.txn_id = e.txn_id AND o.account_id = :other_id) AS shared
  FROM entry e JOIN txn t ON t.txn_id = e.txn_id LEFT JOIN hold h ON h.hold_id = t.resolves
 WHERE e.account_id = :account_id AND e.account_seq > :low AND e.account_seq <= :high
 ORDER BY e.account_seq {direction} LIMIT :most"""
_RISING, _FALLING = text(_LEGS.format(direction="ASC")), text(_LEGS.format(direction="DESC"))

_CAUSES = text("""
SELECT t.txn_id, coalesce(o.source, t.source) AS source, coalesce(o.event_id, t.event_id) AS event_id,
       coalesce(o.occurred_at, t.occurred_at) AS occurred_at, coalesce(t.order_id, h.order_id, v.order_id) AS order_id,
       coalesce(h.store, d.event ->> 'store', CASE WHEN given.parent IS NULL THEN given.store END) AS store, h.hold_id,
       coalesce(r.actor, a.maker, m.actor, j.maker) AS actor,
       coalesce(a.checker, j.checker) AS checker, coalesce(r.reason, a.reason, m.reason, j.reason) AS reason,
       CASE WHEN d.decision_id IS NULL THEN '{}'
            ELSE ARRAY(SELECT c ->> 'code' FROM json_array_elements(d.reasons) c) END AS codes,
       to_jsonb(v) AS parts
  FROM txn t
  LEFT JOIN txn o ON o.txn_id = t.resolves
  LEFT JOIN hold h ON h.hold_id = CASE WHEN t.pending THEN t.txn_id ELSE t.resolves END
  LEFT JOIN review_decision r ON r.decision_id = t.txn_id
  LEFT JOIN decision d ON d.decision_id = coalesce(t.resolves, t.txn_id)
  LEFT JOIN lot given ON given.lot_id = t.txn_id
  LEFT JOIN adjustment a ON a.txn_id = t.txn_id
  LEFT JOIN account_merge m ON m.merge_id = t.txn_id
  LEFT JOIN reversal v ON v.reversal_id = t.txn_id
  LEFT JOIN import_job j ON j.job_id = CASE WHEN t.source = 'pointguard:import'
                                            THEN split_part(t.event_id, '/', 1)::bigint END
 WHERE t.txn_id = ANY(CAST(:ids AS bigint[]))""")

_PEERS = text("""
SELECT DISTINCT e.txn_id, a.name FROM entry e JOIN account a USING (account_id)
 WHERE e.txn_id = ANY(CAST(:ids AS bigint[])) AND a.kind IN ('member', 'pool') AND a.account_id <> :account_id
 ORDER BY e.txn_id, a.name""")

_TOUCHES = text("""
WITH wanted AS (SELECT unnest(CAST(:ids AS bigint[])) AS txn_id),
touch AS (
    SELECT u.txn_id, u.lot_id, u.action, u.amount, 1 AS rank FROM wanted JOIN lot_use u USING (txn_id)
    UNION ALL
    SELECT x.hold_id, x.lot_id, 'reserve', x.amount, 1 FROM wanted JOIN hold_lot x ON x.hold_id = wanted.txn_id
    UNION ALL
    SELECT w.txn_id, l.lot_id, 'give', l.issued, 0 FROM wanted w JOIN lot l ON l.lot_id = w.txn_id
    UNION ALL
    SELECT w.txn_id, l.lot_id, 'give', l.issued, 0 FROM wanted w JOIN lot l ON l.txn_id = w.txn_id
     WHERE l.lot_id <> l.txn_id)
SELECT t.txn_id, t.lot_id, t.action, t.amount, l.expires_at FROM touch t JOIN lot l USING (lot_id)
 WHERE l.account_id = :account_id ORDER BY t.txn_id, t.rank, l.expires_at, l.earned_at, l.lot_id, t.action""")

_NAME = text("SELECT name FROM account WHERE account_id = :account_id")
_NOT_PARTS = frozenset({"reversal_id", "program", "original_txn", "points", "order_id", "refund_id", "recorded_at"})


def statement(
    conn: Connection, program: str, name: str, wanted: Wanted | None = None, paging: Paging | None = None
) -> Statement | None:
    """Read a page of the statement of a member or pool (`pool:…`); None for a name that no event has named yet."""
    wanted, paging = wanted or Wanted(), paging or Paging()
    account = find_account(conn, program, name)
    if account is None:
        return None
    low, high = _bounds(conn, account, wanted)
    start = paging.place or (low if paging.newer else high)
    start = Place(*(min(max(at, least), most) for at, least, most in zip(start, low, high, strict=True)))
    walk = _walk(conn, account, start, low if not paging.newer else high, newer=paging.newer)
    fitting = (line for line in walk if wanted.kinds is None or line.kind in wanted.kinds)
    found = list(islice(fitting, paging.size + 1))
    more, page = len(found) > paging.size, found[: paging.size]
    if paging.newer:
        page.reverse()
    newest, oldest = (page[0].after, page[-1].before) if page else (start, start)
    merged_into = None
    if account.merged_into is not None:
        merged_into = conn.execute(_NAME, {"account_id": account.merged_into}).scalar_one()
    return Statement(
        program,
        name,
        _explained(conn, account, page),
        older=oldest if (oldest != low if paging.newer else more) else None,
        newer=newest if (more if paging.newer else newest != high) else None,
        merged_into=merged_into,
    )


def _bounds(conn: Connection, account: Account, wanted: Wanted) -> tuple[Place, Place]:
    low, high = Place(0, 0), account.end
    if wanted.since_ms is not None:
        low = place_at(conn, account, wanted.since_ms - 1)
    if wanted.until_ms is not None:
        high = place_at(conn, account, wanted.until_ms - 1)
    return low, Place(*(max(pair) for pair in zip(low, high, strict=True)))


def _walk(conn: Connection, account: Account, start: Place, end: Place, *, newer: bool) -> Iterator[Line]:
    """The lines from `start` to `end`, read in chunks as they are taken."""
    standing = standing_at(conn, account, start)
    own = _legs(conn, (account.account_id, account.arrears_id), (start.entries, end.entries), newer=newer)
    arrears = _legs(conn, (account.arrears_id, account.account_id), (start.arrears, end.arrears), newer=newer)
    return lines(own, arrears, start, standing, newer=newer)


def _legs(conn: Connection, ids: tuple[int | None, int | None], span: tuple[int, int], *, newer: bool) -> Iterator[Leg]:
    """The entries of the first of two accounts from one number (not including it) to the other, chunk by chunk.

    Forwards these are span[0] + 1 to span[1], backwards span[0] down to span[1] + 1. The first chunk is small: a page.
    """
    at, end = span
    most = 100
    while at != end:
        low, high = (at, end) if newer else (end, at)
        asked = {"account_id": ids[0], "other_id": ids[1], "low": low, "high": high, "most": most}
        rows = conn.execute(_RISING if newer else _FALLING, asked).all()
        if not rows:
            return
        for row in rows:
            yield Leg(*row)
        at = rows[-1].seq if newer else rows[-1].seq - 1
        most = _CHUNK


def _explained(conn: Connection, account: Account, page: Sequence[Line]) -> tuple[StatementLine, ...]:
    if not page:
        return ()
    asked = {"ids": [line.txn_id for line in page], "account_id": account.account_id}
    peers: dict[int, list[str]] = {}
    for row in conn.execute(_PEERS, asked):
        peers.setdefault(row.txn_id, []).append(row.name)
    touches: dict[int, list[LotTouch]] = {}
    for row in conn.execute(_TOUCHES, asked):
        touches.setdefault(row.txn_id, []).append(LotTouch(row.lot_id, row.action, row.amount, row.expires_at))
    causes = {
        row.txn_id: _cause(row, tuple(peers.get(row.txn_id, ())), tuple(touches.get(row.txn_id, ())))
        for row in conn.execute(_CAUSES, asked)
    }
    return tuple(
        StatementLine(
            line.txn_id,
            moment(line.recorded_ms),
            line.kind,
            line.step,
            line.change,
            line.standing,
            causes[line.txn_id],
        )
        for line in page
    )


def _cause(row: Row[Any], peers: tuple[str, ...], touches: tuple[LotTouch, ...]) -> Cause:
    parts = {name: value for name, value in (row.parts or {}).items() if name not in _NOT_PARTS and value}
    return Cause(
        row.source,
        row.event_id,
        row.occurred_at,
        row.order_id,
        row.store,
        row.hold_id,
        row.actor,
        row.checker,
        row.reason,
        tuple(row.codes),
        peers,
        touches,
        parts,
    )
