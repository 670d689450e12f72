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


@dataclass(frozen=True)
class Register(Generic[T]):
    """Items by kind, and by programme and value. Build it with `register_of`."""

    kinds: Mapping[str, Mapping[tuple[str, Entity], tuple[T, ...]]] = field(default_factory=dict)

    def find(self, programs: Sequence[str], times_ms: Sequence[int], values: Values) -> list[tuple[int, T]]:
        """(row, item) of all that count for the batch's events at their times.

        A kind without items costs nothing; else it is two look-ups an event.
        """
        found: list[tuple[int, T]] = []
        for kind, table in self.kinds.items():
            for row, value in enumerate(values(kind)):
                if value is None:
                    continue
                for program in (programs[row], ALL_PROGRAMS):
                    found += [(row, item) for item in table.get((program, value), ()) if times_ms[row] <= item.until_ms]
        return found


def register_of(items: Iterable[tuple[Place, T]]) -> Register[T]:
    """The register of items with the places they stand at."""
    kinds: dict[str, dict[tuple[str, Entity], list[T]]] = defaultdict(lambda: defaultdict(list))
    for (kind, program, value), item in items:
        kinds[kind][program, value].append(item)
    return Register({
        kind: {place: tuple(at) for place, at in table.items()} for kind, table in kinds.items()
    })  # fmt: skip


def columns(found: Iterable[tuple[int, Entry]], rows: int, names: Sequence[str]) -> Floats:
    """The `lists.` features float64[rows, len(names)]: the number of an entry, the lowest if there are several, else 0.

    `lists.<tier>` tells of any list of that tier, `lists.<name>` of the list of that name.
    """
    matrix = np.zeros((rows, len(names)))
    column = {name.removeprefix("lists."): place for place, name in enumerate(names)}
    for row, entry in found:
        for name in {entry.tier, entry.list}:
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
