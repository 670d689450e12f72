"""What `ledger.verify` asks the database, each check one set-based statement over a range.

A check yields rows (kind, subject, detail), one for each discrepancy, in the range (low, high] of its domain: `ids` are
decision ids (so transactions, holds and review decisions too), `accounts` account ids, `offsets` one partition's
offsets, and `once` has no range. Everything is recomputed from the entries; counters, caches and links are compared
with that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["ids", "accounts", "offsets", "once"]


@dataclass(frozen=True, slots=True)
class Check:
    """One statement, the domain whose ranges it takes, and the names of what it finds."""

    domain: Domain
    kinds: tuple[str, ...]
    sql: str


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
      FROM entry WHERE txn_id > :low AND txn_id <= :high GROUP BY txn_id),
headers AS (SELECT * FROM txn WHERE txn_id > :low AND txn_id <= :high),
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

# Every entry is on an account of its transaction's programme; members' entries are numbered, control accounts' are not.
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
 WHERE e.txn_id > :low AND e.txn_id <= :high
   AND (a.account_id IS NULL OR a.program <> t.program OR (a.kind = 'control') <> (e.account_seq IS NULL))""",
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
  FROM (SELECT * FROM txn WHERE txn_id > :low AND txn_id <= :high AND resolves IS NULL) t
  FULL JOIN (SELECT * FROM hold WHERE hold_id > :low AND hold_id <= :high) h ON h.hold_id = t.txn_id
 WHERE coalesce(t.pending, false) <> (h.hold_id IS NOT NULL)
    OR (h.program, h.kind, h.amount) <> (t.program, t.kind, t.amount)
    OR (t.pending AND NOT EXISTS (
        SELECT FROM entry e WHERE e.txn_id = h.hold_id AND e.layer = 1 AND e.account_id = h.account_id
               AND (h.peer_id IS NULL OR EXISTS (
                   SELECT FROM entry p WHERE p.txn_id = h.hold_id AND p.layer = 1 AND p.account_id = h.peer_id))))""",
)

# A hold is marked as ended exactly if a resolution says so, and that rests on a review decision of the same verdict.
RESOLUTIONS = Check(
    "ids",
    (
        "ended_without_resolution",
        "resolved_but_open",
        "resolution_without_decision",
        "resolution_without_transaction",
    ),
    """
SELECT CASE WHEN h.resolved_at IS NOT NULL AND r.hold_id IS NULL THEN 'ended_without_resolution'
            WHEN h.resolved_at IS NULL THEN 'resolved_but_open'
            WHEN d.decision_id IS NULL OR d.hold_id <> r.hold_id OR d.verdict <> r.verdict
            THEN 'resolution_without_decision'
            ELSE 'resolution_without_transaction' END AS kind,
       'hold ' || h.hold_id AS subject,
       format('ended at %s; resolution %s by decision %s (%s, of hold %s); transaction %s', h.resolved_at, r.verdict,
              r.decision_id, d.verdict, d.hold_id, t.txn_id) AS detail
  FROM hold h LEFT JOIN hold_resolution r USING (hold_id) LEFT JOIN review_decision d ON d.decision_id = r.decision_id
  LEFT JOIN txn t ON t.txn_id = r.decision_id AND t.resolves = r.hold_id AND t.kind = r.verdict
 WHERE h.hold_id > :low AND h.hold_id <= :high
   AND ((h.resolved_at IS NULL) <> (r.hold_id IS NULL)
        OR (r.hold_id IS NOT NULL
            AND (d.decision_id IS NULL OR d.hold_id <> r.hold_id OR d.verdict <> r.verdict OR t.txn_id IS NULL)))""",
)

# What a resolution releases is what its hold had pending, leg for leg, and what a post posts is the same again (a
# member and the member's arrears are one here); what it says is what the resolution says.
RELEASES = Check(
    "ids",
    ("release_differs", "posting_differs", "transaction_without_resolution"),
    """
WITH ends AS (SELECT txn_id, resolves, kind FROM txn WHERE txn_id > :low AND txn_id <= :high AND resolves IS NOT NULL),
legs AS (
    SELECT t.txn_id, e.account_id, e.amount, e.layer FROM ends t JOIN entry e ON e.txn_id = t.txn_id AND e.layer <> 1
    UNION ALL
    SELECT t.txn_id, e.account_id, -e.amount, 2 FROM ends t JOIN entry e ON e.txn_id = t.resolves AND e.layer = 1
    UNION ALL
    SELECT t.txn_id, e.account_id, -e.amount, 0 FROM ends t JOIN entry e ON e.txn_id = t.resolves AND e.layer = 1
     WHERE t.kind = 'post')
SELECT CASE layer WHEN 2 THEN 'release_differs' ELSE 'posting_differs' END AS kind, 'transaction ' || txn_id AS subject,
       format('%s %s: differs from what was pending by %s', CASE WHEN control THEN 'control' ELSE 'member' END, name,
              sum(amount)) AS detail
  FROM (SELECT legs.*, a.name, a.kind = 'control' AS control FROM legs LEFT JOIN account a USING (account_id)) named
 GROUP BY txn_id, layer, control, name HAVING sum(amount) <> 0
UNION ALL
SELECT 'transaction_without_resolution', 'transaction ' || t.txn_id,
       format('%s of hold %s, which is resolved by %s', t.kind, t.resolves, r.decision_id)
  FROM ends t LEFT JOIN hold_resolution r ON r.hold_id = t.resolves
 WHERE r.decision_id IS DISTINCT FROM t.txn_id OR r.verdict <> t.kind""",
)

# What moves points was decided so, and what was decided so moved them; account, event and points are the same.
DECISIONS = Check(
    "ids",
    (
        "transaction_without_decision",
        "decision_without_transaction",
        "decision_differs",
    ),
    """
