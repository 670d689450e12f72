"""`pointguard backtest`: what a policy would have done with the events that are stored, in points and in work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Engine, text

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import CommandError
from cli.options import document_of, maker_or_user, taking, version_of
from config.policy import load_policy
from config.settings import Settings
from detectors.backtest import Report, Side
from detectors.decision import CompiledPolicy
from detectors.entity import Keys
from detectors.models_snapshot import Snapshot
from detectors.policy import PolicyRefused
from streams import model_store, policies
from streams.backtest import Asked, Snapshots
from streams.backtest import backtest as replayed
from streams.backtest_velocity import missing, recompute
from streams.keys import model_key
from streams.policies import Period, PolicyStepError

SNAPSHOTS_KEPT = 8
MINUTES = 5.0

_RANGE = text("""
SELECT min(occurred_at) AS first, max(occurred_at) AS last FROM decision
 WHERE features IS NOT NULL AND (CAST(:program AS text) IS NULL OR program = :program)""")

Program = Annotated[str | None, typer.Option(help="Only events of this programme.")]
Since = Annotated[str | None, typer.Option("--from", metavar="TIME", help="From when, as 2026-03-01 or with T10:00Z.")]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Until when (default: all that is stored).")]
Minutes = Annotated[float, typer.Option("--minutes", min=0.1, max=480, help="Minutes the desk needs for one case.")]
Lang = Annotated[Literal["en", "zh"], typer.Option(help="Language of the examples.")]
AsJson = Annotated[bool, typer.Option("--json", help="The whole report as JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `backtest` takes."""

    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A policy file, or the number of a version.")]
    since: Since = None
    until: Until = None
    program: Program = None
    against: Annotated[int | None, typer.Option(help="Compare with this version (default: the one in force).")] = None
    minutes: Minutes = MINUTES
    examples: Annotated[int, typer.Option(min=0, max=1000, help="So many events whose verdict changes.")] = 10
    lang: Lang = "en"
    json: AsJson = False
    actor: Annotated[str | None, typer.Option(help="Who runs it (default: this computer's user).")] = None
    data_dir: DataDir = None


@taking(Options)
def backtest(options: Options) -> None:
    """Replay stored events, features as they were, under another policy, and compare it with the one in force.

    For a version that is drafted the report is kept with it, which approval asks for. Live counters stay untouched.
    """
    settings = settings_of(options.data_dir)
    with database(settings) as engine:
        version = version_of(options.policy)
        with engine.connect() as conn:
            draft = _compiled(conn, options.policy, version)
            in_force = _stored(conn, options.against)
            period = _period(conn, options)
        asked = Asked(draft, in_force, period, options.minutes, options.examples)
        report = _replay(engine, settings, asked)
        if version is not None:
            with engine.begin() as conn:
                policies.keep_backtest(conn, version, maker_or_user(options.actor), period, report)
    if options.json:
        out.print_json(msgspec.json.encode(report).decode())
    else:
        show(report, period, options.lang)


def _replay(engine: Engine, settings: Settings, asked: Asked) -> Report:
    with engine.connect() as conn, engine.connect() as other:
        names = missing(other, asked)
        recomputed = None
        if names:
            err.print(f"counting {len(names)} velocity names again from history: they were not stored")
            recomputed = recompute(other, Keys(settings.secret()), asked.period, names)
        return replayed(conn, asked, snapshots_of(other, settings), recomputed)


def snapshots_of(conn: Connection, settings: Settings) -> Snapshots:
    """Model snapshots as stored, verified with the key of the settings' secret; a few are kept at hand."""

    @lru_cache(SNAPSHOTS_KEPT)
    def read(version: int) -> Snapshot | None:
        return model_store.load(conn, model_key(settings.secret()), version)

    return read


def _compiled(conn: Connection, given: str, version: int | None) -> CompiledPolicy:
    if version is not None:
        return _stored(conn, version)
    return _loaded(document_of(Path(given)), given)


def _stored(conn: Connection, version: int | None) -> CompiledPolicy:
    try:
        document = policies.export(conn, version)
    except PolicyStepError as error:
        raise step_error(error) from error
    return _loaded(document, f"version {version}")


def _loaded(document: str, name: str) -> CompiledPolicy:
    try:
        return load_policy(document)
    except PolicyRefused as refused:
        problems = "; ".join(map(str, refused.problems))
        raise CommandError(f"{name}: {problems}", "correct the document") from refused


