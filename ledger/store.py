"""Locks accounts and writes plans: the ledger's part of a batch transaction, one statement a table.

`conn` is a connection inside the caller's READ COMMITTED transaction; nothing here commits. Order of locks: progress
rows and inbox (the caller's), then accounts by id, then programme clocks. Whoever resolves holds locks the hold rows
before the accounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ledger.arrays import bigints, booleans, columns, fetch, run, smallints, texts, timestamps
from ledger.movement import AccountChange, Accounts, AccountState, ArrearsState, Entry, Key, Plan
from ledger.programs import Program


class LedgerConflictError(Exception):
    """An account was not as it was locked: it was written around its lock. Roll back; nothing may be committed."""


_CREATE = """
INSERT INTO account (program, kind, name, opened_at)
SELECT w.program, 'member', w.name, w.opened_at
  FROM unnest(%(programs)s, %(names)s, %(opened)s) AS w(program, name, opened_at)
  LEFT JOIN account a ON a.program = w.program AND a.kind = 'member' AND a.name = w.name
 WHERE a.account_id IS NULL
 ORDER BY w.program, w.name
ON CONFLICT (program, kind, name) DO NOTHING"""

STATE = """a.account_id, a.posted_dr, a.posted_cr, a.pending_dr, a.pending_cr, a.entry_count,
       (date_part('epoch', a.opened_at) * 1000)::bigint, (date_part('epoch', a.signed_up_at) * 1000)::bigint,
       (date_part('epoch', a.credential_changed_at) * 1000)::bigint, a.arrears_id"""

_LOCK = f"""
SELECT w.n, {STATE}
  FROM unnest(%(programs)s, %(names)s) WITH ORDINALITY AS w(program, name, n)
  JOIN account a ON a.program = w.program AND a.kind = 'member' AND a.name = w.name
 ORDER BY a.account_id FOR UPDATE OF a"""  # noqa: S608 -- made of this module's constants only

_ARREARS = "SELECT account_id, posted_dr, posted_cr, entry_count FROM account WHERE account_id = ANY(%(ids)s)"


def lock_accounts(conn: Connection, programs: Mapping[str, Program], opened: Mapping[Key, int]) -> Accounts:
    """Lock the members named by `opened`'s keys, creating those that do not exist, and return their state.

    The value of a key is the time (epoch milliseconds) from which a new account counts as open. Rows are locked in the
    order of their ids, so that batches never deadlock over them. KeyError for a programme not in `programs`.
    """
    keys = list(opened)
    controls = {
        (name, control): account_id
        for name in {program for program, _ in keys}
        for control, account_id in programs[name].controls.items()
    }
    if not keys:
        return Accounts({}, controls)
    names = {"programs": texts([program for program, _ in keys]), "names": texts([name for _, name in keys])}
    run(conn, _CREATE, {**names, "opened": timestamps(list(opened.values()))})
    rows = fetch(conn, _LOCK, names)
    return Accounts(
        {keys[row[0] - 1]: state for row, state in zip(rows, read_states(conn, rows), strict=True)}, controls
    )


def read_states(conn: Connection, rows: Sequence[Sequence[Any]]) -> list[AccountState]:
    """Make the states of rows of `n` and STATE, each with its arrears.

    Arrears rows are read after their members' locks were granted, in a statement (so a snapshot) of its own: they only
    ever change under the member's lock.
    """
    owing = [row[10] for row in rows if row[10] is not None]
    arrears: dict[int, ArrearsState] = {}
    if owing:
        arrears = {row[0]: ArrearsState._make(row) for row in fetch(conn, _ARREARS, {"ids": bigints(owing)})}
    return [AccountState._make((*row[1:10], arrears.get(row[10]))) for row in rows]


_CREATE_ARREARS = """
INSERT INTO account (program, kind, name, opened_at)
SELECT program, 'arrears', name, opened_at
  FROM unnest(%(programs)s, %(names)s, %(opened)s) AS w(program, name, opened_at)
