"""The drive of the kill tests: events in bursts, and within each burst a kill -9 of a worker that has some in flight.

One drive for whatever reads the events, so that a naive agent goes through what PointGuard's own workers go through.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

EVENTS = 20_000
KILLS = 10
PARTITIONS = 4
WORKERS = ("w0", "w1")
WARM_UP = 40


class Driven(Protocol):
    """Workers on a topic, and a record of all that the broker acknowledged."""

    def produce(self, rng: random.Random, count: int) -> None:
        """Send seeded events and wait until the broker has acknowledged each."""

    def produced(self) -> int:
        """Events the broker has acknowledged."""

    def handled(self) -> int:
        """Events that will not come again."""

    def in_flight(self) -> dict[str, int]:
        """Events acknowledged and not handled, by the worker that reads their partition."""

    def kill_worker(self, name: str) -> None:
        """End a worker as `kill -9` does; `wait_until` starts it again."""

    def wait_until(self, true: Callable[[], bool], seconds: float, what: str, /) -> None:
        """Wait for a condition, keeping the workers alive; AssertionError when it does not come."""


def settle(driven: Driven) -> None:
    """Have a few events handled, so that kills hit a settled group."""
    driven.produce(random.Random(1), WARM_UP)
    driven.wait_until(lambda: driven.handled() >= WARM_UP, 60, "the first events are handled")


def kill_in_flight(driven: Driven, rng: random.Random) -> int:
    """Kill -9 a worker that has events in flight; how many they were (0: it had none, and the kill does not count)."""
    waiting = {name: count for name, count in driven.in_flight().items() if count > 0}
    if not waiting:
        return 0
    name = rng.choice(sorted(waiting))
    driven.kill_worker(name)
    # What was committed between the look and the kill does not count.
    return driven.in_flight().get(name, 0)


def more_than(driven: Driven, before: int) -> bool:
    """Whether more events are handled than before."""
    return driven.handled() > before


def rounds(driven: Driven, rng: random.Random, events: int = EVENTS, kills: int = KILLS) -> int:
    """Send the events in as many bursts as there are kills, and kill a worker within each; events in flight then."""
    in_flight = 0
    for number in range(kills):
        hit = 0
        while (
            not hit
        ):  # a burst that is over too soon to count is followed by another, until a kill hits some in flight
            before = driven.handled()
            driven.produce(rng, events // kills)
            driven.wait_until(partial(more_than, driven, before), 90, f"burst {number} begins to be handled")
            hit = kill_in_flight(driven, rng)
        in_flight += hit
        driven.wait_until(lambda: driven.handled() >= driven.produced(), 480, f"burst {number} is handled")
    return in_flight
