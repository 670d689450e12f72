"""The rules of a policy over a batch: which fired, which could not be evaluated.

A number that is unknown (NaN) makes a comparison unknown, neither true nor false; `&&`, `||` and `!` treat unknown as
CEL treats an error (`false && unknown` is false, `true || unknown` is true), and a rule whose answer is unknown does
not fire. Two exceptions come from CEL itself: an unknown equals nothing (`==` is false) and differs from everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cel
import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.expression import (
    Bound,
    Expression,
    ExpressionRefused,
    columns_of,
    flat,
    is_name,
    is_number,
    near,
    parse,
)
from detectors.layout import Floats, Layout, is_feature, layout_of
from detectors.policy import PLACEHOLDER, TYPES, Problem, Rule

TYPE_CODE: dict[str, int] = {name: code for code, name in enumerate(TYPES)}


class EventFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a decision needs of an event besides its features; stored with the decision. Nothing here is personal.

    `points` is signed for an adjust, else positive; `outflow` says that points leave the account.
    """

    type: str
    program: str
    points: int = 0
    outflow: bool = False
    fulfilled: bool = False
    has_device: bool = False
    has_ip: bool = False
    store: str = ""
    channel: str = ""
    campaign: str = ""


@dataclass(frozen=True)
class LiveRule:
    """A rule, its expression with the bound for the policy's layout, and by type code whether it looks at that type."""

    rule: Rule
    expression: Expression
    bound: Bound
    applies: NDArray[np.bool_]


@dataclass(frozen=True)
class Fired:
    """What the rules said of one event: positions in `RuleSet.live` that fired, and ids that could not be evaluated."""

    rules: tuple[int, ...] = ()
    errors: tuple[str, ...] = ()


NOTHING = Fired()


@dataclass(frozen=True)
class RuleSet:
    """The live and shadow rules of a policy, compiled for its layout; evaluates a whole batch.

    `columns` tells where each number stands: the layout's features, then the models' shares.
    """

    live: tuple[LiveRule, ...]
    layout: Layout
    columns: Mapping[str, int]

    def evaluate(self, fields: Sequence[EventFields], numbers: Floats) -> list[Fired]:
        """What fired, one element an event; `numbers` is float64[n, len(columns)]: features, then model shares."""
        codes = np.fromiter((TYPE_CODE[event.type] for event in fields), dtype=np.intp, count=len(fields))
        fired: dict[int, list[int]] = {}
        asked: dict[int, list[int]] = {}
        for position, live in enumerate(self.live):
            mask = live.applies[codes] & live.bound(numbers)
            into = fired if live.expression.exact else asked
            for row in np.flatnonzero(mask).tolist():
                into.setdefault(row, []).append(position)
        errors: dict[int, tuple[str, ...]] = {}
        for row, positions in asked.items():
            yes, failed = self._ask(positions, fields[row], numbers[row])
            fired.setdefault(row, []).extend(yes)
            errors[row] = failed
        if not fired:
            return [NOTHING] * len(fields)
        return [
            Fired(tuple(sorted(fired[row])), errors.get(row, ())) if row in fired else NOTHING
            for row in range(len(fields))
        ]

    def _ask(self, positions: list[int], fields: EventFields, numbers: Floats) -> tuple[list[int], tuple[str, ...]]:
        """Let CEL decide for one event: a context with just the names these rules read, built once."""
        names = {name for position in positions for name in self.live[position].expression.names}
        values = self._values(names, fields, numbers)
        context = cel.Context(variables=values)
        yes: list[int] = []
        failed: list[str] = []
        for position in positions:
            live = self.live[position]
            try:
                if live.expression.execute(context):
                    yes.append(position)
            except Exception:  # noqa: BLE001  # CEL raises many kinds; any of them means held, never approved
                if live.rule.mode == "live" and not _is_unknown(live.expression, values):
                    failed.append(live.rule.id)
        return yes, tuple(failed)

    def _values(self, names: set[str], fields: EventFields, numbers: Floats) -> dict[str, object]:
        """The CEL variables for `names`, under their flat form."""
        columns = self.columns
        return {
            flat(name): float(numbers[columns[name]])
            if name in columns
            else getattr(fields, name.removeprefix("event."))
            for name in names
        }


def _is_unknown(expression: Expression, values: dict[str, object]) -> bool:
    """True if the failure came from an unknown number: with a known value in its place the expression has an answer."""
    unknown = [name for name in map(flat, expression.names) if values[name] != values[name]]
    if not unknown:
        return False
    try:
        expression.execute(values | dict.fromkeys(unknown, 1.0))
    except Exception:  # noqa: BLE001  # as above: still failing means a true error
        return False
    return True


def compile_rules(rules: Sequence[Rule], inputs: Iterable[str] = ()) -> tuple[RuleSet, list[Problem]]:
    """Compile all rules (also those off: a policy with a broken rule is refused whole) and list what is wrong.

    The layout holds what live and shadow rules name, and `inputs`.
    """
    used: list[tuple[Rule, Expression]] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for position, rule in enumerate(rules):
        path = f"rules[{position}]"
        problems += _check(rule, path, seen)
        seen.add(rule.id)
        try:
            expression = parse(rule.expression, rule.limit)
        except ExpressionRefused as refused:
            problems.append(Problem(f"{path}.expression", refused.error, refused.detail, rule.id))
            continue
        if rule.mode != "off":
            used.append((rule, expression))
    layout = _layout(used, inputs)
    columns = columns_of(layout)
    live = [LiveRule(rule, expression, expression.bound(columns), _applies(rule)) for rule, expression in used]
    return RuleSet(tuple(live), layout, columns), problems


def _layout(used: Sequence[tuple[Rule, Expression]], inputs: Iterable[str]) -> Layout:
    named = set(inputs)
    for rule, expression in used:
        named.update(expression.names, rule.shows)
    return layout_of(name for name in named if is_feature(name))


def _applies(rule: Rule) -> NDArray[np.bool_]:
    return np.array([name in rule.types for name in TYPES], dtype=np.bool_)


def _check(rule: Rule, path: str, seen: set[str]) -> list[Problem]:
    problems = []
    if rule.id in seen:
        problems.append(Problem(f"{path}.id", "duplicate_rule", "give every rule an id of its own", rule.id))
    if (rule.weight is None) == (rule.outcome is None):
        detail = "give either a weight (adds to the score) or an outcome (a floor), not both and not neither"
        problems.append(Problem(path, "weight_or_outcome", detail, rule.id))
    for name in rule.shows:
        if not is_name(name):
            problems.append(Problem(f"{path}.shows", "unknown_name", f"{name!r}: {near(name)}", rule.id))
        elif not is_number(name):
            detail = f"{name!r} is not a number: a reason shows numbers"
            problems.append(Problem(f"{path}.shows", "wrong_type", detail, rule.id))
    known = {"value", "limit", *rule.shows}
    for language, text in (("en", rule.reason.en), ("zh", rule.reason.zh)):
        unknown = [name for name, _ in PLACEHOLDER.findall(text) if name not in known]
        if unknown or set("{}") & set(PLACEHOLDER.sub("", text)):
            detail = "use {value}, {limit} or {a name under shows}, with |duration or |percent inside if need be"
            problems.append(Problem(f"{path}.reason.{language}", "bad_placeholder", detail, rule.id))
    return problems
