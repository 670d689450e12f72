"""Posts the rows of an approved import in batches, each one transaction: what it posts and its results commit together.

So after a crash the job goes on behind its last result, and no row is posted twice: a row has one result, a transaction
of an import needs that result (both are the database's rules), and what another system calls points is posted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledger.arrays import bigints, fetch, integers, run, texts
from ledger.chain_store import Act, NotedIds, record
from ledger.ids import IdBlocks
from ledger.import_cells import NEVER_MS
from ledger.import_parse import ImportRow
from ledger.imports import Job, JobSpec
from ledger.movement import Key, Movement
from ledger.posting import plan
from ledger.programs import Program, ledger_now
from ledger.store import find_accounts, lock_accounts, write
from ledger.store_lots import load

SOURCE = "pointguard:import"
BATCH = 1_000

WAITING = "waiting"
REASONS: Mapping[str, str] = {
    "posted": "",
    WAITING: "not posted yet",
    "invalid": "the row could not be read",
    "unknown_account": "no member of this name; correct it, or import with --create-members",
    "imported_before": "the other system's id was imported before",
    "imported_differently": "the other system's id was imported before with other points, member or expiry",
    "insufficient_balance": "the member has not so many points",
    "points_out_of_range": "more points than the programme's terms let one posting have",
    "balance_out_of_range": "more points than a member may have",
    "not_in_pool": "pools are not adjusted",
}
"""What a row's code says to people."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch did: rows and points by code, of `lines` rows up to `last`."""

    lines: int
    last: int
    rows: Counter[str]
    points: Counter[str]


class Settled(NamedTuple):
    """What became of a row; `before` is the (job, line) that had its external id first."""

    row: ImportRow
    code: str
    txn_id: int | None = None
    before: tuple[int, int] | None = None


_LOCK = text("SELECT verdict, finished_at FROM import_job WHERE job_id = :job_id FOR UPDATE")

_NEXT = text("""
SELECT line, account, coalesce(points, 0), (date_part('epoch', earned_at) * 1000)::bigint,
       (date_part('epoch', expires_at) * 1000)::bigint, (date_part('epoch', member_since) * 1000)::bigint, store,
       external_id, problem
  FROM import_row
 WHERE job_id = :job_id
   AND line > coalesce((SELECT line FROM import_result WHERE job_id = :job_id ORDER BY line DESC LIMIT 1), 0)
 ORDER BY line LIMIT :most""")

_BEFORE = """
SELECT x.external_id, x.job_id, x.line, j.kind, w.account, w.points, (date_part('epoch', w.earned_at) * 1000)::bigint,
       (date_part('epoch', w.expires_at) * 1000)::bigint
  FROM import_external x
  JOIN import_row w ON (w.job_id, w.line) = (x.job_id, x.line)
  JOIN import_job j ON j.job_id = x.job_id
 WHERE x.program = %(program)s AND x.system = %(system)s AND x.external_id = ANY(%(externals)s)"""

_RESULTS = """
INSERT INTO import_result (job_id, line, code, txn_id)
SELECT %(job)s, line, code, nullif(txn_id, 0) FROM unnest(%(lines)s, %(codes)s, %(txns)s) AS w(line, code, txn_id)"""

_EXTERNALS = """
INSERT INTO import_external (program, system, external_id, job_id, line)
SELECT %(program)s, %(system)s, external_id, %(job)s, line
  FROM unnest(%(externals)s, %(lines)s) AS w(external_id, line) ORDER BY external_id"""

_FINISH = text("""
UPDATE import_job SET finished_at = to_timestamp(CAST(:now AS bigint) / 1000.0) WHERE job_id = :job_id""")


def post_next(
    conn: Connection, programs: Mapping[str, Program], ids: IdBlocks, job: Job, most: int = BATCH
) -> Batch | None:
    """Post the next rows of an approved job, in the order of the file; None once it is finished.

    Ends with a link of the audit chain; the caller commits. Two that post one job take turns. Two jobs that bring the
    same external id at the same moment end in an IntegrityError of one of them: roll back and ask again.
    """
    spec = job.spec
    row = conn.execute(_LOCK, {"job_id": job.job_id}).one()
    if row.finished_at is not None:
        return None
    rows = [ImportRow._make(found) for found in conn.execute(_NEXT, {"job_id": job.job_id, "most": most})]
    if not rows:
        _finish(conn, job)
        return None
    noted = NotedIds(ids)
    settled = _settle(conn, programs, noted, job, rows)
    done = Batch(len(rows), rows[-1].line, Counter(), Counter())
    for one in settled:
        done.rows[one.code] += 1
        done.points[one.code] += one.row.points
    detail = {
        "job": job.job_id,
        "first": rows[0].line,
        "last": rows[-1].line,
        "posted": done.rows["posted"],
        "points": done.points["posted"],
    }
    record(conn, Act("import", spec.maker, "import.posted", detail), noted.taken)
    return done


def movements_of(
    spec: JobSpec, job_id: int, rows: Sequence[ImportRow], txn_ids: Sequence[int], now: int, program: Program
) -> list[Movement]:
    """The movements of rows, with the ids of their transactions."""
    sign = -1 if spec.kind == "debit" else 1
    by_terms = program.terms.expiry_days is None  # then points never expire by themselves, and nothing stands for never
    return [
        Movement(
            id=txn_id,
            kind="adjust",
            program=spec.program,
            account=row.account,
            points=sign * row.points,
            verdict="post",
            source=SOURCE,
            event_id=f"{job_id}/{row.line}",
            occurred_ms=now if row.earned_ms is None else row.earned_ms,
            store=row.store,
            expires_ms=None if by_terms and row.expires_ms == NEVER_MS else row.expires_ms,
        )
        for row, txn_id in zip(rows, txn_ids, strict=True)
    ]


