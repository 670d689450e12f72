"""Makes one member of two: points with their lots, and debts, go over; the old name stands for the new. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ledger.book import Merge
from ledger.desk import Desk
from ledger.lots import Part
from ledger.movement import MAX_POINTS, OWN, POSTED, Accounts, Code, Result
from ledger.plan import NewMerge, Plan, Txn
from ledger.settling import give_parts
from ledger.working import Working

MERGE_SOURCE = OWN + "merge"


def plan_merge(accounts: Accounts, merge: Merge, now: Mapping[str, int], ids: Iterator[int]) -> Plan:
    """Plan a merge; `accounts` needs all lots of the account that goes. The result tells of the one that stays.

    Refused, in this order: the same account twice, one that nobody knows (a pool is nobody), one that was merged
    before, and one that points are still held of or for: what is held must be decided before.
    """
    code = _examine(accounts, merge)
    desk = Desk(accounts, now, ids)
    if (merge.program, merge.into) not in accounts.members:
        return desk.close((Result(code, 0, 0),))
    into = desk.account((merge.program, merge.into))
    if code == "posted":
        _move(desk, merge, desk.account((merge.program, merge.account)), into)
    return desk.close((Result(code, into.available, into.owed),))


def _examine(accounts: Accounts, merge: Merge) -> Code:
    if merge.account == merge.into:
        return "same_account"
    states = [accounts.members.get((merge.program, name)) for name in (merge.account, merge.into)]
    source, target = states
    if source is None or target is None or source.kind != "member" or target.kind != "member":
        return "unknown_account"
    if source.merged_into is not None or target.merged_into is not None:
        return "account_merged"
    if source.open_holds or source.pending_cr or source.pending_dr:
        return "open_holds"
    debt = 0 if source.arrears is None else source.arrears.posted_dr - source.arrears.posted_cr
    lent = 0 if target.arrears is None else target.arrears.posted_dr
    if target.posted_cr + target.pending_cr + source.available > MAX_POINTS or lent + debt > MAX_POINTS:
        return "balance_out_of_range"
    return "posted"


def _move(desk: Desk, merge: Merge, source: Working, into: Working) -> None:
    desk.expire_due(source)
    parts = [Part(lot, lot.remaining) for lot in source.purse.open_lots()]
    points, owed = sum(part.amount for part in parts), source.owed
    if points + owed:
        header = (merge.id, merge.program, "merge", MERGE_SOURCE, str(source.account_id), None, points + owed)
        desk.begin(Txn(*header, pending=False, occurred_ms=desk.time_of(merge.program)))
    if owed:
        desk.enter(merge.id, desk.arrears(source), owed, POSTED)
        desk.enter(merge.id, desk.arrears(into), -owed, POSTED)
    if points:
        desk.enter(merge.id, source, -points, POSTED)
        for lot, amount in parts:
            desk.use(merge.id, lot, amount, "transfer")
        give_parts(desk, merge.id, into, parts)
    row = NewMerge(merge.id, merge.program, source.account_id, into.account_id, merge.actor, merge.reason)
    desk.merges.append(row)
