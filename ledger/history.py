"""An account as it stood at any moment, found from its own numbered entries and never from the whole ledger.

An account's entries are numbered in the order in which they were recorded, so that a moment is a place in that order,
found by bisection; a balance there is the sum of the entries on the shorter side of it; and lots stood as they stand
now, less what the transactions of later entries did to them. Entries never change, so a place and a balance once read
hold whatever is written meanwhile; several reads of the present want a REPEATABLE READ transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from ledger.import_cells import NEVER_MS
from ledger.lines import Place, Standing
from ledger.movement import POOL


@dataclass(frozen=True, slots=True)
class Account:
    """A member's or pool's account as it stands, with the ledger time of its programme, `now_ms`.

    `lapsed` points are due by that time and not set aside; `merged_into` is the id of the account it became at
    `merged_ms`.
    """

    account_id: int
    program: str
    name: str
    arrears_id: int | None
    end: Place
    standing: Standing
    lapsed: int
    open_holds: int
    now_ms: int
    merged_into: int | None
    merged_ms: int | None


@dataclass(frozen=True, slots=True)
class LotView:
    """Points that came in together: `remaining` of `issued`, `reserved` of these by open holds.

    `txn_id` is the transaction that gave them (0: a balance from before there were lots), `parent` the lot they were
    moved out of, `store` where they were earned.
    """

    lot_id: int
    txn_id: int
    parent: int | None
    issued: int
    remaining: int
    reserved: int
    earned_at: datetime
    expires_at: datetime | None
    store: str | None

    @property
    def lasting(self) -> bool:
        """Whether it never expires: it has no date, or the one that stands for never."""
        return self.expires_at is None or epoch_ms(self.expires_at) >= NEVER_MS

    @property
    def free(self) -> int:
        """What no hold has set aside."""
        return self.remaining - self.reserved

    def due(self, at_ms: int) -> bool:
        """Whether its time is over then."""
        return self.expires_at is not None and epoch_ms(self.expires_at) <= at_ms


NOW_MS = """floor(date_part('epoch', CASE p.mode WHEN 'live' THEN clock_timestamp()
    ELSE coalesce(p.clock, 'epoch') END) * 1000)::bigint"""
"""The ledger time of a row `p` of program."""

_ACCOUNT = f"""
SELECT a.account_id, a.program, a.name, a.arrears_id, a.entry_count, coalesce(r.entry_count, 0) AS arrears_count,
       a.posted_cr - a.posted_dr AS posted, a.pending_cr, a.pending_dr,
       coalesce(r.posted_dr - r.posted_cr, 0) AS owed, a.open_holds, c.now_ms, a.merged_into,
       floor(date_part('epoch', m.at) * 1000)::bigint AS merged_ms,
       (SELECT coalesce(sum(l.remaining - l.reserved), 0)::bigint FROM lot l
         WHERE l.account_id = a.account_id AND l.open AND l.expires_at <= to_timestamp(c.now_ms / 1000.0)) AS lapsed
  FROM account a JOIN program p USING (program) CROSS JOIN LATERAL (SELECT {NOW_MS} AS now_ms) c
  LEFT JOIN account r ON r.account_id = a.arrears_id
  LEFT JOIN account_merge m ON m.from_id = a.account_id"""  # noqa: S608 -- made of this module's constants only

_BY_NAME = text(f"{_ACCOUNT} WHERE a.program = :program AND a.kind = :kind AND a.name = :name")
_BY_ID = text(f"{_ACCOUNT} WHERE a.account_id = :account_id")

# The last entry recorded at or before a moment: every step reads one entry and its transaction.
_BISECT = text("""
WITH RECURSIVE bisect (low, high) AS (
    SELECT CAST(0 AS bigint), CAST(:count AS bigint)
    UNION ALL
    SELECT CASE WHEN t.recorded_at <= m.moment THEN m.middle ELSE b.low END,
           CASE WHEN t.recorded_at <= m.moment THEN b.high ELSE m.middle - 1 END
      FROM bisect b
     CROSS JOIN LATERAL (SELECT (b.low + b.high + 1) / 2 AS middle,
                                to_timestamp(CAST(:at_ms AS bigint) / 1000.0) AS moment) m
      JOIN entry e ON e.account_id = :account_id AND e.account_seq = m.middle
      JOIN txn t ON t.txn_id = e.txn_id
     WHERE b.low < b.high)
SELECT low FROM bisect WHERE low = high""")

_SUMS = text("""
SELECT coalesce(sum(amount) FILTER (WHERE layer = 0), 0)::bigint,
       coalesce(sum(CASE layer WHEN 1 THEN amount ELSE -amount END) FILTER (WHERE layer > 0 AND amount > 0), 0)::bigint,
       coalesce(sum(CASE layer WHEN 1 THEN -amount ELSE amount END) FILTER (WHERE layer > 0 AND amount < 0), 0)::bigint
  FROM entry WHERE account_id = :account_id AND account_seq > :low AND account_seq <= :high""")

_COLUMNS = "l.lot_id, l.txn_id, l.parent, l.issued, l.remaining, l.reserved, l.earned_at, l.expires_at, l.store"
_IN_ORDER = "ORDER BY expires_at, earned_at, lot_id"

_LOTS = text(f"SELECT {_COLUMNS} FROM lot l WHERE l.account_id = :account_id AND l.open {_IN_ORDER}")  # noqa: S608 -- constants only

# `later`: the transactions after the place. Every one that gives, uses or reserves a lot of an account has an entry on
# it, but for points that paid arrears the moment they came, of which nothing remained at any moment.
_LOTS_AT = text(f"""
WITH later AS MATERIALIZED (
    SELECT DISTINCT e.txn_id, t.resolves FROM entry e JOIN txn t USING (txn_id)
     WHERE e.account_id = :account_id AND e.account_seq > :seq),
