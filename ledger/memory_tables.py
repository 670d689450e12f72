"""The tables of the ledger in memory: rows by id, and how a plan changes them. The twin of `ledger.store`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from ledger.book import Mode, OrderRefund
from ledger.lots import order_of_use
from ledger.movement import AccountState, ArrearsState, Key, LotState, Movement, OpenHold
from ledger.plan import Entry, HoldEnd, HoldLot, LotUse, NewHold, NewMerge, Plan, Reversal, Txn
from ledger.terms import Terms
from ledger.working import Counters

CONTROLS = ("issued", "redeemed", "expired", "clawback", "adjust")


@dataclass
class ProgramRow:
    """A programme with its clock."""

    mode: Mode
    terms: Terms
    clock: int = 0


@dataclass
class AccountRow:
    """An account with its counters."""

    account_id: int
    program: str
    kind: str
    name: str
    opened_ms: int
    counters: Counters = (0, 0, 0, 0, 0)
    open_holds: int = 0
    arrears_id: int | None = None
    merged_into: int | None = None
    signed_up_ms: int | None = None
    credential_changed_ms: int | None = None


@dataclass
class HoldRow:
    """A hold, when it is due and how it ended, if it did."""

    hold: NewHold
    due_ms: int | None
    end: HoldEnd | None = None
    ended_ms: int | None = None


@dataclass(frozen=True)
class ReviewRow:
    """A recorded decision on a hold."""

    decision_id: int
    hold_id: int
    verdict: str
    actor: str
    reason: str
    at_ms: int


@dataclass
class Tables:
    """Everything in the ledger; ids come from one counter, as from the database's sequence."""

    programs: dict[str, ProgramRow] = field(default_factory=dict)
    accounts: dict[int, AccountRow] = field(default_factory=dict)
    named: dict[tuple[str, str, str], int] = field(default_factory=dict)
    txns: dict[int, Txn] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    lots: dict[int, LotState] = field(default_factory=dict)
    lots_of: dict[int, set[int]] = field(default_factory=dict)
    uses: list[LotUse] = field(default_factory=list)
    holds: dict[int, HoldRow] = field(default_factory=dict)
    hold_lots: dict[int, list[HoldLot]] = field(default_factory=dict)
    reviews: list[ReviewRow] = field(default_factory=list)
    reversals: list[Reversal] = field(default_factory=list)
    merges: list[NewMerge] = field(default_factory=list)
    events: dict[tuple[str, str], Movement] = field(default_factory=dict)
    pools: dict[int, set[int]] = field(default_factory=dict)
    refunds: dict[Key, dict[str, OrderRefund]] = field(default_factory=dict)
    ids: count[int] = field(default_factory=lambda: count(1))
    account_ids: count[int] = field(default_factory=lambda: count(1))

    # -- accounts

    def open_account(self, program: str, kind: str, name: str, at_ms: int) -> AccountRow:
        """Return an account, which is opened if it is new."""
        account_id = self.named.get((program, kind, name))
        if account_id is None:
            account_id = self.named[program, kind, name] = next(self.account_ids)
            self.accounts[account_id] = AccountRow(account_id, program, kind, name, at_ms)
            self.lots_of[account_id] = set()
        return self.accounts[account_id]

    def find(self, key: Key) -> AccountRow | None:
        """Return the member's or pool's account of a key."""
        kind = "pool" if key[1].startswith("pool:") else "member"
        account_id = self.named.get((key[0], kind, key[1]))
        return None if account_id is None else self.accounts[account_id]

    def acting(self, row: AccountRow) -> AccountRow:
        """Return the account that an account became by merges, or itself."""
        while row.merged_into is not None:
            row = self.accounts[row.merged_into]
        return row

    def controls(self, program: str) -> dict[Key, int]:
        """Return the ids of a programme's control accounts."""
        return {(program, name): self.named[program, "control", name] for name in CONTROLS}

    def state(self, row: AccountRow, lots: Iterable[LotState] | None = None) -> AccountState:
        """Return an account's state with its open lots, or with the lots given."""
        acting = self.acting(row)
        if lots is None:
            lots = self.open_lots(acting.account_id)
        owed = None
        if acting.arrears_id is not None:
            arrears = self.accounts[acting.arrears_id]
            owed = ArrearsState(arrears.account_id, *arrears.counters[:2], arrears.counters[4])
        return AccountState(
            acting.account_id,
            *acting.counters,
            acting.opened_ms,
            acting.signed_up_ms,
            acting.credential_changed_ms,
            owed,
            "pool" if acting.kind == "pool" else "member",
            acting.open_holds,
            tuple(sorted(lots, key=order_of_use)),
            None if acting is row else acting.name,
        )

    def open_lots(self, account_id: int) -> list[LotState]:
        """Return an account's lots that have points left."""
        return [lot for lot in map(self.lots.__getitem__, self.lots_of[account_id]) if lot.remaining]

    # -- holds

    def open_hold(self, hold_id: int) -> OpenHold:
        """Return a hold as the core wants it, with what it reserves in order of use."""
        row = self.holds[hold_id]
        hold, txn = row.hold, self.txns[hold_id]
        parts = sorted(self.hold_lots.get(hold_id, ()), key=lambda part: order_of_use(self.lots[part.lot_id]))
        return OpenHold(
            hold_id,
            hold.program,
            hold.kind,
            hold.amount,
            self.accounts[hold.account_id].name,
            None if hold.peer_id is None else self.accounts[hold.peer_id].name,
            txn.occurred_ms,
            row.due_ms,
            hold.on_timeout,
            tuple((part.lot_id, part.amount) for part in parts),
            hold.store,
            hold.order,
            hold.expires_ms,
        )

    # -- writing

    def write(self, plan: Plan, now: Mapping[str, int]) -> None:
        """Write everything a plan decided, recorded at `now` (by programme)."""
        created = {
            new.placeholder: self.open_account(new.program, "arrears", new.name, now[new.program]).account_id
            for new in plan.new_arrears
        }
        for txn in plan.txns:
            self.txns[txn.txn_id] = txn
        self.entries += [
            entry._replace(account_id=created.get(entry.account_id, entry.account_id)) for entry in plan.entries
        ]
        self._write_accounts(plan, created)
        self._write_lots(plan)
        for hold in plan.holds:
            self.holds[hold.hold_id] = HoldRow(hold, hold.due_ms)
        for part in plan.hold_lots:
            self.hold_lots.setdefault(part.hold_id, []).append(part)
        for end in plan.hold_ends:
            at_ms = now[end.program]
            self.reviews.append(ReviewRow(end.decision_id, end.hold_id, end.verdict, end.actor, end.reason, at_ms))
            row = self.holds[end.hold_id]
            row.end, row.ended_ms = end, at_ms
        self.reversals += plan.reversals
        for merge in plan.merges:
            self.merges.append(merge)
            self.accounts[merge.from_id].merged_into = merge.into_id

    def _write_accounts(self, plan: Plan, created: Mapping[int, int]) -> None:
        for change in plan.changes:
            account = self.accounts[created.get(change.account_id, change.account_id)]
            if account.counters[4] != change.expected_count:
                raise AssertionError(f"{account} was to have {change.expected_count} entries")
            account.counters = _added(account.counters, change[2:7])
            account.open_holds += change.open_holds
            if change.arrears_id and account.arrears_id is None:
                account.arrears_id = created[change.arrears_id]
            if change.signed_up_ms and account.signed_up_ms is None:
                account.signed_up_ms = change.signed_up_ms
            if change.credential_changed_ms:
                account.credential_changed_ms = max(account.credential_changed_ms or 0, change.credential_changed_ms)
        for control in plan.controls:
            account = self.accounts[control.account_id]
            account.counters = _added(account.counters, (*control[1:5], 0))

    def _write_lots(self, plan: Plan) -> None:
        for lot in plan.lots:
            self.lots[lot.lot_id] = lot
            self.lots_of[lot.account_id].add(lot.lot_id)
        for lot_id, remaining, reserved in plan.lot_changes:
            lot = self.lots[lot_id]
            self.lots[lot_id] = lot._replace(remaining=lot.remaining + remaining, reserved=lot.reserved + reserved)
        self.uses += plan.lot_uses


def _added(counters: Counters, more: Counters) -> Counters:
    first, second, third, fourth, fifth = (have + add for have, add in zip(counters, more, strict=True))
    return (first, second, third, fourth, fifth)
