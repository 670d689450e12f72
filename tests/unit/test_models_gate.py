"""The gate: what a snapshot must show before it comes into use."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.layout import Floats
from detectors.models import INPUT_NAMES, MODELS
from detectors.models_gate import CANARIES, GateParams, Verdict, auc, average_precision, judge, points
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_rows import HeldOut
from detectors.models_snapshot import Snapshot
from tests.unit.model_rows import SMALL, fold, mixed, unbounded

LENIENT = GateParams(psi_max=9.0, canary_share=0.0)
PARAMS = unbounded(hold_out_every=3, hold_out_fraud_every=2)


@cache
def trained(count: int = 1_500) -> Learner:
    """Models that know fraud from the ordinary, and rows they never saw."""
    return fold(mixed(count), PARAMS)


def snapshot(count: int = 1_500) -> Snapshot:
    """Their snapshot."""
    return trained(count).snapshot(count)


def rows() -> HeldOut:
    """What is held out."""
    return trained().held_out()


def failed(verdict: Verdict) -> set[str]:
    """The names of the checks that were not passed."""
    return {check.name for check in verdict.checks if not check.passed}


def blind(of: Snapshot) -> Snapshot:
    """The same models, to whom everything is as common as everything else."""
    known = of.calibration
    return replace(
        of, calibration=replace(known, tables=np.full_like(known.tables, 1e9), edges=np.zeros(0), chances=np.zeros(0))
    )


def test_a_snapshot_passes_beside_itself() -> None:
    """Nothing is worse than it was, and every comparison was made."""
    verdict = judge(snapshot(), snapshot(), snapshot(), rows(), LENIENT)
    assert (verdict.passed, verdict.reason) == (True, "all checks passed")
    names = {check.name for check in verdict.checks}
    for expected in ("PSI of shares", "AUC beside the champion's", "evidence against fraud beside the reference's"):
        assert expected in names
    assert {f"canary {name}" for name in CANARIES} <= names


def test_a_damaged_snapshot_is_refused() -> None:
    """Models that have lost their sight fail by what they no longer find, beside champion and reference alike."""
    for champion, reference in ((snapshot(), None), (blind(snapshot()), snapshot())):
        verdict = judge(blind(snapshot()), champion, reference, rows(), replace_params(psi_max=1e9))
        assert not verdict.passed
        assert any(name.startswith("evidence against fraud") for name in failed(verdict))
        assert "must be at least" in verdict.reason


def replace_params(**changes: float) -> GateParams:
    """A lenient gate with some other figures."""
    return GateParams(**{"psi_max": 9.0, "canary_share": 0.0, **changes})  # type: ignore[arg-type]  # figures all


def test_a_model_that_falls_silent_is_refused() -> None:
    """Where the champion had a number the new snapshot must have one: NaN is no opinion."""
    tables = snapshot().calibration.tables.copy()
    tables[:, MODELS.index("loda")] = np.nan
    silent = replace(snapshot(), calibration=replace(snapshot().calibration, tables=tables))
    assert "rows a model no longer scores" in failed(judge(silent, snapshot(), None, rows(), LENIENT))
    assert "rows a model no longer scores" in failed(judge(silent, None, None, rows(), LENIENT))


def test_a_snapshot_in_its_grace_period_is_refused() -> None:
    """It would say nothing at all."""
    assert "past its grace period" in failed(judge(replace(snapshot(), ready=False), None, None, rows(), LENIENT))


def test_shares_that_moved_are_refused() -> None:
    """If good events suddenly look rare to a model, its calibration is not to be trusted."""
    strange = replace(
        snapshot(),
        calibration=replace(snapshot().calibration, tables=np.full_like(snapshot().calibration.tables, -1.0)),
    )
    verdict = judge(strange, snapshot(), None, rows(), GateParams(canary_share=0.0))
    assert "PSI of shares" in failed(verdict)


def test_canaries_must_sing() -> None:
    """To models of honest members made-up fraud is unusual; to blind ones it is not, and that alone refuses them."""
    learner = Learner(
        LearnerParams(models=SMALL.models, influence=PARAMS.influence, block_rows=50, grace_rows=0, hold_out_every=3)
    )
    for row in quiet_members(2_000):
        learner.learn(row)
    good = learner.snapshot(1)
    assert failed(judge(good, None, None, learner.held_out(), GateParams())) == set()
    dull = judge(blind(good), None, None, learner.held_out(), GateParams())
    assert failed(dull) == {f"canary {name}" for name in CANARIES}


def quiet_members(count: int) -> list[LabelRow]:
    """Members who come now and then: small amounts, one device, by day."""
    numbers = np.random.default_rng(5)
    made = np.zeros((count, len(INPUT_NAMES)))
    for name, values in {
        "velocity.account.count_7d": numbers.poisson(1.5, count),
        "velocity.account.sum_7d": numbers.gamma(2, 40, count),
        "velocity.account.devices_7d": numbers.integers(0, 2, count),
        "velocity.device.count_24h": numbers.poisson(0.3, count),
        "account.seconds_since_signup": numbers.uniform(1e6, 3e7, count),
        "account.seconds_since_credential_change": numbers.uniform(1e6, 3e7, count),
        "event.points": numbers.gamma(2, 40, count),
        "event.hour": numbers.integers(8, 22, count),
        "event.outflow": numbers.random(count) < 0.1,
    }.items():
        made[:, INPUT_NAMES.index(name)] = values
    return [LabelRow(seq, 0, "p", f"a{seq}", None, row) for seq, row in enumerate(made, 1)]


def test_without_enough_rows_nothing_is_compared() -> None:
    """A gate that has seen next to nothing judges what can be judged."""
    few = fold(mixed(120), PARAMS)
    verdict = judge(few.snapshot(1), few.snapshot(1), None, few.held_out(), GateParams())
    assert {check.name for check in verdict.checks} <= {"past its grace period", "rows a model no longer scores"}


def test_points_come_back_from_squashed_rows() -> None:
    """The evidence is weighted by what was at stake."""
    kept = rows()
    place = INPUT_NAMES.index("event.points")
    assert points(kept)[kept.fraud] == pytest.approx(5_000.0)
    assert (points(kept) >= 1.0).all()
    assert points(replace(kept, inputs=np.zeros_like(kept.inputs)))[0] == 1.0
    assert kept.inputs[:, place].max() < 1.0


SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(SCORES)
def test_rankings_are_counted_right(rows_: list[tuple[float, bool]]) -> None:
    """AUC against all pairs, average precision against its definition; NaN where there is nothing to rank."""
    scores, fraud = np.array([each[0] for each in rows_]), np.array([each[1] for each in rows_])
    bad, good = scores[fraud], scores[~fraud]
    if len(bad) and len(good):
        pairs = [(one > other) + (one == other) / 2 for one in bad for other in good]
        assert auc(scores, fraud) == pytest.approx(float(np.mean(pairs)))
    else:
        assert np.isnan(auc(scores, fraud))
    if not len(bad):
        assert np.isnan(average_precision(scores, fraud))
        return
    assert average_precision(scores, fraud) == pytest.approx(_by_definition(scores, fraud))


def _by_definition(scores: Floats, fraud: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    total, recall = 0.0, 0.0
    for limit in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= limit
        now = float(fraud[taken].sum() / fraud.sum())
        total += (now - recall) * float(fraud[taken].mean())
        recall = now
    return total
