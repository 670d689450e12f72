"""`pointguard policy`: versions of the policy, from draft to force and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Row

from cli.backtest import backtest as run_backtest
from cli.backtest import step_error
from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.holds import moment
from cli.options import document_of, maker_or_user, version_of
from config.policy import load_policy
from config.templates import template_text, templates
from detectors.policy import PolicyRefused, Problem
from streams import policies
from streams.policies import PolicyStepError

app = typer.Typer(help="Policies: draft, validate, backtest, approve, activate, roll back.", no_args_is_help=True)

Version = Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="The version, as `policy list` shows it.")]
Actor = Annotated[str | None, typer.Option(help="Who does it (default: this computer's user).")]
Why = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


@contextmanager
def changing(data_dir: DataDir) -> Iterator[Connection]:
    """A transaction whose refusals become two lines."""
    with database(settings_of(data_dir)) as engine:
        try:
            with engine.begin() as conn:
                yield conn
        except PolicyStepError as error:
            raise step_error(error) from error


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the latest first.")] = 20,
    data_dir: DataDir = None,
) -> None:
    """List versions: what is saved, what is in force, what workers really use; and rules that are paused."""
    with changing(data_dir) as conn:
        rows, workers, paused = policies.versions(conn, limit), policies.loaded(conn), policies.pauses(conn)
    table = Table()
    for title in ("version", "state", "author", "approved by", "drafted", "in force since", "used by", "note"):
        table.add_column(title, justify="right" if title in {"version", "used by"} else "left")
    for row in rows:
        since = moment(row.activated_at) if row.active else ""
        used = f"{row.loaded}" + (f", refused by {row.refusing}" if row.refusing else "")
        table.add_row(
            str(row.version), _state(row), escape(row.author or "installed"), escape(row.approved_by or ""),
            moment(row.drafted_at), since, used, escape(row.note),
        )  # fmt: skip
    out.print(table)
    active = next((row.version for row in rows if row.active), None)
    for worker in workers:
        if worker.refused is not None:
            err.print(
                f"[bold red]{escape(worker.worker)} refused version {worker.refused}[/] {escape(worker.why or '')}"
            )
        elif active is not None and worker.version != active:
            say(f"[yellow]{escape(worker.worker)} still uses version {worker.version}[/]")
    for pause in paused:
        said = f"rule {pause.rule} of version {pause.version} is paused since {moment(pause.since)}"
        say(f"[yellow]{escape(said)}[/]: {escape(pause.why)}")


def _state(row: Row[tuple[object, ...]]) -> str:
    if row.active:
        return "[bold green]in force[/]"
    if row.activated_at is not None:
        return "was in force"
    return "approved" if row.approved_by else str(row.step or "installed")


@app.command()
def show(version: Version, data_dir: DataDir = None) -> None:
    """Show one version: its steps, its rules and how often they spoke, and its latest backtest."""
    with changing(data_dir) as conn:
        document = policies.export(conn, version)
        steps, used = policies.steps(conn, version), policies.use(conn, version)
        latest = policies.latest_backtest(conn, version)
    table = Table(title=f"version {version}")
    for title in ("step", "by", "at", "why"):
        table.add_column(title, overflow="fold")
    for step in steps:
        table.add_row(step.step, escape(step.actor), moment(step.at), escape(step.reason))
    out.print(table)
    counts = {row.rule: row for row in used}
    rules = Table(title="rules, and what they did while in force")
    for title in ("rule", "mode", "effect", "rollout", "hits", "on trial", "snoozed", "of all"):
        rules.add_column(title, justify="left" if title in {"rule", "mode", "effect"} else "right")
    try:
        policy = load_policy(document).policy
    except PolicyRefused as refused:
        tell(refused.problems)
        return
    for rule in policy.rules:
        row = counts.get(rule.id)
        effect = rule.outcome or f"{rule.weight:+.2f}"
        said = (row.hits, row.shadow, row.snoozed) if row else (0, 0, 0)
        share = f"{(row.hits + row.shadow) / row.events:.2%}" if row and row.events else "–"
        rules.add_row(rule.id, rule.mode, effect, f"{rule.rollout:g} %", *(f"{one:,}" for one in said), share)
    out.print(rules)
    if latest is not None:
        say(f"latest backtest: {latest.events:,} events by {escape(latest.made_by)}, {moment(latest.made_at)}")


@app.command()
def draft(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The document.")],
    reason: Why,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Keep a document as the next version, not in force; only its `version` line is set to the new number."""
    with changing(data_dir) as conn:
        try:
            version = policies.draft(conn, document_of(file), maker_or_user(actor), reason)
        except PolicyRefused as refused:
            raise CommandError(str(refused.problems[0]), "correct the document") from refused
    say(f"drafted version {version}; next: pointguard policy validate {version}")


