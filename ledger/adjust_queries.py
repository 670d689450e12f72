"""What people read of adjustments and imports: lists page by page, and what became of every row of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, select, text

from ledger.import_posting import REASONS, WAITING
from ledger.imports import Job
from ledger.schema_adjust import adjustment

State = Literal["waiting", "approved", "rejected"]
PAGE = 10_000


@dataclass(frozen=True, slots=True)
class AdjustmentFilter:
    """Which adjustments to list; None filters nothing."""

    program: str | None = None
    account: str | None = None
    state: State | None = None


@dataclass(frozen=True, slots=True)
class AdjustmentView:
    """An adjustment as it stands; `checker` is None where none was needed, or its maker withdrew it."""

    adjustment_id: int
    program: str
    account: str
    points: int
    reason_code: str
    reason: str
    expires_at: datetime | None
    reference: str | None
    maker: str
    made_at: datetime
    limit_points: int
    verdict: str | None
    checker: str | None
    checked_at: datetime | None
    check_reason: str | None
    txn_id: int | None

    @property
    def state(self) -> State:
        """Where it is."""
        return "waiting" if self.verdict is None else "approved" if self.verdict == "approved" else "rejected"


def list_adjustments(
    conn: Connection, wanted: AdjustmentFilter | None = None, after: int = 0, limit: int = 100
) -> list[AdjustmentView]:
    """List adjustments, the oldest first; for the next page give the last one's id as `after`."""
    wanted = wanted or AdjustmentFilter()
    found = (
        select(adjustment).where(adjustment.c.adjustment_id > after).order_by(adjustment.c.adjustment_id).limit(limit)
    )
    if wanted.program is not None:
        found = found.where(adjustment.c.program == wanted.program)
    if wanted.account is not None:
        found = found.where(adjustment.c.account == wanted.account)
    if wanted.state == "waiting":
        found = found.where(adjustment.c.verdict.is_(None))
    elif wanted.state is not None:
        found = found.where(adjustment.c.verdict == wanted.state)
    return [_view(row) for row in conn.execute(found)]


def _view(row: Row[Any]) -> AdjustmentView:
    return AdjustmentView(**{name: row._mapping[name] for name in AdjustmentView.__slots__})  # noqa: SLF001 -- SQLAlchemy's public name


class RowView(NamedTuple):
    """What became of a row of a file, and why in words."""

    line: int
    account: str
    points: int | None
    external_id: str | None
    code: str
    reason: str
    txn_id: int | None


_ROWS = text("""
SELECT w.line, w.account, w.points, w.external_id, coalesce(r.code, :waiting) AS code, w.problem, r.txn_id,
       x.job_id AS before_job, x.line AS before_line
  FROM import_row w
  LEFT JOIN import_result r ON (r.job_id, r.line) = (w.job_id, w.line)
  LEFT JOIN import_external x ON r.code IN ('imported_before', 'imported_differently')
        AND (x.program, x.system, x.external_id) = (:program, :system, w.external_id)
 WHERE w.job_id = :job_id AND w.line > :after ORDER BY w.line LIMIT :most""")

_COUNTS = text("""
SELECT coalesce(r.code, :waiting) AS code, count(*) AS rows, coalesce(sum(w.points), 0) AS points
  FROM import_row w LEFT JOIN import_result r ON (r.job_id, r.line) = (w.job_id, w.line)
 WHERE w.job_id = :job_id GROUP BY 1 ORDER BY 2 DESC, 1""")


def row_results(conn: Connection, job: Job) -> Iterator[RowView]:
    """What became of each row, in the order of the file, read page by page."""
    after = 0
    asked = {"job_id": job.job_id, "program": job.spec.program, "system": job.spec.system, "waiting": WAITING}
    while True:
        rows = conn.execute(_ROWS, {**asked, "after": after, "most": PAGE}).all()
        for row in rows:
            yield RowView(row.line, row.account, row.points, row.external_id, row.code, _reason(row), row.txn_id)
        if len(rows) < PAGE:
            return
        after = rows[-1].line


def result_counts(conn: Connection, job_id: int) -> list[tuple[str, int, int]]:
    """Rows and points of a job by what became of them, the most frequent first."""
    rows = conn.execute(_COUNTS, {"job_id": job_id, "waiting": WAITING})
    return [(row.code, row.rows, int(row.points)) for row in rows]


def _reason(row: Row[Any]) -> str:
    if row.problem is not None:
        return str(row.problem)
    said = REASONS.get(row.code, "refused by the ledger")
    return f"{said}: import {row.before_job}, row {row.before_line}" if row.before_job is not None else said
