"""Reads a programme's liability as of any moment, and how it moved in a period.

Lots tell what is owed to members, entries how it moved: the two are kept together in every transaction, so that one
proves the other. Give a REPEATABLE READ transaction: several statements make one picture. What was recorded after the
moment is found by the time index of txn; the lots and holds of the programme are read whole.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, text

from ledger.history import moment
from ledger.liability import Cohort, Liability, Roll, Valuation, cohorts, months_before, summed
from ledger.terms import Terms

# Of a lot that is due by then, what nobody has set aside is lapsed. `used` leads back from what remains now.
_LOTS = text("""
WITH later AS MATERIALIZED (
    SELECT txn_id FROM txn WHERE program = :program AND recorded_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0)),
used AS (
    SELECT u.lot_id, sum(CASE u.action WHEN 'restore' THEN -u.amount ELSE u.amount END) AS points
      FROM later JOIN lot_use u USING (txn_id) GROUP BY u.lot_id),
frozen AS (
    SELECT x.lot_id, sum(x.amount) AS points FROM hold h JOIN hold_lot x USING (hold_id)
     WHERE h.program = :program AND h.opened_at <= to_timestamp(CAST(:at_ms AS bigint) / 1000.0)
       AND (h.resolved_at IS NULL OR h.resolved_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0))
     GROUP BY x.lot_id),
standing AS (
    SELECT l.earned_at, l.expires_at <= to_timestamp(CAST(:at_ms AS bigint) / 1000.0) AS due,
           l.remaining + coalesce(u.points, 0) AS remaining, coalesce(f.points, 0) AS reserved
      FROM lot l LEFT JOIN used u USING (lot_id) LEFT JOIN frozen f USING (lot_id)
     WHERE l.program = :program AND (l.open OR u.lot_id IS NOT NULL)
       AND NOT EXISTS (SELECT FROM later WHERE later.txn_id = l.txn_id))
SELECT width_bucket(earned_at, CAST(:edges AS timestamptz[])) AS bucket,
       sum(CASE WHEN due THEN reserved ELSE remaining END) AS points,
       coalesce(sum(remaining - reserved) FILTER (WHERE due), 0) AS lapsed, sum(reserved) AS reserved
  FROM standing GROUP BY 1""")

_COMING = text("""
SELECT coalesce(sum(amount), 0) FROM hold
 WHERE program = :program AND (kind = 'earn' OR (kind = 'adjust' AND amount > 0))
   AND opened_at <= to_timestamp(CAST(:at_ms AS bigint) / 1000.0)
   AND (resolved_at IS NULL OR resolved_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0))""")

_BALANCES = text("""
SELECT coalesce(sum(points) FILTER (WHERE kind <> 'arrears'), 0),
       -coalesce(sum(points) FILTER (WHERE kind = 'arrears'), 0)
  FROM (SELECT kind, posted_cr - posted_dr AS points FROM account
         WHERE program = :program AND kind IN ('member', 'pool', 'arrears')
        UNION ALL
        SELECT a.kind, -e.amount FROM txn t JOIN entry e USING (txn_id) JOIN account a USING (account_id)
         WHERE t.program = :program AND t.recorded_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0)
           AND e.layer = 0 AND a.kind IN ('member', 'pool', 'arrears')) counted""")

_MOVED = text("""
WITH moved AS (
    SELECT t.txn_id, coalesce(h.kind, t.kind) AS kind,
           coalesce(sum(e.amount) FILTER (WHERE a.kind <> 'arrears'), 0) AS points,
           coalesce(-sum(e.amount) FILTER (WHERE a.kind = 'arrears'), 0) AS owed
      FROM txn t JOIN entry e USING (txn_id) JOIN account a USING (account_id)
      LEFT JOIN hold h ON h.hold_id = t.resolves
     WHERE t.program = :program AND t.recorded_at >= to_timestamp(CAST(:since_ms AS bigint) / 1000.0)
       AND t.recorded_at < to_timestamp(CAST(:until_ms AS bigint) / 1000.0)
       AND e.layer = 0 AND a.kind IN ('member', 'pool', 'arrears')
     GROUP BY t.txn_id, 2)
SELECT kind, sum(points), sum(owed) FROM moved GROUP BY kind, sign(points - owed)""")

# A lot earned exactly so many months ago is that old, but a bucket begins at its edge: hence the edges a moment later.
_MOMENT = timedelta(microseconds=1)


def value_of(terms: Terms) -> Valuation:
    """What a programme's points are worth by its terms."""
    return Valuation(terms.money, terms.unit_value_micros)


def liability(conn: Connection, program: str, terms: Terms, at_ms: int) -> Liability:
    """Read a programme's liability as of `at_ms`, valued by `terms`."""
    asked = {"program": program, "at_ms": at_ms}
    wanted = cohorts(terms.redemption_rate_ppm, terms.cohorts)
    at = moment(at_ms)
    edges = [months_before(at, one.from_months) + _MOMENT for one in reversed(wanted[1:])]
    points = [0] * len(wanted)
    lapsed = reserved = 0
    for row in conn.execute(_LOTS, asked | {"edges": edges}):
        points[len(edges) - row.bucket] += int(row.points)
        lapsed += int(row.lapsed)
        reserved += int(row.reserved)
    return Liability(
        program,
        at,
        value_of(terms),
        tuple(Cohort(one.from_months, one.rate_ppm, held) for one, held in zip(wanted, points, strict=True)),
        lapsed,
        reserved,
        int(conn.execute(_COMING, asked).scalar_one()),
        _balances(conn, program, at_ms)[1],
    )


def roll(conn: Connection, program: str, terms: Terms, since_ms: int, until_ms: int) -> Roll:
    """Read how a programme's liability moved from `since_ms` up to, not including, `until_ms`.

    What the period opens with is found from balances, what it closes with from lots.
    """
    rows = conn.execute(_MOVED, {"program": program, "since_ms": since_ms, "until_ms": until_ms})
    changes = summed((row[0], int(row[1]), int(row[2])) for row in rows)
    closing = liability(conn, program, terms, until_ms - 1)
    return Roll(
        program,
        moment(since_ms),
        moment(until_ms),
        closing.value,
        _balances(conn, program, since_ms - 1),
        changes,
        (closing.outstanding, closing.owed),
    )


def _balances(conn: Connection, program: str, at_ms: int) -> tuple[int, int]:
    """All points of members and pools, and all that members owe, as of a moment."""
    points, owed = conn.execute(_BALANCES, {"program": program, "at_ms": at_ms}).one()
    return int(points), int(owed)
