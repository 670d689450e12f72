"""Bulk imports: a file becomes a job with all its rows, is approved, and is then posted in batches.

The same file for the same purpose is the same job, so that a command that is given again goes on where it was, and a
row is never posted twice. Who must approve is enforced in the database (migration 0004): the job's sum, counted there,
above the programme's limit needs a checker who is not its maker.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from ledger.adjustments import REASON_CODES, REASON_MAX
from ledger.arrays import bigints, columns, integers, run, texts, timestamps
from ledger.chain_store import Act, NotedIds, record
from ledger.ids import IdBlocks
from ledger.import_cells import CellError, Kind, name_in
from ledger.import_parse import ImportRow
from ledger.programs import ledger_now
from ledger.terms import DEFAULT_TERMS

State = Literal["waiting", "rejected", "posting", "finished"]
STAGED_AT_ONCE = 5_000


class ImportJobError(Exception):
    """A job can't be made or checked as asked. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a maker wants imported: `digest` (of the file's content) and the four names before it make its identity.

    `system` is where opening balances, and external ids, come from; `label` tells two imports of one file apart.
    `options` are what else decides how its rows were read.
    """

    program: str
    kind: Kind
    system: str
    label: str
    digest: bytes
    file_name: str
    options: Mapping[str, str | bool | list[str]]
    reason_code: str
    reason: str
    maker: str

    @property
    def create(self) -> bool:
        """Whether members that are not known are opened."""
        return bool(self.options.get("create_members"))

    def canonical_options(self) -> str:
        """The options as they are stored."""
        return json.dumps(dict(self.options), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands: `lines` rows were staged, `points` is the sum of those without a problem, `done` are done."""

    job_id: int
    spec: JobSpec
    made_at: datetime
    limit_points: int
    lines: int
    points: int
    done: int
    verdict: str | None
    checker: str | None
    checked_at: datetime | None
    check_reason: str | None
    finished_at: datetime | None

    @property
    def state(self) -> State:
        """Where it is."""
        if self.verdict is None:
            return "waiting"
        if self.verdict == "rejected":
            return "rejected"
        return "posting" if self.finished_at is None else "finished"


_MAKE = text("""
INSERT INTO import_job (job_id, program, kind, system, label, digest, file_name, options, reason_code, reason, maker,
                        made_at, limit_points)
VALUES (:job_id, :program, :kind, :system, :label, :digest, :file_name, :options, :reason_code, :reason, :maker,
        to_timestamp(CAST(:now AS bigint) / 1000.0), 0)""")

_STAGE = """
INSERT INTO import_row (job_id, line, account, points, earned_at, expires_at, member_since, store, external_id, problem)
SELECT %(job)s, line, account, nullif(points, 0), nullif(earned_at, 'epoch'), nullif(expires_at, 'epoch'),
       nullif(member_since, 'epoch'), store, external_id, problem
  FROM unnest(%(lines)s, %(accounts)s, %(points)s, %(earned)s, %(expires)s, %(since)s, %(stores)s, %(externals)s,
              %(problems)s)
       AS w(line, account, points, earned_at, expires_at, member_since, store, external_id, problem)"""

_SEAL = text("""
UPDATE import_job SET staged_at = to_timestamp(CAST(:now AS bigint) / 1000.0) WHERE job_id = :job_id""")

_JOBS = """
SELECT j.*, (SELECT count(*) FROM import_result r WHERE r.job_id = j.job_id) AS done FROM import_job j"""
_JOB = text(_JOBS + " WHERE j.job_id = :job_id")
_SAME = text(
    _JOBS + " WHERE (j.program, j.kind, j.system, j.label, j.digest) = (:program, :kind, :system, :label, :digest)"
)
_LIST = text(
    _JOBS
    + """ WHERE (CAST(:program AS text) IS NULL OR j.program = :program) AND j.job_id < :before
 ORDER BY j.job_id DESC LIMIT :most"""
)

_LOCK = text("""
SELECT verdict, program, lower(btrim(normalize(maker, NFKC))) = lower(btrim(normalize(CAST(:checker AS text), NFKC)))
       AS own
  FROM import_job WHERE job_id = :job_id FOR UPDATE""")

