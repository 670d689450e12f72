"""The work behind `pointguard import`, with its progress bars: read a file, stage it, post it, or forecast it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from cli.context import err
from cli.errors import CommandError
from cli.import_report import write_results
from ledger.adjust_queries import RowView
from ledger.ids import IdBlocks
from ledger.import_cells import Reading
from ledger.import_file import Kept, examine, open_rows
from ledger.import_forecast import Forecast
from ledger.import_parse import ImportRow, RowReader, columns_of
from ledger.import_posting import REASONS, Settled, post_next
from ledger.imports import Job, JobSpec, check_spec, find_job, limit_left, stage
from ledger.programs import Program, ledger_now, load_programs

PROBLEMS_TOLD = 20
TRIES = 10
_DEADLOCK, _UNIQUE = "40P01", "23505"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that was looked at, what it is to become, and the job it is already, if it is one."""

    kept: Kept
    spec: JobSpec
    zone: ZoneInfo
    program: Program
    now_ms: int
    job: Job | None


@dataclass(slots=True)
class Read:
    """What is in a file: all its rows, how many of them cannot be read, and the first of these."""

    lines: int = 0
    problem_count: int = 0
    points: int = 0
    problems: list[ImportRow] = field(default_factory=list)


@dataclass(slots=True)
class Outlook:
    """What an import would do, by the codes of its rows; `left` is what its maker may still import alone."""

    rows: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    repaid: int = 0
    left: int = 0


def prepare(
    engine: Engine, file: Path, encoding: str | None, spec: Callable[[bytes], JobSpec], zone: ZoneInfo
) -> Prepared:
    """Look at the file as a whole, and for the job that it may be."""
    with _bytes_bar("looking at the file", file) as told:
        kept = examine(file, encoding, told)
    wanted = spec(kept.digest)
    check_spec(wanted)
    with engine.connect() as conn:
        program = load_programs(conn).get(wanted.program)
        if program is None:
            raise CommandError(f"there is no programme {wanted.program!r}", "see `pointguard program list`")
        return Prepared(
            kept, wanted, zone, program, ledger_now(conn, [program.name])[program.name], find_job(conn, wanted)
        )


def read_through(prepared: Prepared, problems: Path | None) -> Read:
    """Read every row; those that cannot be read go to the file `problems`, if there are any."""
    read = Read()

    def bad() -> Iterator[RowView]:
        with _bytes_bar("reading the rows", prepared.kept.path) as told:
            reader, rows = _rows(prepared, told)
            for row in rows:
                if row.problem is not None:
                    if len(read.problems) < PROBLEMS_TOLD:
                        read.problems.append(row)
                    yield RowView(row.line, row.account, None, row.external_id, "invalid", row.problem, None)
            read.lines, read.problem_count, read.points = reader.lines, reader.problems, reader.points

    found = bad()
    first = next(found, None)
    if first is not None and problems is not None:
        write_results(problems, chain([first], found))
    deque(found, maxlen=0)
    return read


def staged(engine: Engine, prepared: Prepared, read: Read) -> Job:
    """Make the job, with all rows, in one transaction; the one that somebody else just made, if so."""
    with _count_bar("staging", read.lines) as told:
        reader, rows = _rows(prepared, lambda _: None)
        try:
            with engine.begin() as conn:
                job = stage(conn, IdBlocks(), prepared.spec, _counted(rows, told))
                if (reader.lines, reader.problems, reader.points) != (read.lines, read.problem_count, read.points):
                    raise CommandError(f"{prepared.kept.path} changed while it was read", "import it again")
                return job
        except IntegrityError:
            with engine.connect() as conn:
                job_there = find_job(conn, prepared.spec)
            if job_there is None:
                raise
            return job_there


def post(engine: Engine, job: Job) -> None:
    """Post what is left of an approved job, batch by batch; where another transaction was in the way, try again."""
    ids, failures = IdBlocks(), 0
    with engine.connect() as conn:
        programs = load_programs(conn)
    with _count_bar("posting", job.lines, job.done) as told:
        done = job.done
        while True:
            try:
                with engine.begin() as conn:
                    batch = post_next(conn, programs, ids, job)
            except DBAPIError as error:
                failures += 1
                if failures > TRIES or getattr(error.orig, "sqlstate", None) not in {_DEADLOCK, _UNIQUE}:
                    raise
                time.sleep(0.05 * failures)
                continue
            if batch is None:
                return
            failures = 0
            done += batch.lines
            told(done)


def forecast(engine: Engine, prepared: Prepared, read: Read, results: Path | None) -> Outlook:
    """Say what would become of every row, and write it to `results` if that is given. Writes nothing else."""
    outlook = Outlook()
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with reading.connect() as conn, _count_bar("forecasting", read.lines) as told:
        forecasting = Forecast(conn, prepared.program, prepared.spec)
        _, rows = _rows(prepared, lambda _: None)

        def views() -> Iterator[RowView]:
            for one in forecasting.rows(_counted(rows, told)):
                outlook.rows[one.code] += 1
                outlook.points[one.code] += one.row.points
                yield _view(one)

        if results is not None:
            write_results(results, views())
        else:
            deque(views(), maxlen=0)
        outlook.opened, outlook.repaid = forecasting.opened, forecasting.repaid
        outlook.left = limit_left(conn, prepared.spec)
    return outlook


def _view(one: Settled) -> RowView:
    row = one.row
    reason = row.problem or REASONS.get(one.code, "refused by the ledger")
    if one.before is not None:
        reason = f"{reason}: import {one.before[0]}, row {one.before[1]}"
    return RowView(row.line, row.account, row.points or None, row.external_id, one.code, reason, None)


def _rows(prepared: Prepared, told: Callable[[int], None]) -> tuple[RowReader, Iterator[ImportRow]]:
    table = open_rows(prepared.kept, told)
    spec = prepared.spec
    given = spec.options.get("ignore")
    ignored = given if isinstance(given, list) else []
    reading = Reading(spec.kind, prepared.zone, prepared.now_ms, grouped=table.delimiter != ";")
    columns = None if table.columns is None else columns_of(table.columns, spec.kind, ignored)
    if columns is not None and "external_id" in columns and not spec.system:
        raise CommandError(
            f"the file has external ids ({columns['external_id']}), but of which system?",
            "give --system NAME, so that none of them is imported twice, or --ignore the column",
        )
    reader = RowReader(reading, columns, ignored)
    return reader, reader.all(table.rows)


def _counted(rows: Iterable[ImportRow], told: Callable[[int], None]) -> Iterator[ImportRow]:
    for number, row in enumerate(rows, start=1):
        yield row
        if number % 1000 == 0:
            told(number)


@contextmanager
def _bytes_bar(what: str, file: Path) -> Iterator[Callable[[int], None]]:
    """A bar of the bytes of a file that were read."""
    columns = (TextColumn(f"{what:<20}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=file.stat().st_size if file.exists() else None)
        yield lambda position: progress.update(task, completed=position)


@contextmanager
def _count_bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar of rows."""
    columns = (TextColumn(f"{what:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda number: progress.update(task, completed=number)
        progress.update(task, completed=total)
