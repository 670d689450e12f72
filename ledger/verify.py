"""Proves the ledger: replays every entry and lot and compares it with every counter, hold, decision and audit link.

Nothing of the ledger is repaired or changed. All of it is read in one REPEATABLE READ transaction, so it may run beside
live workers: it judges one moment. A run that finds nothing marks how far it came (`ledger.verify_marks`), and an
incremental one looks only at what was written since then, and at what that touched.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ledger import chain_verify, checks, checks_accounts, checks_adjust, checks_lots, checks_reversals, verify_marks
from ledger.anchors import Told, said_of
from ledger.chain import Fault
from ledger.checks import Check, Domain
from ledger.verify_marks import Marks, Sums
from ledger.verify_scope import STEPS, Part, Scope

Progress = Callable[[str, int, int], None]

CHECKS: tuple[Check, ...] = (
    *checks.CHECKS,
    *checks_lots.CHECKS,
    *checks_reversals.CHECKS,
    *checks_adjust.CHECKS_ADJUST,
    *checks_accounts.CHECKS,
)
"""Every check there is, apart from control accounts and the audit chain."""

KINDS = frozenset({kind for check in CHECKS for kind in check.kinds} | {"control_differs"} | set(chain_verify.KINDS))
"""Everything that a verification may find, by name."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One thing that is not as it must be; `kind` is its name in `KINDS`."""

    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found: `totals` counts every discrepancy, of which the first of each kind are told.

    `checked` counts transactions, entries, accounts and more. An incremental run (not `whole`) tells what it did not
    look at: `unseen` counts what clean runs had looked at until `since`. `anchors` were compared, and `marked` says
    whether the next incremental run may go on from here.
    """

    checked: Mapping[str, int]
    totals: Mapping[str, int]
    discrepancies: tuple[Discrepancy, ...]
    whole: bool = True
    since: datetime | None = None
    unseen: Mapping[str, int] = field(default_factory=dict)
    anchors: int = 0
    marked: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return not self.totals


# The first rows of each kind, with how many there are in all.
_FIRST = """
SELECT kind, subject, detail, total FROM (
    SELECT found.*, count(*) OVER (PARTITION BY kind) AS total,
           row_number() OVER (PARTITION BY kind ORDER BY subject) AS n FROM ({check}) found) numbered
 WHERE n <= :most ORDER BY kind, n"""

_RUNS = "unnest(CAST(:lows AS bigint[]), CAST(:highs AS bigint[])) r(low, high)"
_COUNTED = {
    "transactions": ("txn", "txn_id"),
    "entries": ("entry", "txn_id"),
    "lots": ("lot", "lot_id"),
    "holds": ("hold", "hold_id"),
    "resolutions": ("hold_resolution", "decision_id"),
    "reversals": ("reversal", "reversal_id"),
    "decisions": ("decision", "decision_id"),
}
_COUNT = "(SELECT count(*) FROM {runs} JOIN {table} t ON t.{key} > r.low AND t.{key} <= r.high) AS {name}"
_COUNTS = text(
    "SELECT "
    + ", ".join(_COUNT.format(runs=_RUNS, table=table, key=key, name=name) for name, (table, key) in _COUNTED.items())
)
_COUNT_ALL = text("SELECT (SELECT count(*) FROM account) AS accounts, (SELECT count(*) FROM event_inbox) AS events")
_CONTROL_SUMS = text(checks.CONTROL_SUMS)
_LOTS_SINCE = text("SELECT coalesce(max(first_id), 0) FROM lots_since")

_CONTROLS = text("""
SELECT a.account_id, a.kind, a.program, a.name, a.posted_dr + coalesce(sum(d.posted_dr), 0),
       a.posted_cr + coalesce(sum(d.posted_cr), 0), a.pending_dr + coalesce(sum(d.pending_dr), 0),
       a.pending_cr + coalesce(sum(d.pending_cr), 0)
  FROM account a LEFT JOIN control_delta d USING (account_id)
 WHERE a.kind IN ('control', 'store') GROUP BY a.account_id ORDER BY a.account_id""")


def verify(
    engine: Engine,
    progress: Progress | None = None,
    limit: int = 20,
    *,
    incremental: bool = False,
    anchors: Told | None = None,
) -> Report:
    """Check the ledger and report; `limit` discrepancies of each kind are told, all are counted.

    `incremental` looks at what came after the last clean run, or at all when there was none. `anchors` are compared
    with the chains. `progress(stage, done, total)` is called as it goes on, stage being `chain` or a domain of checks.
    """
    with engine.execution_options(isolation_level="REPEATABLE READ").connect() as conn, conn.begin():
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL work_mem = '64MB'"))
        return examine(conn, progress, limit, incremental=incremental, anchors=anchors)


def examine(
    conn: Connection,
    progress: Progress | None = None,
    limit: int = 20,
    *,
    incremental: bool = False,
    anchors: Told | None = None,
) -> Report:
    """Do the same in a transaction of the caller's, which sees one moment; marks become part of it."""
    marks = verify_marks.last(conn) if incremental else Marks()
    run = _Verification(conn, marks, progress or (lambda _stage, _done, _total: None), limit)
    return run.run(anchors or Told((), ()))


