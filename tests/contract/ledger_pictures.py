"""Pictures of one programme, taken of a ledger and of the model in the same form, so that they can be laid together."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from typing import Any

from ledger.book import Dump, DumpAccount, DumpHold
from ledger.movement import LotState
from tests.contract.ledger_model import Hold, Lot, Model

PARTS = ("from_hold", "from_lot", "from_reserved", "from_traced", "from_other", "to_arrears", "forgiven", "restored",
         "repaid")  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A programme as people would compare it: names and numbers, and no ids.

    `accounts`: name to (posted, pending in and out, owed, open holds, merged into); those with something to tell.
    `lots`: account to (issued, remaining, reserved, earned, expires, store, place of the parent), in the order in which
    they were made; a lot's place is (account, number there). `holds`: name to (kind, account, peer, amount, lots as
    (place, points), verdict, posted). `totals`: what control and store accounts have. `reversals`: (event, points,
    parts).
    """

    accounts: dict[str, tuple[int, int, int, int, int, str | None]]
    lots: dict[str, list[tuple[Any, ...]]]
    holds: dict[str, tuple[Any, ...]]
    totals: dict[str, int]
    reversals: list[tuple[str, int, list[tuple[str, int]]]]

    def differences(self, other: Picture) -> list[str]:
        """Name what differs, with both sides."""
        found = []
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if mine != theirs:
                found.append(f"{one.name} differ\n  ledger: {mine}\n  model:  {theirs}")
        return found


def of_dump(dump: Dump, program: str, suffix: str) -> Picture:
    """Picture a programme of a ledger; `suffix` is cut off its event ids."""
    return _Developing(dump, program, suffix).picture()


class _Developing:
    def __init__(self, dump: Dump, program: str, suffix: str) -> None:
        self.dump = dump
        self.program = program
        self.suffix = suffix
        self.accounts = {one.account_id: one for one in dump.accounts if one.program == program}
        lots = sorted((lot for lot in dump.lots if lot.program == program), key=lambda lot: lot.lot_id)
        self.lots = [(self.accounts[lot.account_id].name, lot) for lot in lots]
        self.places = _places([(name, lot.lot_id) for name, lot in self.lots])
        self.events = {txn.txn_id: (txn.event_id or "").removesuffix(suffix) for txn in dump.txns}

    def picture(self) -> Picture:
        return Picture(
            {one.name: told for one in self.accounts.values() if any(told := self._account(one))},
            _by_account([(name, self._lot(lot)) for name, lot in self.lots]),
            self._holds(),
            {name: total for name, total in self._totals() if total},
            sorted(self._reversals()),
        )

    def _account(self, one: DumpAccount) -> tuple[int, int, int, int, int, str | None]:
        if one.kind not in {"member", "pool"}:
            return (0, 0, 0, 0, 0, None)
        arrears = None if one.arrears_id is None else self.accounts[one.arrears_id]
        return (
            one.posted_cr - one.posted_dr,
            one.pending_cr,
            one.pending_dr,
            0 if arrears is None else arrears.posted_dr - arrears.posted_cr,
            one.open_holds,
            None if one.merged_into is None else self.accounts[one.merged_into].name,
        )

    def _lot(self, lot: LotState) -> tuple[Any, ...]:
        parent = None if lot.parent is None else self.places[lot.parent]
        return (*lot[5:11], parent)

    def _holds(self) -> dict[str, tuple[Any, ...]]:
        parts = defaultdict(list)
        for part in self.dump.hold_lots:
            parts[part.hold_id].append((self.places.get(part.lot_id), part.amount))
        holds = {hold.hold_id: hold for hold in self.dump.holds if hold.program == self.program}
        return {
            self._hold_name(hold, holds): (
                hold.kind,
                self.accounts[hold.account_id].name,
                None if hold.peer_id is None else self.accounts[hold.peer_id].name,
                abs(hold.amount),
                sorted(parts[hold.hold_id]),
                hold.verdict,
                hold.posted,
            )
            for hold in holds.values()
        }

    def _hold_name(self, hold: DumpHold, holds: dict[int, DumpHold]) -> str:
        if hold.replaces is None:
            return self.events[hold.hold_id]
        return self._hold_name(holds[hold.replaces], holds) + "+"

    def _totals(self) -> list[tuple[str, int]]:
        return [
            (one.name if one.kind == "control" else f"store {one.name}", one.posted_cr - one.posted_dr)
            for one in self.accounts.values()
            if one.kind in {"control", "store"}
        ]

    def _reversals(self) -> list[tuple[str, int, list[tuple[str, int]]]]:
        return [
            (
                self.events[one.original],
                one.points,
                [(part, getattr(one, part)) for part in PARTS if getattr(one, part)],
            )
            for one in self.dump.reversals
            if one.program == self.program
        ]


def of_model(model: Model) -> Picture:
    """Picture the model."""
    lots = sorted(model.lots, key=lambda lot: lot.rank)
    places = _places([(lot.account, id(lot)) for lot in lots])
    accounts = {
        name: (
            model.points(name),
            model.pending_in(name),
            model.pending_out(name),
            card.debt,
            len(model.open_holds(name)),
            card.merged,
        )
        for name, card in model.cards.items()
    }
    return Picture(
        {name: told for name, told in accounts.items() if any(told)},
        _by_account([(lot.account, _lot(model, lot, places)) for lot in lots]),
        {model.hold_name(hold): _hold(hold, places) for hold in model.holds},
        {name: total for name, total in model.totals.items() if total},
        sorted(
            (event, points, [(part, parts[part]) for part in PARTS if parts[part]])
            for event, points, parts in model.reversals
        ),
    )


def _places(lots: list[tuple[str, int]]) -> dict[int, tuple[str, int]]:
    numbers: Counter[str] = Counter()
    places = {}
    for name, key in lots:
        places[key] = (name, numbers[name])
        numbers[name] += 1
    return places


def _by_account(lots: list[tuple[str, tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    told: dict[str, list[tuple[Any, ...]]] = {}
    for name, lot in lots:
        told.setdefault(name, []).append(lot)
    return told


def _lot(model: Model, lot: Lot, places: dict[int, tuple[str, int]]) -> tuple[Any, ...]:
    parent = None if lot.parent is None else places[id(lot.parent)]
    return (lot.issued, lot.left, model.reserved(lot), lot.earned, lot.expires, lot.store, parent)


def _hold(hold: Hold, places: dict[int, tuple[str, int]]) -> tuple[Any, ...]:
    ask = hold.original.ask
    return (
        ask.kind,
        hold.original.purse,
        hold.original.peer if ask.kind == "transfer" else None,
        hold.amount,
        sorted((places[id(lot)], points) for lot, points in hold.lots),
        hold.verdict,
        hold.posted,
    )
