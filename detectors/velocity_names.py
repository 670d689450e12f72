"""What velocity can be asked: the names of its values, and what a set of names demands of the store.

    velocity.<kind>.<aggregate>_<window>   for instance velocity.staff.sum_24h, velocity.device.accounts_30d
    velocity.<kind>.seconds_since_first    and seconds_since_last
    velocity.approximate                   1 if some value of the event rests on a summary, see detectors/velocity.py

A window is a number and m, h or d, from 1m to 90d. There are too many names for a list, so they are read by this
grammar; what the rules and models of a policy name makes a `Demand`, and nothing else is kept, read or counted.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("account", "device", "ip", "ip_prefix", "store", "staff", "campaign", "payment", "referrer")
"""The kinds of entity; an address' prefix is its IPv4 /24 or IPv6 /64 network."""
OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "account": ("devices", "ips", "peers", "stores"),
    "device": ("accounts", "ips"),
    "ip": ("accounts", "devices"),
    "ip_prefix": ("accounts", "devices"),
    "store": ("accounts", "devices", "staff"),
    "staff": ("accounts", "stores"),
    "campaign": ("accounts", "devices", "ips"),
    "payment": ("accounts", "devices"),
    "referrer": ("accounts", "devices", "ips"),
}
"""Which different others are counted for each kind, in the order of a record; `peers` are partners in transfers."""
OTHERS_MAX: Final = 4
KIND_OF_OTHERS: Final[Mapping[str, str]] = {
    "accounts": "account", "devices": "device", "ips": "ip", "stores": "store", "staff": "staff",
}  # fmt: skip
"""The kind of entity that each name in OTHERS counts, `peers` apart."""
SUMS: Final = ("count", "sum", "avg", "max")
SINCE: Final = ("seconds_since_first", "seconds_since_last")
APPROXIMATE: Final = "velocity.approximate"

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
WINDOW_MS_MIN: Final = MINUTE_MS
WINDOW_MS_MAX: Final = 90 * DAY_MS
SINCE_MS: Final = WINDOW_MS_MAX
"""First and last are looked for among the events of so long."""
LATE_MS: Final = DAY_MS + 3_600_000
"""Memory reaches so far beyond the longest window, for the latest that an event may come, and an hour."""

_UNIT_MS: Final = {"m": MINUTE_MS, "h": 60 * MINUTE_MS, "d": DAY_MS}
_AGGREGATES: Final = (*SUMS, "devices", "ips", "peers", "stores", "accounts", "staff", *SINCE)
_WINDOWED = re.compile(r"velocity\.([a-z_]+)\.([a-z_]+)_([1-9][0-9]{0,5})([mhd])")
_SINCE = re.compile(rf"velocity\.([a-z_]+)\.({'|'.join(SINCE)})")
_CACHED: Final = 1 << 12
_GAP: Final = "\0"

Windows = NDArray[np.int64]


class Spec(NamedTuple):
    """One value: `kind` is a place in KINDS, `window_ms` how far it looks back."""

    kind: int
    aggregate: str
    window_ms: int


@lru_cache(_CACHED)
def spec_of(name: str) -> Spec | None:
    """What a name asks for, or None if velocity has no such value (or it is APPROXIMATE, which is always there)."""
    since = _SINCE.fullmatch(name)
    if since is not None and since.group(1) in KINDS:
        return Spec(KINDS.index(since.group(1)), since.group(2), SINCE_MS)
    match = _WINDOWED.fullmatch(name)
    if match is None or match.group(1) not in KINDS or match.group(2) not in (*SUMS, *OTHERS[match.group(1)]):
        return None
    window_ms = int(match.group(3)) * _UNIT_MS[match.group(4)]
    if not WINDOW_MS_MIN <= window_ms <= WINDOW_MS_MAX:
        return None
    return Spec(KINDS.index(match.group(1)), match.group(2), window_ms)


