"""The arrays that all aggregates of a batch are counted from.

The records of a log fall in two parts: what was there before the first event of the batch asks (`Totals`, `Met`), and
the tail from there on. The first part is put in order of time, so that a window is a range found by binary search. In
the short tail every event meets the records before it one by one (`Pairs`).
"""

from dataclasses import dataclass, replace
from functools import cached_property
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

    @cached_property
    def since(self) -> Integers:
        """The start of each window, int64[q, 4]."""
        return self.as_of[:, None] - LENGTHS

    def part(self, chosen: Truths) -> "Asked":
        """Give some of the questions."""
        return Asked(self.log[chosen], self.as_of[chosen], self.row[chosen])


@dataclass(frozen=True)
class Totals:
    """Running totals of the records before the tail and of the summaries' buckets, ordered by log and time.

    `key` is the Scale's, int64[e]; `count` and `points` int64[e + 1] begin with 0.
    """

    key: Integers
    count: Integers
    points: Integers

    def ranges(self, asked: Asked, scale: Scale) -> tuple[Integers, Integers]:
        """Count the records and add up the points of each window, both int64[q, 4]."""
        low = np.searchsorted(self.key, scale(asked.log[:, None], asked.since))
        high = np.searchsorted(self.key, scale(asked.log, asked.as_of), side="right")[:, None]
        return self.count[high] - self.count[low], self.points[high] - self.points[low]


@dataclass(frozen=True)
class Met:
    """Records before the tail that show an other of one column, and the others summaries remember, in that order."""

    key: Integers
    log: Integers
    time: Integers
    other: Hashes

    def part(self, chosen: Truths) -> "Met":
        """Give some of them."""
        return Met(self.key[chosen], self.log[chosen], self.time[chosen], self.other[chosen])


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
    """All of it, for one batch. `earlier` are the rows before the tails, `key` int64[e] theirs, `time` of all rows."""

    logs: Logs
    asked: Asked
    scale: Scale
    time: Integers
    earlier: Integers
    key: Integers
    pairs: Pairs

    def part(self, chosen: Truths) -> "Tables":
        """Give the tables for some of the questions."""
        pairs = self.pairs.part(chosen[self.pairs.asked])
        pairs = replace(pairs, asked=(np.cumsum(chosen) - 1)[pairs.asked])
        return replace(self, asked=self.asked.part(chosen), pairs=pairs)

    def totals(self) -> Totals:
        """Arrange what is counted and added up."""
        key, points = self.key, self.logs.rows["points"][self.earlier]
        count = np.ones(len(key), dtype=np.int64)
        summaries = self.logs.summaries
        if summaries:
            remembered = np.concatenate([summary.time for summary in summaries.values()])
            log = np.repeat(list(summaries), [len(summary.time) for summary in summaries.values()])
            key = np.concatenate((key, self.scale(log, remembered)))
            count = np.concatenate((count, *(summary.count for summary in summaries.values())))
            points = np.concatenate((points, *(summary.total for summary in summaries.values())))
        order = _order(key)
        if order is not None:
            key, count, points = key[order], count[order], points[order]
        return Totals(key, running(count), running(points))

    def met(self, column: int) -> Met:
        """Arrange what is known of the others of one column."""
        other = self.logs.rows[COLUMNS[column]][self.earlier]
        shown = np.flatnonzero(other)
        rows = self.earlier[shown]
        met = Met(self.key[shown], self.logs.of[rows], self.time[rows], other[shown])
        summaries = self.logs.summaries
        if summaries:
            time = np.concatenate([summary.seen_time[column] for summary in summaries.values()])
            log = np.repeat(list(summaries), [len(summary.seen[column]) for summary in summaries.values()])
            met = Met(
                np.concatenate((met.key, self.scale(log, time))),
                np.concatenate((met.log, log)),
                np.concatenate((met.time, time)),
                np.concatenate((met.other, *(summary.seen[column] for summary in summaries.values()))),
            )
        order = _order(met.key)
        return met if order is None else Met(met.key[order], met.log[order], met.time[order], met.other[order])


def build(logs: Logs, asked: Asked) -> Tables:
    """Arrange the logs for the questions asked about them; each log holds an event once at most."""
    time = np.ascontiguousarray(logs.rows["time"])
    tail = logs.start[:-1].copy()
    tail[asked.log] = asked.row
    np.minimum.at(tail, asked.log, asked.row)
    scale = _scale(time, asked, logs.summaries)
    earlier = np.flatnonzero(np.arange(len(time)) < tail[logs.of])
    key = scale(logs.of[earlier], time[earlier])
    return Tables(logs, asked, scale, time, earlier, key, _pairs(asked, tail[asked.log], time))


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


def running(values: Integers | Truths) -> Integers:
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


def _order(key: Integers) -> Integers | None:
    """Give the order by key, or None when it is in order already, as it is unless events came late."""
    if np.all(key[1:] >= key[:-1]):
        return None
    return np.argsort(key, kind="stable")


def _pairs(asked: Asked, start: Integers, time: Integers) -> Pairs:
    which, row = expand(start, asked.row)
    age = asked.as_of[which] - time[row]
    bin_ = bins(age)
    inside = (age >= 0) & (bin_ < OUTSIDE)
    return Pairs(which, row, bin_).part(inside)
