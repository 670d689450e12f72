"""Locks accounts and writes plans: the ledger's part of a batch transaction, one statement a table.

`conn` is a connection inside the caller's READ COMMITTED transaction; nothing here commits. Order of locks: progress
rows and inbox (the caller's), then accounts by id, then programme clocks. The lock of an account is the lock of all
that is its own: arrears, lots, holds, memberships of a pool. What goes with lots is in `ledger.store_lots`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.arrays import (
    Layout,
    bigints,
    bigints_or_0,
    booleans,
    columns,
    fetch,
    pack,
    run,
    smallints,
    texts,
    timestamps,
)
from ledger.movement import POOL, Accounts, AccountState, ArrearsState, Key
from ledger.plan import AccountChange, Entry, Plan
from ledger.programs import Program
from ledger.store_lots import LedgerConflictError, write_holds, write_lots, write_reversals


class LockedAccount(NamedTuple):
    """A member's or pool's account under its lock."""

    key: Key
    state: AccountState


REMEMBERED_MAX = 1 << 17
"""So many accounts' ids are remembered with a connection; then it begins anew."""
_NAMED = frozenset({"member", "pool", "merged"})


_FIND = """
SELECT w.n, a.account_id, a.merged_into
  FROM unnest(%(programs)s, %(kinds)s, %(names)s) WITH ORDINALITY AS w(program, kind, name, n)
  JOIN account a ON a.program = w.program AND a.kind = w.kind AND a.name = w.name"""

_CREATE = """
INSERT INTO account (program, kind, name, opened_at)
SELECT program, 'member', name, opened_at
  FROM unnest(%(programs)s, %(names)s, %(opened)s) AS w(program, name, opened_at)
 ORDER BY program, name
ON CONFLICT (program, kind, name) DO NOTHING"""

# Where merged accounts ended up: an account may be merged into one that is itself merged later.
_FINAL = """
WITH RECURSIVE step AS (
    SELECT account_id AS origin, merged_into AS here FROM account
     WHERE account_id = ANY(%(ids)s) AND merged_into IS NOT NULL
    UNION ALL
    SELECT s.origin, a.merged_into FROM step s JOIN account a ON a.account_id = s.here WHERE a.merged_into IS NOT NULL)
SELECT s.origin, s.here FROM step s JOIN account a ON a.account_id = s.here WHERE a.merged_into IS NULL"""

# An AccountState's columns, as far as they go: the id of the arrears in their place, and a kind of its own for an
# account that was merged, since few rows are either. Behind them whose it is.
_LOCK = """
SELECT a.account_id, a.posted_dr, a.posted_cr, a.pending_dr, a.pending_cr, a.entry_count,
       (date_part('epoch', a.opened_at) * 1000)::bigint, (date_part('epoch', a.signed_up_at) * 1000)::bigint,
       (date_part('epoch', a.credential_changed_at) * 1000)::bigint, a.arrears_id,
       CASE WHEN a.merged_into IS NULL THEN a.kind ELSE 'merged' END, a.open_holds, a.program, a.name
  FROM account a WHERE a.account_id = ANY(%(ids)s) ORDER BY a.account_id FOR UPDATE"""

_ARREARS = "SELECT account_id, posted_dr, posted_cr, entry_count FROM account WHERE account_id = ANY(%(ids)s)"


