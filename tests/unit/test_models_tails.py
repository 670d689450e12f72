"""How far out a value lies: exact in the tails, one-sided where told, calm under bursts, the same from any batches."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.layout import Floats
from detectors.models_tails import Tails, TailsParams

PARAMS = TailsParams(reservoir_rows=1_000, horizon_rows=100_000, tail_knots=50, middle_knots=100)


def seen(rows: Floats, params: TailsParams = PARAMS) -> Tails:
    """A model of two inputs after these rows; of the second only high values are suspicious."""
    model = Tails(("both", "high"), params)
    model.learn(rows)
    return model


def rarity(rows: Floats, value: float, *, both: bool) -> float:
    """The definition, by counting all rows."""
    extreme = int((rows >= value).sum())
    if both:
        extreme = min(extreme, int((rows <= value).sum()))
    return max(0.0, math.log((len(rows) + 1) / (2 * extreme + 1)))


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=32, max_size=120),
    value=st.tuples(st.integers(-1, 31), st.integers(-1, 4)),
)
def test_is_the_share_at_least_as_extreme(rows: list[tuple[int, int]], value: tuple[int, int]) -> None:
    """While all rows are in the table, rarities are exactly those of the definition, ties included."""
    learned, asked = np.array(rows, dtype=np.float64), np.array([value], dtype=np.float64)
    expected = [rarity(learned[:, 0], value[0], both=True), rarity(learned[:, 1], value[1], both=False)]
    model = seen(learned).compile()
    assert expected == pytest.approx(model.rarities(asked)[0].tolist(), rel=1e-12)
    assert sum(each**3 for each in expected) == pytest.approx(float(model.score(asked)[0]), rel=1e-12)


def test_the_table_is_exact_in_the_tails_and_close_between() -> None:
    """A thinned table gives the extremes as they are, and elsewhere ranks that are off by less than one step of it."""
    rows = np.random.default_rng(1).normal(size=(900, 2))
    model = seen(rows).compile()
    assert model.knots.shape[1] < 210
    ranked = np.sort(rows[:, 1])
    for value in (*ranked[-50:].tolist(), 9.0):
        assert rarity(rows[:, 1], value, both=False) == pytest.approx(
            float(model.rarities(np.array([[0.0, value]]))[0, 1])
        )
    for value in ranked[460:840:7].tolist():
        got = float(model.rarities(np.array([[0.0, value]]))[0, 1])
        assert rarity(rows[:, 1], value, both=False) == pytest.approx(got, abs=8.0 / (rows[:, 1] >= value).sum())


def test_a_burst_does_not_become_normal() -> None:
    """A burst of a tenth of the stream leaves its last row rarer than nine in ten honest ones."""
    rng = np.random.default_rng(2)
    model = seen(rng.normal(size=(9_000, 2)))
    burst = rng.normal(5.0, 0.1, size=(1_000, 2))
    model.learn(burst[:-1])
    tails = model.compile()
    assert float(tails.score(burst[-1:])[0]) > float(np.quantile(tails.score(rng.normal(size=(2_000, 2))), 0.9))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_batches_leave_no_trace(cuts: list[int], seed: int) -> None:
    """The state is the same to the last bit in pieces or at once, and each row scores as it does alone."""
    params = replace(PARAMS, seed=seed)
    rows = np.random.default_rng(3).normal(size=(sum(cuts), 2))
    at_once, in_pieces = seen(rows, params), seen(rows[:0], params)
    for last, count in zip(np.cumsum(cuts).tolist(), cuts, strict=True):
        in_pieces.learn(rows[last - count : last])
    assert at_once.state() == in_pieces.state()
    model = at_once.compile()
    assert model.score(rows).tolist() == [float(model.score(row[None, :])[0]) for row in rows]


def test_another_seed_or_row_is_another_state() -> None:
    """The digest covers parameters, sides and rows."""
    rows = np.random.default_rng(4).normal(size=(2_000, 2))
    states = {
        seen(rows).state(),
        seen(rows[:-1]).state(),
        seen(rows, replace(PARAMS, seed=2)).state(),
    }
    other = Tails(("both", "both"), PARAMS)
    other.learn(rows)
    assert len(states | {other.state()}) == 4


def test_says_nothing_before_it_has_seen_enough() -> None:
    """Every score is 0 until `ready_rows` were learned."""
    model = seen(np.zeros((PARAMS.ready_rows - 1, 2)))
    assert not model.ready
    assert model.compile().score(np.array([[9.0, 9.0]])).tolist() == [0.0]
    model.learn(np.zeros((1, 2)))
    assert model.ready
    assert model.compile().score(np.array([[9.0, 9.0]]))[0] > 0.0
