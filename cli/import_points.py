"""`pointguard import`: points of many members from a file, with a result for every row; approve, follow, look again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.holds import HOLD_ID_MAX, moment
from cli.import_report import print_counts, print_forecast, print_problems, tell_job, write_results
from cli.import_work import Prepared, Read, forecast, post, prepare, read_through, staged
from cli.options import FileFirst, maker_or_user, taking, zone_of
from ledger.adjust_queries import result_counts, row_results
from ledger.adjustments import REASON_CODES
from ledger.import_cells import Kind
from ledger.import_file import UnreadableError
from ledger.import_parse import HeaderError
from ledger.imports import ImportJobError, JobSpec, approve_job, find_job_by_id, list_jobs, reject_job

app = typer.Typer(
    cls=FileFirst,
    help="Bulk imports. `pointguard import FILE …` is short for `pointguard import file FILE …`.",
    no_args_is_help=True,
)

CODES: dict[Kind, str] = {"opening": "migration", "credit": "campaign", "debit": "correction"}
JobId = Annotated[int, typer.Argument(metavar="JOB", min=1, max=HOLD_ID_MAX, help="The import's id.")]
Checker = Annotated[str, typer.Option(help="Who checks: somebody else than the maker.")]
Results = Annotated[
    Path | None, typer.Option(help="Where the result of every row goes (default: import-JOB-results.csv, here).")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `import FILE` takes."""

    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, gzip too; UTF-8, UTF-16 or GB18030.")]
    program: Annotated[str, typer.Option(help="The programme.")]
    reason: Annotated[str, typer.Option(help="Why, in words, for the record.")]
    kind: Annotated[
        Kind, typer.Option("--as", help="opening: balances from another system; credit: points for members; debit: "
                                        "points to take away.")
    ] = "credit"  # fmt: skip
    maker: Annotated[str | None, typer.Option(help="Who proposes (default: this computer's user).")] = None
    code: Annotated[str | None, typer.Option(help=f"Why, by name: {', '.join(REASON_CODES)} (default: by --as).")] = (
        None
    )
    system: Annotated[str, typer.Option(help="The system that opening balances and external ids come from.")] = ""
    label: Annotated[str, typer.Option(help="Tells two imports of the same file apart, as in 2026-11.")] = ""
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, write nothing.")] = False
    create_members: Annotated[
        bool, typer.Option("--create-members", help="Open accounts that are new; --as opening always does.")
    ] = False
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Import the other rows when some cannot be read.")
    ] = False
    timezone: Annotated[str, typer.Option(help="Where the file's days begin and end.")] = "UTC"
    ignore: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Pass over a column; repeatable.")] = None
    encoding: Annotated[str | None, typer.Option(help="Of the file, where it is not found out.")] = None
    results: Results = None
    data_dir: DataDir = None

    def spec(self, digest: bytes) -> JobSpec:
        """The job that a file of this digest is to become."""
        options: dict[str, str | bool | list[str]] = {
            "create_members": self.create_members or self.kind == "opening",
            "skip_invalid": self.skip_invalid,
            "timezone": self.timezone,
            "encoding": self.encoding or "",
            "ignore": sorted(self.ignore or []),
        }
        return JobSpec(
            self.program,
            self.kind,
            self.system,
            self.label,
            digest,
            self.file.name,
            options,
            self.code or CODES[self.kind],
            self.reason,
            maker_or_user(self.maker),
        )


@app.command("file")
@taking(Options)
def file_(options: Options) -> None:
    """Import a file: read it all, propose it, and post it, unless its sum is above the limit and needs a checker.

    The same command again goes on where it was stopped, and posts nothing twice. Unless told to skip them, rows that
    cannot be read keep the whole file out.
    """
    with database(settings_of(options.data_dir)) as engine, _explained():
        prepared = prepare(engine, options.file, options.encoding, options.spec, zone_of(options.timezone))
        if prepared.job is not None:
            job = prepared.job
            say(f"This file is import {job.job_id} already, made by {escape(job.spec.maker)}, {moment(job.made_at)}.")
        else:
            read = _readable(options, prepared)
            if options.dry_run:
                print_forecast(prepared, read, forecast(engine, prepared, read, options.results))
                return
            job = staged(engine, prepared, read)
        if options.dry_run:
            tell_job(job)
            return
        if job.state == "waiting":
            with engine.begin() as conn:
                approve_job(conn, job.job_id, None)
        _go_on(engine, job.job_id, options.results)


