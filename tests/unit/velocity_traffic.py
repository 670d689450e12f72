"""Seeded batches of observations for velocity tests: hot and cold entities, copies, late and simultaneous events."""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from detectors.velocity import Observations
from detectors.velocity_names import APPROXIMATE, KINDS, OTHERS, SINCE, SUMS, demand_of, ordered

START_MS = 1_790_000_000_000
WINDOWS = {"1m": 60_000, "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000, "90d": 7_776_000_000}
EVERYTHING = demand_of(
    ordered(
        [
            f"velocity.{kind}.{value}_{window}"
            for kind in KINDS
            for value in (*SUMS, *OTHERS[kind])
            for window in WINDOWS
        ]
        + [f"velocity.{kind}.{value}" for kind in KINDS for value in SINCE]
        + [APPROXIMATE]
    )
)
"""Every aggregate of every kind, over windows from the narrowest to the widest."""


@dataclass(frozen=True)
class Mix:
    """How many entities of each kind there are, how many event ids, and over how many ms times are spread."""

    entities: int = 5
    events: int = 10**9
    span_ms: int = 1_000


@cache
def number(kind: str, index: int) -> int:
    """Give a 64-bit number for an entity or event, well spread and never 0."""
    return random.Random(f"{kind}{index}").getrandbits(64) or 1


def batch(rng: random.Random, size: int, mix: Mix, start_ms: int = START_MS, *, in_order: bool = False) -> Observations:
    """Make a batch: a fifth of the events lack an entity of some kind, a third are transfers, some move nothing."""
    entities = range(mix.entities)

    def some(kind: str, share: float) -> int:
        return number(kind, rng.choice(entities)) if rng.random() < share else 0

    rows = [
        (*(some(kind, 0.8 if kind != "account" else 1) for kind in KINDS), some("account", 0.3)) for _ in range(size)
    ]
    times = [start_ms + rng.randrange(mix.span_ms) for _ in range(size)]
    hashes = np.array(rows, dtype=np.uint64).reshape(size, len(KINDS) + 1)
    return Observations(
        programs=("demo",),
        program=np.zeros(size, dtype=np.int64),
        time=np.array(sorted(times) if in_order else times, dtype=np.int64),
        event=np.array([number("event", rng.randrange(mix.events)) for _ in range(size)], dtype=np.uint64),
        entity=hashes[:, : len(KINDS)],
        peer=hashes[:, len(KINDS)],
        points=np.array([max(0, rng.randrange(-200, 1000)) for _ in range(size)], dtype=np.int64),
    )


def on_one_address(first: int, size: int, accounts: int, step_ms: int = 10) -> Observations:
    """Make a batch of events first, first + 1, ... of one address, step_ms apart, by so many accounts in turn."""
    place = np.arange(first, first + size)
    entity = np.zeros((size, len(KINDS)), dtype=np.uint64)
    entity[:, KINDS.index("account")] = [number("account", int(one) % accounts) for one in place]
    entity[:, KINDS.index("ip")] = number("ip", 0)
    return Observations(
        programs=("demo",),
        program=np.zeros(size, dtype=np.int64),
        time=START_MS + place * step_ms,
        event=np.array([number("event", int(one)) for one in place], dtype=np.uint64),
        entity=entity,
        peer=np.zeros(size, dtype=np.uint64),
        points=np.full(size, 10, dtype=np.int64),
    )
