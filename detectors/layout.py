"""The layout of a features matrix: which names its columns have, in one canonical order, under a version of their own.

A policy's rules and the models' inputs name what they read; the layout holds just that of velocity (whose names are
without number), and all of the fixed groups below. A group is extended here and nowhere else. Rows stored under another
layout are read back by name, so a stored decision stays readable for ever.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.velocity_names import APPROXIMATE, is_velocity, ordered

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

ACCOUNT: Final = (
    "account.age_seconds",
    "account.seconds_since_signup",
    "account.seconds_since_credential_change",
)
EVENT: Final = ("event.points", "event.hour", "event.outflow")
NORM: Final = (
    "account.times_usual_points",
    "account.times_usual_day",
    "account.unusual_points",
    "account.unusual_day",
)
"""Beside the account's own norm: times the usual, and spreads above the usual; unknown while it has none."""
LINKS: Final = ("links.accounts", "links.fresh_accounts", "links.held_accounts", "links.points", "links.risk")
"""The account's cluster: its size, how many of it are fresh or have held points, points at stake, and its risk."""
LISTS: Final = ("lists.allow", "lists.block", "lists.final", "lists.watch")
"""The entry's number if any entity of the event stands on a list of that tier, else 0; `lists.<name>`: one list."""
FIXED: Final = (APPROXIMATE, *ACCOUNT, *EVENT, *NORM, *LINKS, *LISTS)
VERSION_LENGTH: Final = 16

_LIST = re.compile(r"lists\.[a-z][a-z0-9_]{0,62}")
_PLACES_CACHED: Final = 256


class UnknownFeature(ValueError):
    """No feature has this name."""


@dataclass(frozen=True)
class Layout:
    """The names of the columns: velocity, the fixed groups, then named lists. Build it with `layout_of`.

    Velocity ends with APPROXIMATE, which every layout has.
    """

    names: tuple[str, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """The column of each name."""
        return {name: column for column, name in enumerate(self.names)}

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.names)

    @cached_property
    def version(self) -> str:
        """A hash of the names in their order, 16 hexadecimal digits."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:VERSION_LENGTH]

    @cached_property
    def velocity(self) -> tuple[str, ...]:
        """The velocity names, which come first."""
        return tuple(name for name in self.names if name.startswith("velocity."))

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """LISTS and the named lists, which come last."""
        return tuple(name for name in self.names if name.startswith("lists."))


def layout_of(demanded: Iterable[str]) -> Layout:
    """The layout that has these names besides the fixed ones, whatever their order. Raises UnknownFeature."""
    wanted = set(demanded) - set(FIXED)
    unknown = sorted(name for name in wanted if not is_feature(name))
    if unknown:
        raise UnknownFeature(f"no feature is named {', '.join(map(repr, unknown))}")
    velocity = ordered(name for name in wanted if is_velocity(name))
    return Layout((*velocity, *FIXED, *sorted(wanted.difference(velocity))))


def is_feature(name: str) -> bool:
    """Whether a layout may hold this name."""
    return name in FIXED or is_velocity(name) or _LIST.fullmatch(name) is not None


def by_name(matrix: Floats, layout: Layout, names: tuple[str, ...]) -> Floats:
    """The columns of these names float64[n, len(names)] out of a matrix in a layout; NaN where it lacks the name."""
    places = _places(layout, names)
    if (places >= 0).all():
        return matrix[:, places]
    found = np.full((len(matrix), len(names)), np.nan)
    found[:, places >= 0] = matrix[:, places[places >= 0]]
    return found


@lru_cache(_PLACES_CACHED)
def _places(layout: Layout, names: tuple[str, ...]) -> Places:
    return np.array([layout.index.get(name, -1) for name in names], dtype=np.intp)
