"""Compares the ledger with another system's file, a million rows at a time.

The rows go into a temporary table, are compared there, and only what may differ comes back to be judged one by one
(`ledger.matching`). Nothing is posted here: what would make both sides agree is given as proposals of adjustments, for
the caller to hand to `ledger.adjustments.propose`. Each has a reference made of what it corrects, so that the same
difference, found again tomorrow, is not proposed again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from psycopg import Connection as DriverConnection
from sqlalchemy import Connection, Row, insert, text

from ledger.adjustments import REASON_MAX, Proposal
from ledger.chain_store import Act, record
from ledger.history import moment
from ledger.matching import Correction, Finding, Ours, Theirs, match_balance, match_event
from ledger.reconcile_rows import MOVING, BalanceRow, EventRow, Problem
from ledger.schema_reports import reconciliation_finding, reconciliation_run

Found = Literal["missing_here", "missing_there", "differing", "corrected", "repeated", "unreadable"]
COUNTED = ("matched", "missing_here", "missing_there", "differing", "corrected", "repeated", "unreadable")
"""The classes a run counts, in the order of its table."""

_CHUNK = 2000
_PROBLEMS_KEPT = 1000  # lines that cannot be read are all told, but of a file that is no such file not all are stored


CHAIN = "reconciliation"


class ReconcileError(Exception):
    """A file can't be reconciled as asked. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to reconcile: a file of a programme's events from `since_ms` up to `until_ms`, or of balances at `until_ms`.

    Times that are None are taken from the events' own. Events of the ledger that the file lacks are looked for among
    those of `sources` (None: the sources that the file names).
    """

    program: str
    file_name: str
    digest: bytes
    made_by: str
    since_ms: int | None = None
    until_ms: int | None = None
    sources: tuple[str, ...] | None = None


class Reported(NamedTuple):
    """A finding with both sides of it; `line` is that of the file. `proposed` are the corrections that are new."""

    number: int
    found: Found
    why: str
    source: str | None
    event_id: str | None
    line: int | None
    their_account: str | None
    their_points: int | None
    our_account: str | None
    our_points: int | None
    proposed: tuple[Correction, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A reconciliation that was made: what it counted, class by class, and the corrections it would propose."""

    run_id: int
    since_ms: int | None
    until_ms: int
    counts: dict[str, int]
    proposals: tuple[Proposal, ...] = field(repr=False)

    @property
    def agrees(self) -> bool:
        """Whether both sides say the same, corrections that were approved included."""
        return not any(self.counts[name] for name in ("missing_here", "missing_there", "differing", "unreadable"))


Tell = Callable[[Reported], None]

_EVENTS_TABLE = """
CREATE TEMPORARY TABLE theirs (line bigint, source text, event_id text, account text, points bigint, kind text,
                               at_ms bigint) ON COMMIT DROP"""
_BALANCES_TABLE = "CREATE TEMPORARY TABLE theirs (line bigint, account text, points bigint) ON COMMIT DROP"

# How an event stands here. A held one may have been held again for what a reversal left of it; what the reversal took
# out of the hold was its own event's, so that for this event it counts as posted.
_STANDING = """
  LEFT JOIN txn t ON t.txn_id = d.decision_id
  LEFT JOIN reversal v ON v.reversal_id = d.decision_id
  LEFT JOIN LATERAL (
    WITH RECURSIVE chain AS (
        SELECT h.hold_id FROM hold h WHERE h.hold_id = d.decision_id
        UNION ALL
        SELECT n.hold_id FROM chain c JOIN hold n ON n.replaces = c.hold_id)
    SELECT bool_or(h.resolved_at IS NULL) AS open, coalesce(sum(r.posted), 0)::bigint AS posted,
           (SELECT coalesce(sum(b.from_hold), 0)::bigint FROM reversal b WHERE b.original_txn = d.decision_id) AS taken
      FROM chain JOIN hold h USING (hold_id) LEFT JOIN hold_resolution r USING (hold_id)) h ON d.outcome = 'hold'
 CROSS JOIN LATERAL (
    SELECT CASE WHEN d.outcome = 'approve' THEN 'posted' WHEN d.outcome <> 'hold' THEN 'rejected'
                WHEN h.open THEN 'held' WHEN h.posted + h.taken > 0 THEN 'posted' ELSE 'voided' END AS state,
           CASE WHEN d.outcome = 'hold' THEN h.posted + h.taken
                WHEN d.outcome = 'approve' THEN coalesce(v.points, abs(t.amount), 0) ELSE 0 END AS posted) s"""

_OURS = """d.source AS our_source, d.event_id AS our_event_id, d.account AS our_account, d.type AS our_kind,
       coalesce(d.points, 0) AS our_points, s.state, s.posted AS our_posted"""

