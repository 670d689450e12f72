"""The one list of metrics: names, units, labels, meanings; and that a process exports exactly these."""

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from alerts import metrics as module
from alerts.metrics import METRICS, PREFIX, Metric, Metrics

LABELS_ALLOWED = {
    "topic", "type", "outcome", "error", "stage", "result", "partition", "dependency", "kind", "verdict", "process",
    "origin", "rule", "effect",
}  # fmt: skip
"""All of few values: what names a person, a device or a single event is never a label."""
PERSONAL = {"account", "device", "ip", "event", "event_id", "id", "source", "member", "staff"}
UNITS = ("_seconds", "_records", "_points", "_rows", "_bytes", "_ratio")
STATES = {
    "dependency_ready", "velocity_cold", "holds_open", "model_last_seq", "model_version", "policy_version",
    "policy_refused_version", "rules_paused", "link_clusters", "link_largest_cluster", "link_hubs",
}  # fmt: skip
"""Gauges without a unit: truths, plain counts and numbers of rows and versions."""

every = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def exported(metrics: Metrics) -> dict[str, str]:
    """Names and kinds of the families that a scrape shows."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {family.name: family.type for family in families}


def test_every_metric_of_the_module_is_in_the_list() -> None:
    """A metric that is defined is exported, once, under a name of its own."""
    defined = [value for value in vars(module).values() if isinstance(value, Metric)]
    assert list(METRICS) == defined
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 15


@every
def test_names_follow_the_conventions(metric: Metric) -> None:
    """Lower case, no prefix of their own, counters end in _total, the rest in a base unit or is a known state."""
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name)
    assert not metric.name.startswith(PREFIX)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.kind != "counter":
        assert metric.name.endswith(UNITS) or metric.name in STATES
    assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", metric.name)


@every
def test_meaning_and_remedy_are_said(metric: Metric) -> None:
    """Each is a sentence: what it counts, and what to do when it looks wrong."""
    for sentence in (metric.meaning, metric.remedy):
        assert len(sentence.split()) >= 4
        assert sentence.endswith((".", "`"))


@every
def test_labels_are_few_and_name_nobody(metric: Metric) -> None:
    """No label carries an account, a device, an address or an event."""
    assert not set(metric.labels) & PERSONAL
    assert set(metric.labels) <= LABELS_ALLOWED
    assert len(set(metric.labels)) == len(metric.labels) <= 3


@every
def test_buckets_rise(metric: Metric) -> None:
    """Histograms count into rising buckets; times from a millisecond to a minute."""
    assert list(metric.buckets) == sorted(set(metric.buckets))
    if metric.kind == "histogram" and metric.name.endswith("_seconds"):
        assert (metric.buckets[0], metric.buckets[-1]) == (0.001, 60.0)


def use_all(built: Metrics) -> None:
    """Touch every metric of the list once."""
    for metric in METRICS:
        {"counter": built.counter, "gauge": built.gauge, "histogram": built.histogram}[metric.kind](
            metric, *("x" for _ in metric.labels)
        )


def test_a_process_exports_only_what_it_measures() -> None:
    """No zero of a metric that another process measures, which an alert would read as healthy."""
    built = Metrics()
    assert exported(built) == {}
    built.gauge(module.OUTBOX).set(3)
    assert exported(built) == {"loyalty_outbox_rows": "gauge"}


def test_a_process_that_uses_all_exports_exactly_the_list() -> None:
    """Every metric has its kind and its meaning as help, and there is nothing else."""
    built = Metrics()
    use_all(built)
    expected = {(PREFIX + metric.name).removesuffix("_total"): metric.kind for metric in METRICS}
    assert exported(built) == expected
    help_ = {family.name: family.documentation for family in built.registry.collect()}
    assert help_ == {(PREFIX + metric.name).removesuffix("_total"): metric.meaning for metric in METRICS}


def test_processes_do_not_share_their_metrics() -> None:
    """Two sets in one interpreter stand side by side; one registry takes them once."""
    one, two = Metrics(), Metrics()
    one.counter(module.PUBLISHED, "t").inc()
    assert two.counter(module.PUBLISHED, "t")._value.get() == 0
    registry = CollectorRegistry()
    Metrics(registry).gauge(module.OUTBOX)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry).gauge(module.OUTBOX)


def test_labels_are_given_in_order() -> None:
    """Values go with the names of the list; too few or too many are refused."""
    built = Metrics()
    built.counter(module.EVENTS, "points.events", "earn", "approve").inc(2)
    labels = {"topic": "points.events", "type": "earn", "outcome": "approve"}
    assert built.registry.get_sample_value("loyalty_events_total", labels) == 2
    with pytest.raises(ValueError, match="label count"):
        built.counter(module.EVENTS, "points.events")


def test_a_metric_without_labels_is_itself() -> None:
    """It is set without a label."""
    built = Metrics()
    built.gauge(module.OUTBOX).set(3)
    built.histogram(module.BATCH, "t").observe(4)
    assert built.registry.get_sample_value("loyalty_outbox_rows") == 3
    assert built.registry.get_sample_value("loyalty_batch_size_records_sum", {"topic": "t"}) == 4
