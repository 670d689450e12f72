"""Decisions: scores, floors, cold velocity, facts, models' limits, and deciding again."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.policy import default_policy_text, load_policy
from detectors.decision import (
    CompiledPolicy,
    Decision,
    Reason,
    compile_policy,
    decide,
    fields_of,
    is_trusted,
    redecide,
    was_cold,
)
from detectors.event_types import Adjust, Earn, Login, Redeem
from detectors.features import pack
from detectors.layout import Floats, Layout, layout_of
from detectors.models import MODELS, SHARES
from detectors.models_calibration import Calibration
from detectors.models_snapshot import Snapshot
from detectors.policy import HoldTerm, ModelTerm, Policy, PolicyRefused, Rule, Text, Thresholds
from detectors.rules import EventFields
from tests.unit.model_rows import fold, mixed, unbounded

TEXT = Text(en="a", zh="甲")
EARN = EventFields(type="earn", program="p", points=10)
REDEEM = EventFields(type="redeem", program="p", points=10, outflow=True)
FACT = EventFields(type="redeem", program="p", points=10, outflow=True, fulfilled=True)
REVERSE = EventFields(type="reverse", program="p", points=10)
LOGIN = EventFields(type="login", program="p")


def policy(*rules: Rule, **changes: object) -> Policy:
    """A policy of these rules, holding at .5 and rejecting at .99."""
    plain = Policy(
        version=7,
        base=-3.0,
        thresholds=Thresholds(hold=0.5, reject=0.99),
        rules=rules,
        cold_limit_points=100,
        max_points=1_000,
        holds={"earn": HoldTerm(), "redeem": HoldTerm(), "transfer": HoldTerm(), "adjust": HoldTerm()},
    )
    return msgspec.structs.replace(plain, **changes)


def adds(weight: float, rule_id: str = "adds", expression: str = "event.points > 5.0") -> Rule:
    """A rule of some weight that fires on more than five points."""
    return Rule(id=rule_id, expression=expression, weight=weight, reason=TEXT, shows=("event.points",), limit=5.0)


def floor(outcome: str, expression: str = "event.points > 5.0") -> Rule:
    """A rule that sets a floor."""
    return Rule(id=outcome, expression=expression, outcome=outcome, reason=TEXT)  # type: ignore[arg-type]  # one of the two


def row(layout: Layout, **values: float) -> Floats:
    """One row of features: ten points, zeros, and the named values (`a__b` for `a.b`)."""
    matrix = np.zeros((1, layout.width))
    matrix[0, layout.index["event.points"]] = 10.0
    for name, value in values.items():
        matrix[0, layout.index[name.replace("__", ".")]] = value
    return matrix


def verdict(of: Policy, event: EventFields = EARN, *, cold: bool = False) -> Decision:
    """What a policy decides of one event, without models."""
    compiled = compile_policy(of)
    features = row(compiled.layout, event__points=float(abs(event.points)))
    return decide([event], features, compiled, None, cold=cold)[0]


@cache
def snapshot() -> Snapshot:
    """A small trained snapshot, the same in every test."""
    return fold(mixed(1_500), unbounded()).snapshot(4)


def test_contributions_add_up_to_a_score() -> None:
    """Nothing fired gives the base's chance; a weight moves it; the reason carries value, limit and what it added."""
    assert verdict(policy()).score == pytest.approx(1 / (1 + math.exp(3.0)))
    held = verdict(policy(adds(3.0)))
    assert (held.outcome, held.score, held.code, held.suspicious) == ("hold", 0.5, "adds", False)
    assert held.reasons == (
        Reason(code="adds", kind="rule", contribution=3.0, value=10.0, limit=5.0, shown={"event.points": 10.0}),
    )
    assert (held.policy_version, held.model_version) == (7, None)
    assert verdict(policy(adds(2.99))).outcome == "approve"
    assert verdict(policy(adds(7.7))).outcome == "reject"


def test_reasons_are_ranked() -> None:
    """Floors come first, then the largest contribution; what speaks for the event comes last."""
    decided = verdict(policy(adds(1.0, "one"), adds(-2.0, "for_it"), adds(4.0, "four"), floor("hold")))
    assert [reason.code for reason in decided.reasons] == ["hold", "four", "one", "for_it"]


