"""Precision and recall against a label column, and what replay prints of a run."""

from __future__ import annotations

import pytest
from rich.console import Console

import cli.replay_report as report
from cli.quality import Quality, percent, quality
from cli.replay_plan import Naming, Planned, ReplayPlan
from cli.rows import Problem


def test_quality_counts_flagged_against_labelled() -> None:
    """Held and rejected are flagged; unlabelled rows are in no count."""
    judged = [(True, "hold"), (True, "reject"), (True, "approve"), (False, "hold"), (False, "approve"), (None, "hold")]
    found = quality(judged)
    assert found == Quality(caught=2, missed=1, disturbed=1, passed=1)
    assert [found.precision, found.recall] == pytest.approx([2 / 3, 2 / 3])


def test_a_dead_letter_is_not_flagged() -> None:
    """An event that was refused for its form was not found out."""
    assert quality([(True, "dead_letter")]) == Quality(0, 1, 0, 0)


def test_no_flags_and_no_fraud_have_no_share() -> None:
    """A share of nothing is shown as a dash, not as 0 or 100 %."""
    found = quality([(False, "approve")])
    assert (found.precision, found.recall) == (None, None)
    assert [percent(found.precision), percent(0.5)] == ["–", "50.0%"]


def plan_of(labels: list[bool | None]) -> ReplayPlan:
    """A plan of two events a row, judged by the second."""
    events = [
        Planned(row, row, place, f"{row}-{name}", b"k", b"v")
        for row in range(1, len(labels) + 1)
        for place, name in enumerate(("signup", "purchase"))
    ]
    return ReplayPlan(events, labels, 0, [], 1)


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A console that remembers, in place of stdout and stderr."""
    console = Console(record=True, width=120, quiet=False, file=None, highlight=False)
    monkeypatch.setattr(report, "out", console)
    monkeypatch.setattr(report, "err", console)
    monkeypatch.setattr(report, "say", console.print)
    return console


def test_the_report_shows_rows_by_outcome_and_label(printed: Console) -> None:
    """Rows are judged by their purchase; the sign-ups are told in a line of their own."""
    plan = plan_of([True, True, False])
    outcomes = {event.id: "noted" for event in plan.events}
    outcomes |= {"1-purchase": "hold", "2-purchase": "approve", "3-purchase": "reject"}
    report.print_report(plan, Naming("p", "s"), outcomes, {"rule_a": {"1-purchase": "approve"}})
    lines = [line.split() for line in printed.export_text().replace("│", " ").splitlines()]
    assert ["held", "1", "1", "0", "0"] in lines
    assert ["rejected", "1", "0", "1", "0"] in lines
    assert ["as", "decided", "50.0%", "50.0%", "1", "1", "1"] in lines
    assert ["without", "rule_a", "0.0%", "0.0%", "0", "2", "1"] in lines
    assert ["The", "rows'", "other", "events:", "3", "noted."] in lines


def test_without_labels_there_are_no_figures(printed: Console) -> None:
    """A file of one's own needs no label column."""
    plan = plan_of([None])
    report.print_report(plan, Naming("p", "s"), {event.id: "approve" for event in plan.events}, {})
    assert "precision" not in printed.export_text()


def test_unmapped_rows_are_named_and_counted(printed: Console) -> None:
    """The first ones in full, the rest by number."""
    problems = [Problem(row, "amount", "is empty") for row in range(1, 13)]
    report.print_unmapped(ReplayPlan([], [None] * 20, 12, problems, 0))
    said = printed.export_text()
    assert "12 of 20 rows" in said
    assert "row 10, column amount: is empty" in said
    assert "row 11" not in said
    assert "2 more" in said
