"""The state of the model ledger of one programme, and the small steps that its operations are made of.

It shares no code with `ledger/` and does everything the slow and obvious way: a balance is the sum of an account's
lots, what is reserved is the sum of what open holds say of a lot. One Model is one programme, so programmes cannot mix
in it. Results, lots, holds and totals have to equal those of the real ledgers after every step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

DAY_MS = 86_400_000
MOST = 2**53 - 1
POOL = "pool:"
Piece = tuple[int, int, int | None, str | None, "Lot | None"]  # points, earned, expires, store, parent
Result = tuple[str, int, int]  # code, available, owed


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a programme decided: the terms that bear on how points move."""

    expiry_days: int | None = None
    expiry_from: Literal["earned", "approved"] = "earned"
    grace_days: int = 0
    shortfall: Literal["arrears", "clamp"] = "arrears"
    max_open_holds: int = 100
    max_posting: int = MOST
    max_balance: int = MOST
    funding: Literal["program", "store"] = "program"
    refund_restores: bool = True


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A movement as somebody asks for it; `event` names it, and `number` is its rank among all that have a number."""

    event: str
    kind: str
    account: str
    points: int
    number: int
    at: int
    verdict: str = "post"
    to: str | None = None
    fact: bool = False
    due_seconds: int | None = None
    on_timeout: str = "escalate"
    store: str | None = None
    order: str | None = None
    expires: int | None = None
    pool: str | None = None
    reverses: str | None = None

    @property
    def takes(self) -> bool:
        """Whether points leave the account."""
        return self.kind in {"redeem", "transfer"} or (self.kind == "adjust" and self.points < 0)


@dataclass(eq=False)
class Txn:
    """What moves points; the first lot it makes has its own place among all that is numbered."""

    rank: tuple[int, int]
    made: int = 0


@dataclass(eq=False)
class Lot:
    """Points that came in together; `rank` is its place among all lots, in the order in which they were made."""

    rank: tuple[int, int]
    account: str
    txn: Txn
    parent: Lot | None
    issued: int
    left: int
    earned: int
    expires: int | None
    store: str | None
    uses: Counter[str] = field(default_factory=Counter)

    def order(self) -> tuple[bool, int, int, tuple[int, int]]:
        """Sort by expiry with none last, then by when it was earned, then by when it was made."""
        return (self.expires is None, self.expires or 0, self.earned, self.rank)

    def take(self, points: int, action: str) -> None:
        """Use points up, or restore them, and note for what."""
        self.left += points if action == "restore" else -points
        self.uses[action] += points
        if not 0 <= self.left <= self.issued:
            raise AssertionError(f"the model itself is wrong: lot {self} after {action} of {points}")


@dataclass(eq=False)
class Hold:
    """Points that wait for somebody's decision; `lots` tells what is set aside, in the order of use."""

    key: int
    original: Original
    amount: int
    lots: list[tuple[Lot, int]]
    due_ms: int | None
    on_timeout: str
    replaces: int | None = None
    verdict: str | None = None
    posted: int | None = None

    @property
    def open(self) -> bool:
        """Whether nobody ended it yet."""
        return self.verdict is None

    def end(self, posted: int = 0) -> None:
        """End it: posted if any points of it were, else void."""
        self.verdict, self.posted = ("post" if posted else "void"), posted


@dataclass(eq=False)
class Original:
    """What a movement did, for whoever takes it back later."""

    ask: Ask
    purse: str
    peer: str | None
    txn: Txn | None = None
    posted: int = 0
    unheld: int = 0
    returned: int = 0
    gave: list[tuple[Lot, int]] = field(default_factory=list)
    given_back: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def inflow(self) -> bool:
        """Whether points came in from the programme."""
        return not self.ask.takes

    @property
    def reversed(self) -> int:
        """All that was taken back so far."""
        return self.unheld + self.returned


@dataclass
class Card:
    """What is not in lots: what a member owes and was ever lent, and all that ever came in."""

    debt: int = 0
    lent: int = 0
    received: int = 0
    merged: str | None = None