def lock_accounts(conn: Connection, programs: Mapping[str, Program], opened: Mapping[Key, int]) -> Accounts:
    """Lock the accounts named by `opened`'s keys, creating members that do not exist, and return their state.

    The value of a key is the time (epoch milliseconds) from which a new account counts as open. Rows are locked in the
    order of their ids, so that batches never deadlock over them. The state of a merged account is that of the account
    which took its place; a pool that does not exist is left out. No lots yet: `ledger.store_lots.load` adds what a
    batch needs. KeyError for a programme not in `programs`.
    """
    keys = list(opened)
    used = {program for program, _ in keys}
    controls = {(name, control): account_id for name in used for control, account_id in programs[name].controls.items()}
    terms = {name: programs[name].terms for name in used}
    remembered = _remembered(conn)
    ids = {key: remembered[key] for key in keys if key in remembered}
    found, elsewhere = _find(conn, [key for key in keys if key not in ids])
    missing = [key for key in keys if key not in ids and key not in found and not key[1].startswith(POOL)]
    if missing:
        _create(conn, missing, opened)
        found |= find_accounts(conn, missing)
    locked, moved = _lock(conn, {*ids.values(), *found.values()})
    if _astray(ids, locked):
        # Not the history those ids were read from: a proxy led this connection to another server, perhaps.
        remembered.clear()
        return lock_accounts(conn, programs, opened)
    remembered |= {key: account_id for key, account_id in found.items() if key not in elsewhere}
    ids |= found
    if moved:
        elsewhere |= {key for key, account_id in ids.items() if account_id in moved}
        ids = {key: moved.get(account_id, account_id) for key, account_id in ids.items()}
    members = {key: locked[account_id].state for key, account_id in ids.items()}
    if elsewhere:
        names = {key: locked[ids[key]].key[1] for key in elsewhere}
        members |= {key: members[key]._replace(merged_into=name) for key, name in names.items()}
    return Accounts(members, controls, terms=terms)


def _remembered(conn: Connection) -> dict[Key, int]:
    """The ids of members and pools that were read through this connection, by key: each keeps its own for ever.

    It may have been read in a transaction that came to nothing: whoever takes an id from here checks the row behind it.
    """
    known: dict[Key, int] = conn.info.setdefault("ledger_accounts", {})
    if len(known) > REMEMBERED_MAX:
        known.clear()
    return known


def _astray(ids: Mapping[Key, int], locked: Mapping[int, LockedAccount]) -> bool:
    """Whether a row behind one of these ids is none, or somebody else's than the key says."""
    for key, account_id in ids.items():
        account = locked.get(account_id)
        if account is None or account.key != key or account.state.kind not in _NAMED:
            return True
    return False


def find_accounts(conn: Connection, keys: Sequence[Key]) -> dict[Key, int]:
    """Return the ids of the members and pools of these keys that exist; of a merged one, where it was merged into."""
    return _find(conn, keys)[0]


def final_accounts(conn: Connection, ids: Collection[int]) -> dict[int, int]:
    """Return, for those of `ids` that were merged, the id of the account that took their place in the end."""
    return {row[0]: row[1] for row in fetch(conn, _FINAL, {"ids": bigints(list(ids))})}


def lock_ids(conn: Connection, ids: Collection[int]) -> dict[int, LockedAccount]:
    """Lock accounts in the order of their ids and return them, each id's account or the one it was merged into."""
    locked, moved = _lock(conn, ids)
    return {n: locked[moved.get(n, n)] for n in locked}


def _find(conn: Connection, keys: Sequence[Key]) -> tuple[dict[Key, int], set[Key]]:
    """The ids of the accounts that keys stand for, and the keys of accounts that were merged into others."""
    if not keys:
        return {}, set()
    programs, names = columns(keys)
    kinds = ["pool" if name.startswith(POOL) else "member" for name in names]
    rows = fetch(conn, _FIND, {"programs": texts(programs), "kinds": texts(kinds), "names": texts(names)})
    ids = {keys[n - 1]: account_id for n, account_id, _ in rows}
    elsewhere = {keys[n - 1] for n, _, into in rows if into is not None}
    if elsewhere:
        final = final_accounts(conn, [ids[key] for key in elsewhere])
        ids = {key: final.get(account_id, account_id) for key, account_id in ids.items()}
    return ids, elsewhere


def _create(conn: Connection, missing: Sequence[Key], opened: Mapping[Key, int]) -> None:
    programs, names = columns(missing)
    times = timestamps([opened[key] for key in missing])
    run(conn, _CREATE, {"programs": texts(programs), "names": texts(names), "opened": times})


