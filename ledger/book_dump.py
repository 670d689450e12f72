"""Reads a whole ledger out of PostgreSQL, as one moment: what invariants are checked on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection

from ledger.arrays import fetch, texts
from ledger.book import Dump, DumpAccount, DumpHold, DumpReview
from ledger.movement import LotState
from ledger.plan import Entry, HoldLot, LotUse, NewMerge, Reversal, Txn
from ledger.store_lots import LOT

_ACCOUNTS = """
SELECT a.account_id, a.program, a.kind, a.name, (a.posted_dr + coalesce(d.posted_dr, 0))::bigint,
       (a.posted_cr + coalesce(d.posted_cr, 0))::bigint, (a.pending_dr + coalesce(d.pending_dr, 0))::bigint,
       (a.pending_cr + coalesce(d.pending_cr, 0))::bigint, a.entry_count, a.open_holds, a.arrears_id, a.merged_into
  FROM account a
  LEFT JOIN (SELECT account_id, sum(posted_dr) AS posted_dr, sum(posted_cr) AS posted_cr, sum(pending_dr) AS pending_dr,
                    sum(pending_cr) AS pending_cr
               FROM control_delta GROUP BY account_id) d USING (account_id)
 WHERE a.program = ANY(%(names)s) ORDER BY a.account_id"""

_TXNS = """
SELECT txn_id, program, kind, source, event_id, resolves, amount, pending,
       (date_part('epoch', occurred_at) * 1000)::bigint, order_id
  FROM txn WHERE program = ANY(%(names)s) ORDER BY txn_id"""

_ENTRIES = """
SELECT e.txn_id, e.account_id, e.amount, coalesce(e.account_seq, 0), e.leg, e.layer
  FROM entry e JOIN txn t USING (txn_id) WHERE t.program = ANY(%(names)s) ORDER BY e.txn_id, e.leg"""

_LOTS = f"SELECT {LOT} FROM lot l WHERE l.program = ANY(%(names)s) ORDER BY l.lot_id"  # noqa: S608 -- constants

_USES = """
SELECT u.txn_id, u.lot_id, u.action, u.amount FROM lot_use u JOIN lot l USING (lot_id)
 WHERE l.program = ANY(%(names)s)"""

_HOLDS = """
SELECT h.hold_id, h.program, h.account_id, h.peer_id, h.kind, h.amount, h.replaces, r.decision_id, r.verdict, r.posted
  FROM hold h LEFT JOIN hold_resolution r USING (hold_id) WHERE h.program = ANY(%(names)s) ORDER BY h.hold_id"""

_HOLD_LOTS = """
SELECT x.hold_id, x.lot_id, x.amount FROM hold_lot x JOIN hold h USING (hold_id)
 WHERE h.program = ANY(%(names)s) ORDER BY x.hold_id, x.lot_id"""

_REVIEWS = """
SELECT d.decision_id, d.hold_id, d.verdict, d.actor FROM review_decision d JOIN hold h USING (hold_id)
 WHERE h.program = ANY(%(names)s) ORDER BY d.decision_id"""

_REVERSALS = """
SELECT reversal_id, program, original_txn, points, from_hold, from_lot, from_reserved, from_traced, from_other,
       to_arrears, forgiven, restored, repaid, order_id, refund_id
  FROM reversal WHERE program = ANY(%(names)s) ORDER BY reversal_id"""

_MERGES = """
SELECT merge_id, program, from_id, into_id, actor, reason FROM account_merge
 WHERE program = ANY(%(names)s) ORDER BY merge_id"""


def read_dump(conn: Connection, programs: Collection[str]) -> Dump:
    """Read everything there is of these programmes; for one moment, in a REPEATABLE READ transaction."""

    def rows(statement: str) -> list[Any]:
        return list(fetch(conn, statement, {"names": texts(sorted(programs))}))

    return Dump(
        tuple(map(DumpAccount._make, rows(_ACCOUNTS))),
        tuple(map(Txn._make, rows(_TXNS))),
        tuple(map(Entry._make, rows(_ENTRIES))),
        tuple(map(LotState._make, rows(_LOTS))),
        tuple(sorted(map(LotUse._make, rows(_USES)))),
        tuple(map(DumpHold._make, rows(_HOLDS))),
        tuple(map(HoldLot._make, rows(_HOLD_LOTS))),
        tuple(map(DumpReview._make, rows(_REVIEWS))),
        tuple(map(Reversal._make, rows(_REVERSALS))),
        tuple(map(NewMerge._make, rows(_MERGES))),
    )
