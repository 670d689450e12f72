"""What `verify` looks for in transactions, holds and decisions, each as one statement: set-based, read only.

A check's statement holds `WITHIN(column)` wherever it takes its part of the whole: a range above `:low` and up to
`:high` or, when only what is new is verified, the ids in `:these`. Its rows are (kind, subject, detail), one per thing
found, none on a sound ledger. What is replayed is always recomputed from the entries; counters, caches and links are
compared with that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Domain = Literal["ids", "holds", "lots", "originals", "accounts", "offsets", "once"]
"""What a check's parts are parts of: ids of transactions and decisions, holds, lots, what was reversed, accounts,
offsets of a log partition, or nothing: it is run once, and only if all is verified."""

_WITHIN = re.compile(r"WITHIN\(([\w.]+)\)")


@dataclass(frozen=True, slots=True)
class Check:
    """One statement, the domain whose parts it takes, and the names of what it finds."""

    domain: Domain
    kinds: tuple[str, ...]
    sql: str

    def over(self, *, listed: bool) -> str:
        """The statement over a range, or over the ids `listed` in an array."""
        if listed:
            return _WITHIN.sub(r"\1 = ANY(CAST(:these AS bigint[]))", self.sql)
        return _WITHIN.sub(r"(\1 > :low AND \1 <= :high)", self.sql)


# Headers and entries agree, and every layer sums to zero. Which layers a transaction has follows from its kind.
TRANSACTIONS = Check(
    "ids",
    (
        "entries_without_transaction",
        "transaction_without_entries",
        "unbalanced_transaction",
        "wrong_layers",
        "wrong_amount",
    ),
    """
WITH legs AS (
    SELECT txn_id, sum(amount) FILTER (WHERE layer = 0) AS sum_0, sum(amount) FILTER (WHERE layer = 1) AS sum_1,
           sum(amount) FILTER (WHERE layer = 2) AS sum_2, sum(amount) FILTER (WHERE layer = 0 AND amount > 0) AS posted,
           sum(amount) FILTER (WHERE layer = 1 AND amount > 0) AS pending,
           sum(amount) FILTER (WHERE layer = 2 AND amount > 0) AS released
      FROM entry WHERE WITHIN(txn_id) GROUP BY txn_id),
headers AS (SELECT * FROM txn WHERE WITHIN(txn_id)),
judged AS (
    SELECT coalesce(t.txn_id, e.txn_id) AS txn_id,
           CASE WHEN t.txn_id IS NULL THEN 'entries_without_transaction'
                WHEN e.txn_id IS NULL THEN 'transaction_without_entries'
                WHEN coalesce(sum_0, 0) <> 0 OR coalesce(sum_1, 0) <> 0 OR coalesce(sum_2, 0) <> 0
                THEN 'unbalanced_transaction'
                WHEN (t.kind <> 'void' AND NOT t.pending) <> (sum_0 IS NOT NULL) OR t.pending <> (sum_1 IS NOT NULL)
                     OR (t.resolves IS NOT NULL) <> (sum_2 IS NOT NULL)
                THEN 'wrong_layers'
                WHEN abs(t.amount) <> coalesce(e.posted, e.pending, e.released) THEN 'wrong_amount' END AS kind,
           t.kind AS txn_kind, t.amount, e.sum_0, e.sum_1, e.sum_2, e.posted, e.pending, e.released
      FROM headers t FULL JOIN legs e USING (txn_id))
SELECT kind, 'transaction ' || txn_id AS subject,
       format('%s of %s; layers sum to %s, %s, %s; credited %s, %s, %s', txn_kind, amount, sum_0, sum_1, sum_2, posted,
              pending, released) AS detail
  FROM judged WHERE kind IS NOT NULL""",
)

# Every entry is on an account of its transaction's programme; entries of members, arrears and pools are numbered,
# those of control and store accounts are not.
ENTRIES = Check(
    "ids",
    (
        "entry_without_account",
        "foreign_account",
        "wrong_numbering",
    ),
    """
SELECT CASE WHEN a.account_id IS NULL THEN 'entry_without_account'
            WHEN a.program <> t.program THEN 'foreign_account' ELSE 'wrong_numbering' END AS kind,
       format('transaction %s leg %s', e.txn_id, e.leg) AS subject,
       format('account %s (%s) of programme %s, sequence %s; transaction of programme %s', e.account_id, a.kind,
              a.program, e.account_seq, t.program) AS detail
  FROM entry e JOIN txn t USING (txn_id) LEFT JOIN account a USING (account_id)
 WHERE WITHIN(e.txn_id)
   AND (a.account_id IS NULL OR a.program <> t.program
        OR (a.kind IN ('control', 'store')) <> (e.account_seq IS NULL))""",
)

# A pending transaction is a hold, and a hold is a pending transaction, of the same points on the same accounts.
HOLDS = Check(
    "ids",
    (
        "pending_without_hold",
        "hold_without_pending",
        "hold_differs",
    ),
    """
