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

from detectors.event_types import MOVES, Event
from detectors.features import is_outflow, unpack
from detectors.layout import NORM, Floats, Layout, by_name
from detectors.models import INPUT_NAMES, MODELS, added
from detectors.models_snapshot import Snapshot
from detectors.policy import ModelName, Policy, PolicyRefused, Problem
from detectors.rules import EventFields, Fired, RuleSet, compile_rules

Verdict = Literal["approve", "hold", "reject"]
Outcome = Literal["approve", "hold", "reject", "noted"]
_SEVERITY: dict[str, int] = {"approve": 0, "hold": 1, "reject": 2}
_VERDICTS: tuple[Verdict, ...] = ("approve", "hold", "reject")

VELOCITY_COLD = "velocity_cold"
POINTS_OVER_MAX = "points_over_max"
RULE_ERROR = "rule_error"
SHOWN: Mapping[ModelName, tuple[str, ...]] = {"norm": NORM[:2]}
"""What a model's reason shows besides its number."""
LOG_ODDS_MAX = 700.0
"""Beyond this the score can't be told from 0 or 1, and exp would overflow."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cause of a verdict. `contribution` is in log-odds, 0 where the cause sets a floor instead.

    `value` is what was measured (None: unknown), `limit` what it was compared with, `shown` all named values the text
    mentions. `about` names the rule that failed, for `rule_error`.
    """

    code: str
    kind: Literal["rule", "model", "policy", "ledger"]
    contribution: float = 0.0
    value: float | None = None
    limit: float | None = None
    shown: dict[str, float | None] = {}
    about: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with its reasons, the weightiest first. `shadow` lists rules on trial that would have fired.

    `suspicious` marks what was posted because it had happened already, and should be looked at.
    """

    outcome: Outcome
    score: float
    reasons: tuple[Reason, ...]
    suspicious: bool
    policy_version: int
    model_version: int | None
    shadow: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The first reason's code, or the empty string."""
        return self.reasons[0].code if self.reasons else ""


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
) -> list[Decision]:
    """Decide a batch: `features` has a row an event in the policy's layout; `cold`: velocity lacks its history."""
    layout = policy.layout
    if features.shape != (len(fields), layout.width):
        raise ValueError(f"features of shape {features.shape} for {len(fields)} events of {layout.width} features")
    shares = _shares(fields, features, layout, models)
    numbers = np.concatenate((features, shares), axis=1)
    fired = policy.rules.evaluate(fields, numbers)
    # Most events are common in every model's eyes and fire nothing: only the others cost anything from here on.
    rare = _rare(shares, policy.policy)
    version = models.version if models is not None else None
    plain = _Sum(policy, version, cold)
    return [
        plain.decision(event, what, numbers[row] if what.rules or rare[row] else None)
        for row, (event, what) in enumerate(zip(fields, fired, strict=True))
    ]


def redecide(
    fields: EventFields,
    features: bytes,
    stored: Layout,
    policy: CompiledPolicy,
    models: Snapshot | None,
    cold: bool,  # noqa: FBT001  # velocity's own flag, passed on
) -> Decision:
    """Decide one event again from what is stored with its decision, features under the layout `stored`.

    With the policy and models it was made under the decision is equal to the original, to the last bit; a feature that
    another policy reads and the stored layout lacks is unknown.
    """
    return decide([fields], unpack([features], stored, policy.layout.names), policy, models, cold=cold)[0]


def is_trusted(decision: Decision) -> bool:
    """Whether the models may learn from the event once it has matured: approved, and nothing but models spoke up.

    A model's own opinion does not count. Otherwise it would never learn of the rarest events it is shown, find ever
    more of them rare, and end up knowing only itself.
    """
    spoken = any(reason.kind != "model" for reason in decision.reasons)
    return decision.outcome == "approve" and not decision.suspicious and not spoken


