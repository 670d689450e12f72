"""An account's own norm: robust, bounded, the same event by event as in batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.policy import default_policy_text, parse_policy
from detectors.decision import Reason
from detectors.explain import beside_norm, explain
from detectors.layout import NORM, Floats
from detectors.models import INPUT_NAMES, WIDE, squash
from detectors.models_norm import (
    CLIP,
    DAY,
    INFLOW,
    KNOWN_ROWS,
    MEMORY,
    OUTFLOW,
    SPREAD_MIN,
    Amounts,
    States,
    amounts_of,
    compare,
    compile_norm,
    learn,
    no_states,
)


def amounts(points: list[float], day: list[float] | None = None, *, outflow: bool = False) -> Amounts:
    """Amounts of one kind; the day is the event alone unless given."""
    moved = np.array(points, dtype=np.float64)
    return Amounts(moved, moved if day is None else np.array(day), np.full(len(points), outflow))


def after(points: list[float], day: list[float] | None = None, *, outflow: bool = False) -> States:
    """One account's state after these events."""
    return learn(no_states(1), np.zeros(len(points), dtype=np.intp), amounts(points, day, outflow=outflow))


def beside(state: States, points: float, day: float | None = None, *, outflow: bool = False) -> dict[str, float]:
    """One event beside the norm of its account."""
    found = compare(state, amounts([points], [points if day is None else day], outflow=outflow))
    return dict(zip(NORM, found[0].tolist(), strict=True))


USUAL = [90.0, 110.0, 100.0, 95.0, 105.0, 100.0, 120.0, 80.0, 100.0, 100.0]


def test_the_comparison_is_with_what_is_usual() -> None:
    """Three times the usual says so, of the event and of the day; the usual itself is not unusual."""
    state = after(USUAL, [2 * each for each in USUAL])
    found = beside(state, 300.0, 640.0)
    assert found["account.times_usual_points"] == pytest.approx(3.0, rel=0.1)
    assert found["account.times_usual_day"] == pytest.approx(3.2, rel=0.1)
    assert found["account.unusual_points"] > 3.0
    quiet = beside(state, 100.0, 200.0)
    assert quiet["account.times_usual_points"] == pytest.approx(1.0, rel=0.1)
    assert max(quiet["account.unusual_points"], quiet["account.unusual_day"]) < 1.0
    assert beside(state, 3.0, 5.0)["account.unusual_points"] == 0.0


def test_a_norm_takes_a_few_events() -> None:
    """Before that nothing is known; and what was learned of inflows says nothing about outflows."""
    for count in range(KNOWN_ROWS):
        assert np.isnan(list(beside(after(USUAL[:count]), 100.0).values())).all()
    state = after(USUAL[:KNOWN_ROWS])
    assert not np.isnan(list(beside(state, 100.0).values())).any()
    out = beside(state, 100.0, outflow=True)
    assert np.isnan(out["account.times_usual_points"])
    assert not np.isnan(out["account.times_usual_day"])


def test_one_event_moves_the_norm_by_a_bounded_step() -> None:
    """Where a mean would follow a single enormous amount, the norm hardly notices, and the next one is as unusual."""
    state = after(USUAL * 3)
    fooled = learn(state, np.zeros(1, dtype=np.intp), amounts([1e12]))
    step = fooled[0, INFLOW, 1] - state[0, INFLOW, 1]
    assert 0 < step <= CLIP * state[0, INFLOW, 2] / MEMORY * (1 + 1e-9)
    assert beside(fooled, 3_000.0)["account.times_usual_points"] > 28.0


def test_a_habit_becomes_the_norm() -> None:
    """An honest member whose amounts grow for good is usual again after some dozens of events."""
    grown = after(USUAL * 3 + [400.0] * 90)
    assert beside(grown, 400.0)["account.unusual_points"] < 1.0


@given(st.lists(st.floats(0, 1e9), max_size=60), st.floats(0, 1e9))
def test_any_history_gives_sound_numbers(history: list[float], points: float) -> None:
    """Spreads stay positive, comparisons finite and not negative, whatever the amounts."""
    state = after(history)
    assert np.isfinite(state).all()
    assert (state[0, [INFLOW, DAY], 2][state[0, [INFLOW, DAY], 0] > 0] >= SPREAD_MIN).all()
    assert (state[0, OUTFLOW] == 0).all()
    found = np.array(list(beside(state, points).values()))
    assert np.isnan(found).all() if len(history) < KNOWN_ROWS else (np.isfinite(found) & (found >= 0)).all()


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e6), st.booleans()), max_size=40)


@given(EVENTS, st.integers(1, 7))
def test_a_batch_learns_like_its_events(events: list[tuple[int, float, bool]], size: int) -> None:
    """However the events are cut into batches and accounts mixed, each account's state is the same to the bit."""
    who = np.array([each[0] for each in events], dtype=np.intp)
    points = np.array([each[1] for each in events], dtype=np.float64)
    moved = Amounts(points, 2 * points, np.array([each[2] for each in events], dtype=np.bool_))

    def part(chosen: slice) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Amounts]:
        return who[chosen], Amounts(moved.points[chosen], moved.day[chosen], moved.outflow[chosen])

    cut = no_states(4)
    for first in range(0, len(events), size):
        cut = learn(cut, *part(slice(first, first + size)))
    assert learn(no_states(4), who, moved).tobytes() == cut.tobytes()


def test_the_score_is_the_more_unusual_of_both() -> None:
    """Monotone in each, 0 for an account without a norm."""
    inputs = np.zeros((4, WIDE))
    places = [INPUT_NAMES.index(name) for name in NORM[2:]]
    inputs[1, places], inputs[2, places], inputs[3, places] = [3.0, 0.0], [0.0, 9.0], [np.nan, np.nan]
    assert compile_norm().score(squash(inputs)).tolist() == [0.0, 0.5, 0.75, 0.0]


def test_amounts_come_from_a_matrix_by_name() -> None:
    """The day includes the event itself, in whatever order the columns stand."""
    names = ("event.outflow", "velocity.account.sum_24h", "event.points")
    matrix: Floats = np.array([[1.0, 40.0, 2.0], [0.0, 0.0, 5.0]])
    found = amounts_of(matrix, names)
    assert (found.points.tolist(), found.day.tolist(), found.outflow.tolist()) == ([2, 5], [42, 5], [True, False])


def test_the_reason_compares_with_the_accounts_own_norm() -> None:
    """In both languages, as people say it."""
    reason = Reason(
        code="model_norm", kind="model", value=0.998, limit=0.95,
        shown={"account.times_usual_points": 2.04, "account.times_usual_day": 3.2},
    )  # fmt: skip
    policy = parse_policy(default_policy_text())
    assert "3.2 × its usual day" in explain(reason, policy, "en")
    assert "平日的 3.2 倍" in explain(reason, policy, "zh")


def test_any_event_can_be_told_beside_its_accounts_norm() -> None:
    """Also where the model added nothing; nothing is said of an account without a norm."""
    assert beside_norm(2.04, 3.2, "en") == "3.2 × this account's usual day, 2.0 × its usual points."
    assert beside_norm(2.04, 3.2, "zh") == "是该账户平日的 3.2 倍、平时单笔的 2.0 倍。"
    assert beside_norm(None, 3.2, "en") == "3.2 × this account's usual day."
    assert beside_norm(float("nan"), 0.5, "zh") == "是该账户平日的 0.5 倍。"
    assert beside_norm(1.0, float("nan"), "en") is None
    assert beside_norm(1.0, None, "en") is None