_ALONE = text("""
SELECT greatest(coalesce((p.terms ->> 'adjust_limit')::bigint, :usual) - coalesce((
           SELECT sum(j.points) FROM import_job j
            WHERE j.program = p.program AND j.verdict = 'approved' AND j.checker IS NULL
              AND lower(btrim(normalize(j.maker, NFKC))) = lower(btrim(normalize(CAST(:maker AS text), NFKC)))
              AND j.checked_at > to_timestamp(CAST(:now AS bigint) / 1000.0) - interval '24 hours'), 0), 0)::bigint
  FROM program p WHERE p.program = :program""")

_CHECK = text("""
UPDATE import_job
   SET verdict = :verdict, checker = :checker, check_reason = :reason,
       checked_at = to_timestamp(CAST(:now AS bigint) / 1000.0)
 WHERE job_id = :job_id""")


def stage(conn: Connection, ids: IdBlocks, spec: JobSpec, rows: Iterable[ImportRow]) -> Job:
    """Make the job with all its rows, to be approved. Ends with a link of the audit chain; the caller commits.

    IntegrityError when somebody made the same job meanwhile: ask `find_job` first, and again then.
    """
    check_spec(spec)
    noted = NotedIds(ids)
    job_id = noted.take(conn, 1)[0]
    now = ledger_now(conn, [spec.program])[spec.program]
    named = {"job_id": job_id, "now": now}
    made = {
        name: getattr(spec, name)
        for name in ("program", "kind", "system", "label", "digest", "file_name", "reason_code", "reason", "maker")
    }
    conn.execute(_MAKE, {**made, **named, "options": spec.canonical_options()})
    remaining = iter(rows)
    while some := list(islice(remaining, STAGED_AT_ONCE)):
        _stage(conn, job_id, some)
    conn.execute(_SEAL, named)
    job = find_job_by_id(conn, job_id)
    detail = {
        "job": job_id,
        "program": spec.program,
        "kind": spec.kind,
        "system": spec.system,
        "digest": spec.digest.hex(),
        "lines": job.lines,
        "points": job.points,
    }
    record(conn, Act("import", spec.maker, "import.proposed", detail), noted.taken)
    return job


def check_spec(spec: JobSpec) -> None:
    """ImportJobError for what no job can be."""
    needed = [("maker", spec.maker)] + [
        (what, value) for what, value in (("system", spec.system), ("label", spec.label)) if value
    ]
    for what, value in needed:
        try:
            name_in(value, what)
        except CellError as error:
            raise ImportJobError(f"{what} {error}") from error
    if spec.kind == "opening" and not spec.system:
        raise ImportJobError("opening balances need the name of the system they come from; give --system NAME")
    if spec.reason_code not in REASON_CODES:
        raise ImportJobError(f"reason code {spec.reason_code!r} is unknown; take one of {', '.join(REASON_CODES)}")
    if not 1 <= len(spec.reason.strip()) <= REASON_MAX:
        raise ImportJobError(f"an import needs a reason of 1 to {REASON_MAX} characters; write it")


def find_job(conn: Connection, spec: JobSpec) -> Job | None:
    """The job that this file for this purpose is already. ImportJobError if it was read or meant otherwise then."""
    row = conn.execute(
        _SAME,
        {
            "program": spec.program,
            "kind": spec.kind,
            "system": spec.system,
            "label": spec.label,
            "digest": spec.digest,
        },
    ).one_or_none()
    if row is None:
        return None
    job = _job(row)
    for name, then, now in (
        ("options", job.spec.canonical_options(), spec.canonical_options()),
        ("reason code", job.spec.reason_code, spec.reason_code),
    ):
        if then != now:
            raise ImportJobError(
                f"this file is import {job.job_id} already, with other {name} ({then}, not {now});"
                " give the same again, or a --label if it is to be imported once more"
            )
    return job


def find_job_by_id(conn: Connection, job_id: int) -> Job:
    """The job of that id. ImportJobError if there is none."""
    row = conn.execute(_JOB, {"job_id": job_id}).one_or_none()
    if row is None:
        raise ImportJobError(f"there is no import {job_id}; see `pointguard import list`")
    return _job(row)


def list_jobs(conn: Connection, program: str | None = None, before: int = 2**63 - 1, most: int = 20) -> list[Job]:
    """Jobs, the latest first; for the next page give the last one's id as `before`."""
    return [_job(row) for row in conn.execute(_LIST, {"program": program, "before": before, "most": most})]