@app.command()
def validate(
    given: Annotated[str, typer.Argument(metavar="VERSION|FILE", help="A version, or a file that is not drafted yet.")],
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Check a document as workers would: every mistake with line, column, rule and remedy."""
    version = version_of(given)
    if version is not None:
        with changing(data_dir) as conn:
            problems = policies.validate(conn, version, maker_or_user(actor))
    else:
        problems = _problems(Path(given))
    tell(problems)
    if problems:
        raise typer.Exit(FOUND)
    say(f"{escape(given)} is a valid policy")


def _problems(path: Path) -> tuple[Problem, ...]:
    try:
        load_policy(document_of(path))
    except PolicyRefused as refused:
        return refused.problems
    return ()


def tell(problems: object) -> None:
    """Print what is wrong with a document, a line each."""
    for problem in problems:  # type: ignore[attr-defined]  # any iterable of problems
        err.print(f"[yellow]{escape(str(problem))}[/]", soft_wrap=True)


app.command("backtest")(run_backtest)


@app.command()
def approve(version: Version, reason: Why, actor: Actor = None, data_dir: DataDir = None) -> None:
    """Approve a version that was validated and backtested; by somebody else than its author."""
    with changing(data_dir) as conn:
        policies.approve(conn, version, maker_or_user(actor), reason)
    say(f"version {version} is approved; next: pointguard policy activate {version}")


@app.command()
def activate(version: Version, reason: Why, actor: Actor = None, data_dir: DataDir = None) -> None:
    """Put an approved version into force; workers take it over within seconds, between two batches."""
    with changing(data_dir) as conn:
        policies.activate(conn, version, maker_or_user(actor), reason)
    say(f"version {version} is in force; `pointguard policy list` shows which workers use it")


@app.command()
def rollback(reason: Why, actor: Actor = None, data_dir: DataDir = None) -> None:
    """Put the version that was in force before back into force."""
    with changing(data_dir) as conn:
        version = policies.roll_back(conn, maker_or_user(actor), reason)
    say(f"version {version} is in force again")


@app.command()
def export(
    version: Annotated[
        int | None, typer.Argument(min=1, max=2**63 - 1, help="The version (default: in force).")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Give a version's document, to the byte as it was drafted."""
    with changing(data_dir) as conn:
        document = policies.export(conn, version)
    if to is None:
        typer.echo(document, nl=False)
    else:
        to.write_text(document, encoding="utf-8", newline="")
        say(f"written to {escape(str(to))}")


@app.command("resume-rule")
def resume_rule(
    rule: Annotated[str, typer.Argument(help="The rule's id.")],
    reason: Why,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Let a rule that the circuit breaker paused have its effect again."""
    with changing(data_dir) as conn:
        policies.resume(conn, rule, maker_or_user(actor), reason)
    say(f"rule {escape(rule)} has its effect again")


@app.command("templates")
def templates_(
    name: Annotated[str | None, typer.Argument(help="Print this rule as YAML, to paste under `rules`.")] = None,
) -> None:
    """List ready rules for the usual abuse, or print one."""
    if name is not None:
        try:
            typer.echo(template_text(name), nl=False)
        except KeyError as error:
            raise CommandError(f"there is no template {name!r}", "see `pointguard policy templates`") from error
        return
    table = Table()
    for title in ("template", "against"):
        table.add_column(title, overflow="fold", no_wrap=title == "template")
    for template in templates():
        table.add_row(template.name, escape(template.about))
    out.print(table)
