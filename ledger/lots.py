"""Lots while a batch is decided: working copies, and an account's lots in order of use. Pure.

Points are used in the order in which they fall due, those that never do last; among these the ones earned first, among
these the lowest id. A lot is due from its `expires_ms` on: what no hold reserves of it may no longer be spent.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ledger.movement import LotState
from ledger.plan import LotChange

_NEVER = 2**63


class LotsError(Exception):
    """An account's lots are not what its counters say, or were not loaded: nothing of the batch may be written."""


class Lot:
    """A working copy of a lot; `state` is what it was when the batch first touched it."""

    __slots__ = ("remaining", "reserved", "state")

    def __init__(self, state: LotState) -> None:
        self.state = state
        self.remaining = state.remaining
        self.reserved = state.reserved

    @property
    def lot_id(self) -> int:
        """The lot's id."""
        return self.state.lot_id

    @property
    def account_id(self) -> int:
        """Whose it is."""
        return self.state.account_id

    @property
    def earned_ms(self) -> int:
        """When its points were earned."""
        return self.state.earned_ms

    @property
    def expires_ms(self) -> int | None:
        """When it falls due."""
        return self.state.expires_ms

    @property
    def free(self) -> int:
        """What no hold reserves."""
        return self.remaining - self.reserved

    def due(self, now: int) -> bool:
        """Whether it fell due."""
        return self.expires_ms is not None and self.expires_ms <= now

    @property
    def changed(self) -> bool:
        """Whether anything was done to it."""
        return self.remaining != self.state.remaining or self.reserved != self.state.reserved

    def change(self) -> LotChange:
        """Return what was done to it in all."""
        state = self.state
        return LotChange(state.lot_id, self.remaining - state.remaining, self.reserved - state.reserved)

    def as_it_stands(self) -> LotState:
        """Return its state now."""
        return self.state._replace(remaining=self.remaining, reserved=self.reserved)


class Part(NamedTuple):
    """Points of a lot."""

    lot: Lot
    amount: int


class Grant(NamedTuple):
    """Points that an account shall get as one lot."""

    amount: int
    earned_ms: int
    expires_ms: int | None
    store: str | None = None
    parent: int | None = None


Row = LotState | Lot


def order_of_use(row: Row) -> tuple[int, int, int]:
    """Return what lots are sorted by: used first is least."""
    expires_ms = row.expires_ms
    return (_NEVER if expires_ms is None else expires_ms, row.earned_ms, row.lot_id)


class Purse:
    """An account's lots in order of use, copied for work only when touched: then they are in `touched`, by id too."""

    __slots__ = ("_fresh", "_rows", "_touched")

    def __init__(self, states: Sequence[LotState], touched: dict[int, Lot]) -> None:
        self._rows: Sequence[Row] = states
        self._fresh: list[LotState] | None = None
        self._touched = touched

    def add(self, state: LotState) -> None:
        """Put in a new lot."""
        if self._fresh is None:
            self._fresh = [state]
        else:
            self._fresh.append(state)

    def due_points(self, now: int) -> int:
        """Return how many points are due and not reserved."""
        points = 0
        for row in self._sorted():
            if row.expires_ms is None or row.expires_ms > now:
                break
            points += row.remaining - row.reserved
        return points

    def due(self, now: int) -> list[Lot]:
        """Return the lots that are due and have points that are not reserved."""
        lots: list[Lot] = []
        for n, row in enumerate(self._sorted()):
            if row.expires_ms is None or row.expires_ms > now:
                break
            if row.remaining > row.reserved:
                lots.append(self._touch(n))
        return lots

    def spendable(self, now: int) -> Iterator[Lot]:
        """Yield the lots that may be spent, in order of use. Add none meanwhile."""
        for n in range(len(self._sorted())):
            row = self._rows[n]  # asked again each time: whoever takes what is yielded may touch others
            if row.remaining > row.reserved and (row.expires_ms is None or row.expires_ms > now):
                yield self._touch(n)

    def pick(self, amount: int, now: int) -> list[Part]:
        """Return points that may be spent, in order of use: `amount`, or as many as there are."""
        parts: list[Part] = []
        for n, row in enumerate(self._sorted()):
            if amount <= 0:
                break
            free = row.remaining - row.reserved
            if free > 0 and (row.expires_ms is None or row.expires_ms > now):
                points = min(free, amount)
                parts.append(Part(self._touch(n), points))
                amount -= points
        return parts

    def find(self, lot_id: int) -> Lot | None:
        """Return one lot."""
        lot = self._touched.get(lot_id)
        if lot is None:
            lot = next((self._touch(n) for n, row in enumerate(self._sorted()) if row.lot_id == lot_id), None)
        return lot

    def open_lots(self) -> list[Lot]:
        """Return all lots that have points left, due ones too, in order of use."""
        return [self._touch(n) for n, row in enumerate(self._sorted()) if row.remaining > 0]

    def _sorted(self) -> Sequence[Row]:
        if self._fresh is not None:
            rows = list(self._rows)
            for state in self._fresh:
                insort(rows, state, key=order_of_use)
            self._rows, self._fresh = rows, None
        return self._rows

    def _touch(self, n: int) -> Lot:
        row = self._rows[n]
        if isinstance(row, Lot):
            return row
        lot = self._touched[row.lot_id] = Lot(row)
        rows = self._rows if isinstance(self._rows, list) else list(self._rows)
        rows[n] = lot
        self._rows = rows
        return lot
