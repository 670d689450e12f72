"""Rules: what is refused when a policy loads, and what fires on an event."""

import math

import cel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.event_types import EVENT_TYPES
from detectors.expression import EXAMPLES, ExpressionRefused, flat, parse
from detectors.layout import Floats
from detectors.policy import TYPES, Rule, Text
from detectors.rules import EventFields, RuleSet, compile_rules

EARN = EventFields(type="earn", program="p", points=10, store="s-1", channel="app")
TEXT = Text(en="a", zh="甲")


def rule(expression: str, **changes: object) -> Rule:
    """A valid rule but for what a case changes."""
    return Rule(**{"id": "r_1", "expression": expression, "weight": 1.0, "reason": TEXT, **changes})  # type: ignore[arg-type]  # cases choose fields by name


def compiled(*rules: Rule) -> RuleSet:
    """Rules that must compile."""
    rule_set, problems = compile_rules(rules)
    assert problems == []
    return rule_set


def numbers(rules: RuleSet, **values: float) -> Floats:
    """One row of zeros but for the named values; `a__b` stands for `a.b`."""
    row = np.zeros((1, len(rules.columns)))
    for name, value in values.items():
        row[0, rules.columns[name.replace("__", ".")]] = value
    return row


@pytest.mark.parametrize(
    ("expression", "error", "remedy"),
    [
        ("event.points >", "syntax_error", "mismatched"),
        ("event.points > 1.0 # 2", "syntax_error", "character 20"),
        ('event.store == r"x"', "syntax_error", "without a prefix"),
        ("velocity.devise.accounts_7d > 1.0", "unknown_name", "did you mean velocity.device.accounts_7d"),
        ("event.points > limit", "unknown_name", "give the rule a limit"),
        ("xyzzy > 1.0", "unknown_name", "docs/policy.md"),
        ("event.points", "wrong_type", "must be true or false"),
        ('event.points > "a"', "wrong_type", "compare strings with strings"),
        ("event.points * 2 > 3.0", "wrong_type", "2.0, not 2"),
        ("event.points > 1e9 && event.store > 3", "wrong_type", "event.store > 3"),
        ("1 / int(event.points) > 3", "division_by_zero", "divides by zero"),
        ('event.store.matches("(")', "not_computable", "regex"),
        ("event.store.foo()", "unknown_function", "startsWith"),
        ("[1, 2].all(x, x > 1)", "unknown_function", "use one of"),
        ("(" * 21 + "true" + ")" * 21, "too_deep", "at most 20"),
    ],
)
def test_a_bad_expression_is_refused_by_name(expression: str, error: str, remedy: str) -> None:
    """Each kind of mistake has its error and says what to do, also where CEL would not have come by it."""
    with pytest.raises(ExpressionRefused) as refused:
        parse(expression)
    assert refused.value.error == error
    assert remedy in refused.value.detail


@pytest.mark.parametrize(
    ("changes", "path", "error"),
    [
        ({"weight": None}, "rules[0]", "weight_or_outcome"),
        ({"outcome": "hold"}, "rules[0]", "weight_or_outcome"),
        ({"shows": ("velocity.nothing",)}, "rules[0].shows", "unknown_name"),
        ({"shows": ("event.store",)}, "rules[0].shows", "wrong_type"),
        ({"reason": Text(en="{event.points}", zh="甲")}, "rules[0].reason.en", "bad_placeholder"),
        ({"reason": Text(en="a", zh="{value|hours}")}, "rules[0].reason.zh", "bad_placeholder"),
        ({"mode": "off", "expression": "event.points >"}, "rules[0].expression", "syntax_error"),
    ],
)
def test_a_bad_rule_is_refused_with_its_place(changes: dict[str, object], path: str, error: str) -> None:
    """A problem names the rule, the field and the mistake, even of a rule that is off."""
    _, problems = compile_rules([rule(**{"expression": "event.points > 1.0", **changes})])  # type: ignore[arg-type]  # as in rule()
    assert [(problem.rule, problem.path, problem.error) for problem in problems] == [("r_1", path, error)]


def test_two_rules_of_one_id_are_refused() -> None:
    """An id is what decisions and switches name, so it must be unique."""
    _, problems = compile_rules([rule("true"), rule("false")])
    assert [problem.error for problem in problems] == ["duplicate_rule"]


def test_rules_know_all_types_of_the_contract() -> None:
    """Every event of the contract can be given to the rules."""
    assert set(TYPES) == set(EVENT_TYPES)


def test_limit_stands_for_its_value() -> None:
    """A rule and its reason share one limit."""
    rules = compiled(rule("event.points >= limit", limit=100))
    assert [rules.evaluate([EARN], numbers(rules, event__points=value))[0].rules for value in (99.0, 100.0)] == [
        (),
        (0,),
    ]


def test_types_modes_and_order() -> None:
    """Rules for other types and rules that are off do not fire; what fires comes in the policy's order."""
    rules = compiled(
        rule("true", id="always", types=("earn", "redeem")),
        rule('event.channel == "app"', id="asked"),
        rule("true", id="other_type", types=("redeem",)),
        rule("true", id="switched_off", mode="off"),
        rule("event.points > 1.0", id="bound"),
    )
    fired = rules.evaluate([EARN], numbers(rules, event__points=2.0))[0]
    assert [rules.live[position].rule.id for position in fired.rules] == ["always", "asked", "bound"]


