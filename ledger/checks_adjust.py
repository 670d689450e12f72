"""What `verify` looks for in adjustments and imports: each posted as proposed and approved, and checked by another."""

from __future__ import annotations

from ledger.checks import Check

_SAME_PERSON = "lower(btrim(normalize({0}.checker, NFKC))) = lower(btrim(normalize({0}.maker, NFKC)))"
_UNCHECKED = f"""({{0}}.verdict = 'approved' AND {{0}}.checker IS NULL AND abs({{0}}.points) > {{0}}.limit_points
            OR {{0}}.checker IS NOT NULL AND {_SAME_PERSON})"""

# The transaction posts to the account that was named: by its name, as `legs` says, or as one that it was merged into.
_LEGS = """legs AS (
    SELECT e.txn_id, bool_or(p.name = n.account) AS named
      FROM {0} n JOIN entry e USING (txn_id) JOIN account p USING (account_id)
     WHERE p.kind IN ('member', 'arrears') GROUP BY e.txn_id)"""
_POSTS_ELSEWHERE = """CASE WHEN g.named THEN false ELSE NOT EXISTS (
            WITH RECURSIVE became AS (
                SELECT m.account_id, m.merged_into, m.name FROM account m
                 WHERE m.program = {0}.program AND m.kind = 'member' AND m.name = {0}.account
                UNION ALL
                SELECT m.account_id, m.merged_into, m.name FROM became b JOIN account m ON m.account_id = b.merged_into)
            SELECT FROM entry e JOIN account p USING (account_id) JOIN became b ON b.name = p.name
             WHERE e.txn_id = {0}.txn_id AND p.kind IN ('member', 'arrears')) END"""

ADJUSTMENTS = Check(
    "ids",
    ("adjustment_without_transaction", "adjustment_differs", "adjustment_unchecked"),
    f"""
WITH own AS (SELECT * FROM txn t WHERE WITHIN(t.txn_id) AND t.source = 'pointguard:adjustment'),
approved AS (SELECT * FROM adjustment a WHERE WITHIN(a.txn_id)),
{_LEGS.format("approved")},
judged AS (
    SELECT a.adjustment_id, coalesce(a.txn_id, t.txn_id) AS txn_id, a.program, a.account, a.points, a.verdict, a.maker,
           a.checker, a.limit_points, t.amount, t.event_id, l.expires_at, CASE
        WHEN t.txn_id IS NULL THEN 'adjustment_without_transaction'
        WHEN a.adjustment_id IS NULL OR a.verdict IS DISTINCT FROM 'approved' OR t.event_id <> a.adjustment_id::text
             OR (t.program, t.kind, t.amount, t.pending) <> (a.program, 'adjust', a.points, false)
             OR a.expires_at IS NOT NULL AND l.expires_at IS DISTINCT FROM a.expires_at
             OR {_POSTS_ELSEWHERE.format("a")}
        THEN 'adjustment_differs'
        WHEN {_UNCHECKED.format("a")} THEN 'adjustment_unchecked' END AS kind
      FROM approved a FULL JOIN own t USING (txn_id) LEFT JOIN lot l ON l.lot_id = t.txn_id
      LEFT JOIN legs g ON g.txn_id = t.txn_id)
SELECT kind, format('adjustment %s', coalesce(adjustment_id::text, event_id)) AS subject,
       format('%s of %s to %s, %s, made by %s, checked by %s, limit %s; transaction %s of %s', points, program, account,
              verdict, maker, checker, limit_points, txn_id, amount) AS detail
  FROM judged WHERE kind IS NOT NULL""",  # noqa: S608 -- made of this module's constants only
)

IMPORTS = Check(
    "ids",
    ("import_differs",),
    f"""
WITH own AS (
    SELECT t.*, split_part(place, '/', 1)::bigint AS job_id, split_part(place, '/', 2)::integer AS line
      FROM (SELECT t.*, CASE WHEN event_id ~ '^[0-9]{{1,18}}/[0-9]{{1,9}}$' THEN event_id ELSE '0/0' END AS place
              FROM txn t WHERE WITHIN(t.txn_id) AND t.source = 'pointguard:import') t),
named AS (
    SELECT t.*, w.account, w.points, w.expires_at AS wanted, j.kind AS job_kind, j.verdict, j.program AS job_program,
           r.txn_id AS result
      FROM own t
      LEFT JOIN import_result r ON (r.job_id, r.line) = (t.job_id, t.line)
      LEFT JOIN import_row w ON (w.job_id, w.line) = (t.job_id, t.line)
      LEFT JOIN import_job j ON j.job_id = t.job_id),
{_LEGS.format("named")}
SELECT 'import_differs' AS kind, format('transaction %s', n.txn_id) AS subject,
       format('row %s: %s of %s to %s; transaction of %s; job %s, result names transaction %s', n.event_id, n.points,
              n.job_program, n.account, n.amount, n.verdict, n.result) AS detail
  FROM named n LEFT JOIN lot l ON l.lot_id = n.txn_id LEFT JOIN legs g ON g.txn_id = n.txn_id
 WHERE n.result IS DISTINCT FROM n.txn_id OR n.verdict IS DISTINCT FROM 'approved'
    OR (n.program, n.kind, n.amount, n.pending) IS DISTINCT FROM
       (n.job_program, 'adjust', CASE n.job_kind WHEN 'debit' THEN -n.points ELSE n.points END, false)
    OR n.wanted IS NOT NULL AND l.expires_at IS DISTINCT FROM n.wanted
       AND NOT (l.expires_at IS NULL AND n.wanted = '9999-01-01T00:00Z')
    OR {_POSTS_ELSEWHERE.format("n")}""",  # noqa: S608 -- made of this module's constants only
)