def limit_left(conn: Connection, spec: JobSpec) -> int:
    """How many points this maker may import now without a checker."""
    now = ledger_now(conn, [spec.program])[spec.program]
    asked = {"program": spec.program, "maker": spec.maker, "now": now, "usual": DEFAULT_TERMS.adjust_limit}
    return int(conn.execute(_ALONE, asked).scalar_one())


def approve_job(conn: Connection, job_id: int, checker: str | None) -> bool:
    """Let a waiting job be posted; False where it needs a checker and has none. Ends with a link of the audit chain.

    ImportJobError for a checker who is the maker, and for a job that was rejected; one that was approved stays so.
    """
    if _checked_before(conn, job_id, checker, "approved"):
        return True
    try:
        with conn.begin_nested():
            _check(conn, job_id, "approved", checker, None)
    except IntegrityError as error:
        if _constraint(error) == "import_job_limit_check":
            return False
        raise
    return True


def reject_job(conn: Connection, job_id: int, checker: str, reason: str) -> None:
    """Reject a waiting job; its maker may withdraw it so. Ends with a link of the audit chain."""
    if not 1 <= len(reason.strip()) <= REASON_MAX:
        raise ImportJobError(f"a rejection needs a reason of 1 to {REASON_MAX} characters; write it")
    if _checked_before(conn, job_id, checker, "rejected"):
        return
    _check(conn, job_id, "rejected", checker, reason)


def _checked_before(conn: Connection, job_id: int, checker: str | None, verdict: str) -> bool:
    """Lock the job; whether it has that verdict. ImportJobError if it has the other, or its maker checks it."""
    if checker is not None:
        try:
            name_in(checker, "checker")
        except CellError as error:
            raise ImportJobError(f"checker {error}") from error
    row = conn.execute(_LOCK, {"job_id": job_id, "checker": checker}).one_or_none()
    if row is None:
        raise ImportJobError(f"there is no import {job_id}; see `pointguard import list`")
    if row.verdict is not None and row.verdict != verdict:
        raise ImportJobError(f"import {job_id} is {row.verdict} already; make a new one with another --label")
    if row.verdict is None and row.own and verdict == "approved":
        raise ImportJobError(f"{checker} made import {job_id}; somebody else has to check it")
    return row.verdict is not None


def _check(conn: Connection, job_id: int, verdict: str, checker: str | None, reason: str | None) -> None:
    row = conn.execute(_LOCK, {"job_id": job_id, "checker": checker}).one()
    now = ledger_now(conn, [row.program])[row.program]
    # A maker who withdraws is no checker.
    kept = None if row.own else checker
    conn.execute(_CHECK, {"job_id": job_id, "verdict": verdict, "checker": kept, "reason": reason, "now": now})
    actor = checker or find_job_by_id(conn, job_id).spec.maker
    record(conn, Act("import", actor, f"import.{verdict}", {"job": job_id, "checker": kept}))


def _constraint(error: IntegrityError) -> str | None:
    diagnosis: Any = getattr(error.orig, "diag", None)
    return getattr(diagnosis, "constraint_name", None)


def _stage(conn: Connection, job_id: int, rows: Sequence[ImportRow]) -> None:
    lines, accounts, points, earned, expires, since, stores, externals, problems = columns(rows)
    run(
        conn,
        _STAGE,
        {
            "job": job_id,
            "lines": integers(lines),
            "accounts": texts(accounts),
            "points": bigints(points),
            "earned": timestamps([at or 0 for at in earned]),
            "expires": timestamps([at or 0 for at in expires]),
            "since": timestamps([at or 0 for at in since]),
            "stores": texts(stores),
            "externals": texts(externals),
            "problems": texts(problems),
        },
    )


def _job(row: Row[Any]) -> Job:
    spec = JobSpec(
        row.program,
        row.kind,
        row.system,
        row.label,
        bytes(row.digest),
        row.file_name,
        json.loads(row.options),
        row.reason_code,
        row.reason,
        row.maker,
    )
    return Job(
        row.job_id,
        spec,
        row.made_at,
        row.limit_points,
        row.line_count,
        row.points,
        row.done,
        row.verdict,
        row.checker,
        row.checked_at,
        row.check_reason,
        row.finished_at,
    )
