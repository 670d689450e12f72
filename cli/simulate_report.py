"""What `simulate --wait` prints: for each scenario what became of its events, against what they really were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.table import Table

from cli.context import out, say
from cli.outcomes import OUTCOMES, TITLES
from cli.quality import FLAGGED, percent, quality
from cli.simulation import Simulated

MOVING = frozenset({"earn", "redeem", "transfer", "adjust"})


def print_caught(acts: Iterable[Simulated], outcomes: Mapping[str, str]) -> None:
    """A row per scenario, frauds first; "stopped" is the held or rejected share of what would have moved points."""
    acts = list(acts)
    counts = Counter((act.scenario, outcomes[str(act.event["id"])]) for act in acts)
    moving = [(act, outcomes[str(act.event["id"])]) for act in acts if act.event["type"] in MOVING]
    scenarios = sorted({(not act.fraud, act.scenario) for act in acts})
    outcomes_seen = [outcome for outcome in OUTCOMES if any(counts[scenario, outcome] for _, scenario in scenarios)]
    table = Table()
    for title in ("scenario", "really", *(TITLES[outcome] for outcome in outcomes_seen), "stopped"):
        table.add_column(title, justify="left" if title in ("scenario", "really") else "right", no_wrap=True)
    for honest, scenario in scenarios:
        moved = [outcome in FLAGGED for act, outcome in moving if act.scenario == scenario]
        stopped = percent(sum(moved) / len(moved) if moved else None)
        cells = [f"{counts[scenario, outcome]:,}" for outcome in outcomes_seen]
        table.add_row(scenario, "honest" if honest else "fraud", *cells, stopped)
    out.print(table)
    found = quality((act.fraud, outcome) for act, outcome in moving)
    say(
        f"Of the events that move points, held or rejected: precision {percent(found.precision)}, "
        f"recall {percent(found.recall)}."
    )
