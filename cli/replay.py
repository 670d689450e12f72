"""`pointguard replay`: somebody's file through the whole product, and how its labels compare with what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.context import DataDir, engine_of, err, say, settings_of
from cli.errors import CommandError
from cli.mapping import FileMap, MapError, load_map, packaged_maps
from cli.outcomes import DEAD, Outcomes
from cli.produce import Place, Record, deliver, kafka_bus
from cli.redecided import check_rules, redecided, stored_snapshots
from cli.replay_plan import Naming, Planned, ReplayPlan, plan_replay
from cli.replay_report import print_report, print_unmapped
from cli.rows import digest, open_table
from cli.running import running, simulation_programme
from config.settings import Settings
from detectors.event import Invalid, decode

REPLAY_PART = 0
"""All of a replay goes to one partition, so that velocity sees the rows in the file's order, and sees it every time."""


def replay(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, gzip too.")],
    map_name: Annotated[
        str, typer.Option("--map", help=f"How rows become events: {', '.join(packaged_maps())}, or a YAML file.")
    ],
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    program: Annotated[
        str | None, typer.Option(help="Simulation programme; without, one of its own for this file.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Show the figures with this rule off, too; may be repeated."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Send a file through the product and report what was decided.

    Starts services and workers for itself when none are running. A second run of the same command sends the same events
    again: they are duplicates, move nothing, and give the same report.
    """
    file_map = load_map(map_name)
    plan, naming = _plan(file, file_map, rows, program)
    with running(settings_of(data_dir)) as settings:
        engine = engine_of(settings.required("database_url"))
        simulation_programme(engine, naming.program)
        rules = without or list(file_map.without if file_map.labels else ())
        check_rules(engine, rules)
        outcomes = Outcomes(engine, naming.source, str(settings.log_id))
        seen = _Seen(decided_before=outcomes.decided_before())
        started = time.monotonic()
        _deliver(plan, settings, outcomes, seen)
        seconds = time.monotonic() - started
        others = redecided(engine, naming.source, rules, stored_snapshots(settings)) if rules else {}
        print_report(plan, naming, seen.outcomes, others)
        for line in outcomes.why_dead(seen.dead) if seen.dead else ():
            say(f"  {escape(line)}")
        if seen.decided_before:
            say(f"{seen.decided_before:,} of these were decided by an earlier run; sent again, they move nothing.")
        err.print(f"[dim]{len(plan.events):,} events in {seconds:.1f} s. Prove the ledger: pointguard verify[/]")
        engine.dispose()


@dataclass(slots=True)
class _Seen:
    """What became known while waiting: an outcome per event id, and where the dead letters lie."""

    decided_before: int
    outcomes: dict[str, str] = field(default_factory=dict)
    dead: list[Place] = field(default_factory=list)


def _plan(file: Path, file_map: FileMap, rows: int | None, program: str | None) -> tuple[ReplayPlan, Naming]:
    """Read and map the whole file before anything is produced, so that its rows can be merged by time."""
    naming = Naming.of(file_map, digest(file), program)
    with Progress(
        TextColumn("reading  "), BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=err, transient=True
    ) as progress:
        task = progress.add_task("", total=file.stat().st_size)
        plan = plan_replay(
            open_table(file, lambda position: progress.update(task, completed=position)), file_map, naming, rows
        )
    print_unmapped(plan)
    if not plan.events:
        raise CommandError(
            f"{file}: no row could be mapped by map {file_map.name}", "correct the file or the map, see the rows above"
        )
    # One look before thousands are produced: what the contract refuses in the first event, it refuses in all such.
    for event in {event.place: event for event in reversed(plan.events)}.values():
        checked = decode(event.value)
        if isinstance(checked, Invalid):
            raise MapError(f"map {file_map.name}, row {event.row}: {checked.error} {checked.field}: {checked.detail}")
    return plan, naming


def _deliver(plan: ReplayPlan, settings: Settings, outcomes: Outcomes, seen: _Seen) -> None:
    """Produce all events and wait until each has its outcome, with two bars."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        sent = progress.add_task("produced ", total=len(plan.events))
        done = progress.add_task("decided  ", total=len(plan.events))

        def settle(asked: Mapping[str, Place | None]) -> dict[str, str]:
            found = outcomes.settled(asked)
            seen.dead += [place for event_id, place in asked.items() if found.get(event_id) == DEAD and place]
            return found

        def told(produced: int, settled: Mapping[str, str]) -> None:
            seen.outcomes.update(settled)
            progress.update(sent, completed=produced)
            progress.update(done, completed=len(seen.outcomes))

        async def run() -> None:
            async with kafka_bus(settings.required("kafka_url")) as bus:
                # All to one topic, requests too: an account keeps the file's order only within a topic.
                records = (_record(event, settings.events_topic) for event in plan.events)
                await deliver(records, bus, settle, told)

        asyncio.run(run())


def _record(event: Planned, topic: str) -> Record:
    return Record(event.id, event.at_ms, topic, event.key, event.value, REPLAY_PART)