@pytest.mark.parametrize(
    ("expression", "fires"),
    [
        ("account.age_seconds <= 60.0", False),
        ("account.age_seconds > 60.0", False),
        ("!(account.age_seconds > 60.0)", False),
        ("account.age_seconds <= 60.0 || event.points == 10.0", True),
        ("account.age_seconds <= 60.0 || event.points == 11.0", False),
        ("!(account.age_seconds <= 60.0 && event.points == 11.0)", True),
        ("account.age_seconds + 1.0 > 0.0", False),
        ("account.age_seconds > 60.0 ? true : true", False),
        ("int(account.age_seconds) > 3", False),
        ("account.age_seconds == account.age_seconds", False),
        ("account.age_seconds != 5.0", True),
    ],
)
def test_what_is_unknown_does_not_fire(expression: str, fires: bool) -> None:
    """An unknown number makes a comparison neither true nor false, and a rule without an answer does not fire."""
    rules = compiled(rule(expression))
    fired = rules.evaluate([EARN], numbers(rules, account__age_seconds=math.nan, event__points=10.0))[0]
    assert (fired.rules == (0,), fired.errors) == (fires, ())


def test_a_rule_that_fails_is_reported() -> None:
    """An expression that passed the probes and still fails on an event is named; the others go on."""
    rules = compiled(rule("10 / (int(event.points) - 7) > 0", id="fails"), rule("true", id="works"))
    fired = rules.evaluate([EARN], numbers(rules, event__points=7.0))[0]
    assert (fired.rules, fired.errors) == ((1,), ("fails",))


def test_a_failure_is_not_excused_by_an_unknown() -> None:
    """A true error stays one when some other number the rule reads happens to be unknown."""
    rules = compiled(rule("10 / (int(event.points) - 7) > 0 || account.age_seconds > 5.0"))
    fired = rules.evaluate([EARN], numbers(rules, event__points=7.0, account__age_seconds=math.nan))[0]
    assert fired.errors == ("r_1",)


def test_a_failing_shadow_rule_is_not_an_error() -> None:
    """A rule on trial can't hold anybody, not even by failing."""
    rules = compiled(rule("10 / (int(event.points) - 7) > 0", mode="shadow"))
    assert rules.evaluate([EARN], numbers(rules, event__points=7.0))[0].errors == ()


def test_an_empty_batch_and_an_empty_policy() -> None:
    """Nothing in, nothing out."""
    rules = compiled(rule("true"))
    assert rules.evaluate([], numbers(rules)[:0]) == []
    assert [fired.rules for fired in compiled().evaluate([EARN], numbers(compiled()))] == [()]


NAMES = ("event.points", "account.age_seconds", "velocity.device.accounts_7d")
VALUES = st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0, -3.0, 1e300, math.inf, math.nan])
OPERATORS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
CONSTANTS = st.sampled_from(["0", "1", "2", "1.5", "-3", "7.0", "1e3", ".5"])
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(NAMES), OPERATORS, CONSTANTS),
    st.tuples(CONSTANTS, OPERATORS, st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(NAMES), OPERATORS, st.sampled_from(NAMES)),
).map(" ".join)
LEAVES = st.one_of(COMPARISONS, st.sampled_from(["event.has_ip", 'event.store == "s-1"', "!event.has_ip"]))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" && ", " || "]), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"!({text})"),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=5))
def test_masks_agree_with_cel(expression: str, rows: list[tuple[float, float, float]]) -> None:
    """What the batch masks decide is what CEL says, event by event; an error of CEL is 'does not fire'."""
    rules = compiled(rule(expression, shows=NAMES))
    matrix = np.zeros((len(rows), len(rules.columns)))
    for name, column in zip(NAMES, np.array(rows).T, strict=True):
        matrix[:, rules.columns[name]] = column
    got = [fired.rules == (0,) for fired in rules.evaluate([EARN] * len(rows), matrix)]
    assert got == [_cel_says(expression, row) for row in rows]


def _cel_says(expression: str, row: tuple[float, float, float]) -> bool:
    """The oracle: CEL on nested values, as the expression is written."""
    context: dict[str, dict[str, object]] = {"event": {}, "account": {}, "velocity": {"device": {}}}
    for name, value in zip(NAMES, row, strict=True):
        *path, last = name.split(".")
        place: dict[str, object] = context[path[0]]
        for step in path[1:]:
            place = place[step]  # type: ignore[assignment]  # a nested dict by construction
        place[last] = value
    context["event"] |= {"has_ip": EARN.has_ip, "store": EARN.store}
    try:
        return bool(cel.compile(expression).execute(context))
    except TypeError:
        return False


def test_flat_names_are_unique() -> None:
    """No two dotted names share their flat form."""
    assert len({flat(name) for name in EXAMPLES}) == len(set(EXAMPLES))


def test_the_layout_holds_what_live_and_shadow_rules_name() -> None:
    """Names of expressions and of `shows`, and the further inputs; nothing of rules that are off."""
    rules, problems = compile_rules(
        [
            rule("velocity.ip.count_1m > 1.0 && lists.vip == 0.0", id="a", shows=("velocity.device.sum_7d",)),
            rule("velocity.account.count_24h > model.hst", id="b", mode="shadow"),
            rule("velocity.account.count_7d > 1.0", id="c", mode="off"),
        ],
        ["velocity.account.ips_1h"],
    )
    assert problems == []
    assert rules.layout.velocity == (
        "velocity.account.count_24h", "velocity.account.ips_1h", "velocity.device.sum_7d", "velocity.ip.count_1m",
        "velocity.approximate",
    )  # fmt: skip
    assert rules.layout.lists[3:] == ("lists.vip",)
    assert [rules.columns[name] for name in rules.layout.names] == list(range(rules.layout.width))
    assert rules.columns["model.hst"] == rules.layout.width