class _Verification:
    def __init__(self, conn: Connection, since: Marks, progress: Progress, limit: int) -> None:
        self._conn, self._since, self._progress, self._limit = conn, since, progress, limit
        self._whole = since.at is None
        self._totals: Counter[str] = Counter()
        self._found: dict[str, list[Discrepancy]] = {}
        self._sums: dict[int, Sums] = {account: list(sums) for account, sums in since.controls.items()}

    def run(self, anchors: Told) -> Report:
        for fault in anchors.faults:
            self._fault(fault)
        walked = chain_verify.walk(self._conn, self._fault, self._since.heads, said_of(anchors.anchors))
        every = chain_verify.all_ids(self._conn)
        spans = every if self._whole else chain_verify.new_ids(self._conn, walked, self._since.highest)
        self._check_chain(spans)
        scope = Scope(self._conn, spans, walked.logs, whole=self._whole)
        lots_since = self._conn.execute(_LOTS_SINCE).scalar_one() if self._whole else 0
        for domain in STEPS:
            self._check_domain(domain, scope, lots_since)
        runs = spans if self._whole else walked.runs
        self._check_controls(runs)
        checked = {**self._counts(scope, runs), "links": walked.links}
        heads = {head.chain: head for head in walked.heads}
        marks = Marks(highest=every[-1][1] if every else 0, heads=heads, controls=self._sums)
        return Report(
            checked,
            dict(self._totals),
            tuple(item for kind in sorted(self._found) for item in self._found[kind]),
            self._whole,
            self._since.at,
            dict(self._since.checked),
            len(anchors.anchors),
            not self._totals and self._mark(marks, checked, scope),
        )

    def _check_chain(self, spans: tuple[chain_verify.Span, ...]) -> None:
        total, reached = sum(high - low for low, high in spans), 0

        def done(ids: int) -> None:
            nonlocal reached
            reached += ids
            self._progress("chain", reached, total)

        chain_verify.check_rows(self._conn, self._fault, spans, self._since.heads, done)

    def _check_domain(self, domain: Domain, scope: Scope, lots_since: int) -> None:
        asked = [check for check in CHECKS if check.domain == domain]
        if not scope.whole:
            since = checks_accounts.COUNTERS_SINCE
            asked = [since if check is checks_accounts.COUNTERS else check for check in asked]
        parts = list(scope.parts(domain))
        total, done = sum(part.size for part in parts), 0
        for part in parts:
            for check in asked:
                self._run(check, part, lots_since)
            done += part.size
            self._progress(domain, done, total)

    def _run(self, check: Check, part: Part, lots_since: int) -> None:
        statement = text(_FIRST.format(check=check.over(listed=part.listed)))
        given = {**part.where, "most": self._limit, "lots_since": lots_since}
        named = {name: value for name, value in given.items() if name in statement.compile().params}
        rows = self._conn.execute(statement, named).all()
        for kind, total in {row.kind: row.total for row in rows}.items():
            self._totals[kind] += total
        for row in rows:
            self._tell(Discrepancy(row.kind, row.subject, row.detail))

    def _fault(self, fault: Fault) -> None:
        self._totals[fault.kind] += 1
        self._tell(Discrepancy(*fault))

    def _tell(self, discrepancy: Discrepancy) -> None:
        told = self._found.setdefault(discrepancy.kind, [])
        if len(told) < self._limit:
            told.append(discrepancy)

    def _check_controls(self, runs: tuple[chain_verify.Span, ...]) -> None:
        """Compare control and store accounts with their entries; what these ranges of ids hold is added to the sums."""
        for low, high in runs:
            for account_id, *counters in self._conn.execute(_CONTROL_SUMS, {"low": low, "high": high}):
                sums = self._sums.setdefault(account_id, [0, 0, 0, 0])
                self._sums[account_id] = [have + int(more) for have, more in zip(sums, counters, strict=True)]
        for account_id, kind, program, name, *values in self._conn.execute(_CONTROLS):
            counters, replayed = [int(value) for value in values], self._sums.get(account_id, [0, 0, 0, 0])
            if counters != replayed:
                self._totals["control_differs"] += 1
                subject = f"account {account_id} ({kind} {name} of {program})"
                detail = f"row and deltas say {counters}, the entries {replayed} (posted dr, cr, pending dr, cr)"
                self._tell(Discrepancy("control_differs", subject, detail))

    def _counts(self, scope: Scope, runs: tuple[chain_verify.Span, ...]) -> dict[str, int]:
        bounds = {"lows": [low for low, _ in runs], "highs": [high for _, high in runs]}
        counted = {
            str(name): int(count) for name, count in self._conn.execute(_COUNTS, bounds).mappings().one().items()
        }
        if scope.accounts is None:
            every = self._conn.execute(_COUNT_ALL).one()
            return counted | {"accounts": every.accounts, "events": every.events}
        return counted | {"accounts": len(scope.accounts), "events": sum(part.size for part in scope.parts("offsets"))}

    def _mark(self, marks: Marks, checked: Mapping[str, int], scope: Scope) -> bool:
        """Keep how far this clean run came; False where that can't be: on a standby, or beside another run."""
        if not verify_marks.may_mark(self._conn):
            return False
        before = self._since.checked
        total = {name: count + before.get(name, 0) for name, count in checked.items()}
        total["accounts"] = before.get("accounts", checked["accounts"])  # the same ones come again and again
        try:
            with self._conn.begin_nested():
                verify_marks.mark(self._conn, marks, json.dumps(total), scope.accounts)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "40001":
                raise
            return False
        return True
