"""The checker of the kill tests."""

from tests.faults.audit import Place, Report, audit

SENT = {"a": Place(0, 0), "b": Place(0, 1), "c": Place(1, 0)}


def test_every_event_once_is_sound() -> None:
    """One effect for each event, in any order."""
    assert audit(SENT, ["c", "a", "b"]).sound


def test_an_event_without_an_effect_is_lost_once_it_is_committed() -> None:
    """Below the committed offset nobody comes back to it; at or above it, it is only pending."""
    assert audit(SENT, ["a"], {0: 2}) == Report(lost=("b",), pending=("c",), doubled=(), foreign=())


def test_without_commits_whatever_is_missing_is_lost() -> None:
    """The run is over, so there is nothing to wait for."""
    assert audit(SENT, ["a"]).lost == ("b", "c")


def test_two_effects_and_effects_of_nothing_are_named() -> None:
    """Neither a second effect nor one without an event is sound."""
    report = audit(SENT, ["a", "a", "b", "c", "x"])
    assert (report.doubled, report.foreign, report.sound) == (("a",), ("x",), False)
