"""How the model ledger takes back what was done: reversals, refunds of orders, and merges of accounts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.contract.ledger_books import MOST, Books, Hold, Lot, Original, Piece, Txn


@dataclass
class Taking:
    """What a reversal has gathered so far: how much is still wanted, what was taken and where from.

    `asked` are the shortened copies of the holds that were asked to give, the one asked last at the end.
    """

    wanted: int
    parts: Counter[str] = field(default_factory=Counter)
    lots: list[tuple[Lot, int]] = field(default_factory=list)
    asked: list[Hold] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Points taken from lots."""
        return sum(points for _, points in self.lots)


class Undoing(Books):
    """Books in which things can be taken back."""

    refunds: dict[tuple[str, str], int]
    reversals: list[tuple[str, int, Counter[str]]]

    def left(self, original: Original) -> int:
        """How much of a movement may still be taken back."""
        held = self.open_hold(original)
        return held.amount if held is not None else original.posted - original.returned

    def open_hold(self, original: Original) -> Hold | None:
        """The hold in which a movement still waits."""
        return next((hold for hold in self.holds if hold.open and hold.original is original), None)

    def undo(self, original: Original, txn: Txn, asked: int) -> str:
        """Take back up to `asked` points (0: all) of a movement; `posted` if any were."""
        wanted = min(asked or self.left(original), self.left(original))
        if wanted <= 0:
            return "nothing_to_reverse"
        held = self.open_hold(original)
        if held is not None:
            self._undo_hold(held, wanted, txn)
            parts = Counter({"from_hold": wanted})
            original.unheld += wanted
        else:
            told = self._undo_posted(original, wanted, txn)
            if isinstance(told, str):
                return told
            parts = told
            original.returned += parts.total()
        self.reversals.append((original.ask.event, parts.total(), parts))
        return "posted"

    def _undo_posted(self, original: Original, wanted: int, txn: Txn) -> Counter[str] | str:
        card = self.card(self.real(original.purse))
        if original.inflow:
            too_much = self.rules.shortfall == "arrears" and card.lent and card.lent + wanted > MOST
            return "balance_out_of_range" if too_much else self._undo_inflow(original, wanted)
        if original.ask.kind == "transfer":
            wanted = min(wanted, sum(lot.left for lot in self._tree(self._given(original))))
            if not wanted:
                return "nothing_to_reverse"
        pending = self.pending_in(self.real(original.purse))
        if card.received + pending + wanted - min(card.debt, wanted) > MOST:
            return "balance_out_of_range"
        if original.ask.kind == "transfer":
            return self._undo_transfer(original, wanted, txn)
        return self._undo_outflow(original, wanted, txn)

    def _undo_hold(self, held: Hold, wanted: int, txn: Txn) -> None:
        held.end()
        kept, freed, give_up = [], [], wanted if held.lots else 0
        for lot, points in reversed(held.lots):
            part = min(points, give_up)
            give_up -= part
            freed.append((lot, part))
            kept.append((lot, points - part))
        if held.amount > wanted:
            self.hold(held.original, held.amount - wanted, kept[::-1], held)
        for lot, part in freed:
            self.let_go(lot, part, txn, ours=False)

    def _undo_inflow(self, original: Original, wanted: int) -> Counter[str]:
        taking, member = Taking(wanted), self.real(original.purse)
        own = [lot for lot in self.lots if lot.txn is original.txn]
        for lot in self._tree(own):
            self._take_free(taking, lot, "from_lot" if lot in own else "from_traced")
            self._take_reserved(taking, lot, "from_reserved" if lot in own else "from_traced")
        if taking.wanted:
            self.expire_due(member)
            for lot in self.lots_of(member):
                self._take_free(taking, lot, "from_other")
        self._hold_the_rest(taking)
        short, paid = taking.wanted, taking.total
        if short and self.rules.shortfall == "arrears":
            self.owe(member, short)
            paid += short
        if short:
            taking.parts["to_arrears" if self.rules.shortfall == "arrears" else "forgiven"] += short
        self.totals[self.control(original, "clawback")] += paid
        return taking.parts

    def control(self, original: Original, usual: str) -> str:
        """Name who gives or takes the other leg: a control account or, by the terms, the store."""
        funded = original.ask.kind != "adjust" and original.ask.store is not None
        if funded and self.rules.funding == "store":
            return f"store {original.ask.store}"
        return usual

    def _take_free(self, taking: Taking, lot: Lot, part: str) -> None:
        self._gather(taking, lot, min(taking.wanted, self.free(lot)), part)

    def _gather(self, taking: Taking, lot: Lot, points: int, part: str) -> None:
        if points:
            lot.take(points, "clawback")
            taking.wanted -= points
            taking.parts[part] += points
            taking.lots.append((lot, points))

    def _take_reserved(self, taking: Taking, lot: Lot, part: str) -> None:
        """Shorten the holds that set this lot aside: the one that was asked last, else the latest first."""
        fresh = [hold for hold in self.holds if hold.open and hold not in taking.asked]
        for hold in [*reversed(taking.asked), *reversed(fresh)]:
            points = min(taking.wanted, sum(had for one, had in hold.lots if one is lot))
            if points:
                again = hold
                if hold in fresh:
                    hold.end()
                    again = self.hold(hold.original, hold.amount, hold.lots, hold)
                else:
                    taking.asked.remove(hold)
                taking.asked.append(again)
                again.amount -= points
                again.lots = [(one, had - points if one is lot else had) for one, had in again.lots]
                self._gather(taking, lot, points, part)

    def _hold_the_rest(self, taking: Taking) -> None:
        """Number the holds that were shortened in the order in which they were asked last; some hold nothing now."""
        del self.holds[len(self.holds) - len(taking.asked) :]
        for hold in taking.asked:
            if hold.amount:
                hold.key = len(self.holds)
                hold.lots = [(lot, points) for lot, points in hold.lots if points]
                self.holds.append(hold)

    def _tree(self, lots: list[Lot]) -> list[Lot]:
        """These lots and all that came of them, breadth first."""
        found: list[Lot] = []
        while lots:
            lots.sort(key=lambda lot: lot.rank)
            found += lots
            lots = [lot for lot in self.lots if lot.parent in lots]
        return found

    def _given(self, original: Original) -> list[Lot]:
        """The lots that a transfer gave to its receiver."""
        return [lot for lot in self.lots if lot.txn is original.txn and lot.account == original.peer]

    def _undo_outflow(self, original: Original, wanted: int, txn: Txn) -> Counter[str]:
        parts: list[tuple[Lot | None, int]] = [
            (lot, gave - original.given_back[lot.rank]) for lot, gave in reversed(original.gave)
        ]
        usual = "redeemed" if original.ask.kind == "redeem" else "adjust"
        self.totals[self.control(original, usual)] -= wanted
        repaid = self.put_back(txn, original, [*parts, (None, wanted)], wanted)
        return Counter({"repaid": repaid, "restored": wanted - repaid})

    def _undo_transfer(self, original: Original, wanted: int, txn: Txn) -> Counter[str]:
        taking, given = Taking(wanted), self._given(original)
        sender: dict[int, Lot | None] = {id(lot): lot.parent for lot in given}
        for lot in self._tree(list(given)):
            if lot not in given:
                sender[id(lot)] = sender[id(lot.parent)]
            self._take_free(taking, lot, "from_lot" if lot in given else "from_traced")
            self._take_reserved(taking, lot, "from_reserved")
        self._hold_the_rest(taking)
        self.put_back(txn, original, [(sender[id(lot)], points) for lot, points in taking.lots], taking.total)
        return taking.parts

    # Orders

    def refund_order(self, order: str, cumulative: int, total: int) -> None:
        """Take back of an order's movements what a share of its price stands for."""
        named = [one for one in self.originals.values() if one.ask.order == order]
        flows = [[one for one in named if one.inflow]]
        if self.rules.refund_restores:  # first, so that nothing is forgiven that comes back a moment later
            flows.insert(0, [one for one in named if not one.inflow and one.ask.kind != "transfer"])
        for originals in flows:
            effective = sum(self.left(one) + one.reversed for one in originals)
            wanted = effective * cumulative // total - sum(one.reversed for one in originals)
            for one in originals:
                points = min(wanted, self.left(one))
                if points > 0 and self.undo(one, Txn(self.new_rank()), points) == "posted":
                    wanted -= points

    # Merges

    def merge_cards(self, name: str, into: str, txn: Txn) -> None:
        """Move everything of one account to another."""
        self.expire_due(name)
        self.owe(into, self.card(name).debt)
        self.card(name).debt = 0
        pieces: list[Piece] = []
        for lot in self.lots_of(name):
            pieces.append((lot.left, lot.earned, lot.expires, lot.store, lot))
            lot.take(lot.left, "transfer")
        self.credit(into, txn, pieces)
        self.card(name).merged = into
