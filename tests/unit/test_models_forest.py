"""The supervised forest: learns what labels show, the same from any batches, and scores exactly as its trees say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models_forest import ForestParams, LabelForest
from detectors.models_trees import CompiledTrees

Labels = NDArray[np.int64]
PARAMS = ForestParams(
    trees=10, height=5, regrow_rows=100, inputs_a_level=3, fraud_rows=300, fraud_horizon=300, honest_rows=1_000,
    honest_horizon=5_000, fraud_sample=200, honest_sample=400,
)  # fmt: skip


def labelled(count: int, seed: int = 1) -> tuple[Floats, Labels]:
    """Rows of five inputs; fraud is where exactly one of the first two is high: no single input tells."""
    rng = np.random.default_rng(seed)
    inputs = rng.random((count, 5))
    return inputs, ((inputs[:, 0] > 0.5) ^ (inputs[:, 1] > 0.5)).astype(np.int64)


def grown(count: int, params: ForestParams = PARAMS) -> LabelForest:
    """A forest after so many rows."""
    forest = LabelForest(5, params)
    forest.learn(*labelled(count))
    return forest


def walked(trees: CompiledTrees, row: list[float]) -> float:
    """The score of one row by walking down every tree, node by node."""
    total = 0.0
    for feature, threshold, leaf in zip(trees.feature, trees.threshold, trees.leaf, strict=True):
        node = 0
        for _ in range(trees.height):
            node = 2 * node + 1 + (row[feature[node]] >= threshold[node])
        total += float(leaf[node - len(feature)])
    return total


def ranks_above(scores: Floats, labels: Labels) -> float:
    """The chance that a fraud scores higher than an honest row."""
    return float((scores[labels == 1][:, None] > scores[labels == 0][None, :]).mean())


def test_learns_what_no_single_input_shows() -> None:
    """Unseen rows of an exclusive-or are ranked almost perfectly."""
    inputs, labels = labelled(1_000, seed=2)
    assert ranks_above(grown(3_000).compile().score(inputs), labels) > 0.97


def test_follows_when_fraud_changes() -> None:
    """After the labels turned round for long enough, so do the scores."""
    forest = grown(2_000)
    inputs, labels = labelled(8_000, seed=3)
    forest.learn(inputs, 1 - labels)
    inputs, labels = labelled(1_000, seed=4)
    assert ranks_above(forest.compile().score(inputs), 1 - labels) > 0.9


def test_a_burst_of_wrong_labels_changes_little() -> None:
    """A tenth as many rows with their labels turned round take little from the ranking."""
    forest = LabelForest(5, replace(PARAMS, fraud_rows=1_000, fraud_horizon=5_000))
    forest.learn(*labelled(5_000))
    wrong, labels = labelled(500, seed=3)
    forest.learn(wrong, 1 - labels)
    inputs, labels = labelled(1_000, seed=4)
    assert ranks_above(forest.compile().score(inputs), labels) > 0.9


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 250), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_batches_leave_no_trace(cuts: list[int], seed: int) -> None:
    """The state after a log is the same to the last bit whether it came in pieces or at once."""
    params = replace(PARAMS, seed=seed, trees=3)
    inputs, labels = labelled(sum(cuts))
    at_once, in_pieces = LabelForest(5, params), LabelForest(5, params)
    at_once.learn(inputs, labels)
    for last, count in zip(np.cumsum(cuts).tolist(), cuts, strict=True):
        in_pieces.learn(inputs[last - count : last], labels[last - count : last])
    assert at_once.state() == in_pieces.state()


def test_scores_as_its_trees_say() -> None:
    """A batch scores as the walk down every node does, and each row of it as it does alone."""
    trees, inputs = grown(1_500).compile(), labelled(200, seed=5)[0]
    scores = trees.score(inputs)
    assert [walked(trees, row) for row in inputs.tolist()] == scores.tolist()
    assert [float(trees.score(row[None, :])[0]) for row in inputs] == scores.tolist()
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0


def test_states_differ_where_they_should() -> None:
    """Another seed or one more row makes another state; taking a snapshot does not."""
    forest = grown(500)
    state = forest.state()
    forest.compile()
    assert state == forest.state() == grown(500).state()
    assert state != grown(501).state()
    assert state != grown(500, replace(PARAMS, seed=2)).state()


def test_a_snapshot_does_not_change_as_the_forest_grows_on() -> None:
    """What workers hold is a copy."""
    forest, inputs = grown(500), labelled(50, seed=2)[0]
    trees = forest.compile()
    before = trees.score(inputs)
    forest.learn(*labelled(1_000, seed=7))
    assert before.tolist() == trees.score(inputs).tolist()
    assert before.tolist() != forest.compile().score(inputs).tolist()


def test_says_nothing_before_both_kinds_are_known() -> None:
    """With honest rows alone, or too few frauds, every score is 0 and the forest is not ready."""
    inputs, labels = labelled(1_000)
    forest = LabelForest(5, PARAMS)
    forest.learn(inputs, np.zeros_like(labels))
    few = np.zeros_like(labels)
    few[: PARAMS.labels_min - 1] = 1
    forest.learn(inputs, few)
    assert not forest.ready
    assert set(forest.compile().score(inputs).tolist()) == {0.0}
    forest.learn(inputs, labels)
    assert forest.ready


def test_inputs_that_are_all_alike_are_no_ground_for_a_split() -> None:
    """Rows that differ in nothing get one score, the share of fraud among them."""
    forest = LabelForest(2, PARAMS)
    forest.learn(np.ones((400, 2)), np.arange(400) % 2)
    trees = forest.compile()
    assert np.isinf(trees.threshold).all()
    assert trees.score(np.array([[1.0, 1.0], [0.0, 5.0]])).tolist() == pytest.approx([PARAMS.fraud_share] * 2)


@pytest.mark.parametrize("labels", [[0, 2], [0], [0, -1]])
def test_other_labels_are_refused(labels: list[int]) -> None:
    """Anything but one 0 or 1 a row is an error that says what labels are."""
    with pytest.raises(ValueError, match="labels must be 0"):
        LabelForest(5, PARAMS).learn(np.zeros((2, 5)), np.array(labels))
