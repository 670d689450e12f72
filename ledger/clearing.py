"""Who owes whom for points that one store funded and another redeemed (店间结算), netted pair by pair. Pure integers.

With funding by store, a store's account is debited when members earn there and credited when they redeem there. The
points redeemed at B were funded by whoever gave their lots: those A funded, A owes B. The programme itself is a party,
too: it funds what no store does, redeems where no store does, and stands in for what members owe until they repay it.
What expires, or is taken away by hand, is redeemed by nobody: its funder keeps it, and pays nobody for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ledger.liability import Valuation

PROGRAM = ""
"""The programme itself among the parties; no store has an empty name."""

Kind = Literal["redeemed", "clawed_back", "repaid"]


@dataclass(frozen=True, slots=True, order=True)
class Flow:
    """Points that `funder` funded and `redeemer` has given value for, so that the funder owes them to the redeemer.

    `redeemed`: goods, less what was taken back. `clawed_back`: the redeemer's own earlier earn, taken back out of
    points of another funder, or of what the member owes. `repaid`: points that paid what a member owed the programme.
    """

    funder: str
    redeemer: str
    kind: Kind
    points: int


@dataclass(frozen=True, slots=True, order=True)
class Payment:
    """What `payer` pays `payee` after netting: so many points (more than none), worth `amount` minor units of money."""

    payer: str
    payee: str
    points: int
    amount: int


@dataclass(frozen=True, slots=True)
class StorePeriod:
    """A store's figures of a period, in points.

    `issued` is what its account was debited for earns, less what was clawed back of them; `redeemed` what it was
    credited for redemptions, less what was taken back. Of what it funded, `breakage` expired and `cancelled` was taken
    away by hand. `balance` is its funding account at the end of the period: redeemed there less issued there, ever.
    """

    store: str
    issued: int
    redeemed: int
    breakage: int
    cancelled: int
    balance: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """The settlement of a period [since, until): flows between parties, and the payments that square them."""

    program: str
    since: datetime
    until: datetime
    value: Valuation
    stores: tuple[StorePeriod, ...]
    flows: tuple[Flow, ...]
    payments: tuple[Payment, ...]

    @property
    def positions(self) -> Mapping[str, tuple[int, int]]:
        """What each party gets (pays, if negative) in all: points and money."""
        return positions(self.payments)

    @property
    def sums_to_zero(self) -> bool:
        """The proof: what is paid is what is received, in points and in money, and netting changed nobody's points."""
        found = self.positions
        return (
            sum(points for points, _ in found.values()) == 0
            and sum(amount for _, amount in found.values()) == 0
            and {party: points for party, (points, _) in found.items() if points} == gross(self.flows)
        )

    @property
    def is_traced(self) -> bool:
        """Whether all that each store redeemed is traced to who funded it: lots and entries tell the same."""
        traced: dict[str, int] = {}
        for flow in self.flows:
            if flow.kind == "redeemed":
                traced[flow.redeemer] = traced.get(flow.redeemer, 0) + flow.points
        return all(traced.get(one.store, 0) == one.redeemed for one in self.stores)


def net(flows: Iterable[Flow], value: Valuation) -> tuple[Payment, ...]:
    """Net flows pair by pair into payments, sorted; a store owes itself nothing.

    The points of a pair are netted first and valued once, so what one pays is to the last unit what the other gets.
    A pair whose flows cancel out pays nothing and is left out.
    """
    pairs: dict[tuple[str, str], int] = {}
    for flow in flows:
        if flow.funder < flow.redeemer:
            pair, points = (flow.funder, flow.redeemer), flow.points
        else:
            pair, points = (flow.redeemer, flow.funder), -flow.points
        pairs[pair] = pairs.get(pair, 0) + points
    payments = []
    for (low, high), points in pairs.items():
        if low != high and points:
            payer, payee = (low, high) if points > 0 else (high, low)
            payments.append(Payment(payer, payee, abs(points), value.of(abs(points))))
    return tuple(sorted(payments))


def positions(payments: Iterable[Payment]) -> dict[str, tuple[int, int]]:
    """What each party gets less what it pays: points and money."""
    found: dict[str, tuple[int, int]] = {}
    for payment in payments:
        for party, sign in ((payment.payer, -1), (payment.payee, 1)):
            points, amount = found.get(party, (0, 0))
            found[party] = (points + sign * payment.points, amount + sign * payment.amount)
    return found


def gross(flows: Iterable[Flow]) -> dict[str, int]:
    """What each party gets less what it owes, in points and before any netting; parties that are even left out."""
    found: dict[str, int] = {}
    for flow in flows:
        found[flow.redeemer] = found.get(flow.redeemer, 0) + flow.points
        found[flow.funder] = found.get(flow.funder, 0) - flow.points
    return {party: points for party, points in found.items() if points}
