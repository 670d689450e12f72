"""When a source is taken to be broken, and when the fault is ours."""

import pytest

from streams.intake import QUARANTINED, UNKNOWN_SOURCE
from streams.quarantine import QuarantineLimits, SourceHealth, TooManyFailures

LIMITS = QuarantineLimits(bad_min=10, bad_share=0.5, window=100, failures_in_row=3)


def test_a_source_that_mostly_sends_bad_events_is_named_and_others_are_not() -> None:
    """The limit needs both a number and a share, counted for each source alone."""
    health = SourceHealth(LIMITS)
    assert health.note(["good"] * 50, [("bad", "not_json")] * 9) == []
    assert health.note(["good"] * 50, [("bad", "not_json")] + [("good", "wrong_type")] * 9) == ["bad"]
    assert health.note([], [("good", "wrong_type")] * 20) == []


def test_old_events_fade() -> None:
    """A source with a long good past is still caught when it turns bad, within a window."""
    health = SourceHealth(LIMITS)
    health.note(["shop"] * 10_000, [])
    assert health.note([], [("shop", "not_json")] * 100) == ["shop"]


@pytest.mark.parametrize("bad", [(UNKNOWN_SOURCE, "not_json"), ("shop", QUARANTINED)])
def test_what_names_no_source_or_is_in_quarantine_already_counts_for_nobody(bad: tuple[str, str]) -> None:
    """Records whose source cannot be read are dead letters anyway; quarantined ones must not renew the quarantine."""
    assert SourceHealth(LIMITS).note([], [bad] * 1000) == []


def test_failures_in_a_row_stop_the_worker_unless_something_succeeds_between() -> None:
    """The third failure in a row raises; a success starts the count anew."""
    health = SourceHealth(LIMITS)
    health.failed()
    health.failed()
    health.succeeded()
    health.failed()
    health.failed()
    with pytest.raises(TooManyFailures):
        health.failed()


def test_memory_is_bounded() -> None:
    """However many sources a broken producer invents, only so many are remembered."""
    health = SourceHealth(LIMITS, sources_max=5)
    for number in range(100):
        health.note([f"s{number}"], [])
    assert len(health._counts) <= 5
