"""One contract for every compiled model, with River itself as the oracle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.anomaly import LODA, HalfSpaceTrees

from detectors.layout import Floats
from detectors.models import CHANCE, INPUT_NAMES, INPUTS, MODELS, WIDE, Learned, Scorer, squash
from detectors.models_hst import compile_hst
from detectors.models_learned import BUILD, build
from detectors.models_loda import compile_loda
from detectors.models_registry import COMPILED, arrays_of, scorers_of
from tests.unit.model_rows import SMALL, inputs


@dataclass(frozen=True)
class Case:
    """A model under contract: how River builds it, how it is compiled, and how near the scores must be."""

    name: str
    build: Callable[[int], Any]
    compile: Callable[[Any, tuple[str, ...]], Scorer]
    tolerance: float


CASES = [
    Case("hst", lambda seed: HalfSpaceTrees(n_trees=7, height=5, window_size=20, seed=seed), compile_hst, 0.0),
    Case("loda", lambda seed: LODA(n_bins=6, n_random_cuts=15, seed=seed), compile_loda, 1e-9),
]
case = pytest.mark.parametrize("case", CASES, ids=lambda each: each.name)

# Few distinct values make ties on thresholds and histogram edges, where a wrong comparison would show.
VALUES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
ROWS = st.lists(st.lists(VALUES, min_size=WIDE, max_size=WIDE), min_size=1, max_size=60)


def learned(model: Any, rows: list[list[float]]) -> Any:
    """`model` after River learned `rows`."""
    for row in rows:
        model.learn_one(dict(zip(INPUT_NAMES, row, strict=True)))
    return model


def oracle(model: Any, rows: list[list[float]]) -> Floats:
    """River's own scores."""
    return np.array([float(model.score_one(dict(zip(INPUT_NAMES, row, strict=True)))) for row in rows])


def seeded_rows(seed: int, count: int) -> list[list[float]]:
    """Rows of uniform values, some of them rounded so that they repeat."""
    rng = np.random.default_rng(seed)
    rows = rng.random((count, WIDE))
    rows[:, ::2] = np.round(rows[:, ::2], 1)
    return [[float(value) for value in row] for row in rows]


@case
@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.integers(0, 5))
def test_scores_equal_rivers(case: Case, rows: list[list[float]], queries: list[list[float]], seed: int) -> None:
    """For any history and any event the arrays say what River says."""
    model = learned(case.build(seed), rows)
    scores = case.compile(model, INPUT_NAMES).score(np.array(rows + queries))
    assert np.abs(scores - oracle(model, rows + queries)).max() <= case.tolerance


@case
def test_scores_equal_rivers_after_a_long_history(case: Case) -> None:
    """The same after many windows and many merged bins, on events near and far from what was learned."""
    model = learned(case.build(1), seeded_rows(1, 3_000))
    queries = [*seeded_rows(2, 300), [0.0] * WIDE, [1.0] * WIDE]
    scores = case.compile(model, INPUT_NAMES).score(np.array(queries))
    assert np.abs(scores - oracle(model, queries)).max() <= case.tolerance


@case
def test_a_batch_scores_like_its_rows(case: Case) -> None:
    """The size of a batch and an event's place in it change no bit of its score."""
    compiled = case.compile(learned(case.build(3), seeded_rows(3, 500)), INPUT_NAMES)
    queries = np.array(seeded_rows(4, 257))
    alone = np.concatenate([compiled.score(row[None, :]) for row in queries])
    assert compiled.score(queries).tobytes() == alone.tobytes()
    assert compiled.score(np.asfortranarray(queries)).tobytes() == alone.tobytes()


@case
def test_a_model_without_history_scores_zero(case: Case) -> None:
    """Before anything was learned all events look alike."""
    assert case.compile(case.build(1), INPUT_NAMES).score(np.array(seeded_rows(5, 4))).tolist() == [0.0] * 4


@case
def test_an_empty_batch(case: Case) -> None:
    """No events, no scores."""
    compiled = case.compile(learned(case.build(1), seeded_rows(1, 50)), INPUT_NAMES)
    assert compiled.score(np.zeros((0, WIDE))).shape == (0,)


@case
def test_one_seed_one_model(case: Case) -> None:
    """Equal seeds and histories give equal models, other seeds others."""
    rows, queries = seeded_rows(6, 200), np.array(seeded_rows(7, 50))
    first, again, other = (case.compile(learned(case.build(seed), rows), INPUT_NAMES) for seed in (1, 1, 2))
    assert first.score(queries).tobytes() == again.score(queries).tobytes()
    assert first.score(queries).tobytes() != other.score(queries).tobytes()


