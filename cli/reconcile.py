"""`pointguard reconcile`: compares the ledger with another system's file, and proposes what would make both agree."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Connection

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.import_report import safe
from cli.member_tables import table_of
from cli.options import maker_or_user, taking, zone_of
from cli.reporting import Json, ProgramName, Zone, instant, print_json, program_of
from ledger.adjustments import AdjustmentError, propose
from ledger.ids import IdBlocks
from ledger.import_file import Kept, Rows, UnreadableError, examine, open_rows
from ledger.programs import Program, ledger_now, load_programs
from ledger.reconcile import Job, ReconcileError, Reported, Run, reconcile_balances, reconcile_events
from ledger.reconcile_rows import ColumnsError, Kind, Reading, balances, events, kind_of

PROPOSED_MOST = 1000
_MEANS = {
    "matched": "both sides say the same",
    "missing_here": "the other system has it, the ledger has not",
    "missing_there": "the ledger has it, the file has not",
    "differing": "both have it, and differ",
    "corrected": "differed, and was corrected by an approved adjustment",
    "repeated": "again in the file; its first line counts",
    "unreadable": "lines that could not be read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `reconcile` takes."""

    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, gzip too: events with ids, or balances by account.")]
    program: ProgramName
    source: Annotated[
        list[str] | None,
        typer.Option(help="Look for events of these sources that the file lacks (default: those it names); repeatable. "
                          "One alone is also that of rows that name none."),
    ] = None  # fmt: skip
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The file's events are from this day or time on (default: its first)."),
    ] = None
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="… up to this day (its end) or time (default: its last).")
    ] = None
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Balances: as of the end of this day, or this time (default: now)."),
    ] = None
    report: Annotated[
        Path | None, typer.Option(help="Where every finding goes, as CSV (default: reconciliation-RUN.csv, here).")
    ] = None
    propose: Annotated[
        bool, typer.Option("--propose", help="Propose corrections as adjustments, each for somebody else to approve.")
    ] = False
    most: Annotated[int, typer.Option(min=1, max=100_000, help="Propose none if there are more than so many.")] = (
        PROPOSED_MOST
    )
    actor: Annotated[str | None, typer.Option(help="Who reconciles (default: this computer's user).")] = None
    encoding: Annotated[str | None, typer.Option(help="Of the file, where it is not found out.")] = None
    timezone: Zone = "UTC"
    json: Json = False
    data_dir: DataDir = None


@taking(Options)
def reconcile(options: Options) -> None:
    """Compare a file with the ledger: matched, missing here, missing there, differing. Nothing is posted by itself.

    Exit code 1 if something differs. The run and its findings are kept; the same difference is never proposed twice.
    """
    zone = zone_of(options.timezone)
    with database(settings_of(options.data_dir)) as engine, engine.begin() as conn, _explained():
        program = program_of(conn, options.program)
        kept = examine(options.file, options.encoding)
        with _Report((options.report or Path()).parent) as report:
            run = _compare(conn, options, program, kept, Reading(program.name, _only(options.source), zone), report)
            path = options.report or Path(f"reconciliation-{run.run_id}.csv")
            report.keep(path)
        proposed = _propose(conn, options, run)
    if options.json:
        print_json({"run": run.run_id, "counts": run.counts, "agrees": run.agrees, "corrections": len(run.proposals),
                    "proposed": proposed, "report": str(path)})  # fmt: skip
    else:
        _tell(options, run, proposed, path)
    if not run.agrees:
        raise typer.Exit(FOUND)


def _compare(
    conn: Connection, options: Options, program: Program, kept: Kept, reading: Reading, report: _Report
) -> Run:
    with _bar(options.file) as told:
        rows = open_rows(kept, told, flat=False)
        kind, found = _kind(rows, reading)
        if rows.delimiter == ";":
            reading = Reading(reading.program, reading.source, reading.zone, grouped=False)
        now_ms = ledger_now(conn, [program.name])[program.name]
        zone = reading.zone
        job = Job(
            program.name,
            options.file.name,
            kept.digest,
            maker_or_user(options.actor),
            instant(options.since, zone, "--since"),
            instant(options.until, zone, "--until", end_of_day=True),
            tuple(options.source) if options.source else None,
        )
        if kind == "events":
            return reconcile_events(conn, job, events(found, reading), report)
        at_ms = instant(options.at, zone, "--at", end_of_day=True)
        return reconcile_balances(conn, job, balances(found, reading), now_ms if at_ms is None else at_ms - 1, report)


