"""Reads the lots, stores and pools that a batch needs, and writes what it did to lots and holds, one statement a table.

Lots are guarded by their account's lock: read under it, in a statement after the one that waited for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ledger.arrays import (
    Layout,
    bigints,
    bigints_or_0,
    fetch,
    pack,
    run,
    texts,
    timestamps,
    timestamps_or_epoch,
)
from ledger.lots import order_of_use
from ledger.movement import MAX_POINTS, POOL, Accounts, AccountState, Key, LotState, Movement
from ledger.plan import HoldEnd, Plan
from ledger.programs import store_accounts


class LedgerConflictError(Exception):
    """An account or lot was written around its lock and is not as planned on. Roll back; nothing may be committed."""


FIRST_LOTS = 4
"""How many lots of an account are read at first; where these fall short, eight times as many, and so on."""

LOT = """l.lot_id, l.program, l.account_id, l.txn_id, l.parent, l.issued, l.remaining, l.reserved,
       (date_part('epoch', l.earned_at) * 1000)::bigint, (date_part('epoch', l.expires_at) * 1000)::bigint, l.store"""
"""The columns of a LotState."""

# Of an account's first lots only those that are due, and so many behind them as cover the points. `before` is what the
# lots before one have to spend: double precision is exact here, as no account has more than 2^53 - 1 points.
_OPEN = f"""
SELECT {LOT}
  FROM unnest(%(ids)s, %(points)s, %(now)s) AS w(account_id, points, now)
 CROSS JOIN LATERAL (
    SELECT few.*,
           sum(CASE WHEN few.expires_at <= w.now THEN 0 ELSE few.remaining - few.reserved END::double precision)
               OVER (ORDER BY few.expires_at, few.earned_at, few.lot_id
                      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM (SELECT * FROM lot WHERE lot.account_id = w.account_id AND lot.open
             ORDER BY lot.expires_at, lot.earned_at, lot.lot_id LIMIT %(most)s) AS few) l
 WHERE l.before IS NULL OR l.before < w.points"""  # noqa: S608 -- constants

_POOLS = """
SELECT p.pool_id, a.name FROM pool_member p JOIN account a ON a.account_id = p.member_id
 WHERE p.pool_id = ANY(%(pools)s) AND p.member_id = ANY(%(members)s) AND p.until IS NULL"""


def load(conn: Connection, accounts: Accounts, movements: Sequence[Movement], now: Mapping[str, int]) -> Accounts:
    """Add to locked accounts what `plan` needs for these movements: lots, stores' accounts, members of pools."""
    funded = {name for name, terms in accounts.terms.items() if terms.funding == "store"}
    stores = {
        (one.program, one.store)
        for one in (movements if funded else ())
        if one.program in funded and one.store is not None
    }
    return replace(
        accounts,
        members=with_lots(conn, accounts.members, demands(accounts, movements), now),
        stores=store_accounts(conn, stores),
        pools=read_pools(conn, accounts),
    )


def demands(accounts: Accounts, movements: Iterable[Movement]) -> dict[Key, int]:
    """How many points movements may take from which accounts, by key; a merged account under a key it was found by."""
    wanted: dict[Key, int] = {}
    by_id: dict[int, Key] = {}
    for movement in movements:
        kind, points = movement.kind, movement.points
        if kind in {"redeem", "transfer"}:
            name = movement.account if movement.pool is None else POOL + movement.pool
        elif kind == "adjust" and points < 0:
            name, points = movement.account, -points
        else:
            continue
        state = accounts.members.get((movement.program, name))
        if state is not None and points > 0:
            key = by_id.setdefault(state.account_id, (movement.program, name))
            wanted[key] = wanted.get(key, 0) + points
    return wanted


def with_lots(
    conn: Connection, members: Mapping[Key, AccountState], demand: Mapping[Key, int], now: Mapping[str, int]
) -> Mapping[Key, AccountState]:
    """Give the accounts that `demand` names as many of their open lots as it takes, in order of use.

    All that are due, and then so many that what no hold reserves of them covers the demand, or all that is there.
    """
    if not demand:
        return members
    found: dict[int, tuple[LotState, ...]] = {}
    short = {members[key].account_id: (key, min(points, MAX_POINTS)) for key, points in demand.items()}
    most = FIRST_LOTS
    while short:
        lots = _open_lots(conn, short, now, most)
        found |= lots
        short = {
            account_id: (key, points)
            for account_id, (key, points) in short.items()
            if len(lots[account_id]) == most
            and not _suffices(lots[account_id], points, members[key].available, now[key[0]])
        }
        most *= 8
    filled = dict(members)
    for key, state in members.items():
        theirs = found.get(state.account_id)
        if theirs:
            filled[key] = AccountState._make((*state[:12], theirs, state.merged_into))
    return filled


def _open_lots(
    conn: Connection, short: Mapping[int, tuple[Key, int]], now: Mapping[str, int], most: int
) -> dict[int, tuple[LotState, ...]]:
    lots: dict[int, list[LotState]] = {account_id: [] for account_id in short}
    asked = {
        "ids": bigints(list(short)),
        "points": bigints([points for _, points in short.values()]),
        "now": timestamps([now[key[0]] for key, _ in short.values()]),
        "most": most,
    }
    for row in fetch(conn, _OPEN, asked):
        lots[row[2]].append(LotState._make(row))
    return {account_id: tuple(some) for account_id, some in lots.items()}


def _suffices(lots: Sequence[LotState], points: int, available: int, now: int) -> bool:
    """Whether an account's first lots are all that is due, and more that covers `points` or else all it may spend."""
    last = lots[-1].expires_ms
    if last is not None and last <= now:
        return False
    free = due = 0
    for lot in lots:
        free += lot.remaining - lot.reserved
        if lot.expires_ms is not None and lot.expires_ms <= now:
            due = free
    return free - due >= min(points, available - due)


def read_pools(conn: Connection, accounts: Accounts) -> dict[Key, frozenset[str]]:
    """Read which of the locked accounts are members of the locked pools now, by the key of the pool."""
    pools = {accounts.members[key].account_id: key for key in accounts.members if key[1].startswith(POOL)}
    if not pools:
        return {}
    members = [state.account_id for state in accounts.members.values() if state.kind == "member"]
    names: dict[Key, set[str]] = {key: set() for key in pools.values()}
    for pool_id, name in fetch(conn, _POOLS, {"pools": bigints(list(pools)), "members": bigints(members)}):
        names[pools[pool_id]].add(name)
    return {key: frozenset(some) for key, some in names.items()}


_LOTS_BY_ID = f"SELECT {LOT} FROM lot l WHERE l.lot_id = ANY(%(ids)s)"  # noqa: S608 -- constants


def read_lots(conn: Connection, ids: Collection[int]) -> dict[int, tuple[LotState, ...]]:
    """Read lots by their ids, by account and in order of use."""
    lots: dict[int, list[LotState]] = {}
    for row in fetch(conn, _LOTS_BY_ID, {"ids": bigints(list(ids))}) if ids else ():
        lots.setdefault(row[2], []).append(LotState._make(row))
    return {account_id: tuple(sorted(some, key=order_of_use)) for account_id, some in lots.items()}


_LOTS = """
INSERT INTO lot (lot_id, program, account_id, txn_id, parent, issued, remaining, reserved, earned_at, expires_at, store)
SELECT lot_id, program, account_id, txn_id, nullif(parent, 0), issued, remaining, reserved, earned_at,
       nullif(expires_at, 'epoch'), store
  FROM unnest(%(ids)s, %(programs)s, %(accounts)s, %(txns)s, %(parents)s, %(issued)s, %(remaining)s, %(reserved)s,
              %(earned)s, %(expires)s, %(stores)s)
       AS w(lot_id, program, account_id, txn_id, parent, issued, remaining, reserved, earned_at, expires_at, store)"""

_LOT_CHANGES = """
UPDATE lot AS l SET remaining = l.remaining + w.remaining, reserved = l.reserved + w.reserved
  FROM unnest(%(ids)s, %(remaining)s, %(reserved)s) AS w(lot_id, remaining, reserved)
 WHERE l.lot_id = w.lot_id"""

_LOT_USES = """
INSERT INTO lot_use (txn_id, lot_id, action, amount)
SELECT * FROM unnest(%(txns)s, %(lots)s, %(actions)s, %(amounts)s)"""

_LOT_ROW: Layout = {
    "ids": bigints,
    "programs": texts,
    "accounts": bigints,
    "txns": bigints,
    "parents": bigints_or_0,
    "issued": bigints,
    "remaining": bigints,
    "reserved": bigints,
    "earned": timestamps,
    "expires": timestamps_or_epoch,
    "stores": texts,
}
_LOT_CHANGE_ROW: Layout = {"ids": bigints, "remaining": bigints, "reserved": bigints}
_LOT_USE_ROW: Layout = {"txns": bigints, "lots": bigints, "actions": texts, "amounts": bigints}


def write_lots(conn: Connection, plan: Plan) -> None:
    """Write new lots, what changed of old ones, and the uses that say why."""
    if plan.lots:
        run(conn, _LOTS, pack(plan.lots, _LOT_ROW))
    if plan.lot_changes:
        changed = run(conn, _LOT_CHANGES, pack(plan.lot_changes, _LOT_CHANGE_ROW)).rowcount
        if changed != len(plan.lot_changes):
            raise LedgerConflictError(
                f"{len(plan.lot_changes) - changed} of {len(plan.lot_changes)} lots are not there"
            )
    if plan.lot_uses:
        run(conn, _LOT_USES, pack(plan.lot_uses, _LOT_USE_ROW))


_HOLDS = """
INSERT INTO hold (hold_id, program, account_id, peer_id, kind, amount, opened_at, due_at, on_timeout, replaces, store,
                  order_id, expires_at)
SELECT hold_id, program, account_id, nullif(peer_id, 0), kind, amount, opened_at, nullif(due_at, 'epoch'), on_timeout,
       nullif(replaces, 0), store, order_id, nullif(expires_at, 'epoch')
  FROM unnest(%(ids)s, %(programs)s, %(accounts)s, %(peers)s, %(kinds)s, %(amounts)s, %(due)s, %(timeouts)s,
              %(replaces)s, %(stores)s, %(orders)s, %(expires)s, %(opened)s)
       AS w(hold_id, program, account_id, peer_id, kind, amount, due_at, on_timeout, replaces, store, order_id,
            expires_at, opened_at)"""

_HOLD_LOTS = """
INSERT INTO hold_lot (hold_id, lot_id, amount) SELECT * FROM unnest(%(holds)s, %(lots)s, %(amounts)s)"""

_DECISIONS = """
INSERT INTO review_decision (decision_id, hold_id, verdict, actor, reason, decided_at, effective_at)
SELECT decision_id, hold_id, verdict, actor, reason, at, at
  FROM unnest(%(ids)s, %(holds)s, %(verdicts)s, %(actors)s, %(reasons)s, %(at)s)
       AS w(decision_id, hold_id, verdict, actor, reason, at)"""

# The account is locked, so nothing is in the way here unless the hold's row said "open" wrongly; then the key refuses.
_RESOLUTIONS = """
INSERT INTO hold_resolution (hold_id, verdict, decision_id, resolved_at, posted)
SELECT hold_id, verdict, decision_id, at, posted
  FROM unnest(%(holds)s, %(verdicts)s, %(ids)s, %(at)s, %(posted)s) AS w(hold_id, verdict, decision_id, at, posted)"""

_CLOSE = """
UPDATE hold SET resolved_at = w.at FROM unnest(%(holds)s, %(at)s) AS w(hold_id, at) WHERE hold.hold_id = w.hold_id"""

_HOLD_ROW: Layout = {
    "ids": bigints,
    "programs": texts,
    "accounts": bigints,
    "peers": bigints_or_0,
    "kinds": texts,
    "amounts": bigints,
    "due": timestamps_or_epoch,
    "timeouts": texts,
    "replaces": bigints_or_0,
    "stores": texts,
    "orders": texts,
    "expires": timestamps_or_epoch,
}
_HOLD_LOT_ROW: Layout = {"holds": bigints, "lots": bigints, "amounts": bigints}
_DECISION_ROW: Layout = {
    "ids": bigints,
    "holds": bigints,
    "verdicts": texts,
    "actors": texts,
    "reasons": texts,
    "at": timestamps,
}


def write_holds(conn: Connection, plan: Plan, now: Mapping[str, int]) -> None:
    """Write holds that open with what they reserve, and decisions that end holds with their resolutions."""
    if plan.holds:
        opened = timestamps([now[hold.program] for hold in plan.holds])
        run(conn, _HOLDS, {**pack(plan.holds, _HOLD_ROW), "opened": opened})
    if plan.hold_lots:
        run(conn, _HOLD_LOTS, pack(plan.hold_lots, _HOLD_LOT_ROW))
    if plan.hold_ends:
        _write_ends(conn, plan.hold_ends, now)


def _write_ends(conn: Connection, ends: Sequence[HoldEnd], now: Mapping[str, int]) -> None:
    write_decisions(conn, [(end[0], end[1], end[3], end[5], end[6], now[end.program]) for end in ends])
    holds = bigints([end.hold_id for end in ends])
    at = timestamps([now[end.program] for end in ends])
    resolutions: dict[str, Any] = {
        "holds": holds,
        "verdicts": texts([end.verdict for end in ends]),
        "ids": bigints([end.decision_id for end in ends]),
        "at": at,
        "posted": bigints([end.posted for end in ends]),
    }
    run(conn, _RESOLUTIONS, resolutions)
    run(conn, _CLOSE, {"holds": holds, "at": at})


def write_decisions(conn: Connection, decisions: Sequence[tuple[int, int, str, str, str, int]]) -> None:
    """Record decisions on holds: id, hold, verdict, actor, reason, time (epoch milliseconds)."""
    run(conn, _DECISIONS, pack(decisions, _DECISION_ROW))


_REVERSALS = """
INSERT INTO reversal (reversal_id, program, original_txn, points, from_hold, from_lot, from_reserved, from_traced,
                      from_other, to_arrears, forgiven, restored, repaid, order_id, refund_id, recorded_at)
SELECT * FROM unnest(%(ids)s, %(programs)s, %(originals)s, %(points)s, %(from_hold)s, %(from_lot)s, %(from_reserved)s,
                     %(from_traced)s, %(from_other)s, %(to_arrears)s, %(forgiven)s, %(restored)s, %(repaid)s,
                     %(orders)s, %(refunds)s, %(at)s)"""

_MERGES = """
INSERT INTO account_merge (merge_id, program, from_id, into_id, actor, reason, at)
SELECT * FROM unnest(%(ids)s, %(programs)s, %(from)s, %(into)s, %(actors)s, %(reasons)s, %(at)s)"""

_MERGED = """
UPDATE account SET merged_into = w.into_id
  FROM unnest(%(from)s, %(into)s) AS w(from_id, into_id) WHERE account_id = w.from_id"""

_REVERSAL_ROW: Layout = {
    "ids": bigints,
    "programs": texts,
    "originals": bigints,
    "points": bigints,
    "from_hold": bigints,
    "from_lot": bigints,
    "from_reserved": bigints,
    "from_traced": bigints,
    "from_other": bigints,
    "to_arrears": bigints,
    "forgiven": bigints,
    "restored": bigints,
    "repaid": bigints,
    "orders": texts,
    "refunds": texts,
}
_MERGE_ROW: Layout = {
    "ids": bigints,
    "programs": texts,
    "from": bigints,
    "into": bigints,
    "actors": texts,
    "reasons": texts,
}


def write_reversals(conn: Connection, plan: Plan, now: Mapping[str, int]) -> None:
    """Write what reverses took back and from where, and which accounts became others."""
    if plan.reversals:
        at = timestamps([now[reversal.program] for reversal in plan.reversals])
        run(conn, _REVERSALS, {**pack(plan.reversals, _REVERSAL_ROW), "at": at})
    if plan.merges:
        rows = pack(plan.merges, _MERGE_ROW)
        run(conn, _MERGES, {**rows, "at": timestamps([now[merge.program] for merge in plan.merges])})
        run(conn, _MERGED, {"from": rows["from"], "into": rows["into"]})
