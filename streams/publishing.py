"""What happens when the trainer has a new snapshot: drift is measured, the gate judges, all is written at once.

One transaction holds the snapshot, the verdict, the trainer's checkpoint, the alerts and the audit link; so a kill
leaves either none of it or all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Connection

from alerts.metrics import MODEL_ALARMS, MODEL_DRIFT, MODEL_VERDICTS, Metrics
from detectors.models_checkpoint import seal_state
from detectors.models_drift import SERIES, psi
from detectors.models_gate import GateParams, judge
from detectors.models_learner import Learner
from detectors.models_snapshot import Snapshot, SnapshotRefused, seal
from streams import model_store
from streams.acts import model_judged, model_published
from streams.messages import AlertMessage, alert_message
from streams.model_store import TRAINER, Standing, Verdict
from streams.outbox import Message, enqueue

PSI_MOVED = 0.25
"""From here on a population is said to be another one; told again once it has been below PSI_CALM."""
PSI_CALM = 0.1
PSI_MEAN = "psi"
MEAN_MOVED = "page_hinkley"

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class PublishParams:
    """The gate, and the topic that alerts go to."""

    gate: GateParams = field(default_factory=GateParams)
    alerts_topic: str = "points.alerts"


@dataclass(frozen=True)
class Published:
    """What a publication came to: the verdict, and how far each series has moved since the reference (PSI)."""

    verdict: Verdict
    drift: Mapping[str, float]


class Publisher:
    """Publishes what a learner has come to; remembers only what was told already."""

    def __init__(self, key: bytes, metrics: Metrics, params: PublishParams) -> None:
        self._key, self._metrics, self._params = key, metrics, params
        self._told: set[str] = set()
        self._refused = False

    def publish(self, conn: Connection, learner: Learner, version: int, origin: Mapping[str, str | int]) -> Published:
        """Judge and write the snapshot `version` in the caller's transaction."""
        before = model_store.standing(conn)
        champion, reference = self._load(conn, before.champion), self._load(conn, before.reference)
        snapshot = learner.snapshot(version)
        judged = judge(snapshot, champion, reference, learner.held_out(), self._params.gate)
        drift = self._drift(reference or champion, learner)
        checkpoint = seal_state(learner, self._key, origin)
        manifest: dict[str, Any] = {**origin, "state": checkpoint.manifest["state"], "drift": drift}
        sealed = seal(snapshot, self._key, manifest)
        now = model_store.lock(conn)
        reason = _objection(before, now) or judged.reason
        promoted = judged.passed and _objection(before, now) is None
        verdict = Verdict(version, "promoted" if promoted else "refused", TRAINER, reason, judged.checks)
        model_store.publish(conn, sealed)
        model_store.give(conn, verdict)
        model_store.put_checkpoint(conn, checkpoint)
        enqueue(conn, self._alerts(verdict, now, drift, learner))
        model_published(conn, version, sealed.manifest["last_seq"], sealed.signature)
        model_judged(conn, TRAINER, version, verdict.kind, reason)
        return Published(verdict, drift)

    def told(self, published: Published, learner: Learner) -> None:
        """After the commit: count it, and remember what was told."""
        self._metrics.counter(MODEL_VERDICTS, published.verdict.kind).inc()
        for alarm in learner.drifted:
            self._metrics.counter(MODEL_ALARMS, alarm.series).inc()
        learner.drifted.clear()
        for series, moved in published.drift.items():
            self._metrics.gauge(MODEL_DRIFT, series).set(moved)
            if moved > PSI_MOVED:
                self._told.add(series)
            elif moved < PSI_CALM:
                self._told.discard(series)
        self._refused = published.verdict.kind == "refused"

    def _load(self, conn: Connection, version: int | None) -> Snapshot | None:
        """A snapshot to compare with; None if there is none, or this release cannot read it."""
        if version is None:
            return None
        try:
            return model_store.load(conn, self._key, version)
        except SnapshotRefused as refused:
            log.warning("cannot compare with a snapshot", version=version, error=refused.error, detail=str(refused))
            return None

    def _drift(self, reference: Snapshot | None, learner: Learner) -> dict[str, float]:
        """PSI of each series since the reference was made, as far as both know it."""
        if reference is None:
            return {}
        moved = psi(reference.profile, learner.recent())
        return {SERIES[each]: round(float(moved[each]), 4) for each in np.flatnonzero(np.isfinite(moved)).tolist()}

    def _alerts(
        self, verdict: Verdict, standing: Standing, drift: Mapping[str, float], learner: Learner
    ) -> list[Message]:
        now = datetime.now(UTC)
        alerts = [
            AlertMessage(alert="model_drift", at=now, error=MEAN_MOVED, field=series)
            for series in dict.fromkeys(alarm.series for alarm in learner.drifted)
        ]
        alerts += [
            AlertMessage(alert="model_drift", at=now, error=PSI_MEAN, field=series, score=moved)
            for series, moved in drift.items()
            if moved > PSI_MOVED and series not in self._told
        ]
        # Whoever rolled back knows that nothing comes into use; and one refusal in a row is enough to be told of.
        if verdict.kind == "refused" and not standing.frozen and not self._refused:
            alerts.append(AlertMessage(alert="model_refused", at=now, error=verdict.reason[:300]))
        return [alert_message(self._params.alerts_topic, alert) for alert in alerts]


def _objection(before: Standing, now: Standing) -> str | None:
    """Why no snapshot may come into use by itself, whatever the gate says."""
    if now.frozen:
        return f"{now.actor} rolled back ({now.reason}): promote by hand"
    if now.champion != before.champion:
        return f"judged beside snapshot {before.champion}, but {now.actor} has put {now.champion} into use meanwhile"
    return None
