"""Learning is a fold: same rows, same state; only trusted rows; bounded influence."""

from dataclasses import replace

import numpy as np
import pytest

from detectors.models import CHANCE, MODELS, WIDE
from detectors.models_forest import ForestParams
from detectors.models_learner import LabelRow, Learner, OutOfOrder
from tests.unit.model_rows import SMALL, fold, inputs, mixed, rows, unbounded


def test_equal_logs_give_equal_states() -> None:
    """The digest depends on the rows and the parameters alone, and every further row changes it."""
    assert fold(rows(300)).digest() == fold(rows(300)).digest()
    assert fold(rows(300)).digest() != fold(rows(299)).digest()
    assert fold(rows(300)).digest() != fold(rows(300), replace(SMALL, models=replace(SMALL.models, seed=2))).digest()
    assert fold(rows(300)).digest() != fold(rows(300, seed=2)).digest()


def test_taking_a_snapshot_changes_nothing() -> None:
    """A fold that publishes on the way ends in the same state."""
    learner = Learner(SMALL)
    for row in rows(300):
        learner.learn(row)
        if row.seq % 70 == 0:
            learner.snapshot(row.seq)
            learner.digest()
    assert learner.digest() == fold(rows(300)).digest()


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_rows_come_in_order_without_a_gap(seq: int) -> None:
    """A repeated or missing row is an error, never a silently different state."""
    learner = fold(rows(1))
    with pytest.raises(OutOfOrder):
        learner.learn(replace(rows(1)[0], seq=seq))


def test_rows_without_inputs_teach_nothing() -> None:
    """Only the row's number moves; models and calibration stay as they were."""
    clean, learner = fold(rows(200)), fold(rows(200))
    assert not learner.learn(replace(rows(201)[200], inputs=None))
    assert (learner.seq, learner.learned) == (201, clean.learned)
    queries = inputs(50, seed=9)
    assert (
        learner.snapshot(1).numbers(queries, ["p"] * 50).tobytes()
        == clean.snapshot(1).numbers(queries, ["p"] * 50).tobytes()
    )


def test_fraud_teaches_the_supervised_model_alone() -> None:
    """A row of fraud changes the weights, and no score of a model that is to know the ordinary."""
    at_once = replace(SMALL, block_rows=1)
    clean, learner = fold(mixed(300), at_once), fold(mixed(300), at_once)
    # Enough of them that the supervised model grows a tree.
    for row in rows(340, first=301):
        learner.learn(replace(row, label=1))
    queries = inputs(50, seed=9)
    before, after = clean.snapshot(1).scores(queries), learner.snapshot(1).scores(queries)
    changed = [bool((before[:, column] != after[:, column]).any()) for column in range(len(MODELS))]
    assert changed == [name == CHANCE for name in MODELS]


