"""`pointguard up`: the whole product on one machine, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from cli.errors import UNREACHABLE, CommandError
from cli.stack import Size, Stack, stack
from config.settings import load
from embedded.process import ServiceError

REPORT_SECONDS = 10.0

_PROGRESS = text("""
SELECT outcome, count(*) AS events FROM decision GROUP BY outcome ORDER BY outcome""")
_OPEN = text("SELECT count(*) FROM hold WHERE resolved_at IS NULL")


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Also run the seeded traffic simulator.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes for points.events.")] = 1,
    kafka: Annotated[bool, typer.Option("--kafka", help="Use a real Apache Kafka (needs Java 17 and Maven).")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where services keep data, logs and secrets.")] = None,
) -> None:
    """Start everything and keep it running until Ctrl-C; services with a URL in the settings are used as they are."""
    console = Console()
    settings = load(data_dir=data_dir)
    cache = settings.data_dir / "kafka-jars" if kafka else None
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    started = time.monotonic()
    size = Size(workers=workers, demo=demo, apache_kafka=cache)
    try:
        with stack(settings, size, lambda line: console.print(f"[dim]{line}[/dim]")) as running:
            _welcome(console, running, time.monotonic() - started)
            _watch(console, running, stopped)
            console.print("stopping …")
    except ServiceError as error:
        raise CommandError(str(error), "see the log named above, or give the service's address", UNREACHABLE) from error
    console.print("stopped; nothing is left running.")


def _welcome(console: Console, running: Stack, seconds: float) -> None:
    settings = running.settings
    table = Table(title=f"PointGuard runs (after {seconds:.1f} s). Ctrl-C stops it.", show_header=False)
    table.add_row("PostgreSQL", _without_password(settings.required("database_url")))
    table.add_row("Redis / Valkey", _without_password(settings.required("redis_url")))
    table.add_row("Kafka", settings.required("kafka_url"))
    table.add_row("logs", str(settings.data_dir / "logs"))
    table.add_row(
        "metrics", "\n".join(f"http://127.0.0.1:{port}/metrics  {name}" for name, port in running.metrics.items())
    )
    table.add_row("see held points", "pointguard holds list")
    table.add_row("prove the ledger", "pointguard verify")
    console.print(table)
    if settings.trust_end_offsets is False:
        console.print("The embedded broker keeps its log in memory: for trying out, not for production.")


def _watch(console: Console, running: Stack, stopped: threading.Event) -> None:
    engine = create_engine(running.settings.required("database_url"), pool_pre_ping=True)
    due = time.monotonic() + REPORT_SECONDS / 2
    reported_lost: set[str] = set()
    while not stopped.wait(0.25):
        for name in set(running.supervisor.look()) - reported_lost:
            reported_lost.add(name)
            console.print(f"[red]{name} stays down:[/red] records it needs are gone from Kafka; see log and runbook.")
        failed = running.services.failed()
        if failed:
            console.print(f"[red]{failed} ended by itself;[/red] see {running.settings.data_dir / 'logs'}. Stopping.")
            raise typer.Exit(1)
        if time.monotonic() >= due:
            due = time.monotonic() + REPORT_SECONDS
            try:
                with engine.connect() as conn:
                    counts = {row.outcome: row.events for row in conn.execute(_PROGRESS)}
                    held = conn.execute(_OPEN).scalar_one()
            except OperationalError:
                console.print(f"{time.strftime('%H:%M:%S')}  the database does not answer; the workers wait for it")
                continue
            said = " · ".join(f"{outcome} {count:,}" for outcome, count in counts.items()) or "no decision yet"
            console.print(f"{time.strftime('%H:%M:%S')}  {said} · open holds {held:,}")
    engine.dispose()


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
