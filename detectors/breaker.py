"""The circuit breaker of rules: a live rule that suddenly fires on far more events than it should is stopped.

One mistyped limit can hold every member's points; a rule that fires on five times its expected share is more often a
mistake than an attack. Counting is apart from judging: `Window` counts, `tripped` compares. Rates are compared by the
lower end of Wilson's interval (Wilson, 1927), so a few events never trip anything.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from detectors.policy import Breaker, Policy

SLICES: Final = 10
"""The window moves in so many steps."""
Z: Final = 3.0
"""Standard errors between the measured share and the one that is believed at least."""


@dataclass(frozen=True)
class Trip:
    """A rule fired on `hits` of the last `events`, where a share of `expected` (None: nothing known) allows `limit`."""

    rule: str
    hits: int
    events: int
    expected: float | None
    limit: float


@dataclass
class Window:
    """Counts of the last events of one policy, at least `size` of them once there were so many."""

    size: int
    _slices: deque[tuple[int, Counter[str]]] = field(default_factory=deque)
    _events: int = 0
    _hits: Counter[str] = field(default_factory=Counter)

    def add(self, events: int, hits: Iterable[str]) -> None:
        """Count a batch of `events`, of which `hits` names the rules that fired, one name a rule and event."""
        fired = Counter(hits)
        self._events += events
        self._hits += fired
        if self._slices and self._slices[-1][0] + events <= self.size // SLICES:
            seen, counted = self._slices[-1]
            self._slices[-1] = (seen + events, counted + fired)
        else:
            self._slices.append((events, fired))
        while self._events - self._slices[0][0] >= self.size:
            seen, counted = self._slices.popleft()
            self._events -= seen
            self._hits -= counted

    @property
    def events(self) -> int:
        """How many events are in the window."""
        return self._events

    def hits(self, rule: str) -> int:
        """On how many of them the rule fired."""
        return self._hits[rule]


def limit_of(expected: float | None, terms: Breaker) -> float:
    """The share above which a rule is stopped.

    Half-way between the expected share and all events is too much for any rule, however common it is meant to be.
    """
    if expected is None:
        return terms.unknown
    return min(max(terms.above, terms.times * expected), (1.0 + expected) / 2.0)


def tripped(window: Window, policy: Policy, expected: Mapping[str, float], paused: frozenset[str]) -> list[Trip]:
    """The live rules that speak against events and fire on more than their limit; not those that are paused already."""
    terms = policy.breaker
    if window.events < terms.events:
        return []
    trips = []
    for rule in policy.rules:
        if rule.mode != "live" or rule.id in paused or (rule.outcome is None and (rule.weight or 0.0) <= 0.0):
            continue
        share, hits = expected.get(rule.id), window.hits(rule.id)
        limit = limit_of(share, terms)
        if at_least(hits, window.events) > limit:
            trips.append(Trip(rule.id, hits, window.events, share, limit))
    return trips


def at_least(hits: int, events: int) -> float:
    """The lower end of Wilson's interval of a share: what it is at least, Z standard errors down."""
    share, square = hits / events, Z * Z / events
    middle = share + square / 2.0
    spread = Z * math.sqrt(share * (1.0 - share) / events + square / (4.0 * events))
    return (middle - spread) / (1.0 + square)
