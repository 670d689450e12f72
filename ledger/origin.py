"""What must be known of a movement to take it back, loaded under the locks of every account it touches. Values only."""

from __future__ import annotations

from typing import NamedTuple

from ledger.movement import LotState, OpenHold


class Traced(NamedTuple):
    """A lot that a movement gave (`depth` 0), or that came of one by moves since, each a step deeper.

    `source` is the lot at the sender that a transfer took these points from. `empty` tells that nothing was left in it,
    so that it need not be loaded.
    """

    lot_id: int
    depth: int
    source: int | None = None
    empty: bool = False


class Given(NamedTuple):
    """A lot that a movement used, and how many points of that it has not been given back yet."""

    lot: LotState
    left: int


class Origin(NamedTuple):
    """A movement that a reverse names, as it stands; `root` is the id of its transaction or hold.

    `account` is the name of the account whose points it moved, `actor` the one its event named (they differ for a
    pool), `peer` a transfer's receiver; `amount` is what the event asked, negative for an adjust that takes away, and 0
    if it moved nothing. `store` is the store that was charged or credited for it.

    `hold` is the hold in which it is still open. Else `posted` points of it went through, by one transaction. Earlier
    reversals took `unheld` points out of its holds, and `returned` points of what was posted.

    Of an inflow or a transfer, `tree` is what became of its points, breadth first and by lot id, and `holders` are the
    open holds that reserve any of it. Of an outflow, `used` are the lots it took from, in order of use. `sources` are
    the lots that a transfer took from. Among the lots of their accounts there must be those of `tree` that are not
    empty, all of `holders` and `hold`, and those of `used` and `sources` whose account is still the one they return to.
    """

    root: int
    program: str
    kind: str
    amount: int
    account: str
    actor: str
    peer: str | None = None
    store: str | None = None
    hold: OpenHold | None = None
    posted: int = 0
    unheld: int = 0
    returned: int = 0
    tree: tuple[Traced, ...] = ()
    holders: tuple[OpenHold, ...] = ()
    used: tuple[Given, ...] = ()
    sources: tuple[LotState, ...] = ()

    @property
    def inflow(self) -> bool:
        """Whether points came in from the programme."""
        return self.kind == "earn" or (self.kind == "adjust" and self.amount > 0)

    @property
    def left(self) -> int:
        """Points that may still be taken back."""
        return abs(self.hold.amount) if self.hold is not None else max(0, self.posted - self.returned)

    @property
    def reversed(self) -> int:
        """Points taken back so far."""
        return self.unheld + self.returned
