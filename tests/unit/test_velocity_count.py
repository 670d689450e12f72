"""The fast counting against the slow oracle: equal to the last digit for logs that were never folded."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.velocity import KINDS, RECORD, VELOCITY_FEATURES, WINDOWS, Floats, Observations
from detectors.velocity_count import aggregate
from detectors.velocity_groups import grouped, representatives
from detectors.velocity_log import POINTS_COUNTED_MAX, RECORD_BYTES, layout, read
from tests.unit.velocity_oracle import Oracle
from tests.unit.velocity_traffic import START_MS, Mix, batch, number

COLUMN = {name: column for column, name in enumerate(VELOCITY_FEATURES)}
SPANS_MS = (1, 3, 1_000, 200_000, 10_000_000, 1_000_000_000)


class Logs:
    """Logs as a store keeps them, without folding."""

    def __init__(self) -> None:
        self._logs: dict[tuple[int, int], bytes] = {}

    def observe(self, observed: Observations) -> Floats:
        """Append a batch and count."""
        arranged = layout(observed)
        names = list(zip(arranged.kind.tolist(), arranged.entity.tolist(), strict=True))
        for name, added in zip(names, arranged.payload, strict=True):
            self._logs[name] = self._logs.get(name, b"") + added
        values, approximate = aggregate(observed, arranged, read([self._logs[name] for name in names]))
        assert not approximate.any()
        return values


def same(observed: Observations, fast: Logs, slow: Oracle) -> None:
    """Observe in both ways and compare all values."""
    expected = np.array(slow.observe(observed), dtype=np.float64).reshape(len(observed), len(VELOCITY_FEATURES))
    assert np.array_equal(fast.observe(observed), expected)


def one(time: int, event: int, entity: tuple[int, int, int], peer: int = 0, points: int = 5) -> Observations:
    """Make a batch of one event; numbers stand for hashes."""
    return Observations(
        programs=("demo",),
        program=np.zeros(1, dtype=np.int64),
        time=np.array([START_MS + time], dtype=np.int64),
        event=np.array([event], dtype=np.uint64),
        entity=np.array([entity], dtype=np.uint64),
        peer=np.array([peer], dtype=np.uint64),
        points=np.array([points], dtype=np.int64),
    )


def value(values: Floats, name: str) -> float:
    """Give one value of a batch of one."""
    return float(values[0, COLUMN[f"velocity.{name}"]])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    span_ms=st.sampled_from(SPANS_MS),
    entities=st.sampled_from([1, 2, 5, 40]),
    events=st.sampled_from([3, 30, 10**9]),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
)
def test_random_batches_equal_the_oracle(seed: int, span_ms: int, entities: int, events: int, sizes: list[int]) -> None:
    """Copies, late and simultaneous events, absent entities and hot ones count as the contract says."""
    rng, fast, slow = random.Random(seed), Logs(), Oracle()
    mix = Mix(entities, events, span_ms)
    for turn, size in enumerate(sizes):
        late = rng.random() < 0.3
        same(batch(rng, size, mix, START_MS + (0 if late else turn * span_ms // 2)), fast, slow)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), span_ms=st.sampled_from(SPANS_MS), again=st.lists(st.integers(0, 4), max_size=6))
def test_whole_batches_delivered_again_equal_the_oracle(seed: int, span_ms: int, again: list[int]) -> None:
    """Any batch may come again at any time, also twice, with others between: same values, nothing added."""
    rng, fast, slow = random.Random(seed), Logs(), Oracle()
    batches = [batch(rng, 20, Mix(4, 10**9, span_ms), START_MS + turn * span_ms) for turn in range(5)]
    first = [fast.observe(observed) for observed in batches]
    for observed in batches:
        slow.observe(observed)
    for turn in again:
        assert np.array_equal(fast.observe(batches[turn]), first[turn])
    same(batch(rng, 20, Mix(4, 10**9, span_ms), START_MS + 5 * span_ms), fast, slow)


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
        for kind in KINDS:
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


def test_absent_entities_have_zeros() -> None:
    """Events without device and address never share one."""
    logs = Logs()
    logs.observe(one(0, 1, (1, 0, 0)))
    values = logs.observe(one(0, 2, (2, 0, 0)))
    assert not values.any()


def test_sums_do_not_overflow() -> None:
    """Absurd points are cut to a bound that a log of a million events can't push over 64 bits."""
    logs = Logs()
    for event in range(1, 4):
        logs.observe(one(0, event, (1, 0, 0), points=2**53 - 1))
    assert value(logs.observe(one(0, 9, (1, 0, 0))), "account.sum_1m") == 3 * POINTS_COUNTED_MAX


def test_a_record_has_48_bytes_and_logs_hold_whole_ones() -> None:
    """The stored form is fixed, and a cut log is an error rather than a wrong count."""
    assert RECORD.itemsize == RECORD_BYTES == 48
    arranged = layout(one(0, 1, (10, 20, 30)))
    assert [len(added) for added in arranged.payload] == [48, 48, 48]
    with pytest.raises(ValueError, match="whole records"):
        read([arranged.payload[0][:-1]])


def test_a_log_without_the_event_is_an_error() -> None:
    """A store that loses what was just appended is found out."""
    observed = one(0, 1, (10, 0, 0))
    with pytest.raises(ValueError, match="lacks an event"):
        aggregate(observed, layout(observed), read(layout(one(0, 2, (10, 0, 0))).payload))


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
