"""The fast counting against the slow oracle: equal to the last digit for logs that were never folded."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.velocity import RECORD, Floats, Observations
from detectors.velocity_count import aggregate
from detectors.velocity_groups import grouped, representatives
from detectors.velocity_log import POINTS_COUNTED_MAX, RECORD_BYTES, arrange, read
from detectors.velocity_names import KINDS, Demand, demand_of, ordered
from tests.unit.velocity_oracle import Oracle
from tests.unit.velocity_traffic import EVERYTHING, START_MS, WINDOWS, Mix, batch, number

COLUMN = {name: column for column, name in enumerate(EVERYTHING.names)}
NAMES = st.lists(
    st.one_of(
        st.sampled_from(EVERYTHING.names),
        st.tuples(st.sampled_from(KINDS), st.sampled_from(["count", "avg", "max"]), st.integers(1, 2_160)).map(
            lambda parts: f"velocity.{parts[0]}.{parts[1]}_{parts[2]}h"
        ),
    ),
    min_size=1, max_size=8, unique=True,
).map(ordered)  # fmt: skip
"""Some values to demand, windows of any width among them."""
SPANS_MS = (1, 3, 1_000, 200_000, 10_000_000, 1_000_000_000, 9_000_000_000)


class Logs:
    """Logs as a store keeps them, without folding."""

    def __init__(self, demand: Demand = EVERYTHING) -> None:
        self._demand = demand
        self._logs: dict[tuple[int, int], bytes] = {}

    def observe(self, observed: Observations) -> Floats:
        """Append a batch and count."""
        arranged = arrange(observed, self._demand.coverage.kinds)
        names = list(zip(arranged.kind.tolist(), arranged.entity.tolist(), strict=True))
        for name, added in zip(names, arranged.payload, strict=True):
            self._logs[name] = self._logs.get(name, b"") + added
        logs = read([self._logs[name] for name in names])
        values, approximate = aggregate(observed, arranged, logs, self._demand)
        assert not approximate.any()
        return values


def same(observed: Observations, fast: Logs, slow: Oracle) -> None:
    """Observe in both ways and compare all values."""
    expected = np.array(slow.observe(observed), dtype=np.float64).reshape(len(observed), len(slow.names))
    assert np.array_equal(fast.observe(observed), expected, equal_nan=True)


def one(time: int, event: int, entity: tuple[int, ...], peer: int = 0, points: int = 5) -> Observations:
    """Make a batch of one event with entities of the first kinds; numbers stand for hashes."""
    return Observations(
        programs=("demo",),
        program=np.zeros(1, dtype=np.int64),
        time=np.array([START_MS + time], dtype=np.int64),
        event=np.array([event], dtype=np.uint64),
        entity=np.array([(*entity, *(0,) * (len(KINDS) - len(entity)))], dtype=np.uint64),
        peer=np.array([peer], dtype=np.uint64),
        points=np.array([points], dtype=np.int64),
    )


def value(values: Floats, name: str) -> float:
    """Give one value of a batch of one."""
    return float(values[0, COLUMN[f"velocity.{name}"]])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=NAMES,
    mix=st.builds(Mix, st.sampled_from([1, 2, 5, 40]), st.sampled_from([3, 30, 10**9]), st.sampled_from(SPANS_MS)),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    in_order=st.booleans(),
)
def test_random_batches_equal_the_oracle(
    seed: int, names: tuple[str, ...], mix: Mix, sizes: list[int], in_order: bool
) -> None:
    """Copies, late and simultaneous events, absent entities and hot ones count as the contract says."""
    rng, fast, slow = random.Random(seed), Logs(demand_of(names)), Oracle(names)
    span_ms = mix.span_ms
    for turn, size in enumerate(sizes):
        start_ms = START_MS + (turn * span_ms if in_order else 0 if rng.random() < 0.3 else turn * span_ms // 2)
        same(batch(rng, size, mix, start_ms, in_order=in_order), fast, slow)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    names=NAMES,
    span_ms=st.sampled_from(SPANS_MS),
    again=st.lists(st.integers(0, 4), max_size=6),
)
def test_whole_batches_delivered_again_equal_the_oracle(
    seed: int, names: tuple[str, ...], span_ms: int, again: list[int]
) -> None:
    """Any batch may come again at any time, also twice, with others between: same values, nothing added."""
    rng, fast, slow = random.Random(seed), Logs(demand_of(names)), Oracle(names)
    batches = [batch(rng, 20, Mix(4, 10**9, span_ms), START_MS + turn * span_ms) for turn in range(5)]
    first = [fast.observe(observed) for observed in batches]
    for observed in batches:
        slow.observe(observed)
    for turn in again:
        assert np.array_equal(fast.observe(batches[turn]), first[turn], equal_nan=True)
    same(batch(rng, 20, Mix(4, 10**9, span_ms), START_MS + 5 * span_ms), fast, slow)


def test_every_value_there_is_equals_the_oracle() -> None:
    """All kinds, aggregates and windows at once, over three batches."""
    rng, fast, slow = random.Random(7), Logs(), Oracle(EVERYTHING.names)
    for turn in range(3):
        same(batch(rng, 25, Mix(3, 10**9, 4_000_000), START_MS + turn * 4_000_000), fast, slow)


def test_of_two_events_in_one_millisecond_the_second_sees_the_first() -> None:
    """Simultaneous events are not blind to each other, in one batch or in two."""
    logs = Logs()
    assert value(logs.observe(one(0, 1, (10, 20, 30))), "ip.count_1m") == 0
    assert value(logs.observe(one(0, 2, (11, 20, 30))), "ip.count_1m") == 1
    assert value(logs.observe(one(0, 3, (11, 20, 30))), "ip.accounts_1m") == 2


@pytest.mark.parametrize(("window", "length"), WINDOWS.items())
def test_a_window_is_closed_at_both_ends(window: str, length: int) -> None:
    """An event exactly one window old still counts, one millisecond older does not."""
    for age, expected in ((length, 1.0), (length + 1, 0.0)):
        logs = Logs()
        logs.observe(one(0, 1, (10, 20, 30)))
        values = logs.observe(one(age, 2, (10, 20, 30)))
        for kind in KINDS[:3]:
            assert value(values, f"{kind}.count_{window}") == expected
            assert value(values, f"{kind}.sum_{window}") == 5 * expected


def test_a_late_event_sees_what_lies_before_its_own_time() -> None:
    """What happened after a late event's time does not count for it, and it counts for later ones."""
    logs = Logs()
    logs.observe(one(0, 1, (10, 20, 30)))
    logs.observe(one(120_000, 2, (11, 20, 30)))
    late = logs.observe(one(60_000, 3, (12, 20, 30)))
    assert (value(late, "ip.count_1m"), value(late, "ip.count_7d"), value(late, "ip.accounts_7d")) == (1, 1, 1)
    after = logs.observe(one(120_000, 4, (13, 20, 30)))
    assert (value(after, "ip.count_1m"), value(after, "ip.accounts_1m")) == (2, 2)


