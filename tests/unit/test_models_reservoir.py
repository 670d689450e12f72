"""The sample that models remember by: uniform, bounded, slow to forget, and the same however rows are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.layout import Floats
from detectors.models_reservoir import Reservoir, checked, chosen, dice, drawn


def column(count: int) -> Floats:
    """Rows that carry their own number."""
    return np.arange(count, dtype=np.float64)[:, None]


def row_by_row(count: int, size: int, horizon: int, seed: int) -> list[float]:
    """Algorithm R as the textbook has it, one row after the other."""
    held: list[float] = []
    for number, draw in enumerate(dice(seed, 0, 0, count).tolist()):
        if number < size:
            held.append(float(number))
            continue
        slot = int(draw * min(number + 1, horizon))
        if slot < size:
            held[slot] = float(number)
    return held


@given(
    cuts=st.lists(st.integers(0, 60), max_size=8),
    size=st.integers(1, 20),
    extra=st.integers(0, 60),
    seed=st.integers(0, 2**40),
)
def test_equals_the_textbook_whatever_the_batches(cuts: list[int], size: int, extra: int, seed: int) -> None:
    """Adding rows in any batches gives what algorithm R gives row by row."""
    reservoir = Reservoir(size, 1, size + extra, seed)
    total = sum(cuts)
    for first, count in zip(np.cumsum([0, *cuts]).tolist(), cuts, strict=False):
        reservoir.add(column(total)[first : first + count])
    assert row_by_row(total, size, size + extra, seed) == reservoir.rows[:, 0].tolist()
    assert total == reservoir.seen


def test_holds_a_uniform_sample() -> None:
    """Every tenth of a long stream is held in equal parts, within five standard deviations."""
    reservoir = Reservoir(5_000, 1, 10**9, 3)
    reservoir.add(column(100_000))
    parts = np.histogram(reservoir.rows[:, 0], bins=10, range=(0, 100_000))[0]
    assert np.abs(parts - 500).max() < 5 * np.sqrt(500)


def test_a_horizon_lets_old_rows_fade() -> None:
    """After a stream of four horizons little of the first quarter is left, and much of the last."""
    reservoir = Reservoir(2_000, 1, 20_000, 3)
    reservoir.add(column(80_000))
    assert (reservoir.rows[:, 0] < 20_000).mean() < 0.08
    assert (reservoir.rows[:, 0] >= 60_000).mean() > 0.5


def test_dice_are_even_and_apart() -> None:
    """Numbers fill [0, 1) evenly; neighbouring seeds and streams have nothing in common."""
    numbers = dice(1, 0, 0, 100_000)
    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    assert np.abs(np.histogram(numbers, bins=20, range=(0, 1))[0] - 5_000).max() < 5 * np.sqrt(5_000)
    others = [numbers[1:], dice(2, 0, 0, 99_999), dice(1, 1, 0, 99_999)]
    for other in others:
        assert abs(float(np.corrcoef(numbers[:-1], other)[0, 1])) < 0.02


def test_dice_are_these_numbers() -> None:
    """Pinned: a snapshot must be reproducible by any later release."""
    assert np.array_equal(dice(7, 3, 2, 3), dice(7, 3, 0, 5)[2:])
    assert dice(0, 0, 0, 3).tolist() == [0.6524484863740322, 0.7012121095215252, 0.3871241409757855]
    assert dice(7, 3, 2, 2).tolist() == [0.7798542084476736, 0.7171446561897714]


def test_positions_lie_in_range() -> None:
    """`drawn` may repeat, `chosen` may not."""
    assert {0, 1, 2} == set(drawn(1, 1, 50, 3).tolist())
    assert sorted(chosen(1, 1, 9, 9).tolist()) == list(range(9))
    assert len(set(chosen(1, 2, 4, 9).tolist())) == 4


def test_inputs_that_cannot_be_learned_are_named() -> None:
    """The error names the row and column that is not a number, or the shape."""
    with pytest.raises(ValueError, match="input 1 of row 2"):
        checked(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, np.nan]]), 2)
    with pytest.raises(ValueError, match="shape"):
        checked(np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="horizon"):
        Reservoir(10, 1, 9, 1)