def was_cold(reasons: Sequence[Reason]) -> bool:
    """Whether a stored decision was made on cold velocity: it then says so among its reasons."""
    return any(reason.code == VELOCITY_COLD for reason in reasons)


def _log_odds(chance: float) -> float:
    return math.log(chance / (1.0 - chance))


def _shares(fields: Sequence[EventFields], features: Floats, layout: Layout, models: Snapshot | None) -> Floats:
    if models is None:
        return np.full((len(fields), len(MODELS)), np.nan)
    return models.numbers(by_name(features, layout, INPUT_NAMES), [event.program for event in fields])


def _rare(shares: Floats, policy: Policy) -> list[bool]:
    above = [policy.models[name].above if name in policy.models else 1.0 for name in MODELS]
    rare: list[bool] = np.logical_or.reduce(shares > np.array(above), axis=1).tolist()
    return rare


@dataclass(frozen=True)
class _Sum:
    """Adds up one event: contributions, floors, outcome."""

    policy: CompiledPolicy
    model_version: int | None
    cold: bool

    def decision(self, event: EventFields, fired: Fired, numbers: Floats | None) -> Decision:
        """`numbers` is the event's row of values, None where nothing fired and no model finds it rare."""
        moves = event.type in MOVES
        reasons: list[Reason] = []
        floor = self._policy_floor(event, fired, reasons) if moves or fired.errors else 0
        total = self.policy.policy.base
        shadow: tuple[str, ...] = ()
        if numbers is not None:
            floor = max(floor, self._rules(fired, numbers, reasons))
            self._models(numbers, reasons)
            for reason in reasons:
                total += reason.contribution
            shadow = self._shadow(fired)
        severity = max(floor, (total >= self.policy.hold) + (total >= self.policy.reject))
        outcome, suspicious = _outcome(event, severity)
        return Decision(
            outcome=outcome,
            score=1.0 / (1.0 + math.exp(-max(-LOG_ODDS_MAX, min(total, LOG_ODDS_MAX)))),
            reasons=tuple(sorted(reasons, key=_rank)) if len(reasons) > 1 else tuple(reasons),
            suspicious=suspicious,
            policy_version=self.policy.policy.version,
            model_version=self.model_version,
            shadow=shadow,
        )

    def _policy_floor(self, event: EventFields, fired: Fired, reasons: list[Reason]) -> int:
        """Reasons of the policy itself, and the verdict below which the event can't come (as a severity)."""
        policy, floor = self.policy.policy, 0
        for rule_id in fired.errors:
            reasons.append(Reason(code=RULE_ERROR, kind="policy", about=rule_id))
            floor = 1
        if abs(event.points) > policy.max_points:
            reasons.append(_amount(POINTS_OVER_MAX, event.points, policy.max_points))
            floor = 1
        if self.cold:
            reasons.append(_amount(VELOCITY_COLD, event.points, policy.cold_limit_points))
            if event.outflow or abs(event.points) > policy.cold_limit_points:
                floor = 1
        return floor

    def _rules(self, fired: Fired, numbers: Floats, reasons: list[Reason]) -> int:
        floor = 0
        for position in fired.rules:
            rule = self.policy.rules.live[position].rule
            weight = rule.weight or 0.0
            # On cold velocity nothing is known well enough to speak for an event.
            if rule.mode != "live" or (self.cold and weight < 0.0):
                continue
            floor = max(floor, _SEVERITY[rule.outcome] if rule.outcome else 0)
            shown = {name: _known(numbers[self.policy.rules.columns[name]]) for name in rule.shows}
            value = shown[rule.shows[0]] if rule.shows else None
            reasons.append(
                Reason(code=rule.id, kind="rule", contribution=weight, value=value, limit=rule.limit, shown=shown)
            )
        return floor

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

    def _shadow(self, fired: Fired) -> tuple[str, ...]:
        live = self.policy.rules.live
        return tuple(live[position].rule.id for position in fired.rules if live[position].rule.mode == "shadow")


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
