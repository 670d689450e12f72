"""What `verify` looks for in lots: each replayed from its uses, each transaction's uses against its entries."""

from __future__ import annotations

from ledger.checks import Check

# What remains of a lot is what its uses left, and what is reserved of it is what open holds reserve (I9). It is of the
# account, programme and transaction that it says.
LOTS = Check(
    "lots",
    ("lot_differs", "lot_reserved_differs", "lot_without_transaction", "lot_misplaced"),
    """
WITH chosen AS (SELECT * FROM lot l WHERE WITHIN(l.lot_id)),
used AS (
    SELECT u.lot_id, sum(CASE u.action WHEN 'restore' THEN -u.amount ELSE u.amount END) AS used
      FROM lot_use u WHERE WITHIN(u.lot_id) GROUP BY u.lot_id),
held AS (
    SELECT x.lot_id, sum(x.amount) AS reserved
      FROM hold_lot x JOIN hold h USING (hold_id) WHERE WITHIN(x.lot_id) AND h.resolved_at IS NULL GROUP BY x.lot_id),
judged AS (
    SELECT l.*, l.issued - coalesce(u.used, 0) AS left_over, coalesce(h.reserved, 0) AS held, CASE
        WHEN l.remaining <> l.issued - coalesce(u.used, 0) OR l.open <> (l.remaining > 0)
             OR l.remaining > l.issued OR l.remaining < 0
        THEN 'lot_differs'
        WHEN l.reserved <> coalesce(h.reserved, 0) OR l.reserved > l.remaining THEN 'lot_reserved_differs'
        WHEN l.txn_id <> 0 AND (t.txn_id IS NULL OR t.pending OR t.program <> l.program)
        THEN 'lot_without_transaction'
        WHEN a.account_id IS NULL OR a.kind NOT IN ('member', 'pool') OR a.program <> l.program
        THEN 'lot_misplaced' END AS verdict
      FROM chosen l LEFT JOIN used u USING (lot_id) LEFT JOIN held h USING (lot_id)
      LEFT JOIN txn t ON t.txn_id = l.txn_id LEFT JOIN account a ON a.account_id = l.account_id)
SELECT verdict AS kind, 'lot ' || lot_id AS subject,
       format('of account %s by transaction %s: %s issued, %s left, %s reserved; by its uses %s left, by open holds %s '
              'reserved', account_id, txn_id, issued, remaining, reserved, left_over, held) AS detail
  FROM judged WHERE verdict IS NOT NULL""",
)

# A lot that came out of another keeps when and where its points were earned, and expires no earlier.
ORIGINS = Check(
    "lots",
    ("lot_origin_differs",),
    """
SELECT 'lot_origin_differs' AS kind, 'lot ' || l.lot_id AS subject,
       format('%s of %s, earned %s, expires %s; its parent %s: %s of %s, earned %s, expires %s', l.issued, l.program,
              l.earned_at, l.expires_at, l.parent, p.issued, p.program, p.earned_at, p.expires_at) AS detail
  FROM lot l LEFT JOIN lot p ON p.lot_id = l.parent
 WHERE WITHIN(l.lot_id) AND l.parent IS NOT NULL
   AND (p.lot_id IS NULL OR l.lot_id = p.lot_id OR (l.program, l.earned_at) <> (p.program, p.earned_at)
        OR l.store IS DISTINCT FROM p.store OR l.issued > p.issued
        OR (l.expires_at IS NULL) <> (p.expires_at IS NULL) OR l.expires_at < p.expires_at)""",
)