# Jobs and their rows: counted when they were sealed, each row with at most one result, a finished job with all of them.
JOBS = Check(
    "once",
    ("import_unchecked", "import_rows_differ", "import_incomplete"),
    f"""
WITH counted AS (
    SELECT j.*, w.lines, w.total, r.results
      FROM import_job j
      LEFT JOIN LATERAL (SELECT count(*) AS lines, coalesce(sum(w.points), 0) AS total FROM import_row w
                          WHERE w.job_id = j.job_id) w ON true
      LEFT JOIN LATERAL (SELECT count(*) AS results FROM import_result r WHERE r.job_id = j.job_id) r ON true)
SELECT CASE WHEN {_UNCHECKED.format("j")} THEN 'import_unchecked'
            WHEN (j.line_count, j.points) IS DISTINCT FROM (j.lines, j.total) THEN 'import_rows_differ'
            ELSE 'import_incomplete' END AS kind,
       format('import %s', j.job_id) AS subject,
       format('%s rows and %s points sealed, %s and %s there, %s results; %s, finished %s; made by %s, checked by %s, '
              'limit %s', j.line_count, j.points, j.lines, j.total, j.results, j.verdict, j.finished_at, j.maker,
              j.checker, j.limit_points) AS detail
  FROM counted j
 WHERE {_UNCHECKED.format("j")}
    OR (j.line_count, j.points) IS DISTINCT FROM (j.lines, j.total)
    OR j.finished_at IS NOT NULL AND j.results <> j.lines
    OR j.verdict IS DISTINCT FROM 'approved' AND j.results > 0""",  # noqa: S608 -- made of this module's constants only
)

RESULTS = Check(
    "once",
    ("import_without_row", "import_without_transaction", "external_id_differs"),
    """
SELECT CASE WHEN w.line IS NULL THEN 'import_without_row' ELSE 'import_without_transaction' END AS kind,
       format('import %s row %s', r.job_id, r.line) AS subject, format('%s, transaction %s', r.code, r.txn_id) AS detail
  FROM import_result r LEFT JOIN import_row w USING (job_id, line)
  LEFT JOIN txn t ON t.txn_id = r.txn_id AND t.source = 'pointguard:import'
                 AND t.event_id = format('%s/%s', r.job_id, r.line)
 WHERE w.line IS NULL OR (r.txn_id IS NOT NULL AND t.txn_id IS NULL)
UNION ALL
SELECT 'external_id_differs', format('import %s row %s', w.job_id, w.line),
       format('row says %s, result %s; imported under %s', w.external_id, r.code, x.external_id)
  FROM import_row w JOIN import_result r USING (job_id, line) FULL JOIN import_external x USING (job_id, line)
 WHERE (r.txn_id IS NOT NULL AND w.external_id IS DISTINCT FROM x.external_id)
    OR (r.txn_id IS NULL AND x.external_id IS NOT NULL)""",
)

# Who approved or rejected what stands in columns that the chain does not cover, as they are written later than the row,
# and in the link of the act itself. What was decided before there was a chain has no such link. All is compared as
# text, so that no tampering can break the verification off.
VERDICTS = Check(
    "once",
    ("adjustment_verdict_differs", "import_verdict_differs"),
    """
WITH begun AS (SELECT coalesce(max(last_id), 0) AS last_id FROM audit_link WHERE chain = 'act:chain'),
act AS (
    SELECT l.chain, l.said ->> 'act' AS what, l.said ->> 'actor' AS actor, l.said -> 'detail' AS detail
      FROM (SELECT chain, CASE WHEN entry IS JSON OBJECT THEN entry::json END AS said FROM audit_link
             WHERE chain IN ('act:adjustment', 'act:import')) l),
told AS (
    SELECT one ->> 0 AS adjustment_id, one ->> 3 AS txn_id, what, actor
      FROM act CROSS JOIN LATERAL json_array_elements(CASE
           WHEN chain = 'act:adjustment' AND json_typeof(detail -> 'adjustments') = 'array'
           THEN detail -> 'adjustments' END) one
     WHERE json_typeof(one) = 'array')
SELECT 'adjustment_verdict_differs' AS kind, format('adjustment %s', a.adjustment_id) AS subject,
       format('%s, made by %s, checked by %s, transaction %s; no act says so', a.verdict, a.maker, a.checker, a.txn_id)
           AS detail
  FROM adjustment a JOIN begun ON a.adjustment_id > begun.last_id
 WHERE a.verdict IS NOT NULL AND NOT EXISTS (
    SELECT FROM told t
     WHERE t.adjustment_id = a.adjustment_id::text
       AND t.what = CASE WHEN a.verdict = 'rejected' THEN 'adjustment.rejected'
                         WHEN a.checker IS NULL THEN 'adjustment.proposed' ELSE 'adjustment.approved' END
       AND (a.verdict = 'rejected' OR t.txn_id = a.txn_id::text)
       AND (t.actor = a.checker OR a.checker IS NULL))
UNION ALL
SELECT 'import_verdict_differs', format('import %s', j.job_id),
       format('%s, made by %s, checked by %s; no act says so', j.verdict, j.maker, j.checker)
  FROM import_job j JOIN begun ON j.job_id > begun.last_id
 WHERE j.verdict IS NOT NULL AND NOT EXISTS (
    SELECT FROM act
     WHERE act.chain = 'act:import' AND act.what = 'import.' || j.verdict AND act.detail ->> 'job' = j.job_id::text
       AND act.detail ->> 'checker' IS NOT DISTINCT FROM j.checker)""",
)

CHECKS_ADJUST: tuple[Check, ...] = (ADJUSTMENTS, IMPORTS, JOBS, RESULTS, VERDICTS)
