"""Loyalty programmes: each a ledger of its own, with control accounts, stores' accounts, terms and a clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ledger.arrays import columns, fetch, run, texts
from ledger.book import Mode
from ledger.movement import Key
from ledger.schema import CONTROLS, account, program
from ledger.terms import DEFAULT_TERMS, Terms, check_change, read_terms, terms_document


class ProgramError(Exception):
    """A programme can't be used as asked."""


@dataclass(frozen=True, slots=True)
class Program:
    """A programme. `controls` are the ids of its control accounts by name.

    A *live* programme's ledger runs on PostgreSQL's clock. A *simulation*'s clock stands at the highest time its events
    brought, so that old files replay as they happened; the mode is for life. Only its `terms` may change.
    """

    name: str
    mode: Mode
    controls: Mapping[str, int]
    terms: Terms = DEFAULT_TERMS


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

_STORES = """
SELECT a.program, a.name, a.account_id
  FROM unnest(%(programs)s, %(names)s) AS w(program, name)
  JOIN account a ON a.program = w.program AND a.kind = 'store' AND a.name = w.name"""

_CREATE_STORES = """
INSERT INTO account (program, kind, name, opened_at)
SELECT program, 'store', name, clock_timestamp() FROM unnest(%(programs)s, %(names)s) AS w(program, name)
ON CONFLICT (program, kind, name) DO NOTHING"""


def create_program(conn: Connection, name: str, mode: Mode, terms: Terms = DEFAULT_TERMS) -> Program:
    """Create a programme with its control accounts, or return the one that exists, with the terms it has.

    Raises ProgramError when it exists in the other mode: a simulation can't be mixed with a live ledger.
    """
    row = {"program": name, "mode": mode, "terms": terms_document(terms)}
    conn.execute(upsert(program).values(row).on_conflict_do_nothing())
    conn.execute(_CREATE_CONTROLS, {"name": name, "controls": list(CONTROLS)})
    created = load_programs(conn, [name])[name]
    if created.mode != mode:
        raise ProgramError(f"programme {name!r} exists as {created.mode}; its mode can't change, choose another name")
    return created


def set_terms(conn: Connection, name: str, terms: Terms) -> Terms:
    """Change a programme's terms and return what they were; lots and holds keep what they were made with.

    Locks the programme's row. Workers take the new terms over within seconds. ProgramError when there is no such
    programme, TermsError for a change of what is for life.
    """
    document = conn.execute(
        select(program.c.terms).where(program.c.program == name).with_for_update()
    ).scalar_one_or_none()
    if document is None:
        raise ProgramError(f"there is no programme {name!r}")
    old = read_terms(document)
    check_change(old, terms)
    conn.execute(update(program).where(program.c.program == name).values(terms=terms_document(terms)))
    return old


def load_programs(conn: Connection, names: Collection[str] | None = None) -> dict[str, Program]:
    """Read programmes, all or those of these names, by name.

    Of what a Program says only the terms ever change, so a caller may keep it for a while and ask again when it meets a
    new name. Raises TermsError for terms that this version does not know.
    """
    controls: dict[str, dict[str, int]] = {}
    found = (
        select(program.c.program, program.c.mode, program.c.terms, account.c.name, account.c.account_id)
        .join(account, (account.c.program == program.c.program) & (account.c.kind == "control"))
        .order_by(program.c.program, account.c.account_id)
    )
    rows = conn.execute(found if names is None else found.where(program.c.program.in_(names))).all()
    for row in rows:
        controls.setdefault(row.program, {})[row.name] = row.account_id
    documents = {row.program: (row.mode, row.terms) for row in rows}
    return {
        name: Program(name, mode, controls[name], read_terms(document)) for name, (mode, document) in documents.items()
    }


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


def store_accounts(conn: Connection, wanted: Collection[Key]) -> dict[Key, int]:
    """Return the ids of stores' accounts by (program, store), opening those that there are not yet.

    Like control accounts they are never locked: batches append to `control_delta`, and `ledger.roll` folds.
    """
    found = _find_stores(conn, wanted)
    missing = sorted(set(wanted) - set(found))
    if missing:
        programs, names = columns(missing)
        run(conn, _CREATE_STORES, {"programs": texts(programs), "names": texts(names)})
        found |= _find_stores(conn, missing)
    return found


def _find_stores(conn: Connection, wanted: Collection[Key]) -> dict[Key, int]:
    if not wanted:
        return {}
    programs, names = columns(list(wanted))
    rows = fetch(conn, _STORES, {"programs": texts(programs), "names": texts(names)})
    return {(row[0], row[1]): row[2] for row in rows}
