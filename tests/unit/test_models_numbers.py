"""What a model's calibrated number adds to a decision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.models import CHANCE, MODELS, added, contribution, evidence, together
from detectors.policy import ModelTerm


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 20), st.floats(0.5, 0.998))
def test_a_models_contribution_grows_and_is_capped(first: float, second: float, cap: float, above: float) -> None:
    """Nothing up to `above`, never more than the cap, never less for a rarer event."""
    term = ModelTerm(cap=cap, above=above)
    low, high = sorted((first, second))
    assert 0.0 <= contribution(low, term) <= contribution(high, term) <= cap
    assert contribution(min(low, above), term) == 0.0
    assert contribution(1.0, term) == cap


def test_an_unknown_share_contributes_nothing() -> None:
    """Before the grace period is over a model has nothing to say."""
    assert contribution(math.nan, ModelTerm(cap=5.0)) == 0.0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.99), st.floats(0, 20))
def test_the_evidence_of_a_chance(one: float, other: float, above: float, cap: float) -> None:
    """Nothing up to the limit, rising beyond it, never above the cap; base and evidence make the chance again."""
    term = ModelTerm(cap=cap, above=above)
    low, high = sorted((one, other))
    assert 0.0 <= evidence(low, term) <= evidence(high, term) <= cap
    assert evidence(min(low, above), term) == 0.0
    assert (evidence(1.0, term), evidence(math.nan, term)) == (cap, 0.0)
    free = ModelTerm(cap=20.0, above=above)
    if above < low < 0.999 and evidence(low, free) < 20.0:
        score = math.log(above / (1 - above)) + evidence(low, free)
        assert 1 / (1 + math.exp(-score)) == pytest.approx(low)


def test_a_number_counts_by_what_its_model_means() -> None:
    """A share adds by rarity, a chance by its log-odds."""
    term = ModelTerm(cap=20.0, above=0.5)
    assert added("loda", 0.9, term) == contribution(0.9, term)
    assert added(CHANCE, 0.9, term) == evidence(0.9, term) == pytest.approx(math.log(9))


def test_the_ensemble_adds_what_is_known() -> None:
    """A model that knows nothing adds nothing; rarer and likelier add more; certainty stays finite."""
    rows = np.full((4, len(MODELS)), np.nan)
    rows[1, 0], rows[2, 0] = 0.9, 0.999
    rows[3] = 1.0
    unknown, rare, rarer, sure = together(rows).tolist()
    assert unknown == 0.0
    assert (rare, rarer) == (pytest.approx(-math.log(0.1)), pytest.approx(-math.log(0.001)))
    assert rarer < sure < math.inf
