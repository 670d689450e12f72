"""The velocity contract said slowly: plain lists and loops, integers only. What the fast code is compared with."""

from dataclasses import dataclass, field

from detectors.velocity import KINDS, VELOCITY_FEATURES, WINDOWS, Observations

COLUMN = {name: column for column, name in enumerate(VELOCITY_FEATURES)}


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

    logs: dict[tuple[str, int], list[Seen]] = field(default_factory=dict)

    def observe(self, batch: Observations) -> list[list[int]]:
        """Add a batch event by event; give the values each event sees."""
        return [self._observe_one(batch, row) for row in range(len(batch))]

    def _observe_one(self, batch: Observations, row: int) -> list[int]:
        time, event, points = int(batch.time[row]), int(batch.event[row]), int(batch.points[row])
        account, device, ip = (int(entity) for entity in batch.entity[row])
        peer = int(batch.peer[row])
        others = {
            "account": {"devices": device, "ips": ip, "peers": peer},
            "device": {"accounts": account},
            "ip": {"accounts": account},
        }
        values = [0] * len(VELOCITY_FEATURES)
        for kind, entity in zip(KINDS, (account, device, ip), strict=True):
            if entity:
                before = self._before(kind, entity, Seen(event, time, points, others[kind]))
                for name, value in aggregates(kind, before, time).items():
                    values[COLUMN[name]] = value
        if peer:
            self._before("account", peer, Seen(event, time, points, {"peers": account}))
        return values

    def _before(self, kind: str, entity: int, seen: Seen) -> list[Seen]:
        """Give what the log held before the first copy of an event, and add the event unless it is there."""
        log = self.logs.setdefault((kind, entity), [])
        for position, earlier in enumerate(log):
            if earlier.event == seen.event:
                return log[:position]
        log.append(seen)
        return log[:-1]


def aggregates(kind: str, before: list[Seen], as_of: int) -> dict[str, int]:
    """Count, sum and distinct others of what was seen before, for each window that ends at as_of."""
    values = {}
    for window, length in WINDOWS.items():
        inside = [seen for seen in before if as_of - length <= seen.time <= as_of]
        values[f"velocity.{kind}.count_{window}"] = len(inside)
        values[f"velocity.{kind}.sum_{window}"] = sum(seen.points for seen in inside)
        for aggregate in ("devices", "ips", "peers", "accounts"):
            others = {seen.others.get(aggregate, 0) for seen in inside} - {0}
            if f"velocity.{kind}.{aggregate}_{window}" in COLUMN:
                values[f"velocity.{kind}.{aggregate}_{window}"] = len(others)
    return values