def _kind(rows: Rows, reading: Reading) -> tuple[Kind, Iterator[tuple[int, dict[str, str] | str]]]:
    """What the file lists, and its rows: of JSON lines, the first object that can be read tells."""
    if rows.columns is not None:
        return kind_of(rows.columns, reading), rows.rows
    passed: list[tuple[int, dict[str, str] | str]] = []
    for line, cells in rows.rows:
        passed.append((line, cells))
        if isinstance(cells, dict):
            return kind_of(tuple(cells), reading), chain(passed, rows.rows)
    raise ColumnsError("no line is a JSON object that can be read; write one object a line")


def _propose(conn: Connection, options: Options, run: Run) -> int:
    """Propose the corrections, unless there are none, they were not asked for, or there are far too many."""
    if not options.propose or not run.proposals:
        return 0
    if len(run.proposals) > options.most:
        err.print(
            f"[yellow]{len(run.proposals):,} corrections are more than --most {options.most:,}: none is proposed. "
            "Is this the file of this programme and period?[/]"
        )
        return 0
    made = propose(conn, load_programs(conn), IdBlocks(), run.proposals, wait=True, create=True)
    return sum(one.outcome == "waiting" for one in made)


def _tell(options: Options, run: Run, proposed: int, path: Path) -> None:
    table = table_of(f"reconciliation {run.run_id} of {escape(options.file.name)}", "", "rows", "which means")
    for name, count in run.counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}", _MEANS[name])
    out.print(table)
    say(f"Every finding: {escape(str(path))}")
    if run.agrees:
        say("[green]Both sides agree.[/]")
    if proposed:
        say(f"{proposed:,} corrections wait for somebody else's approval: pointguard adjust list")
    elif run.proposals and not options.propose:
        say(f"{len(run.proposals):,} corrections could be proposed as adjustments: --propose")


class _Report:
    """The file with every finding: written beside its place, and put there when it is whole."""

    _COLUMNS = (*Reported._fields[:-1], "correction")

    def __init__(self, folder: Path) -> None:
        self._cleanup = ExitStack()
        self._partial = folder / f".reconciliation-{os.getpid()}.csv"

    def __enter__(self) -> Self:
        self._cleanup.callback(self._partial.unlink, missing_ok=True)
        # With a byte-order mark, by which spreadsheets know that it is UTF-8.
        try:
            self._file = self._cleanup.enter_context(self._partial.open("w", encoding="utf-8-sig", newline=""))
        except OSError as error:
            raise self._refused(self._partial.parent, error) from error
        self._table = csv.writer(self._file)
        self._table.writerow(self._COLUMNS)
        return self

    def __exit__(self, *raised: object) -> None:
        self._cleanup.close()

    def __call__(self, one: Reported) -> None:
        """Add a finding."""
        corrections = "; ".join(f"{part.points:+d} for {part.account}" for part in one.proposed)
        cells = ("" if cell is None else safe(cell) if isinstance(cell, str) else cell for cell in one[:-1])
        self._table.writerow((*cells, corrections and f"adjust {corrections}"))

    def keep(self, path: Path) -> None:
        """Put the file where it belongs. CommandError where that cannot be."""
        try:
            self._file.close()
            self._partial.replace(path)
        except OSError as error:
            raise self._refused(path, error) from error

    def _refused(self, path: Path, error: OSError) -> CommandError:
        return CommandError(f"cannot write {path}: {error.strerror or error}", "give another --report")


def _only(sources: list[str] | None) -> str | None:
    return sources[0] if sources and len(sources) == 1 else None


@contextmanager
def _bar(file: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar of the bytes read."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("comparing", total=file.stat().st_size)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (UnreadableError, ColumnsError, ReconcileError, AdjustmentError) as error:
        what, _, remedy = str(error).partition("; ")
        raise CommandError(what, remedy or "correct it and run the command again") from error
