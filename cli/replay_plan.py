"""From rows to the events of a replay: named once and for all, merged by time. Pure.

An event's identity is (source, id): the source carries the digest of file, map and programme, the id the row and the
event's name in the map. So the same command makes the same events again, which are then duplicates, and never collides
with another file's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from cli.mapping import CellError, FileMap, MapError, Row
from cli.rows import Problem, Table
from cli.simulation import rfc3339

UNMAPPED_KEPT = 1_000  # problems remembered in full; the rest are counted


class Planned(NamedTuple):
    """An event ready to be produced. Sorts by time, then by the order of the file, then by the order in the map."""

    at_ms: int
    row: int
    place: int
    id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Naming:
    """What the events of a replay are called."""

    program: str
    source: str

    @classmethod
    def of(cls, file_map: FileMap, file_digest: str, program: str | None) -> Naming:
        """Names from the digests of file and map; without a programme given, the two have one of their own."""
        file_token = hashlib.sha256(f"{file_digest}:{file_map.digest}".encode()).hexdigest()[:8]
        chosen = program or f"replay-{file_map.name}-{file_token}"
        token = hashlib.sha256(f"{file_digest}:{file_map.digest}:{chosen}".encode()).hexdigest()[:12]
        return cls(chosen, f"replay:{file_map.name}:{token}")


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """All events of a replay in the order to produce them, and what is known of the rows.

    `labels[row - 1]` is True (fraud), False (clean) or None (unlabelled, or the row is unmapped); `judge` is the place
    in the map of the event by which a row is judged.
    """

    events: list[Planned]
    labels: list[bool | None]
    unmapped: int
    problems: list[Problem]
    judge: int

    @property
    def rows(self) -> int:
        """Rows read, the unmapped ones included."""
        return len(self.labels)

    def judged(self) -> Iterator[Planned]:
        """The events that carry their row's outcome."""
        return (event for event in self.events if event.place == self.judge)


def check_columns(file_map: FileMap, table: Table) -> None:
    """Refuse a map that reads columns the file does not have. Raises `MapError`."""
    missing = sorted(file_map.columns - set(table.columns)) if table.columns is not None else []
    if missing:
        raise MapError(
            f"the file has no column {missing[0]!r}, which map {file_map.name} reads; it has "
            f"{', '.join(table.columns or ())}; name the map that fits the file, or write one (docs/howto-analyst.md)"
        )


def plan_replay(table: Table, file_map: FileMap, naming: Naming, rows: int | None = None) -> ReplayPlan:
    """The events of the first `rows` rows (None: all), merged by time. Raises `MapError`.

    A row is mapped whole or not at all.
    """
    check_columns(file_map, table)
    events, labels, problems, unmapped = list[Planned](), list[bool | None](), list[Problem](), 0
    for number, row in islice(table.rows, rows):
        made = row if isinstance(row, Problem) else map_row(number, row, file_map, naming)
        if isinstance(made, Problem):
            unmapped += 1
            labels.append(None)
            if len(problems) < UNMAPPED_KEPT:
                problems.append(made)
        else:
            events += made
            labels.append(file_map.labels.read(row) if file_map.labels and not isinstance(row, Problem) else None)
    events.sort()
    judge = next(place for place, event in enumerate(file_map.events) if event.outcome)
    return ReplayPlan(events, labels, unmapped, problems, judge)


def map_row(number: int, row: Row, file_map: FileMap, naming: Naming) -> list[Planned] | Problem:
    """The events of one row, or why it has none."""
    made = []
    try:
        for place, event_map in enumerate(file_map.events):
            at_ms = event_map.at_ms(row)
            event: dict[str, object] = {
                "id": f"{number}-{event_map.name}",
                "source": naming.source,
                "type": event_map.type,
                "program": naming.program,
                "occurred_at": rfc3339(at_ms),
            }
            for key, read in event_map.fields.items():
                value = read(row)
                if value is not None:
                    event[key] = value
            body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            made.append(Planned(at_ms, number, place, str(event["id"]), str(event["account"]).encode(), body))
    except CellError as error:
        return Problem(number, error.column, str(error))
    except KeyError as error:
        return Problem(
            number, str(error.args[0]), "is not in this row; add it, or mark the field `optional: true` in the map"
        )
    except OverflowError:
        return Problem(number, "", "has a time outside the years 1 to 9999; correct it, or the format in the map")
    return made
