"""One batch being decided: working copies of the accounts and lots it touches, and what is to be written. Pure.

The desk knows the mechanics — entries that are numbered, lots that follow balances, reservations — and no policy: what
may happen is for `ledger.posting`, `settling`, `expiry`, `reversal` and `merging`, which all work on one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ledger.lots import Grant, Lot, LotsError, Part, Purse, order_of_use
from ledger.movement import OWN, PENDING, POSTED, Accounts, Key, LotState, OpenHold, Result
from ledger.plan import (
    Action,
    Entry,
    HoldEnd,
    HoldLot,
    LotUse,
    NewArrears,
    NewHold,
    NewMerge,
    Plan,
    Reversal,
    Txn,
)
from ledger.terms import DEFAULT_TERMS, Terms
from ledger.working import NOTHING, Working, account_changes, control_changes

EXPIRY_SOURCE = OWN + "expiry"

_THROUGH: tuple[Action, Action] = ("restore", "transfer")
_FUNDED = frozenset({"issued", "redeemed", "clawback"})


class Desk:
    """One batch. `ids` gives ids for whatever the batch makes beyond its movements: further lots, expiries, holds.

    What is decided is written down in order; `close` gives the plan. `ended` names the hold that took the place of each
    hold that ended here, or None: a loaded OpenHold may be out of date within the batch.
    """

    def __init__(self, accounts: Accounts, now: Mapping[str, int], ids: Iterator[int]) -> None:
        self.accounts = accounts
        self.ended: dict[int, OpenHold | None] = {}
        self.reversals: list[Reversal] = []
        self.merges: list[NewMerge] = []
        self.holds: list[NewHold] = []
        self.hold_lots: list[HoldLot] = []
        self.hold_ends: list[HoldEnd] = []
        self._now = now
        self._ids = ids
        self._named: dict[Key, Working] = {}
        self._by_id: dict[int, Working] = {}
        self._controls: dict[Key, Working] = {}
        self._stores: dict[Key, Working] = {}
        self._txns: list[Txn] = []
        self._entries: list[Entry] = []
        self._new_arrears: list[NewArrears] = []
        self._given: dict[int, LotState] = {}
        self._touched: dict[int, Lot] = {}
        self._uses: dict[tuple[int, int, Action], int] = {}
        self._owners: dict[int, Key] | None = None
        self._txn_id = -1
        self._leg = 0

    # -- what there is

    def time_of(self, program: str) -> int:
        """Return the ledger's time of a programme."""
        return self._now[program]

    def terms(self, program: str) -> Terms:
        """Return a programme's terms."""
        return self.accounts.terms.get(program, DEFAULT_TERMS)

    def new_id(self) -> int:
        """Take an id."""
        return next(self._ids)

    def account(self, key: Key) -> Working:
        """Return the account of a key, or the one it was merged into; KeyError when it was not loaded."""
        account = self._named.get(key)
        if account is None:
            state = self.accounts.members[key]
            account = self._by_id.get(state.account_id)
            if account is None:
                own = key if state.merged_into is None else (key[0], state.merged_into)
                account = self._by_id[state.account_id] = Working(
                    state.account_id, own, state[1:6], state.kind, Purse(state.lots, self._touched)
                )
                account.open_holds = account.holds_before = state.open_holds
                self._named[own] = account
                if state.arrears is not None:
                    owed = state.arrears
                    counters = (owed.posted_dr, owed.posted_cr, 0, 0, owed.entry_count)
                    account.arrears = Working(owed.account_id, own, counters, "arrears")
            self._named[key] = account
        return account

    def holder(self, lot: Lot) -> Working:
        """Return the account a lot is in."""
        return self._by_id[lot.account_id]

    def control(self, program: str, name: str, store: str | None = None) -> Working:
        """Return a control account, or the store's own where stores fund the programme's points."""
        if store is not None and name in _FUNDED and self.terms(program).funding == "store":
            key, ids, working = (program, store), self.accounts.stores, self._stores
        else:
            key, ids, working = (program, name), self.accounts.controls, self._controls
        account = working.get(key)
        if account is None:
            account = working[key] = Working(ids[key], key, NOTHING, "control")
        return account

    def arrears(self, account: Working) -> Working:
        """Return a member's arrears account, which is made when it is first needed."""
        if account.arrears is None:
            placeholder = -1 - len(self._new_arrears)
            self._new_arrears.append(NewArrears(placeholder, *account.key))
            account.arrears = Working(placeholder, account.key, NOTHING, "arrears")
        return account.arrears

    def sides(self, hold: OpenHold) -> tuple[Working, Working]:
        """Return who gives and who gets the points of a movement that is, or shall be, held."""
        program, account = hold.program, self.account((hold.program, hold.account))
        if hold.kind == "earn":
            return self.control(program, "issued", hold.store), account
        if hold.kind == "redeem":
            return account, self.control(program, "redeemed", hold.store)
        if hold.kind == "transfer":
            return account, self.account((program, hold.peer or ""))
        control = self.control(program, "adjust")
        return (control, account) if hold.amount > 0 else (account, control)

    def lot(self, lot_id: int) -> Lot:
        """Return a loaded or new lot by its id; LotsError when there is none."""
        lot = self.find(lot_id)
        if lot is None:
            raise LotsError(f"lot {lot_id} was not loaded")
        return lot

    def find(self, lot_id: int) -> Lot | None:
        """Return a loaded or new lot by its id; None when there is none."""
        lot = self._touched.get(lot_id)
        if lot is None:
            given = self._given.get(lot_id)
            lot = self._loaded(lot_id) if given is None else self._by_id[given.account_id].purse.find(lot_id)
        return lot

    def given_lots(self) -> Collection[LotState]:
        """Return the lots that the batch gave so far, as they were given."""
        return self._given.values()

    def current(self, hold: OpenHold) -> OpenHold | None:
        """Return a hold as it stands in this batch: itself, what it was held again as, or None when it ended."""
        now: OpenHold | None = hold
        while now is not None and now.hold_id in self.ended:
            now = self.ended[now.hold_id]
        return now

    def _loaded(self, lot_id: int) -> Lot | None:
        if self._owners is None:
            members = self.accounts.members.items()
            self._owners = {lot.lot_id: key for key, state in members for lot in state.lots}
        key = self._owners.get(lot_id)
        return None if key is None else self.account(key).purse.find(lot_id)

    # -- transactions and entries

    def begin(self, txn: Txn) -> None:
        """Write a transaction's header; its entries follow, in legs counted from 0."""
        self._txns.append(txn)
        self._txn_id = txn.txn_id
        self._leg = 0

    def enter(self, txn_id: int, account: Working, amount: int, layer: int) -> None:
        """Write a leg: credit positive, debit negative. A release has the sign of the pending leg it ends."""
        if txn_id != self._txn_id:
            self._txn_id = txn_id
            self._leg = sum(1 for entry in self._entries if entry.txn_id == txn_id)
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
        # _make: half the cost of a call with six arguments, on the hottest line there is.
        self._entries.append(Entry._make((txn_id, account.account_id, amount, account.entry_count, self._leg, layer)))
        self._leg += 1

    # -- points and their lots

    def give(self, txn_id: int, account: Working, grants: Sequence[Grant]) -> None:
        """Credit an account with points that become lots; what it owes is repaid first, out of the first of them.

        The giver's leg is the caller's to enter.
        """
        points = sum([grant.amount for grant in grants])
        repaid = 0 if account.arrears is None else min(account.owed, points)
        if points > repaid:
            self.enter(txn_id, account, points - repaid, POSTED)
        if repaid:
            self.enter(txn_id, self.arrears(account), repaid, POSTED)
        for grant in grants:
            back = min(repaid, grant.amount) if repaid else 0
            repaid -= back
            self.add_lot(txn_id, account, grant, back)

    def add_lot(self, txn_id: int, account: Working, grant: Grant, repaid: int = 0) -> LotState:
        """Make a lot, of which `repaid` points go to arrears at once; the account's entry is the caller's.

        A transaction's first lot has its id.
        """
        amount, earned_ms, expires_ms, store, parent = grant
        lot_id = next(self._ids) if txn_id in self._given else txn_id
        program, owner = account.key[0], account.account_id
        lot = LotState._make(
            (lot_id, program, owner, txn_id, parent, amount, amount - repaid, 0, earned_ms, expires_ms, store)
        )
        self._given[lot_id] = lot
        if repaid:
            self._uses[txn_id, lot_id, "repay"] = repaid
        account.purse.add(lot)
        return lot

    def take(self, txn_id: int, account: Working, amount: int, action: Action) -> list[Part]:
        """Debit an account of points that are neither due nor reserved, in order of use; which, of which lot."""
        self.enter(txn_id, account, -amount, POSTED)
        parts = self._pick(account, amount)
        for lot, points in parts:
            lot.remaining -= points
            key = (txn_id, lot.state.lot_id, action)
            self._uses[key] = self._uses.get(key, 0) + points
        return parts

    def use(self, txn_id: int, lot: Lot, amount: int, action: Action) -> None:
        """Take points that no hold reserves from one lot, or restore points to it; the entry is the caller's."""
        lot.remaining += amount if action == "restore" else -amount
        if amount <= 0 or not lot.reserved <= lot.remaining <= lot.state.issued:
            raise LotsError(f"lot {lot.lot_id} can't {action} {amount}: {lot.as_it_stands()}")
        key = (txn_id, lot.lot_id, action)
        self._uses[key] = self._uses.get(key, 0) + amount

    def pass_on(self, txn_id: int, lot_id: int, amount: int) -> None:
        """Write that points went back to a lot and at once out of it into another, which `add_lot` makes."""
        for action in _THROUGH:
            key = (txn_id, lot_id, action)
            self._uses[key] = self._uses.get(key, 0) + amount

    def reserve(self, hold_id: int, account: Working, amount: int) -> list[Part]:
        """Set points aside for a hold: such as are neither due nor reserved, in order of use."""
        parts = self._pick(account, amount)
        self.reserve_parts(hold_id, parts)
        return parts

    def reserve_parts(self, hold_id: int, parts: Sequence[Part]) -> None:
        """Set points of certain lots aside for a hold, due or not."""
        for lot, points in parts:
            lot.reserved += points
            if points <= 0 or lot.reserved > lot.remaining:
                raise LotsError(f"lot {lot.lot_id} can't reserve {points}: {lot.as_it_stands()}")
            self.hold_lots.append(HoldLot(hold_id, lot.lot_id, points))

    def free(self, hold: OpenHold) -> list[Part]:
        """Free what a hold reserves; the parts in order of use."""
        parts = [Part(self.lot(lot_id), points) for lot_id, points in hold.lots]
        for lot, points in parts:
            lot.reserved -= points
            if lot.reserved < 0:
                raise LotsError(f"lot {lot.lot_id} did not reserve {points}: {lot.as_it_stands()}")
        return sorted(parts, key=lambda part: order_of_use(part.lot))

    def _pick(self, account: Working, amount: int) -> list[Part]:
        parts = account.purse.pick(amount, self._now[account.key[0]])
        found = sum([points for _, points in parts])
        if found != amount:
            raise LotsError(f"the lots of {account.key} lack {amount - found} of {amount} points")
        return parts

    # -- points that are due

    def due_points(self, account: Working) -> int:
        """Return what is due and not reserved: no longer to be spent."""
        return account.purse.due_points(self._now[account.key[0]])

    def spendable(self, account: Working) -> int:
        """Return what may be spent: available, without what is due."""
        return account.available - self.due_points(account)

    def expire_due(self, account: Working) -> None:
        """Expire what is due of an account and not reserved, each lot by a transaction of its own."""
        for lot in account.purse.due(self._now[account.key[0]]):
            self.expire(lot, lot.free)

    def expire(self, lot: Lot, amount: int) -> None:
        """Expire points of a lot that no hold reserves."""
        account, txn_id = self.holder(lot), next(self._ids)
        program = account.key[0]
        happened = lot.expires_ms if lot.expires_ms is not None else self._now[program]
        header = (txn_id, program, "expire", EXPIRY_SOURCE, str(lot.lot_id), None, amount)
        self.begin(Txn(*header, pending=False, occurred_ms=happened))
        self.enter(txn_id, account, -amount, POSTED)
        self.enter(txn_id, self.control(program, "expired"), amount, POSTED)
        self.use(txn_id, lot, amount, "expire")

    # -- the end

    def close(
        self,
        results: tuple[Result, ...] = (),
        signed_up: Mapping[Key, int] | None = None,
        credential_changed: Mapping[Key, int] | None = None,
    ) -> Plan:
        """Return what the batch decided; the facts are kept on the accounts they are told of."""
        signed = self._by_account(signed_up, min) if signed_up else {}
        credential = self._by_account(credential_changed, max) if credential_changed else {}
        controls = [*self._controls.values(), *self._stores.values()]
        given, touched = self._given, self._touched
        return Plan(
            results,
            tuple(self._txns),
            tuple(self._entries),
            tuple(self.holds),
            tuple(account_changes(self._by_id.values(), signed, credential)),
            tuple([change for control in controls for change in control_changes(control)]),
            tuple(self._new_arrears),
            tuple([touched[lot_id].as_it_stands() if lot_id in touched else lot for lot_id, lot in given.items()]),
            tuple([lot.change() for lot_id, lot in touched.items() if lot.changed and lot_id not in given]),
            tuple([LotUse._make((*key, amount)) for key, amount in self._uses.items()]),
            tuple(self.hold_lots),
            tuple(self.hold_ends),
            tuple(self.reversals),
            tuple(self.merges),
        )

    def _by_account(self, facts: Mapping[Key, int], better: Callable[[int, int], int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for key, fact in facts.items():
            account_id = self.account(key).account_id
            found[account_id] = better(found.get(account_id, fact), fact)
        return found
