"""`pointguard lists`: who is allowed, blocked or watched, until when and why."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection

from cli.backtest import step_error
from cli.context import DataDir, database, out, say, settings_of
from cli.errors import CommandError
from cli.holds import moment
from cli.options import maker_or_user, taking
from detectors.entity import Keys
from detectors.register import ALL_PROGRAMS, LIST_KINDS
from streams import listing
from streams.listing import Asked, ListingError, Target, Why

app = typer.Typer(help="Lists: allow, block, final, watch, and your own.", no_args_is_help=True)

KINDS = ", ".join(LIST_KINDS)
IMPORT_MOST = 100_000

Name = Annotated[str, typer.Argument(metavar="LIST", help="allow, block, final, watch, or a list of your own.")]
Kind = Annotated[str, typer.Argument(metavar="KIND", help=f"One of {KINDS}.")]
Value = Annotated[str, typer.Argument(metavar="VALUE", help="As events carry it; for ip also a network.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
Days = Annotated[float | None, typer.Option(min=0.01, max=3660, help="Ends after so many days (default: never).")]
Program = Annotated[str, typer.Option(help="Only for this programme (default: all).")]
Actor = Annotated[str | None, typer.Option(help="Who does it (default: this computer's user).")]


@contextmanager
def listing_in(data_dir: DataDir) -> Iterator[tuple[Connection, Keys]]:
    """A transaction and the keys of pseudonyms; refusals become two lines."""
    settings = settings_of(data_dir)
    with database(settings) as engine:
        try:
            with engine.begin() as conn:
                yield conn, Keys(settings.secret())
        except ListingError as error:
            raise step_error(error) from error


def until_of(days: float | None) -> datetime | None:
    """The end that lies so many days away."""
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What `lists add` takes."""

    name: Name
    kind: Kind
    value: Value
    reason: Reason
    days: Days = None
    program: Program = ALL_PROGRAMS
    actor: Actor = None
    data_dir: DataDir = None


@app.command()
@taking(Addition)
def add(options: Addition) -> None:
    """Put an account, device, IP address or network, store, staff, campaign, channel or source on a list."""
    why = Why(maker_or_user(options.actor), options.reason)
    with listing_in(options.data_dir) as (conn, keys):
        target = listing.target_of(options.kind, options.value, keys)
        made = listing.add(conn, options.name, options.program, [target], until_of(options.days), why)
    if not made:
        say(f"it is on list {escape(options.name)} already; nothing changed")
        return
    say(f"entry {made[0]} of list {escape(options.name)}; workers know it within a few seconds")


@app.command()
def remove(
    number: Annotated[int, typer.Argument(metavar="ENTRY", min=1, max=2**63 - 1, help="Its number.")],
    reason: Reason,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Take an entry off its list; the record of it stays."""
    with listing_in(data_dir) as (conn, _):
        listing.remove(conn, number, Why(maker_or_user(actor), reason))
    say(f"entry {number} counts no more")


@app.command()
def create(
    name: Name,
    reason: Reason,
    tier: Annotated[
        str, typer.Option(help="allow, block, final, watch, or plain: only for rules that name it.")
    ] = "plain",
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Make a list of your own; rules read it as `lists.NAME`."""
    with listing_in(data_dir) as (conn, _):
        listing.create_list(conn, name, tier, Why(maker_or_user(actor), reason))
    say(f"list {escape(name)} is there; rules read it as lists.{escape(name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What `lists show` takes."""

    name: Annotated[str | None, typer.Argument(metavar="[LIST]", help="Only entries of this list.")] = None
    kind: Annotated[str | None, typer.Option(help=f"With --value: one of {KINDS}.")] = None
    value: Annotated[str | None, typer.Option(help="Only entries of exactly this entity.")] = None
    entry: Annotated[int | None, typer.Option(min=1, max=2**63 - 1, help="Only this one.")] = None
    ended: Annotated[bool, typer.Option("--ended", help="Also those that were removed.")] = False
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the latest first.")] = 50
    data_dir: DataDir = None


@app.command()
@taking(Question)
def show(options: Question) -> None:
    """Show all lists, or entries of one, of one entity, or one by its number. Devices and addresses stay hidden."""
    if (options.kind is None) != (options.value is None):
        raise CommandError("--kind and --value belong together", "give both or neither")
    with listing_in(options.data_dir) as (conn, keys):
        if options.name is None and options.value is None and options.entry is None:
            _show_lists(conn)
            return
        target = None if options.kind is None else listing.target_of(options.kind, options.value or "", keys)
        asked = Asked(options.name, target, options.entry, options.ended or options.entry is not None, options.limit)
        rows = listing.entries(conn, asked)
    if not rows:
        say("There is none.")
        return
    table = Table()
    for title in ("entry", "list", "tier", "programme", "kind", "entity", "until", "by", "since", "why", "ended"):
        table.add_column(title, overflow="fold")
    for row in rows:
        ended = f"{moment(row.removed_at)} by {row.removed_by}: {row.removed_reason}" if row.removed_at else ""
        table.add_row(
            str(row.entry_id), row.list, row.tier, escape(row.program or "all"), row.kind, escape(row.shown),
            moment(row.until) if row.until else "for ever", escape(row.added_by), moment(row.added_at),
            escape(row.reason), escape(ended),
        )  # fmt: skip
    out.print(table)


def _show_lists(conn: Connection) -> None:
    table = Table()
    for title in ("list", "tier", "entries", "what it is for"):
        table.add_column(title, justify="right" if title == "entries" else "left", overflow="fold")
    for row in listing.lists(conn):
        table.add_row(row.name, row.tier, f"{row.entries:,}", escape(row.note))
    out.print(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What `lists import` takes."""

    name: Name
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV with the columns kind and value.")]
    reason: Reason
    days: Days = None
    program: Program = ALL_PROGRAMS
    actor: Actor = None
    data_dir: DataDir = None


@app.command("import")
@taking(Import)
def import_(options: Import) -> None:
    """Put all rows of a CSV file (columns `kind` and `value`) on a list, all or none; again, it adds nothing."""
    why = Why(maker_or_user(options.actor), options.reason)
    with listing_in(options.data_dir) as (conn, keys):
        targets = _targets(options.file, keys)
        made = listing.add(conn, options.name, options.program, targets, until_of(options.days), why)
    say(f"{len(made):,} of {len(targets):,} rows are new on list {escape(options.name)}")


def _targets(file: Path, keys: Keys) -> list[Target]:
    try:
        return list(_rows(file, keys))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{file} can't be read: {error}", "save it as CSV in UTF-8, readable for you") from error


def _rows(file: Path, keys: Keys) -> Iterator[Target]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        rows = csv.DictReader(opened)
        if not {"kind", "value"} <= set(rows.fieldnames or ()):
            raise CommandError(f"{file} has not the columns kind and value", "write them into its first line")
        for number, row in enumerate(rows, start=2):
            if number > IMPORT_MOST + 1:
                raise CommandError(f"{file} has more than {IMPORT_MOST:,} rows", "import it in parts")
            try:
                yield listing.target_of((row["kind"] or "").strip(), row["value"] or "", keys)
            except ListingError as error:
                raise ListingError(f"line {number}: {error}") from error
