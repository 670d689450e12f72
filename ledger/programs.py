"""Loyalty programmes: each a ledger of its own, with its control accounts and its clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, select, text

from ledger.schema import CONTROLS, account, program

Mode = Literal["live", "simulation"]


class ProgramError(Exception):
    """A programme can't be used as asked."""


@dataclass(frozen=True, slots=True)
class Program:
    """A programme. `controls` are the ids of its control accounts by name.

    A *live* programme's ledger runs on PostgreSQL's clock. A *simulation*'s clock stands at the highest time its events
    brought, so that old files replay as they happened; the mode is for life.
    """

    name: str
    mode: Mode
    controls: Mapping[str, int]


_CREATE = text("INSERT INTO program (program, mode) VALUES (:name, :mode) ON CONFLICT (program) DO NOTHING")

_CREATE_CONTROLS = text("""
INSERT INTO account (program, kind, name, opened_at)
SELECT :name, 'control', control, clock_timestamp() FROM unnest(CAST(:controls AS text[])) AS c(control)
ON CONFLICT (program, kind, name) DO NOTHING""")

_NOW = text("""
SELECT program, floor(date_part('epoch', CASE mode WHEN 'live' THEN clock_timestamp() ELSE clock END) * 1000)::bigint
  FROM program WHERE program = ANY(CAST(:names AS text[]))""")

_ADVANCE = text("""
UPDATE program SET clock = to_timestamp(CAST(:epoch_ms AS bigint) / 1000.0)
 WHERE program = :name AND mode = 'simulation'
   AND (clock IS NULL OR clock < to_timestamp(CAST(:epoch_ms AS bigint) / 1000.0))""")


def create_program(conn: Connection, name: str, mode: Mode) -> Program:
    """Create a programme with its control accounts, or return the one that exists.

    Raises ProgramError when it exists in the other mode: a simulation can't be mixed with a live ledger.
    """
    conn.execute(_CREATE, {"name": name, "mode": mode})
    conn.execute(_CREATE_CONTROLS, {"name": name, "controls": list(CONTROLS)})
    created = load_programs(conn)[name]
    if created.mode != mode:
        raise ProgramError(f"programme {name!r} exists as {created.mode}; its mode can't change, choose another name")
    return created


def load_programs(conn: Connection) -> dict[str, Program]:
    """Read all programmes, by name.

    What a Program says never changes, so a caller may keep it and ask again when it meets a new name.
    """
    controls: dict[str, dict[str, int]] = {}
    rows = conn.execute(
        select(program.c.program, program.c.mode, account.c.name, account.c.account_id)
        .join(account, (account.c.program == program.c.program) & (account.c.kind == "control"))
        .order_by(program.c.program, account.c.account_id)
    ).all()
    for row in rows:
        controls.setdefault(row.program, {})[row.name] = row.account_id
    return {row.program: Program(row.program, row.mode, controls[row.program]) for row in rows}


def ledger_now(conn: Connection, names: Collection[str]) -> dict[str, int]:
    """Read the ledger's time of each programme, in epoch milliseconds: what is written now is recorded at it.

    Ask after the accounts are locked: then an account's entries are recorded in the order of their sequence. A
    simulation that has seen no event yet stands at 0.
    """
    return {name: now or 0 for name, now in conn.execute(_NOW, {"names": sorted(names)})}


def advance_clock(conn: Connection, name: str, epoch_ms: int) -> bool:
    """Move a simulation's clock up to `epoch_ms` (milliseconds since 1970); True if it moved. A live clock never does.

    Locks the programme's row until the transaction ends. In the one lock order it comes after the accounts.
    """
    return conn.execute(_ADVANCE, {"name": name, "epoch_ms": epoch_ms}).rowcount == 1
