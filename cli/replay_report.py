"""What `replay` prints at the end, and of rows that it could not use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from cli.context import err, out, say
from cli.outcomes import OUTCOMES, TITLES
from cli.quality import percent, quality
from cli.replay_plan import Naming, ReplayPlan

PROBLEMS_SHOWN = 10
RARE = frozenset({"noted", "expired"})
"""Outcomes a row is told of only where there are any."""


def print_unmapped(plan: ReplayPlan) -> None:
    """Name the first rows that became no event, and count all of them."""
    if not plan.unmapped:
        return
    err.print(f"[yellow]{plan.unmapped:,} of {plan.rows:,} rows are unmapped and will not be sent:[/]")
    for problem in plan.problems[:PROBLEMS_SHOWN]:
        column = f", column {problem.column}" if problem.column else ""
        err.print(f"  row {problem.row}{column}: {escape(problem.detail)}")
    if plan.unmapped > PROBLEMS_SHOWN:
        err.print(f"  … and {plan.unmapped - PROBLEMS_SHOWN:,} more")


def print_report(
    plan: ReplayPlan, naming: Naming, outcomes: Mapping[str, str], without: Mapping[str, Mapping[str, str]]
) -> None:
    """Rows by outcome and label, and precision and recall as decided and with each rule of `without` off."""
    judged = [(plan.labels[event.row - 1], outcomes[event.id]) for event in plan.judged()]
    labelled = any(label is not None for label, _ in judged)
    counts = Counter(judged)
    say(f"Programme {naming.program}: {plan.rows:,} rows, {len(plan.events):,} events.")
    table = Table()
    table.add_column("rows")
    for title in ("all", "fraud", "clean", "unlabelled") if labelled else ("all",):
        table.add_column(title, justify="right")
    for outcome in OUTCOMES:
        by_label = [counts[label, outcome] for label in (True, False, None)]
        if outcome in RARE and not any(by_label):
            continue
        table.add_row(
            TITLES[outcome], f"{sum(by_label):,}", *([f"{count:,}" for count in by_label] if labelled else [])
        )
    table.add_row("unmapped", f"{plan.unmapped:,}")
    out.print(table)
    if len(plan.events) > len(judged):
        others = Counter(outcomes[event.id] for event in plan.events if event.place != plan.judge)
        said = ", ".join(f"{count:,} {TITLES[outcome]}" for outcome, count in others.most_common())
        say(f"The rows' other events: {said}.")
    if labelled:
        _print_quality(plan, judged, without)


def _print_quality(
    plan: ReplayPlan, judged: list[tuple[bool | None, str]], without: Mapping[str, Mapping[str, str]]
) -> None:
    table = Table(title="held or rejected, against the label", title_justify="left")
    for title in ("policy", "precision", "recall", "caught", "missed", "disturbed"):
        table.add_column(title, justify="left" if title == "policy" else "right", no_wrap=True)
    runs = {"as decided": judged}
    for rule, decided in without.items():
        # An event without a stored decision (a dead letter) keeps the outcome it has.
        runs[f"without {rule}"] = [
            (label, decided.get(event.id, outcome))
            for event, (label, outcome) in zip(plan.judged(), judged, strict=True)
        ]
    for name, pairs in runs.items():
        found = quality(pairs)
        table.add_row(
            name,
            percent(found.precision),
            percent(found.recall),
            f"{found.caught:,}",
            f"{found.missed:,}",
            f"{found.disturbed:,}",
        )
    out.print(table)
    say("Caught: fraud held or rejected. Missed: fraud approved. Disturbed: clean rows held or rejected.")