RETURNING program, name, account_id"""

_TXNS = """
INSERT INTO txn (txn_id, program, kind, source, event_id, resolves, amount, pending, occurred_at, recorded_at)
SELECT txn_id, program, kind, source, event_id, nullif(resolves, 0), amount, pending, occurred_at, recorded_at
  FROM unnest(%(ids)s, %(programs)s, %(kinds)s, %(sources)s, %(event_ids)s, %(resolves)s, %(amounts)s, %(pending)s,
              %(occurred)s, %(recorded)s)
       AS w(txn_id, program, kind, source, event_id, resolves, amount, pending, occurred_at, recorded_at)"""

_ENTRIES = """
INSERT INTO entry (txn_id, account_id, amount, account_seq, leg, layer)
SELECT txn_id, account_id, amount, nullif(account_seq, 0), leg, layer
  FROM unnest(%(ids)s, %(accounts)s, %(amounts)s, %(seqs)s, %(legs)s, %(layers)s)
       AS w(txn_id, account_id, amount, account_seq, leg, layer)"""

_HOLDS = """
INSERT INTO hold (hold_id, program, account_id, peer_id, kind, amount, opened_at, due_at, on_timeout)
SELECT hold_id, program, account_id, nullif(peer_id, 0), kind, amount, opened_at, nullif(due_at, 'epoch'), on_timeout
  FROM unnest(%(ids)s, %(programs)s, %(accounts)s, %(peers)s, %(kinds)s, %(amounts)s, %(opened)s, %(due)s, %(timeouts)s)
       AS w(hold_id, program, account_id, peer_id, kind, amount, opened_at, due_at, on_timeout)"""

_CHANGES = """
UPDATE account AS a
   SET posted_dr = a.posted_dr + w.posted_dr, posted_cr = a.posted_cr + w.posted_cr,
       pending_dr = a.pending_dr + w.pending_dr, pending_cr = a.pending_cr + w.pending_cr,
       entry_count = a.entry_count + w.entries, arrears_id = coalesce(a.arrears_id, nullif(w.arrears_id, 0)),
       signed_up_at = coalesce(a.signed_up_at, nullif(w.signed_up_at, 'epoch')),
       credential_changed_at = greatest(a.credential_changed_at, nullif(w.credential_changed_at, 'epoch'))
  FROM unnest(%(ids)s, %(expected)s, %(posted_dr)s, %(posted_cr)s, %(pending_dr)s, %(pending_cr)s, %(entries)s,
              %(arrears)s, %(signed_up)s, %(credential)s)
       AS w(account_id, expected, posted_dr, posted_cr, pending_dr, pending_cr, entries, arrears_id, signed_up_at,
            credential_changed_at)
 WHERE a.account_id = w.account_id AND a.entry_count = w.expected"""

_CONTROLS = """
INSERT INTO control_delta (account_id, posted_dr, posted_cr, pending_dr, pending_cr)
SELECT * FROM unnest(%(ids)s, %(posted_dr)s, %(posted_cr)s, %(pending_dr)s, %(pending_cr)s)"""


def write(conn: Connection, plan: Plan, now: Mapping[str, int]) -> None:
    """Write everything a plan decided, recorded at `now` (epoch milliseconds by programme, from `ledger_now`).

    The accounts must still be locked by this transaction. LedgerConflictError when one is not as it was planned on.
    """
    if plan.new_arrears:
        plan = _with_arrears(conn, plan, now)
    _write_txns(conn, plan, now)
    _write_holds(conn, plan, now)
    _write_changes(conn, plan)


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
    if not plan.txns:
        return
    ids, programs, kinds, sources, event_ids, resolves, amounts, pending, occurred = columns(plan.txns)
    run(
        conn,
        _TXNS,
        {
            "ids": bigints(ids),
            "programs": texts(programs),
            "kinds": texts(kinds),
            "sources": texts(sources),
            "event_ids": texts(event_ids),
            "resolves": bigints([hold_id or 0 for hold_id in resolves]),
            "amounts": bigints(amounts),
            "pending": booleans(pending),
            "occurred": timestamps(occurred),
            "recorded": timestamps([now[program] for program in programs]),
        },
    )
    ids, accounts, amounts, seqs, legs, layers = columns(plan.entries)
    run(
        conn,
        _ENTRIES,
        {
            "ids": bigints(ids),
            "accounts": bigints(accounts),
            "amounts": bigints(amounts),
            "seqs": bigints(seqs),
            "legs": smallints(legs),
            "layers": smallints(layers),
        },
    )


def _write_holds(conn: Connection, plan: Plan, now: Mapping[str, int]) -> None:
    if not plan.holds:
        return
    ids, programs, accounts, peers, kinds, amounts, due_seconds, timeouts = columns(plan.holds)
    opened = [now[program] for program in programs]
    run(
        conn,
        _HOLDS,
        {
            "ids": bigints(ids),
            "programs": texts(programs),
            "accounts": bigints(accounts),
            "peers": bigints([peer or 0 for peer in peers]),
            "kinds": texts(kinds),
            "amounts": bigints(amounts),
            "opened": timestamps(opened),
            "due": timestamps(
                [0 if wait is None else at + wait * 1000 for at, wait in zip(opened, due_seconds, strict=True)]
            ),
            "timeouts": texts(timeouts),
        },
    )


def _write_changes(conn: Connection, plan: Plan) -> None:
    if plan.changes:
        ids, expected, posted_dr, posted_cr, pending_dr, pending_cr, entries, arrears, signed_up, credential = columns(
            plan.changes
        )
        changed = run(
            conn,
            _CHANGES,
            {
                "ids": bigints(ids),
                "expected": bigints(expected),
                "posted_dr": bigints(posted_dr),
                "posted_cr": bigints(posted_cr),
                "pending_dr": bigints(pending_dr),
                "pending_cr": bigints(pending_cr),
                "entries": bigints(entries),
                "arrears": bigints(arrears),
                "signed_up": timestamps(signed_up),
                "credential": timestamps(credential),
            },
        ).rowcount
        if changed != len(plan.changes):
            raise LedgerConflictError(
                f"{len(plan.changes) - changed} of {len(plan.changes)} accounts changed around a lock"
            )
    if plan.controls:
        ids, posted_dr, posted_cr, pending_dr, pending_cr = columns(plan.controls)
        run(
            conn,
            _CONTROLS,
            {
                "ids": bigints(ids),
                "posted_dr": bigints(posted_dr),
                "posted_cr": bigints(posted_cr),
                "pending_dr": bigints(pending_dr),
                "pending_cr": bigints(pending_cr),
            },
        )
