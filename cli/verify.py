"""`pointguard verify`: proves the ledger by replaying it."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND
from ledger.verify import Report
from ledger.verify import verify as replay_ledger


def verify(data_dir: DataDir = None) -> None:
    """Replay every entry and compare it with every balance, hold, resolution and decision; exit code 1 if one differs.

    Reads one moment of the database, so it may run beside live workers. Changes nothing.
    """
    with database(settings_of(data_dir)) as engine:
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True) as progress:
            tasks: dict[str, TaskID] = {}

            def told(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = progress.add_task(stage.replace("_", " "))
                progress.update(tasks[stage], completed=done, total=max(total, 1))

            report = replay_ledger(engine, told)
    print_verified(report)
    if not report.ok:
        raise typer.Exit(FOUND)


def print_verified(report: Report) -> None:
    """What was checked, and each kind of discrepancy with its first examples."""
    checked = ", ".join(f"{count:,} {name}" for name, count in report.checked.items())
    say(f"Checked {checked}.")
    if report.ok:
        say("[green]The ledger is clean:[/] every balance, hold and decision agrees with the entries.")
        return
    table = Table(title=f"{sum(report.totals.values()):,} discrepancies")
    for title in ("kind", "in all", "subject", "detail"):
        table.add_column(title, justify="right" if title == "in all" else "left")
    for found in report.discrepancies:
        table.add_row(found.kind, f"{report.totals[found.kind]:,}", escape(found.subject), escape(found.detail))
    out.print(table)
    say("Nothing was changed. What each kind means and what to do: docs/runbook.md, “verify finds something”.")
