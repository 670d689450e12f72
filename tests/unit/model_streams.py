"""Made-up streams for models: honest events of a few kinds, strange ones of one kind, packed or spread."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats
from detectors.models import INPUTS, WIDE

HALVES = np.array([each.half for each in INPUTS])


class Stream(NamedTuple):
    """Inputs float64[n, WIDE] and which of them are strange, bool[n]."""

    inputs: Floats
    strange: NDArray[np.bool_]


def honest(rng: np.random.Generator, count: int, kinds: int = 3) -> Floats:
    """Events around a few centres, each input log-normal."""
    centres = rng.gamma(1.5, 1.0, (kinds, WIDE))
    spread = np.exp(rng.normal(0, 0.35, (count, WIDE)))
    events: Floats = centres[rng.integers(0, kinds, count)] * spread * HALVES
    return events


def strange(rng: np.random.Generator, count: int) -> Floats:
    """Events around one centre, far out in two inputs of five."""
    centre = rng.gamma(1.5, 1.0, WIDE)
    centre[rng.random(WIDE) < 0.4] *= 8
    events: Floats = centre * np.exp(rng.normal(0, 0.25, (count, WIDE))) * HALVES
    return events


def spread(seed: int, count: int, odd: int, calm: int) -> Stream:
    """`odd` strange events at random places behind the first `calm` rows."""
    rng = np.random.default_rng(seed)
    events, out = honest(rng, count), strange(rng, odd)
    return _placed(events, out, np.sort(rng.choice(np.arange(calm, count), odd, replace=False)))


def packed(seed: int, count: int, odd: int, calm: int, bursts: int = 5) -> Stream:
    """The same events, the strange ones in bursts at even distances."""
    rng = np.random.default_rng(seed)
    events, out = honest(rng, count), strange(rng, odd)
    size = odd // bursts
    starts = np.linspace(calm, count - 2 * size, bursts).astype(int)
    return _placed(events, out, np.concatenate([np.arange(start, start + size) for start in starts]))


def _placed(events: Floats, out: Floats, at: NDArray[np.integer]) -> Stream:
    events[at] = out[: len(at)]
    marks = np.zeros(len(events), dtype=np.bool_)
    marks[at] = True
    return Stream(events, marks)
