"""The parts of the per-event programs that the pipeline is compared with, as people write them.

They compute what PointGuard computes (the same velocity counters, rules and models, a double entry and a decision row)
one event at a time, with each library used in its ordinary way: sorted sets in Redis, one CEL context an event, River's
own `score_one` and `learn_one`, SQLAlchemy's ORM. What a program reads from its database comes in as an argument.
"""

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

import cel
import redis
from river import anomaly, stats
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from detectors.models import INPUTS
from detectors.models_learned import ModelParams
from detectors.policy import Policy

WINDOWS_MS: Final = {"1m": 60_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}
DISTINCT: Final = {"account": ("devices", "ips", "peers"), "device": ("accounts",), "ip": ("accounts",)}
LONG_AGO: Final = 1e9
KEEP_SECONDS: Final = WINDOWS_MS["7d"] // 1000

Body = dict[str, Any]
Features = dict[str, float]


class Base(DeclarativeBase):
    """The tables of the naive programs, apart from PointGuard's own."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {int: BigInteger, dict[str, Any]: JSON, list[Any]: JSON}


class Member(Base):
    """A member and the balance."""

    __tablename__ = "naive_member"
    __table_args__ = (UniqueConstraint("program", "name"),)

    member_id: Mapped[int] = mapped_column(primary_key=True)
    program: Mapped[str]
    name: Mapped[str]
    balance: Mapped[int] = mapped_column(default=0)
    opened_ms: Mapped[int]
    signed_up_ms: Mapped[int | None]


class Posting(Base):
    """A transaction of the ledger, or a hold while `pending`."""

    __tablename__ = "naive_posting"

    posting_id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    amount: Mapped[int]
    pending: Mapped[bool]


class Leg(Base):
    """One of the two sides of a posting."""

    __tablename__ = "naive_leg"

    leg_id: Mapped[int] = mapped_column(primary_key=True)
    posting_id: Mapped[int] = mapped_column(ForeignKey("naive_posting.posting_id"))
    account: Mapped[str]
    amount: Mapped[int]


class Verdict(Base):
    """A decision with what it was made from; `part` and `offset` let the benchmark see what is done."""

    __tablename__ = "naive_verdict"
    __table_args__ = (UniqueConstraint("source", "event_id"), Index("naive_verdict_place", "part", "offset"))

    verdict_id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    event_id: Mapped[str]
    part: Mapped[int]
    offset: Mapped[int]
    posting_id: Mapped[int | None]
    outcome: Mapped[str]
    score: Mapped[float]
    features: Mapped[dict[str, Any]]
    reasons: Mapped[list[Any]]


def occurred_ms(body: Body) -> int:
    """When the event happened, in Unix milliseconds."""
    return int(datetime.fromisoformat(body["occurred_at"]).timestamp() * 1000)


def _entities(body: Body) -> dict[str, str]:
    return {kind: body[kind] for kind in DISTINCT if body.get(kind)}


def _counterpart(body: Body, aggregate: str) -> str | None:
    field = {"devices": "device", "ips": "ip", "peers": "to", "accounts": "account"}[aggregate]
    value: str | None = body.get(field)
    return value


def count_one_by_one(client: redis.Redis, body: Body, now_ms: int) -> Features:
    """The velocity features, one Redis call a counter, then the event is added to the sets it belongs to."""
    features: Features = {}
    for kind, name in _entities(body).items():
        key = f"naive:{body['program']}:{kind}:{name}"
        for window, length in WINDOWS_MS.items():
            since = now_ms - length
            features[f"velocity.{kind}.count_{window}"] = float(client.zcount(key, since, now_ms))
            members: list[Any] = client.zrangebyscore(key, since, now_ms)
            features[f"velocity.{kind}.sum_{window}"] = float(sum(int(one.rpartition("|")[2]) for one in members))
            for aggregate in DISTINCT[kind]:
                seen = client.zcount(f"{key}:{aggregate}", since, now_ms)
                features[f"velocity.{kind}.{aggregate}_{window}"] = float(seen)
        client.zadd(key, {f"{body['id']}|{body.get('points', 0)}": now_ms})
        client.expire(key, KEEP_SECONDS)
        for aggregate in DISTINCT[kind]:
            if other := _counterpart(body, aggregate):
                client.zadd(f"{key}:{aggregate}", {other: now_ms})
                client.expire(f"{key}:{aggregate}", KEEP_SECONDS)
    return features


def count_in_one_trip(client: redis.Redis, body: Body, now_ms: int) -> Features:
    """The same features from one pipelined round trip: the members of the widest window, counted here."""
    entities = _entities(body)
    since = now_ms - WINDOWS_MS["7d"]
    with client.pipeline(transaction=False) as pipe:
        for kind, name in entities.items():
            key = f"naive:{body['program']}:{kind}:{name}"
            others = "|".join(_counterpart(body, aggregate) or "" for aggregate in DISTINCT[kind])
            pipe.zrangebyscore(key, since, now_ms, withscores=True)
            pipe.zadd(key, {f"{body['id']}|{others}|{body.get('points', 0)}": now_ms})
            pipe.expire(key, KEEP_SECONDS)
        answers = pipe.execute()[::3]
    features: Features = {}
    for kind, members in zip(entities, answers, strict=True):
        rows = [(at, *member.split("|")[1:]) for member, at in members]
        for window, length in WINDOWS_MS.items():
            inside = [row for row in rows if row[0] >= now_ms - length]
            features[f"velocity.{kind}.count_{window}"] = float(len(inside))
            features[f"velocity.{kind}.sum_{window}"] = float(sum(int(row[-1]) for row in inside))
            for column, aggregate in enumerate(DISTINCT[kind], start=1):
                distinct = {row[column] for row in inside if row[column]}
                features[f"velocity.{kind}.{aggregate}_{window}"] = float(len(distinct))
    return features


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided of an event, and why."""

    outcome: str
    score: float
    reasons: list[Any]