SELECT CASE WHEN h.hold_id IS NULL THEN 'pending_without_hold'
            WHEN t.txn_id IS NULL OR NOT t.pending THEN 'hold_without_pending' ELSE 'hold_differs' END AS kind,
       'hold ' || coalesce(h.hold_id, t.txn_id) AS subject,
       format('hold: %s of %s on account %s; transaction: %s of %s', h.kind, h.amount, h.account_id, t.kind, t.amount)
           AS detail
  FROM (SELECT * FROM txn WHERE WITHIN(txn_id) AND resolves IS NULL) t
  FULL JOIN (SELECT * FROM hold WHERE WITHIN(hold_id)) h ON h.hold_id = t.txn_id
 WHERE coalesce(t.pending, false) <> (h.hold_id IS NOT NULL)
    OR (h.program, h.kind, h.amount) <> (t.program, t.kind, t.amount)
    OR (t.pending AND h.order_id IS DISTINCT FROM t.order_id)
    OR (t.pending AND NOT EXISTS (
        SELECT FROM entry e WHERE e.txn_id = h.hold_id AND e.layer = 1 AND e.account_id = h.account_id
               AND (h.peer_id IS NULL OR EXISTS (
                   SELECT FROM entry p WHERE p.txn_id = h.hold_id AND p.layer = 1 AND p.account_id = h.peer_id))))""",
)

# A hold is marked as ended exactly if a resolution says so, and that rests on a review decision of the same verdict and
# on a transaction of the points it says were posted, which are no more than were held (I4).
RESOLUTIONS = Check(
    "holds",
    (
        "ended_without_resolution",
        "resolved_but_open",
        "resolution_without_decision",
        "resolution_without_transaction",
        "posted_beyond_hold",
    ),
    """
SELECT CASE WHEN h.resolved_at IS NOT NULL AND r.hold_id IS NULL THEN 'ended_without_resolution'
            WHEN h.resolved_at IS NULL THEN 'resolved_but_open'
            WHEN d.decision_id IS NULL OR d.hold_id <> r.hold_id OR d.verdict <> r.verdict
            THEN 'resolution_without_decision'
            WHEN r.posted > abs(h.amount) OR r.posted < 0 THEN 'posted_beyond_hold'
            ELSE 'resolution_without_transaction' END AS kind,
       'hold ' || h.hold_id AS subject,
       format('%s held, ended at %s; resolution %s of %s by decision %s (%s, of hold %s); transaction %s of %s',
              h.amount, h.resolved_at, r.verdict, r.posted, r.decision_id, d.verdict, d.hold_id, t.txn_id, t.amount)
           AS detail
  FROM hold h LEFT JOIN hold_resolution r USING (hold_id) LEFT JOIN review_decision d ON d.decision_id = r.decision_id
  LEFT JOIN txn t ON t.txn_id = r.decision_id AND t.resolves = r.hold_id AND t.kind = r.verdict
       AND abs(t.amount) = CASE r.verdict WHEN 'post' THEN r.posted ELSE abs(h.amount) END
 WHERE WITHIN(h.hold_id)
   AND ((h.resolved_at IS NULL) <> (r.hold_id IS NULL)
        OR (r.hold_id IS NOT NULL
            AND (d.decision_id IS NULL OR d.hold_id <> r.hold_id OR d.verdict <> r.verdict OR t.txn_id IS NULL
                 OR r.posted > abs(h.amount) OR r.posted < 0)))""",
)

# What a resolution releases is what its hold had pending, leg for leg, and what a post posts is, on the same accounts,
# the points its resolution says (a member and the member's arrears are one here).
RELEASES = Check(
    "ids",
    ("release_differs", "posting_differs", "transaction_without_resolution"),
    """
WITH ends AS (
    SELECT t.txn_id, t.resolves, t.kind, r.decision_id, r.verdict, r.posted
      FROM txn t LEFT JOIN hold_resolution r ON r.hold_id = t.resolves
     WHERE WITHIN(t.txn_id) AND t.resolves IS NOT NULL),
legs AS (
    SELECT t.txn_id, e.account_id, e.amount, e.layer FROM ends t JOIN entry e ON e.txn_id = t.txn_id AND e.layer <> 1
    UNION ALL
    SELECT t.txn_id, e.account_id, -e.amount, 2 FROM ends t JOIN entry e ON e.txn_id = t.resolves AND e.layer = 1
    UNION ALL
    SELECT t.txn_id, e.account_id, -sign(e.amount)::bigint * t.posted, 0
      FROM ends t JOIN entry e ON e.txn_id = t.resolves AND e.layer = 1 WHERE t.kind = 'post')
