"""The one list of every metric PointGuard exports, each with its meaning and its remedy.

Dashboards, rules and docs are tested against this list. No label carries an account, a device, an IP or an event id.
Names follow the Prometheus conventions: base units, `_total` for counters, `_seconds` for times. A process builds the
metrics on a registry of its own and serves them on a port of its own (no multi-process mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 5, 10, 25, 50, 100, 250, 500, 1000)
PREFIX = "loyalty_"

disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped there; one more series each, that nobody reads


@dataclass(frozen=True)
class Metric:
    """One exported series family: its name without the prefix, what it means and what to do when it looks wrong."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    remedy: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


EVENTS = Metric(
    "events_total", "counter", "Events that reached their outcome in a committed transaction.",
    "A jump of hold or reject: look at `pointguard holds list`. Nothing at all: look at the lag and at the producers.",
    ("topic", "type", "outcome"),
)  # fmt: skip
POINTS = Metric(
    "points_total", "counter", "Points moved, held or refused, by outcome.",
    "A jump of held points is money at stake: review the oldest holds first.",
    ("type", "outcome"),
)  # fmt: skip
DUPLICATES = Metric(
    "duplicate_events_total", "counter", "Events that came again with the same identity and the same body.",
    "Harmless. Many from one deploy on: a producer retries without need.",
    ("topic",),
)  # fmt: skip
DEAD_LETTERS = Metric(
    "dead_letters_total", "counter", "Events refused by name and kept as dead letters.",
    "`pointguard dlq list` shows error, field and offset; mend the producer, then `pointguard dlq retry`.",
    ("topic", "error"),
)  # fmt: skip
END_TO_END = Metric(
    "end_to_end_latency_seconds", "histogram", "From the record's time in Kafka to the commit of its decision.",
    "With a low stage latency the backlog is too long: add workers. With a high one: see the stage.",
    ("topic",),
)  # fmt: skip
STAGE = Metric(
    "stage_latency_seconds", "histogram", "Time one batch spent in a stage: decode, velocity, ledger, commit.",
    "velocity: look at Redis. ledger or commit: look at PostgreSQL (locks, checkpoints, disk).",
    ("topic", "stage"),
)  # fmt: skip
BATCH = Metric(
    "batch_size_records", "histogram", "Records in one committed batch.",
    "Always at the maximum: the worker is behind. Always 1: traffic is low, or the linger is too short.",
    ("topic",), SIZES,
)  # fmt: skip
COMMITS = Metric(
    "commits_total", "counter", "Batches by how their transaction ended: committed, retried, fenced, split.",
    "retried: a dependency is unwell, see readiness. fenced: another worker took over. split: one event is poison.",
    ("topic", "result"),
)  # fmt: skip
LAG = Metric(
    "lag_records", "gauge", "Records this worker has fetched and not yet committed, by partition.",
    "Growing: the worker cannot keep up or waits for a dependency; see stage latency and readiness.",
    ("topic", "partition"),
)  # fmt: skip
LAST_PROGRESS = Metric(
    "last_record_processed_timestamp_seconds", "gauge", "When this process last committed a batch (Unix time).",
    "Old while the lag is above 0: the worker is stuck; its watchdog restarts it after 60 s.",
    ("topic",),
)  # fmt: skip
READY = Metric(
    "dependency_ready", "gauge", "1 while the dependency answers, 0 while the process backs off because of it.",
    "0: the named service is down or refuses; nothing is lost meanwhile, and work goes on by itself.",
    ("dependency",),
)  # fmt: skip
HOLDS_OPEN = Metric(
    "holds_open", "gauge", "Holds that wait for a decision, by kind.",
    "Growing: the desk is behind, or a rule holds too much; see which rule in `pointguard holds list`.",
    ("kind",),
)  # fmt: skip
HOLDS_POINTS = Metric(
    "holds_open_points", "gauge", "Points frozen in open holds, by kind.",
    "As for holds_open, by value.",
    ("kind",),
)  # fmt: skip
HOLDS_OLDEST = Metric(
    "holds_oldest_age_seconds", "gauge", "Age of the oldest open hold; 0 when there is none.",
    "Review it: `pointguard holds list` shows the oldest first.",
)  # fmt: skip
OUTBOX = Metric(
    "outbox_rows", "gauge", "Messages committed and not yet published.",
    "Growing: the relay is down or Kafka refuses; nothing is lost, it is published when Kafka is back.",
)  # fmt: skip
PUBLISHED = Metric(
    "published_total", "counter", "Messages the relay published, by topic.",
    "Nothing while decisions are made: see outbox_rows.",
    ("topic",),
)  # fmt: skip
TIMEOUTS = Metric(
    "holds_timed_out_total", "counter", "Holds the policy decided because they were due, by verdict.",
    "A jump: the desk did not get to them in time.",
    ("verdict",),
)  # fmt: skip
LOTS_EXPIRED = Metric(
    "lots_expired_total", "counter", "Lots of points the relay expired because they fell due.",
    "Nothing where many fall due: the relay is behind or refused, see its log. Nobody can spend them meanwhile.",
)  # fmt: skip
VELOCITY_COLD = Metric(
    "velocity_cold", "gauge", "1 while the velocity store lacks what the policy reads (flushed, or a new kind).",
    "Outflows are held meanwhile. It rebuilds by itself from PostgreSQL; 1 for long: look at Redis memory and the log.",
)  # fmt: skip
MODEL_SEQ = Metric(
    "model_last_seq", "gauge", "Last row of the label log that the model in use has learned from.",
    "Standing still while labels arrive: the trainer is down.",
    ("process",),
)  # fmt: skip
MODEL_VERSION = Metric(
    "model_version", "gauge", "Version of the model snapshot in use; 0 before the first.",
    "Differs between workers for longer than a minute: one cannot load the snapshot, see its log.",
    ("process",),
)  # fmt: skip
MODEL_VERDICTS = Metric(
    "model_verdicts_total", "counter", "New model snapshots by verdict of the gate: promoted or refused.",
    "refused again and again: `pointguard model show` names the check that failed; see the runbook.",
    ("verdict",),
)  # fmt: skip
MODEL_DRIFT = Metric(
    "model_drift_ratio", "gauge", "Population stability index of what a model reads or says, since the reference.",
    "Above 0.25 the population is another one: a season, a campaign or an attack; see the runbook, “models drift”.",
    ("kind",),
)  # fmt: skip
MODEL_ALARMS = Metric(
    "model_drift_alarms_total", "counter", "Times that the mean of what a model reads or says moved (Page-Hinkley).",
    "Look at what changed that day: a campaign, a producer, an attack; see the runbook, “models drift”.",
    ("kind",),
)  # fmt: skip
LABELS = Metric(
    "labels_learned_total", "counter", "Labels the trainer has learned, by origin (matured, review).",
    "Nothing for long: no events mature, or the trainer is stuck.",
    ("origin",),
)  # fmt: skip
INTEGRITY = Metric(
    "integrity_conflicts_total", "counter", "Events with a known identity and another body.",
    "A producer reuses ids or somebody replays changed events: find the source in `pointguard dlq list`.",
    ("topic",),
)  # fmt: skip
LINK_CLUSTERS = Metric(
    "link_clusters", "gauge", "Clusters of two or more accounts that share devices, addresses, tokens or referrers.",
    "A jump: a ring signs up, or something that many share is sent as a device; `pointguard links show` says which.",
)  # fmt: skip
LINK_LARGEST = Metric(
    "link_largest_cluster", "gauge", "Accounts in the largest cluster; 0 when nobody is linked.",
    "At its bound of 100: look into it with `pointguard links show`; honest ones mean that `links:` is too generous.",
)  # fmt: skip
LINK_HUBS = Metric(
    "link_hubs", "gauge", "Devices, addresses, tokens and referrers that too many share to link anybody, by kind.",
    "Addresses are offices and carriers. A jump of devices: a shop's tablet is sent as the member's device, or a farm.",
    ("kind",),
)  # fmt: skip

