"""Comparing another system's events and balances with the ledger's, one pair at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.matching import MATCHED, Correction, Finding, Ours, State, Theirs, change, match_balance, match_event

KINDS = st.sampled_from(["earn", "redeem", "transfer", "adjust", "reverse"])
STATES: st.SearchStrategy[State] = st.sampled_from(["posted", "held", "rejected", "voided", "dead_letter"])
POINTS = st.integers(1, 2**53 - 1)


def theirs(account: str = "m", points: int = 100, kind: str | None = "earn") -> Theirs:
    """Their row of the event e1."""
    return Theirs(1, "till", "e1", account, points, kind)


def ours(kind: str = "earn", points: int = 100, state: State = "posted", posted: int | None = None) -> Ours:
    """The ledger's event e1; all of it posted unless told otherwise."""
    return Ours(
        "till", "e1", "m", kind, points, state, (abs(points) if state == "posted" else 0) if posted is None else posted
    )


@pytest.mark.parametrize(
    ("their", "our"),
    [
        (theirs(), ours()),
        (theirs(points=100, kind="redeem"), ours("redeem")),
        (theirs(points=-100, kind=None), ours("redeem")),
        (theirs(points=100, kind=None), ours()),
        (theirs(points=-40, kind="adjust"), ours("adjust", -40)),
        (theirs(points=-40, kind=None), ours("adjust", -40)),
        (theirs(points=0, kind="reverse"), ours("reverse", 60)),
        (theirs(points=-60, kind=None), ours("reverse", 60)),
    ],
)
def test_the_same_event_matches(their: Theirs, our: Ours) -> None:
    """With a type points are the event's; without one they are signed as they change the account."""
    assert match_event(their, our) == MATCHED


@pytest.mark.parametrize(
    ("their", "our", "finding"),
    [
        (theirs(), None, Finding("missing_here", "", (Correction("m", 100),))),
        (theirs(kind="redeem"), None, Finding("missing_here", "", (Correction("m", -100),))),
        (theirs(kind="transfer"), None, Finding("missing_here", "transfer")),
        (theirs(), ours(state="dead_letter"), Finding("missing_here", "dead_letter")),
        (None, ours(), Finding("missing_there", "", (Correction("m", -100),))),
        (None, ours("redeem"), Finding("missing_there", "", (Correction("m", 100),))),
        (None, ours("transfer"), Finding("missing_there", "transfer")),
        (None, ours(state="held"), Finding("missing_there", "held")),
        (theirs(points=130), ours(), Finding("differing", "points", (Correction("m", 30),))),
        (theirs(), ours(posted=60), Finding("differing", "points", (Correction("m", 40),))),
        (theirs(kind="redeem"), ours(), Finding("differing", "type, points", (Correction("m", -200),))),
        (theirs("n"), ours(), Finding("differing", "account", (Correction("m", -100), Correction("n", 100)))),
        (theirs(), ours(state="held"), Finding("differing", "held")),
        (theirs(), ours(state="rejected"), Finding("differing", "rejected")),
        (theirs(), ours(state="voided"), Finding("differing", "voided")),
        (theirs(points=50, kind="reverse"), ours("reverse", 60), Finding("differing", "points")),
        (theirs("n", kind="transfer"), ours("transfer"), Finding("differing", "account")),
    ],
)
def test_every_difference_has_its_name_and_remedy(their: Theirs | None, our: Ours | None, finding: Finding) -> None:
    """What waits or was refused here is not corrected by an adjustment, nor is what concerns two accounts."""
    assert match_event(their, our) == finding


def test_somebody_must_have_the_event() -> None:
    """Comparing nothing with nothing is a defect of the caller's."""
    with pytest.raises(ValueError, match="nobody has"):
        match_event(None, None)


@given(st.builds(Theirs, st.just(1), st.just("s"), st.just("e"), st.sampled_from("ab"), POINTS, KINDS), KINDS, POINTS)
def test_posted_corrections_make_both_sides_agree(their: Theirs, kind: str, points: int) -> None:
    """After the proposed adjustments each account stands where the other system has it."""
    our = Ours("s", "e", "a", kind, points, "posted", points)
    for left, right in ((their, our), (their, None), (None, our)):
        finding = match_event(left, right)
        if not finding.corrections:
            continue
        here: dict[str, int] = {}
        if right is not None:
            here[right.account] = here.get(right.account, 0) + change(right.kind, right.points)
        for correction in finding.corrections:
            assert correction.points != 0
            here[correction.account] = here.get(correction.account, 0) + correction.points
        there = {left.account: change(left.kind, left.points)} if left is not None else {}
        assert {name: value for name, value in here.items() if value} == there


@given(st.builds(Ours, st.just("s"), st.just("e"), st.just("a"), KINDS, POINTS, STATES, st.just(0)))
def test_what_is_not_posted_is_never_corrected(our: Ours) -> None:
    """A hold is decided, a refusal stands, a dead letter is retried: none of it by an adjustment."""
    if our.state != "posted":
        assert match_event(Theirs(1, "s", "e", "a", our.points, our.kind), our).corrections == ()
        assert match_event(None, our).corrections == ()


@given(st.none() | st.integers(0, 2**53), st.none() | st.integers(0, 2**53))
def test_balances_match_or_say_by_how_much_not(there: int | None, here: int | None) -> None:
    """Unknown and zero are the same; what the other system lists is corrected to it, what it does not list is not."""
    finding = match_balance("m", there, here)
    assert (finding == MATCHED) == ((there or 0) == (here or 0))
    if finding.corrections:
        assert (here or 0) + finding.corrections[0].points == there
    if there is None:
        assert finding.corrections == ()
