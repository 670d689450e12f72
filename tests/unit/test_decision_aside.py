"""Decisions with rules that are silent, and of events that stand on lists."""

import msgspec
import numpy as np
import pytest

from detectors.aside import Aside, silent_in
from detectors.decision import Decision, Reason, compile_policy, decide, is_trusted, redecide, was_cold
from detectors.features import pack
from detectors.policy import ListTerms, Policy, Rule
from detectors.rules import EventFields
from tests.unit.test_decision import EARN, FACT, TEXT, adds, policy, row, verdict


def test_a_paused_rule_is_on_trial() -> None:
    """What it measured is told, it changes nothing, and the decision is made again from what it tells."""
    of = compile_policy(policy(adds(9.0), adds(1.0, "stays")))
    features = row(of.layout, event__points=10.0)
    decided = decide([EARN], features, of, None, cold=False, aside=Aside(paused=frozenset({"adds"})))[0]
    assert (decided.outcome, decided.shadow, [reason.code for reason in decided.reasons]) == (
        "approve", ("adds",), ["stays", "adds"],
    )  # fmt: skip
    assert redecide(EARN, pack(features[0]), of.layout, of, None, decided.reasons) == decided


def test_a_snoozed_rule_is_silent_for_its_rows_only() -> None:
    """Of two events that fire the same rule the snoozed one passes, and teaches the models nothing."""
    of = compile_policy(policy(adds(9.0)))
    features = np.repeat(row(of.layout, event__points=10.0), 2, axis=0)
    silent, heard = decide(
        [EARN, EARN], features, of, None, cold=False, aside=Aside(snoozed={0: frozenset({"adds", "other"})})
    )
    assert [(one.outcome, one.snoozed) for one in (silent, heard)] == [("approve", ("adds",)), ("reject", ())]
    assert not is_trusted(silent)
    assert redecide(EARN, pack(features[0]), of.layout, of, None, silent.reasons) == silent


@pytest.mark.parametrize(
    ("aside", "kind"),
    [(Aside(paused=frozenset({"fails"})), "shadow"), (Aside(snoozed={0: frozenset({"fails"})}), "snoozed")],
)
def test_a_silent_rule_that_fails_holds_nobody(aside: Aside, kind: str) -> None:
    """Its failure is told as its firing would be, so that the decision is made again the same."""
    failing = Rule(id="fails", expression="10 / (int(event.points) - 10) > 0", weight=5.0, reason=TEXT)
    of = compile_policy(policy(failing))
    features = row(of.layout, event__points=10.0)
    decided = decide([EARN], features, of, None, cold=False, aside=aside)[0]
    assert (decided.outcome, decided.reasons) == ("approve", (Reason(code="fails", kind=kind),))  # type: ignore[arg-type]  # one of two
    assert redecide(EARN, pack(features[0]), of.layout, of, None, decided.reasons) == decided


def test_a_rule_may_be_called_like_a_reason_of_the_policy() -> None:
    """That velocity was cold is what the policy says, not a rule of that name: the decision is made again the same."""
    of = compile_policy(policy(adds(1.0, "velocity_cold"), adds(-1.0, "speaks_for")))
    features = row(of.layout, event__points=10.0)
    decided = decide([EARN], features, of, None, cold=False)[0]
    assert {reason.code for reason in decided.reasons} == {"velocity_cold", "speaks_for"}
    assert not was_cold(decided.reasons)
    assert redecide(EARN, pack(features[0]), of.layout, of, None, decided.reasons) == decided


def listed(of: Policy, event: EventFields = EARN, **lists: float) -> Decision:
    """What a policy decides of an event that stands on lists."""
    compiled = compile_policy(of)
    features = row(compiled.layout, event__points=float(abs(event.points)), **lists)
    decided = decide([event], features, compiled, None, cold=False)[0]
    assert redecide(event, pack(features[0]), compiled.layout, compiled, None, decided.reasons) == decided
    return decided