def is_velocity(name: str) -> bool:
    """Tell whether velocity gives a value of this name."""
    return name == APPROXIMATE or spec_of(name) is not None


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Give velocity names in their one canonical order: kind, aggregate, window; APPROXIMATE last."""
    return tuple(sorted(names, key=_place))


def _place(name: str) -> tuple[int, int, int, str]:
    spec = spec_of(name)
    if spec is None:
        return len(KINDS), 0, 0, name
    return spec.kind, _AGGREGATES.index(spec.aggregate), spec.window_ms, name


def advice(name: str) -> str:
    """What to write instead of a name that begins with `velocity.` and is none."""
    _, _, rest = name.partition(".")
    kind, _, value = rest.partition(".")
    if kind not in KINDS:
        return f"there is no kind {kind!r}, {_near(kind, KINDS, f'velocity.{_GAP}.{value}')}"
    known = (*SUMS, *OTHERS[kind])
    if value in known:
        return f"say over which window, for instance velocity.{kind}.{value}_24h"
    aggregate, _, window = value.rpartition("_")
    if aggregate not in known:
        since = value.startswith(("seconds", "since"))
        word, form = (value, _GAP) if since or not aggregate else (aggregate, f"{_GAP}_{window}")
        return f"{kind} has no {word!r}, {_near(word, (*known, *SINCE), f'velocity.{kind}.{form}')}"
    return f"{window!r} is no window: write a number and m, h or d, from 1m to 90d, for instance 24h"


def _near(word: str, known: tuple[str, ...], form: str) -> str:
    """The known words next to one, within whole names where that makes some."""
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    whole = [name for name in (form.replace(_GAP, each) for each in near) if is_velocity(name)]
    return f"did you mean {' or '.join(whole or near)}?" if near else f"use one of {', '.join(known)}"


@dataclass(frozen=True)
class Coverage:
    """How far back the logs of each kind reach, in ms, 0 for kinds that are not kept; in the order of KINDS."""

    memory_ms: tuple[int, ...] = (0,) * len(KINDS)

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """The kinds that are kept, as places in KINDS."""
        return tuple(kind for kind, memory in enumerate(self.memory_ms) if memory)

    @property
    def longest_ms(self) -> int:
        """The longest memory."""
        return max(self.memory_ms)

    def lacks(self, other: "Coverage") -> tuple[int, ...]:
        """The kinds of which `other` reaches farther back."""
        pairs = zip(self.memory_ms, other.memory_ms, strict=True)
        return tuple(kind for kind, (mine, wanted) in enumerate(pairs) if wanted > mine)

    def joined(self, other: "Coverage") -> "Coverage":
        """What covers both."""
        return Coverage(tuple(map(max, self.memory_ms, other.memory_ms)))

    def of(self, kinds: Iterable[int]) -> "Coverage":
        """Only some of the kinds."""
        chosen = frozenset(kinds)
        return Coverage(tuple(memory if kind in chosen else 0 for kind, memory in enumerate(self.memory_ms)))

    def without(self, kinds: Iterable[int]) -> "Coverage":
        """All but some of the kinds."""
        return self.of(frozenset(range(len(KINDS))) - frozenset(kinds))


SUMMED: Final = OTHERS_MAX
LARGEST: Final = OTHERS_MAX + 1
SEEN: Final = OTHERS_MAX + 2
"""What values are counted from besides the columns of others, 0 to OTHERS_MAX - 1: totals, the largest, ages."""


class Source(NamedTuple):
    """What is counted once for many values: of which kinds (bool[len(KINDS)]), over which windows (ms, ascending)."""

    kinds: NDArray[np.bool_]
    windows: Windows


class Group(NamedTuple):
    """Values of one kind and aggregate: their columns in the answer, and the places of their windows in the source."""

    source: int
    kind: int
    aggregate: str
    columns: NDArray[np.intp]
    windows: NDArray[np.intp]


@dataclass(frozen=True)
class Demand:
    """Velocity names in canonical order, arranged for counting. Build it with `demand_of`."""

    names: tuple[str, ...]

    @cached_property
    def _specs(self) -> list[tuple[int, Spec]]:
        return [(column, spec) for column, name in enumerate(self.names) if (spec := spec_of(name)) is not None]

    @cached_property
    def coverage(self) -> Coverage:
        """What the store has to keep."""
        memory = [0] * len(KINDS)
        for _, spec in self._specs:
            memory[spec.kind] = max(memory[spec.kind], spec.window_ms)
        return Coverage(tuple(memory))

    @cached_property
    def approximate(self) -> int | None:
        """The column of APPROXIMATE."""
        return self.names.index(APPROXIMATE) if APPROXIMATE in self.names else None

    @cached_property
    def sources(self) -> dict[int, Source]:
        """What has to be counted, by source."""
        found: dict[int, Source] = {}
        for source in sorted({_source(spec) for _, spec in self._specs}):
            specs = [spec for _, spec in self._specs if _source(spec) == source]
            kinds = np.zeros(len(KINDS), dtype=np.bool_)
            kinds[[spec.kind for spec in specs]] = True
            found[source] = Source(kinds, np.unique([spec.window_ms for spec in specs]).astype(np.int64))
        return found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The values, by kind and aggregate."""
        found: dict[tuple[int, str], list[tuple[int, Spec]]] = {}
        for column, spec in self._specs:
            found.setdefault((spec.kind, spec.aggregate), []).append((column, spec))
        groups = []
        for (kind, aggregate), members in found.items():
            source = _source(members[0][1])
            columns = np.array([column for column, _ in members], dtype=np.intp)
            windows = np.searchsorted(self.sources[source].windows, [spec.window_ms for _, spec in members])
            groups.append(Group(source, kind, aggregate, columns, windows))
        return tuple(groups)


@lru_cache(_CACHED)
def demand_of(names: tuple[str, ...]) -> Demand:
    """What these names demand. Raises ValueError for one that is no velocity name."""
    for name in names:
        if not is_velocity(name):
            raise ValueError(f"{name!r} is no velocity name: {advice(name)}")
    return Demand(names)


def _source(spec: Spec) -> int:
    if spec.aggregate in SINCE:
        return SEEN
    if spec.aggregate in SUMS:
        return LARGEST if spec.aggregate == "max" else SUMMED
    return OTHERS[KINDS[spec.kind]].index(spec.aggregate)