used AS (
    SELECT u.lot_id, sum(CASE u.action WHEN 'restore' THEN -u.amount ELSE u.amount END)::bigint AS points
      FROM later JOIN lot_use u USING (txn_id) GROUP BY u.lot_id),
candidate AS (
    SELECT {_COLUMNS} FROM lot l WHERE l.account_id = :account_id AND l.open
    UNION
    SELECT {_COLUMNS} FROM used JOIN lot l USING (lot_id) WHERE l.account_id = :account_id),
holding AS (
    SELECT h.hold_id FROM hold h WHERE h.account_id = :account_id AND h.resolved_at IS NULL
    UNION
    SELECT resolves FROM later WHERE resolves IS NOT NULL),
frozen AS (
    SELECT x.lot_id, sum(x.amount)::bigint AS points FROM holding JOIN hold_lot x USING (hold_id)
     WHERE hold_id NOT IN (SELECT txn_id FROM later) GROUP BY x.lot_id)
SELECT l.lot_id, l.txn_id, l.parent, l.issued, l.remaining + coalesce(u.points, 0) AS remaining,
       coalesce(f.points, 0) AS reserved, l.earned_at, l.expires_at, l.store
  FROM candidate l LEFT JOIN used u USING (lot_id) LEFT JOIN frozen f USING (lot_id)
 WHERE l.txn_id NOT IN (SELECT txn_id FROM later) AND l.remaining + coalesce(u.points, 0) > 0
 {_IN_ORDER}""")  # noqa: S608 -- made of this module's constants only


def epoch_ms(at: datetime) -> int:
    """A moment as milliseconds since 1970, exactly."""
    since = at - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def moment(at_ms: int) -> datetime:
    """Milliseconds since 1970 as a moment (UTC), exactly."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)


def find_account(conn: Connection, program: str, name: str) -> Account | None:
    """Read a member's account, or a pool's (`pool:…`); None for a name that nothing has named yet."""
    kind = "pool" if name.startswith(POOL) else "member"
    return _account(conn.execute(_BY_NAME, {"program": program, "kind": kind, "name": name}))


def acting_account(conn: Connection, program: str, name: str, at_ms: int | None = None) -> Account | None:
    """Read the account that stands for a name at a moment (None: now): after a merge, the one it was merged into."""
    found = find_account(conn, program, name)
    while found is not None and found.merged_into is not None:
        if at_ms is not None and found.merged_ms is not None and found.merged_ms > at_ms:
            break
        found = _account(conn.execute(_BY_ID, {"account_id": found.merged_into}))
    return found


def place_at(conn: Connection, account: Account, at_ms: int) -> Place:
    """Find the place in an account's history behind the last entries recorded at or before a moment."""
    counts = ((account.account_id, account.end.entries), (account.arrears_id, account.end.arrears))
    return Place(
        *(
            conn.execute(_BISECT, {"account_id": one, "count": count, "at_ms": at_ms}).scalar_one() if count else 0
            for one, count in counts
        )
    )


def standing_at(conn: Connection, account: Account, place: Place) -> Standing:
    """Sum up how an account stood at a place, from its start or back from now, whichever is nearer."""
    posted, pending_in, pending_out = _sums(conn, account.account_id, place.entries, account.end.entries)
    now = account.standing
    if 2 * place.entries > account.end.entries:
        posted, pending_in, pending_out = (
            now.posted - posted,
            now.pending_in - pending_in,
            now.pending_out - pending_out,
        )
    owed = 0
    if account.arrears_id is not None:
        credited = _sums(conn, account.arrears_id, place.arrears, account.end.arrears)[0]
        owed = now.owed + credited if 2 * place.arrears > account.end.arrears else -credited
    return Standing(posted, pending_in, pending_out, owed)


def lots_at(conn: Connection, account: Account, place: Place | None = None) -> list[LotView]:
    """Read an account's lots that held points at a place (None: now), in the order of use.

    Of balances from before there were lots, only what has happened since is known of a lot.
    """
    if place is None:
        rows = conn.execute(_LOTS, {"account_id": account.account_id})
    else:
        rows = conn.execute(_LOTS_AT, {"account_id": account.account_id, "seq": place.entries})
    return [LotView(*row) for row in rows]


def _account(rows: Iterable[Row[Any]]) -> Account | None:
    for row in rows:
        return Account(
            row.account_id,
            row.program,
            row.name,
            row.arrears_id,
            Place(row.entry_count, row.arrears_count),
            Standing(row.posted, row.pending_cr, row.pending_dr, row.owed),
            row.lapsed,
            row.open_holds,
            row.now_ms,
            row.merged_into,
            row.merged_ms,
        )
    return None


def _sums(conn: Connection, account_id: int, seq: int, count: int) -> tuple[int, int, int]:
    """Sum entries: those up to `seq`, or those after it up to `count` where they are fewer."""
    low, high = (seq, count) if 2 * seq > count else (0, seq)
    if low == high:
        return 0, 0, 0
    posted, pending_in, pending_out = conn.execute(_SUMS, {"account_id": account_id, "low": low, "high": high}).one()
    return posted, pending_in, pending_out
