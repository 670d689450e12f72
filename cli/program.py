"""`pointguard program`: the loyalty programmes there are."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from cli.context import DataDir, database, out, say, settings_of
from cli.errors import CommandError
from cli.holds import moment
from detectors.event_refusal import CONTROL
from detectors.event_types import ID_LENGTH_MAX
from ledger.programs import ProgramError, create_program, load_programs
from streams.acts import program_created

app = typer.Typer(help="Loyalty programmes: list, create.", no_args_is_help=True)

_LIST = text("""
SELECT program, mode, clock, created_at,
       (SELECT count(*) FROM account a WHERE a.program = p.program AND a.kind = 'member') AS members
  FROM program p ORDER BY program""")


@app.command("list")
def list_(data_dir: DataDir = None) -> None:
    """List the programmes with their mode and, for a simulation, the time its clock stands at."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        table = Table()
        for title in ("programme", "mode", "clock", "members", "created"):
            table.add_column(title, justify="right" if title == "members" else "left")
        for row in conn.execute(_LIST):
            clock = "the database's" if row.mode == "live" else moment(row.clock)
            table.add_row(escape(row.program), row.mode, clock, f"{row.members:,}", moment(row.created_at))
        out.print(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="As events name it in `program`.")],
    simulation: Annotated[bool, typer.Option("--simulation", help="For replays and simulators; for life.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Create a programme, live unless told otherwise. Until it exists, its events are kept as dead letters."""
    if not 1 <= len(name) <= ID_LENGTH_MAX or CONTROL.search(name):
        raise CommandError(
            "no event can carry this name",
            f"take 1 to {ID_LENGTH_MAX} characters, no line breaks or other control ones",
        )
    with database(settings_of(data_dir)) as engine:
        try:
            with engine.begin() as conn:
                known = name in load_programs(conn, [name])
                made = create_program(conn, name, "simulation" if simulation else "live")
                if not known:
                    program_created(conn, getpass.getuser(), made)
        except ProgramError as error:
            raise CommandError(str(error), "see `pointguard program list`") from error
    say(f"Programme {escape(made.name)} is there, {made.mode}; workers know it within a few seconds.")
