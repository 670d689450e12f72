"""The arrays that all aggregates of a batch are counted from.

The records of a log fall in two parts: what was there before the first event of the batch asks (`Earlier`), and the
tail from there on. The first part is put in order of time, so that a window is a range found by binary search. In the
short tail every event meets the records before it one by one (`Pairs`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.velocity import WINDOWS, Floats, Hashes, Integers, Truths
from detectors.velocity_fold import COLUMNS, Summary
from detectors.velocity_log import Logs

LENGTHS: Final = np.array(list(WINDOWS.values()), dtype=np.int64)
WINDOW_COUNT: Final = len(LENGTHS)
OUTSIDE: Final = WINDOW_COUNT
"""The bin of an age that lies in no window."""


@dataclass(frozen=True)
class Scale:
    """Puts a log and a time into one sortable integer; times outside the batch's span count as its ends."""

    base: int
    bits: int

    def __call__(self, log: Integers, time: Integers) -> Integers:
        """Give the integer of each pair."""
        return (log << self.bits) + np.clip(time - self.base, 0, (1 << self.bits) - 1)


@dataclass(frozen=True)
class Asked:
    """q questions: about which log, as of which time, and the row of the event's own record."""

    log: Integers
    as_of: Integers
    row: Integers

    @property
    def since(self) -> Integers:
        """The start of each window, int64[q, 4]."""
        return self.as_of[:, None] - LENGTHS

    def part(self, chosen: Truths) -> "Asked":
        """Give some of the questions."""
        return Asked(self.log[chosen], self.as_of[chosen], self.row[chosen])


@dataclass(frozen=True)
class Earlier:
    """Records before the tail and what summaries add to them, ordered by log and time.

    `key` is the Scale's. A summary's bucket has the count of its records and no others; an other it remembers has one
    of `others` and a count of 0.
    """

    key: Integers
    log: Integers
    time: Integers
    count: Integers
    points: Integers
    others: tuple[Hashes, ...]


@dataclass(frozen=True)
class Pairs:
    """Each question with each tail record observed before it that lies in a window; `bin` is the narrowest of these."""

    asked: Integers
    row: Integers
    bin: Integers

    def part(self, chosen: Truths) -> "Pairs":
        """Give some of the pairs."""
        return Pairs(self.asked[chosen], self.row[chosen], self.bin[chosen])


@dataclass(frozen=True)
class Tables:
    """All of it, for one batch."""

    logs: Logs
    asked: Asked
    scale: Scale
    earlier: Earlier
    pairs: Pairs


def build(logs: Logs, asked: Asked) -> Tables:
    """Arrange the logs for the questions asked about them; each log holds an event once at most."""
    time = np.ascontiguousarray(logs.rows["time"])
    tail = logs.start[:-1].copy()
    tail[asked.log] = asked.row
    np.minimum.at(tail, asked.log, asked.row)
    scale = _scale(time, asked, logs.summaries)
    return Tables(logs, asked, scale, _earlier(logs, time, tail, scale), _pairs(asked, tail[asked.log], time))


def expand(start: Integers, stop: Integers) -> tuple[Integers, Integers]:
    """List the numbers from each start to each stop, exclusive, and beside each number which range it is of."""
    lengths = np.maximum(stop - start, 0)
    which = np.repeat(np.arange(len(lengths)), lengths)
    offset = start - (np.cumsum(lengths) - lengths)
    return which, np.arange(len(which)) + offset[which]


def bins(age: Integers) -> Integers:
    """Give the narrowest window each age (ms) lies in: 0 to 3, or OUTSIDE."""
    return np.searchsorted(LENGTHS, age)


def histogram(asked: Integers, bin_: Integers, size: int, weights: Floats | None = None) -> NDArray[np.generic]:
    """Count (or add up the weights of) what lies in each window of each of `size` questions: [size, 4]."""
    flat = np.bincount(asked * (WINDOW_COUNT + 1) + bin_, weights, minlength=size * (WINDOW_COUNT + 1))
    return flat.reshape(size, WINDOW_COUNT + 1)[:, :WINDOW_COUNT].cumsum(axis=1)


def running(values: Integers) -> Integers:
    """Give running totals, beginning with 0."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(values, dtype=np.int64)))


def _scale(time: Integers, asked: Asked, summaries: dict[int, Summary]) -> Scale:
    times = [time, asked.as_of]
    for summary in summaries.values():
        times += [summary.time, *summary.seen_time]
    together = np.concatenate(times)
    if not len(together):
        return Scale(0, 1)
    base = int(together.min())
    return Scale(base, (int(together.max()) - base + 1).bit_length())


def _earlier(logs: Logs, time: Integers, tail: Integers, scale: Scale) -> Earlier:
    chosen = np.flatnonzero(np.arange(len(time)) < tail[logs.of])
    rows = logs.rows[chosen]
    log, time, points = logs.of[chosen], time[chosen], rows["points"]
    others = tuple(np.ascontiguousarray(rows[column]) for column in COLUMNS)
    count = np.ones(len(chosen), dtype=np.int64)
    parts = [Earlier(scale(log, time), log, time, count, points, others)]
    parts += [_remembered(number, summary, scale) for number, summary in logs.summaries.items()]
    return _in_order(_together(parts) if len(parts) > 1 else parts[0])


def _remembered(number: int, summary: Summary, scale: Scale) -> Earlier:
    """Give a summary's buckets and others as if they were records."""
    buckets, sizes = len(summary.time), [len(column) for column in summary.seen]
    time = np.concatenate((summary.time, *summary.seen_time))
    log = np.full(len(time), number, dtype=np.int64)
    count, points = np.zeros((2, len(time)), dtype=np.int64)
    count[:buckets], points[:buckets] = summary.count, summary.total
    others = np.zeros((len(COLUMNS), len(time)), dtype=np.uint64)
    at = buckets
    for column, size in enumerate(sizes):
        others[column, at : at + size] = summary.seen[column]
        at += size
    return Earlier(scale(log, time), log, time, count, points, tuple(others))


def _together(parts: list[Earlier]) -> Earlier:
    return Earlier(
        key=np.concatenate([part.key for part in parts]),
        log=np.concatenate([part.log for part in parts]),
        time=np.concatenate([part.time for part in parts]),
        count=np.concatenate([part.count for part in parts]),
        points=np.concatenate([part.points for part in parts]),
        others=tuple(np.concatenate([part.others[column] for part in parts]) for column in range(len(COLUMNS))),
    )


def _in_order(earlier: Earlier) -> Earlier:
    key = earlier.key
    if np.all(key[1:] >= key[:-1]):
        return earlier
    order = np.argsort(key, kind="stable")
    return Earlier(
        key=key[order],
        log=earlier.log[order],
        time=earlier.time[order],
        count=earlier.count[order],
        points=earlier.points[order],
        others=tuple(column[order] for column in earlier.others),
    )


def _pairs(asked: Asked, start: Integers, time: Integers) -> Pairs:
    which, row = expand(start, asked.row)
    age = asked.as_of[which] - time[row]
    bin_ = bins(age)
    inside = (age >= 0) & (bin_ < OUTSIDE)
    return Pairs(which, row, bin_).part(inside)