@pytest.mark.parametrize(
    ("lists", "outcome", "codes"),
    [
        ({}, "hold", ["adds"]),
        ({"lists__allow": 7.0}, "approve", ["adds", "list_allow"]),
        ({"lists__block": 8.0}, "reject", ["list_block", "adds"]),
        ({"lists__block": 8.0, "lists__allow": 7.0}, "approve", ["adds", "list_allow"]),
        ({"lists__final": 9.0, "lists__allow": 7.0}, "reject", ["list_final", "adds"]),
        ({"lists__watch": 6.0}, "hold", ["adds", "list_watch"]),
        ({"lists__watch": 6.0, "lists__allow": 7.0}, "approve", ["adds", "list_watch", "list_allow"]),
    ],
)
def test_the_tiers_of_lists(lists: dict[str, float], outcome: str, codes: list[str]) -> None:
    """A final block stands above an allow-list, that above a block and above what rules add; watching adds."""
    decided = listed(policy(adds(3.5)), EARN, **lists)
    assert (decided.outcome, [reason.code for reason in decided.reasons]) == (outcome, codes)
    assert {reason.value for reason in decided.reasons if reason.kind == "list"} <= set(lists.values())


def test_a_list_never_lifts_a_hard_floor() -> None:
    """A rule with an outcome, too many points and a rule that fails hold whoever is on an allow-list."""
    floor = Rule(id="floor", expression="event.points > 5.0", outcome="hold", reason=TEXT)
    failing = Rule(id="fails", expression="10 / (int(event.points) - 10) > 0", weight=1.0, reason=TEXT)
    much = msgspec.structs.replace(EARN, points=5_000)
    for of, event in ((policy(floor), EARN), (policy(failing), EARN), (policy(), much)):
        assert listed(of, event, lists__allow=7.0).outcome == "hold"


def test_an_allow_list_leaves_what_speaks_for_the_event() -> None:
    """The score of an allowed event is that of the base and of negative weights alone."""
    for_it = adds(-1.0, "speaks_for")
    allowed = listed(policy(adds(6.0), for_it, adds(0.25, "small")), lists__allow=1.0)
    assert allowed.score == pytest.approx(verdict(policy(for_it)).score, rel=1e-12)
    assert not is_trusted(allowed)


def test_a_blocked_fact_is_suspicious() -> None:
    """What has happened already is posted and marked, as with any floor."""
    decided = listed(policy(), FACT, lists__final=1.0)
    assert (decided.outcome, decided.suspicious) == ("approve", True)


def test_many_decisions_are_made_again_at_once() -> None:
    """Rules that were silent stay so for their rows, whether they were paused or snoozed, and for no others."""
    of = compile_policy(policy(adds(9.0), adds(9.0, "other")))
    features = np.repeat(row(of.layout, event__points=10.0), 3, axis=0)
    first = decide(
        [EARN] * 3, features, of, None, cold=False, aside=Aside(frozenset({"adds"}), {1: frozenset({"other"})})
    )
    again = decide(
        [EARN] * 3, features, of, None, cold=False, aside=silent_in([decision.reasons for decision in first])
    )
    assert [decision.outcome for decision in first] == [decision.outcome for decision in again]
    assert [decision.score for decision in first] == [decision.score for decision in again]
    assert silent_in([(), ()]).snoozed == {}


def test_a_policy_says_what_lists_do() -> None:
    """A block may hold instead of rejecting, and a watch-list weigh as much as one likes."""
    mild = policy(lists=ListTerms(block="hold", final="hold", watch=4.0))
    assert [listed(mild, EARN, **{name: 1.0}).outcome for name in ("lists__block", "lists__final", "lists__watch")] == [
        "hold", "hold", "hold",
    ]  # fmt: skip
    assert listed(mild, EARN, lists__watch=1.0).reasons == (
        Reason(code="list_watch", kind="list", contribution=4.0, value=1.0),
    )