@case
def test_the_unusual_scores_higher(case: Case) -> None:
    """After a history near one point, far events look rarer than near ones."""
    rng = np.random.default_rng(8)
    rows = np.clip(0.2 + rng.normal(0, 0.02, (2_000, WIDE)), 0, 1)
    compiled = case.compile(learned(case.build(9), [[float(v) for v in row] for row in rows]), INPUT_NAMES)
    near, far = compiled.score(rows[:100]).mean(), compiled.score(np.full((1, WIDE), 0.9)).mean()
    assert far > near


@given(st.lists(st.floats(0, 1e18), min_size=2, max_size=2), st.integers(0, WIDE - 1))
def test_squashing_is_monotone_and_bounded(values: list[float], column: int) -> None:
    """More of anything never becomes less, and nothing leaves [0, 1]; an unknown time counts as very long ago."""
    matrix = np.zeros((3, WIDE))
    matrix[:2, column] = sorted(values)
    matrix[2] = np.nan
    squashed = squash(matrix)
    assert ((squashed >= 0) & (squashed <= 1)).all()
    assert (squashed[0] <= squashed[1]).all()
    assert squashed[2].tolist() == [each.unknown for each in INPUTS]


# --- every model of the registry, as the trainer holds it -----------------------------------------------------------

PARAMS = SMALL.models
every = pytest.mark.parametrize("name", MODELS)


def taught(name: str, count: int = 300) -> Learned:
    """A model of the registry after `count` rows, every seventh of them fraud."""
    model = build(PARAMS)[name]  # type: ignore[index]  # pytest gives it as a plain string
    teach(model, 0, count)
    return model


def teach(model: Learned, first: int, last: int, size: int = 400) -> None:
    """Rows `first` to `last` of one fixed history, in blocks of `size`."""
    rows, fraud = squash(inputs(400, seed=11)), np.arange(400) % 7 == 0
    for start in range(first, last, size):
        chosen = slice(start, min(last, start + size))
        model.learn(rows[chosen], fraud[chosen])


def test_the_lists_agree() -> None:
    """Whatever the policy can name is learned and scored, in one order."""
    assert tuple(BUILD) == tuple(COMPILED) == MODELS


@every
def test_blocks_do_not_matter(name: str) -> None:
    """However the history is cut, the state is the same to the bit."""
    whole = taught(name)
    for size in (1, 7, 40):
        cut = build(PARAMS)[name]  # type: ignore[index]  # as above
        teach(cut, 0, 300, size)
        assert cut.ready == whole.ready is True
        for array, other in zip(cut.export().values(), whole.export().values(), strict=True):
            assert array.tobytes() == other.tobytes()
        queries = squash(inputs(20, seed=3))
        assert cut.compile().score(queries).tobytes() == whole.compile().score(queries).tobytes()


@every
def test_a_compiled_model_survives_as_arrays(name: str) -> None:
    """Stored by name and made again it gives the same bits; a batch scores like its rows."""
    compiled = {each: taught(each).compile() for each in MODELS}
    back = scorers_of(arrays_of(compiled))[name]  # type: ignore[index]  # as above
    queries = squash(inputs(100, seed=12, scale=5.0))
    scores = compiled[name].score(queries)  # type: ignore[index]  # as above
    assert back.score(queries).tobytes() == scores.tobytes()
    assert np.concatenate([back.score(row[None, :]) for row in queries]).tobytes() == scores.tobytes()


@every
@pytest.mark.parametrize("at", [0, 1, 39, 41, 200])
def test_an_exported_state_goes_on(name: str, at: int) -> None:
    """From any row on, a model made from arrays learns what the first one learns, to the bit."""
    whole, first = taught(name), taught(name, at)
    second = build(PARAMS)[name]  # type: ignore[index]  # as above
    second.restore(first.export())
    teach(second, at, 300)
    for array, other in zip(second.export().values(), whole.export().values(), strict=True):
        assert array.tobytes() == other.tobytes()


@every
def test_a_model_that_knows_nothing_says_so(name: str) -> None:
    """Before its grace period a model is not ready, so that its scores are unknown, never low."""
    assert not build(PARAMS)[name].ready  # type: ignore[index]  # as above


@every
def test_only_the_supervised_model_learns_from_fraud(name: str) -> None:
    """What the others take for ordinary never has a fraud in it."""
    model, clean = taught(name), taught(name)
    model.learn(squash(inputs(1, seed=5)), np.array([True]))
    same = all(
        a.tobytes() == b.tobytes() for a, b in zip(model.export().values(), clean.export().values(), strict=True)
    )
    assert same == (name != CHANCE)
