"""A bounded sample of an endless stream, and the reproducible dice that models draw with.

A reservoir (Vitter's algorithm R) holds a uniform sample of all rows so far. With a horizon it forgets slowly: from
then on each new row is as likely to enter as the one at the horizon, and old rows fade with a mean age of `horizon`
rows (Aggarwal's biased reservoir). Long memory is the point: a burst of anomalies fills only its share of the sample.

The dice are a hash of (seed, stream, position), not a generator with a state: the same row draws the same number
whatever batch brings it, on every machine and with every version of NumPy.
"""

import numpy as np
from numpy.typing import NDArray

from detectors.layout import Floats

Integers = NDArray[np.int64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD = 2**64 - 1


def dice(seed: int, stream: int, first: int, count: int) -> Floats:
    """`count` numbers in [0, 1), those at positions `first` and on of a stream; SplitMix64 (Steele et al. 2014).

    Any integer may be a seed or a stream; they are taken modulo 2**64.
    """
    origin = _mixed(np.array([(seed * 0xD1342543DE82EF95 + stream) & _WORD], dtype=np.uint64))
    positions = np.arange(first, first + count, dtype=np.uint64)
    return (_mixed(origin + positions * _STEP) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    word = word + _STEP
    word = (word ^ (word >> np.uint64(30))) * _MIX_1
    word = (word ^ (word >> np.uint64(27))) * _MIX_2
    mixed: NDArray[np.uint64] = word ^ (word >> np.uint64(31))
    return mixed


class Reservoir:
    """At most `size` rows of `width` numbers; `seen` counts all that were offered."""

    def __init__(self, size: int, width: int, horizon: int, seed: int) -> None:
        if not 0 < size <= horizon:
            raise ValueError(f"a reservoir of {size} rows needs a horizon of at least as many, not {horizon}")
        self.seen = 0
        self._rows = np.zeros((size, width))
        self._horizon = horizon
        self._seed = seed

    def add(self, rows: Floats) -> None:
        """Offer rows float64[n, width], in order; the outcome is the same however they are cut into batches."""
        position = np.arange(self.seen, self.seen + len(rows))
        drawn = dice(self._seed, 0, self.seen, len(rows)) * np.minimum(position + 1, self._horizon)
        slot = np.where(position < len(self._rows), position, drawn.astype(np.int64))
        taken = np.flatnonzero(slot < len(self._rows))
        # Of two rows for one slot the later stays. NumPy leaves the order of such writes open, so it is made plain.
        slots, last = np.unique(slot[taken][::-1], return_index=True)
        self._rows[slots] = rows[taken[::-1][last]]
        self.seen += len(rows)

    def __len__(self) -> int:
        return min(self.seen, len(self._rows))

    @property
    def rows(self) -> Floats:
        """What is held, float64[len(self), width]; a view, not to be changed."""
        held: Floats = self._rows[: len(self)]
        return held

    def state(self) -> bytes:
        """All that later samples depend on, as bytes for a digest."""
        return np.int64(self.seen).tobytes() + self.rows.astype("<f8").tobytes()


def drawn(seed: int, stream: int, count: int, among: int) -> Integers:
    """`count` positions below `among`, with replacement."""
    return (dice(seed, stream, 0, count) * among).astype(np.int64)


def chosen(seed: int, stream: int, count: int, among: int) -> Integers:
    """`count` different positions below `among`, in random order."""
    order: Integers = np.argsort(dice(seed, stream, 0, among), kind="stable")[:count]
    return order


def checked(inputs: Floats, width: int) -> Floats:
    """The inputs themselves, if float64[n, width] and finite; raises ValueError naming the first that is not."""
    if inputs.ndim != 2 or inputs.shape[1] != width:  # noqa: PLR2004  # a matrix has two axes
        raise ValueError(f"inputs of shape {inputs.shape} where (n, {width}) is learned: give one row an event")
    broken = np.flatnonzero(~np.isfinite(inputs))
    if len(broken):
        row, column = divmod(int(broken[0]), width)
        raise ValueError(f"input {column} of row {row} is {inputs[row, column]}: squash the features before learning")
    return inputs
