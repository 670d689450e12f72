"""Decides, in memory and in order, what a batch of movements does to locked accounts. Pure.

A movement debits one account and credits another:

| kind      | debit                         | credit                          |
|-----------|-------------------------------|---------------------------------|
| earn      | programme's issued, or store  | member                          |
| redeem    | member or pool                | programme's redeemed, or store  |
| transfer  | member or pool                | the other member, or a pool     |
| adjust +  | programme's adjust            | member                          |
| adjust -  | member                        | programme's adjust              |
| reverse   | as `ledger.reversal` says     |                                 |

Held, the two legs are pending: a pending debit is no longer available and reserves lots, a pending credit is not yet
available and has no lot. Posted, whatever comes in becomes lots and pays the member's arrears first, and what a fact
takes out beyond what may be spent becomes arrears. Points that are due are never spent: they expire before an outflow
goes through. A refused movement changes nothing, not even what is due, and says why; no movement can spoil another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ledger.desk import Desk
from ledger.lots import Grant
from ledger.movement import MAX_POINTS, POOL, POSTED, Accounts, Code, Key, Movement, OpenHold, Result
from ledger.plan import Plan, Txn
from ledger.reversal import reverse
from ledger.settling import give_parts, open_hold
from ledger.terms import Terms, lot_expiry
from ledger.working import Working

_GIVERS = {"earn": "issued", "adjust": "adjust"}
_OUTFLOWS = frozenset({"redeem", "transfer", "adjust"})
_TAKERS = {"redeem": "redeemed", "adjust": "adjust"}


def plan(
    accounts: Accounts,
    movements: Sequence[Movement],
    now: Mapping[str, int],
    ids: Iterator[int],
    signed_up: Mapping[Key, int] | None = None,
    credential_changed: Mapping[Key, int] | None = None,
) -> Plan:
    """Decide every movement in order, each on the balances and lots the earlier ones left.

    `now` is the ledger's time by programme, `ids` gives ids for further lots and for expiries. `signed_up` and
    `credential_changed` (epoch milliseconds by account key) are facts to keep on the accounts: the first sign-up told
    and the latest change stay. Every account named must be in `accounts` (KeyError otherwise), with its lots if
    something may be taken from it. Reasons of refusal are looked for in the order of `Code`; a movement with verdict
    `reject` moves nothing, unless it is an outflow and a fact.
    """
    desk = Desk(accounts, now, ids)
    results = tuple([_decide(desk, movement) for movement in movements])
    return desk.close(results, signed_up, credential_changed)


def _decide(desk: Desk, movement: Movement) -> Result:
    if movement.account.startswith(POOL):  # nobody is a pool
        return Result("rejected" if movement.verdict == "reject" else "not_in_pool", 0, 0)
    account = desk.account((movement.program, movement.account))
    kind = movement.kind
    if kind == "earn" or (kind == "adjust" and movement.points >= 0):
        code = _inflow(desk, movement, account)
    elif kind == "reverse":
        code = reverse(desk, movement)
    elif kind in _OUTFLOWS:
        code, account = _outflow(desk, movement, account)
    else:
        raise ValueError(f"unknown kind of movement: {kind!r}")
    return Result._make((code, account.available, account.owed))


def _inflow(desk: Desk, movement: Movement, account: Working) -> Code:
    program, points = movement.program, movement.points
    terms = desk.terms(program)
    if movement.verdict == "reject":
        return "rejected"
    if not 0 < points <= terms.max_posting:
        return "points_out_of_range"
    if movement.pool is not None:
        return "not_in_pool"
    if overflows(account, points, terms):
        return "balance_out_of_range"
    if movement.verdict == "hold":
        if account.open_holds >= terms.max_open_holds:
            return "too_many_holds"
        _hold(desk, movement, account, None)
        return "held"
    txn_id = movement.id
    desk.begin(_header(movement, pending=False))
    desk.enter(txn_id, desk.control(program, _GIVERS[movement.kind], movement.store), -points, POSTED)
    desk.give(txn_id, account, (_granted(desk, movement, points, terms),))
    return "posted"


def _outflow(desk: Desk, movement: Movement, account: Working) -> tuple[Code, Working]:
    # A pool has no arrears, so what is told of it as a fact is still a request.
    must = movement.fact and movement.pool is None
    payer = account if movement.pool is None else _pool(desk, movement, account)
    due = 0 if payer is None else desk.due_points(payer)
    code = _refusal(desk, movement, account, payer, due)
    if code is not None or payer is None:
        return code or "not_in_pool", payer or account
    receiver = desk.account((movement.program, movement.to or "")) if movement.kind == "transfer" else None
    if due:
        desk.expire_due(payer)
    if movement.verdict == "hold" and not must:
        _hold(desk, movement, payer, receiver)
        desk.reserve(movement.id, payer, abs(movement.points))
        return "held", payer
    _take_out(desk, movement, payer, receiver)
    return "posted", payer


def _refusal(desk: Desk, movement: Movement, account: Working, payer: Working | None, due: int) -> Code | None:
    must, terms = movement.fact and movement.pool is None, desk.terms(movement.program)
    amount = -movement.points if movement.kind == "adjust" else movement.points
    if movement.verdict == "reject" and not must:
        return "rejected"
    if not 0 < amount <= terms.max_posting:
        return "points_out_of_range"
    if movement.kind == "transfer":
        code = _misdirected(desk, movement, account, payer, amount)
        if code is not None:
            return code
    if payer is None:
        return "not_in_pool"
    if payer.available - due < amount:
        if not must:
            return "insufficient_balance"
        if payer.arrears is not None and payer.arrears.posted_dr + amount > MAX_POINTS:
            return "balance_out_of_range"
    if movement.verdict == "hold" and not must and payer.open_holds >= terms.max_open_holds:
        return "too_many_holds"
    return None


def _misdirected(desk: Desk, movement: Movement, account: Working, payer: Working | None, amount: int) -> Code | None:
    program, name = movement.program, movement.to
    if name is None or (movement.pool is not None and name == POOL + movement.pool):
        return "same_account"
    key = (program, name)
    if name.startswith(POOL) and not _belongs(desk, key, movement, account):
        return "not_in_pool"
    receiver = desk.account(key)
    if receiver is payer:
        return "same_account"
    if payer is None:
        return "not_in_pool"
    return "balance_out_of_range" if overflows(receiver, amount, desk.terms(program)) else None


def _pool(desk: Desk, movement: Movement, account: Working) -> Working | None:
    key = (movement.program, POOL + (movement.pool or ""))
    return desk.account(key) if movement.kind != "adjust" and _belongs(desk, key, movement, account) else None


def _belongs(desk: Desk, pool: Key, movement: Movement, account: Working) -> bool:
    members = desk.accounts.pools.get(pool, frozenset())
    return movement.account in members or account.key[1] in members


def overflows(account: Working, points: int, terms: Terms) -> bool:
    """Whether an account can't get so many points: more than were ever counted, or more than the terms let it have."""
    counted = account.posted_cr + account.pending_cr + points
    return counted > MAX_POINTS or counted - account.posted_dr > terms.max_balance


