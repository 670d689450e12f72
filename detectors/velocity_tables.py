"""The arrays that all aggregates of a batch are counted from.

The records of a log fall in two parts. Those before the tail (`Totals`, `Met`) are put in order of time, so that a
window is a range found by binary search. In the tail every event meets the records before it one by one (`Pairs`).
A log whose events come in the order of their times, as nearly all do, needs no tail: what was observed before an event
is what stands before it. Else the tail begins with the first event of the batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors.velocity import Hashes, Integers, Truths
from detectors.velocity_fold import Summaries
from detectors.velocity_groups import expand
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
    """q questions: about which log, as of which time, the row of the event's own record, and whether without a tail."""

    log: Integers
    as_of: Integers
    row: Integers
    ordered: Truths

    def since(self, windows: Windows) -> Integers:
        """The start of each of w windows, int64[q, w]."""
        return self.as_of[:, None] - windows

    def part(self, chosen: Truths) -> "Asked":
        """Give some of the questions."""
        return Asked(self.log[chosen], self.as_of[chosen], self.row[chosen], self.ordered[chosen])


@dataclass(frozen=True)
class Sorted:
    """Entries of logs ordered by log and time. `key` is the Scale's, int64[e].

    `rows` counts, for each row of the logs and one more, the entries that are rows before it, `older` int64[m] the
    entries of each log that are no rows, but remembered of a summary.
    """

    key: Integers
    rows: Integers
    older: Integers

    def bounds(self, tables: "Tables", windows: Windows) -> tuple[Integers, Integers]:
        """Give the places at which each question's windows begin, int64[q, w], and what it may see ends, int64[q]."""
        asked, scale = tables.asked, tables.scale
        low = np.searchsorted(self.key, scale(asked.log[:, None], asked.since(windows)))
        high = np.searchsorted(self.key, scale(asked.log, asked.as_of), side="right")
        first = np.searchsorted(self.key, asked.log << scale.bits)
        before = self.rows[asked.row] - self.rows[tables.logs.start[asked.log]]
        return low, np.where(asked.ordered, first + self.older[asked.log] + before, high)


@dataclass(frozen=True)
class Totals:
    """Running totals of the records before the tail and of the summaries' buckets.

    `time` and `largest` int64[e]; `count`, `moving` and `points` int64[e + 1] begin with 0.
    """

    entries: Sorted
    time: Integers
    largest: Integers
    count: Integers
    moving: Integers
    points: Integers

    def ranges(self, tables: "Tables", windows: Windows) -> tuple[Integers, Integers]:
        """Give the places at which each window begins, int64[q, w], and ends, int64[q, 1]."""
        low, high = self.entries.bounds(tables, windows)
        return low, high[:, None]

    def most(self, low: Integers, high: Integers) -> Integers:
        """Give the largest amount in each range, 0 in an empty one, int64[q, w]."""
        high = np.broadcast_to(high, low.shape)
        bounds = np.stack((low, high), axis=-1).ravel()
        found = np.maximum.reduceat(np.append(self.largest, 0), bounds)[::2].reshape(low.shape)
        return np.where(low < high, found, 0)


