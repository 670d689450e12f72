"""Finds, in the ledger in memory, what a reverse takes back, with every account and lot it may touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledger.lots import order_of_use
from ledger.memory_tables import HoldRow, Tables
from ledger.movement import POOL, Accounts, Key, Movement, OpenHold
from ledger.origin import Given, Origin, Traced


def find_origin(tables: Tables, source: str, event_id: str) -> Origin | None:
    """Return the movement of an event as it stands now; None for an event that was never decided."""
    movement = tables.events.get((source, event_id))
    if movement is None:
        return None
    txn = tables.txns.get(movement.id)
    account = movement.account if movement.pool is None else POOL + movement.pool
    if txn is None or txn.kind == "reverse":
        return Origin(movement.id, movement.program, movement.kind, 0, account, movement.account)
    # Only a store whose account the points went through funds what is given back anew.
    charged = tables.programs[movement.program].terms.funding == "store" and movement.kind in {"earn", "redeem"}
    origin = Origin(
        movement.id,
        movement.program,
        movement.kind,
        movement.points,
        account,
        movement.account,
        movement.to,
        movement.store if charged else None,
        unheld=sum(one.from_hold for one in tables.reversals if one.original == movement.id),
        returned=sum(one.points - one.from_hold for one in tables.reversals if one.original == movement.id),
    )
    if not txn.pending:
        return _posted(tables, origin, movement.id, abs(movement.points))
    row = _last(tables, movement.id)
    if row.end is None:
        return origin._replace(hold=tables.open_hold(row.hold.hold_id))
    return _posted(tables, origin, row.end.decision_id, row.end.posted)


def origins_of_order(tables: Tables, program: str, order: str) -> list[Origin]:
    """Return the movements of an order that a refund bears on, the oldest first: no transfers, no reversals."""
    asked = [one for one in tables.events.values() if one.program == program and one.order == order]
    found = [find_origin(tables, one.source, one.event_id) for one in sorted(asked, key=_id)]
    return [one for one in found if one is not None and one.amount and one.kind != "transfer"]


def with_origins(tables: Tables, accounts: Accounts, origins: Sequence[Origin]) -> Accounts:
    """Add every account that taking back, or giving back, these movements may touch, with the lots it may touch."""
    keys: set[Key] = set()
    lots: set[int] = set()
    for origin in origins:
        names = {origin.account, origin.actor, origin.peer}
        holds = [*origin.holders, *([] if origin.hold is None else [origin.hold])]
        names |= {name for hold in holds for name in (hold.account, hold.peer)}
        keys |= {(origin.program, name) for name in names if name is not None}
        lots |= {traced.lot_id for traced in origin.tree} | {given.lot.lot_id for given in origin.used}
        lots |= {lot.lot_id for lot in origin.sources} | {lot_id for hold in holds for lot_id, _ in hold.lots}
    keys |= {_key(tables, tables.lots[lot_id].account_id) for lot_id in lots}
    members = dict(accounts.members)
    for key in keys | set(members):
        row = tables.find(key)
        if row is not None:
            # Used-up lots of accounts that were merged into this one stand with its own: points may be traced through.
            acting = tables.acting(row)
            named = {n for n in lots if tables.acting(tables.accounts[tables.lots[n].account_id]) is acting}
            states = {lot.lot_id: lot for lot in tables.open_lots(acting.account_id)}
            members[key] = tables.state(row, (states | {n: tables.lots[n] for n in named}).values())
    stores = dict(accounts.stores)
    for (program, kind, name), account_id in tables.named.items():
        if kind == "store":
            stores[program, name] = account_id
    return replace(accounts, members=members, stores=stores)


def _posted(tables: Tables, origin: Origin, txn_id: int, posted: int) -> Origin:
    if not posted:
        return origin
    origin = origin._replace(posted=posted)
    if origin.inflow:
        return _traced(tables, origin, [Traced(txn_id, 0)])
    took = "transfer" if origin.kind == "transfer" else "debit"
    uses = {use.lot_id: use.amount for use in tables.uses if use.txn_id == txn_id and use.action == took}
    used = sorted((tables.lots[lot_id] for lot_id in uses), key=order_of_use)
    if origin.kind != "transfer":
        back = _given_back(tables, origin.root)
        return origin._replace(used=tuple(Given(lot, uses[lot.lot_id] - back.get(lot.lot_id, 0)) for lot in used))
    sender = tables.find((origin.program, origin.account))
    gave = [
        Traced(lot.lot_id, 0, lot.parent)
        for lot in tables.lots.values()
        if lot.txn_id == txn_id and sender is not None and lot.account_id != sender.account_id
    ]
    return _traced(tables, origin._replace(sources=tuple(used)), gave)


def _traced(tables: Tables, origin: Origin, gave: Sequence[Traced]) -> Origin:
    tree: list[Traced] = []
    breadth = sorted(gave, key=_id_of_lot)
    while breadth:
        tree += breadth
        parents = {traced.lot_id: traced for traced in breadth}
        breadth = [
            Traced(lot.lot_id, parents[lot.parent].depth + 1, parents[lot.parent].source)
            for lot in sorted(tables.lots.values())
            if lot.parent in parents
        ]
    return origin._replace(tree=tuple(tree), holders=_holders(tables, {traced.lot_id for traced in tree}))


def _holders(tables: Tables, lots: set[int]) -> tuple[OpenHold, ...]:
    holding = {part.hold_id for parts in tables.hold_lots.values() for part in parts if part.lot_id in lots}
    return tuple(tables.open_hold(hold_id) for hold_id in sorted(holding) if tables.holds[hold_id].end is None)


def _last(tables: Tables, hold_id: int) -> HoldRow:
    row = tables.holds[hold_id]
    after = {one.hold.replaces: one for one in tables.holds.values()}
    while row.hold.hold_id in after:
        row = after[row.hold.hold_id]
    return row


def _given_back(tables: Tables, root: int) -> dict[int, int]:
    reversals = {one.reversal_id for one in tables.reversals if one.original == root}
    back: dict[int, int] = {}
    for use in tables.uses:
        if use.action == "restore" and use.txn_id in reversals:
            back[use.lot_id] = back.get(use.lot_id, 0) + use.amount
    return back


def _key(tables: Tables, account_id: int) -> Key:
    row = tables.accounts[account_id]
    return row.program, row.name


def _id(movement: Movement) -> int:
    return movement.id


def _id_of_lot(traced: Traced) -> int:
    return traced.lot_id