POLICY_VERSION = Metric(
    "policy_version", "gauge", "Version of the policy this worker decides by.",
    "Differs between workers for longer than a minute: one refused it, see `pointguard policy list` and its log.",
    ("topic",),
)  # fmt: skip
POLICY_REFUSED = Metric(
    "policy_refused_version", "gauge", "Version in force that this worker could not load; 0 when there is none.",
    "It goes on with the old one: `pointguard policy list` shows why; roll back, or draft a corrected one.",
    ("topic",),
)  # fmt: skip
RULES_PAUSED = Metric(
    "rules_paused", "gauge", "Live rules that the circuit breaker has paused, in the policy in force.",
    "`pointguard policy list` says why; correct the rule in a new version, or `pointguard policy resume-rule`.",
    ("topic",),
)  # fmt: skip
RULE_HITS = Metric(
    "rule_hits_total", "counter", "Events a rule fired on: live, shadow (on trial or paused), snoozed.",
    "A jump of one rule: look at what it holds. Nothing for long: it may look at a field nobody sends any more.",
    ("rule", "effect"),
)  # fmt: skip
ANCHORED = Metric(
    "last_anchor_timestamp_seconds", "gauge", "When this relay last published the audit chains' heads (Unix time).",
    "Old while events are decided: the relay has no signing key, or Kafka or the anchor file refuses; see its log.",
)  # fmt: skip

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Metrics:
    """The metrics of one process on one registry, each made when it is first used.

    So a process exports only what it measures, and no zero of another's.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._built: dict[str, MetricWrapperBase] = {}
        self._lock = Lock()

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """The counter of `metric` with its label values in order."""
        return self._labelled(metric, labels)  # type: ignore[return-value]  # the kind is fixed by the list

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """The gauge of `metric` with its label values in order."""
        return self._labelled(metric, labels)  # type: ignore[return-value]  # the kind is fixed by the list

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The histogram of `metric` with its label values in order."""
        return self._labelled(metric, labels)  # type: ignore[return-value]  # the kind is fixed by the list

    def _labelled(self, metric: Metric, labels: tuple[str, ...]) -> MetricWrapperBase:
        with self._lock:
            built = self._built.get(metric.name) or self._built.setdefault(metric.name, _build(metric, self.registry))
        return built.labels(*labels) if labels else built


def _build(metric: Metric, registry: CollectorRegistry) -> MetricWrapperBase:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return Counter(name, metric.meaning, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(name, metric.meaning, metric.labels, registry=registry)
    return Histogram(name, metric.meaning, metric.labels, registry=registry, buckets=metric.buckets)
