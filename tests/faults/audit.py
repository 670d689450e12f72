"""What became of events that were sent: the checker of the kill tests, and of the meta-test that it can see losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where the broker put an event."""

    part: int
    offset: int


@dataclass(frozen=True, slots=True)
class Report:
    """Ids by what became of them, each tuple sorted.

    `lost`: no effect, and nobody will ever come back to it. `pending`: no effect yet, but not committed either, so it
    comes again. `doubled`: more than one effect. `foreign`: an effect without an event.
    """

    lost: tuple[str, ...]
    pending: tuple[str, ...]
    doubled: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every event had its effect exactly once."""
        return not (self.lost or self.pending or self.doubled or self.foreign)


def audit(sent: Mapping[str, Place], effects: Iterable[str], committed: Mapping[int, int] | None = None) -> Report:
    """Compare what was sent with the effects it had, an id for each effect.

    `committed` is the group's committed offset by partition (the next one to be read; 0 if left out). Without it the
    run is taken to be over: whatever has no effect is lost.
    """
    counts = Counter(effects)
    without = {event_id: place for event_id, place in sent.items() if event_id not in counts}
    lost = {
        event_id
        for event_id, place in without.items()
        if committed is None or place.offset < committed.get(place.part, 0)
    }
    return Report(
        lost=tuple(sorted(lost)),
        pending=tuple(sorted(without.keys() - lost)),
        doubled=tuple(sorted(event_id for event_id, count in counts.items() if count > 1)),
        foreign=tuple(sorted(counts.keys() - sent.keys())),
    )