def set_apart(conn: Connection, spec: JobSpec, rows: Sequence[ImportRow]) -> dict[int, Settled]:
    """The rows, by line, that are not posted whatever the balances: unreadable, imported before, of unknown members."""
    apart = {row.line: Settled(row, "invalid") for row in rows if row.problem is not None}
    for row, before, same in _known(conn, spec, [row for row in rows if row.external_id is not None]):
        if row.line not in apart:
            apart[row.line] = Settled(row, "imported_before" if same else "imported_differently", before=before)
    if not spec.create:
        left = [row for row in rows if row.line not in apart]
        there = find_accounts(conn, list({(spec.program, row.account): None for row in left}))
        apart |= {row.line: Settled(row, "unknown_account") for row in left if (spec.program, row.account) not in there}
    return apart


def _known(
    conn: Connection, spec: JobSpec, rows: Sequence[ImportRow]
) -> Iterator[tuple[ImportRow, tuple[int, int], bool]]:
    """The rows whose external id was imported before, where, and whether it was the same then."""
    if not rows:
        return
    found = fetch(
        conn,
        _BEFORE,
        {"program": spec.program, "system": spec.system, "externals": texts([row.external_id for row in rows])},
    )
    before = {row[0]: row for row in found}
    for row in rows:
        if row.external_id in before:
            _, job_id, line, kind, account, points, earned_ms, expires_ms = before[row.external_id]
            same = (kind, account, points, earned_ms, expires_ms) == (
                spec.kind,
                row.account,
                row.points,
                row.earned_ms,
                row.expires_ms,
            )
            yield row, (job_id, line), same


def _settle(
    conn: Connection, programs: Mapping[str, Program], ids: NotedIds, job: Job, rows: Sequence[ImportRow]
) -> list[Settled]:
    spec = job.spec
    apart = set_apart(conn, spec, rows)
    left = [row for row in rows if row.line not in apart]
    _keep(conn, job, list(apart.values()))
    if left:
        apart |= {one.row.line: one for one in _post_these(conn, programs, ids, job, left)}
    return [apart[row.line] for row in rows]


def _post_these(
    conn: Connection, programs: Mapping[str, Program], ids: NotedIds, job: Job, rows: Sequence[ImportRow]
) -> list[Settled]:
    spec, program = job.spec, programs[job.spec.program]
    txn_ids = ids.take(conn, len(rows))
    opening = ledger_now(conn, [spec.program])[spec.program]
    accounts = lock_accounts(conn, programs, opened_by(spec, rows, opening))
    now = ledger_now(conn, [spec.program])
    movements = movements_of(spec, job.job_id, rows, txn_ids, now[spec.program], program)
    accounts = load(conn, accounts, movements, now)
    planned = plan(accounts, movements, now, ids.stream(conn), signed_up_by(spec, rows))
    settled = [
        Settled(row, result.code, txn_id if result.code == "posted" else None)
        for row, txn_id, result in zip(rows, txn_ids, planned.results, strict=True)
    ]
    _keep(conn, job, settled)
    write(conn, planned, now)
    return settled


def _keep(conn: Connection, job: Job, settled: Sequence[Settled]) -> None:
    """Write results and external ids: the database asks for them when the transactions come."""
    if not settled:
        return
    run(
        conn,
        _RESULTS,
        {
            "job": job.job_id,
            "lines": integers([one.row.line for one in settled]),
            "codes": texts([one.code for one in settled]),
            "txns": bigints([one.txn_id or 0 for one in settled]),
        },
    )
    named = [one.row for one in settled if one.txn_id is not None and one.row.external_id is not None]
    if named:
        run(
            conn,
            _EXTERNALS,
            {
                "program": job.spec.program,
                "system": job.spec.system,
                "job": job.job_id,
                "externals": texts([row.external_id for row in named]),
                "lines": integers([row.line for row in named]),
            },
        )


def opened_by(spec: JobSpec, rows: Sequence[ImportRow], now: int) -> dict[Key, int]:
    """The time from which each member counts as known, if it is new: since it joined, or first earned."""
    opened: dict[Key, int] = {}
    for row in rows:
        key = (spec.program, row.account)
        told = [at for at in (row.since_ms, row.earned_ms) if at is not None]
        opened[key] = min([*told, opened.get(key, now)])
    return opened


def signed_up_by(spec: JobSpec, rows: Sequence[ImportRow]) -> dict[Key, int]:
    """When each member joined, where the file says so."""
    joined: dict[Key, int] = {}
    for row in rows:
        if row.since_ms is not None:
            joined.setdefault((spec.program, row.account), row.since_ms)
    return joined


def _finish(conn: Connection, job: Job) -> None:
    now = ledger_now(conn, [job.spec.program])[job.spec.program]
    conn.execute(_FINISH, {"job_id": job.job_id, "now": now})
    record(conn, Act("import", job.spec.maker, "import.finished", {"job": job.job_id, "lines": job.lines}))
