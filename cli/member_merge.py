"""`pointguard member merge`: two accounts turned out to be one person's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.markup import escape

from cli.context import DataDir, database, say, settings_of
from cli.errors import CommandError
from cli.options import maker_or_user, taking
from cli.reporting import ProgramName, program_of
from ledger.book import Merge
from ledger.ids import IdBlocks
from ledger.movement import Code
from ledger.people import merge_members

REMEDIES: dict[Code, tuple[str, str]] = {
    "same_account": ("these are one account", "name the account that goes, then the one that stays"),
    "unknown_account": ("the programme does not have both of these members", "see `pointguard member show ACCOUNT`"),
    "account_merged": (
        "one of them was merged into another before",
        "`pointguard member show ACCOUNT` tells into which; name that one",
    ),
    "open_holds": (
        "points of the account that goes, or for it, are held",
        "decide these holds first: `pointguard holds list --account ACCOUNT`",
    ),
    "balance_out_of_range": ("together they have more points than can be counted", "adjust one of them first"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `member merge` takes."""

    account: Annotated[str, typer.Argument(metavar="FROM", help="The account that goes: its name stands for INTO.")]
    into: Annotated[str, typer.Argument(metavar="INTO", help="The account that stays.")]
    program: ProgramName
    reason: Annotated[str, typer.Option(help="Why, for the record.")]
    actor: Annotated[str | None, typer.Option(help="Who decides (default: this computer's user).")] = None
    data_dir: DataDir = None


@taking(Options)
def merge(options: Options) -> None:
    """Merge two members, for good: points with their expiry, debts and rights to pools pass from FROM to INTO."""
    if not options.reason.strip():
        raise CommandError("a merge needs a reason", 'write it, as in --reason "same phone and e-mail, case 4711"')
    ids = IdBlocks()
    with database(settings_of(options.data_dir)) as engine, engine.begin() as conn:
        program = program_of(conn, options.program)
        asked = Merge(
            id=ids.take(conn, 1)[0],
            program=program.name,
            account=options.account,
            into=options.into,
            actor=maker_or_user(options.actor),
            reason=options.reason,
        )
        done = merge_members(conn, {program.name: program}, ids, asked)
    if done.code != "posted":
        raise CommandError(*REMEDIES[done.code])
    owed = f", {done.owed:,} owed" if done.owed else ""
    say(f"{escape(options.account)} is {escape(options.into)} now: {done.available:,} points available{owed}.")