SELECT CASE layer WHEN 2 THEN 'release_differs' ELSE 'posting_differs' END AS kind, 'transaction ' || txn_id AS subject,
       format('%s %s: differs from what was pending or approved by %s', whose, name, sum(amount)) AS detail
  FROM (SELECT legs.*, a.name, CASE a.kind WHEN 'arrears' THEN 'member' ELSE a.kind END AS whose
          FROM legs LEFT JOIN account a USING (account_id)) named
 GROUP BY txn_id, layer, whose, name HAVING sum(amount) <> 0
UNION ALL
SELECT 'transaction_without_resolution', 'transaction ' || txn_id,
       format('%s of hold %s, which is resolved by %s', kind, resolves, decision_id)
  FROM ends WHERE decision_id IS DISTINCT FROM txn_id OR verdict <> kind""",
)

# A hold held again stands for what was left of one that a reversal voided, on the same account.
REPLACEMENTS = Check(
    "holds",
    ("replacement_differs",),
    """
SELECT 'replacement_differs' AS kind, 'hold ' || h.hold_id AS subject,
       format('%s of %s on account %s replaces hold %s: %s of %s on account %s, ended by %s', h.kind, h.amount,
              h.account_id, h.replaces, o.kind, o.amount, o.account_id, r.verdict) AS detail
  FROM hold h LEFT JOIN hold o ON o.hold_id = h.replaces LEFT JOIN hold_resolution r ON r.hold_id = h.replaces
 WHERE WITHIN(h.hold_id) AND h.replaces IS NOT NULL
   AND ((o.program, o.account_id, o.kind) IS DISTINCT FROM (h.program, h.account_id, h.kind)
        OR o.peer_id IS DISTINCT FROM h.peer_id OR r.verdict IS DISTINCT FROM 'void'
        OR sign(o.amount) <> sign(h.amount) OR abs(h.amount) > abs(o.amount))""",
)

# Decisions of people and of policy: each verdict that ends a hold has ended it.
REVIEWS = Check(
    "ids",
    ("review_without_resolution",),
    """
SELECT 'review_without_resolution' AS kind, 'decision ' || d.decision_id AS subject,
       format('%s of hold %s by %s', d.verdict, d.hold_id, d.actor) AS detail
  FROM review_decision d LEFT JOIN hold_resolution r USING (decision_id)
 WHERE WITHIN(d.decision_id) AND d.verdict <> 'escalate' AND r.decision_id IS NULL""",
)

# What an event moved was decided so, and what was decided so moved; account, event and points are the same. An account
# may have been merged into another, and a member may have acted for a pool.
DECISIONS = Check(
    "ids",
    (
        "transaction_without_decision",
        "decision_without_transaction",
        "decision_differs",
    ),
    """
WITH moved AS (
    SELECT * FROM txn
     WHERE WITHIN(txn_id) AND resolves IS NULL AND source NOT LIKE 'pointguard:%' AND kind <> 'reverse'),
decided AS (SELECT * FROM decision WHERE WITHIN(decision_id) AND type <> 'reverse')
SELECT CASE WHEN d.decision_id IS NULL THEN 'transaction_without_decision'
            WHEN t.txn_id IS NULL THEN 'decision_without_transaction' ELSE 'decision_differs' END AS kind,
       'decision ' || coalesce(t.txn_id, d.decision_id) AS subject,
       format('decision: %s of %s %s by %s; transaction: %s of %s, pending %s', d.outcome, d.type, d.points, d.event_id,
              t.kind, t.amount, t.pending) AS detail
  FROM moved t FULL JOIN decided d ON d.decision_id = t.txn_id
 WHERE (t.txn_id IS NULL AND d.outcome IN ('approve', 'hold') AND d.type IN ('earn', 'redeem', 'transfer', 'adjust'))
    OR (t.txn_id IS NOT NULL AND d.decision_id IS NULL)
    OR (t.txn_id IS NOT NULL
        AND (d.outcome <> CASE WHEN t.pending THEN 'hold' ELSE 'approve' END
             OR (d.program, d.type, d.source, d.event_id) <> (t.program, t.kind, t.source, t.event_id)
             OR d.points IS DISTINCT FROM t.amount
             OR NOT EXISTS (
                 SELECT FROM entry e JOIN account a USING (account_id)
                  WHERE e.txn_id = t.txn_id AND a.kind NOT IN ('control', 'store')
                    AND (a.name = d.account
                         OR (a.kind = 'pool' AND EXISTS (
                             SELECT FROM pool_member p JOIN account m ON m.account_id = p.member_id
                              WHERE p.pool_id = a.account_id AND m.name = d.account))
                         OR EXISTS (
                             WITH RECURSIVE became AS (
                                 SELECT m.merged_into AS account_id FROM account m
                                  WHERE (m.program, m.kind, m.name) = (d.program, 'member', d.account)
                                 UNION
                                 SELECT m.merged_into FROM became b JOIN account m USING (account_id))
                             SELECT FROM became b JOIN account m USING (account_id)
                              WHERE m.name = a.name
                                 OR (a.kind = 'pool' AND EXISTS (SELECT FROM pool_member p
                                      WHERE p.pool_id = a.account_id AND p.member_id = b.account_id)))))))""",
)

# What the ledger does by itself has its cause: a lot that was due, a hold that a reversal voided, a refund told, an
# account merged. Adjustments and imports are checked with their own tables.
CAUSES = Check(
    "ids",
    ("own_without_cause", "expired_early"),
    """