def test_what_is_held_out_is_never_learned() -> None:
    """One good row in ten and one fraud in five are kept aside: another value in them changes no model."""
    log = mixed(400)
    kept = fold(log).held_out()
    frauds = sum(row.label for row in log)
    assert (int(kept.fraud.sum()), int((~kept.fraud).sum())) == (frauds // 5, (400 - frauds) // 10)
    quiet = [row for row in log if row.label == 0]
    assert fold(log).learned < len(log)
    other = replace(quiet[9], inputs=inputs(1, seed=77)[0])
    changed = [other if row.seq == other.seq else row for row in log]
    queries = inputs(30, seed=8)
    assert fold(changed).snapshot(1).scores(queries).tobytes() == fold(log).snapshot(1).scores(queries).tobytes()
    assert fold(changed).digest() != fold(log).digest()


@pytest.mark.parametrize("label", [0, 1])
def test_one_account_device_or_address_shapes_only_its_share(label: int) -> None:
    """A thousand rows of one party, whatever else of it varies, teach no more than the cap allows."""
    flood = np.full(WIDE, 50.0)
    of = {
        "account": [LabelRow(seq, label, "p", "mule", None, flood) for seq in range(301, 1_301)],
        "device": [LabelRow(seq, label, "p", f"b{seq}", b"farm", flood) for seq in range(301, 1_301)],
        "ip": [LabelRow(seq, label, "p", f"b{seq}", b"%d" % seq, flood, b"exit") for seq in range(301, 1_301)],
    }
    ready = fold(mixed(300))
    most = [SMALL.influence.most, SMALL.fraud_influence.most][label]
    for flooded in of.values():
        learner = Learner(SMALL)
        learner.restore(ready.export())
        assert sum(learner.learn(row) for row in flooded) <= most
    capped, free = (fold(mixed(300) + of["account"][:count]) for count in (most, 1_000))
    canary = flood[None, :]
    assert free.snapshot(1).scores(canary).tolist() == capped.snapshot(1).scores(canary).tolist()


def test_influence_comes_back_with_time() -> None:
    """Once enough other rows were learned, the account may teach again."""
    flood = [replace(row, account="mule") for row in rows(10)]
    again = replace(rows(1)[0], account="mule")
    assert not fold(flood).learn(replace(again, seq=11))
    learner = fold(flood + rows(SMALL.influence.rows, first=11))
    assert learner.learn(replace(again, seq=learner.seq + 1))


def test_a_restored_state_goes_on_as_if_nothing_had_happened() -> None:
    """At any row, also before the first, a learner made from exported arrays ends where the first one ends."""
    log = mixed(700)
    params = unbounded()
    whole = fold(log, params)
    for at in (0, 1, 39, 41, 333, 700):
        first, second = fold(log[:at], params), Learner(params)
        second.restore(first.export())
        assert second.digest() == first.digest()
        for row in log[at:]:
            second.learn(row)
        assert second.digest() == whole.digest()
        queries = inputs(20, seed=4)
        assert (
            second.snapshot(1).numbers(queries, ["p"] * 20).tobytes()
            == whole.snapshot(1).numbers(queries, ["p"] * 20).tobytes()
        )


def test_a_foreign_state_is_refused() -> None:
    """The state of trees of another seed, or part of a state, is never taken over in silence."""
    state = dict(fold(rows(100)).export())
    other = Learner(replace(SMALL, models=replace(SMALL.models, seed=5)))
    with pytest.raises(ValueError, match="seed"):
        other.restore(state)
    del state["hst.masses"]
    with pytest.raises(KeyError):
        Learner(SMALL).restore(state)


def test_a_programme_gets_its_own_calibration_once_it_has_scores_enough() -> None:
    """Tables for all, and for each programme with a thousand scores."""
    log = rows(1_300)
    assert fold(log[:40]).snapshot(1).calibration.programs == ()
    assert fold(log[:400]).snapshot(1).calibration.programs == ("",)
    only_p = [replace(row, program="p") for row in log]
    assert fold(only_p).snapshot(1).calibration.programs == ("", "p")


def test_programmes_are_bounded() -> None:
    """More programmes than the limit share the calibration for all: memory stays bounded."""
    many = [replace(row, program=f"p{row.seq}") for row in rows(150)]
    assert len(fold(many, replace(SMALL, programs_max=3))._scores) == 1 + 3


def test_the_grace_period() -> None:
    """A snapshot is ready once enough was learned, not before: one row in ten is held out, ten are learned at once."""
    assert [fold(rows(count)).snapshot(1).ready for count in (110, 111)] == [False, True]


def test_the_supervised_model_tells_fraud_apart_with_a_calibrated_chance() -> None:
    """After enough labels fraud of the learned kind is likely, ordinary events are not, and the sum is the rate."""
    params = unbounded(block_rows=100, models=replace(SMALL.models, forest=ForestParams(trees=20, regrow_rows=300)))
    snapshot = fold(mixed(3_000), params).snapshot(1)
    fresh = mixed(1_000, seed=12)
    chance = snapshot.numbers(np.stack([row.inputs for row in fresh if row.inputs is not None]), ["p"] * 1_000)
    chance = chance[:, MODELS.index(CHANCE)]
    fraud = np.array([row.label == 1 for row in fresh])
    assert chance[fraud].min() > 0.5 > np.quantile(chance[~fraud], 0.99)
    assert abs(chance.mean() - fraud.mean()) < 0.02


def test_drift_is_noticed_once_and_named() -> None:
    """When an input moves for good the learner says which, and not again while nothing else changes."""
    calm = rows(600)
    learner = fold(calm, unbounded(drift=replace(SMALL.drift, threshold=20.0)))
    assert not learner.drifted
    for row in rows(400, seed=2, first=601):
        moved = None if row.inputs is None else row.inputs.copy()
        if moved is not None:
            moved[0] += 30.0
        learner.learn(replace(row, inputs=moved))
    named = {each.series for each in learner.drifted}
    assert "velocity.account.count_1h" in named
    assert not {"event.points", "event.hour", "velocity.ip.count_1h"} & named


def test_the_rate_of_fraud_is_that_of_all_labels() -> None:
    """Where only a tenth of the good events is logged each counts ten times: logging less makes nothing likelier."""
    params = unbounded(block_rows=100, models=replace(SMALL.models, forest=ForestParams(trees=20, regrow_rows=300)))
    log = mixed(2_000)
    weighed = [replace(row, weight=1.0 if row.label else 10.0) for row in log]
    fraud = np.stack([row.inputs for row in log if row.label and row.inputs is not None])
    plain, tenth = (
        float(fold(each, params).snapshot(1).numbers(fraud, ["p"] * len(fraud))[:, MODELS.index(CHANCE)].mean())
        for each in (log, weighed)
    )
    assert plain > 0.8
    assert plain / (1 - plain) > 3 * tenth / (1 - tenth)
