"""Settlement between stores: pairs are netted, everything sums to zero, and nobody's position changes by netting."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from ledger.clearing import PROGRAM, Flow, Payment, Settlement, gross, net, positions
from ledger.liability import MILLION, Valuation

PARTIES = st.sampled_from([PROGRAM, "s1", "s2", "s3", "s4"])
FLOWS = st.lists(
    st.builds(
        Flow, PARTIES, PARTIES, st.sampled_from(["redeemed", "clawed_back", "repaid"]), st.integers(-(2**60), 2**60)
    )
)
VALUES = st.builds(Valuation, st.just("CNY"), st.integers(0, 10**12))
AT = datetime(2026, 1, 1, tzinfo=UTC)


def flow(funder: str, redeemer: str, points: int) -> Flow:
    """A redemption."""
    return Flow(funder, redeemer, "redeemed", points)


@given(FLOWS, VALUES)
def test_a_settlement_sums_to_zero(flows: list[Flow], value: Valuation) -> None:
    """What is paid is received, in points and in rounded money, and each party's points are those before netting."""
    made = Settlement("p", AT, AT, value, (), tuple(flows), net(flows, value))
    assert made.sums_to_zero
    assert {party: points for party, (points, _) in made.positions.items() if points} == gross(flows)


@given(FLOWS, VALUES)
def test_a_pair_pays_once_and_one_way(flows: list[Flow], value: Valuation) -> None:
    """There is at most one payment between two parties, of more than nothing, and none to oneself."""
    payments = net(flows, value)
    pairs = [frozenset((one.payer, one.payee)) for one in payments]
    assert len(set(pairs)) == len(pairs)
    assert all(one.payer != one.payee and one.points > 0 and one.amount >= 0 for one in payments)


@given(FLOWS, VALUES, st.randoms())
def test_the_order_of_flows_does_not_matter(flows: list[Flow], value: Valuation, shuffler: object) -> None:
    """The same redemptions give the same payments, in whatever order they are read."""
    shuffled = list(flows)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' own Random
    assert net(shuffled, value) == net(flows, value)


def test_two_stores_net_what_they_redeemed_for_each_other() -> None:
    """A funded 300 that B redeemed, B 120 that A did: A pays B 180 points' worth, 0.5 fen each, rounded once."""
    flows = [flow("A", "B", 300), flow("B", "A", 120), flow("A", "A", 999), flow("A", "B", 1)]
    value = Valuation("CNY", MILLION // 2)
    assert net(flows, value) == (Payment("A", "B", 181, 91),)
    assert positions(net(flows, value)) == {"A": (-181, -91), "B": (181, 91)}


def test_what_cancels_out_pays_nothing() -> None:
    """Equal flows both ways, and flows to oneself, need no payment."""
    assert net([flow("A", "B", 5), flow("B", "A", 5), flow("A", "A", 9)], Valuation("CNY", MILLION)) == ()


def test_a_wrong_payment_breaks_the_proof() -> None:
    """The proof looks at the flows, so a payment of a point too many is noticed though it sums to zero by itself."""
    flows = (flow("A", "B", 10),)
    made = Settlement("p", AT, AT, Valuation("CNY", MILLION), (), flows, (Payment("A", "B", 11, 11),))
    assert not made.sums_to_zero