def test_the_receiver_of_transfers_meets_its_senders() -> None:
    """A mule's senders are its peers, and what it got is in its count and sum; devices of senders are not its own."""
    logs = Logs()
    for sender in (1, 2, 3):
        logs.observe(one(sender, 100 + sender, (sender, 20 + sender, 30), peer=9))
    mule = logs.observe(one(10, 200, (9, 29, 39), peer=8))
    assert value(mule, "account.peers_1m") == 3
    assert value(mule, "account.count_1m") == 3
    assert value(mule, "account.sum_1m") == 15
    assert value(mule, "account.devices_1m") == 0
    again = logs.observe(one(11, 201, (9, 29, 39)))
    assert value(again, "account.peers_1m") == 4
    assert value(again, "account.devices_1m") == 1


def test_a_transfer_to_oneself_is_one_event() -> None:
    """Sender and receiver in one log do not count twice."""
    logs = Logs()
    logs.observe(one(0, 1, (9, 0, 0), peer=9))
    values = logs.observe(one(1, 2, (9, 0, 0)))
    assert (value(values, "account.count_1m"), value(values, "account.peers_1m")) == (1, 1)


def test_absent_entities_have_zeros_and_no_times() -> None:
    """Events without device and address never share one."""
    logs = Logs()
    logs.observe(one(0, 1, (1, 0, 0)))
    values = logs.observe(one(0, 2, (2, 0, 0)))
    unknown = [name for name in EVERYTHING.names if ".avg_" in name or "since" in name]
    assert {name for name, column in COLUMN.items() if np.isnan(values[0, column])} == set(unknown)
    assert not np.nan_to_num(values).any()


