"""Learning is a fold: same rows, same state; only trusted rows; bounded influence."""

from dataclasses import replace

import numpy as np
import pytest

from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow, Learner, LearnerParams, OutOfOrder

WIDTH = len(INPUT_NAMES)
PARAMS = LearnerParams(trees=4, height=4, window_rows=40, cuts=8, grace_rows=100, influence_rows=200, influence_max=5)


def rows(count: int, seed: int = 1) -> list[LabelRow]:
    """A log of harmless rows, every account once, a third of them of programme q."""
    rng = np.random.default_rng(seed)
    return [
        LabelRow(seq, 0, "p" if seq % 3 else "q", f"a{seq}", None, np.abs(rng.normal(0, 1, WIDTH)))
        for seq in range(1, count + 1)
    ]


def fold(log: list[LabelRow], params: LearnerParams = PARAMS) -> Learner:
    """A learner after these rows."""
    learner = Learner(params)
    for row in log:
        learner.learn(row)
    return learner


def test_equal_logs_give_equal_states() -> None:
    """The digest depends on the rows and the parameters alone, and every further row changes it."""
    assert fold(rows(300)).digest() == fold(rows(300)).digest()
    assert fold(rows(300)).digest() != fold(rows(299)).digest()
    assert fold(rows(300)).digest() != fold(rows(300), replace(PARAMS, seed=2)).digest()
    assert fold(rows(300)).digest() != fold(rows(300, seed=2)).digest()


def test_taking_a_snapshot_changes_nothing() -> None:
    """A fold that publishes on the way ends in the same state."""
    learner = Learner(PARAMS)
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


def test_fraud_and_rows_without_features_teach_nothing() -> None:
    """Only the row's number moves; models and calibration stay as they were."""
    clean, learner = fold(rows(200)), fold(rows(200))
    assert not learner.learn(replace(rows(201)[200], label=1))
    assert not learner.learn(replace(rows(202)[201], inputs=None))
    features = np.stack([row.inputs for row in rows(50, seed=9) if row.inputs is not None])
    assert learner.snapshot(1).scores(features).tobytes() == clean.snapshot(1).scores(features).tobytes()
    assert (learner.seq, learner.learned) == (202, 200)


def test_one_account_or_device_shapes_only_its_share() -> None:
    """A thousand rows of one account, or of many accounts on one device, move a canary no more than the cap allows."""
    flood = np.full(WIDTH, 50.0)
    by_account = [LabelRow(seq, 0, "p", "mule", None, flood) for seq in range(301, 1_301)]
    by_device = [LabelRow(seq, 0, "p", f"b{seq}", b"farm", flood) for seq in range(301, 1_301)]
    capped = [LabelRow(seq, 0, "p", "mule", None, flood) for seq in range(301, 301 + PARAMS.influence_max)]
    canary = flood[None, :]
    expected = fold(rows(300) + capped).snapshot(1).scores(canary).tolist()
    assert fold(rows(300) + by_account).snapshot(1).scores(canary).tolist() == expected
    assert fold(rows(300) + by_device).snapshot(1).scores(canary).tolist() == expected


def test_influence_comes_back_with_time() -> None:
    """Once enough other rows were learned, the account may teach again."""
    flood = [replace(row, account="mule") for row in rows(10)]
    later = [replace(row, seq=row.seq + 10) for row in rows(PARAMS.influence_rows)]
    learner = fold(flood + later)
    assert learner.learn(replace(rows(1)[0], seq=learner.seq + 1, account="mule"))


def test_a_programme_gets_its_own_calibration_once_it_has_scores_enough() -> None:
    """Tables for all, and for each programme with a thousand scores."""
    log = rows(1_200)
    assert fold(log[:40]).snapshot(1).calibration.programs == ()
    assert fold(log[:400]).snapshot(1).calibration.programs == ("",)
    only_p = [replace(row, program="p") for row in log]
    assert fold(only_p).snapshot(1).calibration.programs == ("", "p")


def test_programmes_are_bounded() -> None:
    """More programmes than the limit share the calibration for all: memory stays bounded."""
    many = [replace(row, program=f"p{row.seq}") for row in rows(150)]
    assert len(fold(many, replace(PARAMS, programs_max=3))._scores) == 1 + 3


def test_the_grace_period() -> None:
    """A snapshot is ready once enough was learned, not before."""
    assert [fold(rows(count)).snapshot(1).ready for count in (99, 100)] == [False, True]