def _header(movement: Movement, *, pending: bool) -> Txn:
    return Txn._make(
        (
            movement.id,
            movement.program,
            movement.kind,
            movement.source,
            movement.event_id,
            None,
            movement.points,
            pending,
            movement.occurred_ms,
            movement.order,
        )
    )


def _granted(desk: Desk, movement: Movement, points: int, terms: Terms) -> Grant:
    expires_ms = movement.expires_ms
    if expires_ms is None and terms.expiry_days is not None:
        expires_ms = lot_expiry(terms, movement.occurred_ms, desk.time_of(movement.program))
    return Grant(points, movement.occurred_ms, expires_ms, movement.store)


def _hold(desk: Desk, movement: Movement, account: Working, receiver: Working | None) -> None:
    wait = movement.due_seconds
    hold = OpenHold(
        movement.id,
        movement.program,
        movement.kind,
        movement.points,
        account.key[1],
        None if receiver is None else receiver.key[1],
        movement.occurred_ms,
        None if wait is None else desk.time_of(movement.program) + wait * 1000,
        movement.on_timeout,
        store=movement.store,
        order=movement.order,
        expires_ms=movement.expires_ms,
    )
    desk.begin(_header(movement, pending=True))
    open_hold(desk, hold)


def _take_out(desk: Desk, movement: Movement, payer: Working, receiver: Working | None) -> None:
    txn_id, amount = movement.id, abs(movement.points)
    paid = min(amount, payer.available)  # what was due is gone by now
    short = amount - paid
    desk.begin(_header(movement, pending=False))
    parts = desk.take(txn_id, payer, paid, "debit" if receiver is None else "transfer") if paid else []
    if short:
        desk.enter(txn_id, desk.arrears(payer), -short, POSTED)
    if receiver is None:
        control = desk.control(movement.program, _TAKERS[movement.kind], movement.store)
        desk.enter(txn_id, control, amount, POSTED)
    elif short:
        # What the sender lacked is new points to the receiver, of no lot.
        give_parts(desk, txn_id, receiver, parts, _granted(desk, movement, short, desk.terms(movement.program)))
    else:
        give_parts(desk, txn_id, receiver, parts)
