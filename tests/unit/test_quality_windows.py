"""Velocity and label feedback over a whole file equal a slow count, row by row, by the contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality_data import Transactions
from bench.quality_windows import DAY, EntityLog, features
from detectors.layout import Floats

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(0, 9)), min_size=1, max_size=40)


def log_of(rows: list[tuple[int, int, int]]) -> tuple[EntityLog, list[tuple[int, int, int]], Floats]:
    """The rows in order of time as a log, as they are, and their values."""
    ordered = sorted(rows, key=lambda row: row[1])
    entity, seconds, values = (np.array(column, dtype=np.int64) for column in zip(*ordered, strict=True))
    return EntityLog(entity, seconds), ordered, values.astype(np.float64)


@settings(deadline=None)
@given(rows=ROWS, window=st.integers(1, 200), delay=st.sampled_from([0, 0, 7, 90]))
def test_a_window_is_what_a_loop_finds(rows: list[tuple[int, int, int]], window: int, delay: int) -> None:
    """Count, sum and maximum of the entity's earlier rows in [t - w, t], and those shifted by the delay of labels."""
    log, ordered, values = log_of(rows)
    expected = []
    for place, (entity, now, _) in enumerate(ordered):
        earlier = ordered if delay else ordered[:place]
        first, last = now - delay - window, now - delay
        expected.append([row[2] for row in earlier if row[0] == entity and max(first, 0) <= row[1] <= last])
    assert [len(each) for each in expected] == log.count(window, delay).tolist()
    assert [sum(each) for each in expected] == log.total(values, window, delay).tolist()
    if not delay:
        highest = [float(max(each)) if each else None for each in expected]
        assert highest == [None if np.isnan(each) else each for each in log.highest(values, window).tolist()]


@settings(deadline=None)
@given(rows=ROWS, delay=st.integers(1, 100))
def test_times_since_are_what_a_loop_finds(rows: list[tuple[int, int, int]], delay: int) -> None:
    """Seconds since the entity's row before, and since its newest marked row that is old enough."""
    log, ordered, values = log_of(rows)
    since, marked = log.since_last(), log.since_label((values > 6).astype(np.int64), delay)
    for place, (entity, now, _) in enumerate(ordered):
        times = [row[1] for row in ordered[:place] if row[0] == entity]
        assert (now - times[-1] if times else None) == (None if np.isnan(since[place]) else since[place])
        known = [row[1] for row in ordered if row[0] == entity and row[2] > 6 and row[1] <= now - delay]
        assert (now - known[-1] if known else None) == (None if np.isnan(marked[place]) else marked[place])


def test_no_feature_knows_a_label_before_it_is_due() -> None:
    """Changing every label younger than the delay, or the future, changes no feature of a row."""
    rng = np.random.default_rng(1)
    count, delay = 600, 7 * DAY
    seconds = np.sort(rng.integers(0, 30 * DAY, count))
    account, store, fraud = (rng.integers(0, most, count) for most in (20, 10, 2))
    points = rng.random(count) * 100 + 1
    before = features(Transactions(seconds, account, store, points, fraud), delay)
    at = 500
    late = seconds > seconds[at] - delay
    changed = features(Transactions(seconds, account, store, points, np.where(late, 1 - fraud, fraud)), delay)
    assert before.columns[at].tolist() == changed.columns[at].tolist()
    assert np.isfinite(before.columns).all()
    after = np.arange(count) > at
    moved = features(Transactions(seconds, account, store, np.where(after, 5.0, points), fraud), delay)
    assert before.columns[at].tolist() == moved.columns[at].tolist()
    known = features(Transactions(seconds, account, store, points, np.where(~late, 1 - fraud, fraud)), delay)
    assert before.columns[at].tolist() != known.columns[at].tolist()


def test_columns_are_chosen_by_name() -> None:
    """The order asked for is the order given; an unknown name is an error."""
    row = np.arange(3)
    stream = Transactions(row, row, row, np.ones(3), np.zeros(3, dtype=np.int64))
    made = features(stream, DAY)
    chosen = made.of(("event.hour", "event.points"))
    assert chosen[:, 1].tolist() == made.columns[:, made.names.index("event.points")].tolist()
    with pytest.raises(ValueError, match="not in"):
        made.of(("event.nothing",))
