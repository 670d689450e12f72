"""Distinct others: how many different devices, addresses, peers or accounts lie in each window.

Of the records before the tail, those of a window are counted, less those that meet the same other again later in it.
The tail adds the others that its records show and that the window did not hold before. What a folded log remembers of
others is a sample for wide windows (detectors/velocity_fold.py): these are counted in the sample that covers them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.velocity import Floats, Hashes, Integers, Truths
from detectors.velocity_fold import LEVELS, NEVER, belongs
from detectors.velocity_groups import expand, grouped, representatives
from detectors.velocity_log import mixed
from detectors.velocity_names import Windows
from detectors.velocity_tables import Asked, Met, Tables, bins, histogram, running, span

BUSY: Final = 8
"""From so many questions of one log in a batch on, its others are counted in another way."""


@dataclass(frozen=True)
class _Groups:
    """Records before the tail put together by other, each in order of time.

    `order` are their places in Met; `time` is theirs in that order; `again` marks all but the first of a group. `start`
    and `stop` are the places in that order of the group that shows the other of each of some further hashes.
    """

    order: Integers
    time: Integers
    again: Truths
    start: Integers
    stop: Integers


@dataclass(frozen=True)
class _New:
    """Others that the tail shows a question, each once: in the windows from bin `shown` to before bin `known`."""

    asked: Integers
    shown: Integers
    known: Integers
    other: Hashes

    def part(self, level: int) -> "_New":
        """Give those of a level."""
        mine = belongs(self.other, level)
        return _New(self.asked[mine], self.shown[mine], self.known[mine], self.other[mine])

    def count(self, shape: tuple[int, int]) -> Integers:
        """Count them for each question and window, int64[q, w]."""
        questions, width = shape
        size = width + 1
        change = np.bincount(self.asked * size + self.shown, minlength=questions * size)
        change -= np.bincount(self.asked * size + self.known, minlength=questions * size)
        added: Integers = change.reshape(questions, size)[:, :width].cumsum(axis=1)
        return added


@dataclass(frozen=True)
class _Beyond:
    """For questions about the past of a log: records in or after a window whose next one is later than asked.

    `bin` is the narrowest window such a record is in, or after.
    """

    asked: Integers
    bin: Integers
    other: Hashes

    def part(self, level: int) -> "_Beyond":
        """Give those of a level."""
        mine = belongs(self.other, level)
        return _Beyond(self.asked[mine], self.bin[mine], self.other[mine])

    def count(self, shape: tuple[int, int]) -> Integers:
        """Count them for each question and window, int64[q, w]."""
        if not len(self.asked):
            return np.zeros(shape, dtype=np.int64)
        return histogram(self.asked, self.bin, shape)


@dataclass(frozen=True)
class _Ranges:
    """Others of the records before the tail, by log and time, and the range of each question's windows among them.

    An other counts at its last record in a window: all records in it, less those that have a next one in it.
    """

    other: Hashes
    has_next: Truths
    low: Integers
    high: Integers
    end: Integers
    busy: "_Busy"

    def count(self) -> Integers:
        """Count distinct others, as if each question were about the latest of its log, int64[q, w]."""
        nexts = running(self.has_next)
        return (self.high[:, None] - self.low) - (nexts[self.end][:, None] - nexts[self.low])

    def members(self, level: int, among: Integers | None) -> Integers:
        """Give the places of the others of a level, among those of the level below."""
        if among is None:
            return np.flatnonzero(belongs(self.other, level))
        return among[belongs(self.other[among], level)]

    def count_members(self, members: Integers, asked: Integers, window: Integers) -> Integers:
        """Count only others at these places, for some questions and one window each."""
        low, nexts = self.low[asked, window], members[self.has_next[members]]
        found = np.searchsorted(members, self.high[asked]) - np.searchsorted(members, low)
        return found - np.searchsorted(nexts, self.end[asked]) + np.searchsorted(nexts, low)


@dataclass(frozen=True)
class _Busy:
    """Questions about ordered logs that are asked much in one batch: there, pairs of others would be too many.

    Such questions, one after the other, see windows whose ends only move on. So the questions for which a record is the
    last of its other in the window are a range: after it was observed, until its other comes again (`next`) or the
    window has left it. `asked` bool[q] marks the questions, `order` are they by row; `place` are the records' places.
    """

    asked: Truths
    order: Integers
    place: Integers
    next: Integers
    other: Hashes

    def count(self, ranges: "_Ranges", level: int, values: Floats) -> None:
        """Count the others of a level that lie in each window, into values float64[q, w]."""
        size = len(self.order)
        if not size:
            return
        members = np.flatnonzero(belongs(self.other, level))
        place = self.place[members]
        high = ranges.high[self.order]
        seen = np.searchsorted(high, place, side="right")
        again = np.searchsorted(high, self.next[members], side="right")
        for window in range(values.shape[1]):
            left = np.searchsorted(ranges.low[self.order, window], place, side="right")
            stop = np.minimum(again, left)
            counted = seen < stop
            change = np.bincount(seen[counted], minlength=size + 1) - np.bincount(stop[counted], minlength=size + 1)
            values[self.order, window] = np.cumsum(change)[:size]


def distinct(tables: Tables, column: int, windows: Windows) -> Floats:
    """Count the distinct others of a column for each question and each of w windows, float64[q, w]."""
    met, shape = tables.met(column), (len(tables.asked.log), len(windows))
    tail = tables.logs.rows["others"][:, column]
    tail_row = np.unique(tables.pairs.row)
    tail_row = tail_row[tail[tail_row] != 0]
    groups = _group(met, mixed(tail[tail_row], tables.logs.of[tail_row]))
    ranges = _ranges(tables, met, groups, windows)
    beyond = _beyond(tables.asked, met, groups, ranges, windows)
    new = _new(tables, tail, tail_row, groups, windows)
    values = (ranges.count() + beyond.count(shape) + new.count(shape)).astype(np.float64)
    ranges.busy.count(ranges, 0, values)
    level = _levels(tables, column, windows)
    if level is None:
        return values
    places = None
    for number in range(1, int(level.max(initial=0)) + 1):
        beyond, new, places = beyond.part(number), new.part(number), ranges.members(number, places)
        asked, window = np.nonzero(level == number)
        if len(asked):
            counted = np.zeros(shape)
            others = beyond.count(shape) + new.count(shape)
            members = ranges.count_members(places, asked, window) + others[asked, window]
            counted[asked, window] = members
            ranges.busy.count(ranges, number, counted)
            values[asked, window] = counted[asked, window] * float(1 << number)
    return np.maximum.accumulate(values, axis=1)


def _busy(tables: Tables, met: Met, groups: _Groups) -> _Busy:
    asked, logs = tables.asked, len(tables.logs.start) - 1
    busy = np.bincount(asked.log, minlength=logs) >= BUSY
    chosen = busy[asked.log] & asked.ordered
    order = np.flatnonzero(chosen)
    order = order[np.argsort(asked.row[order], kind="stable")]
    log = np.zeros(logs, dtype=np.bool_)
    log[asked.log[order]] = True
    place = np.flatnonzero(log[met.log])
    following = np.full(len(met.other), len(met.other), dtype=np.int64)
    again = np.flatnonzero(groups.again)
    following[groups.order[again - 1]] = groups.order[again]
    return _Busy(chosen, order, place, following[place], met.other[place])


def _levels(tables: Tables, column: int, windows: Windows) -> Integers | None:
    """Give the lowest level whose sample covers each window, int64[q, w]; None if all are covered by all others."""
    summaries = tables.logs.summaries
    partial = np.flatnonzero(summaries.cover[:, column, 0] > NEVER)
    if not len(partial):
        return None
    level = np.zeros((len(tables.asked.log), len(windows)), dtype=np.int64)
    number = np.full(len(tables.logs.start), -1, dtype=np.int64)
    number[summaries.log[partial]] = np.arange(len(partial))
    cover = summaries.cover[partial, column]
    asking = number[tables.asked.log]
    chosen = np.flatnonzero(asking >= 0)
    uncovered = tables.asked.since(windows)[chosen][:, :, None] <= cover[asking[chosen]][:, None, :]
    level[chosen] = np.minimum(np.count_nonzero(uncovered, axis=2), LEVELS - 1)
    return level


def _ranges(tables: Tables, met: Met, groups: _Groups, windows: Windows) -> _Ranges:
    asked, scale, key = tables.asked, tables.scale, met.entries.key
    has_next = np.zeros(len(key), dtype=np.bool_)
    has_next[groups.order[np.flatnonzero(groups.again) - 1]] = True
    low, high = met.entries.bounds(tables, windows)
    end = np.searchsorted(key, (asked.log + 1) << scale.bits)
    return _Ranges(met.other, has_next, low, high, end, _busy(tables, met, groups))


def _beyond(asked: Asked, met: Met, groups: _Groups, ranges: _Ranges, windows: Windows) -> _Beyond:
    high = np.where(ranges.busy.asked, ranges.end, ranges.high)
    if np.array_equal(high, ranges.end):
        none = np.empty(0, dtype=np.int64)
        return _Beyond(none, none, np.empty(0, dtype=np.uint64))
    again = np.flatnonzero(groups.again)
    repeats = np.zeros(len(met.other), dtype=np.bool_)
    repeats[groups.order[again]] = True
    upto = running(repeats)
    which, place = expand(upto[high], upto[ranges.end] - upto[high])
    previous = np.zeros(len(met.other), dtype=np.int64)
    previous[groups.order[again]] = groups.time[again - 1]
    age = np.maximum(asked.as_of[which] - previous[repeats][place], 0)
    return _Beyond(which, bins(windows, age), met.other[repeats][place])


def _group(met: Met, further: Hashes) -> _Groups:
    size = len(met.other)
    group = representatives(np.concatenate((mixed(met.other, met.log), further)))
    order = grouped(group[:size])
    ordered = group[order]
    again = np.zeros(size, dtype=np.bool_)
    again[1:] = ordered[1:] == ordered[:-1]
    first = np.flatnonzero(~again)
    start, stop = np.zeros((2, len(group)), dtype=np.int64)
    start[ordered[first]] = first
    stop[ordered[first]] = np.append(first[1:], size)[: len(first)]
    return _Groups(order, met.time[order], again, start[group[size:]], stop[group[size:]])


def _new(tables: Tables, tail: Hashes, tail_row: Integers, groups: _Groups, windows: Windows) -> _New:
    """Find the others that the tail shows each question, and in which windows they are new."""
    if not len(tail_row):
        none = np.empty(0, dtype=np.int64)
        return _New(none, none, none, np.empty(0, dtype=np.uint64))
    names, code = np.unique(tail[tail_row], return_inverse=True)
    coded = np.full(len(tail), -1, dtype=np.int64)
    coded[tail_row] = code
    place = np.zeros(len(tail), dtype=np.int64)
    place[tail_row] = np.arange(len(tail_row))
    pairs = tables.pairs.part(coded[tables.pairs.row] >= 0)
    bin_ = bins(windows, pairs.age)
    each = pairs.asked * len(names) + coded[pairs.row]
    order = np.argsort(each * (len(windows) + 1) + bin_, kind="stable")
    each = each[order]
    first = order[np.concatenate((each[:1] == each[:1], each[1:] != each[:-1]))]
    question, shown, row = pairs.asked[first], bin_[first], pairs.row[first]
    known = _known(groups, place[row], tables.asked.as_of[question], windows)
    return _New(question, shown, np.maximum(known, shown), tail[row])


def _known(groups: _Groups, place: Integers, as_of: Integers, windows: Windows) -> Integers:
    """Give the narrowest window in which the records before the tail show an other as of a time, or len(windows)."""
    start, stop = groups.start[place], groups.stop[place]
    if not len(groups.time) or not len(place):
        return np.full(len(place), len(windows))
    scale = span((groups.time, as_of))
    rank = np.cumsum(~groups.again) - 1
    key = scale(rank, groups.time)
    group = rank[np.minimum(start, len(rank) - 1)]
    latest = np.searchsorted(key, scale(group, as_of), side="right") - 1
    there = (latest >= start) & (start < stop)
    return np.where(there, bins(windows, as_of - groups.time[latest]), len(windows))