_COMPARED = text(f"""
WITH theirs_once AS (
    SELECT *, row_number() OVER (PARTITION BY source, event_id ORDER BY line) AS nth FROM theirs),
dead AS MATERIALIZED (SELECT DISTINCT source, event_id FROM dead_letter WHERE event_id IS NOT NULL)
SELECT f.*, {_OURS}, dead.event_id IS NOT NULL AS dead
  FROM theirs_once f
  LEFT JOIN decision d ON d.source = f.source AND d.event_id = f.event_id AND d.program = :program
   AND d.type = ANY(CAST(:kinds AS text[]))
  {_STANDING}
  LEFT JOIN dead ON d.decision_id IS NULL AND dead.source = f.source AND dead.event_id = f.event_id
 WHERE f.nth > 1 OR d.decision_id IS NULL OR f.account <> d.account OR s.state <> 'posted'
    OR s.posted <> abs(coalesce(d.points, 0)) OR d.type = 'reverse' OR f.kind <> d.type
    OR f.points <> CASE WHEN f.kind IS NULL AND d.type IN ('redeem', 'transfer') THEN -1 ELSE 1 END
                   * coalesce(d.points, 0)
 ORDER BY f.line""")  # noqa: S608 -- made of this module's constants only

_LACKING = text(f"""
SELECT {_OURS}
  FROM decision d {_STANDING}
 WHERE d.program = :program AND d.occurred_at >= to_timestamp(CAST(:since_ms AS bigint) / 1000.0)
   AND d.occurred_at < to_timestamp(CAST(:until_ms AS bigint) / 1000.0)
   AND d.type = ANY(CAST(:kinds AS text[])) AND d.source = ANY(CAST(:sources AS text[]))
   AND d.outcome IN ('approve', 'hold') AND s.state IN ('posted', 'held')
   AND NOT EXISTS (SELECT FROM theirs f WHERE f.source = d.source AND f.event_id = d.event_id)
 ORDER BY d.source, d.event_id""")  # noqa: S608 -- made of this module's constants only

# With what was corrected of an account by earlier runs, as of whatever moment: waiting, or approved since this moment.
_COMPARED_BALANCES = text("""
WITH theirs_once AS (SELECT *, row_number() OVER (PARTITION BY account ORDER BY line) AS nth FROM theirs),
later AS (
    SELECT e.account_id, sum(e.amount) AS points FROM txn t JOIN entry e USING (txn_id)
     WHERE t.program = :program AND t.recorded_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0)
       AND e.layer = 0 AND e.account_seq IS NOT NULL
     GROUP BY e.account_id),
ours AS (
    SELECT a.name, (a.posted_cr - a.posted_dr - coalesce(l.points, 0))::bigint AS points
      FROM account a LEFT JOIN later l USING (account_id)
     WHERE a.program = :program AND a.kind IN ('member', 'pool'))
SELECT f.line, f.account, f.points, f.nth, o.name AS our_account, o.points AS our_points, c.waiting, c.corrected
  FROM (SELECT * FROM theirs_once WHERE nth = 1) f FULL JOIN ours o ON o.name = f.account
 CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(c.verdict IS NULL), false) AS waiting,
           coalesce(sum(c.points) FILTER (WHERE c.verdict IS NOT NULL), 0)::bigint AS corrected
      FROM adjustment c
     WHERE c.program = :program AND c.account = coalesce(f.account, o.name) AND starts_with(c.reference, :balances)
       AND (c.verdict IS NULL OR (c.verdict = 'approved'
                                  AND c.checked_at > to_timestamp(CAST(:at_ms AS bigint) / 1000.0)))) c
 WHERE coalesce(f.points, 0) <> coalesce(o.points, 0)
UNION ALL
SELECT line, account, points, nth, NULL, NULL, false, 0 FROM theirs_once WHERE nth > 1
 ORDER BY line, our_account""")

_BALANCES = 'reconciliation ["balance", '
"""What every reference of a balance's correction begins with."""

_SPAN = text("SELECT min(at_ms), max(at_ms) FROM theirs")
_SOURCES = text("SELECT DISTINCT source FROM theirs")
_RUN_ID = text("SELECT nextval(pg_get_serial_sequence('reconciliation_run', 'run_id'))")
_KNOWN = text("""
SELECT reference, verdict FROM adjustment WHERE program = :program AND reference = ANY(CAST(:references AS text[]))""")