WITH own AS (SELECT * FROM txn WHERE WITHIN(txn_id) AND (source LIKE 'pointguard:%' OR kind IN ('expire', 'merge'))),
judged AS (
    SELECT t.*, CASE t.source
        WHEN 'pointguard:expiry' THEN t.kind = 'expire' AND NOT t.pending AND EXISTS (
            SELECT FROM lot_use u WHERE (u.txn_id, u.action, u.amount) = (t.txn_id, 'expire', t.amount)
               AND u.lot_id::text = t.event_id)
        WHEN 'pointguard:reversal' THEN t.pending AND EXISTS (
            SELECT FROM hold h WHERE h.hold_id = t.txn_id AND h.replaces::text = t.event_id)
        WHEN 'pointguard:refund' THEN t.kind = 'reverse' AND EXISTS (
            SELECT FROM reversal r WHERE r.reversal_id = t.txn_id
               AND t.event_id = format('%s/%s/%s', r.order_id, r.refund_id, r.original_txn))
        WHEN 'pointguard:merge' THEN t.kind = 'merge' AND EXISTS (
            SELECT FROM account_merge m WHERE m.merge_id = t.txn_id AND m.from_id::text = t.event_id)
        ELSE t.source IN ('pointguard:adjustment', 'pointguard:import') AND t.kind = 'adjust' END AS sound
      FROM own t)
SELECT 'own_without_cause' AS kind, 'transaction ' || txn_id AS subject,
       format('%s of %s by %s %s', kind, amount, source, event_id) AS detail
  FROM judged WHERE NOT sound
UNION ALL
SELECT 'expired_early', 'transaction ' || t.txn_id,
       format('lot %s expires at %s, recorded at %s', l.lot_id, l.expires_at, t.recorded_at)
  FROM own t JOIN lot_use u ON u.txn_id = t.txn_id AND u.action = 'expire' JOIN lot l USING (lot_id)
 WHERE l.expires_at IS NULL OR l.expires_at > t.recorded_at""",
)

# Every event that came in has exactly one outcome: a decision, or a dead letter at its own place in the log.
EVENTS = Check(
    "offsets",
    (
        "event_without_outcome",
        "event_with_two_outcomes",
    ),
    """
SELECT CASE WHEN d.decision_id IS NULL THEN 'event_without_outcome' ELSE 'event_with_two_outcomes' END AS kind,
       format('event %s of %s', i.event_id, i.source) AS subject,
       format('%s partition %s offset %s: decision %s, dead letter %s', i.topic, i.part, i."offset", d.decision_id,
              l.id) AS detail
  FROM event_inbox i
  LEFT JOIN decision d ON d.source = i.source AND d.event_id = i.event_id
  LEFT JOIN dead_letter l
         ON (l.log_id, l.topic, l.part, l."offset") = (i.log_id, i.topic, i.part, i."offset")
 WHERE i.log_id = :log_id AND i.topic = :topic AND i.part = :part AND i."offset" > :low AND i."offset" <= :high
   AND (d.decision_id IS NULL) = (l.id IS NULL)""",
)

# Control and store accounts have no numbered entries: their sums are collected part by part.
CONTROL_SUMS = """
SELECT account_id, coalesce(-sum(amount) FILTER (WHERE layer = 0 AND amount < 0), 0),
       coalesce(sum(amount) FILTER (WHERE layer = 0 AND amount > 0), 0),
       coalesce(sum(CASE layer WHEN 1 THEN -amount ELSE amount END) FILTER (WHERE layer > 0 AND amount < 0), 0),
       coalesce(sum(CASE layer WHEN 1 THEN amount ELSE -amount END) FILTER (WHERE layer > 0 AND amount > 0), 0)
  FROM entry WHERE txn_id > :low AND txn_id <= :high AND account_seq IS NULL GROUP BY account_id"""

CHECKS = (
    TRANSACTIONS,
    ENTRIES,
    HOLDS,
    RESOLUTIONS,
    RELEASES,
    REPLACEMENTS,
    REVIEWS,
    DECISIONS,
    CAUSES,
    EVENTS,
)
