"""Ends holds: releases what was pending and posts all of it, a part or nothing. Pure.

A hold set its points aside when it opened, and reserved lots if it takes points, so no verdict can break a bound. Part
of a held movement posted leaves the rest as if it had been voided. Points that fell due while a hold had them in its
keeping do not go by that alone: where the programme grants days of grace they become a lot of their own that lasts so
long, else they expire when they are freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ledger.desk import Desk
from ledger.lots import Grant, Part
from ledger.movement import OWN, PENDING, POSTED, RELEASE, Accounts, OpenHold, Settlement
from ledger.plan import HoldEnd, NewHold, Plan, Txn
from ledger.terms import DAY_MS, lot_expiry
from ledger.working import Working

REOPENED_SOURCE = OWN + "reversal"


def settle(accounts: Accounts, settlements: Iterable[Settlement], now: Mapping[str, int], ids: Iterator[int]) -> Plan:
    """End open holds, each by a new transaction that releases its pending legs and posts what shall be posted.

    `accounts` needs the lots that the holds reserve. ValueError for a post of more points than are held, or of none.
    """
    desk = Desk(accounts, now, ids)
    for settlement in settlements:
        end(desk, settlement)
    return desk.close()


def end(desk: Desk, settlement: Settlement, *, graced: bool = True) -> None:
    """End one hold. Without `graced`, points that fell due in its keeping expire at once whatever the terms say."""
    txn_id, hold, verdict, points = settlement[:4]
    posted = 0 if verdict == "void" else abs(hold.amount) if points is None else points
    if not 0 <= posted <= abs(hold.amount) or (verdict == "post" and not posted):
        raise ValueError(f"a hold of {abs(hold.amount)} points can't post {posted}")
    freed = close_hold(desk, settlement, posted)
    if posted:
        freed = _post(desk, txn_id, hold, posted, freed)
    sweep(desk, txn_id, freed, graced=graced)


def close_hold(desk: Desk, settlement: Settlement, posted: int = 0) -> list[Part]:
    """Write the decision that ends a hold and its transaction, release the legs and free the lots; post nothing yet.

    Returns what the hold reserved, in order of use, due points too: post or reserve them again, and `sweep` the rest.
    """
    txn_id, hold, verdict, _, actor, reason = settlement
    now, amount = desk.time_of(hold.program), abs(hold.amount)
    signed = hold.amount if verdict == "void" else posted if hold.amount > 0 else -posted
    header = (txn_id, hold.program, verdict, None, None, hold.hold_id, signed)
    desk.begin(Txn(*header, pending=False, occurred_ms=now))
    debit, credit = desk.sides(hold)
    desk.enter(txn_id, debit, -amount, RELEASE)
    desk.enter(txn_id, credit, amount, RELEASE)
    desk.account((hold.program, hold.account)).open_holds -= 1
    desk.hold_ends.append(HoldEnd(txn_id, hold.hold_id, hold.program, verdict, posted, actor, reason))
    desk.ended[hold.hold_id] = None
    return desk.free(hold)


def sweep(desk: Desk, txn_id: int, freed: Sequence[Part], *, graced: bool) -> None:
    """See to freed points that are due: another lot for as long as the grace lasts, by `txn_id`, or their expiry."""
    for lot, points in freed:
        holder = desk.holder(lot)
        program = holder.key[0]
        now, grace = desk.time_of(program), desk.terms(program).grace_days if graced else 0
        if not lot.due(now):
            continue
        if grace:
            desk.use(txn_id, lot, points, "transfer")
            grant = Grant(points, lot.earned_ms, now + grace * DAY_MS, lot.state.store, lot.lot_id)
            desk.add_lot(txn_id, holder, grant)
        else:
            desk.expire(lot, points)


def reopen(desk: Desk, hold: OpenHold, points: int, parts: Sequence[Part]) -> OpenHold:
    """Hold again `points` of what was closed, with `parts` of what it reserved; it stays due when it was.

    `parts` sum to `points` if the hold takes points, else there are none.
    """
    hold_id = desk.new_id()
    signed = points if hold.amount > 0 else -points
    lots = tuple((part.lot.lot_id, part.amount) for part in parts)
    again = hold._replace(hold_id=hold_id, amount=signed, lots=lots)
    header = (hold_id, hold.program, hold.kind, REOPENED_SOURCE, str(hold.hold_id), None, signed)
    desk.begin(Txn(*header, pending=True, occurred_ms=hold.occurred_ms, order=hold.order))
    open_hold(desk, again, replaces=hold.hold_id)
    desk.reserve_parts(hold_id, parts)
    desk.ended[hold.hold_id] = again
    return again


def open_hold(desk: Desk, hold: OpenHold, replaces: int | None = None) -> None:
    """Write the pending legs and the row of a hold whose transaction has begun; the caller reserves the lots."""
    debit, credit = desk.sides(hold)
    amount = abs(hold.amount)
    desk.enter(hold.hold_id, debit, -amount, PENDING)
    desk.enter(hold.hold_id, credit, amount, PENDING)
    account = desk.account((hold.program, hold.account))
    account.open_holds += 1
    desk.holds.append(
        NewHold(
            hold.hold_id,
            hold.program,
            account.account_id,
            credit.account_id if hold.kind == "transfer" else None,
            hold.kind,
            hold.amount,
            hold.due_ms,
            hold.on_timeout,
            replaces,
            hold.store,
            hold.order,
            hold.expires_ms,
        )
    )


def _post(desk: Desk, txn_id: int, hold: OpenHold, points: int, freed: Sequence[Part]) -> list[Part]:
    debit, credit = desk.sides(hold)
    desk.enter(txn_id, debit, -points, POSTED)
    if not hold.takes:
        now = desk.time_of(hold.program)
        expires_ms = hold.expires_ms
        if expires_ms is None:
            expires_ms = lot_expiry(desk.terms(hold.program), hold.occurred_ms, now)
        desk.give(txn_id, credit, [Grant(points, hold.occurred_ms, expires_ms, hold.store)])
        return []
    used, rest = split(freed, points)
    for lot, amount in used:
        desk.use(txn_id, lot, amount, "transfer" if hold.kind == "transfer" else "debit")
    if hold.kind == "transfer":
        give_parts(desk, txn_id, credit, used)
    else:
        desk.enter(txn_id, credit, points, POSTED)
    return rest


def give_parts(desk: Desk, txn_id: int, account: Working, parts: Sequence[Part], *more: Grant) -> None:
    """Credit an account with `more`, and with parts of another's lots, which keep their expiry and origin.

    What has no parent comes first: as the transaction's first lot it has its id, by which a reversal finds it.
    """
    moved = [
        Grant(amount, lot.state.earned_ms, lot.state.expires_ms, lot.state.store, lot.state.lot_id)
        for lot, amount in parts
    ]
    desk.give(txn_id, account, [*more, *moved])


def split(parts: Sequence[Part], points: int) -> tuple[list[Part], list[Part]]:
    """Divide parts into the first `points` of them and the rest."""
    used: list[Part] = []
    rest: list[Part] = []
    for lot, amount in parts:
        taken = min(points, amount)
        points -= taken
        if taken:
            used.append(Part(lot, taken))
        if taken < amount:
            rest.append(Part(lot, amount - taken))
    return used, rest
