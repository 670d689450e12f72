"""What reading commands have in common: moments as people write them, money, JSON for machines, one consistent view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from sqlalchemy import Connection, Engine

from cli.context import database, out, settings_of
from cli.errors import CommandError
from ledger.import_cells import CellError, moment_in
from ledger.programs import Program, load_programs

Json = Annotated[bool, typer.Option("--json", help="For machines: JSON, nothing else.")]
ProgramName = Annotated[str, typer.Option("--program", help="The programme.")]
Zone = Annotated[str, typer.Option("--timezone", help="Where days begin and end, and times without a zone are meant.")]

# Minor units of the currencies that have not two decimals (ISO 4217).
_DECIMALS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}


def money(amount: int, currency: str) -> str:
    """An amount in minor units as people write it: 123456 fen are 1,234.56 CNY."""
    decimals = _DECIMALS.get(currency, 2)
    whole, rest = divmod(abs(amount), 10**decimals)
    fraction = f".{rest:0{decimals}d}" if decimals else ""
    return f"{'-' if amount < 0 else ''}{whole:,}{fraction} {currency}"


def instant(text: str | None, zone: tzinfo, option: str, *, end_of_day: bool = False) -> int | None:
    """A moment given on the command line, in epoch milliseconds: a day's beginning (or end), or a time."""
    if text is None:
        return None
    try:
        return moment_in(text, zone, end_of_day=end_of_day)
    except CellError as error:
        what, _, remedy = str(error).partition("; ")
        raise CommandError(f"{option} {what}", remedy or "write 2026-12-31 or 2026-12-31T23:59:59+08:00") from error


def print_json(value: Any) -> None:
    """Print a value of ours as JSON, on lines that no terminal's width breaks."""
    out.print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), soft_wrap=True, markup=False)


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one moment of the ledger, however many statements it takes."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
        yield conn


@contextmanager
def ledger_view(data_dir: Path | None) -> Iterator[Connection]:
    """One moment of the ledger's database."""
    with database(settings_of(data_dir)) as engine, snapshot(engine) as conn:
        yield conn


def program_of(conn: Connection, name: str) -> Program:
    """The programme of that name. CommandError if there is none."""
    found = load_programs(conn, [name]).get(name)
    if found is None:
        raise CommandError(f"there is no programme {name!r}", "see `pointguard program list`")
    return found
