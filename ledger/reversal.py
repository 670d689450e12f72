"""Takes back what a movement moved, as far as that has not been done yet. Pure.

What is still held is released; held again is what remains. Of posted points,
- an inflow's are taken from the lot it gave, then from every lot those points went on to, wherever it is now and never
  more than came from the one; of each lot first what is free, then what open holds reserve of it: policy ends such a
  hold, and holds again what it has left. What that lacks comes from the member's other lots, and the rest is owed, or
  forgiven where the terms say so;
- an outflow's repay what the member owes, then go back to the lots they came from, the last used first;
- a transfer's go back to the sender as far as the receiver, or whoever has them from the receiver, still holds them.

Points given back keep their expiry. If that is over, they get the programme's grace; without one they expire at their
next touch. Points that come from no lot, since they were owed then, become a lot of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.desk import Desk
from ledger.lots import Grant
from ledger.movement import MAX_POINTS, POSTED, Code, LotState, Movement, Settlement
from ledger.origin import Origin
from ledger.plan import Reversal, Txn
from ledger.settling import close_hold, reopen, split, sweep
from ledger.taking import Taking
from ledger.terms import DAY_MS, lot_expiry
from ledger.working import Working

ACTOR = "policy:reversal"


class Cause(NamedTuple):
    """What takes points back: a reverse event or the refund of an order. `id` is that of transaction and reversal."""

    id: int
    source: str
    event_id: str
    occurred_ms: int
    order: str | None = None
    refund: str | None = None

    @property
    def reason(self) -> str:
        """Why policy ends a hold, for the record."""
        return f"points taken back by {self.event_id} of {self.source}"


def reverse(desk: Desk, movement: Movement) -> Code:
    """Take back what the event that a reverse names moved; 0 points are all that is left.

    It must name the account that the original named, so that a mistaken id can't touch anybody else. Nobody stops a
    reversal by holding it.
    """
    program = movement.program
    if movement.verdict == "reject":
        return "rejected"
    if not 0 <= movement.points <= desk.terms(program).max_posting:
        return "points_out_of_range"
    origin = None if movement.reverses is None else desk.accounts.origins.get(movement.reverses)
    if origin is None or origin.program != program:
        return "unknown_original"
    if not origin.amount:
        return "nothing_to_reverse"
    if desk.account((program, origin.actor)) is not desk.account((program, movement.account)):
        return "unknown_original"
    cause = Cause(movement.id, movement.source, movement.event_id, movement.occurred_ms, movement.order)
    return take_back(desk, origin, cause, movement.points or origin.left)


def take_back(desk: Desk, origin: Origin, cause: Cause, asked: int) -> Code:
    """Take back up to `asked` points of a movement: `posted` if any, else why none."""
    wanted = min(asked, origin.left)
    if wanted <= 0:
        return "nothing_to_reverse"
    if origin.hold is not None:
        return _release(desk, origin, cause, wanted)
    if origin.inflow:
        return _claw_back(desk, origin, cause, wanted)
    if origin.kind == "transfer":
        return _send_back(desk, origin, cause, wanted)
    return _give_back(desk, origin, cause, wanted)


def _release(desk: Desk, origin: Origin, cause: Cause, wanted: int) -> Code:
    hold = None if origin.hold is None else desk.current(origin.hold)
    if hold is None:
        return "nothing_to_reverse"
    wanted = min(wanted, abs(hold.amount))
    ending = Settlement(desk.new_id(), hold, "void", actor=ACTOR, reason=cause.reason)
    freed = close_hold(desk, ending)
    rest = abs(hold.amount) - wanted
    if rest:
        kept, freed = split(freed, rest if hold.takes else 0)
        reopen(desk, hold, rest, kept)
    sweep(desk, ending.txn_id, freed, graced=False)
    _record(desk, origin, cause, {"from_hold": wanted})
    return "posted"


def _claw_back(desk: Desk, origin: Origin, cause: Cause, wanted: int) -> Code:
    program = origin.program
    account = desk.account((program, origin.account))
    clamp = desk.terms(program).shortfall == "clamp"
    if not clamp and account.arrears is not None and account.arrears.posted_dr + wanted > MAX_POINTS:
        return "balance_out_of_range"
    taking = Taking(desk, origin, cause.id, wanted)
    for traced in taking.tree:
        deep = traced.depth > 0
        taking.take(traced, "from_traced" if deep else "from_lot", "from_traced" if deep else "from_reserved")
    if taking.wanted:
        desk.expire_due(account)
        taking.take_other(account)
    short = taking.wanted
    if short:
        taking.parts["forgiven" if clamp else "to_arrears"] = short
    taking.end_holds(ACTOR, cause.reason)
    owed = 0 if clamp else short
    total = taking.total + owed
    if total:
        _begin(desk, origin, cause, total)
        taking.enter()
        if owed:
            desk.enter(cause.id, desk.arrears(account), -owed, POSTED)
        desk.enter(cause.id, desk.control(program, "clawback", origin.store), total, POSTED)
    _record(desk, origin, cause, taking.parts)
    return "posted"


def _send_back(desk: Desk, origin: Origin, cause: Cause, wanted: int) -> Code:
    account = desk.account((origin.program, origin.account))
    taking = Taking(desk, origin, cause.id, wanted)
    total = min(wanted, taking.there_is())
    if not total:
        return "nothing_to_reverse"
    if _overflows(account, total):
        return "balance_out_of_range"
    for traced in taking.tree:
        taking.take(traced, "from_traced" if traced.depth else "from_lot", "from_reserved")
    taking.end_holds(ACTOR, cause.reason)
    _begin(desk, origin, cause, total)
    taking.enter()
    rest = _credit(desk, cause.id, account, total)
    sources = {lot.lot_id: lot for lot in origin.sources}
    for traced, lot, points in taking.taken:
        part = min(points, rest)
        rest -= part
        if not part:
            continue
        if traced.source is None:
            desk.add_lot(cause.id, account, _anew(desk, origin, part, lot.state.store))
        else:
            _put_back(desk, cause.id, account, sources[traced.source], part)
    _record(desk, origin, cause, taking.parts)
    return "posted"


def _give_back(desk: Desk, origin: Origin, cause: Cause, wanted: int) -> Code:
    program = origin.program
    account = desk.account((program, origin.account))
    if _overflows(account, wanted):
        return "balance_out_of_range"
    _begin(desk, origin, cause, wanted)
    control = "redeemed" if origin.kind == "redeem" else "adjust"
    desk.enter(cause.id, desk.control(program, control, origin.store), -wanted, POSTED)
    restored = rest = _credit(desk, cause.id, account, wanted)
    for given in reversed(origin.used):
        part = min(rest, given.left)
        rest -= part
        if part:
            _put_back(desk, cause.id, account, given.lot, part)
    if rest:
        desk.add_lot(cause.id, account, _anew(desk, origin, rest, origin.store))
    _record(desk, origin, cause, {"restored": restored, "repaid": wanted - restored})
    return "posted"


def _overflows(account: Working, points: int) -> bool:
    """Whether more points would have come in than are ever counted. What the terms allow does not bar a return."""
    return account.posted_cr + account.pending_cr + points - min(account.owed, points) > MAX_POINTS


def _credit(desk: Desk, txn_id: int, account: Working, points: int) -> int:
    """Credit points, to arrears first; return how many are left for lots."""
    repaid = min(account.owed, points)
    if points > repaid:
        desk.enter(txn_id, account, points - repaid, POSTED)
    if repaid:
        desk.enter(txn_id, desk.arrears(account), repaid, POSTED)
    return points - repaid


def _put_back(desk: Desk, txn_id: int, account: Working, lot: LotState, points: int) -> None:
    now, grace = desk.time_of(lot.program), desk.terms(lot.program).grace_days
    expires_ms = lot.expires_ms
    if expires_ms is not None and expires_ms <= now and grace:
        expires_ms = now + grace * DAY_MS
    elif lot.account_id == account.account_id:
        desk.use(txn_id, desk.lot(lot.lot_id), points, "restore")
        return
    # Another lot gets them: its time is another, or the account was merged into this one since.
    desk.pass_on(txn_id, lot.lot_id, points)
    desk.add_lot(txn_id, account, Grant(points, lot.earned_ms, expires_ms, lot.store, lot.lot_id))


def _anew(desk: Desk, origin: Origin, points: int, store: str | None) -> Grant:
    now = desk.time_of(origin.program)
    return Grant(points, now, lot_expiry(desk.terms(origin.program), now, now), store)


def _begin(desk: Desk, origin: Origin, cause: Cause, points: int) -> None:
    header = (cause.id, origin.program, "reverse", cause.source, cause.event_id, None, points)
    desk.begin(Txn(*header, pending=False, occurred_ms=cause.occurred_ms, order=cause.order))


def _record(desk: Desk, origin: Origin, cause: Cause, parts: dict[str, int]) -> None:
    points = sum(parts.values())
    desk.reversals.append(
        Reversal(cause.id, origin.program, origin.root, points, **parts, order=cause.order, refund=cause.refund)
    )
