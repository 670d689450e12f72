"""`pointguard links`: which accounts belong together, and why."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from cli.context import DataDir, out, say
from cli.errors import CommandError
from cli.holds import moment
from cli.member_tables import table_of
from cli.reporting import Json, ProgramName, ledger_view, print_json, program_of
from streams.link_views import ClusterView, SharedView, cluster_of

app = typer.Typer(help="Accounts that share devices, addresses, payment tokens or referrers.", no_args_is_help=True)

NAMED_MAX = 6


@app.callback()
def _group() -> None:
    """Accounts that share devices, addresses, payment tokens or referrers."""


@app.command()
def show(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="A member.")],
    program: ProgramName,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show the cluster of a member: who is in it, what links them, what too many share, and the points at stake."""
    with ledger_view(data_dir) as conn:
        found = cluster_of(conn, program_of(conn, program).name, account)
    if found is None:
        raise CommandError(
            f"programme {program!r} has no member {account!r}", "names are compared exactly, capitals too"
        )
    if json:
        print_json({"accounts": len(found.members), "points_at_stake": found.at_stake, "cluster": found})
        return
    if len(found.members) > 1:
        say(f"{len(found.members)} accounts belong together; {found.at_stake:,} points are at stake.")
    else:
        say(f"{escape(account)} is linked with nobody.")
    _print_members(found)
    _print_shared("what links them", found.shared, hubs=False)
    _print_shared("hubs: shared by too many to link anybody", found.hubs, hubs=True)


def _print_members(found: ClusterView) -> None:
    table = table_of("accounts", "account", "signed up", "first linked", "available", "at stake", "holds", "flagged")
    for name in ("available", "at stake", "holds"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for member in found.members:
        table.add_row(
            escape(member.account),
            moment(member.signed_up_at),
            moment(member.linked_at),
            f"{member.available:,}",
            f"{member.at_stake:,}",
            f"{member.open_holds:,}",
            member.flagged or "–",
        )
    out.print(table)


def _print_shared(title: str, shared: tuple[SharedView, ...], *, hubs: bool) -> None:
    if not shared:
        return
    last = "hub since" if hubs else "last joined"
    table = table_of(title, "kind", "name", "accounts of these", "seen with", "first seen", last)
    for one in shared:
        names = ", ".join(one.accounts[:NAMED_MAX])
        more = len(one.accounts) - NAMED_MAX
        table.add_row(
            one.kind,
            escape(one.name),
            escape(f"{names}, and {more} more" if more > 0 else names),
            f"{one.seen_with:,}{' or more' if hubs else ''}",
            moment(one.first_at),
            moment(one.hub_since if hubs else one.last_at),
        )
    out.print(table)
