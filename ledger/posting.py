"""Decides, in memory and in order, what a batch of movements does to locked accounts. Pure.

A movement debits one account and credits another:

| kind      | debit                | credit               |
|-----------|----------------------|----------------------|
| earn      | programme's issued   | member               |
| redeem    | member               | programme's redeemed |
| transfer  | member               | the other member     |
| adjust +  | programme's adjust   | member               |
| adjust -  | member               | programme's adjust   |

Held, the two legs are pending: a pending debit is no longer available, a pending credit not yet. Posted, whatever comes
in pays the member's arrears first, and what a fact takes out beyond the available balance becomes arrears. A refused
movement changes nothing and says why; no movement can spoil another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from ledger.movement import (
    MAX_POINTS,
    PENDING,
    POSTED,
    RELEASE,
    AccountChange,
    Accounts,
    Code,
    ControlChange,
    Entry,
    Key,
    Movement,
    NewArrears,
    NewHold,
    Plan,
    Result,
    Txn,
)

_MOVES = frozenset({"posted", "held"})
_MAX_DELTA = 2**62
_OUTFLOWS = frozenset({"redeem", "transfer"})


class OpenHold(NamedTuple):
    """A hold as the pure core needs it to end it; `peer` is the receiving member of a transfer."""

    hold_id: int
    program: str
    kind: str
    amount: int
    account: str
    peer: str | None


class Settlement(NamedTuple):
    """The end of a hold: `txn_id` is the id of the review decision that ends it."""

    txn_id: int
    hold: OpenHold
    verdict: Literal["post", "void"]
    occurred_ms: int


def plan(
    accounts: Accounts,
    movements: Sequence[Movement],
    signed_up: Mapping[Key, int] | None = None,
    credential_changed: Mapping[Key, int] | None = None,
) -> Plan:
    """Decide every movement in order, each on the balances the earlier ones left.

    `signed_up` and `credential_changed` (epoch milliseconds by account key) are facts to keep on the accounts: the
    first sign-up told and the latest change stay. Every account named must be in `accounts` (KeyError otherwise).
    Reasons of refusal are looked for in the order of `Code`; a movement with verdict `reject` moves nothing, unless it
    is an outflow and a fact.
    """
    desk = _Desk(accounts)
    results = tuple([desk.decide(movement) for movement in movements])
    return desk.close(results, signed_up or {}, credential_changed or {})


def settle(accounts: Accounts, settlements: Iterable[Settlement]) -> Plan:
    """End open holds, each by a new transaction that releases its pending legs and, for a post, posts them.

    A hold set the points aside when it opened, so neither verdict can break a bound.
    """
    desk = _Desk(accounts)
    for settlement in settlements:
        desk.settle(settlement)
    return desk.close((), {}, {})


class _Account:
    """A working copy of an account; control accounts start at zero and only collect what the batch adds."""

    __slots__ = ("account_id", "arrears", "before", "entry_count", "numbered", "pending_cr", "pending_dr", "posted_cr",
                 "posted_dr")  # fmt: skip

    def __init__(self, account_id: int, counters: tuple[int, int, int, int, int], *, numbered: bool = True) -> None:
        self.account_id = account_id
        self.posted_dr, self.posted_cr, self.pending_dr, self.pending_cr, self.entry_count = counters
        self.before = counters
        self.numbered = numbered
        self.arrears: _Account | None = None

    @property
    def available(self) -> int:
        return self.posted_cr - self.posted_dr - self.pending_dr

    @property
    def owed(self) -> int:
        return self.arrears.posted_dr - self.arrears.posted_cr if self.arrears is not None else 0

    def changes(self) -> tuple[int, int, int, int, int]:
        before = self.before
        return (
            self.posted_dr - before[0],
            self.posted_cr - before[1],
            self.pending_dr - before[2],
            self.pending_cr - before[3],
            self.entry_count - before[4],
        )


class _Desk:
    """One batch being decided: working copies of the accounts it touches, and what is to be written."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._members: dict[Key, _Account] = {}
        self._controls: dict[Key, _Account] = {}
        self._txns: list[Txn] = []
        self._entries: list[Entry] = []
        self._holds: list[NewHold] = []
        self._new_arrears: list[NewArrears] = []
        self._leg = 0

    def decide(self, movement: Movement) -> Result:
        member = self._member(movement.program, movement.account)
        code = self._examine(movement, member)
        if code in _MOVES:
            debit, credit = self._sides(movement.kind, movement.program, movement.points, member, movement.to)
            if code == "posted":
                self._begin(movement, pending=False)
                self._post(movement.id, debit, credit, abs(movement.points), (movement.program, movement.account))
            else:
                self._begin(movement, pending=True)
                self._enter(movement.id, debit, -abs(movement.points), PENDING)
                self._enter(movement.id, credit, abs(movement.points), PENDING)
                self._hold(movement, member.account_id, credit)
        return Result(code, member.available, member.owed)

    def settle(self, settlement: Settlement) -> None:
        txn_id, hold, verdict, occurred_ms = settlement
        member = self._member(hold.program, hold.account)
        debit, credit = self._sides(hold.kind, hold.program, hold.amount, member, hold.peer)
        self._leg = 0
        header = (txn_id, hold.program, verdict, None, None, hold.hold_id, hold.amount)
        self._txns.append(Txn(*header, pending=False, occurred_ms=occurred_ms))
        self._enter(txn_id, debit, -abs(hold.amount), RELEASE)
        self._enter(txn_id, credit, abs(hold.amount), RELEASE)
        if verdict == "post":
            self._post(txn_id, debit, credit, abs(hold.amount), (hold.program, hold.account))

    def close(
        self, results: tuple[Result, ...], signed_up: Mapping[Key, int], credential_changed: Mapping[Key, int]
    ) -> Plan:
        for key in (*signed_up, *credential_changed):
            self._member(*key)
        changes: list[AccountChange] = []
        for key, account in self._members.items():
            created = account.arrears is not None and account.arrears.account_id < 0
            told = (
                account.arrears.account_id if created and account.arrears is not None else 0,
                signed_up.get(key, 0),
                credential_changed.get(key, 0),
            )
            delta = account.changes()
            if delta[4] or any(told):
                changes.append(AccountChange(account.account_id, account.before[4], *delta, *told))
            if account.arrears is not None and account.arrears.entry_count != account.arrears.before[4]:
                arrears = account.arrears
                changes.append(AccountChange(arrears.account_id, arrears.before[4], *arrears.changes()))
        controls = [change for control in self._controls.values() for change in _control_changes(control)]
        return Plan(
            results,
            tuple(self._txns),
            tuple(self._entries),
            tuple(self._holds),
            tuple(changes),
            tuple(controls),
            tuple(self._new_arrears),
        )

    def _examine(self, movement: Movement, member: _Account) -> Code:
        outflow = _takes(movement)
        must = outflow and movement.fact
        if movement.verdict == "reject" and not must:
            return "rejected"
        amount = -movement.points if outflow and movement.kind == "adjust" else movement.points
        if not 0 < amount <= MAX_POINTS:
            return "points_out_of_range"
        if movement.kind == "transfer" and movement.to in {None, movement.account}:
            return "same_account"
        if self._overflows(movement, member, amount):
            return "balance_out_of_range"
        if outflow and not must and member.available < amount:
            return "insufficient_balance"
        return "held" if movement.verdict == "hold" and not must else "posted"

    def _overflows(self, movement: Movement, member: _Account, amount: int) -> bool:
        receiver: _Account | None = member
        if movement.kind == "transfer":
            receiver = self._member(movement.program, movement.to or "")
        elif _takes(movement):
            receiver = None
        if receiver is not None and receiver.posted_cr + receiver.pending_cr + amount > MAX_POINTS:
            return True
        # Only a fact outflow may fall short, and its shortfall grows what was ever owed.
        short = movement.fact and _takes(movement) and member.available < amount
        return short and member.arrears is not None and member.arrears.posted_dr + amount > MAX_POINTS

    def _sides(
        self, kind: str, program: str, points: int, member: _Account, peer: str | None
    ) -> tuple[_Account, _Account]:
        if kind == "earn":
            return self._control(program, "issued"), member
        if kind == "redeem":
            return member, self._control(program, "redeemed")
        if kind == "transfer":
            return member, self._member(program, peer or "")
        if kind == "adjust":
            control = self._control(program, "adjust")
            return (control, member) if points > 0 else (member, control)
        raise ValueError(f"unknown kind of movement: {kind!r}")

    def _begin(self, movement: Movement, *, pending: bool) -> None:
        self._leg = 0
        self._txns.append(
            Txn(
                movement.id,
                movement.program,
                movement.kind,
                movement.source,
                movement.event_id,
                None,
                movement.points,
                pending,
                movement.occurred_ms,
            )
        )

    def _hold(self, movement: Movement, account_id: int, credit: _Account) -> None:
        self._holds.append(
            NewHold(
                movement.id,
                movement.program,
                account_id,
                credit.account_id if movement.kind == "transfer" else None,
                movement.kind,
                movement.points,
                movement.due_seconds,
                movement.on_timeout,
            )
        )

    def _post(self, txn_id: int, debit: _Account, credit: _Account, amount: int, payer: Key) -> None:
        short = max(0, amount - debit.available) if debit.numbered else 0
        if amount > short:
            self._enter(txn_id, debit, short - amount, POSTED)
        if short:
            self._enter(txn_id, self._arrears(debit, payer), -short, POSTED)
        repaid = min(credit.owed, amount)
        if amount > repaid:
            self._enter(txn_id, credit, amount - repaid, POSTED)
        if repaid and credit.arrears is not None:
            self._enter(txn_id, credit.arrears, repaid, POSTED)

    def _enter(self, txn_id: int, account: _Account, amount: int, layer: int) -> None:
        if account.numbered:
            account.entry_count += 1
        if layer == POSTED:
            if amount > 0:
                account.posted_cr += amount
            else:
                account.posted_dr -= amount
        else:
            opened = amount if layer == PENDING else -amount
            if amount > 0:
                account.pending_cr += opened
            else:
                account.pending_dr -= opened
        self._entries.append(Entry(txn_id, account.account_id, amount, account.entry_count, self._leg, layer))
        self._leg += 1

    def _member(self, program: str, name: str) -> _Account:
        key = (program, name)
        account = self._members.get(key)
        if account is None:
            state = self._accounts.members[key]
            account = self._members[key] = _Account(state.account_id, state[1:6])
            if state.arrears is not None:
                owed = state.arrears
                account.arrears = _Account(owed.account_id, (owed.posted_dr, owed.posted_cr, 0, 0, owed.entry_count))
        return account

    def _arrears(self, member: _Account, key: Key) -> _Account:
        if member.arrears is None:
            placeholder = -1 - len(self._new_arrears)
            self._new_arrears.append(NewArrears(placeholder, *key))
            member.arrears = _Account(placeholder, (0, 0, 0, 0, 0))
        return member.arrears

    def _control(self, program: str, name: str) -> _Account:
        key = (program, name)
        control = self._controls.get(key)
        if control is None:
            control = _Account(self._accounts.controls[key], (0, 0, 0, 0, 0), numbered=False)
            self._controls[key] = control
        return control


def _takes(movement: Movement) -> bool:
    kind = movement.kind
    return kind in _OUTFLOWS or (kind == "adjust" and movement.points < 0)


def _control_changes(control: _Account) -> list[ControlChange]:
    # A batch of the largest points there are may add up to more than a bigint holds; then it takes several rows.
    posted_dr, posted_cr, pending_dr, pending_cr, _ = control.changes()
    left = [posted_dr, posted_cr, pending_dr, pending_cr]
    rows: list[ControlChange] = []
    while any(left) or not rows:
        part = [max(-_MAX_DELTA, min(_MAX_DELTA, value)) for value in left]
        rows.append(ControlChange(control.account_id, *part))
        left = [value - taken for value, taken in zip(left, part, strict=True)]
    return rows
