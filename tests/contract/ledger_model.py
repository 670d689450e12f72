"""The model ledger of one programme: every operation of the facade, written from the design alone.

It shares no code with `ledger/`. Its state is in ledger_books, what takes things back is in ledger_undoing; here stand
the operations themselves, each with its refusals in the documented order.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.contract.ledger_books import MOST, POOL, Ask, Hold, Lot, Original, Piece, Result, Rules, Txn
from tests.contract.ledger_undoing import Undoing

__all__ = ["Ask", "Hold", "Lot", "Model", "Rules"]


class Model(Undoing):
    """A programme's ledger in the most obvious form there is."""

    def __init__(self, rules: Rules) -> None:
        """Open empty books."""
        super().__init__(rules)
        self.refunds = {}
        self.reversals = []

    # Movements

    def post(self, asks: Sequence[Ask]) -> list[Result]:
        """Do what is asked, one after the other, each on what the earlier ones left."""
        self.latest = max([self.latest, *(ask.number for ask in asks)])
        return [self._post(ask) for ask in asks]

    def _post(self, ask: Ask) -> Result:
        for name in (ask.account, ask.to if ask.kind == "transfer" else None):
            if name is not None and not name.startswith(POOL):
                self.card(name)  # whoever is named is known from now on, whatever becomes of the event
        code = self._undo_asked(ask) if ask.kind == "reverse" else self._examine(ask)
        if code in {"posted", "held"} and ask.kind != "reverse":
            self._move(ask, held=code == "held")
        self.seen.add(ask.event)
        purse = self._purse(ask)
        return (code, self.points(purse) - self.pending_out(purse), self.card(purse).debt)

    def _examine(self, ask: Ask) -> str:
        fact = ask.fact and ask.takes and ask.pool is None
        amount = -ask.points if ask.kind == "adjust" and ask.points < 0 else ask.points
        if ask.verdict == "reject" and not fact:
            return "rejected"
        if ask.account.startswith(POOL):
            return "not_in_pool"
        if not 0 < amount <= self.rules.max_posting:
            return "points_out_of_range"
        refused = self._misdirected(ask)
        if refused is not None:
            return refused
        return self._unaffordable(ask, amount, fact=fact) or self._verdict(ask, fact=fact)

    def _unaffordable(self, ask: Ask, amount: int, *, fact: bool) -> str | None:
        purse, gainer = self._purse(ask), self._gainer(self._original(ask))
        if gainer is not None and not self._fits(gainer, amount):
            return "balance_out_of_range"
        if not ask.takes or self.spendable(purse) >= amount:
            return None
        if not fact:
            return "insufficient_balance"
        lent = self.card(purse).lent
        return "balance_out_of_range" if lent and lent + amount > MOST else None

    def _verdict(self, ask: Ask, *, fact: bool) -> str:
        if ask.verdict != "hold" or fact:
            return "posted"
        return "held" if len(self.open_holds(self._purse(ask))) < self.rules.max_open_holds else "too_many_holds"

    def _misdirected(self, ask: Ask) -> str | None:
        own_pool = None if ask.pool is None else POOL + ask.pool
        if ask.kind == "transfer":
            if ask.to is None or ask.to == own_pool:
                return "same_account"
            if ask.to.startswith(POOL) and not self._belongs(ask, ask.to):
                return "not_in_pool"
        if own_pool is not None and (ask.kind not in {"redeem", "transfer"} or not self._belongs(ask, own_pool)):
            return "not_in_pool"
        return "same_account" if ask.kind == "transfer" and self._purse(ask) == self._peer(ask) else None

    def members(self, pool: str) -> set[str]:
        """Who may spend from a pool."""
        return self.pools.get(pool, set())

    def _belongs(self, ask: Ask, pool: str) -> bool:
        return self.real(ask.account) in self.members(pool)

    def _original(self, ask: Ask) -> Original:
        return Original(ask, self._purse(ask), self._peer(ask))

    def _purse(self, ask: Ask) -> str:
        spends = ask.pool is not None and ask.kind in {"redeem", "transfer"}
        if spends and self._belongs(ask, f"{POOL}{ask.pool}"):
            return f"{POOL}{ask.pool}"
        return self.real(ask.account)

    def _peer(self, ask: Ask) -> str | None:
        return None if ask.to is None else self.real(ask.to)

    def _fits(self, name: str, amount: int) -> bool:
        pending = self.pending_in(name)
        if self.card(name).received + pending + amount > MOST:
            return False
        return self.points(name) + pending + amount <= self.rules.max_balance

    def _move(self, ask: Ask, *, held: bool) -> None:
        original, txn = self._original(ask), Txn((ask.number, 0))
        self.originals[ask.event] = original
        if ask.takes:
            self.expire_due(original.purse)
        if held:
            lots = self.reserve(original.purse, abs(ask.points)) if ask.takes else []
            self.hold(original, abs(ask.points), lots)
        elif ask.takes:
            amount = min(abs(ask.points), self.spendable(original.purse))
            self._pay(original, txn, self.reserve(original.purse, amount), abs(ask.points))
        else:
            self._gain(original, txn, ask.points)

    def _gain(self, original: Original, txn: Txn, points: int) -> None:
        """Post an inflow: the programme gives, the member gets a lot."""
        ask = original.ask
        expires = ask.expires if ask.expires is not None else self.lot_expiry(ask.at, self.now)
        self.totals[self.control(original, "issued" if ask.kind == "earn" else "adjust")] -= points
        self.credit(original.purse, txn, [(points, ask.at, expires, ask.store, None)])
        original.txn, original.posted = txn, points

    def _pay(self, original: Original, txn: Txn, lots: list[tuple[Lot, int]], points: int) -> None:
        """Post an outflow from these lots; what they lack is owed."""
        ask = original.ask
        for lot, part in lots:
            lot.take(part, "transfer" if ask.kind == "transfer" else "debit")
        short = points - sum(part for _, part in lots)
        self.owe(original.purse, short)
        if ask.kind == "transfer" and original.peer is not None:
            pieces: list[Piece] = [(part, lot.earned, lot.expires, lot.store, lot) for lot, part in lots]
            if short:
                pieces.insert(0, (short, ask.at, self.lot_expiry(ask.at, self.now), ask.store, None))
            self.credit(original.peer, txn, pieces)
        else:
            self.totals[self.control(original, "redeemed" if ask.kind == "redeem" else "adjust")] += points
        original.txn, original.posted, original.gave = txn, points, lots

    def _undo_asked(self, ask: Ask) -> str:
        if ask.verdict == "reject":
            return "rejected"
        if not 0 <= ask.points <= self.rules.max_posting:
            return "points_out_of_range"
        if ask.reverses not in self.seen:
            return "unknown_original"
        original = self.originals.get(ask.reverses or "")
        if original is None:
            return "nothing_to_reverse"
        if self.real(original.ask.account) != self.real(ask.account):
            return "unknown_original"
        return self.undo(original, Txn((ask.number, 0)), ask.points)

    # Holds

    def resolve(self, ends: Sequence[tuple[str, str, int | None]]) -> list[str]:
        """Decide holds (name, verdict, points of a post): post all or a part, void, or leave open without a timer."""
        decisions = [Txn(self.new_rank()) for _ in ends]
        return [self._resolve(*end, txn) for end, txn in zip(ends, decisions, strict=True)]

    def _resolve(self, name: str, verdict: str, points: int | None, txn: Txn) -> str:
        hold = self.hold_named(name)
        if hold is None:
            return "unknown_hold"
        if not hold.open:
            return "already_resolved"
        if verdict == "escalate":
            hold.due_ms = None
            return "escalated"
        if points is not None and not 1 <= points <= hold.amount:
            return "points_out_of_range"
        self._end(hold, (points or hold.amount) if verdict == "post" else 0, txn)
        return "resolved"

    def _end(self, hold: Hold, points: int, txn: Txn) -> None:
        hold.end(points)
        original = hold.original
        if not original.ask.takes:
            if points:
                self._gain(original, txn, points)
            return
        lots, rest, wanted = [], [], points
        for lot, had in hold.lots:
            part = min(had, wanted)
            wanted -= part
            lots.append((lot, part))
            rest.append((lot, had - part))
        if points:
            self._pay(original, txn, [(lot, part) for lot, part in lots if part], points)
        for lot, part in rest:
            self.let_go(lot, part, txn, ours=True)

    def time_out(self) -> list[tuple[str, str]]:
        """Do with each hold that is due what it was opened to do by itself."""
        due = [hold for hold in self.holds if hold.open and hold.due_ms is not None and hold.due_ms <= self.now]
        due.sort(key=lambda hold: (hold.due_ms or 0, hold.key))
        names = [self.hold_name(hold) for hold in due]
        ends = [(name, hold.on_timeout, None) for name, hold in zip(names, due, strict=True)]
        return list(zip(names, self.resolve(ends), strict=True))

    # Time

    def advance(self, now: int) -> None:
        """Move the clock, never back."""
        self.now = max(self.now, now)

    def expire(self, most: int) -> int:
        """Expire up to `most` due lots, the oldest first; return how many."""
        due = [lot for lot in self.lots if lot.left and self.due(lot) and self.free(lot)]
        due.sort(key=Lot.order)
        for lot in due[:most]:
            self.let_go(lot, self.free(lot), Txn(self.new_rank()), ours=False)
        return len(due[:most])

    # Orders, merges, pools

    def refund(self, order: str, refund: str, amount: int, total: int) -> str:
        """Take back what a refund of an order stands for; the same refund again does nothing."""
        if amount <= 0 or total <= 0:
            return "points_out_of_range"
        if (order, refund) in self.refunds:
            return "duplicate"
        if not any(one.ask.order == order and one.ask.kind != "transfer" for one in self.originals.values()):
            return "unknown_original"
        self.refunds[order, refund] = amount
        cumulative = sum(given for (one, _), given in self.refunds.items() if one == order)
        self.refund_order(order, min(cumulative, total), total)
        return "posted"

    def merge(self, name: str, into: str) -> str:
        """Let one account's points, debts and name pass to another."""
        if name == into:
            return "same_account"
        if name not in self.cards or into not in self.cards:
            return "unknown_account"
        if self.card(name).merged is not None or self.card(into).merged is not None:
            return "account_merged"
        if self.open_holds(name) or self.pending_in(name):
            return "open_holds"
        goes, stays = self.card(name), self.card(into)
        coming = stays.received + self.pending_in(into) + self.points(name)
        if coming > MOST or stays.lent + goes.debt > MOST:
            return "balance_out_of_range"
        self.merge_cards(name, into, Txn(self.new_rank()))
        for members in self.pools.values():
            if name in members:
                members.discard(name)
                members.add(into)
        return "posted"

    def join(self, pool: str, name: str) -> bool:
        """Let a member spend from a pool."""
        members = self.pools.setdefault(POOL + pool, set())
        self.card(POOL + pool)
        joined = self.real(name) not in members
        members.add(self.real(name))
        return joined

    def leave(self, pool: str, name: str) -> bool:
        """Let a member spend from a pool no more."""
        was = name in self.cards and self.real(name) in self.members(POOL + pool)
        if was:
            self.members(POOL + pool).discard(self.real(name))
        return was
