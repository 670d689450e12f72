"""The circuit breaker of rules in a worker: counts what rules did, and pauses the one that does far too much.

A pause is a row that says why, an alert through the outbox, and an act of the audit chain, in one transaction; this
worker heeds it from its next batch on, the others as soon as they look. Counting is each worker's own. Simulation
programmes do not count: a replay must not depend on when a worker looked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alerts.metrics import RULE_HITS, Metrics
from detectors.aside import EFFECTLESS
from detectors.breaker import Trip, Window, tripped
from detectors.decision import Reason
from detectors.event import points_of
from ledger.arrays import bigints, run, texts
from streams import outbox
from streams.acts import rule_paused
from streams.decisions import Decided
from streams.errors import described
from streams.messages import AlertMessage, alert_message
from streams.posting import Judge

FLUSH_SECONDS = 5.0
LONG_RUN_DAYS = 28
LONG_RUN_EVENTS = 100_000
"""So many events make a rule's own share worth believing."""
BACKTEST_EVENTS = 1_000
"""So many make a backtest's: one over an empty week would expect no rule to fire at all."""

log = structlog.get_logger()

_BACKTEST = text("""
SELECT report::text FROM backtest WHERE version = :version AND events >= :events ORDER BY backtest_id DESC LIMIT 1""")
# A rule on trial shows its share as well as a live one; one that ran away shows nothing to go by.
_LONG_RUN = text("""
SELECT u.rule, sum(u.hits + u.shadow)::float8 / sum(u.events) AS share FROM rule_use u
 WHERE u.day > current_date - CAST(:days AS int)
   AND NOT EXISTS (SELECT 1 FROM rule_pause p WHERE p.version = u.version AND p.rule = u.rule)
 GROUP BY u.rule HAVING sum(u.events) >= :events""")
_PAUSE = text("""
INSERT INTO rule_pause (version, rule, worker, hits, events, expected, why)
VALUES (:version, :rule, :worker, :hits, :events, :expected, :why)
ON CONFLICT (version, rule) WHERE resumed_at IS NULL DO NOTHING RETURNING clock_timestamp() AS now""")
# Sorted, so that two workers never wait for each other.
_USED = """
INSERT INTO rule_use (day, version, rule, events, hits, shadow, snoozed, points)
SELECT current_date, %(version)s, rule, %(events)s, hits, shadow, snoozed, points
  FROM unnest(%(rules)s, %(hits)s, %(shadow)s, %(snoozed)s, %(points)s) AS t(rule, hits, shadow, snoozed, points)
 ORDER BY rule
ON CONFLICT (day, version, rule) DO UPDATE SET events = rule_use.events + excluded.events,
  hits = rule_use.hits + excluded.hits, shadow = rule_use.shadow + excluded.shadow,
  snoozed = rule_use.snoozed + excluded.snoozed, points = rule_use.points + excluded.points"""


class _RuleShare(msgspec.Struct):
    """As much of a backtest's report as is needed here."""

    rule: str
    share: float


class _Report(msgspec.Struct):
    rules: tuple[_RuleShare, ...] = ()


def expected_shares(conn: Connection, version: int) -> dict[str, float]:
    """The share of events each rule should fire on: by the version's latest backtest, else by its own long run."""
    shares = {
        row.rule: float(row.share)
        for row in conn.execute(_LONG_RUN, {"days": LONG_RUN_DAYS, "events": LONG_RUN_EVENTS})
    }
    report = conn.execute(_BACKTEST, {"version": version, "events": BACKTEST_EVENTS}).scalar_one_or_none()
    if report is not None:
        shares |= {one.rule: one.share for one in msgspec.json.decode(report, type=_Report).rules}
    return shares


@dataclass
class _Use:
    """What rules did under one version since it was last written down."""

    version: int
    rules: tuple[str, ...] = ()
    events: int = 0
    by_effect: dict[str, Counter[str]] = field(
        default_factory=lambda: {"rule": Counter(), "shadow": Counter(), "snoozed": Counter()}
    )
    points: Counter[str] = field(default_factory=Counter)


