"""`pointguard verify`: proves the ledger by replaying it, and its audit chain against signed anchors."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Engine, text

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, UNREACHABLE, CommandError
from cli.holds import moment
from config.settings import Settings
from ledger.anchors import Told, read
from ledger.verify import Report
from ledger.verify import verify as replay_ledger
from streams import anchoring, outbox
from streams.messages import AlertMessage, alert_message

_MAY_WRITE = text("SELECT NOT pg_is_in_recovery() AND has_table_privilege('outbox', 'INSERT')")


def verify(
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what was written since the last clean run.")
    ] = False,
    anchors: Annotated[Path | None, typer.Option(help="A file of anchors, kept away from the database.")] = None,
    topic: Annotated[bool, typer.Option("--topic", help="Take the anchors from their Kafka topic.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Replay every entry and lot and compare it with every balance, hold, decision and link of the audit chain.

    Reads one moment of the database, so it may run beside live workers; exit code 1, and an alert, if anything differs.
    Nothing of the ledger is changed; a clean run notes how far it came, for --incremental. Only anchors kept elsewhere
    tell a chain that was cut or rewritten to its end.
    """
    settings = settings_of(data_dir)
    with database(settings) as engine:
        told, where = _anchors(settings, engine, anchors, topic=topic)
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True) as progress:
            tasks: dict[str, TaskID] = {}

            def shown(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = progress.add_task(stage.replace("_", " "))
                progress.update(tasks[stage], completed=done, total=max(total, 1))

            report = replay_ledger(engine, shown, incremental=incremental, anchors=told)
        alerted = report.ok or _alert(engine, report, settings.alerts_topic)
    print_verified(report)
    say(where)
    if incremental and report.whole:
        say("There was no clean run to go on from, so everything was looked at.")
    if not alerted:
        err.print("[yellow]no alert was sent: this database cannot be written to[/]")
    if not report.ok:
        raise typer.Exit(FOUND)


def _alert(engine: Engine, report: Report, topic: str) -> bool:
    """Leave an alert a kind in the outbox, for the relay to publish; False where that cannot be written."""
    now = datetime.now(UTC)
    alerts = [
        AlertMessage(alert="ledger_differs", at=now, error=kind, points=count)
        for kind, count in sorted(report.totals.items())
    ]
    with engine.begin() as conn:
        if not conn.execute(_MAY_WRITE).scalar_one():
            return False
        outbox.enqueue(conn, [alert_message(topic, alert) for alert in alerts])
    return True


def print_verified(report: Report) -> None:
    """What was checked, what was not, and each kind of discrepancy with its first examples."""
    say(f"Checked {_listed(report.checked)}.")
    if not report.whole:
        say(
            f"Not looked at: what clean runs until {moment(report.since)} had verified ({_listed(report.unseen)}),"
            " balances of accounts on which nothing moved since, memberships of pools, and the sum over all accounts."
            " A run without --incremental looks at everything."
        )
    if report.ok:
        say("[green]The ledger is clean:[/] every balance, lot, hold, decision and audit link agrees with the entries.")
        if not report.marked:
            say("No mark was made for --incremental: this is a standby, the role may not, or another run is at it.")
        return
    table = Table(title=f"{sum(report.totals.values()):,} discrepancies")
    for title in ("kind", "in all", "subject", "detail"):
        table.add_column(title, justify="right" if title == "in all" else "left")
    for found in report.discrepancies:
        table.add_row(found.kind, f"{report.totals[found.kind]:,}", escape(found.subject), escape(found.detail))
    out.print(table)
    say("Nothing was changed. What each kind means and what to do: docs/runbook.md, “verify finds something”.")


def _listed(counts: object) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in dict(counts).items())  # type: ignore[call-overload]  # a mapping


def _anchors(settings: Settings, engine: Engine, path: Path | None, *, topic: bool) -> tuple[Told, str]:
    """The anchors to compare with, and a sentence on what they are worth."""
    keys = settings.anchor_public_keys()
    asked = path is not None or topic
    if not keys:
        if asked:
            raise CommandError(
                "no public key to believe anchors by",
                "set POINTGUARD_ANCHOR_PUBLIC_FILE to a file with the relay's public keys",
                UNREACHABLE,
            )
        return Told((), ()), "No anchors were compared: there is no public key (POINTGUARD_ANCHOR_PUBLIC_FILE)."
    lines: list[bytes] = []
    if path is not None:
        try:
            lines += anchoring.read_file(path)
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror}", "give the file the relay appends to") from error
    if topic:
        lines += asyncio.run(anchoring.read_topic(settings.required("kafka_url"), settings.anchors_topic))
    if not asked:
        with engine.connect() as conn:
            lines = anchoring.kept(conn)
    told = read(lines, keys)
    said = f"Compared {len(told.anchors):,} anchors"
    if not asked:
        return told, f"{said} of the database's own; those kept elsewhere prove more: --anchors FILE or --topic."
    return told, f"{said}, {told.anchors[-1].number if told.anchors else 0} being the number of the last."