def _lock(conn: Connection, ids: Collection[int]) -> tuple[dict[int, LockedAccount], dict[int, int]]:
    """Lock accounts in the order of their ids; the accounts, and where those went that were merged meanwhile.

    A merge that was first while this waited sends it on to another account, the only one ever locked out of order:
    should that deadlock, PostgreSQL ends one of the two transactions, and its caller tries again.
    """
    rows = fetch(conn, _LOCK, {"ids": bigints(sorted(ids))}) if ids else []
    locked = {row[0]: LockedAccount(row[12:], AccountState._make((*row[:12], (), None))) for row in rows}
    owing = {row[9]: row[0] for row in rows if row[9] is not None}
    if owing:
        # Read under their members' locks, which guard them: in a statement, so a snapshot, after these were granted.
        for row in fetch(conn, _ARREARS, {"ids": bigints(list(owing))}):
            key, state = locked[owing[row[0]]]
            locked[state.account_id] = LockedAccount(key, state._replace(arrears=ArrearsState._make(row)))
    merged = [row[0] for row in rows if row[10] == "merged"]
    if not merged:
        return locked, {}
    final = final_accounts(conn, merged)
    more, further = _lock(conn, set(final.values()) - set(locked))
    return locked | more, {origin: further.get(here, here) for origin, here in final.items()}


_CREATE_ARREARS = """
INSERT INTO account (program, kind, name, opened_at)
SELECT program, 'arrears', name, opened_at
  FROM unnest(%(programs)s, %(names)s, %(opened)s) AS w(program, name, opened_at)
RETURNING program, name, account_id"""

_TXNS = """
INSERT INTO txn (txn_id, program, kind, source, event_id, resolves, amount, pending, occurred_at, recorded_at, order_id)
SELECT txn_id, program, kind, source, event_id, nullif(resolves, 0), amount, pending, occurred_at, recorded_at, order_id
  FROM unnest(%(ids)s, %(programs)s, %(kinds)s, %(sources)s, %(event_ids)s, %(resolves)s, %(amounts)s, %(pending)s,
              %(occurred)s, %(recorded)s, %(orders)s)
       AS w(txn_id, program, kind, source, event_id, resolves, amount, pending, occurred_at, recorded_at, order_id)"""

_ENTRIES = """
INSERT INTO entry (txn_id, account_id, amount, account_seq, leg, layer)
SELECT txn_id, account_id, amount, nullif(account_seq, 0), leg, layer
  FROM unnest(%(ids)s, %(accounts)s, %(amounts)s, %(seqs)s, %(legs)s, %(layers)s)
       AS w(txn_id, account_id, amount, account_seq, leg, layer)"""

_CHANGES = """
UPDATE account AS a
   SET posted_dr = a.posted_dr + w.posted_dr, posted_cr = a.posted_cr + w.posted_cr,
       pending_dr = a.pending_dr + w.pending_dr, pending_cr = a.pending_cr + w.pending_cr,
       entry_count = a.entry_count + w.entries, arrears_id = coalesce(a.arrears_id, nullif(w.arrears_id, 0)),
       signed_up_at = coalesce(a.signed_up_at, nullif(w.signed_up_at, 'epoch')),
       credential_changed_at = greatest(a.credential_changed_at, nullif(w.credential_changed_at, 'epoch')),
       open_holds = a.open_holds + w.open_holds
  FROM unnest(%(ids)s, %(expected)s, %(posted_dr)s, %(posted_cr)s, %(pending_dr)s, %(pending_cr)s, %(entries)s,
              %(arrears)s, %(signed_up)s, %(credential)s, %(open_holds)s)
       AS w(account_id, expected, posted_dr, posted_cr, pending_dr, pending_cr, entries, arrears_id, signed_up_at,
            credential_changed_at, open_holds)
 WHERE a.account_id = w.account_id AND a.entry_count = w.expected"""

