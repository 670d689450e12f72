"""What `pointguard import` says of files and jobs, and the file with the result of every row."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from cli.context import err, out, say
from cli.errors import CommandError
from cli.holds import moment
from ledger.adjust_queries import RowView
from ledger.import_posting import REASONS
from ledger.imports import Job

if TYPE_CHECKING:
    from cli.import_work import Outlook, Prepared, Read

COLUMNS = ("row", "account", "points", "external_id", "code", "reason", "txn_id")
# A spreadsheet would take such a cell for a formula. A phone number with its plus is none.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d+$)")


def write_results(path: Path, rows: Iterable[RowView]) -> int:
    """Write the result of every row, whole or not at all; how many. CommandError where that cannot be.

    With a byte-order mark, by which spreadsheets know that it is UTF-8.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with partial.open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for row in rows:
                count += 1
                points = "" if row.points is None else row.points
                cells = (row.line, safe(row.account), points, safe(row.external_id or ""), row.code, safe(row.reason))
                table.writerow((*cells, "" if row.txn_id is None else row.txn_id))
        partial.replace(path)
    except OSError as error:
        raise CommandError(
            f"cannot write {path}: {error.strerror or error}", "give another --results; `import show` writes it again"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def safe(cell: str) -> str:
    """The cell as a spreadsheet may show it: never a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def print_problems(read: Read) -> None:
    """The first rows that cannot be read: where, and what to do."""
    for row in read.problems:
        err.print(f"[yellow]row {row.line}[/]  {escape(row.problem or '')}", soft_wrap=True)
    if read.problem_count > len(read.problems):
        err.print(f"[yellow]… and {read.problem_count - len(read.problems):,} more; --results FILE has them all[/]")


def print_counts(counts: Sequence[tuple[str, int, int]], title: str) -> None:
    """Rows and points by what became of them."""
    table = Table(title=title)
    for name in ("result", "rows", "points", "which means"):
        table.add_column(name, justify="right" if name in {"rows", "points"} else "left")
    for code, rows, points in counts:
        table.add_row(code, f"{rows:,}", f"{points:,}", escape(REASONS.get(code, "refused by the ledger") or "done"))
    out.print(table)


def print_forecast(prepared: Prepared, read: Read, outlook: Outlook) -> None:
    """What the import would do, in the words of what it will have done."""
    spec = prepared.spec
    counts = [(code, rows, outlook.points[code]) for code, rows in outlook.rows.most_common()]
    print_counts(counts, f"dry run: --as {spec.kind} into {escape(spec.program)}")
    say(f"Read as {prepared.kept.encoding}, dates in {prepared.zone.key}. {outlook.opened:,} members would be new.")
    if outlook.repaid:
        say(f"{outlook.repaid:,} of the points would pay back what members owe.")
    if read.points > outlook.left:
        say(
            f"{read.points:,} points are above what the maker may import alone ({outlook.left:,}): "
            "a checker would have to approve."
        )
    else:
        say("It would be posted at once: no checker is needed.")
    say("Nothing was written.")


def tell_job(job: Job) -> None:
    """Where a job is, and what brings it on."""
    named = f"import {job.job_id}"
    if job.state == "waiting":
        say(
            f"{named} waits for a checker ({job.points:,} points, limit {job.limit_points:,}): "
            f"pointguard import approve {job.job_id} --checker NAME"
        )
    elif job.state == "rejected":
        by = f" by {escape(job.checker)}" if job.checker else ""
        say(f"{named} was rejected{by}, {moment(job.checked_at)}: {escape(job.check_reason or '')}")
    elif job.state == "posting":
        say(f"{named}: {job.done:,} of {job.lines:,} rows are done; pointguard import resume {job.job_id} goes on")
    else:
        say(f"{named} was finished {moment(job.finished_at)}.")
