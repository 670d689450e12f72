"""What the benchmarks compute, apart from what they measure."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from bench import velocity, velocity_handbook
from bench.floor import AFTER, STEPS
from bench.measure import Spread, latencies_ms, markdown_table, percentiles
from bench.openloop import Schedule, by_partition
from bench.workload import PARTITIONS, Record, Workload, generate
from detectors.event import decode
from detectors.velocity_names import KINDS
from tests.unit.velocity_traffic import START_MS

END = datetime(2026, 11, 1, 12, tzinfo=UTC)


def test_a_workload_is_the_same_every_time_and_differs_by_seed() -> None:
    """The seed alone fixes every byte."""
    first = generate(Workload(end=END, events=300))
    assert first == generate(Workload(end=END, events=300))
    assert first != generate(Workload(end=END, events=300, seed=8))


def test_a_workload_is_honest_traffic_that_the_contract_accepts() -> None:
    """Every event decodes, all three types are there, ids are unique, times stay within a day before the end."""
    records = generate(Workload(end=END, events=20_000))
    bodies = [json.loads(record.value) for record in records]
    kinds = Counter(body["type"] for body in bodies)
    assert set(kinds) == {"earn", "redeem", "account.created"}
    assert kinds["earn"] > kinds["redeem"] > 0
    assert len({body["id"] for body in bodies}) == len(bodies)
    assert all(hasattr(decode(record.value), "account") for record in records[:2_000])
    ages = [(END - datetime.fromisoformat(body["occurred_at"])).total_seconds() for body in bodies]
    assert max(ages) < 86_400
    assert min(ages) >= 0
    assert 300 <= np.mean([len(record.value) for record in records]) <= 400


def test_an_account_stays_in_its_partition() -> None:
    """Order within an account is what Kafka keeps, so all its events share a partition."""
    places: dict[bytes, set[int]] = {}
    for record in generate(Workload(end=END, events=5_000, accounts=500)):
        places.setdefault(record.key, set()).add(record.partition)
    assert all(len(parts) == 1 for parts in places.values())
    assert {part for parts in places.values() for part in parts} == set(range(PARTITIONS))


def test_latency_counts_from_the_schedule_until_the_mark_that_covers_the_event() -> None:
    """Two events are done by one mark and one by a later mark; what another partition does is ignored."""
    schedule = {"p0": np.array([1_000_000, 2_000_000, 3_000_000])}
    marks = np.array([[1, 9, 1_000_000], [0, 6, 5_000_000], [0, 7, 9_000_000]])
    assert latencies_ms(schedule, marks, {0: 5}, 0.0).tolist() == [4.0, 3.0, 6.0]


def test_an_event_that_is_never_done_has_infinite_latency() -> None:
    """What is missing must not make the percentiles look better."""
    schedule = {"p0": np.array([0, 1_000_000])}
    values = latencies_ms(schedule, np.array([[0, 0, 1_000_000]]), {0: 0}, 0.0)
    assert values.tolist() == [1.0, np.inf]
    assert percentiles(values)[2] == np.inf


def test_the_warm_up_is_left_out() -> None:
    """Events due in the first second of the schedule do not count."""
    schedule = {"p0": np.array([0, 500_000_000, 1_000_000_000, 1_500_000_000])}
    marks = np.array([[0, 3, 2_000_000_000]])
    assert latencies_ms(schedule, marks, {0: 0}, 1.0).tolist() == [1_000.0, 500.0]


def test_the_schedule_of_a_partition_lists_its_records_in_turn() -> None:
    """Records are sent in turn, so the n-th due time of a partition is that of the n-th record sent there."""
    records = [Record(0, b"a", b"{}"), Record(1, b"b", b"{}"), Record(0, b"a", b"{}")]
    times = Schedule(start_ns=0, rate=1e9, events=5).times()
    split = by_partition(records, times)
    assert split["p0"].tolist() == [0, 2, 3]
    assert split["p1"].tolist() == [1, 4]
    assert split["p2"].tolist() == []


@pytest.mark.parametrize(
    ("values", "shown"), [([3.0], "3"), ([1.0, 2.0, 9.0], "2 (1–9)"), ([1000.0, 2000.0], "1,500 (1,000–2,000)")]
)
def test_a_spread_shows_median_and_range(values: list[float], shown: str) -> None:
    """One run shows no range."""
    assert Spread.of(values).show() == shown


def test_a_table_is_markdown() -> None:
    """Names left, figures right."""
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_profile_names_functions_that_exist() -> None:
    """The profile replaces functions by name; a renamed one must show here, not in a benchmark half an hour in."""
    assert all(callable(getattr(module, name)) for module, name in (STEPS | AFTER).values())


def test_the_handbooks_features_come_out_of_velocity() -> None:
    """On made-up transactions, some whole days apart, each feature is the one worked out beside; a fault shows."""
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 40, 600)) * 86_400_000 + rng.integers(0, 2, 600)
    entities, points = rng.integers(0, 8, 600), rng.integers(0, 3, 600)
    rows = [
        velocity_handbook.Transaction(number, START_MS + int(time), int(entities[number]), int(points[number]))
        for number, time in enumerate(np.sort(times))
    ]
    for compare in (velocity_handbook.customers, velocity_handbook.terminals):
        compared = list(compare(rows))
        assert [one.differing for one in compared] == [0] * len(compared)
        assert {one.values for one in compared} >= {600}
        assert compared[0].estimates == 0
    assert any(past.edge_number for past in velocity_handbook.pasts(rows, 7))
    values = np.array([1.0, 2.0, 30.0])
    wrong = velocity_handbook._compare("x", values, values + np.array([0.0, 1.0, 3.0]), np.array([False, False, True]))
    assert (wrong.differing, wrong.estimates, round(wrong.worst, 3)) == (1, 1, 0.091)


def test_traffic_for_velocity_has_every_kind_and_its_skew() -> None:
    """Each event has an entity of every kind; in Zipf's traffic the first key comes far more often than another."""
    size = replace(velocity.QUICK, keys=100)
    events = velocity.traffic(np.random.default_rng(1), size, 2_000, zipf=True)
    made = velocity._batch(events, 0, velocity.demand(KINDS))
    assert (made.entity != 0).all()
    accounts = Counter(one.event.account for one in events)
    assert accounts["a0"] > 3 * accounts["a9"] > 0
