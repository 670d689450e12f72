"""`pointguard program`: the loyalty programmes there are."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from cli.context import DataDir, database, out, say, settings_of
from cli.errors import CommandError
from cli.holds import moment
from detectors.event_refusal import CONTROL
from detectors.event_types import ID_LENGTH_MAX
from ledger.book import Mode
from ledger.programs import Program, ProgramError, create_program, load_programs, set_terms
from ledger.terms import Terms, TermsError, read_terms, terms_document
from streams.acts import program_created, terms_changed

app = typer.Typer(help="Loyalty programmes: list, create, and the terms of their points.", no_args_is_help=True)

TermsHelp = "Terms, each as NAME=VALUE, such as expiry_days=730; `program terms` shows all."

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
    terms: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]…", help=TermsHelp)] = None,
    simulation: Annotated[bool, typer.Option("--simulation", help="For replays and simulators; for life.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Create a programme, live unless told otherwise. Until it exists, its events are kept as dead letters."""
    if not 1 <= len(name) <= ID_LENGTH_MAX or CONTROL.search(name):
        raise CommandError(
            "no event can carry this name",
            f"take 1 to {ID_LENGTH_MAX} characters, no line breaks or other control ones",
        )
    wanted, mode = changed(Terms(), terms or []), _mode(simulation=simulation)
    with database(settings_of(data_dir)) as engine:
        try:
            with engine.begin() as conn:
                known = name in load_programs(conn, [name])
                made = create_program(conn, name, mode, wanted)
                if not known:
                    program_created(conn, getpass.getuser(), made)
        except ProgramError as error:
            raise CommandError(str(error), "see `pointguard program list`") from error
    if terms and made.terms != wanted:
        raise CommandError(f"programme {name} is there with other terms", f"see `pointguard program terms {name}`")
    say(f"Programme {escape(made.name)} is there, {made.mode}; workers know it within a few seconds.")


@app.command("terms")
def terms_(
    name: Annotated[str, typer.Argument(help="The programme.")],
    terms: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]…", help=TermsHelp)] = None,
    data_dir: DataDir = None,
) -> None:
    """Show a programme's terms, or change some: lots and holds that are there keep what they were made with."""
    with database(settings_of(data_dir)) as engine:
        with engine.begin() as conn:
            found = _found(load_programs(conn, [name]), name)
            wanted = changed(found.terms, terms or [])
            if wanted != found.terms:
                try:
                    before = set_terms(conn, name, wanted)
                except TermsError as error:
                    raise CommandError(str(error), "leave it as it is") from error
                terms_changed(conn, getpass.getuser(), name, before, wanted)
        table = Table(title=f"{escape(name)}, {found.mode}")
        for title in ("term", "value", "usually"):
            table.add_column(title)
        usual = Terms()
        for field in Terms.__struct_fields__:
            value, default = (_shown(getattr(one, field)) for one in (wanted, usual))
            table.add_row(field, value, "" if value == default else default)
        out.print(table)


def changed(terms: Terms, given: Sequence[str]) -> Terms:
    """The terms with the given ones (NAME=VALUE, the value as JSON or plain) in their place; CommandError if wrong."""
    document = terms_document(terms)
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in Terms.__struct_fields__:
            known = ", ".join(Terms.__struct_fields__)
            raise CommandError(f"{one!r} is no term of a programme", f"give NAME=VALUE with one of {known}")
        document[name] = _value(value)
    try:
        return read_terms(document)
    except TermsError as error:
        raise CommandError(str(error), "see `pointguard program terms` for what there is") from error


def _value(text_: str) -> Any:
    if text_ in {"", "never", "none"}:
        return None
    try:
        return msgspec.json.decode(text_)
    except msgspec.DecodeError:
        return text_


def _shown(value: object) -> str:
    if value is None:
        return "never"
    return f"{value:,}" if type(value) is int else escape(str(value))


def _mode(*, simulation: bool) -> Mode:
    return "simulation" if simulation else "live"


def _found(programs: Mapping[str, Program], name: str) -> Program:
    if name not in programs:
        raise CommandError(f"there is no programme {name}", "see `pointguard program list`")
    return programs[name]
