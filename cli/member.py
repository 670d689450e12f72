"""`pointguard member`: what a member has, why, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import Connection

from cli.context import DataDir, say
from cli.errors import CommandError
from cli.member_merge import merge
from cli.member_tables import (
    print_balance,
    print_days,
    print_holds,
    print_lots,
    print_reminders,
    print_statement,
)
from cli.options import taking, zone_of
from cli.reporting import Json, ProgramName, Zone, instant, ledger_view, print_json, program_of
from ledger.history import Account, acting_account, find_account
from ledger.import_cells import NEVER_MS
from ledger.lines import Place
from ledger.programs import ledger_now
from ledger.queries import HoldFilter, balance, expiring, expiring_days, lots, open_holds, reminders
from ledger.statements import Paging, Wanted, statement

app = typer.Typer(
    help="What members have: balance, statement, lots, what expires when; merging two.", no_args_is_help=True
)
app.command()(merge)

AccountName = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The member, or a pool as pool:NAME.")]
_KINDS = ("earn", "redeem", "transfer", "adjust", "reverse", "expire", "merge")
_HOLDS_SHOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentOptions:
    """What commands take that look at one account at a moment."""

    account: AccountName
    program: ProgramName
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="As of then, as in 2026-02-28T12:00+08:00 (default: now).")
    ] = None
    timezone: Zone = "UTC"
    json: Json = False
    data_dir: DataDir = None


@app.command()
@taking(MomentOptions)
def show(options: MomentOptions) -> None:
    """Show what a member has: posted, pending, available, owed; what expires on which day; what holds freeze."""
    zone = zone_of(options.timezone)
    at_ms = instant(options.at, zone, "--at")
    with ledger_view(options.data_dir) as conn:
        account = _account(conn, options.program, options.account)
        found = balance(conn, account.program, account.name, at_ms)
        days = expiring(lots(conn, account.program, account.name, at_ms), zone)
        wanted = HoldFilter(account.program, account.name, coming=True)
        holds = [] if at_ms is not None else open_holds(conn, wanted, limit=_HOLDS_SHOWN)
        acting = acting_account(conn, account.program, account.name, at_ms)
    name = account.name if acting is None else acting.name
    if options.json:
        print_json({"account": name, "program": account.program, "balance": found, "expiring": days, "holds": holds})
        return
    if name != account.name:
        say(f"{escape(account.name)} was merged into {escape(name)}, which this is.")
    if found is not None:
        print_balance(found, f"{name} in {account.program}{f', {options.at}' if options.at else ''}")
    print_days(days)
    print_holds(holds, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementOptions:
    """What `member statement` takes."""

    account: AccountName
    program: ProgramName
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From this day or time on.")] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this day (its end) or time.")] = None
    kind: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(_KINDS)}; repeatable.")] = None
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines a page, the newest first.")] = 20
    before: Annotated[str | None, typer.Option(metavar="PLACE", help="The page of older lines before this place.")] = (
        None
    )
    after: Annotated[str | None, typer.Option(metavar="PLACE", help="The page of newer lines after this place.")] = None
    timezone: Zone = "UTC"
    json: Json = False
    data_dir: DataDir = None


@app.command("statement")
@taking(StatementOptions)
def statement_(options: StatementOptions) -> None:
    """Tell every change with its cause and the balance after it, page by page; `--after 0.0` begins with the oldest."""
    zone = zone_of(options.timezone)
    wanted = Wanted(
        instant(options.since, zone, "--since"),
        instant(options.until, zone, "--until", end_of_day=True),
        frozenset(options.kind) if options.kind else None,
    )
    if options.kind and not set(options.kind) <= set(_KINDS):
        raise CommandError(
            f"there is no kind {', '.join(set(options.kind) - set(_KINDS))}", f"take {', '.join(_KINDS)}"
        )
    if options.before and options.after:
        raise CommandError("--before and --after point at two pages", "give one of them")
    paging = Paging(_place(options.before or options.after), newer=bool(options.after), size=options.limit)
    with ledger_view(options.data_dir) as conn:
        account = _account(conn, options.program, options.account)
        found = statement(conn, account.program, account.name, wanted, paging)
    if found is None:
        raise _nobody(options.program, options.account)
    if options.json:
        places = {"older": found.older and str(found.older), "newer": found.newer and str(found.newer)}
        print_json({"account": found.account, "program": found.program, "merged_into": found.merged_into, **places,
                    "lines": found.lines})  # fmt: skip
    else:
        print_statement(found, zone)


@app.command("lots")
@taking(MomentOptions)
def lots_(options: MomentOptions) -> None:
    """List a member's lots in the order in which they are used: when earned, where, until when, what is reserved."""
    at_ms = instant(options.at, zone_of(options.timezone), "--at")
    with ledger_view(options.data_dir) as conn:
        account = _account(conn, options.program, options.account)
        found = lots(conn, account.program, account.name, at_ms)
    if options.json:
        print_json(found)
    elif found:
        print_lots(found, account.name, account.now_ms if at_ms is None else at_ms)
    else:
        say("No lot holds points.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiringOptions:
    """What `member expiring` takes."""

    program: ProgramName
    account: Annotated[str | None, typer.Argument(help="The member (default: all of the programme).")] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this day (its end) or time.")] = None
    each: Annotated[
        bool, typer.Option("--each", help="Every member and day by itself: who is to be reminded of how much.")
    ] = False
    timezone: Zone = "UTC"
    json: Annotated[bool, typer.Option("--json", help="For machines: JSON; with --each one object a line.")] = False
    data_dir: DataDir = None


@app.command("expiring")
@taking(ExpiringOptions)
def expiring_(options: ExpiringOptions) -> None:
    """Tell how many points expire on which day: of one member, of the programme, or member by member."""
    zone = zone_of(options.timezone)
    until = instant(options.until, zone, "--until", end_of_day=True)
    until_ms = (NEVER_MS if until is None else until) - 1
    with ledger_view(options.data_dir) as conn:
        if options.account is not None:
            account = _account(conn, options.program, options.account)
            found = lots(conn, account.program, account.name)
            days = expiring([lot for lot in found if lot.due(until_ms)], zone)
        else:
            program = program_of(conn, options.program).name
            if options.each:
                now_ms = ledger_now(conn, [program])[program]
                print_reminders(reminders(conn, program, now_ms, until_ms, zone), json=options.json)
                return
            days = expiring_days(conn, program, until_ms, zone)
    if options.json:
        print_json(days)
    elif days:
        print_days(days)
    else:
        say("Nothing expires.")


def _account(conn: Connection, program: str, name: str) -> Account:
    """The account of that name. CommandError if nothing has named it yet."""
    found = find_account(conn, program_of(conn, program).name, name)
    if found is None:
        raise _nobody(program, name)
    return found


def _nobody(program: str, name: str) -> CommandError:
    return CommandError(
        f"programme {program!r} has no member {name!r}",
        "names are compared exactly, capitals too; a pool's begins with pool:",
    )


def _place(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        return Place.read(text)
    except ValueError as error:
        raise CommandError(str(error), "take it from the last line of a page, as in 120.3") from error
