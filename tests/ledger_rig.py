"""A ledger of one programme, asked in few words; every call checks the invariants of everything there is."""

from __future__ import annotations

from typing import Any

from ledger.book import Dump, Ledger, MemberView, Merge, OrderRefund, Resolution, Resolved
from ledger.movement import Movement, OpenHold, Result
from ledger.plan import Reversal
from ledger.terms import DAY_MS, Terms
from tests.contract.ledger_invariants import Step, holds_after

START_MS = 1_700_000_000_000
TILL = "till"


class Rig:
    """One programme on a ledger of any kind. Events are named by their callers; a hold has its event's number."""

    def __init__(self, ledger: Ledger, program: str = "north", **terms: Any) -> None:
        """Create the programme, its clock at START_MS."""
        self.ledger = ledger
        self.program = program
        self.now = START_MS
        self.ids: dict[str, int] = {}
        self._dump: Dump | None = None
        ledger.create_program(program, "simulation", Terms(**terms))
        ledger.advance(program, START_MS)

    def pass_days(self, days: int) -> None:
        """Let days pass on the programme's clock."""
        self.now += days * DAY_MS
        self.ledger.advance(self.program, self.now)

    def post(self, *asked: dict[str, Any]) -> list[str]:
        """Post movements as one batch, each named by `event`; their codes."""
        return [result.code for result in self.results(*asked)]

    def results(self, *asked: dict[str, Any]) -> list[Result]:
        """Post movements as one batch; their results."""
        movements = [self._movement(number, given) for number, given in zip(self._numbers(asked), asked, strict=True)]
        found = self.ledger.post(movements)
        self.check()
        return found

    def _numbers(self, asked: tuple[dict[str, Any], ...]) -> list[int]:
        numbers = self.ledger.take_ids(len(asked))
        self.ids |= zip((given["event"] for given in asked), numbers, strict=True)
        return numbers

    def _movement(self, number: int, given: dict[str, Any]) -> Movement:
        fields: dict[str, Any] = {"verdict": "post", "points": 0, "occurred_ms": self.now} | given
        event = fields.pop("event")
        if "reverses" in fields:
            fields["reverses"] = (TILL, fields["reverses"])
        return Movement(id=number, program=self.program, source=TILL, event_id=event, **fields)

    def earn(self, event: str, points: int, account: str = "ann", **rest: Any) -> str:
        """Earn; the code."""
        return self.post({"event": event, "kind": "earn", "account": account, "points": points, **rest})[0]

    def redeem(self, event: str, points: int, account: str = "ann", **rest: Any) -> str:
        """Redeem; the code."""
        return self.post({"event": event, "kind": "redeem", "account": account, "points": points, **rest})[0]

    def transfer(self, event: str, points: int, to: str, account: str = "ann", **rest: Any) -> str:
        """Transfer; the code."""
        row = {"event": event, "kind": "transfer", "account": account, "to": to, "points": points}
        return self.post({**row, **rest})[0]

    def adjust(self, event: str, points: int, account: str = "ann", **rest: Any) -> str:
        """Adjust; the code."""
        return self.post({"event": event, "kind": "adjust", "account": account, "points": points, **rest})[0]

    def reverse(self, reverses: str, points: int = 0, account: str = "ann", event: str = "") -> str:
        """Take an event back; the code."""
        name = event or f"back-{len(self.ids)}"
        return self.post(
            {"event": name, "kind": "reverse", "account": account, "points": points, "reverses": reverses}
        )[0]

    def resolve(self, hold_id: int, verdict: Any = "post", points: int | None = None) -> Resolved:
        """Decide a hold."""
        (resolved,) = self.ledger.resolve([Resolution(hold_id, verdict, "ann.alyst", "looked at", points)])
        self.check()
        return resolved

    def refund(self, refund: str, amount: int, order: str = "o-1", total: int = 1_000) -> str:
        """Refund a part of an order; the code."""
        (number,) = self.ledger.take_ids(1)
        asked = OrderRefund(
            id=number,
            program=self.program,
            order=order,
            refund=refund,
            amount=amount,
            order_total=total,
            occurred_ms=self.now,
        )
        code = self.ledger.refund(asked).code
        self.check()
        return code

    def merge(self, account: str, into: str) -> str:
        """Merge one member into another; the code."""
        (number,) = self.ledger.take_ids(1)
        asked = Merge(id=number, program=self.program, account=account, into=into, actor="bea", reason="one person")
        code = self.ledger.merge(asked).code
        self.check()
        return code

    def view(self, name: str = "ann") -> MemberView:
        """What an account has."""
        found = self.ledger.member(self.program, name)
        assert found is not None
        return found

    def money(self, name: str = "ann") -> tuple[int, int, int]:
        """Points posted, points that may be spent, points owed."""
        view = self.view(name)
        return view.posted, view.available, view.owed

    def lots(self, name: str = "ann") -> list[tuple[int, int, int | None]]:
        """Points left and reserved of an account's lots, in order of use, and the days until they are due."""
        return [
            (lot.remaining, lot.reserved, None if lot.expires_ms is None else (lot.expires_ms - self.now) // DAY_MS)
            for lot in self.view(name).lots
        ]

    def holds(self) -> list[OpenHold]:
        """The open holds, by id."""
        return self.ledger.holds(self.program)

    def hold_of(self, event: str) -> int:
        """The id of the hold an event opened."""
        return self.ids[event]

    def dump(self) -> Dump:
        """Everything of the programme."""
        return self.ledger.dump([self.program])

    def reversals(self, event: str) -> list[dict[str, int]]:
        """What reversals took back of an event and from where, oldest first."""
        found = [one for one in self.dump().reversals if one.original == self.ids[event]]
        return [_parts(one) for one in sorted(found)]

    def control(self, name: str) -> int:
        """What a control or store account was credited, less what it was debited."""
        return sum(
            one.posted_cr - one.posted_dr
            for one in self.dump().accounts
            if one.name == name and one.kind in {"control", "store"}
        )

    def check(self) -> None:
        """Check every invariant on the step since the last check."""
        after = self.dump()
        holds_after(Step(self._dump or after, after, {self.program: self.now}))
        self._dump = after


def _parts(reversal: Reversal) -> dict[str, int]:
    names = reversal._fields[4:13]
    return {name: points for name in names if (points := getattr(reversal, name))}
