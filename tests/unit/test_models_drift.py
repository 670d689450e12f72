"""Drift: River's Page-Hinkley for many series at once, and populations compared with a frozen one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.drift import PageHinkley as River

from detectors.models_drift import PARTS, PageHinkley, PageHinkleyShape, Recent, profile, psi

SHAPE = PageHinkleyShape(threshold=3.0)


def river(values: list[float], shape: PageHinkleyShape = SHAPE) -> list[bool]:
    """Where River's own detector sees drift."""
    detector = River(shape.rows_min, shape.delta, shape.threshold, shape.forget, mode="both")
    found = []
    for value in values:
        detector.update(value)  # type: ignore[no-untyped-call]  # River has no types
        found.append(bool(detector.drift_detected))
    return found


STREAMS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(STREAMS, STREAMS)
def test_every_series_sees_what_river_sees(one: list[tuple[float, int]], other: list[tuple[float, int]]) -> None:
    """Row by row, also after an alarm, and whatever the other series do."""
    streams = [[value for value, times in parts for _ in range(times)] for parts in (one, other)]
    length = min(map(len, streams))
    test = PageHinkley(SHAPE, 2)
    found = [test.update(np.array([stream[row] for stream in streams])).tolist() for row in range(length)]
    for series, stream in enumerate(streams):
        assert [row[series] for row in found] == river(stream[:length])


def test_an_unknown_value_is_no_value() -> None:
    """A series without a value at a row stands still there."""
    values = [0.1] * 50 + [0.9] * 50
    test = PageHinkley(SHAPE, 1)
    found = []
    for value in values:
        found.append(bool(test.update(np.array([value]))[0]))
        assert not test.update(np.array([np.nan]))[0]
    assert found == river(values)
    assert any(found)


def test_a_state_goes_on() -> None:
    """From exported arrays the tests go on as if nothing had happened."""
    values = np.random.default_rng(1).random((200, 3))
    whole, first, second = (PageHinkley(PageHinkleyShape(threshold=0.5), 3) for _ in range(3))
    expected = [whole.update(row).tolist() for row in values]
    found = [first.update(row).tolist() for row in values[:90]]
    second.restore(first.export())
    assert found + [second.update(row).tolist() for row in values[90:]] == expected


def test_psi_is_small_for_the_same_population_and_large_for_another() -> None:
    """The usual readings: below 0.1 nothing happened, above 0.25 it is another population."""
    numbers = np.random.default_rng(2)
    reference = profile(numbers.random((2_000, 2)))
    same = psi(reference, numbers.random((2_000, 2)))
    moved = psi(reference, np.stack((numbers.random(2_000), numbers.random(2_000) ** 3), axis=1))
    assert same.max() < 0.1
    assert moved[0] < 0.1
    assert moved[1] > 0.25


def test_psi_is_the_sum_it_is_said_to_be() -> None:
    """Against the formula, on parts that are easily counted."""
    reference = profile(np.arange(1_000.0)[:, None])
    moved = psi(reference, np.arange(500.0)[:, None])
    was, now = np.full(PARTS, 0.1), np.array([0.2] * 5 + [0.001] * 5)
    assert moved[0] == pytest.approx(float(((now - was) * np.log(now / was)).sum()))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=50))
def test_a_series_of_few_values_equals_itself(values: list[float]) -> None:
    """Ties do not look like drift."""
    column = np.array(values)[:, None]
    assert psi(profile(column), column)[0] == 0.0


def test_what_is_unknown_is_not_compared() -> None:
    """A series without any value, then or now, has no PSI."""
    some, none = np.random.default_rng(3).random((50, 1)), np.full((50, 1), np.nan)
    assert np.isnan(psi(profile(none), some)[0])
    assert np.isnan(psi(profile(some), none)[0])
    assert not np.isnan(psi(profile(np.concatenate((some, none))), some)[0])


def test_recent_values_are_the_latest() -> None:
    """A ring: as many as it holds, the oldest go first; the same again from its arrays."""
    recent, other = Recent(3, 1), Recent(3, 1)
    for value in range(5):
        recent.put(np.array([float(value)]))
    assert sorted(recent.values()[:, 0].tolist()) == [2.0, 3.0, 4.0]
    other.restore(recent.export())
    other.put(np.array([9.0]))
    assert sorted(other.values()[:, 0].tolist()) == [3.0, 4.0, 9.0]
