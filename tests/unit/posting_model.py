"""A tiny model of the ledger, and an in-memory application of plans to compare it with; they share no code."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

from ledger.lots import order_of_use
from ledger.movement import Accounts, AccountState, ArrearsState, Key, LotState, Movement
from ledger.plan import AccountChange, Plan

LIMIT = 2**53 - 1
CONTROLS = ("issued", "redeemed", "expired", "clawback", "adjust")


@dataclass
class ModelMember:
    """What a member has, as a bookkeeper would write it on a card."""

    points: int = 0
    incoming: int = 0
    frozen: int = 0
    debt: int = 0
    received: int = 0
    lent: int = 0

    @property
    def free(self) -> int:
        """Points that may be spent."""
        return self.points - self.frozen


@dataclass
class ModelLedger:
    """Cards by member, what each programme gave out and took in, and the open holds."""

    cards: dict[Key, ModelMember] = field(default_factory=lambda: defaultdict(ModelMember))
    given: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    holds: dict[int, Movement] = field(default_factory=dict)

    def move(self, movement: Movement) -> str:
        """Do what the movement asks if it may, and name what happened."""
        card = self.cards[movement.program, movement.account]
        points = abs(movement.points) if movement.kind == "adjust" else movement.points
        spends = movement.kind in {"redeem", "transfer"} or (movement.kind == "adjust" and movement.points < 0)
        unconditional = spends and movement.fact
        if movement.verdict == "reject" and not unconditional:
            return "rejected"
        if points <= 0 or points > LIMIT:
            return "points_out_of_range"
        if movement.kind == "transfer" and movement.to in {None, movement.account}:
            return "same_account"
        gainer = self._gainer(movement)
        if gainer is not None and gainer.received + gainer.incoming + points > LIMIT:
            return "balance_out_of_range"
        if unconditional and card.free < points and card.lent > 0 and card.lent + points > LIMIT:
            return "balance_out_of_range"
        if spends and not unconditional and card.free < points:
            return "insufficient_balance"
        if movement.verdict == "hold" and not unconditional:
            self.holds[movement.id] = movement
            self._freeze(movement, points)
            return "held"
        self._carry_out(movement, points)
        return "posted"

    def end(self, hold_id: int, *, post: bool) -> None:
        """End an open hold."""
        movement = self.holds.pop(hold_id)
        points = abs(movement.points)
        self._freeze(movement, -points)
        if post:
            self._carry_out(movement, points)

    def _gainer(self, movement: Movement) -> ModelMember | None:
        if movement.kind == "transfer":
            return self.cards[movement.program, movement.to or ""]
        gains = movement.kind == "earn" or (movement.kind == "adjust" and movement.points > 0)
        return self.cards[movement.program, movement.account] if gains else None

    def _freeze(self, movement: Movement, points: int) -> None:
        gainer = self._gainer(movement)
        if gainer is not None:
            gainer.incoming += points
        if gainer is None or movement.kind == "transfer":
            self.cards[movement.program, movement.account].frozen += points

    def _carry_out(self, movement: Movement, points: int) -> None:
        gainer = self._gainer(movement)
        if gainer is None or movement.kind == "transfer":
            card = self.cards[movement.program, movement.account]
            paid = min(points, card.free)
            card.points -= paid
            card.debt += points - paid
            card.lent += points - paid
        else:
            self.given[movement.program] += points
        if gainer is None:
            self.taken[movement.program] += points
        else:
            back = min(gainer.debt, points)
            gainer.debt -= back
            gainer.points += points - back
            gainer.received += points - back


def empty(keys: list[Key]) -> Accounts:
    """Accounts that nothing has happened to yet, numbered from 1; control accounts from 1001."""
    programs = sorted({program for program, _ in keys})
    return Accounts(
        {key: AccountState(n, 0, 0, 0, 0, 0, opened_ms=0) for n, key in enumerate(keys, 1)},
        {
            (program, control): 1001 + 10 * p + c
            for p, program in enumerate(programs)
            for c, control in enumerate(CONTROLS)
        },
    )


def applied(accounts: Accounts, plan: Plan) -> Accounts:
    """The accounts after a plan, as the store would have written it."""
    changes = {change.account_id: change for change in plan.changes}
    created = {
        (new.program, new.name): 2001 + accounts.members[new.program, new.name].account_id for new in plan.new_arrears
    }
    members = dict(accounts.members)
    for key, state in members.items():
        owed = state.arrears
        change = changes.get(state.account_id)
        if change is not None and change.arrears_id < 0:
            owed = _arrears(ArrearsState(created[key], 0, 0, 0), changes[change.arrears_id])
        elif owed is not None and owed.account_id in changes:
            owed = _arrears(owed, changes[owed.account_id])
        members[key] = (state if change is None else _state(state, change))._replace(
            arrears=owed, lots=_lots(state, plan)
        )
    return replace(accounts, members=members)


def _lots(state: AccountState, plan: Plan) -> tuple[LotState, ...]:
    changed = {change.lot_id: change for change in plan.lot_changes}
    lots = [lot for lot in plan.lots if lot.account_id == state.account_id]
    for lot in state.lots:
        change = changed.get(lot.lot_id)
        remaining, reserved = (0, 0) if change is None else change[1:]
        lots.append(lot._replace(remaining=lot.remaining + remaining, reserved=lot.reserved + reserved))
    return tuple(sorted((lot for lot in lots if lot.remaining), key=order_of_use))


def _state(state: AccountState, change: AccountChange) -> AccountState:
    return state._replace(
        posted_dr=state.posted_dr + change.posted_dr,
        posted_cr=state.posted_cr + change.posted_cr,
        pending_dr=state.pending_dr + change.pending_dr,
        pending_cr=state.pending_cr + change.pending_cr,
        entry_count=state.entry_count + change.entries,
        open_holds=state.open_holds + change.open_holds,
    )


def _arrears(state: ArrearsState, change: AccountChange) -> ArrearsState:
    return state._replace(
        posted_dr=state.posted_dr + change.posted_dr,
        posted_cr=state.posted_cr + change.posted_cr,
        entry_count=state.entry_count + change.entries,
    )