_CONTROLS = """
INSERT INTO control_delta (account_id, posted_dr, posted_cr, pending_dr, pending_cr)
SELECT * FROM unnest(%(ids)s, %(posted_dr)s, %(posted_cr)s, %(pending_dr)s, %(pending_cr)s)"""

# The columns of a plan's rows, in the order of their fields.
_TXN_ROW: Layout = {
    "ids": bigints,
    "programs": texts,
    "kinds": texts,
    "sources": texts,
    "event_ids": texts,
    "resolves": bigints_or_0,
    "amounts": bigints,
    "pending": booleans,
    "occurred": timestamps,
    "orders": texts,
}
_ENTRY_ROW: Layout = {
    "ids": bigints,
    "accounts": bigints,
    "amounts": bigints,
    "seqs": bigints,
    "legs": smallints,
    "layers": smallints,
}
_CHANGE_ROW: Layout = {
    "ids": bigints,
    "expected": bigints,
    "posted_dr": bigints,
    "posted_cr": bigints,
    "pending_dr": bigints,
    "pending_cr": bigints,
    "entries": bigints,
    "arrears": bigints,
    "signed_up": timestamps,
    "credential": timestamps,
    "open_holds": bigints,
}
_CONTROL_ROW: Layout = {
    "ids": bigints,
    "posted_dr": bigints,
    "posted_cr": bigints,
    "pending_dr": bigints,
    "pending_cr": bigints,
}


def write(conn: Connection, plan: Plan, now: Mapping[str, int]) -> Plan:
    """Write everything a plan decided, recorded at `now` (epoch milliseconds by programme, from `ledger_now`).

    The accounts must still be locked by this transaction. LedgerConflictError when one is not as it was planned on.
    Returns the plan as it was written: new arrears have their ids.
    """
    if plan.new_arrears:
        plan = _with_arrears(conn, plan, now)
    _write_txns(conn, plan, now)
    write_lots(conn, plan)
    write_holds(conn, plan, now)
    _write_changes(conn, plan)
    if plan.reversals or plan.merges:
        write_reversals(conn, plan, now)
    return plan


def _with_arrears(conn: Connection, plan: Plan, now: Mapping[str, int]) -> Plan:
    rows = fetch(
        conn,
        _CREATE_ARREARS,
        {
            "programs": texts([arrears.program for arrears in plan.new_arrears]),
            "names": texts([arrears.name for arrears in plan.new_arrears]),
            "opened": timestamps([now[arrears.program] for arrears in plan.new_arrears]),
        },
    )
    created = {(program, name): account_id for program, name, account_id in rows}
    ids = {arrears.placeholder: created[arrears.program, arrears.name] for arrears in plan.new_arrears}
    return replace(
        plan,
        new_arrears=(),
        entries=tuple(
            Entry(entry[0], ids[entry[1]], *entry[2:]) if entry.account_id < 0 else entry for entry in plan.entries
        ),
        changes=tuple(
            AccountChange(ids.get(change[0], change[0]), *change[1:7], ids.get(change[7], 0), *change[8:])
            for change in plan.changes
        ),
    )


def _write_txns(conn: Connection, plan: Plan, now: Mapping[str, int]) -> None:
    if plan.txns:
        recorded = timestamps([now[txn.program] for txn in plan.txns])
        run(conn, _TXNS, {**pack(plan.txns, _TXN_ROW), "recorded": recorded})
        run(conn, _ENTRIES, pack(plan.entries, _ENTRY_ROW))


def _write_changes(conn: Connection, plan: Plan) -> None:
    if plan.changes:
        changed = run(conn, _CHANGES, pack(plan.changes, _CHANGE_ROW)).rowcount
        if changed != len(plan.changes):
            raise LedgerConflictError(
                f"{len(plan.changes) - changed} of {len(plan.changes)} accounts changed around a lock"
            )
    if plan.controls:
        run(conn, _CONTROLS, pack(plan.controls, _CONTROL_ROW))