@app.command()
def approve(job_id: JobId, checker: Checker, results: Results = None, data_dir: DataDir = None) -> None:
    """Approve a waiting import, and post it."""
    with database(settings_of(data_dir)) as engine, _explained():
        with engine.begin() as conn:
            approve_job(conn, job_id, checker)
        _go_on(engine, job_id, results)


@app.command()
def resume(job_id: JobId, results: Results = None, data_dir: DataDir = None) -> None:
    """Go on with an import that was approved and then stopped."""
    with database(settings_of(data_dir)) as engine, _explained():
        _go_on(engine, job_id, results)


@app.command()
def reject(
    job_id: JobId,
    checker: Checker,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    data_dir: DataDir = None,
) -> None:
    """Reject a waiting import: nothing is posted. Its maker may withdraw it so."""
    with database(settings_of(data_dir)) as engine, _explained(), engine.begin() as conn:
        reject_job(conn, job_id, checker, reason)
    say(f"import {job_id}: rejected")


@app.command("list")
def list_(
    program: Annotated[str | None, typer.Option(help="Only of this programme.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the latest first.")] = 20,
    before: Annotated[
        int, typer.Option(min=1, max=HOLD_ID_MAX, help="Only ids below this: the next page.")
    ] = HOLD_ID_MAX,
    data_dir: DataDir = None,
) -> None:
    """List imports, the latest first."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        jobs = list_jobs(conn, program, before, limit)
    if not jobs:
        say("There is none.")
        return
    table = Table()
    for title in ("id", "programme", "file", "as", "rows", "points", "maker", "made", "state"):
        table.add_column(title, justify="right" if title in {"id", "rows", "points"} else "left", overflow="fold")
    for job in jobs:
        spec = job.spec
        state = f"{job.done:,} done" if job.state == "posting" else job.state
        cells = (str(job.job_id), spec.program, spec.file_name, spec.kind, f"{job.lines:,}", f"{job.points:,}")
        table.add_row(*map(escape, (*cells, spec.maker, moment(job.made_at), state)))
    out.print(table)


@app.command()
def show(job_id: JobId, results: Results = None, data_dir: DataDir = None) -> None:
    """Show an import: who proposed and checked it, and what became of its rows; with --results, of each row."""
    with database(settings_of(data_dir)) as engine, _explained(), engine.connect() as conn:
        job = find_job_by_id(conn, job_id)
        spec = job.spec
        named = {"system": spec.system, "label": spec.label, "checker": job.checker or ""}
        facts = "".join(f", {name} {value}" for name, value in named.items() if value)
        say(escape(f"import {job_id}: {spec.file_name} as {spec.kind} into {spec.program}, made by {spec.maker}, "
                   f"{moment(job.made_at)}{facts}; {spec.reason_code}: {spec.reason}"))  # fmt: skip
        print_counts(result_counts(conn, job_id), f"import {job_id}")
        tell_job(job)
        if results is not None:
            say(f"{write_results(results, row_results(conn, job)):,} rows are in {escape(str(results))}")


def _readable(options: Options, prepared: Prepared) -> Read:
    """Read the file through. CommandError where nothing of it is to be imported."""
    read = read_through(prepared, options.results)
    print_problems(read)
    if read.problem_count and not options.skip_invalid:
        raise CommandError(
            f"{read.problem_count:,} of {read.lines:,} rows cannot be read; nothing was imported",
            "correct them, or import the others with --skip-invalid",
        )
    if read.lines == read.problem_count:
        raise CommandError(f"{options.file} has no row to import", "it needs one below its header")
    return read


def _go_on(engine: Engine, job_id: int, results: Path | None) -> None:
    """Post what is left of an approved job, and tell of all its rows."""
    with engine.connect() as conn:
        job = find_job_by_id(conn, job_id)
    if job.state in {"waiting", "rejected"}:
        tell_job(job)
        return
    try:
        post(engine, job)
    except KeyboardInterrupt:
        err.print(f"[yellow]Stopped. pointguard import resume {job_id} goes on; nothing is posted twice.[/]")
        raise
    with engine.connect() as conn:
        job = find_job_by_id(conn, job_id)
        counts = result_counts(conn, job_id)
        path = results or Path(f"import-{job_id}-results.csv")
        write_results(path, row_results(conn, job))
    print_counts(counts, f"import {job_id}")
    say(f"The result of every row is in {escape(str(path))}")
    if any(code != "posted" for code, _, _ in counts):
        raise typer.Exit(FOUND)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what the ledger refuses in two lines: what, and the remedy."""
    try:
        yield
    except (HeaderError, ImportJobError, UnreadableError) as error:
        what, _, remedy = str(error).partition("; ")
        raise CommandError(what, remedy or "correct it and run the command again") from error
