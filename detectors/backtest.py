"""What a policy would have done: two policies' verdicts on the same events, counted in events and in points.

Pure. A `Tally` takes whole batches and keeps one table, events and points by what was, what would be and the label;
everything a `Report` says is a sum over it. What cannot be known stays out: that a held event changes what its account
does next, and what the ledger would have refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.decision import Decision
from detectors.policy import Policy

Verdict = Literal["approve", "suspicious", "hold", "reject"]
VERDICTS: Final[tuple[Verdict, ...]] = ("approve", "suspicious", "hold", "reject")
STOPPED: Final = (2, 3)
"""Codes of verdicts that keep points back: hold, reject."""
AT_THE_DESK: Final = (1, 2)
"""Codes of verdicts that a person looks at: suspicious, hold."""
UNKNOWN, HONEST, FRAUD = 0, 1, 2
LABELS: Final = 3
HOURS_A_MINUTE: Final = 1.0 / 60.0

Codes = NDArray[np.intp]
Integers = NDArray[np.int64]

_CODE: Final = {"approve": 0, "noted": 0, "hold": 2, "reject": 3}


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a report; travels as JSON."""


class Side(Value, frozen=True, kw_only=True):
    """What one policy does to the events: verdicts, fraud stopped, honest members delayed, work for the desk.

    `recall` is the share of known fraud that is stopped, `precision` the share of fraud among what is stopped and
    labelled; None where there is nothing to divide by. `holds_per_day` counts what a person has to look at.
    """

    verdicts: dict[Verdict, int]
    fraud_events: int
    fraud_points: int
    honest_events: int
    honest_points: int
    held_points: int
    holds_per_day: float
    hours_per_day: float
    recall: float | None
    precision: float | None


class Flip(Value, frozen=True, kw_only=True):
    """Events whose verdict the draft changes, with what is known of them."""

    was: Verdict
    becomes: Verdict
    events: int
    points: int
    fraud: int
    honest: int


class RuleHits(Value, frozen=True, kw_only=True):
    """On what a rule of the draft fired, with effect or on trial; `share` is of all events."""

    rule: str
    mode: str
    hits: int
    share: float
    points: int
    fraud: int
    honest: int
    precision: float | None


class Example(Value, frozen=True, kw_only=True):
    """One event whose verdict changes, with the draft's decision in words."""

    decision_id: int
    source: str
    event_id: str
    account: str
    type: str
    points: int
    was: Verdict
    becomes: Verdict
    label: Literal["fraud", "honest"] | None
    en: tuple[str, ...]
    zh: tuple[str, ...]


class Report(Value, frozen=True, kw_only=True):
    """A backtest: version `version` beside version `against` on the same events."""

    version: int
    against: int
    events: int
    points: int
    skipped: dict[str, int]
    days: float
    minutes_per_case: float
    fraud_events: int
    fraud_points: int
    honest_events: int
    honest_points: int
    draft: Side
    in_force: Side
    flips: tuple[Flip, ...]
    rules: tuple[RuleHits, ...]
    examples: tuple[Example, ...]
    recomputed: tuple[str, ...] = ()
    unknown: dict[str, int] = {}


def codes(decisions: Sequence[Decision]) -> Codes:
    """The verdicts as places in VERDICTS."""
    return np.fromiter(
        (1 if one.suspicious else _CODE[one.outcome] for one in decisions), dtype=np.intp, count=len(decisions)
    )


@dataclass
class Tally:
    """Counts by what was, what would be, and label; and by rule of the draft and label."""

    events: Integers = field(default_factory=lambda: np.zeros((len(VERDICTS), len(VERDICTS), LABELS), dtype=np.int64))
    points: Integers = field(default_factory=lambda: np.zeros((len(VERDICTS), len(VERDICTS), LABELS), dtype=np.int64))
    hits: dict[str, list[int]] = field(default_factory=dict)
    rule_points: dict[str, int] = field(default_factory=dict)

    def add(self, was: Codes, becomes: Codes, labels: Codes, points: Integers) -> None:
        """Count a batch, all int[n]; `points` are absolute."""
        place = (was * len(VERDICTS) + becomes) * LABELS + labels
        size = self.events.size
        self.events += np.bincount(place, minlength=size).reshape(self.events.shape)
        added = np.zeros(size, dtype=np.int64)
        np.add.at(added, place, points)  # bincount's weights are doubles: sums of points are exact
        self.points += added.reshape(self.points.shape)

    def add_rules(self, decisions: Sequence[Decision], labels: Codes, points: Integers) -> None:
        """Count what the draft's rules fired on; events without a reason cost nothing."""
        for row, decision in enumerate(decisions):
            for reason in decision.reasons:
                if reason.kind in {"rule", "shadow"}:
                    self.hits.setdefault(reason.code, [0] * LABELS)[labels[row]] += 1
                    self.rule_points[reason.code] = self.rule_points.get(reason.code, 0) + int(points[row])


