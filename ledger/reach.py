"""Locks whatever taking points back may touch, and completes the locked accounts with what that must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from sqlalchemy import Connection

from ledger.movement import Accounts, Key
from ledger.originals import Found, placed
from ledger.programs import Program, store_accounts
from ledger.store import lock_accounts
from ledger.store_lots import LedgerConflictError, with_lots

ATTEMPTS = 20


def lock_reach(
    conn: Connection,
    programs: Mapping[str, Program],
    opened: Mapping[Key, int],
    read: Callable[[], Collection[Found]],
) -> Accounts:
    """Lock accounts as `lock_accounts` does, and with them all that taking back what `read` finds may touch.

    That is found without locks at first, and again under them. If points went on to somebody else meanwhile, the locks
    are given back and taken anew, in the order of ids, with that account among them: locks taken one after the other
    would deadlock.
    """
    reach = _keys(read())
    for _ in range(ATTEMPTS):
        attempt = conn.begin_nested()
        accounts = lock_accounts(conn, programs, {**dict.fromkeys(sorted(reach), 0), **opened})
        now = _keys(read())
        if now <= reach:
            attempt.commit()
            return accounts
        attempt.rollback()  # gives the locks back
        reach |= now
    raise LedgerConflictError(f"whom a reversal touches changed {ATTEMPTS} times before the locks were there")


def completed(conn: Connection, accounts: Accounts, found: Collection[Found], now: Mapping[str, int]) -> Accounts:
    """Add to locked accounts the lots, and the stores' accounts, that taking back what was found may need."""
    taken: Counter[int] = Counter()
    for one in found:  # what one takes back may come out of the lots that another would fall back on
        for account_id in {accounts.members[key].account_id for key in one.keys}:
            taken[account_id] += one.origin.left
    wanted: dict[int, tuple[Key, int]] = {}
    for one in found:
        if one.origin.inflow:
            key = (one.origin.program, one.origin.account)
            account_id = accounts.members[key].account_id
            wanted[account_id] = (key, taken[account_id])
    members = with_lots(conn, accounts.members, dict(wanted.values()), now)
    stores = {store for one in found for store in one.stores if accounts.terms[store[0]].funding == "store"}
    ids = {**accounts.stores, **(store_accounts(conn, stores) if stores else {})}
    return placed(replace(accounts, members=members, stores=ids), found)


def _keys(found: Collection[Found]) -> set[Key]:
    return {key for one in found for key in one.keys}
