"""Rules that may not have their effect: paused ones, and those that are snoozed for an entity of the event.

They are evaluated all the same, and a decision tells behind its reasons which of them would have spoken. From that the
decision is made again: rules that did not fire do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

EFFECTLESS: Final = frozenset({"shadow", "snoozed"})
"""Kinds of reasons that only tell what would have been: a rule on trial or paused fired, or a snoozed one."""
NONE: Final[frozenset[str]] = frozenset()


class Said(Protocol):
    """A reason, as much of it as is needed here."""

    @property
    def code(self) -> str:
        """The rule's id."""
        ...

    @property
    def kind(self) -> str:
        """What kind of cause it is."""
        ...


@dataclass(frozen=True)
class Aside:
    """Rules that may not have their effect now: paused ones, for everybody; and by row of the batch, snoozed ones."""

    paused: frozenset[str] = NONE
    snoozed: Mapping[int, frozenset[str]] = field(default_factory=dict)


NOTHING_ASIDE: Final = Aside()


def set_aside(reasons: Sequence[Said]) -> Aside:
    """Which rules were silent when one decision was made, by its reasons."""
    paused = frozenset(reason.code for reason in reasons if reason.kind == "shadow")
    snoozed = frozenset(reason.code for reason in reasons if reason.kind == "snoozed")
    return Aside(paused, {0: snoozed} if snoozed else {})


def silent_in(stored: Sequence[Sequence[Said]]) -> Aside:
    """The same for many decisions at once, one element a row; a rule that was paused is told as snoozed then."""
    silent = {
        row: frozenset(reason.code for reason in reasons if reason.kind in EFFECTLESS)
        for row, reasons in enumerate(stored)
        if any(reason.kind in EFFECTLESS for reason in reasons)
    }
    return Aside(snoozed=silent)
