"""`pointguard pool`: who may spend the points of a household or a company."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.holds import moment
from cli.options import maker_or_user
from cli.reporting import ProgramName, program_of
from detectors.event_refusal import CONTROL
from detectors.event_types import ID_LENGTH_MAX
from ledger.book import pool_key
from ledger.movement import POOL
from ledger.people import let_in, let_out
from ledger.pools import memberships
from ledger.store import find_accounts

app = typer.Typer(help="Pools of points that several members share: add, remove, list.", no_args_is_help=True)

PoolName = Annotated[
    str, typer.Argument(metavar="POOL", help="As events name it in `pool`: family-3, not pool:family-3.")
]
Member = Annotated[str, typer.Argument(metavar="MEMBER", help="The member's account.")]
Actor = Annotated[str | None, typer.Option(help="Who decides (default: this computer's user).")]


@app.command()
def add(pool: PoolName, member: Member, program: ProgramName, actor: Actor = None, data_dir: DataDir = None) -> None:
    """Let a member put points into a pool and spend from it. A new pool is opened by its first member."""
    _check(pool)
    with database(settings_of(data_dir)) as engine, engine.begin() as conn:
        found = program_of(conn, program)
        if not find_accounts(conn, [(program, member)]) or member.startswith(POOL):
            raise CommandError(
                f"the programme has no member {member!r}", "members are opened by their first event; check the name"
            )
        joined = let_in(conn, {program: found}, program, pool, member, maker_or_user(actor))
    done = "may spend from" if joined else "could spend already from"
    named = f"events name it as `pool`, transfers to it as {escape(POOL + pool)}"
    say(f"{escape(member)} {done} the pool {escape(pool)}; {named}.")


@app.command()
def remove(pool: PoolName, member: Member, program: ProgramName, actor: Actor = None, data_dir: DataDir = None) -> None:
    """End a member's right to a pool. Its points stay in it; what is held of it stays held."""
    with database(settings_of(data_dir)) as engine, engine.begin() as conn:
        found = program_of(conn, program)
        left = let_out(conn, {program: found}, program, pool, member, maker_or_user(actor))
    if not left:
        err.print(f"[yellow]{escape(member)} is not a member of the pool {escape(pool)}[/]")
        raise typer.Exit(FOUND)
    say(f"{escape(member)} may not spend from the pool {escape(pool)} any more.")


@app.command("list")
def list_(
    program: ProgramName,
    pool: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List pools with their points and who may spend them."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        found = memberships(conn, program_of(conn, program).name, pool)
    if not found:
        say("There is no pool." if pool is None else f"There is no pool {escape(pool)}.")
        return
    table = Table()
    for title in ("pool", "points", "member", "since", "added by"):
        table.add_column(title, justify="right" if title == "points" else "left", overflow="fold")
    for one in found:
        cells = (one.pool, f"{one.points:,}", one.member or "–", moment(one.since), one.added_by or "–")
        table.add_row(*map(escape, cells))
    out.print(table)


def _check(pool: str) -> None:
    longest = ID_LENGTH_MAX - len(POOL)
    if not 1 <= len(pool) <= longest or CONTROL.search(pool):
        raise CommandError("no event can carry this name", f"take 1 to {longest} characters, no control ones")
    if pool.startswith(POOL):
        raise CommandError(
            f"{pool!r} would be the account {pool_key('', pool)[1]!r}", f"leave {POOL!r} out: it is put in front"
        )
