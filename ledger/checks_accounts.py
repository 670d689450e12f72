"""What `verify` looks for in accounts: counters replayed from entries, lots against balances, merges and pools."""

from __future__ import annotations

from ledger.checks import Check

_SUMS = """
count(*) AS entries, max(account_seq) AS last,
           coalesce(-sum(amount) FILTER (WHERE layer = 0 AND amount < 0), 0) AS posted_dr,
           coalesce(sum(amount) FILTER (WHERE layer = 0 AND amount > 0), 0) AS posted_cr,
           coalesce(sum(CASE layer WHEN 1 THEN -amount ELSE amount END) FILTER (WHERE layer > 0 AND amount < 0), 0)
               AS pending_dr,
           coalesce(sum(CASE layer WHEN 1 THEN amount ELSE -amount END) FILTER (WHERE layer > 0 AND amount > 0), 0)
               AS pending_cr"""

# Everything from the first entry on, which reads best by ranges of accounts …
_REPLAY = """
replay AS (
    SELECT account_id, SUMS
      FROM entry WHERE WITHIN(account_id) AND account_seq IS NOT NULL GROUP BY account_id)"""

# … or what came after the last clean run, on top of what that had reached.
_REPLAY_NEW = """
replay AS (
    SELECT a.account_id, coalesce(m.entry_count, 0) + r.entries AS entries, greatest(m.entry_count, r.last) AS last,
           coalesce(m.posted_dr, 0) + r.posted_dr AS posted_dr, coalesce(m.posted_cr, 0) + r.posted_cr AS posted_cr,
           coalesce(m.pending_dr, 0) + r.pending_dr AS pending_dr,
           coalesce(m.pending_cr, 0) + r.pending_cr AS pending_cr
      FROM account a LEFT JOIN verified_account m USING (account_id)
     CROSS JOIN LATERAL (
        SELECT SUMS
          FROM entry e WHERE e.account_id = a.account_id AND e.account_seq > coalesce(m.entry_count, 0)) r
     WHERE WITHIN(a.account_id))"""

_COUNTERS = """
compared AS (
    SELECT a.*, coalesce(r.entries, 0) AS entries, coalesce(r.last, 0) AS last, coalesce(r.posted_dr, 0) AS r_posted_dr,
           coalesce(r.posted_cr, 0) AS r_posted_cr, coalesce(r.pending_dr, 0) AS r_pending_dr,
           coalesce(r.pending_cr, 0) AS r_pending_cr
      FROM account a LEFT JOIN replay r USING (account_id)
     WHERE WITHIN(a.account_id) AND a.kind NOT IN ('control', 'store')),
judged AS (
    SELECT *, CASE
        WHEN (posted_dr, posted_cr, pending_dr, pending_cr) <> (r_posted_dr, r_posted_cr, r_pending_dr, r_pending_cr)
        THEN 'counters_differ'
        WHEN entry_count <> entries OR entry_count <> last THEN 'entry_count_differs'
        WHEN kind IN ('member', 'pool') AND posted_cr - posted_dr - pending_dr < 0 THEN 'negative_available'
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
  FROM judged WHERE verdict IS NOT NULL"""

_COUNTER_KINDS = (
    "counters_differ",
    "entry_count_differs",
    "negative_available",
    "negative_arrears",
    "wrong_arrears_link",
)

# Every account's counters, entry count and sequence, replayed from its entries.
COUNTERS = Check("accounts", _COUNTER_KINDS, f"WITH {_REPLAY.replace('SUMS', _SUMS)},{_COUNTERS}")
COUNTERS_SINCE = Check("accounts", _COUNTER_KINDS, f"WITH {_REPLAY_NEW.replace('SUMS', _SUMS)},{_COUNTERS}")

