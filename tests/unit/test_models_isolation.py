"""The isolation forest: sets rare rows apart, keeps its judgement through bursts, and is the same from any batches."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.anomaly import HalfSpaceTrees

from detectors.layout import Floats
from detectors.models_isolation import IsolationForest, IsolationParams

PARAMS = IsolationParams(trees=30, height=6, sample_rows=64, reservoir_rows=1_000, horizon_rows=50_000)


def honest(count: int, seed: int = 1) -> Floats:
    """Rows of three inputs in one cloud around the middle."""
    return np.random.default_rng(seed).normal(0.5, 0.06, size=(count, 3))


def strange(count: int, seed: int = 2) -> Floats:
    """Rows that lie together far from the cloud."""
    return np.random.default_rng(seed).normal(0.9, 0.01, size=(count, 3))


def grown(rows: Floats, params: IsolationParams = PARAMS) -> IsolationForest:
    """A forest after these rows."""
    forest = IsolationForest(3, params)
    forest.learn(rows)
    return forest


def ranks_above(high: Floats, low: Floats) -> float:
    """The chance that one of `high` is above one of `low`; ties count half."""
    difference = high[:, None] - low[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_rows_apart_from_the_others_score_higher() -> None:
    """Every strange row is above nearly every honest one, in [0, 1]."""
    trees = grown(honest(2_000)).compile()
    scores = trees.score(strange(100))
    assert ranks_above(scores, trees.score(honest(500, 3))) > 0.99
    assert 0.0 <= scores.min() <= scores.max() <= 1.0


def test_a_burst_that_blinds_half_space_trees_does_not_become_normal() -> None:
    """After 600 strange rows in a row, as many as River's window holds twice, only the long memory still ranks them."""
    stream = np.concatenate((honest(6_000), strange(600)))
    tail, normal = strange(100, 5), honest(500, 6)
    trees = grown(stream).compile()
    assert ranks_above(trees.score(tail), trees.score(normal)) > 0.95
    river: Any = HalfSpaceTrees(n_trees=10, height=6, window_size=250, seed=1)
    for row in stream.tolist():
        river.learn_one(dict(enumerate(row)))
    blinded = [np.array([river.score_one(dict(enumerate(row))) for row in rows.tolist()]) for rows in (tail, normal)]
    assert ranks_above(blinded[0], blinded[1]) < 0.5


def test_path_lengths_are_those_of_the_sample() -> None:
    """A tree of a sample of different rows isolates each: leaves hold depths that satisfy Kraft's equality.

    In a binary tree where every inner node has two children, the sum of 2**-depth over its leaves is 1.
    """
    params = replace(PARAMS, trees=5, height=12, sample_rows=16, first_rows=16)
    trees = grown(honest(16), params).compile()
    most = 12 + 2 * (np.log(15) + 0.5772156649015329) - 2 * 15 / 16
    for tree in range(5):
        depths, level = [], [(0, 0)]
        while level:
            node, depth = level.pop()
            if node < 2**12 - 1 and np.isfinite(trees.threshold[tree, node]):
                level += [(2 * node + 1, depth + 1), (2 * node + 2, depth + 1)]
                continue
            while node < 2**12 - 1:
                node = 2 * node + 1
            depths.append(depth)
            assert float(trees.leaf[tree, node - 2**12 + 1] * 5) == pytest.approx(1.0 - depth / most)
        assert len(depths) == 16
        assert sum(2.0**-depth for depth in depths) == pytest.approx(1.0)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_batches_leave_no_trace(cuts: list[int], seed: int) -> None:
    """The state is the same to the last bit in pieces or at once, and each row scores as it does alone."""
    params = replace(PARAMS, seed=seed, trees=5)
    rows = honest(sum(cuts))
    at_once, in_pieces = grown(rows, params), IsolationForest(3, params)
    for last, count in zip(np.cumsum(cuts).tolist(), cuts, strict=True):
        in_pieces.learn(rows[last - count : last])
    assert at_once.state() == in_pieces.state()
    trees = at_once.compile()
    assert trees.score(rows).tolist() == [float(trees.score(row[None, :])[0]) for row in rows]


def test_another_seed_or_row_is_another_state() -> None:
    """The digest covers parameters and rows, and taking a snapshot changes nothing."""
    forest = grown(honest(500))
    state = forest.state()
    forest.compile()
    assert state == forest.state() == grown(honest(500)).state()
    assert state != grown(honest(499)).state()
    assert state != grown(honest(500), replace(PARAMS, seed=2)).state()


def test_says_nothing_before_trees_are_grown() -> None:
    """Every score is 0 until `first_rows` were learned; rows all alike then score all alike."""
    forest = grown(np.ones((PARAMS.first_rows - 1, 3)))
    assert not forest.ready
    assert set(forest.compile().score(honest(9)).tolist()) == {0.0}
    forest.learn(np.ones((1, 3)))
    assert forest.ready
    assert len(set(forest.compile().score(np.concatenate((honest(9), np.ones((1, 3))))).tolist())) == 1