# Each transaction changes what is left in an account's lots by exactly what its entries post to the account: what it
# issued and restored, less what it took. So lots and balances can't part, whichever way points went. A transaction's
# first lot has its id, and there is an index of the others by it.
LOT_MOVES = Check(
    "ids",
    ("lots_differ_from_entries", "use_without_lot"),
    """
WITH moves AS (
    SELECT e.txn_id, e.account_id, e.amount
      FROM entry e JOIN account a USING (account_id)
     WHERE WITHIN(e.txn_id) AND e.txn_id >= :lots_since AND e.layer = 0 AND a.kind IN ('member', 'pool')
    UNION ALL
    SELECT l.txn_id, l.account_id, -l.issued
      FROM lot l WHERE WITHIN(l.lot_id) AND l.lot_id = l.txn_id
    UNION ALL
    SELECT l.txn_id, l.account_id, -l.issued
      FROM lot l WHERE WITHIN(l.txn_id) AND l.lot_id <> l.txn_id AND l.txn_id <> 0
    UNION ALL
    SELECT u.txn_id, l.account_id, CASE u.action WHEN 'restore' THEN -u.amount ELSE u.amount END
      FROM lot_use u JOIN lot l USING (lot_id) WHERE WITHIN(u.txn_id))
SELECT 'lots_differ_from_entries' AS kind, 'transaction ' || txn_id AS subject,
       format('account %s: entries change it by %s more than lots', account_id, sum(amount)) AS detail
  FROM moves GROUP BY txn_id, account_id HAVING sum(amount) <> 0
UNION ALL
SELECT 'use_without_lot', 'transaction ' || u.txn_id, format('%s of %s from lot %s', u.action, u.amount, u.lot_id)
  FROM lot_use u LEFT JOIN lot l USING (lot_id) LEFT JOIN txn t ON t.txn_id = u.txn_id
 WHERE WITHIN(u.txn_id) AND (l.lot_id IS NULL OR t.txn_id IS NULL OR t.program <> l.program)""",
)

# Points that went from a lot to others are these others', no more and no less. And what was due was not spent, unless a
# hold had set it aside before (I10).
LOT_USES = Check(
    "ids",
    ("child_lots_differ", "spent_after_expiry"),
    """
WITH uses AS (
    SELECT u.*, t.kind AS txn_kind, t.pending, t.recorded_at, l.expires_at
      FROM lot_use u JOIN txn t USING (txn_id) JOIN lot l USING (lot_id) WHERE WITHIN(u.txn_id)),
children AS (
    SELECT u.*, (SELECT coalesce(sum(c.issued), 0)
                   FROM lot c WHERE c.parent = u.lot_id AND c.txn_id = u.txn_id) AS given
      FROM uses u WHERE u.action = 'transfer')
SELECT 'child_lots_differ' AS kind, 'transaction ' || txn_id AS subject,
       format('%s took %s from lot %s, and its children got %s', txn_kind, amount, lot_id, given) AS detail
  FROM children WHERE given <> amount
UNION ALL
SELECT 'spent_after_expiry', 'transaction ' || txn_id,
       format('%s of %s from lot %s at %s, due since %s', txn_kind, amount, lot_id, recorded_at, expires_at)
  FROM uses
 WHERE action IN ('debit', 'transfer') AND txn_kind IN ('redeem', 'transfer', 'adjust', 'merge')
   AND expires_at <= recorded_at""",
)

# A hold that takes points reserves lots of its account to exactly its amount; one that gives reserves none. Holds that
# ended before there were lots (below `:lots_since`) have no record of any.
RESERVATIONS = Check(
    "holds",
    ("reservation_differs",),
    """
WITH held AS (
    SELECT h.*, CASE WHEN h.kind IN ('redeem', 'transfer') OR h.amount < 0 THEN abs(h.amount) ELSE 0 END AS wanted
      FROM hold h WHERE WITHIN(h.hold_id)),
reserved AS (
    SELECT h.hold_id, sum(x.amount) AS reserved,
           count(*) FILTER (WHERE l.account_id IS DISTINCT FROM h.account_id) AS foreign_lots
      FROM held h JOIN hold_lot x USING (hold_id) LEFT JOIN lot l USING (lot_id) GROUP BY h.hold_id)
SELECT 'reservation_differs' AS kind, 'hold ' || h.hold_id AS subject,
       format('%s of %s reserves %s, %s of it in lots of others', h.kind, h.amount, coalesce(r.reserved, 0),
              coalesce(r.foreign_lots, 0)) AS detail
  FROM held h LEFT JOIN reserved r USING (hold_id)
 WHERE (coalesce(r.reserved, 0) <> h.wanted OR r.foreign_lots > 0)
   AND NOT (r.hold_id IS NULL AND h.resolved_at IS NOT NULL AND h.hold_id < :lots_since)
UNION ALL
SELECT 'reservation_differs', 'hold ' || x.hold_id,
       format('there is none; lot %s reserves %s for it', x.lot_id, x.amount)
  FROM hold_lot x LEFT JOIN hold h USING (hold_id) WHERE WITHIN(x.hold_id) AND h.hold_id IS NULL""",
)

CHECKS = (LOTS, ORIGINS, LOT_MOVES, LOT_USES, RESERVATIONS)
