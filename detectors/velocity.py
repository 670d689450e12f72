"""Velocity: how often, how much and with how many others an account, a device or an address was seen lately.

The contract. For each entity of an event and each window, an aggregate covers the events of that entity *observed
before this one* (in the order of the entity's log; of two copies of an event only the first counts) whose time lies in
[as_of - window, as_of], as_of being the event's own time. So of two events in a millisecond the second sees the first,
a late event counts where its time belongs, and an event delivered again gets the same values and adds nothing.

    count     events
    sum       points they moved, absolute (a reversal adds none: it takes back what was counted)
    distinct  account: devices, ips, peers (the other side of a transfer); device and ip: accounts

A transfer is also an event of the receiving account (its peer is the sender, without device and address).
An entity that the event lacks has zeros. tests/unit/velocity_oracle.py says the same, slowly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.entity import Keys
from detectors.event import Event, Reverse, Transfer, points_of

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

KINDS: Final = ("account", "device", "ip")
WINDOWS: Final[Mapping[str, int]] = {"1m": 60_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}
"""Each window's length in milliseconds, shortest first."""
WINDOW_MS_MAX: Final = max(WINDOWS.values())
DISTINCT: Final[Mapping[str, tuple[str, ...]]] = {
    "account": ("devices", "ips", "peers"),
    "device": ("accounts",),
    "ip": ("accounts",),
}
"""Which others are counted for each kind, in the order of a record's counterparts."""
VELOCITY_FEATURES: Final = tuple(
    f"velocity.{kind}.{aggregate}_{window}"
    for kind in KINDS
    for aggregate in ("count", "sum", *DISTINCT[kind])
    for window in WINDOWS
)
WIDTH: Final = len(VELOCITY_FEATURES)

_PLACE: Final = {name: place for place, name in enumerate(VELOCITY_FEATURES)}

RECORD: Final = np.dtype(
    [("time", "<i8"), ("event", "<u8"), ("devices", "<u8"), ("ips", "<u8"), ("peers", "<u8"), ("points", "<i8")]
)
"""One event in the log of one entity, 48 bytes: time in ms, hash of the event, hashes of up to three others
(0 = none; a device's or address's log has the account in the first), points moved."""


def is_velocity(name: str) -> bool:
    """Tell whether velocity gives a value of this name."""
    return name in _PLACE


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Give velocity names in their one canonical order."""
    return tuple(sorted(names, key=_PLACE.__getitem__))


class Observed(NamedTuple):
    """An event with the time (ms) it is taken to have happened at, after clamping."""

    event: Event
    time_ms: int


@dataclass(frozen=True)
class Observations:
    """A batch of n events as velocity sees them, in the order they were read.

    `programs` are names, `program` int64[n] indexes them. `time` int64[n] is in ms, `points` int64[n] absolute.
    `event` uint64[n], `entity` uint64[n, 3] (in the order of KINDS, 0 = absent) and `peer` uint64[n] (the receiving
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
    """The aggregates of a batch: `values` float64[n, 44] in the order of VELOCITY_FEATURES.

    `approximate` bool[n]: some value of this event rests on a log whose older part is only kept in summary (where a
    window begins is off by about a fiftieth of it, and more than 128 distinct others are estimated to about a tenth).
    `cold`: the store was not known to hold the history of the last seven days, so all values may be too low.
    """

    values: Floats
    approximate: Truths
    cold: bool


def observations(observed: Sequence[Observed], keys: Keys) -> Observations:
    """Turn decoded events into what `VelocityStore.observe` takes, one row an event, in order."""
    codes: dict[str, int] = {}
    program = [codes.setdefault(one.event.program, len(codes)) for one in observed]
    rows = [_hashes(one.event, keys) for one in observed]
    hashes = np.fromiter(chain.from_iterable(rows), dtype=np.uint64, count=5 * len(rows)).reshape(len(rows), 5)
    return Observations(
        programs=tuple(codes),
        program=np.array(program, dtype=np.int64),
        time=np.array([one.time_ms for one in observed], dtype=np.int64),
        event=hashes[:, 0],
        entity=hashes[:, 1:4],
        peer=hashes[:, 4],
        points=np.array([_points(one.event) for one in observed], dtype=np.int64),
    )


class HistoryRow(NamedTuple):
    """An event of the past as the decision table keeps it, to rebuild logs from.

    `device` and `ip` are the stored pseudonyms; `to` is the receiving account of a transfer; `points` as moved.
    """

    program: str
    source: str
    event_id: str
    account: str
    time_ms: int
    points: int = 0
    device: bytes | None = None
    ip: bytes | None = None
    to: str | None = None


def history(rows: Iterable[HistoryRow], keys: Keys) -> Observations:
    """Turn past events, oldest first, into observations that are equal to those made when they came."""
    listed = list(rows)
    codes: dict[str, int] = {}
    program = [codes.setdefault(row.program, len(codes)) for row in listed]
    hashes = np.array([_row_hashes(row, keys) for row in listed], dtype=np.uint64).reshape(len(listed), 5)
    return Observations(
        programs=tuple(codes),
        program=np.array(program, dtype=np.int64),
        time=np.array([row.time_ms for row in listed], dtype=np.int64),
        event=hashes[:, 0],
        entity=hashes[:, 1:4],
        peer=hashes[:, 4],
        points=np.abs(np.array([row.points for row in listed], dtype=np.int64)),
    )


def _points(event: Event) -> int:
    return 0 if isinstance(event, Reverse) else points_of(event)


def _hashes(event: Event, keys: Keys) -> tuple[int, int, int, int, int]:
    hash64, program = keys.hash64, event.program
    return (
        keys.event_hash64(program, "event", _identity(event.source, event.id)),
        hash64(program, "account", event.account.encode()),
        0 if event.device is None else hash64(program, "device", keys.device(event.device)),
        0 if event.ip is None else hash64(program, "ip", keys.ip(event.ip)),
        hash64(program, "account", event.to.encode()) if isinstance(event, Transfer) else 0,
    )


def _row_hashes(row: HistoryRow, keys: Keys) -> tuple[int, int, int, int, int]:
    return (
        keys.event_hash64(row.program, "event", _identity(row.source, row.event_id)),
        keys.hash64(row.program, "account", row.account.encode()),
        0 if row.device is None else keys.hash64(row.program, "device", row.device),
        0 if row.ip is None else keys.hash64(row.program, "ip", row.ip),
        0 if row.to is None else keys.hash64(row.program, "account", row.to.encode()),
    )


def _identity(source: str, event_id: str) -> bytes:
    return f"{len(source)}:{source}{event_id}".encode()