class Judge:
    """The policy's rules through CEL and River's two models with the trainer's parameters, event by event."""

    def __init__(self, policy: Policy) -> None:
        self._policy, params = policy, ModelParams()
        self._rules = [
            (rule, cel.compile(re.sub(r"\blimit\b", repr(rule.limit), rule.expression)))
            for rule in policy.rules
            if rule.mode == "live"
        ]
        # Any: River's methods have no types.
        self._models: dict[str, Any] = {
            "hst": anomaly.HalfSpaceTrees(
                n_trees=params.trees, height=params.height, window_size=params.window_rows, seed=params.seed
            ),
            "loda": anomaly.LODA(n_bins=params.bins, n_random_cuts=params.cuts, seed=params.seed),
        }
        self._limits = {
            name: stats.Quantile(policy.models[name].above) for name in policy.models if name in self._models
        }

    def __call__(self, body: Body, features: Features) -> Judgement:
        """Score with both models, teach them, run the rules, add up."""
        inputs = {name: _squashed(features.get(name), half) for name, half, _ in INPUTS}
        scores = {name: float(model.score_one(inputs)) for name, model in self._models.items()}
        context = self._context(body, features, scores)
        log_odds, floor, reasons = self._policy.base, "approve", []
        for rule, program in self._rules:
            if body["type"] in rule.types and _fires(program, context):
                log_odds += rule.weight or 0.0
                floor = rule.outcome or floor
                reasons.append({"rule": rule.id, "weight": rule.weight})
        for name, limit in self._limits.items():
            if scores[name] > (limit.get() or math.inf):
                weight = self._policy.models[name].cap
                log_odds += weight
                reasons.append({"model": name, "weight": weight})
            self._limits[name].update(scores[name])
            self._models[name].learn_one(inputs)
        score = 1 / (1 + math.exp(-log_odds))
        thresholds = self._policy.thresholds
        verdict = "reject" if score >= thresholds.reject else "hold" if score >= thresholds.hold else floor
        return Judgement(verdict, score, reasons)

    @staticmethod
    def _context(body: Body, features: Features, shares: Mapping[str, float]) -> dict[str, Any]:
        context: dict[str, Any] = {"model": dict(shares), "event": {}, "account": {}, "velocity": {}}
        for kind in DISTINCT:
            context["velocity"][kind] = {}
        for name, value in features.items():
            *path, leaf = name.split(".")
            place = context
            for step in path:
                place = place[step]
            place[leaf] = value
        texts = {name: body.get(name, "") for name in ("program", "type", "store", "channel", "campaign")}
        flags = {"fulfilled": False, "has_device": "device" in body, "has_ip": "ip" in body}
        context["event"] |= texts | flags
        return context


def _squashed(value: float | None, half: float) -> float:
    return 1.0 if value is None else value / (value + half)


def _fires(program: cel.Program, context: dict[str, Any]) -> bool:
    try:
        return program.execute(context) is True
    except (LookupError, RuntimeError, ValueError, TypeError):
        return False  # a feature that this event does not have


def event_features(body: Body, now_ms: int, opened_ms: int, signed_up_ms: int | None) -> Features:
    """The features that come from the event and its member."""
    features = {
        "account.age_seconds": max(0.0, (now_ms - opened_ms) / 1000),
        "account.seconds_since_signup": LONG_AGO,
        "account.seconds_since_credential_change": LONG_AGO,
        "event.points": float(body.get("points", 0)),
        "event.hour": float(datetime.fromisoformat(body["occurred_at"]).hour),
        "event.outflow": float(body["type"] == "redeem"),
    }
    if signed_up_ms is not None:
        features["account.seconds_since_signup"] = max(0.0, (now_ms - signed_up_ms) / 1000)
    return features


def moved(body: Body, outcome: str, balance: int) -> tuple[str, int]:
    """The outcome once the balance is known, and the change of the balance: a held earn changes nothing yet."""
    points = int(body.get("points", 0))
    if body["type"] == "redeem":
        return ("reject", 0) if outcome == "reject" or points > balance else (outcome, -points)
    if body["type"] == "earn":
        return outcome, points if outcome == "approve" else 0
    return "noted", 0


def options(description: str | None) -> argparse.Namespace:
    """What the benchmark tells a program: the services, the topic, the consumer group, where to keep state."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("bootstrap", "topic", "group", "database", "redis", "scratch"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()
