"""Velocity: how often, how much and with how many others an account, a device, a store, … was seen lately.

The contract. For each entity of an event and each window, an aggregate covers the events of that entity *observed
before this one* (in the order of the entity's log; of two copies of an event only the first counts) whose time lies in
[as_of - window, as_of], as_of being the event's own time. So of two events in a millisecond the second sees the first,
a late event counts where its time belongs, and an event delivered again gets the same values and adds nothing.

    count    events
    sum      points they moved, absolute (a reversal adds none: it takes back what was counted)
    avg      points of those that moved any, on average; unknown (NaN) without one
    max      points of the largest, 0 without one
    others   different devices, addresses, accounts, … (detectors/velocity_names.py)
    since    seconds since the first, and since the last, within 90 days; unknown without one

A transfer is also an event of the receiving account (its peer is the sender; nothing else of it is the receiver's). An
entity that the event lacks has zeros, and unknown where no number would be true. A log that grew long keeps its older
part in summary (detectors/velocity_fold.py); values that rest on one are marked. tests/unit/velocity_oracle.py says the
same, slowly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.entity import Keys
from detectors.event import Event, Reverse, Transfer, points_of
from detectors.velocity_names import KIND_OF_OTHERS, KINDS, OTHERS, OTHERS_MAX

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]
Rows = np.ndarray[tuple[int], np.dtype[np.void]]

RECORD: Final = np.dtype([("time", "<i8"), ("event", "<u8"), ("others", "<u8", (OTHERS_MAX,)), ("points", "<i8")])
"""One event in the log of one entity, 56 bytes: time in ms, hash of the event, hashes of the others it shows in the
order of OTHERS (0 = none), points moved."""


class Observed(NamedTuple):
    """An event with the time (ms) it is taken to have happened at, after clamping."""

    event: Event
    time_ms: int


@dataclass(frozen=True)
class Observations:
    """A batch of n events as velocity sees them, in the order they were read.

    `programs` are names, `program` int64[n] indexes them. `time` int64[n] is in ms, `points` int64[n] absolute.
    `event` uint64[n], `entity` uint64[n, 9] (in the order of KINDS, 0 = absent) and `peer` uint64[n] (the receiving
    account of a transfer, else 0) are hashes by `Keys.hash64`, so none is equal across programmes.
    """

    programs: tuple[str, ...]
    program: Integers
    time: Integers
    event: Hashes
    entity: Hashes
    peer: Hashes
    points: Integers

    def __len__(self) -> int:
        """Give the number of events."""
        return len(self.time)

    def part(self, start: int, stop: int) -> "Observations":
        """Give the events start to stop, exclusive."""
        arrays = {field.name: getattr(self, field.name)[start:stop] for field in fields(self)[1:]}
        return Observations(self.programs, **arrays)


@dataclass(frozen=True)
class Velocity:
    """The values of a batch: `values` float64[n, names] in the order of a demand's names.

    `approximate` bool[n]: some value of this event rests on a log whose older part is only kept in summary (where a
    window begins is off by about a fortieth of it, and more than 128 distinct others are estimated to about a tenth).
    `cold`: the store was not known to hold the history the names demand, so all values may be too low.
    """

    values: Floats
    approximate: Truths
    cold: bool


class HistoryRow(NamedTuple):
    """An event of the past as the decision table keeps it, to rebuild logs from.

    `device`, `ip`, `ip_prefix` and `payment` are the stored pseudonyms; `to` is the receiving account of a transfer;
    `points` as moved.
    """

    program: str
    source: str
    event_id: str
    account: str
    time_ms: int
    points: int = 0
    device: bytes | None = None
    ip: bytes | None = None
    ip_prefix: bytes | None = None
    store: str | None = None
    staff: str | None = None
    campaign: str | None = None
    payment: bytes | None = None
    referrer: str | None = None
    to: str | None = None


def needed(kinds: Iterable[int]) -> tuple[int, ...]:
    """The kinds whose hashes the records of some kinds hold: these, and the others that they show."""
    chosen = set(kinds)
    shown = {KIND_OF_OTHERS[name] for kind in chosen for name in OTHERS[KINDS[kind]] if name in KIND_OF_OTHERS}
    return tuple(sorted(chosen | {KINDS.index(kind) for kind in shown}))


def observations(observed: Sequence[Observed], keys: Keys, kinds: Iterable[int]) -> Observations:
    """Turn decoded events into what `VelocityStore.observe` takes, one row an event, in order.

    Only the entities that the logs of these kinds need are hashed; the rest count as absent.
    """
    events, hash64 = [one.event for one in observed], keys.entity64
    programs = [event.program for event in events]
    entity = {}
    for kind in needed(kinds):
        name = KINDS[kind]
        texts = map(_TEXT_OF[kind], events)
        entity[kind] = [
            0 if text is None else hash64(program, name, text) for program, text in zip(programs, texts, strict=True)
        ]
    return _arranged(
        programs,
        [one.time_ms for one in observed],
        [_event64(keys, event.program, event.source, event.id) for event in events],
        entity,
        [hash64(event.program, "account", event.to) if isinstance(event, Transfer) else 0 for event in events],
        [0 if isinstance(event, Reverse) else points_of(event) for event in events],
    )


def history(rows: Iterable[HistoryRow], keys: Keys, kinds: Iterable[int]) -> Observations:
    """Turn past events, oldest first, into observations that are equal to those made when they came."""
    listed, hash64 = list(rows), keys.hash64
    entity = {}
    for kind in needed(kinds):
        name = KINDS[kind]
        values = ((row.program, _stored(row, name)) for row in listed)
        entity[kind] = [0 if value is None else hash64(program, name, value) for program, value in values]
    return _arranged(
        [row.program for row in listed],
        [row.time_ms for row in listed],
        [_event64(keys, row.program, row.source, row.event_id) for row in listed],
        entity,
        [0 if row.to is None else hash64(row.program, "account", row.to.encode()) for row in listed],
        [abs(row.points) for row in listed],
    )


_TEXT_OF: Final = tuple(attrgetter("ip" if kind == "ip_prefix" else kind) for kind in KINDS)
"""What names an event's entity of each kind, as the producer wrote it."""


def _stored(row: HistoryRow, kind: str) -> bytes | None:
    value: str | bytes | None = getattr(row, kind)
    return value.encode() if isinstance(value, str) else value


def _event64(keys: Keys, program: str, source: str, event_id: str) -> int:
    return keys.event_hash64(program, "event", f"{len(source)}:{source}{event_id}".encode())


def _arranged(
    program: list[str],
    time_ms: list[int],
    event: list[int],
    entity: dict[int, list[int]],
    peer: list[int],
    points: list[int],
) -> Observations:
    codes: dict[str, int] = {}
    hashes = np.zeros((len(event), len(KINDS)), dtype=np.uint64)
    for kind, column in entity.items():
        hashes[:, kind] = np.array(column, dtype=np.uint64)
    return Observations(
        programs=tuple(dict.fromkeys(program)),
        program=np.array([codes.setdefault(name, len(codes)) for name in program], dtype=np.int64),
        time=np.array(time_ms, dtype=np.int64),
        event=np.array(event, dtype=np.uint64),
        entity=hashes,
        peer=np.array(peer, dtype=np.uint64),
        points=np.array(points, dtype=np.int64),
    )
