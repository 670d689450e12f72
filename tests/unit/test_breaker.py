"""The circuit breaker: counts that move on, limits, and what trips."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from config.policy import default_policy_text, parse_policy
from detectors.breaker import Window, at_least, limit_of, tripped
from detectors.policy import Breaker

POLICY = parse_policy(default_policy_text())
TERMS = Breaker()
NOBODY: frozenset[str] = frozenset()


def seen(events: int, **hits: int) -> Window:
    """A window after one batch."""
    window = Window(100_000)
    window.add(events, [rule for rule, count in hits.items() for _ in range(count)])
    return window


def stopped(window: Window, expected: dict[str, float], paused: frozenset[str] = NOBODY) -> list[str]:
    """The rules that trip."""
    return [trip.rule for trip in tripped(window, POLICY, expected, paused)]


def test_a_rule_far_above_its_share_trips() -> None:
    """2 % were expected, 5 times that is the limit: 15 % trips, 8 % does not; and a paused rule does not trip again."""
    expected = {"rapid_repeat": 0.02, "ip_shared": 0.02}
    window = seen(5_000, rapid_repeat=750, ip_shared=400)
    assert stopped(window, expected) == ["rapid_repeat"]
    assert stopped(window, expected, frozenset({"rapid_repeat"})) == []


def test_few_events_trip_nothing() -> None:
    """Below the least number of events even a rule that fires on each of them goes on."""
    assert stopped(seen(TERMS.events - 1, rapid_repeat=TERMS.events - 1), {}) == []
    assert stopped(seen(TERMS.events, rapid_repeat=TERMS.events), {}) == ["rapid_repeat"]


def test_only_live_rules_against_events_trip() -> None:
    """A rule on trial and one that speaks for events can't do harm."""
    rules = (
        msgspec.structs.replace(POLICY.rules[0], mode="shadow"),
        msgspec.structs.replace(POLICY.rules[1], weight=-1.0),
        msgspec.structs.replace(POLICY.rules[2], weight=None, outcome="hold"),
        *POLICY.rules[3:],
    )
    policy = msgspec.structs.replace(POLICY, rules=rules)
    window = seen(2_000, same_minute_signup=2_000, device_shared=2_000, ip_shared=2_000)
    assert [trip.rule for trip in tripped(window, policy, {}, NOBODY)] == ["ip_shared"]


@given(st.floats(0.0, 0.999))
def test_the_limit_lies_above_what_is_expected_and_below_everything(expected: float) -> None:
    """Whatever is expected of a rule, firing as expected never trips it, and firing always does."""
    limit = limit_of(expected, TERMS)
    assert expected <= limit <= 1.0
    assert limit < 1.0


@given(st.integers(1, 10**6), st.data())
def test_the_share_at_least_is_below_the_share(events: int, data: st.DataObject) -> None:
    """Wilson's lower end lies within [0, share]."""
    hits = data.draw(st.integers(0, events))
    assert -1e-12 <= at_least(hits, events) <= hits / events + 1e-12


def test_wilson_by_hand() -> None:
    """10 of 100 at three standard errors: (0.1 + 0.045 - 3 sqrt(0.0009 + 0.000225)) / 1.09."""
    by_hand = (0.1 + 0.045 - 3 * math.sqrt(0.1 * 0.9 / 100 + 9 / 40_000)) / 1.09
    assert math.isclose(at_least(10, 100), by_hand, rel_tol=1e-12)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=80), st.integers(10, 200))
def test_the_window_holds_the_last_events(batches: list[tuple[int, int]], size: int) -> None:
    """It counts exactly some latest batches: at least `size` events if there were so many, hits alike."""
    window = Window(size)
    for events, hits in batches:
        window.add(events, ["r"] * min(hits, events))
    total = sum(events for events, _ in batches)
    assert min(total, size) <= window.events <= max(size + size // 10 + 40, 0)
    for back in range(len(batches) + 1):
        latest = batches[back:]
        if sum(events for events, _ in latest) == window.events:
            assert window.hits("r") == sum(min(hits, events) for events, hits in latest)
            return
    raise AssertionError("the window is no run of the latest batches")
