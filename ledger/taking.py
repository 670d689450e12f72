"""Gathers the points that a reversal takes, lot by lot, also out of the keeping of open holds. Pure."""

from __future__ import annotations

from ledger.desk import Desk
from ledger.lots import Lot, Part, order_of_use
from ledger.movement import POSTED, OpenHold, Settlement
from ledger.origin import Origin, Traced
from ledger.settling import close_hold, reopen
from ledger.working import Working


class _Keeping:
    """An open hold while lots it reserves are asked: what it keeps of each. `turn` counts up with each hold asked."""

    __slots__ = ("hold", "kept", "turn")

    def __init__(self, hold: OpenHold) -> None:
        self.hold = hold
        self.kept = dict(hold.lots)
        self.turn = 0


class Taking:
    """Takes up to `wanted` points of what is left of a movement's, under the transaction `txn_id`.

    `wanted` is what is still missing; `parts` counts what came from where, `taken` tells of which lots, in order.
    """

    def __init__(self, desk: Desk, origin: Origin, txn_id: int, wanted: int) -> None:
        self.wanted = wanted
        self.parts: dict[str, int] = {}
        self.taken: list[tuple[Traced, Lot, int]] = []
        self.tree = _tree(desk, origin)
        self._desk = desk
        self._txn_id = txn_id
        self._legs: dict[int, tuple[Working, int]] = {}
        self._turn = 0
        self._keepers: dict[int, list[_Keeping]] = {}
        for hold in origin.holders:
            current = desk.current(hold)
            if current is not None:
                keeping = _Keeping(current)
                for lot_id in keeping.kept:
                    self._keepers.setdefault(lot_id, []).append(keeping)

    @property
    def total(self) -> int:
        """Points taken from accounts."""
        return sum(points for _, points in self._legs.values())

    def take(self, traced: Traced, free: str, reserved: str) -> None:
        """Take what is wanted of one lot: what is free of it, then what holds reserve; each counts under its name.

        Of several holds the one that was asked last is asked first again, then the latest.
        """
        lot = _lot(self._desk, traced)
        if lot is None:
            return
        self._use(traced, lot, min(self.wanted, lot.free), free)
        keepers = self._keepers.get(traced.lot_id, [])
        for keeping in sorted(keepers, key=lambda one: (one.turn, one.hold.hold_id), reverse=True):
            points = min(self.wanted, keeping.kept[traced.lot_id])
            if points:
                self._turn += 1
                keeping.turn = self._turn
                keeping.kept[traced.lot_id] -= points
                lot.reserved -= points
                self._use(traced, lot, points, reserved)

    def there_is(self) -> int:
        """Return how many points the tree holds, free or reserved."""
        return sum(lot.remaining for traced in self.tree if (lot := _lot(self._desk, traced)) is not None)

    def take_other(self, account: Working) -> None:
        """Take what is wanted of an account's lots that may be spent, in order of use."""
        for lot in account.purse.spendable(self._desk.time_of(account.key[0])):
            if not self.wanted:
                break
            self._use(Traced(lot.lot_id, 0), lot, min(self.wanted, lot.free), "from_other")

    def end_holds(self, actor: str, reason: str) -> None:
        """End the holds that points were taken from, by decisions of `actor`, and hold again what they have left."""
        desk = self._desk
        asked = {one.hold.hold_id: one for keepers in self._keepers.values() for one in keepers if one.turn}
        for keeping in sorted(asked.values(), key=lambda one: one.turn):
            hold = keeping.hold
            for lot_id, points in hold.lots:
                # Until its end the hold reserves what it opened with.
                desk.lot(lot_id).reserved += points - keeping.kept[lot_id]
            close_hold(desk, Settlement(desk.new_id(), hold, "void", actor=actor, reason=reason))
            parts = [Part(desk.lot(lot_id), points) for lot_id, points in keeping.kept.items() if points]
            if parts:
                parts.sort(key=lambda part: order_of_use(part.lot))
                reopen(desk, hold, sum(part.amount for part in parts), parts)

    def enter(self) -> None:
        """Debit each account of what was taken from it."""
        for account, points in self._legs.values():
            self._desk.enter(self._txn_id, account, -points, POSTED)

    def _use(self, traced: Traced, lot: Lot, points: int, part: str) -> None:
        if not points:
            return
        self._desk.use(self._txn_id, lot, points, "clawback")
        self.wanted -= points
        self.parts[part] = self.parts.get(part, 0) + points
        self.taken.append((traced, lot, points))
        account = self._desk.holder(lot)
        before = self._legs.get(account.account_id)
        self._legs[account.account_id] = (account, points if before is None else before[1] + points)


def _lot(desk: Desk, traced: Traced) -> Lot | None:
    """The lot, which may have been filled again by this batch if it was empty; None if it is empty and not loaded."""
    return desk.find(traced.lot_id) if traced.empty else desk.lot(traced.lot_id)


def _tree(desk: Desk, origin: Origin) -> list[Traced]:
    """The tree as it was loaded, with what this batch itself moved on of it."""
    tree = list(origin.tree)
    known = {traced.lot_id: traced for traced in tree}
    for lot in desk.given_lots():
        parent = None if lot.parent is None else known.get(lot.parent)
        if parent is not None and lot.lot_id not in known:
            known[lot.lot_id] = Traced(lot.lot_id, parent.depth + 1, parent.source)
            tree.append(known[lot.lot_id])
    if len(tree) > len(origin.tree):
        tree.sort(key=lambda traced: (traced.depth, traced.lot_id))
    return tree