def test_amounts_and_times_of_what_was_seen() -> None:
    """The average leaves out what moved nothing; first and last are seconds, whatever came late."""
    logs = Logs()
    for time, points in ((0, 10), (60_000, 0), (30_000, 40)):
        logs.observe(one(time, 1 + time, (1,), points=points))
    values = logs.observe(one(90_500, 9, (1,)))
    assert [value(values, f"account.{name}_1h") for name in ("count", "sum", "avg", "max")] == [3, 50, 25, 40]
    assert value(values, "account.max_1m") == 0
    assert np.isnan(value(values, "account.avg_1m"))
    assert (value(values, "account.seconds_since_first"), value(values, "account.seconds_since_last")) == (90.5, 30.5)
    late = logs.observe(one(59_000, 10, (1,)))
    assert (value(late, "account.seconds_since_first"), value(late, "account.seconds_since_last")) == (59, 29)


def test_a_demand_gets_its_names_only() -> None:
    """In their order, from the logs of kinds that are demanded; the others are neither kept nor read."""
    demand = demand_of(("velocity.ip.accounts_30d", "velocity.referrer.count_1m"))
    logs = Logs(demand)
    assert logs.observe(one(0, 1, (1, 2, 3))).tolist() == [[0.0, 0.0]]
    assert logs.observe(one(86_400_000, 2, (1, 2, 3))).tolist() == [[1.0, 0.0]]
    assert {KINDS[kind] for kind, _ in logs._logs} == {"ip"}


def test_sums_do_not_overflow() -> None:
    """Absurd points are cut to a bound that a log of a million events can't push over 64 bits."""
    logs = Logs()
    for event in range(1, 4):
        logs.observe(one(0, event, (1, 0, 0), points=2**53 - 1))
    assert value(logs.observe(one(0, 9, (1, 0, 0))), "account.sum_1m") == 3 * POINTS_COUNTED_MAX


def test_a_record_has_56_bytes_and_logs_hold_whole_ones() -> None:
    """The stored form is fixed, and a cut log is an error rather than a wrong count."""
    assert RECORD.itemsize == RECORD_BYTES == 56
    arranged = arrange(one(0, 1, (10, 20, 30)), range(len(KINDS)))
    assert [len(added) for added in arranged.payload] == [56, 56, 56]
    with pytest.raises(ValueError, match="whole records"):
        read([arranged.payload[0][:-1]])


def test_a_log_without_the_event_is_an_error() -> None:
    """A store that loses what was just appended is found out."""
    observed = one(0, 1, (10, 0, 0))
    with pytest.raises(ValueError, match="lacks an event"):
        aggregate(observed, arrange(observed, [0]), read(arrange(one(0, 2, (10, 0, 0)), [0]).payload), EVERYTHING)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=300), st.booleans())
def test_equal_hashes_find_one_representative(values: list[int], shifted: bool) -> None:
    """Equal elements get one place that holds an equal element, others another, also when bits hardly differ."""
    hashes = np.array([entry << 40 & 2**64 - 1 if shifted else entry for entry in values], dtype=np.uint64)
    found = representatives(hashes)
    assert np.array_equal(hashes[found], hashes)
    assert len(set(found.tolist())) == len(set(hashes.tolist()))
    order = grouped(found)
    assert sorted(order.tolist()) == list(range(len(hashes)))
    assert np.all(np.diff(found[order]) >= 0)


def test_many_hashes_find_their_representatives() -> None:
    """More elements than 16 bits can number are grouped as well."""
    hashes = np.random.default_rng(1).integers(0, 40_000, 150_000).astype(np.uint64) << np.uint64(20)
    found = representatives(hashes)
    assert np.array_equal(hashes[found], hashes)
    assert len(set(found.tolist())) == len(set(hashes.tolist()))
    assert np.all(np.diff(found[grouped(found)]) >= 0)


def test_entities_are_well_spread() -> None:
    """The traffic's numbers behave as keyed hashes do, so that samples by divisibility are fair."""
    even = sum(number("account", place) & 1 for place in range(1_000))
    assert 400 < even < 600