@dataclass(frozen=True)
class Met:
    """Records before the tail that show an other of one column, and the others summaries remember."""

    entries: Sorted
    log: Integers
    time: Integers
    other: Hashes


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
        rows, summaries = self.logs.rows, self.logs.summaries
        points = rows["points"] if len(self.earlier) == len(rows) else rows["points"][self.earlier]
        counted = np.ones(len(points), dtype=np.int64)
        # Any: the columns are of integers and truths.
        columns: tuple[NDArray[Any], ...] = (self.time[self.earlier], counted, points != 0, points, points)
        key = self.key
        if len(summaries):
            log = np.repeat(summaries.log, summaries.buckets_each)
            key = np.concatenate((self.scale(log, summaries.buckets[0]), key))
            columns = tuple(np.concatenate(pair) for pair in zip(summaries.buckets, columns, strict=True))
        order = _order(key)
        if order is not None:
            key, columns = key[order], tuple(column[order] for column in columns)
        time, count, moving, points, largest = columns
        entries = Sorted(key, self._counted(None), self._older(summaries.buckets_each))
        return Totals(entries, time, largest, running(count), running(moving), running(points))

    def met(self, column: int) -> Met:
        """Arrange what is known of the others of one column."""
        other = self.logs.rows["others"][:, column]
        shown = other != 0
        rows = self.earlier[shown[self.earlier]]
        of, summaries = self.logs.of[rows], self.logs.summaries
        # Any: the columns are of signed and unsigned integers.
        columns: tuple[NDArray[Any], ...] = self.scale(of, self.time[rows]), of, self.time[rows], other[rows]
        if len(summaries):
            log, time = np.repeat(summaries.log, summaries.seen_each[column]), summaries.seen_time[column]
            older = self.scale(log, time), log, time, summaries.seen[column]
            columns = tuple(np.concatenate(pair) for pair in zip(older, columns, strict=True))
        order = _order(columns[0])
        if order is not None:
            columns = tuple(each[order] for each in columns)
        entries = Sorted(columns[0], self._counted(shown), self._older(summaries.seen_each[column]))
        return Met(entries, columns[1], columns[2], columns[3])

    def _counted(self, shown: Truths | None) -> Integers:
        """Count the rows before each row, of those with the mark if there is one."""
        return np.arange(len(self.time) + 1) if shown is None else running(shown)

    def _older(self, each: Integers) -> Integers:
        older = np.zeros(len(self.logs.start) - 1, dtype=np.int64)
        older[self.logs.summaries.log] = each
        return older


def build(logs: Logs, log: Integers, as_of: Integers, row: Integers) -> Tables:
    """Arrange the logs for q questions: about which log, as of which time, and the row of the event's own record.

    Each log holds an event once at most.
    """
    time = np.ascontiguousarray(logs.rows["time"])
    first = logs.start[1:].copy()
    np.minimum.at(first, log, row)
    ordered = _ordered(logs, time, first)
    # An event that comes again with another time than its first copy asks about that time.
    ordered[log[time[row] != as_of]] = False
    tail = np.where(ordered, logs.start[1:], first)
    asked = Asked(log, as_of, row, ordered[log])
    scale = _scale(time, as_of, logs.summaries)
    earlier = np.arange(len(time)) if ordered.all() else np.flatnonzero(np.arange(len(time)) < tail[logs.of])
    key = scale(logs.of[earlier], time[earlier])
    return Tables(logs, asked, scale, time, earlier, key, _pairs(asked, tail[log], time))


def _ordered(logs: Logs, time: Integers, first: Integers) -> Truths:
    """Tell in which logs no event from row `first` on is older than one before it, bool[m]."""
    start, stop = logs.start[:-1], logs.start[1:]
    newest = np.full(len(start), np.iinfo(np.int64).min)
    filled = start < first
    if filled.any():
        bounds = np.stack((start[filled], first[filled]), axis=-1).ravel()
        newest[filled] = np.maximum.reduceat(np.append(time, 0), bounds)[::2]
    summaries = logs.summaries
    if len(summaries):
        # Buckets come in order of time, and the last is as new as any other remembered with it.
        held = summaries.buckets_each > 0
        last = summaries.buckets[0][np.cumsum(summaries.buckets_each)[held] - 1]
        newest[summaries.log[held]] = np.maximum(newest[summaries.log[held]], last)
    ordered: Truths = (first == stop) | (newest <= np.append(time, 0)[first])
    falls = np.flatnonzero(time[1:] < time[:-1]) + 1
    falls = falls[falls > first[logs.of[falls]]]
    ordered[logs.of[falls]] = False
    return ordered


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


def _scale(time: Integers, as_of: Integers, summaries: Summaries) -> Scale:
    return span((time, as_of, summaries.buckets[0], *summaries.seen_time))


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
    which, row = expand(start, np.maximum(asked.row - start, 0))
    age = asked.as_of[which] - time[row]
    inside = age >= 0
    return Pairs(which, row, age) if inside.all() else Pairs(which, row, age).part(inside)
