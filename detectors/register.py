"""What is kept about single entities, and found for a whole batch: entries of lists, snoozes of rules.

Pure: a `Register` is built once from rows and never changes; the time is the events' own. Values are what is stored, a
pseudonym where the entity is a person's thing, so nothing here can be read back.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from detectors.layout import Floats

Tier = Literal["allow", "block", "final", "watch", "plain"]
TIERS: Final[tuple[Tier, ...]] = ("allow", "block", "final", "watch")
"""Tiers that decisions know of; a `plain` list is only for rules that name it."""
LIST_KINDS: Final = (
    *("account", "device", "ip", "payment", "referrer"),
    *("store", "staff", "campaign", "channel", "source"),
)
SNOOZE_KINDS: Final = ("account", "device", "ip", "store", "staff")
RECEIVER: Final = "to"
"""The receiver of a transfer: for every tier but `allow` it stands beside the account."""
ALL_PROGRAMS: Final = ""
FOR_EVER: Final = 2**62

Entity = str | bytes
Values = Callable[[str], Sequence[Entity | None]]
"""The batch's entities of a kind, one element an event; None where an event has none."""


def network_kind(version: int, prefix: int) -> str:
    """The kind of an address's network of that length, beside the kinds of whole entities."""
    return f"ip{version}/{prefix}"


class Item(Protocol):
    """What is kept of an entity."""

    @property
    def until_ms(self) -> int:
        """The last moment (Unix ms) at which it counts."""
        ...


class Entry(NamedTuple):
    """An entry of a list; `number` is its id."""

    number: int
    list: str
    tier: Tier
    until_ms: int = FOR_EVER


class Snooze(NamedTuple):
    """One rule that is silent for one entity; `number` is its id."""

    number: int
    rule: str
    until_ms: int


T = TypeVar("T", bound=Item)
Place = tuple[str, str, Entity]
"""Kind, programme (ALL_PROGRAMS for any) and value."""


class Table(NamedTuple, Generic[T]):
    """The items of one kind: those of one programme by (programme, value), those of all by value."""

    own: Mapping[tuple[str, Entity], tuple[T, ...]]
    everywhere: Mapping[Entity, tuple[T, ...]]


@dataclass(frozen=True)
class Register(Generic[T]):
    """Items by kind. Build it with `register_of`."""

    kinds: Mapping[str, Table[T]] = field(default_factory=dict)

    def find(self, programs: Sequence[str], times_ms: Sequence[int], values: Values) -> list[tuple[int, T]]:
        """(row, item) of all that count for the batch's events at their times.

        A kind without items costs nothing, else it is a look-up an event, or two: a third of a microsecond.
        """
        met: list[tuple[int, tuple[T, ...]]] = []
        for kind, table in self.kinds.items():
            of = values(kind)
            # An event without such an entity looks up None, which nothing stands at.
            if table.own:
                own = map(table.own.get, zip(programs, of, strict=True))  # type: ignore[arg-type]  # as said
                met += [(row, items) for row, items in enumerate(own) if items is not None]
            if table.everywhere:
                everywhere = map(table.everywhere.get, of)  # type: ignore[arg-type]  # as said
                met += [(row, items) for row, items in enumerate(everywhere) if items is not None]
        return [(row, item) for row, items in met for item in items if times_ms[row] <= item.until_ms]


def register_of(items: Iterable[tuple[Place, T]]) -> Register[T]:
    """The register of items with the places they stand at."""
    own: dict[str, dict[tuple[str, Entity], tuple[T, ...]]] = defaultdict(dict)
    everywhere: dict[str, dict[Entity, tuple[T, ...]]] = defaultdict(dict)
    for (kind, program, value), item in items:
        if program == ALL_PROGRAMS:
            everywhere[kind][value] = (*everywhere[kind].get(value, ()), item)
        else:
            own[kind][program, value] = (*own[kind].get((program, value), ()), item)
    return Register({kind: Table(own[kind], everywhere[kind]) for kind in sorted({*own, *everywhere})})


def columns(found: Iterable[tuple[int, Entry]], rows: int, names: Sequence[str]) -> Floats:
    """The `lists.` features float64[rows, len(names)]: the number of an entry, the lowest if there are several, else 0.

    `lists.<tier>` tells of any list of that tier, `lists.<name>` of the list of that name.
    """
    matrix = np.zeros((rows, len(names)))
    column = {name.removeprefix("lists."): place for place, name in enumerate(names)}
    for row, entry in found:
        for name in {entry.tier, entry.list} if entry.tier in TIERS else (entry.list,):
            place = column.get(name)
            if place is not None and not 0 < matrix[row, place] <= entry.number:
                matrix[row, place] = entry.number
    return matrix


def silenced(found: Iterable[tuple[int, Snooze]]) -> dict[int, frozenset[str]]:
    """By row the rules that are snoozed."""
    rules: dict[int, set[str]] = defaultdict(set)
    for row, snooze in found:
        rules[row].add(snooze.rule)
    return {row: frozenset(of) for row, of in rules.items()}
