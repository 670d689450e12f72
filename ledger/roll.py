"""Control and stores' accounts without a hot row: batches append deltas, the roller folds them, a read adds up both."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

# Room is left below 2^63; what does not fit stays in the tail, where reads, which sum as numeric, still count it.
_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class ControlBalance:
    """A control account's counters, folded and tail together; `deltas` rows are still in the tail."""

    program: str
    name: str
    posted_dr: int
    posted_cr: int
    pending_dr: int
    pending_cr: int
    deltas: int


_LOCK = text("""
SELECT account_id FROM account WHERE account_id = ANY(ARRAY(SELECT DISTINCT account_id FROM control_delta))
 ORDER BY account_id FOR UPDATE SKIP LOCKED""")

_FOLDABLE = text("""
SELECT a.account_id FROM account a JOIN control_delta d USING (account_id)
 WHERE a.account_id = ANY(CAST(:ids AS bigint[])) GROUP BY a.account_id
HAVING greatest(a.posted_dr + sum(d.posted_dr), a.posted_cr + sum(d.posted_cr),
                a.pending_dr + sum(greatest(d.pending_dr, 0)),
                a.pending_cr + sum(greatest(d.pending_cr, 0))) <= :most""")

_FOLD = text("""
WITH gone AS (
    DELETE FROM control_delta WHERE account_id = ANY(CAST(:ids AS bigint[]))
    RETURNING account_id, posted_dr, posted_cr, pending_dr, pending_cr),
total AS (
    SELECT account_id, count(*) AS deltas, sum(posted_dr)::bigint AS posted_dr, sum(posted_cr)::bigint AS posted_cr,
           sum(pending_dr)::bigint AS pending_dr, sum(pending_cr)::bigint AS pending_cr
      FROM gone GROUP BY account_id)
UPDATE account a
   SET posted_dr = a.posted_dr + t.posted_dr, posted_cr = a.posted_cr + t.posted_cr,
       pending_dr = a.pending_dr + t.pending_dr, pending_cr = a.pending_cr + t.pending_cr
  FROM total t WHERE a.account_id = t.account_id RETURNING t.deltas""")

_BALANCES = text("""
SELECT a.program, a.name, a.posted_dr + coalesce(d.posted_dr, 0), a.posted_cr + coalesce(d.posted_cr, 0),
       a.pending_dr + coalesce(d.pending_dr, 0), a.pending_cr + coalesce(d.pending_cr, 0), coalesce(d.deltas, 0)
  FROM account a
  LEFT JOIN (SELECT account_id, count(*) AS deltas, sum(posted_dr) AS posted_dr, sum(posted_cr) AS posted_cr,
                    sum(pending_dr) AS pending_dr, sum(pending_cr) AS pending_cr
               FROM control_delta GROUP BY account_id) d USING (account_id)
 WHERE a.kind = 'control' AND a.program = :program ORDER BY a.account_id""")


def roll_up(conn: Connection) -> int:
    """Fold the deltas of the accounts nobody else is folding; returns how many delta rows went.

    Several rollers may run: each takes the accounts it can lock, and the caller's commit lets them go.
    """
    ids = list(conn.execute(_LOCK).scalars())
    foldable = list(conn.execute(_FOLDABLE, {"ids": ids, "most": _LIMIT}).scalars())
    return sum(conn.execute(_FOLD, {"ids": foldable}).scalars()) if foldable else 0


def control_balances(conn: Connection, program: str) -> list[ControlBalance]:
    """Read a programme's control accounts as of now, exactly: the folded rows plus the tail, in one snapshot."""
    rows = conn.execute(_BALANCES, {"program": program})
    return [ControlBalance(row[0], row[1], *(int(value) for value in row[2:])) for row in rows]
