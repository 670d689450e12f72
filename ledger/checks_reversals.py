"""What `verify` looks for in reversals and refunds: nothing is taken back that was not given, or twice."""

from __future__ import annotations

from ledger.checks import Check

# A reversal moved what it says, by a transaction of its id unless all of it came from holds or was forgiven; and it has
# its cause: the decision on a reverse, or a refund told of the order.
REVERSALS = Check(
    "ids",
    ("reversal_differs", "reversal_without_cause"),
    """
WITH told AS (
    SELECT r.*, r.points - r.from_hold - r.forgiven AS moved FROM reversal r WHERE WITHIN(r.reversal_id)),
transactions AS (SELECT * FROM txn WHERE WITHIN(txn_id) AND kind = 'reverse'),
decided AS (
    SELECT * FROM decision WHERE WITHIN(decision_id) AND type = 'reverse' AND outcome = 'approve'),
legs AS (
    SELECT e.txn_id, coalesce(-sum(e.amount) FILTER (WHERE a.kind IN ('member', 'pool') AND e.amount < 0), 0) AS taken,
           coalesce(-sum(e.amount) FILTER (WHERE a.kind = 'arrears' AND e.amount < 0), 0) AS owed,
           coalesce(sum(e.amount) FILTER (WHERE a.kind IN ('member', 'pool') AND e.amount > 0), 0) AS given,
           coalesce(sum(e.amount) FILTER (WHERE a.kind = 'arrears' AND e.amount > 0), 0) AS repaid
      FROM transactions t JOIN entry e USING (txn_id) JOIN account a USING (account_id) GROUP BY e.txn_id),
judged AS (
    SELECT coalesce(r.reversal_id, t.txn_id, d.decision_id) AS id, r.points, r.moved, r.original_txn, t.amount,
           d.outcome, CASE
        WHEN r.reversal_id IS NULL OR (r.moved <> 0) <> (t.txn_id IS NOT NULL) OR r.moved <> t.amount
             OR t.program <> r.program
             OR r.points <> r.from_hold + r.from_lot + r.from_reserved + r.from_traced + r.from_other + r.to_arrears
                            + r.forgiven + r.restored + r.repaid
             OR (t.txn_id IS NOT NULL AND CASE WHEN r.restored + r.repaid > 0
                 THEN (l.given, l.repaid, l.taken) <> (r.restored, r.repaid, 0)
                 ELSE (l.taken, l.owed) <> (r.from_lot + r.from_reserved + r.from_traced + r.from_other, r.to_arrears)
                 END)
        THEN 'reversal_differs'
        WHEN CASE WHEN r.refund_id IS NULL THEN d.decision_id IS NULL OR d.program <> r.program
                       OR (t.txn_id IS NOT NULL AND (d.source, d.event_id) <> (t.source, t.event_id))
                  ELSE NOT EXISTS (
                      SELECT FROM order_refund o
                       WHERE (o.program, o.order_id, o.refund_id) = (r.program, r.order_id, r.refund_id)) END
        THEN 'reversal_without_cause' END AS verdict
      FROM told r FULL JOIN transactions t ON t.txn_id = r.reversal_id
      FULL JOIN decided d ON d.decision_id = coalesce(r.reversal_id, t.txn_id)
      LEFT JOIN legs l ON l.txn_id = t.txn_id)
SELECT verdict AS kind, 'reversal ' || id AS subject,
       format('%s of %s, moved %s; transaction of %s; decision %s', points, original_txn, moved, amount, outcome)
           AS detail
  FROM judged WHERE verdict IS NOT NULL""",
)

# What was taken back of a transaction is no more than it posted, held parts included no more than it was of (I11).
# A held original is followed through the holds that took its place.
ORIGINALS = Check(
    "originals",
    ("reversed_beyond_original",),
    """
WITH RECURSIVE sums AS (
    SELECT r.original_txn, sum(r.points) AS points, sum(r.points - r.from_hold) AS posted, min(r.program) AS program
      FROM reversal r WHERE WITHIN(r.original_txn) GROUP BY r.original_txn),
holds AS (
    SELECT s.original_txn, h.hold_id FROM sums s JOIN hold h ON h.hold_id = s.original_txn
    UNION ALL
    SELECT s.original_txn, h.hold_id FROM holds s JOIN hold h ON h.replaces = s.hold_id),
approved AS (
    SELECT o.original_txn, sum(r.posted) AS posted
      FROM holds o JOIN hold_resolution r USING (hold_id) GROUP BY o.original_txn)
SELECT 'reversed_beyond_original' AS kind, 'transaction ' || s.original_txn AS subject,
       format('%s of %s, posted %s; taken back %s, of it posted %s', t.kind, t.amount,
              CASE WHEN t.pending THEN coalesce(a.posted, 0) ELSE abs(t.amount) END, s.points, s.posted) AS detail
  FROM sums s LEFT JOIN txn t ON t.txn_id = s.original_txn LEFT JOIN approved a USING (original_txn)
 WHERE t.txn_id IS NULL OR t.program <> s.program OR t.kind NOT IN ('earn', 'redeem', 'transfer', 'adjust')
    OR s.points > abs(t.amount) OR s.posted > CASE WHEN t.pending THEN coalesce(a.posted, 0) ELSE abs(t.amount) END""",
)

# What refunds took back of an order, of what it gave and of what was spent on it apart, is no more than the share of
# the money refunded (rounded down once, not at each refund). Each order is judged at the oldest of its originals.
REFUNDS = Check(
    "originals",
    ("refunded_beyond_share",),
    """
WITH orders AS (
    SELECT DISTINCT r.program, r.order_id FROM reversal r
     WHERE WITHIN(r.original_txn) AND r.refund_id IS NOT NULL),
taken AS (
    SELECT o.program, o.order_id, t.txn_id, t.kind = 'earn' OR (t.kind = 'adjust' AND t.amount > 0) AS inflow,
           abs(t.amount) AS amount, coalesce(r.points, 0) AS points, r.points IS NOT NULL AS refunded
      FROM orders o
      JOIN txn t ON (t.program, t.order_id) = (o.program, o.order_id) AND t.kind IN ('earn', 'redeem', 'adjust')
           AND t.source IS DISTINCT FROM 'pointguard:reversal'
      LEFT JOIN LATERAL (
           SELECT sum(r.points) AS points FROM reversal r
            WHERE r.original_txn = t.txn_id AND r.order_id = o.order_id AND r.refund_id IS NOT NULL) r ON true),
shares AS (
    SELECT program, order_id, sum(amount) AS money, min(order_total) AS total
      FROM order_refund JOIN orders USING (program, order_id) GROUP BY program, order_id),
sums AS (
    SELECT program, order_id, inflow, sum(points) AS points, sum(amount) AS amount,
           min(txn_id) FILTER (WHERE refunded) AS oldest
      FROM taken GROUP BY program, order_id, inflow)
SELECT 'refunded_beyond_share' AS kind, format('order %s of %s', order_id, program) AS subject,
       format('%s of %s points for %s of %s', points, amount, money, total) AS detail
  FROM sums LEFT JOIN shares USING (program, order_id)
 WHERE WITHIN(oldest) AND points > coalesce(div(amount * least(money, total), total), 0)""",
)

CHECKS = (REVERSALS, ORIGINALS, REFUNDS)
