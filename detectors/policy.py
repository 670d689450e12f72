"""The policy as values: rules, thresholds, model terms and what a hold means."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from detectors.event_types import EVENT_TYPES

Code = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{1,62}$")]
Moving = Literal["earn", "redeem", "transfer", "adjust", "reverse"]
ModelName = Literal["hst", "loda", "isolation", "tails", "norm", "forest"]
HeldType = Literal["earn", "redeem", "transfer", "adjust"]
Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Chance = Annotated[float, Meta(gt=0.0, lt=1.0)]
Points = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Seconds = Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Percent = Annotated[float, Meta(ge=0.0, le=100.0)]
Floor = Literal["hold", "reject"]

PLACEHOLDER = re.compile(r"\{([a-z0-9_.]+)(?:\|(duration|percent|times))?\}")
"""`{name}`, `{name|duration}`, `{name|percent}` or `{name|times}` in a reason's text."""
TYPES: tuple[str, ...] = tuple(EVENT_TYPES)


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a policy have in common: frozen, and an unknown field is an error."""


class Text(Value, frozen=True, kw_only=True):
    """One sentence in both languages.

    `{value}`, `{limit}` and names under `shows` are filled in, also as `{value|duration}`, `{value|percent}` and
    `{value|times}` (one decimal).
    """

    en: Annotated[str, Meta(min_length=1, max_length=300)]
    zh: Annotated[str, Meta(min_length=1, max_length=300)]


class Rule(Value, frozen=True, kw_only=True):
    """One CEL rule. It adds `weight` log-odds when it fires, or sets a floor under the verdict with `outcome`.

    `limit` may be used in the expression under that name, so that the reason and the rule cannot disagree.
    `shows` lists the names whose values go into the reason, the main one first. `programs` and `stores` narrow where
    it looks (empty: everywhere), `rollout` to a share of the accounts, in per cent: always the same ones of a rule, and
    more of them as it grows.
    """

    id: Code
    expression: Annotated[str, Meta(min_length=1, max_length=2_000)]
    reason: Text
    types: Annotated[tuple[Moving, ...], Meta(min_length=1)] = ("earn", "redeem", "transfer", "adjust")
    weight: Annotated[float, Meta(ge=-20.0, le=20.0)] | None = None
    outcome: Floor | None = None
    programs: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    stores: Annotated[tuple[Name, ...], Meta(max_length=500)] = ()
    rollout: Percent = 100.0
    mode: Literal["off", "shadow", "live"] = "live"
    shows: Annotated[tuple[str, ...], Meta(max_length=8)] = ()
    limit: Finite | None = None


class Thresholds(Value, frozen=True, kw_only=True):
    """Scores (0 to 1) from which an event is held, and from which it is rejected."""

    hold: Chance
    reject: Chance


class ModelTerm(Value, frozen=True, kw_only=True):
    """What a model may add: nothing up to `above`, then more the rarer or likelier, at most `cap` log-odds.

    `above` is a share of the programme's events; for the supervised model it is a chance of fraud.
    """

    cap: Annotated[float, Meta(ge=0.0, le=20.0)]
    above: Annotated[float, Meta(gt=0.0, lt=0.999)] = 0.95


class HoldTerm(Value, frozen=True, kw_only=True):
    """How long a hold may wait (null: for ever), and what the policy decides when the time is over."""

    due_seconds: Seconds | None = None
    on_timeout: Literal["void", "post", "escalate"] = "escalate"


class Training(Value, frozen=True, kw_only=True):
    """When an event nobody objected to counts as good, and the share of such events that is learned from."""

    maturity_seconds: Seconds = 7 * 86_400
    share: Share = 1.0


class Sharing(Value, frozen=True, kw_only=True):
    """When sharing one device, address, payment token or referrer links accounts, and when it means nothing.

    Two accounts are linked if they were first seen with it within `window_days` of each other. It is a *hub* (an
    office, a campus, a carrier's NAT), and links nobody, once more than `accounts` were first seen with it within such
    a window, or more than `total` ever.
    """

    accounts: Annotated[int, Meta(ge=1, le=200)]
    window_days: Annotated[int, Meta(ge=1, le=366)]
    total: Annotated[int, Meta(ge=1, le=200)]


class Links(Value, frozen=True, kw_only=True):
    """What links accounts, kind by kind, and for how many days after its sign-up an account counts as fresh.

    A device or a payment token is somebody's own, so many may share it before it counts as a hub. Addresses and
    referrers are shared by strangers: alone they never link more accounts than a family has.
    """

    device: Sharing = Sharing(accounts=50, window_days=90, total=100)
    payment: Sharing = Sharing(accounts=50, window_days=90, total=100)
    ip: Sharing = Sharing(accounts=4, window_days=1, total=8)
    referrer: Sharing = Sharing(accounts=4, window_days=30, total=20)
    fresh_days: Annotated[int, Meta(ge=1, le=366)] = 90


class ListTerms(Value, frozen=True, kw_only=True):
    """What lists do: the floor of an ordinary `block` (an allow-list lifts it), of one that is `final` (nothing does).

    `watch` is the log-odds that standing on a watch-list adds.
    """

    block: Floor = "reject"
    final: Floor = "reject"
    watch: Annotated[float, Meta(ge=0.0, le=20.0)] = 1.0


class Breaker(Value, frozen=True, kw_only=True):
    """When a live rule is paused by itself: it fires on more than `times` the share of events that is expected of it.

    Expected is what its backtest found, else its own long-run share. Below the share `above` nothing is paused; a rule
    of which nothing is known is paused beyond the share `unknown`. The last `window` events count, at least `events`.
    """

    times: Annotated[float, Meta(ge=1.5, le=1_000.0)] = 5.0
    above: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.02
    unknown: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.25
    events: Annotated[int, Meta(ge=100, le=1_000_000)] = 1_000
    window: Annotated[int, Meta(ge=100, le=10_000_000)] = 20_000


class Policy(Value, frozen=True, kw_only=True):
    """Everything a verdict depends on besides the event, its features and the models."""

    version: Annotated[int, Meta(ge=1)]
    base: Annotated[float, Meta(ge=-20.0, le=0.0)]
    thresholds: Thresholds
    rules: Annotated[tuple[Rule, ...], Meta(max_length=200)]
    models: dict[ModelName, ModelTerm] = {}
    cold_limit_points: Points
    max_points: Points
    holds: dict[HeldType, HoldTerm]
    training: Training = Training()
    links: Links = Links()
    lists: ListTerms = ListTerms()
    breaker: Breaker = Breaker()

    def without(self, rule_id: str) -> "Policy":
        """The same policy with one rule off, to see what that rule decides. KeyError if there is no such rule."""
        if rule_id not in {rule.id for rule in self.rules}:
            raise KeyError(rule_id)
        off = tuple(msgspec.structs.replace(rule, mode="off") if rule.id == rule_id else rule for rule in self.rules)
        return msgspec.structs.replace(self, rules=off)


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a policy: where (`path`, and the rule if any), a short name, and what to do about it.

    `at` is the place inside an expression, in characters from 0; `line` and `column` (from 1) are where in the document
    it stands, once whoever read the document has filled them in.
    """

    path: str
    error: str
    detail: str
    rule: str | None = None
    at: int | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = f"rule {self.rule}, {self.path}" if self.rule else self.path
        where = f"line {self.line}, column {self.column}: " if self.line is not None else ""
        return f"{where}{place}: {self.error}: {self.detail}"


class PolicyRefused(Exception):
    """The policy can't be used; `problems` says why and what to change. The policy in force stays."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("policy refused:\n" + "\n".join(f"  {problem}" for problem in self.problems))