def reconcile_events(conn: Connection, job: Job, rows: Iterable[EventRow | Problem], tell: Tell) -> Run:
    """Compare a file of events with the decisions and postings of the same events; `tell` hears every finding.

    The caller commits. ReconcileError where nothing says of which period the file is.
    """
    session = _Session(conn, job, tell)
    session.copy(_EVENTS_TABLE, "source, event_id", rows)
    earliest, latest = conn.execute(_SPAN).one()
    since = earliest if job.since_ms is None else job.since_ms
    until = (None if latest is None else latest + 1) if job.until_ms is None else job.until_ms
    if since is None or until is None:
        raise ReconcileError("the file's rows have no times; give --since and --until, the period it is of")
    sources = list(conn.execute(_SOURCES).scalars()) if job.sources is None else list(job.sources)
    asked = {"program": job.program, "kinds": sorted(MOVING), "sources": sources, "since_ms": since, "until_ms": until}
    session.judge(conn.execute(_COMPARED, asked, execution_options={"yield_per": _CHUNK}), _compared_event)
    session.judge(conn.execute(_LACKING, asked, execution_options={"yield_per": _CHUNK}), _lacking_event)
    return session.end("events", since, until)


def reconcile_balances(conn: Connection, job: Job, rows: Iterable[BalanceRow | Problem], at_ms: int, tell: Tell) -> Run:
    """Compare a file of balances with the posted points of every account as of `at_ms`; `tell` hears every finding."""
    session = _Session(conn, job, tell)
    session.copy(_BALANCES_TABLE, "account", rows)
    asked = {"program": job.program, "at_ms": at_ms, "balances": _BALANCES}
    found = conn.execute(_COMPARED_BALANCES, asked, execution_options={"yield_per": _CHUNK})
    session.judge(found, lambda row: _compared_balance(row, at_ms))
    return session.end("balances", None, at_ms)


class _Judged(NamedTuple):
    """A finding, with what identifies the thing that differs, and both sides of it."""

    finding: Finding
    key: tuple[str, ...]
    source: str | None
    event_id: str | None
    line: int | None
    their_account: str | None
    their_points: int | None
    our_account: str | None
    our_points: int | None
    standing: str | None = ""
    """What was decided of corrections that another run proposed of the same (None: nothing yet); empty: none is."""


class _Session:
    """One run: counts, keeps and tells what is found."""

    def __init__(self, conn: Connection, job: Job, tell: Tell) -> None:
        self._conn = conn
        self._job = job
        self._tell = tell
        self._run_id: int = conn.execute(_RUN_ID).scalar_one()
        self._counts: Counter[str] = Counter()
        self._number = 0
        self._read = 0
        self._judged = 0
        self._proposals: list[Proposal] = []

    def copy(self, table: str, key: str, rows: Iterable[EventRow | BalanceRow | Problem]) -> None:
        """Copy the rows that can be read into a temporary table `theirs`; report the others."""
        self._conn.exec_driver_sql(table)
        problems: list[Reported] = []
        driver = self._conn.connection.driver_connection
        if not isinstance(driver, DriverConnection):
            raise TypeError(f"copying needs psycopg 3 (URL postgresql+psycopg://…), not {type(driver)}")
        with driver.cursor() as cursor, cursor.copy("COPY theirs FROM STDIN") as copying:
            for row in rows:
                if isinstance(row, Problem):
                    problems += self._told(row, kept=len(problems) < _PROBLEMS_KEPT)
                else:
                    copying.write_row(row)
                    self._read += 1
        self._store(problems)
        self._conn.exec_driver_sql(f"CREATE INDEX ON theirs ({key})")
        self._conn.exec_driver_sql("ANALYZE theirs")

    def judge(self, rows: Any, judged: Callable[[Row[Any]], _Judged]) -> None:
        """Judge rows that may differ, chunk by chunk; what matches after all only counts."""
        for chunk in rows.partitions():
            found = [one for one in map(judged, chunk) if one.finding.found != "matched"]
            self._judged += sum(one.line is not None for one in found)
            verdicts = self._verdicts(found)
            self._keep([self._reported(one, verdicts) for one in found])

    def end(self, kind: str, since_ms: int | None, until_ms: int) -> Run:
        """Record the run with its counts."""
        self._counts["matched"] = self._read - self._judged
        counts = {name: self._counts[name] for name in COUNTED}
        row = {
            "run_id": self._run_id,
            "program": self._job.program,
            "kind": kind,
            "file_name": self._job.file_name,
            "digest": self._job.digest,
            "since": None if since_ms is None else moment(since_ms),
            "until": moment(until_ms),
            "made_by": self._job.made_by,
        }
        self._conn.execute(insert(reconciliation_run).values(row | counts))
        told = {"run": self._run_id, "program": self._job.program, "kind": kind, "digest": self._job.digest.hex()}
        record(self._conn, Act(CHAIN, self._job.made_by, "reconciliation.made", told | {"counts": counts}))
        return Run(self._run_id, since_ms, until_ms, counts, tuple(self._proposals))

    def _verdicts(self, found: Sequence[_Judged]) -> dict[str, str | None]:
        """What was decided of corrections proposed before; None: nothing yet."""
        wanted = [reference(one.key, part.account) for one in found for part in one.finding.corrections]
        rows = self._conn.execute(_KNOWN, {"program": self._job.program, "references": wanted}) if wanted else ()
        return {row.reference: row.verdict for row in rows}

    def _reported(self, one: _Judged, verdicts: dict[str, str | None]) -> Reported:
        finding = one.finding
        known = [reference(one.key, part.account) for part in finding.corrections]
        before = {verdicts[name] for name in known if name in verdicts} | ({one.standing} - {""})
        found: Found = finding.found if finding.found != "matched" else "differing"
        why = finding.why
        proposed: tuple[Correction, ...] = ()
        if one.standing == "approved" or (known and before == {"approved"} and all(name in verdicts for name in known)):
            found, why = "corrected", ", ".join(filter(None, (finding.found, why)))
        elif before:
            why = ", ".join(filter(None, (why, "rejected before" if "rejected" in before else "proposed before")))
        else:
            proposed = finding.corrections
        self._propose(one, finding, proposed)
        return Reported(self._next(), found, why, *one[2:9], proposed)

    def _propose(self, one: _Judged, finding: Finding, corrections: Iterable[Correction]) -> None:
        about = f"event {one.event_id} of {one.source}" if one.event_id is not None else "balance"
        said = ", ".join(filter(None, (finding.found.replace("_", " "), finding.why)))
        reason = f"{about}: {said} in {self._job.file_name} (reconciliation {self._run_id})"
        for part in corrections:
            self._proposals.append(
                Proposal(
                    self._job.program,
                    part.account,
                    part.points,
                    "reconciliation",
                    reason[:REASON_MAX],
                    self._job.made_by,
                    reference=reference(one.key, part.account),
                )
            )

    def _told(self, problem: Problem, *, kept: bool) -> list[Reported]:
        """Count and tell a line that cannot be read; itself if it is to be kept."""
        nothing = (None, None, problem.line, None, None, None, None)
        one = Reported(self._next(), "unreadable", problem.detail, *nothing, ())
        self._counts["unreadable"] += 1
        self._tell(one)
        return [one] if kept else []

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _keep(self, reported: Sequence[Reported]) -> None:
        """Count, tell and store findings."""
        for one in reported:
            self._counts[one.found] += 1
            self._tell(one)
        self._store(reported)

    def _store(self, reported: Sequence[Reported]) -> None:
        if reported:
            rows = [{"run_id": self._run_id} | one._asdict() for one in reported]
            self._conn.execute(insert(reconciliation_finding), [_without(row, "proposed") for row in rows])


