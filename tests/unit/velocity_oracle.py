"""The velocity contract said slowly: plain lists, loops and exact fractions. What the fast code is compared with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from detectors.velocity import Observations
from detectors.velocity_names import KIND_OF_OTHERS, KINDS, OTHERS, spec_of


@dataclass(frozen=True)
class Seen:
    """One event in the log of one entity: `others` names whom it was seen with, by aggregate."""

    event: int
    time: int
    points: int
    others: dict[str, int]


@dataclass
class Oracle:
    """Every log there is, each in the order in which events were observed."""

    names: Sequence[str]
    logs: dict[tuple[str, int], list[Seen]] = field(default_factory=dict)

    def observe(self, batch: Observations) -> list[list[float]]:
        """Add a batch event by event; give the values each event sees."""
        return [self._observe_one(batch, row) for row in range(len(batch))]

    def _observe_one(self, batch: Observations, row: int) -> list[float]:
        time, event, points = int(batch.time[row]), int(batch.event[row]), int(batch.points[row])
        entities = dict(zip(KINDS, map(int, batch.entity[row]), strict=True))
        peer = int(batch.peer[row])
        before: dict[str, list[Seen]] = {}
        for kind, entity in entities.items():
            shown = {name: entities[KIND_OF_OTHERS[name]] if name != "peers" else peer for name in OTHERS[kind]}
            before[kind] = self._before(kind, entity, Seen(event, time, points, shown)) if entity else []
        if peer:
            self._before("account", peer, Seen(event, time, points, {"peers": entities["account"]}))
        return [value_of(name, before, time) for name in self.names]

    def _before(self, kind: str, entity: int, seen: Seen) -> list[Seen]:
        """Give what the log held before the first copy of an event, and add the event unless it is there."""
        log = self.logs.setdefault((kind, entity), [])
        for position, earlier in enumerate(log):
            if earlier.event == seen.event:
                return log[:position]
        log.append(seen)
        return log[:-1]


def value_of(name: str, before: dict[str, list[Seen]], as_of: int) -> float:
    """One value, from what the logs of an event's entities held before it."""
    spec = spec_of(name)
    if spec is None:
        return 0.0  # nothing here is approximate
    inside = [seen for seen in before[KINDS[spec.kind]] if as_of - spec.window_ms <= seen.time <= as_of]
    moved = [seen.points for seen in inside if seen.points]
    match spec.aggregate:
        case "count":
            return len(inside)
        case "sum":
            return sum(moved)
        case "max":
            return max(moved, default=0)
        case "avg":
            return float(Fraction(sum(moved), len(moved))) if moved else math.nan
        case "seconds_since_first":
            return max(((as_of - seen.time) / 1000 for seen in inside), default=math.nan)
        case "seconds_since_last":
            return min(((as_of - seen.time) / 1000 for seen in inside), default=math.nan)
    return len({seen.others.get(spec.aggregate, 0) for seen in inside} - {0})