def step_error(error: ValueError) -> CommandError:
    """A refusal whose message tells behind its last "; " what to do."""
    what, _, remedy = str(error).rpartition("; ")
    return CommandError(what, remedy)


def _period(conn: Connection, options: Options) -> Period:
    row = conn.execute(_RANGE, {"program": options.program}).one()
    if row.first is None:
        now = datetime.now(UTC)
        first, last = now - timedelta(days=1), now
    else:
        first, last = row.first, row.last + timedelta(milliseconds=1)
    since, until = _time(options.since) or first, _time(options.until) or last
    if since >= until:
        raise CommandError(
            f"no time lies between {since:%Y-%m-%d %H:%M} and {until:%Y-%m-%d %H:%M}", "give --from below --to"
        )
    return Period(since, until, options.program)


def _time(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except ValueError as error:
        raise CommandError(f"{given!r} is no time", "write it as 2026-03-01 or 2026-03-01T10:00+08:00") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def show(report: Report, period: Period, lang: Literal["en", "zh"]) -> None:
    """Print a report as tables."""
    where = f" of {period.program}" if period.program else ""
    say(
        f"{report.events:,} events{escape(where)}, {report.points:,} points, "
        f"{period.since:%Y-%m-%d %H:%M} to {period.until:%Y-%m-%d %H:%M} UTC"
    )
    say(
        f"known: {report.fraud_events:,} fraudulent ({report.fraud_points:,} points), "
        f"{report.honest_events:,} honest ({report.honest_points:,} points)"
    )
    for why, count in report.skipped.items():
        say(f"left out: {count:,} {why}")
    if report.recomputed:
        say(f"recomputed from history: {', '.join(report.recomputed)}")
    for name, count in report.unknown.items():
        say(f"[yellow]unknown for {count:,} events: {name}[/]")
    _show_sides(report)
    _show_flips(report)
    _show_rules(report)
    for example in report.examples:
        said = example.zh if lang == "zh" else example.en
        label = f", known as {example.label}" if example.label else ""
        what = f"{example.type} {example.points:,} by {example.account}, {example.source} {example.event_id}"
        say(f"[bold]{example.was} → {example.becomes}[/]  {escape(what + label)}")
        for line in said:
            say(f"    {escape(line)}")


def _show_sides(report: Report) -> None:
    table = Table(title=f"version {report.version} beside version {report.against}")
    for title in ("", "in force", "draft"):
        table.add_column(title, justify="right" if title else "left")
    for name, value in _MEASURES:
        table.add_row(name, value(report.in_force), value(report.draft))
    out.print(table)


_MEASURES: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("events held", lambda side: f"{side.verdicts['hold']:,}"),
    ("events rejected", lambda side: f"{side.verdicts['reject']:,}"),
    ("points held", lambda side: f"{side.held_points:,}"),
    ("fraud stopped, events", lambda side: f"{side.fraud_events:,}"),
    ("fraud stopped, points", lambda side: f"{side.fraud_points:,}"),
    ("honest delayed, events", lambda side: f"{side.honest_events:,}"),
    ("honest delayed, points", lambda side: f"{side.honest_points:,}"),
    ("share of known fraud stopped", lambda side: _percent(side.recall)),
    ("fraud among stopped and labelled", lambda side: _percent(side.precision)),
    ("cases a day", lambda side: f"{side.holds_per_day:,.1f}"),
    ("hours of the desk a day", lambda side: f"{side.hours_per_day:,.1f}"),
)


def _show_flips(report: Report) -> None:
    if not report.flips:
        say("No verdict changes.")
        return
    table = Table(title="verdicts that change")
    for title in ("was", "becomes", "events", "points", "fraud", "honest"):
        table.add_column(title, justify="left" if title in {"was", "becomes"} else "right")
    for flip in report.flips:
        counts = (flip.events, flip.points, flip.fraud, flip.honest)
        table.add_row(flip.was, flip.becomes, *(f"{count:,}" for count in counts))
    out.print(table)


def _show_rules(report: Report) -> None:
    table = Table(title="rules of the draft")
    for title in ("rule", "mode", "hits", "of all", "points", "fraud", "honest", "precision"):
        table.add_column(title, justify="left" if title in {"rule", "mode"} else "right")
    for one in report.rules:
        counts = (f"{one.hits:,}", f"{one.share:.2%}", f"{one.points:,}", f"{one.fraud:,}", f"{one.honest:,}")
        table.add_row(one.rule, one.mode, *counts, _percent(one.precision))
    out.print(table)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
