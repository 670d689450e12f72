"""The verdict: what fired and how rare the models find an event, added up, compared with the policy's thresholds.

Pure and exact: a decision depends on the event's fields, its features, whether velocity was cold, the policy and the
model snapshot, all of which are stored, so `redecide` gives the same decision again. Nothing fails open: whatever can't
be evaluated is held (or, if it has happened already, marked suspicious).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from detectors.aside import EFFECTLESS, NONE, NOTHING_ASIDE, Aside, set_aside
from detectors.event_types import MOVES, Event
from detectors.features import is_outflow, unpack
from detectors.layout import LISTS, NORM, Floats, Layout, by_name
from detectors.models import INPUT_NAMES, MODELS, added
from detectors.models_snapshot import Snapshot
from detectors.policy import ModelName, Policy, PolicyRefused, Problem, Rule
from detectors.rules import EventFields, Fired, RuleSet, compile_rules

Verdict = Literal["approve", "hold", "reject"]
Outcome = Literal["approve", "hold", "reject", "noted"]
_SEVERITY: dict[str, int] = {"approve": 0, "hold": 1, "reject": 2}
_VERDICTS: tuple[Verdict, ...] = ("approve", "hold", "reject")

UNHEARD = frozenset({"shadow", "model"})
"""Kinds of reasons that do not keep an event from teaching the models."""
VELOCITY_COLD = "velocity_cold"
POINTS_OVER_MAX = "points_over_max"
RULE_ERROR = "rule_error"
LIST_ALLOW, LIST_BLOCK, LIST_FINAL, LIST_WATCH = "list_allow", "list_block", "list_final", "list_watch"
SHOWN: Mapping[ModelName, tuple[str, ...]] = {"norm": NORM[:2]}
"""What a model's reason shows besides its number."""
LOG_ODDS_MAX = 700.0
"""Beyond this the score can't be told from 0 or 1, and exp would overflow."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cause of a verdict. `contribution` is in log-odds, 0 where the cause sets a floor instead.

    Of the kinds, `shadow` (a rule on trial, or one that was paused, fired) and `snoozed` (it fired on an entity that it
    is silenced for) had no effect, and stand behind all others. `value` is what was measured (None: unknown), `limit`
    what it was compared with, `shown` all named values the text mentions. `about` names the rule that failed, for
    `rule_error`.
    """

    code: str
    kind: Literal["rule", "model", "policy", "list", "ledger", "shadow", "snoozed"]
    contribution: float = 0.0
    value: float | None = None
    limit: float | None = None
    shown: dict[str, float | None] = {}
    about: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with its reasons, the weightiest first, and behind them what fired without effect.

    `suspicious` marks what was posted because it had happened already, and should be looked at.
    """

    outcome: Outcome
    score: float
    reasons: tuple[Reason, ...]
    suspicious: bool
    policy_version: int
    model_version: int | None

    @property
    def code(self) -> str:
        """The code of the weightiest reason that had an effect, or the empty string."""
        return next((reason.code for reason in self.reasons if reason.kind not in EFFECTLESS), "")

    @property
    def shadow(self) -> tuple[str, ...]:
        """Rules on trial or paused that fired."""
        return tuple(reason.code for reason in self.reasons if reason.kind == "shadow")

    @property
    def snoozed(self) -> tuple[str, ...]:
        """Rules that fired and were silenced for an entity of the event."""
        return tuple(reason.code for reason in self.reasons if reason.kind == "snoozed")


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy ready to decide: its rules compiled, its thresholds in log-odds."""

    policy: Policy
    rules: RuleSet
    hold: float
    reject: float

    @property
    def layout(self) -> Layout:
        """The features that its rules and the models read, as the matrices it decides on have them."""
        return self.rules.layout


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Check the whole policy and compile its rules. Raises PolicyRefused with every problem found."""
    rules, problems = compile_rules(policy.rules, INPUT_NAMES)
    hold, reject = _log_odds(policy.thresholds.hold), _log_odds(policy.thresholds.reject)
    if not policy.base < hold < reject:
        detail = "the base must lie below the hold threshold, and that below the reject threshold"
        problems.append(Problem("thresholds", "wrong_order", detail))
    most = policy.base + sum(term.cap for term in policy.models.values())
    if most >= reject:
        detail = f"base and caps add up to {most:.2f}, not below {reject:.2f}: a model alone must not reject"
        problems.append(Problem("models", "model_can_reject", detail))
    problems += [
        Problem(f"holds.{kind}", "unsafe_timeout", "an outflow can't be posted because time passed: void or escalate")
        for kind, term in policy.holds.items()
        if kind != "earn" and term.on_timeout == "post"
    ]
    missing = sorted({"earn", "redeem", "transfer", "adjust"} - set(policy.holds))
    if missing:
        problems.append(Problem("holds", "missing", f"say what a hold means for {', '.join(missing)}"))
    if problems:
        raise PolicyRefused(problems)
    return CompiledPolicy(policy, rules, hold, reject)


def fields_of(event: Event) -> EventFields:
    """The part of an event that decisions read."""
    points = getattr(event, "points", None) or 0
    return EventFields(
        type=event.type,
        program=event.program,
        account=event.account,
        points=points,
        outflow=is_outflow(event),
        fulfilled=getattr(event, "fulfilled", False),
        has_device=event.device is not None,
        has_ip=event.ip is not None,
        store=event.store or "",
        channel=event.channel or "",
        campaign=event.campaign or "",
    )


def decide(
    fields: Sequence[EventFields],
    features: Floats,
    policy: CompiledPolicy,
    models: Snapshot | None,
    cold: bool,  # noqa: FBT001  # velocity's own flag, passed on
    aside: Aside = NOTHING_ASIDE,
) -> list[Decision]:
    """Decide a batch: `features` has a row an event in the policy's layout; `cold`: velocity lacks its history.

    `aside` names the rules that are silent now; which of them would have spoken is told in the reasons.
    """
    layout = policy.layout
    if features.shape != (len(fields), layout.width):
        raise ValueError(f"features of shape {features.shape} for {len(fields)} events of {layout.width} features")
    shares = _shares(fields, features, layout, models)
    numbers = np.concatenate((features, shares), axis=1)
    fired = policy.rules.evaluate(fields, numbers)
    # Most events are common in every model's eyes and fire nothing: only the others cost anything from here on.
    telling = _telling(features, shares, policy)
    version = models.version if models is not None else None
    plain = _Sum(policy, version, cold, aside.paused)
    snoozed = aside.snoozed
    return [
        plain.decision(
            event,
            what,
            numbers[row] if what.rules or telling[row] else None,
            snoozed.get(row, NONE) if snoozed else NONE,
        )
        for row, (event, what) in enumerate(zip(fields, fired, strict=True))
    ]


def redecide(
    fields: EventFields,
    features: bytes,
    stored: Layout,
    policy: CompiledPolicy,
    models: Snapshot | None,
    reasons: Sequence[Reason],
) -> Decision:
    """Decide one event again from what is stored with its decision, features under the layout `stored`.

    The stored `reasons` tell whether velocity was cold, and which rules were silent. With the policy and models it was
    made under the decision is equal to the original, to the last bit; a feature that another policy reads and the
    stored layout lacks is unknown.
    """
    row = unpack([features], stored, policy.layout.names)
    return decide([fields], row, policy, models, was_cold(reasons), set_aside(reasons))[0]


def is_trusted(decision: Decision) -> bool:
    """Whether the models may learn from the event once it has matured: approved, and nothing but models spoke up.

    A model's own opinion does not count. Otherwise it would never learn of the rarest events it is shown, find ever
    more of them rare, and end up knowing only itself.
    """
    spoken = any(reason.kind not in UNHEARD for reason in decision.reasons)
    return decision.outcome == "approve" and not decision.suspicious and not spoken


def was_cold(reasons: Sequence[Reason]) -> bool:
    """Whether a stored decision was made on cold velocity: the policy then says so among its reasons."""
    return any(reason.code == VELOCITY_COLD and reason.kind == "policy" for reason in reasons)


def _log_odds(chance: float) -> float:
    return math.log(chance / (1.0 - chance))


def _shares(fields: Sequence[EventFields], features: Floats, layout: Layout, models: Snapshot | None) -> Floats:
    if models is None:
        return np.full((len(fields), len(MODELS)), np.nan)
    return models.numbers(by_name(features, layout, INPUT_NAMES), [event.program for event in fields])


def _telling(features: Floats, shares: Floats, policy: CompiledPolicy) -> list[bool]:
    """Which events some model finds rare, or stand on a list."""
    models = policy.policy.models
    above = [models[name].above if name in models else 1.0 for name in MODELS]
    first = policy.layout.index[LISTS[0]]
    rare = np.logical_or.reduce(shares > np.array(above), axis=1)
    listed = np.logical_or.reduce(features[:, first : first + len(LISTS)] > 0.0, axis=1)
    telling: list[bool] = (rare | listed).tolist()
    return telling


@dataclass(frozen=True)
class _Sum:
    """Adds up one event: contributions, floors, outcome."""

    policy: CompiledPolicy
    model_version: int | None
    cold: bool
    paused: frozenset[str]

    def decision(
        self, event: EventFields, fired: Fired, numbers: Floats | None, snoozed: frozenset[str] = NONE
    ) -> Decision:
        """`numbers` is the event's row of values, None where nothing fired and no model finds it rare."""
        moves = event.type in MOVES
        reasons: list[Reason] = []
        without: list[Reason] = []
        floor = self._policy_floor(event, reasons) if moves else 0
        for rule_id in fired.errors:
            floor = max(floor, self._failed(rule_id, snoozed, reasons, without))
        total = self.policy.policy.base
        if numbers is not None:
            floor = max(floor, self._rules(fired, numbers, snoozed, (reasons, without)))
            self._models(numbers, reasons)
            floor = max(floor, self._lists(numbers, reasons))
            for reason in reasons:
                total += reason.contribution
        severity = max(floor, (total >= self.policy.hold) + (total >= self.policy.reject))
        outcome, suspicious = _outcome(event, severity)
        ranked = sorted(reasons, key=_rank) if len(reasons) > 1 else reasons
        return Decision(
            outcome=outcome,
            score=1.0 / (1.0 + math.exp(-max(-LOG_ODDS_MAX, min(total, LOG_ODDS_MAX)))),
            reasons=(*ranked, *without),
            suspicious=suspicious,
            policy_version=self.policy.policy.version,
            model_version=self.model_version,
        )

    def _policy_floor(self, event: EventFields, reasons: list[Reason]) -> int:
        """Reasons of the policy itself, and the verdict below which the event can't come (as a severity)."""
        policy, floor = self.policy.policy, 0
        if abs(event.points) > policy.max_points:
            reasons.append(_amount(POINTS_OVER_MAX, event.points, policy.max_points))
            floor = 1
        if self.cold:
            reasons.append(_amount(VELOCITY_COLD, event.points, policy.cold_limit_points))
            if event.outflow or abs(event.points) > policy.cold_limit_points:
                floor = 1
        return floor

    def _failed(self, rule_id: str, snoozed: frozenset[str], reasons: list[Reason], without: list[Reason]) -> int:
        """A live rule could not be evaluated: a hold, unless the rule has no effect here anyway."""
        if rule_id in snoozed:
            without.append(Reason(code=rule_id, kind="snoozed"))
        elif rule_id in self.paused:
            without.append(Reason(code=rule_id, kind="shadow"))
        else:
            reasons.append(Reason(code=RULE_ERROR, kind="policy", about=rule_id))
            return 1
        return 0

    def _rules(
        self, fired: Fired, numbers: Floats, snoozed: frozenset[str], into: tuple[list[Reason], list[Reason]]
    ) -> int:
        """The floor that fired rules set; what they say goes into the first list, without effect into the second."""
        reasons, without = into
        floor = 0
        for position in fired.rules:
            rule = self.policy.rules.live[position].rule
            shown = {name: _known(numbers[self.policy.rules.columns[name]]) for name in rule.shows}
            value = shown[rule.shows[0]] if rule.shows else None
            weight = rule.weight or 0.0
            kind = self._kind(rule, snoozed)
            if kind != "rule":
                without.append(Reason(code=rule.id, kind=kind, value=value, limit=rule.limit, shown=shown))
            # On cold velocity nothing is known well enough to speak for an event.
            elif not (self.cold and weight < 0.0):
                floor = max(floor, _SEVERITY[rule.outcome] if rule.outcome else 0)
                reasons.append(
                    Reason(code=rule.id, kind="rule", contribution=weight, value=value, limit=rule.limit, shown=shown)
                )
        return floor

    def _kind(self, rule: Rule, snoozed: frozenset[str]) -> Literal["rule", "shadow", "snoozed"]:
        """Whether what the rule says counts."""
        if rule.mode == "shadow" or rule.id in self.paused:
            return "shadow"
        return "snoozed" if rule.id in snoozed else "rule"

    def _models(self, numbers: Floats, reasons: list[Reason]) -> None:
        for position, name in enumerate(MODELS):
            term = self.policy.policy.models.get(name)
            number = float(numbers[self.policy.layout.width + position])
            if term is not None and (adds := added(name, number, term)) > 0.0:
                shown = {each: _known(numbers[self.policy.rules.columns[each]]) for each in SHOWN.get(name, ())}
                code = f"model_{name}"
                reasons.append(
                    Reason(code=code, kind="model", contribution=adds, value=number, limit=term.above, shown=shown)
                )

    def _lists(self, numbers: Floats, reasons: list[Reason]) -> int:
        """The floor that lists set. An allow-list takes back what speaks against the event so far, but no floor.

        A final block is above an allow-list, and that above an ordinary block.
        """
        first, terms = self.policy.layout.index[LISTS[0]], self.policy.policy.lists
        allow, block, final, watch = numbers[first : first + len(LISTS)].tolist()
        if watch > 0.0:
            reasons.append(Reason(code=LIST_WATCH, kind="list", contribution=terms.watch, value=watch))
        if final > 0.0:
            reasons.append(Reason(code=LIST_FINAL, kind="list", value=final))
            return _SEVERITY[terms.final]
        if allow > 0.0:
            against = sum(reason.contribution for reason in reasons if reason.contribution > 0.0)
            reasons.append(Reason(code=LIST_ALLOW, kind="list", contribution=0.0 - against, value=allow))
            return 0
        if block > 0.0:
            reasons.append(Reason(code=LIST_BLOCK, kind="list", value=block))
            return _SEVERITY[terms.block]
        return 0


def _amount(code: str, points: int, limit: int) -> Reason:
    return Reason(code=code, kind="policy", value=float(abs(points)), limit=float(limit))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _outcome(event: EventFields, severity: int) -> tuple[Outcome, bool]:
    """What is recorded, and whether it is suspicious: only requests and inflows can be stopped."""
    if event.type not in MOVES:
        return "noted", severity > 0
    if event.type == "reverse" or (event.outflow and event.fulfilled):
        return "approve", severity > 0
    return _VERDICTS[severity], False


def _rank(reason: Reason) -> tuple[bool, float, str]:
    """Floors first, then by what they add."""
    return (reason.contribution != 0.0, -reason.contribution, reason.code)