class Books:
    """The state of one programme, and the small steps from which all operations are made."""

    def __init__(self, rules: Rules) -> None:
        """Open empty books."""
        self.rules = rules
        self.now = 0
        self.latest = 0
        self._within = 0
        self.cards: dict[str, Card] = {}
        self.lots: list[Lot] = []
        self.holds: list[Hold] = []
        self.originals: dict[str, Original] = {}
        self.seen: set[str] = set()
        self.pools: dict[str, set[str]] = {}
        self.totals: Counter[str] = Counter()

    # What there is

    def real(self, name: str) -> str:
        """The account that acts for a name: after a merge, the one it was merged into."""
        merged = self.card(name).merged
        return name if merged is None else self.real(merged)

    def card(self, name: str) -> Card:
        """An account's card; a new one where there is none."""
        return self.cards.setdefault(name, Card())

    def lots_of(self, name: str) -> list[Lot]:
        """An account's lots that still hold points, in the order of use."""
        return sorted((lot for lot in self.lots if lot.account == name and lot.left), key=Lot.order)

    def reserved(self, lot: Lot) -> int:
        """What open holds have set aside of a lot."""
        return sum(points for hold in self.holds if hold.open for one, points in hold.lots if one is lot)

    def free(self, lot: Lot) -> int:
        """What of a lot no hold has set aside."""
        return lot.left - self.reserved(lot)

    def due(self, lot: Lot) -> bool:
        """Whether a lot's time is over."""
        return lot.expires is not None and lot.expires <= self.now

    def points(self, name: str) -> int:
        """The posted balance."""
        return sum(lot.left for lot in self.lots if lot.account == name)

    def pending_out(self, name: str) -> int:
        """What open holds want to take out."""
        return sum(h.amount for h in self.holds if h.open and h.original.ask.takes and h.original.purse == name)

    def pending_in(self, name: str) -> int:
        """What open holds want to bring in."""
        return sum(h.amount for h in self.holds if h.open and self._gainer(h.original) == name)

    def spendable(self, name: str) -> int:
        """What may be spent now: neither set aside nor due."""
        return sum(self.free(lot) for lot in self.lots_of(name) if not self.due(lot))

    def open_holds(self, name: str) -> list[Hold]:
        """The open holds that count for an account."""
        return [hold for hold in self.holds if hold.open and hold.original.purse == name]

    def _gainer(self, original: Original) -> str | None:
        if original.ask.kind == "transfer":
            return original.peer
        return original.purse if original.inflow else None

    def lot_expiry(self, earned: int, approved: int) -> int | None:
        """When points expire by the programme's rules."""
        if self.rules.expiry_days is None:
            return None
        base = earned if self.rules.expiry_from == "earned" else approved
        return max(base + self.rules.expiry_days * DAY_MS, approved + self.rules.grace_days * DAY_MS)

    # What may happen to it

    def new_rank(self) -> tuple[int, int]:
        """Return the next place among all that is numbered."""
        self._within += 1
        return (self.latest, self._within)

    def new_lot(self, name: str, txn: Txn, piece: Piece) -> Lot:
        """Make a lot."""
        points, earned, expires, store, parent = piece
        place = self.new_rank() if txn.made else txn.rank
        txn.made += 1
        lot = Lot(place, name, txn, parent, points, points, earned, expires, store)
        self.lots.append(lot)
        return lot

    def credit(self, name: str, txn: Txn, pieces: list[Piece]) -> None:
        """Bring points in, each piece a lot; a member's debt is paid first, from the first pieces."""
        card = self.card(name)
        total = sum(piece[0] for piece in pieces)
        back = 0 if name.startswith(POOL) else min(card.debt, total)
        card.debt -= back
        card.received += total - back
        for piece in pieces:
            lot = self.new_lot(name, txn, piece)
            repaid = min(back, lot.issued)
            if repaid:
                lot.take(repaid, "repay")
            back -= repaid

    def owe(self, name: str, points: int) -> None:
        """Let an account owe more."""
        self.card(name).debt += points
        self.card(name).lent += points

    def expire_due(self, name: str, most: int | None = None) -> int:
        """Expire what is due of an account and not set aside."""
        done = 0
        for lot in self.lots_of(name):
            if self.due(lot) and self.free(lot) and (most is None or done < most):
                self._expire(lot, self.free(lot))
                done += 1
        return done

    def _expire(self, lot: Lot, points: int) -> None:
        lot.take(points, "expire")
        self.totals["expired"] += points

    def reserve(self, name: str, amount: int) -> list[tuple[Lot, int]]:
        """Choose the lots for an amount that is there, in the order of use."""
        chosen = []
        for lot in self.lots_of(name):
            part = min(amount, self.free(lot))
            if part and not self.due(lot):
                chosen.append((lot, part))
                amount -= part
        if amount:
            raise AssertionError(f"the model itself is wrong: {amount} more asked of {name} than there is")
        return chosen

    def let_go(self, lot: Lot, points: int, txn: Txn, *, ours: bool) -> None:
        """Deal with points that are no longer set aside: when due, they get the grace if the void was ours."""
        if not points or not self.due(lot):
            return
        if ours and self.rules.grace_days:
            self._renew(lot, points, txn)
        else:
            self._expire(lot, points)

    def _renew(self, lot: Lot, points: int, txn: Txn) -> None:
        lot.take(points, "transfer")
        self.new_lot(lot.account, txn, (points, lot.earned, self._grace(), lot.store, lot))

    def _grace(self) -> int:
        return self.now + self.rules.grace_days * DAY_MS

    def put_back(self, txn: Txn, original: Original, parts: list[tuple[Lot | None, int]], total: int) -> int:
        """Give `total` points back to who paid them, into the lots they came from; return what paid a debt instead.

        `parts` is in the order of giving back. A lot that is due gets a child with the grace; one of an account that
        was merged since gets a child where its points went; what came from no lot becomes a new one.
        """
        name = self.real(original.purse)
        card = self.card(name)
        repaid = 0 if name.startswith(POOL) else min(card.debt, total)
        card.debt -= repaid
        card.received += total - repaid
        rest = total - repaid
        for lot, points in parts:
            part = min(points, rest)
            rest -= part
            if part:
                self._give_back(name, txn, original, lot, part)
        return repaid

    def _give_back(self, name: str, txn: Txn, original: Original, lot: Lot | None, part: int) -> None:
        if lot is None:
            expires = self.lot_expiry(self.now, self.now)
            self.new_lot(name, txn, (part, self.now, expires, self.store_for_new(original), None))
            return
        original.given_back[lot.rank] += part
        if self.due(lot) and self.rules.grace_days:
            self.new_lot(name, txn, (part, lot.earned, self._grace(), lot.store, lot))
        elif lot.account != name:
            self.new_lot(name, txn, (part, lot.earned, lot.expires, lot.store, lot))
        else:
            lot.take(part, "restore")

    def store_for_new(self, original: Original) -> str | None:
        """Where points count as earned that come back and were owed when they went."""
        charged = original.ask.kind == "transfer" or (original.ask.kind == "redeem" and self.rules.funding == "store")
        return original.ask.store if charged else None

    def hold(self, original: Original, amount: int, lots: list[tuple[Lot, int]], like: Hold | None = None) -> Hold:
        """Open a hold, `like` an earlier one when a part of that was taken back."""
        ask = original.ask
        due = None if ask.due_seconds is None else self.now + ask.due_seconds * 1000
        if like is not None:
            due = like.due_ms
        kept = [(lot, points) for lot, points in lots if points]
        made = Hold(len(self.holds), original, amount, kept, due, ask.on_timeout, like.key if like else None)
        self.holds.append(made)
        return made

    def hold_name(self, hold: Hold) -> str:
        """What people call a hold: its event, with a + for each time that the rest was held again."""
        return hold.original.ask.event if hold.replaces is None else self.hold_name(self.holds[hold.replaces]) + "+"

    def hold_named(self, name: str) -> Hold | None:
        """The hold of a name, open or not."""
        return next((hold for hold in self.holds if self.hold_name(hold) == name), None)
