"""Merges of members on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.book import Merge
from ledger.ids import IdBlocks
from ledger.merging import plan_merge
from ledger.movement import MAX_POINTS, Result
from ledger.plan import Plan
from ledger.pools import pass_memberships
from ledger.programs import Program, ledger_now
from ledger.store import find_accounts, lock_accounts, write
from ledger.store_lots import with_lots


class Merged(NamedTuple):
    """What became of a merge, and what was written for it."""

    result: Result
    plan: Plan


def merge(conn: Connection, programs: Mapping[str, Program], ids: IdBlocks, asked: Merge) -> Merged:
    """Let one member's points, debts, memberships and name pass to another; opens no account.

    Must run in a READ COMMITTED transaction, which the caller commits. KeyError for an unknown programme.
    """
    program = programs[asked.program].name
    known = find_accounts(conn, [(program, name) for name in {asked.account, asked.into}])
    accounts = lock_accounts(conn, programs, dict.fromkeys(known, 0))
    now = ledger_now(conn, [program])
    source = accounts.members.get((program, asked.account))
    if source is not None:
        members = with_lots(conn, accounts.members, {(program, asked.account): MAX_POINTS}, now)
        accounts = replace(accounts, members=members)
    planned = plan_merge(accounts, asked, now, ids.stream(conn))
    written = write(conn, planned, now)
    for done in written.merges:
        pass_memberships(conn, done.from_id, done.into_id, now[program])
    return Merged(planned.results[0], written)
