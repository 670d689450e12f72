"""A small ledger in memory that tests of lots, holds and expiry write to, in days from its first."""

from typing import Any

from ledger.book import Dump, Resolution, Resolved
from ledger.memory import MemoryLedger
from ledger.movement import LotState, Movement, Result
from ledger.terms import DAY_MS, Terms

START_MS = 1_700_000_000_000


def day(number: float) -> int:
    """The first moment of a day, counted from the ledger's first."""
    return START_MS + round(number * DAY_MS)


class Books:
    """One programme, `north`; movements are ann's unless said otherwise, and posted at the ledger's time."""

    def __init__(self, **terms: Any) -> None:
        """Open the ledger on its first day."""
        self.ledger = MemoryLedger()
        self.ledger.create_program("north", "simulation", Terms(**terms))
        self.today(0)

    def today(self, number: float) -> None:
        """Move the clock."""
        self.ledger.advance("north", day(number))
        self.now = day(number)

    def move(self, kind: str, points: int, verdict: str = "post", **rest: Any) -> Result:
        """Post one movement; `lasts` is the day on which what it earns expires."""
        return self.ledger.post([self.asked(kind, points, verdict, **rest)])[0]

    def asked(self, kind: str, points: int, verdict: str = "post", **rest: Any) -> Movement:
        """Make a movement."""
        (number,) = self.ledger.take_ids(1)
        lasts = rest.pop("lasts", None)
        usual: dict[str, Any] = {"program": "north", "account": "ann", "source": "till", "event_id": f"e{number}"}
        usual |= {"occurred_ms": self.now, "expires_ms": None if lasts is None else day(lasts)}
        return Movement(id=number, kind=kind, points=points, verdict=verdict, **(usual | rest))  # type: ignore[arg-type]  # names

    def hold(self, kind: str, points: int, **rest: Any) -> int:
        """Hold one movement; the hold's id."""
        asked = self.asked(kind, points, "hold", **rest)
        assert self.ledger.post([asked])[0].code == "held"
        return asked.id

    def end(self, hold_id: int, verdict: str, points: int | None = None) -> Resolved:
        """Decide a hold."""
        return self.ledger.resolve([Resolution(hold_id, verdict, "ann.alyst", "looked at", points)])[0]  # type: ignore[arg-type]  # a name

    def lots(self, name: str = "ann") -> list[LotState]:
        """An account's open lots in order of use."""
        view = self.ledger.member("north", name)
        return [] if view is None else list(view.lots)

    def left(self, name: str = "ann") -> list[int]:
        """What is left of an account's open lots, in order of use."""
        return [lot.remaining for lot in self.lots(name)]

    def figures(self, name: str = "ann") -> tuple[int, int, int, int, int]:
        """Posted, coming, set aside, available and owed."""
        view = self.ledger.member("north", name)
        assert view is not None
        return view[:5]

    def dump(self) -> Dump:
        """Everything."""
        return self.ledger.dump()

    def uses(self, action: str) -> list[tuple[int, int]]:
        """What was used so, as (lot, points), in the order it was."""
        return [(use.lot_id, use.amount) for use in self.ledger.tables.uses if use.action == action]


def sound(dump: Dump) -> None:
    """Assert that lots add up to balances, reservations to what is pending, and uses to what is gone."""
    for account in dump.accounts:
        lots = [lot for lot in dump.lots if lot.account_id == account.account_id]
        if account.kind in {"member", "pool"}:
            assert sum(lot.remaining for lot in lots) == account.posted_cr - account.posted_dr
            assert sum(lot.reserved for lot in lots) == account.pending_dr
        else:
            assert lots == []
    for lot in dump.lots:
        used = sum(-use.amount if use.action == "restore" else use.amount for use in dump.lot_uses if use[1] == lot[0])
        assert lot.issued - lot.remaining == used
        assert 0 <= lot.reserved <= lot.remaining <= lot.issued
