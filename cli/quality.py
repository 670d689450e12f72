"""How well flagged rows match a label column. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

FLAGGED = frozenset({"hold", "reject"})
"""Outcomes by which an event did not get its points at once."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Flagged rows against labels; rows without a label are in none of the counts."""

    caught: int
    missed: int
    disturbed: int
    passed: int

    @property
    def precision(self) -> float | None:
        """Share of fraud among the flagged rows; None when none is flagged."""
        flagged = self.caught + self.disturbed
        return self.caught / flagged if flagged else None

    @property
    def recall(self) -> float | None:
        """Share of the fraud that is flagged; None when there is no fraud."""
        fraud = self.caught + self.missed
        return self.caught / fraud if fraud else None


def quality(judged: Iterable[tuple[bool | None, str]]) -> Quality:
    """The counts over (label, outcome) pairs; a label of None is left out."""
    counts = Counter((label, outcome in FLAGGED) for label, outcome in judged if label is not None)
    return Quality(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


def percent(share: float | None) -> str:
    """A share for people; a dash when there is none."""
    return "–" if share is None else f"{share:.1%}"