@given(st.floats(-20, 20), st.floats(-20, 20), st.sampled_from(["hold", "reject"]))
def test_a_hard_rule_is_a_floor(first: float, second: float, outcome: str) -> None:
    """Whatever else contributes, the verdict does not fall below a rule's outcome."""
    decided = verdict(policy(adds(first, "one"), floor(outcome), adds(second, "two")))
    assert decided.outcome in {"hold": ("hold", "reject"), "reject": ("reject",)}[outcome]


def test_facts_and_reversals_are_posted_and_marked() -> None:
    """What has happened already can't be stopped: it is approved, and suspicious if it would have been held."""
    strict, calm = policy(adds(9.0)), policy()
    assert [(verdict(strict, each).outcome, verdict(strict, each).suspicious) for each in (FACT, REDEEM, EARN)] == [
        ("approve", True), ("reject", False), ("reject", False),
    ]  # fmt: skip
    assert (verdict(calm, FACT).outcome, verdict(calm, FACT).suspicious) == ("approve", False)
    for_reversals = policy(msgspec.structs.replace(adds(9.0), types=("reverse",)))
    assert (verdict(for_reversals, REVERSE).outcome, verdict(for_reversals, REVERSE).suspicious) == ("approve", True)


def test_information_is_noted() -> None:
    """An event that moves nothing is noted, also while velocity is cold."""
    assert verdict(policy(adds(9.0)), LOGIN).outcome == "noted"
    assert verdict(policy(), LOGIN, cold=True).reasons == ()


def test_points_above_the_largest_amount_are_held() -> None:
    """The limit itself passes, one point more is held, in either direction."""
    amounts = {1_000: "approve", 1_001: "hold", -1_001: "hold"}
    events = {points: EventFields(type="adjust", program="p", points=points, outflow=points < 0) for points in amounts}
    assert {points: verdict(policy(), event).outcome for points, event in events.items()} == amounts
    assert verdict(policy(), events[1_001]).reasons == (
        Reason(code="points_over_max", kind="policy", value=1_001.0, limit=1_000.0),
    )


@pytest.mark.parametrize(
    ("event", "outcome", "suspicious"),
    [
        (REDEEM, "hold", False),
        (EARN, "approve", False),
        (msgspec.structs.replace(EARN, points=101), "hold", False),
        (FACT, "approve", True),
        (REVERSE, "approve", False),
    ],
)
def test_cold_velocity(event: EventFields, outcome: str, suspicious: bool) -> None:
    """Cold: outflow requests wait, inflows wait above the limit, facts open a case, and every decision says so."""
    decided = verdict(policy(), event, cold=True)
    assert (decided.outcome, decided.suspicious) == (outcome, suspicious)
    assert was_cold(decided.reasons)
    assert not was_cold(verdict(policy(), event).reasons)


def test_nothing_speaks_for_an_event_on_cold_velocity() -> None:
    """A rule that lowers the score does not count while history is missing."""
    trusting = policy(adds(3.0, "one"), adds(-3.0, "for_it"))
    assert verdict(trusting).outcome == "approve"
    assert verdict(trusting, cold=True).outcome == "hold"


@pytest.mark.parametrize(("event", "outcome", "suspicious"), [(EARN, "hold", False), (FACT, "approve", True)])
def test_a_rule_that_fails_closes(event: EventFields, outcome: str, suspicious: bool) -> None:
    """An event on which a rule fails is held with the rule's name, even if every other rule speaks for it."""
    failing = Rule(id="fails", expression="10 / (int(event.points) - 10) > 0", weight=-20.0, reason=TEXT)
    decided = verdict(policy(failing, adds(-20.0)), event)
    assert (decided.outcome, decided.suspicious) == (outcome, suspicious)
    assert decided.reasons[0] == Reason(code="rule_error", kind="policy", about="fails")


def test_shadow_rules_only_leave_a_note() -> None:
    """A rule on trial changes neither score nor outcome, and tells what it measured behind the reasons that count."""
    trial = msgspec.structs.replace(adds(9.0), mode="shadow")
    decided = verdict(policy(trial))
    note = Reason(code="adds", kind="shadow", value=10.0, limit=5.0, shown={"event.points": 10.0})
    assert decided == msgspec.structs.replace(verdict(policy()), reasons=(note,))
    assert (decided.shadow, decided.code, is_trusted(decided)) == (("adds",), "", True)