# What an account has is what is left in its lots, what its holds set aside is what they reserve of these, and its open
# holds are counted (I9).
HOLDINGS = Check(
    "accounts",
    ("lots_differ_from_balance", "reserved_differs_from_pending", "open_holds_differ", "lots_of_nobody"),
    """
WITH chosen AS (SELECT * FROM account a WHERE WITHIN(a.account_id)),
owned AS (
    SELECT l.account_id, sum(l.remaining) AS remaining, sum(l.reserved) AS reserved
      FROM lot l WHERE WITHIN(l.account_id) AND l.open GROUP BY l.account_id),
holding AS (
    SELECT h.account_id, count(*) AS holds
      FROM hold h WHERE WITHIN(h.account_id) AND h.resolved_at IS NULL GROUP BY h.account_id),
judged AS (
    SELECT a.*, coalesce(l.remaining, 0) AS remaining, coalesce(l.reserved, 0) AS reserved,
           coalesce(h.holds, 0) AS holds, CASE
        WHEN a.kind NOT IN ('member', 'pool') THEN
             CASE WHEN l.account_id IS NOT NULL THEN 'lots_of_nobody'
                  WHEN a.open_holds <> coalesce(h.holds, 0) THEN 'open_holds_differ' END
        WHEN coalesce(l.remaining, 0) <> a.posted_cr - a.posted_dr THEN 'lots_differ_from_balance'
        WHEN coalesce(l.reserved, 0) <> a.pending_dr THEN 'reserved_differs_from_pending'
        WHEN a.open_holds <> coalesce(h.holds, 0) THEN 'open_holds_differ' END AS verdict
      FROM chosen a LEFT JOIN owned l USING (account_id) LEFT JOIN holding h USING (account_id))
SELECT verdict AS kind, format('account %s (%s %s of %s)', account_id, kind, name, program) AS subject,
       format('balance %s, set aside %s, open holds %s; in lots %s, reserved %s, holds %s', posted_cr - posted_dr,
              pending_dr, open_holds, remaining, reserved, holds) AS detail
  FROM judged WHERE verdict IS NOT NULL""",
)

# An account that was merged into another has nothing left and can have nothing more; what it became says the merge.
MERGES = Check(
    "accounts",
    ("merge_differs", "merged_account_not_empty"),
    """
WITH merged AS (
    SELECT a.*, m.merge_id, m.into_id, m.program AS merge_program
      FROM account a LEFT JOIN account_merge m ON m.from_id = a.account_id
     WHERE WITHIN(a.account_id) AND (a.merged_into IS NOT NULL OR m.from_id IS NOT NULL))
SELECT CASE WHEN a.merged_into IS DISTINCT FROM a.into_id OR a.merge_program <> a.program OR b.account_id IS NULL
            THEN 'merge_differs' ELSE 'merged_account_not_empty' END AS kind,
       format('account %s (%s %s of %s)', a.account_id, a.kind, a.name, a.program) AS subject,
       format('merged into %s, merge %s says %s; balance %s, pending %s and %s, owed %s', a.merged_into, a.merge_id,
              a.into_id, a.posted_cr - a.posted_dr, a.pending_dr, a.pending_cr, o.posted_dr - o.posted_cr) AS detail
  FROM merged a LEFT JOIN account o ON o.account_id = a.arrears_id
  LEFT JOIN account b ON (b.account_id, b.program, b.kind) = (a.into_id, a.program, 'member')
 WHERE a.merged_into IS DISTINCT FROM a.into_id OR a.merge_program <> a.program OR b.account_id IS NULL
    OR a.posted_cr <> a.posted_dr OR a.pending_dr <> 0 OR a.pending_cr <> 0 OR a.open_holds <> 0
    OR coalesce(o.posted_dr - o.posted_cr, 0) <> 0""",
)

# Pools are accounts named so, and only members of the same programme act for them.
POOLS = Check(
    "accounts",
    ("wrong_pool", "wrong_pool_member"),
    """
SELECT 'wrong_pool' AS kind, format('account %s (%s %s of %s)', a.account_id, a.kind, a.name, a.program) AS subject,
       'pools are named pool:…, and nothing else is' AS detail
  FROM account a
 WHERE WITHIN(a.account_id) AND a.kind IN ('member', 'pool', 'arrears') AND (a.kind = 'pool') <> (a.name LIKE 'pool:%')
UNION ALL
SELECT 'wrong_pool_member', format('member %s of pool %s since %s', p.member_id, p.pool_id, p.since),
       format('%s of %s acts for %s %s of %s', m.name, m.program, a.kind, a.name, a.program)
  FROM pool_member p LEFT JOIN account a ON a.account_id = p.pool_id LEFT JOIN account m ON m.account_id = p.member_id
 WHERE WITHIN(p.member_id)
   AND ((a.kind, m.kind) IS DISTINCT FROM ('pool', 'member') OR a.program <> m.program OR p.until < p.since)""",
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

CHECKS = (COUNTERS, HOLDINGS, MERGES, POOLS, CONSERVATION)