@dataclass(frozen=True)
class Frame:
    """What a report says besides its counts."""

    policy: Policy
    against: int
    days: float
    minutes_per_case: float
    skipped: Mapping[str, int]
    examples: Sequence[Example] = ()
    recomputed: Sequence[str] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)


def report_of(tally: Tally, frame: Frame) -> Report:
    """All that a tally says."""
    total = int(tally.events.sum())
    by_label, points_by_label = tally.events.sum(axis=(0, 1)), tally.points.sum(axis=(0, 1))
    return Report(
        version=frame.policy.version,
        against=frame.against,
        events=total,
        points=int(tally.points.sum()),
        skipped=dict(frame.skipped),
        days=frame.days,
        minutes_per_case=frame.minutes_per_case,
        fraud_events=int(by_label[FRAUD]),
        fraud_points=int(points_by_label[FRAUD]),
        honest_events=int(by_label[HONEST]),
        honest_points=int(points_by_label[HONEST]),
        draft=_side(tally.events.sum(axis=0), tally.points.sum(axis=0), frame),
        in_force=_side(tally.events.sum(axis=1), tally.points.sum(axis=1), frame),
        flips=_flips(tally),
        rules=_rules(tally, frame.policy, total),
        examples=tuple(frame.examples),
        recomputed=tuple(frame.recomputed),
        unknown=dict(frame.unknown),
    )


def _side(events: Integers, points: Integers, frame: Frame) -> Side:
    """`events` and `points` are int64[verdicts, labels]."""
    stopped, points_stopped = events[list(STOPPED)].sum(axis=0), points[list(STOPPED)].sum(axis=0)
    cases = int(events[list(AT_THE_DESK)].sum())
    caught, delayed = int(stopped[FRAUD]), int(stopped[HONEST])
    return Side(
        verdicts={name: int(events[code].sum()) for code, name in enumerate(VERDICTS)},
        fraud_events=caught,
        fraud_points=int(points_stopped[FRAUD]),
        honest_events=delayed,
        honest_points=int(points_stopped[HONEST]),
        held_points=int(points[VERDICTS.index("hold")].sum()),
        holds_per_day=cases / frame.days,
        hours_per_day=cases * frame.minutes_per_case * HOURS_A_MINUTE / frame.days,
        recall=_share(caught, int(events[:, FRAUD].sum())),
        precision=_share(caught, caught + delayed),
    )


def _flips(tally: Tally) -> tuple[Flip, ...]:
    """Every change of verdict that happens, the most points first."""
    flips = [
        Flip(
            was=was,
            becomes=becomes,
            events=int(tally.events[i, j].sum()),
            points=int(tally.points[i, j].sum()),
            fraud=int(tally.events[i, j, FRAUD]),
            honest=int(tally.events[i, j, HONEST]),
        )
        for i, was in enumerate(VERDICTS)
        for j, becomes in enumerate(VERDICTS)
        if i != j and tally.events[i, j].any()
    ]
    return tuple(sorted(flips, key=lambda flip: -flip.points))


def _rules(tally: Tally, policy: Policy, total: int) -> tuple[RuleHits, ...]:
    """One line a rule that is not off, in the policy's order."""
    lines = []
    for rule in policy.rules:
        if rule.mode == "off":
            continue
        hits = tally.hits.get(rule.id, [0] * LABELS)
        lines.append(
            RuleHits(
                rule=rule.id,
                mode=rule.mode,
                hits=sum(hits),
                share=sum(hits) / total if total else 0.0,
                points=tally.rule_points.get(rule.id, 0),
                fraud=hits[FRAUD],
                honest=hits[HONEST],
                precision=_share(hits[FRAUD], hits[FRAUD] + hits[HONEST]),
            )
        )
    return tuple(lines)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