def test_without_a_rule() -> None:
    """The same event is decided as if the rule did not exist; an unknown rule is a KeyError."""
    both = policy(adds(3.5, "one"), adds(1.0, "two"))
    assert verdict(both.without("one")).outcome == "approve"
    assert verdict(both.without("two")).outcome == "hold"
    with pytest.raises(KeyError):
        both.without("three")


@pytest.mark.parametrize(
    ("changes", "path", "error"),
    [
        ({"thresholds": Thresholds(hold=0.9, reject=0.5)}, "thresholds", "wrong_order"),
        ({"thresholds": Thresholds(hold=0.01, reject=0.5)}, "thresholds", "wrong_order"),
        ({"models": {"hst": ModelTerm(cap=4.0), "loda": ModelTerm(cap=3.7)}}, "models", "model_can_reject"),
        ({"holds": {"earn": HoldTerm()}}, "holds", "missing"),
        (
            {"holds": dict.fromkeys(("earn", "redeem", "transfer", "adjust"), HoldTerm(on_timeout="post"))},
            "holds.redeem",
            "unsafe_timeout",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict[str, object], path: str, error: str) -> None:
    """What types can't say is checked when the policy is compiled: order, models' power, safe time-outs."""
    with pytest.raises(PolicyRefused) as refused:
        compile_policy(policy(**changes))
    assert (path, error) in [(problem.path, problem.error) for problem in refused.value.problems]


def test_fields_of_events() -> None:
    """What decisions read of an event, and nothing that points at a person."""
    common: dict[str, Any] = {
        "id": "x",
        "source": "s",
        "program": "p",
        "account": "a",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    assert fields_of(Earn(**common, points=5, device="d", store="s-1")) == EventFields(
        type="earn", program="p", account="a", points=5, has_device=True, store="s-1"
    )
    assert fields_of(Adjust(**common, points=-5, reason="r", fulfilled=True)) == EventFields(
        type="adjust", program="p", account="a", points=-5, outflow=True, fulfilled=True
    )
    assert fields_of(Redeem(**common, points=5, ip="1.2.3.4")) == EventFields(
        type="redeem", program="p", account="a", points=5, outflow=True, has_ip=True
    )
    assert fields_of(Login(**common)) == EventFields(type="login", program="p", account="a")


def test_features_of_another_shape_are_a_mistake() -> None:
    """A matrix that does not fit the batch is refused before anything is decided."""
    with pytest.raises(ValueError, match="features of shape"):
        decide([EARN, EARN], row(layout_of([])), compile_policy(policy()), None, cold=False)


def test_what_models_may_learn_from() -> None:
    """Approved events that no rule and no policy spoke up about; what only a model finds rare is learned, too."""
    calm = verdict(policy())
    rare = Reason(code="model_hst", kind="model", contribution=0.4)
    assert is_trusted(calm)
    assert is_trusted(msgspec.structs.replace(calm, reasons=(rare,)))
    assert not is_trusted(msgspec.structs.replace(calm, suspicious=True))
    assert not is_trusted(verdict(policy(adds(0.1))))
    assert not is_trusted(verdict(policy(adds(9.0))))
    assert not is_trusted(verdict(policy(), cold=True))
    assert not is_trusted(verdict(policy(), LOGIN))


# --- models ---------------------------------------------------------------------------------------------------------


def certain(models: Snapshot) -> Snapshot:
    """The same models, to whom everything is the rarest and surest fraud there can be."""
    tables = np.full((1, len(MODELS), SHARES), -1.0)
    return replace(models, calibration=Calibration(("",), tables, np.array([0.0]), np.array([0.9999])))


def test_models_alone_never_reject_and_say_what_they_added() -> None:
    """The rarest event there can be gets all caps: with the default policy it is held, never rejected."""
    default = load_policy(default_policy_text())
    features = row(default.layout, account__seconds_since_signup=1e9)
    decided = decide([EARN], features, default, certain(snapshot()), cold=False)[0]
    assert (decided.outcome, decided.model_version) == ("hold", 4)
    caps = default.policy.models
    assert [(reason.code, reason.kind, reason.contribution, reason.limit) for reason in decided.reasons] == [
        (f"model_{name}", "model", caps[name].cap, caps[name].above)
        for name in sorted(caps, key=lambda each: (-caps[each].cap, each))
    ]


def test_without_labels_models_alone_do_not_hold() -> None:
    """However rare an event is: rarity is no crime, and only adds to other signs."""
    default = load_policy(default_policy_text())
    models = certain(snapshot())
    silent = replace(models, calibration=replace(models.calibration, edges=np.zeros(0), chances=np.zeros(0)))
    quiet = row(default.layout, account__seconds_since_signup=1e9)
    assert decide([EARN], quiet, default, silent, cold=False)[0].outcome == "approve"


def test_a_model_in_its_grace_period_is_silent() -> None:
    """A snapshot that is not ready decides like none at all, but is named."""
    default = load_policy(default_policy_text())
    green = replace(snapshot(), ready=False)
    features = row(default.layout)
    decided = decide([EARN], features, default, green, cold=False)
    alone = decide([EARN], features, default, None, cold=False)
    assert decided == [msgspec.structs.replace(each, model_version=4) for each in alone]


def test_rules_can_read_models() -> None:
    """`model.loda` is the share of the programme's events that score lower."""
    rule = Rule(id="reads", expression="model.loda >= 0.0", weight=4.0, reason=TEXT, shows=("model.loda",))
    reads = compile_policy(policy(rule))
    features = row(reads.layout)
    decided = decide([EARN], features, reads, snapshot(), cold=False)[0]
    assert decided.code == "reads"
    assert decided.reasons[0].value is not None
    assert decide([EARN], features, reads, None, cold=False)[0].reasons == ()


# --- deciding again -------------------------------------------------------------------------------------------------

EVENTS = st.builds(
    EventFields,
    type=st.sampled_from(["earn", "redeem", "transfer", "adjust", "reverse", "login"]),
    program=st.sampled_from(["p", "q"]),
    points=st.sampled_from([-5_000_000, -3, 0, 1, 900, 2_000_000]),
    outflow=st.booleans(),
    fulfilled=st.booleans(),
    has_device=st.booleans(),
    has_ip=st.booleans(),
    store=st.sampled_from(["", "s-1"]),
)


@cache
def default_policy() -> CompiledPolicy:
    """The default policy and a rule that only CEL can decide."""
    loaded = load_policy(default_policy_text()).policy
    asked = adds(0.7, "asked", 'event.store == "s-1" && event.points * 0.1 > velocity.device.count_1h')
    return compile_policy(msgspec.structs.replace(loaded, rules=(*loaded.rules, asked)))


WIDTH = default_policy().layout.width
FEATURES = st.lists(st.sampled_from([0.0, 1.0, 2.5, 6.0, 40.0, 1e6, math.nan]), min_size=WIDTH, max_size=WIDTH)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(EVENTS, FEATURES), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_a_stored_decision_recomputes_exactly(
    batch: list[tuple[EventFields, list[float]]], cold: bool, with_models: bool
) -> None:
    """From its stored fields, features and reasons every decision of a batch comes out the same, score to the bit."""
    models = snapshot() if with_models else None
    fields = [event for event, _ in batch]
    features = np.array([values for _, values in batch])
    decisions = decide(fields, features, default_policy(), models, cold=cold)
    for event, values, decided in zip(fields, features, decisions, strict=True):
        stored = msgspec.convert(msgspec.json.decode(msgspec.json.encode(event)), EventFields)
        reasons = msgspec.convert(msgspec.json.decode(msgspec.json.encode(decided.reasons)), tuple[Reason, ...])
        assert reasons == decided.reasons
        # An event that moves nothing is decided the same on cold and on warm velocity.
        default = default_policy()
        again = redecide(stored, pack(values), default.layout, default, models, reasons)
        assert again == decided


def test_a_decision_stored_under_another_layout_is_made_again_by_name() -> None:
    """A wider row gives a narrower policy what it reads; what a row does not have is unknown, so its rule is silent."""
    rule = Rule(id="busy", expression="velocity.ip.count_1m >= 2.0", weight=4.0, reason=TEXT)
    reads, ignores = compile_policy(policy(rule)), compile_policy(policy(adds(1.0)))
    wide, narrow = row(reads.layout, velocity__ip__count_1m=2.0)[0], row(ignores.layout)[0]
    again = [
        redecide(EARN, pack(features), stored, judge, snapshot(), ()).code
        for features, stored, judge in (
            (wide, reads.layout, reads), (wide, reads.layout, ignores), (narrow, ignores.layout, reads),
        )
    ]  # fmt: skip
    assert again == ["busy", "adds", ""]


def test_an_empty_batch() -> None:
    """No events, no decisions."""
    assert decide([], np.zeros((0, WIDTH)), default_policy(), snapshot(), cold=False) == []
