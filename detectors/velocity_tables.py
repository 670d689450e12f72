"""The arrays that all aggregates of a batch are counted from.

The records of a log fall in two parts: what was there before the first event of the batch asks (`Totals`, `Met`), and
the tail from there on. The first part is put in order of time, so that a window is a range found by binary search. In
the short tail every event meets the records before it one by one (`Pairs`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from detectors.velocity import Hashes, Integers, Truths
from detectors.velocity_fold import Summary
from detectors.velocity_log import Logs
from detectors.velocity_names import Windows

_NOTHING: Final = np.zeros(1, dtype=np.int64)


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

    def since(self, windows: Windows) -> Integers:
        """The start of each of w windows, int64[q, w]."""
        return self.as_of[:, None] - windows

    def part(self, chosen: Truths) -> "Asked":
        """Give some of the questions."""
        return Asked(self.log[chosen], self.as_of[chosen], self.row[chosen])


@dataclass(frozen=True)
class Totals:
    """Running totals of the records before the tail and of the summaries' buckets, ordered by log and time.

    `key` is the Scale's, int64[e]; `time` and `largest` int64[e]; `count`, `moving` and `points` int64[e + 1] begin
    with 0.
    """

    key: Integers
    time: Integers
    largest: Integers
    count: Integers
    moving: Integers
    points: Integers

    def ranges(self, asked: Asked, scale: Scale, windows: Windows) -> tuple[Integers, Integers]:
        """Give the places at which each window begins, int64[q, w], and ends, int64[q, 1]."""
        low = np.searchsorted(self.key, scale(asked.log[:, None], asked.since(windows)))
        high = np.searchsorted(self.key, scale(asked.log, asked.as_of), side="right")[:, None]
        return low, high

    def most(self, low: Integers, high: Integers) -> Integers:
        """Give the largest amount in each range, 0 in an empty one, int64[q, w]."""
        high = np.broadcast_to(high, low.shape)
        bounds = np.stack((low, high), axis=-1).ravel()
        found = np.maximum.reduceat(np.append(self.largest, 0), bounds)[::2].reshape(low.shape)
        return np.where(low < high, found, 0)


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
    """Each question with each tail record observed before it, not later than it, and how much older that is (ms)."""

    asked: Integers
    row: Integers
    age: Integers

    def part(self, chosen: Truths) -> "Pairs":
        """Give some of the pairs."""
        return Pairs(self.asked[chosen], self.row[chosen], self.age[chosen])


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
        if chosen.all():
            return self
        pairs = self.pairs.part(chosen[self.pairs.asked])
        pairs = replace(pairs, asked=(np.cumsum(chosen) - 1)[pairs.asked])
        return replace(self, asked=self.asked.part(chosen), pairs=pairs)

    def totals(self) -> Totals:
        """Arrange what is counted and added up."""
        key, time, points = self.key, self.time[self.earlier], self.logs.rows["points"][self.earlier]
        count, moving, largest = np.ones(len(key), dtype=np.int64), (points != 0).astype(np.int64), points
        summaries = self.logs.summaries
        if summaries:
            buckets = [
                np.concatenate(column) for column in zip(*(one.buckets for one in summaries.values()), strict=True)
            ]
            log = np.repeat(list(summaries), [len(summary.time) for summary in summaries.values()])
            key = np.concatenate((key, self.scale(log, buckets[0])))
            columns = zip((time, count, moving, points, largest), buckets, strict=True)
            time, count, moving, points, largest = (np.concatenate(pair) for pair in columns)
        order = _order(key)
        if order is not None:
            columns_in_order = (column[order] for column in (key, time, count, moving, points, largest))
            key, time, count, moving, points, largest = columns_in_order
        return Totals(key, time, largest, running(count), running(moving), running(points))

    def met(self, column: int) -> Met:
        """Arrange what is known of the others of one column."""
        other = self.logs.rows["others"][self.earlier, column]
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


def bins(windows: Windows, age: Integers) -> Integers:
    """Give the narrowest window each age (ms) lies in, by its place, or len(windows) for none."""
    return np.searchsorted(windows, age)


def histogram(asked: Integers, bin_: Integers, shape: tuple[int, int], weights: Integers | None = None) -> Integers:
    """Count (or add up the weights of) what lies in each of w windows of each of q questions; shape is (q, w)."""
    size, width = shape
    flat = np.bincount(asked * (width + 1) + bin_, weights, minlength=size * (width + 1)).astype(np.int64, copy=False)
    inside: Integers = flat.reshape(size, width + 1)[:, :width].cumsum(axis=1)
    return inside


def running(values: Integers | Truths) -> Integers:
    """Give running totals, beginning with 0."""
    return np.concatenate((_NOTHING, np.cumsum(values, dtype=np.int64)))


def _scale(time: Integers, asked: Asked, summaries: dict[int, Summary]) -> Scale:
    times = [time, asked.as_of]
    for summary in summaries.values():
        times += [summary.time, *summary.seen_time]
    return span(times)


def span(times: Iterable[Integers]) -> Scale:
    """Give a Scale that tells all these times apart."""
    filled = [each for each in times if len(each)]
    if not filled:
        return Scale(0, 1)
    base = min(int(each.min()) for each in filled)
    return Scale(base, (max(int(each.max()) for each in filled) - base + 1).bit_length())


def _order(key: Integers) -> Integers | None:
    """Give the order by key, or None when it is in order already, as it is unless events came late."""
    if np.all(key[1:] >= key[:-1]):
        return None
    return np.argsort(key, kind="stable")


def _pairs(asked: Asked, start: Integers, time: Integers) -> Pairs:
    which, row = expand(start, asked.row)
    age = asked.as_of[which] - time[row]
    inside = age >= 0
    return Pairs(which, row, age) if inside.all() else Pairs(which, row, age).part(inside)