def reference(key: Sequence[str], account: str) -> str:
    """The name by which the correction of a difference is known: the same tomorrow, and in another file."""
    return "reconciliation " + json.dumps([*key, account], ensure_ascii=False)


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column != name}


def _compared_event(row: Row[Any]) -> _Judged:
    theirs = Theirs(row.line, row.source, row.event_id, row.account, row.points, row.kind)
    key = ("event", row.source, row.event_id)
    sides = (row.source, row.event_id, row.line, row.account, row.points)
    if row.nth > 1:
        return _Judged(Finding("repeated", ""), key, *sides, None, None)
    ours = _ours(row)
    if ours is None and row.dead:
        ours = Ours(row.source, row.event_id, row.account, row.kind or "", row.points, "dead_letter", 0)
        return _Judged(match_event(theirs, ours), key, *sides, None, None)
    mine = (None, None) if ours is None else (ours.account, ours.points)
    return _Judged(match_event(theirs, ours), key, *sides, *mine)


def _lacking_event(row: Row[Any]) -> _Judged:
    ours = _ours(row)
    key = ("event", row.our_source, row.our_event_id)
    sides = (row.our_source, row.our_event_id, None, None, None)
    return _Judged(match_event(None, ours), key, *sides, row.our_account, row.our_points)


def _ours(row: Row[Any]) -> Ours | None:
    if row.our_event_id is None:
        return None
    ids = (row.our_source, row.our_event_id, row.our_account)
    return Ours(*ids, row.our_kind, row.our_points, row.state, row.our_posted)


def _compared_balance(row: Row[Any], at_ms: int) -> _Judged:
    name = row.account if row.account is not None else row.our_account
    key = ("balance", str(at_ms))
    sides = (None, None, row.line, row.account, row.points)
    if row.nth is not None and row.nth > 1:
        return _Judged(Finding("repeated", ""), key, *sides, None, None)
    finding = match_balance(name, row.points, row.our_points)
    standing: str | None = None if row.waiting else ""
    if row.corrected and not row.waiting:
        rest = match_balance(name, row.points, (row.our_points or 0) + row.corrected)
        finding, standing = (finding, "approved") if rest.found == "matched" else (rest, "")
    return _Judged(finding, key, *sides, row.our_account, row.our_points, standing)
