"""`pointguard snooze`: one rule silent for one entity, with a reason and an end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.context import DataDir, out, say
from cli.errors import CommandError
from cli.holds import moment
from cli.lists import Actor, Program, Reason, listing_in
from cli.options import maker_or_user, taking
from detectors.register import ALL_PROGRAMS, SNOOZE_KINDS
from streams import listing, policies
from streams.listing import SNOOZE_MOST, Why

app = typer.Typer(
    help="Snoozes: a rule that is silent for one account, device, ip, store or staff.", no_args_is_help=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What `snooze add` takes."""

    rule: Annotated[str, typer.Argument(help="The rule's id, as reasons name it.")]
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(SNOOZE_KINDS)}.")]
    value: Annotated[str, typer.Argument(help="As events carry it.")]
    reason: Reason
    days: Annotated[float, typer.Option(min=0.01, max=SNOOZE_MOST.days, help="Ends after so many days.")] = 30
    program: Program = ALL_PROGRAMS
    actor: Actor = None
    data_dir: DataDir = None


@app.command()
@taking(Addition)
def add(options: Addition) -> None:
    """Silence one rule for one entity. Decisions tell that it would have spoken; all other rules stay."""
    with listing_in(options.data_dir) as (conn, keys):
        known = [rule.id for rule in policies.in_force(conn).rules]
        if options.rule not in known:
            raise CommandError(f"the policy in force has no rule {options.rule!r}", f"name one of {', '.join(known)}")
        target = listing.target_of(options.kind, options.value, keys)
        # A moment short of the longest, as the database's clock decides.
        ends = datetime.now(UTC) + min(timedelta(days=options.days), SNOOZE_MOST - timedelta(minutes=1))
        why = Why(maker_or_user(options.actor), options.reason)
        number = listing.snooze(conn, options.rule, options.program, target, ends, why)
    say(f"snooze {number}: {escape(options.rule)} is silent for this {options.kind} until {moment(ends)}")


@app.command("list")
def list_(
    rule: Annotated[str | None, typer.Option(help="Only of this rule.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that are over.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the latest first.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """List snoozes."""
    with listing_in(data_dir) as (conn, _):
        rows = listing.snoozes(conn, rule, ended=ended, limit=limit)
    if not rows:
        say("Nothing is snoozed.")
        return
    table = Table()
    for title in ("snooze", "rule", "programme", "kind", "entity", "until", "by", "why", "ended"):
        table.add_column(title, overflow="fold")
    for row in rows:
        over = f"{moment(row.ended_at)} by {row.ended_by}: {row.ended_reason}" if row.ended_at else ""
        table.add_row(
            str(row.snooze_id), row.rule, escape(row.program or "all"), row.kind, escape(row.shown),
            moment(row.until), escape(row.made_by), escape(row.reason), escape(over),
        )  # fmt: skip
    out.print(table)


@app.command()
def end(
    number: Annotated[int, typer.Argument(metavar="SNOOZE", min=1, max=2**63 - 1, help="Its number.")],
    reason: Reason,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """End a snooze before its time."""
    with listing_in(data_dir) as (conn, _):
        listing.end_snooze(conn, number, Why(maker_or_user(actor), reason))
    say(f"snooze {number} is over")