WITH moved AS (SELECT * FROM txn WHERE txn_id > :low AND txn_id <= :high AND resolves IS NULL),
decided AS (SELECT * FROM decision WHERE decision_id > :low AND decision_id <= :high)
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
             OR NOT EXISTS (SELECT FROM entry e JOIN account a USING (account_id)
                             WHERE e.txn_id = t.txn_id AND a.kind <> 'control' AND a.name = d.account)))""",
)

# Every account's counters, entry count and sequence, replayed from its entries.
ACCOUNTS = Check(
    "accounts",
    (
        "counters_differ",
        "entry_count_differs",
        "negative_available",
        "negative_arrears",
        "wrong_arrears_link",
    ),
    """
WITH replay AS (
    SELECT account_id, count(*) AS entries, max(account_seq) AS last,
           coalesce(-sum(amount) FILTER (WHERE layer = 0 AND amount < 0), 0) AS posted_dr,
           coalesce(sum(amount) FILTER (WHERE layer = 0 AND amount > 0), 0) AS posted_cr,
           coalesce(sum(CASE layer WHEN 1 THEN -amount ELSE amount END) FILTER (WHERE layer > 0 AND amount < 0), 0)
               AS pending_dr,
           coalesce(sum(CASE layer WHEN 1 THEN amount ELSE -amount END) FILTER (WHERE layer > 0 AND amount > 0), 0)
               AS pending_cr
      FROM entry WHERE account_id > :low AND account_id <= :high AND account_seq IS NOT NULL GROUP BY account_id),
compared AS (
    SELECT a.*, coalesce(r.entries, 0) AS entries, coalesce(r.last, 0) AS last, coalesce(r.posted_dr, 0) AS r_posted_dr,
           coalesce(r.posted_cr, 0) AS r_posted_cr, coalesce(r.pending_dr, 0) AS r_pending_dr,
           coalesce(r.pending_cr, 0) AS r_pending_cr
      FROM account a LEFT JOIN replay r USING (account_id)
     WHERE a.account_id > :low AND a.account_id <= :high AND a.kind <> 'control'),
judged AS (
    SELECT *, CASE
        WHEN (posted_dr, posted_cr, pending_dr, pending_cr) <> (r_posted_dr, r_posted_cr, r_pending_dr, r_pending_cr)
        THEN 'counters_differ'
        WHEN entry_count <> entries OR entry_count <> last THEN 'entry_count_differs'
        WHEN kind = 'member' AND posted_cr - posted_dr - pending_dr < 0 THEN 'negative_available'
        WHEN kind = 'arrears' AND posted_dr - posted_cr < 0 THEN 'negative_arrears'
        WHEN (kind = 'member' AND arrears_id IS NOT NULL AND NOT EXISTS (
                 SELECT FROM account o WHERE o.account_id = compared.arrears_id AND o.kind = 'arrears'
                        AND (o.program, o.name) = (compared.program, compared.name)))
          OR (kind = 'arrears' AND NOT EXISTS (
                 SELECT FROM account m WHERE m.program = compared.program AND m.kind = 'member'
                        AND m.name = compared.name AND m.arrears_id = compared.account_id))
        THEN 'wrong_arrears_link' END AS verdict
      FROM compared)
SELECT verdict AS kind, format('account %s (%s %s of %s)', account_id, kind, name, program) AS subject,
       format('counters %s, %s, %s, %s with %s entries; replayed %s, %s, %s, %s with %s entries, the last numbered %s',
              posted_dr, posted_cr, pending_dr, pending_cr, entry_count, r_posted_dr, r_posted_cr, r_pending_dr,
              r_pending_cr, entries, last) AS detail
  FROM judged WHERE verdict IS NOT NULL""",
)

# Debits equal credits in each programme, posted and pending, over all its accounts, control tails included.
CONSERVATION = Check(
    "once",
    ("not_conserved",),
    """
SELECT 'not_conserved' AS kind, 'programme ' || program AS subject,
       format('posted: debits %s, credits %s; pending: debits %s, credits %s', sum(posted_dr), sum(posted_cr),
              sum(pending_dr), sum(pending_cr)) AS detail
  FROM (SELECT program, posted_dr, posted_cr, pending_dr, pending_cr FROM account
        UNION ALL
        SELECT a.program, d.posted_dr, d.posted_cr, d.pending_dr, d.pending_cr
          FROM control_delta d JOIN account a USING (account_id)) counters
 GROUP BY program HAVING sum(posted_dr) <> sum(posted_cr) OR sum(pending_dr) <> sum(pending_cr)""",
)

# Decisions of people and of policy: each verdict that ends a hold has ended it.
REVIEWS = Check(
    "ids",
    ("review_without_resolution",),
    """
SELECT 'review_without_resolution' AS kind, 'decision ' || d.decision_id AS subject,
       format('%s of hold %s by %s', d.verdict, d.hold_id, d.actor) AS detail
  FROM review_decision d LEFT JOIN hold_resolution r USING (decision_id)
 WHERE d.decision_id > :low AND d.decision_id <= :high AND d.verdict <> 'escalate' AND r.decision_id IS NULL""",
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

# Control accounts have no numbered entries: their sums are collected range by range.
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
    REVIEWS,
    DECISIONS,
    ACCOUNTS,
    EVENTS,
    CONSERVATION,
)