class RuleWatch:
    """One worker's watch over its rules; called behind each commit, by one thread at a time."""

    def __init__(self, engine: Engine, metrics: Metrics, worker: str, alerts: str) -> None:
        """`worker` signs pauses, `alerts` is the topic of alerts."""
        self._engine, self._metrics, self._worker, self._alerts = engine, metrics, worker, alerts
        self._use: _Use | None = None
        self._window = Window(1)
        self._paused: frozenset[str] = frozenset()
        self._flushed = time.monotonic()

    def watch(self, decided: Sequence[Decided], judge: Judge, expected: dict[str, float]) -> list[str]:
        """Count a committed batch of live programmes; the rules that were paused because of it.

        A database that does not answer costs nothing but time: what was counted is written down later.
        """
        policy = judge.policy.policy
        if self._use is None or self._use.version != policy.version:
            self._flush(force=True)
            # All rules, also those that stay silent: their share is counted, too.
            self._use = _Use(policy.version, tuple(rule.id for rule in policy.rules if rule.mode != "off"))
            self._window = Window(policy.breaker.window)
        elif self._paused - judge.paused:
            # Somebody let a rule go on: what it did before must not stop it again.
            self._window = Window(policy.breaker.window)
        self._paused = judge.paused
        self._count(self._use, decided)
        trips = tripped(self._window, policy, expected, judge.paused)
        paused = [trip.rule for trip in trips if self._pause(policy.version, trip)]
        self._flush(force=False)
        return paused

    def _count(self, use: _Use, decided: Sequence[Decided]) -> None:
        hits: list[str] = []
        events = 0
        for row in decided:
            if row.decision is None:
                continue
            events += 1
            for reason in row.decision.reasons:
                if reason.kind == "rule" or reason.kind in EFFECTLESS:
                    self._note(use, reason, points_of(row.event))
                    if reason.kind == "rule":
                        hits.append(reason.code)
        use.events += events
        self._window.add(events, hits)

    def _note(self, use: _Use, reason: Reason, points: int) -> None:
        use.by_effect[reason.kind][reason.code] += 1
        use.points[reason.code] += points
        effect = "live" if reason.kind == "rule" else reason.kind
        self._metrics.counter(RULE_HITS, reason.code, effect).inc()

    def _pause(self, version: int, trip: Trip) -> bool:
        """Write a pause down; False if the database does not answer: it is tried again behind the next batch."""
        why = why_of(trip)
        said = {
            "version": version, "rule": trip.rule, "worker": self._worker, "hits": trip.hits, "events": trip.events,
            "expected": -1.0 if trip.expected is None else trip.expected, "why": why,
        }  # fmt: skip
        log.error("rule paused", rule=trip.rule, version=version, detail=why)
        try:
            with self._engine.begin() as conn:
                row = conn.execute(_PAUSE, said).one_or_none()
                if row is not None:
                    self._tell(conn, version, trip.rule, why, row.now)
        except DBAPIError as error:
            log.warning("cannot write the pause down", rule=trip.rule, error=described(error))
            return False
        return True

    def _tell(self, conn: Connection, version: int, rule: str, why: str, now: datetime) -> None:
        alert = AlertMessage(alert="rule_paused", at=now, rule=rule, detail=why)
        outbox.enqueue(conn, [alert_message(self._alerts, alert)])
        rule_paused(conn, self._worker, version, rule, why)

    def _flush(self, *, force: bool) -> None:
        """Write down what was counted, once in a while."""
        use, now = self._use, time.monotonic()
        if use is None or not use.events or not (force or now - self._flushed >= FLUSH_SECONDS):
            return
        self._flushed = now
        rules = sorted(use.rules)
        columns: dict[str, Any] = {
            name: bigints([counts[rule] for rule in rules])
            for name, counts in (
                ("hits", use.by_effect["rule"]),
                ("shadow", use.by_effect["shadow"]),
                ("snoozed", use.by_effect["snoozed"]),
                ("points", use.points),
            )
        }
        try:
            with self._engine.begin() as conn:
                run(conn, _USED, {"version": use.version, "events": use.events, "rules": texts(rules), **columns})
        except DBAPIError as error:
            log.warning("cannot write down what rules did", error=described(error))
            return
        self._use = _Use(use.version, use.rules)


def why_of(trip: Trip) -> str:
    """A pause in words."""
    known = "of which nothing was known" if trip.expected is None else f"that is expected on {trip.expected:.2%}"
    return (
        f"fired on {trip.hits:,} of the last {trip.events:,} events ({trip.hits / trip.events:.1%}), a rule {known}; "
        f"the limit is {trip.limit:.1%}"
    )
