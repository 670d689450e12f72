"""Distinct others: how many different devices, addresses, peers or accounts lie in each window.

Of the records before the tail, those of a window are counted, less those that meet the same other again later in it.
The tail adds the others that its records show and that the window did not hold before. What a folded log remembers of
others is a sample for wide windows (detectors/velocity_fold.py): these are counted in the sample that covers them.
"""

from dataclasses import dataclass

import numpy as np

from detectors.velocity import Floats, Hashes, Integers, Truths
from detectors.velocity_fold import COLUMNS, LEVELS, belongs
from detectors.velocity_log import mixed
from detectors.velocity_tables import (
    OUTSIDE,
    WINDOW_COUNT,
    Asked,
    Pairs,
    Scale,
    Tables,
    bins,
    expand,
    histogram,
    running,
)


@dataclass(frozen=True)
class _Met:
    """Records that show an other, ordered by log and time: `other` is equal only for equal others of one log."""

    scale: Scale
    key: Integers
    time: Integers
    other: Hashes


@dataclass(frozen=True)
class _Grouped:
    """The same records by other, then time. `order` are their places in _Met; `again` marks all but the first."""

    order: Integers
    other: Hashes
    time: Integers
    again: Truths


def distinct(tables: Tables, column: int) -> Floats:
    """Count the distinct others of a column for each question and window, float64[q, 4]."""
    values = _sampled(tables, column, 0, np.ones(len(tables.asked.log), dtype=np.bool_)).astype(np.float64)
    if not tables.logs.summaries:
        return values
    level = _levels(tables, column)
    for number in range(1, int(level.max(initial=0)) + 1):
        chosen = np.any(level == number, axis=1)
        if np.any(chosen):
            estimate = _sampled(tables, column, number, chosen) * float(1 << number)
            values[chosen] = np.where(level[chosen] == number, estimate, values[chosen])
    return np.maximum.accumulate(values, axis=1)


def _levels(tables: Tables, column: int) -> Integers:
    """Give the lowest level whose sample covers each window, int64[q, 4]."""
    level = np.zeros((len(tables.asked.log), WINDOW_COUNT), dtype=np.int64)
    for log, summary in tables.logs.summaries.items():
        chosen = np.flatnonzero(tables.asked.log == log)
        uncovered = tables.asked.since[chosen][:, :, None] <= summary.cover[column]
        level[chosen] = np.minimum(uncovered.argmin(axis=2) + LEVELS * uncovered.all(axis=2), LEVELS - 1)
    return level


def _sampled(tables: Tables, column: int, level: int, chosen: Truths) -> Integers:
    """Count the others that belong to a level, int64[q, 4] for the chosen questions."""
    earlier = tables.earlier
    shown = belongs(earlier.others[column], level)
    tail_others = tables.logs.rows[COLUMNS[column]][tables.pairs.row]
    tail_shown = belongs(tail_others, level)
    asked, pairs = tables.asked, tables.pairs
    if level:
        wanted = np.zeros(len(tables.logs.start), dtype=np.bool_)
        wanted[asked.log[chosen]] = True
        shown &= wanted[earlier.log]
        tail_shown &= chosen[pairs.asked]
        asked = asked.part(chosen)
        pairs = Pairs((np.cumsum(chosen) - 1)[pairs.asked], pairs.row, pairs.bin)
    met = _Met(
        tables.scale,
        earlier.key[shown],
        earlier.time[shown],
        mixed(earlier.others[column][shown], earlier.log[shown]),
    )
    grouped = _group(met)
    pairs = pairs.part(tail_shown)
    others = mixed(tail_others[tail_shown], asked.log[pairs.asked])
    return _in_ranges(met, grouped, asked) + _in_tail(grouped, asked, pairs, others)


def _group(met: _Met) -> _Grouped:
    order = _stable_order(met.other)
    other = met.other[order]
    again = np.zeros(len(order), dtype=np.bool_)
    again[1:] = other[1:] == other[:-1]
    return _Grouped(order, other, met.time[order], again)


def _stable_order(hashes: Hashes) -> Integers:
    """Sort as argsort(kind="stable") does, several times faster.

    The low bits of each hash make way for its place, so that bare numbers can be sorted; hashes that only differ in
    those bits are seen afterwards.
    """
    bits = np.uint64(max(len(hashes) - 1, 1).bit_length())
    low = np.uint64((1 << int(bits)) - 1)
    packed = (hashes & ~low) | np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    order = (packed & low).astype(np.int64)
    ordered = hashes[order]
    if np.all(ordered[1:] >= ordered[:-1]):
        return order
    return np.argsort(hashes, kind="stable")


def _in_ranges(met: _Met, grouped: _Grouped, asked: Asked) -> Integers:
    """Count distinct others among the records before the tail, int64[q, 4].

    Each other counts at its last record in the window: all records in it, less those that have a next one in it.
    """
    low = np.searchsorted(met.key, met.scale(asked.log[:, None], asked.since))
    high = np.searchsorted(met.key, met.scale(asked.log, asked.as_of), side="right")
    end = np.searchsorted(met.key, (asked.log + 1) << met.scale.bits)
    has_next = np.zeros(len(met.key), dtype=np.int64)
    again = np.flatnonzero(grouped.again)
    has_next[grouped.order[again - 1]] = 1
    nexts = running(has_next)
    found = (high[:, None] - low) - (nexts[end][:, None] - nexts[low])
    if np.array_equal(high, end):
        return found
    return found + _beyond(met, grouped, asked, (high, end))


def _beyond(met: _Met, grouped: _Grouped, asked: Asked, later: tuple[Integers, Integers]) -> Integers:
    """Count, for questions about the past of a log, the records in or after a window whose next one is after it."""
    again = np.flatnonzero(grouped.again)
    repeats = np.zeros(len(met.key), dtype=np.int64)
    repeats[grouped.order[again]] = 1
    previous = np.zeros(len(met.key), dtype=np.int64)
    previous[grouped.order[again]] = grouped.time[again - 1]
    upto, previous = running(repeats), previous[repeats == 1]
    which, place = expand(upto[later[0]], upto[later[1]])
    age = np.maximum(asked.as_of[which] - previous[place], 0)
    return histogram(which, bins(age), len(asked.log)).astype(np.int64)


def _in_tail(grouped: _Grouped, asked: Asked, pairs: Pairs, others: Hashes) -> Integers:
    """Count the others that the tail shows and the records before it do not, int64[q, 4]."""
    if not len(others):
        return np.zeros((len(asked.log), WINDOW_COUNT), dtype=np.int64)
    names, code = np.unique(others, return_inverse=True)
    packed = (pairs.asked * len(names) + code) * (OUTSIDE + 1) + pairs.bin
    packed.sort()
    each, shown = np.divmod(packed, OUTSIDE + 1)
    first = np.concatenate(([True], each[1:] != each[:-1]))
    question, code = np.divmod(each[first], len(names))
    known = _bins_before(grouped, names, code, asked.as_of[question])
    size = WINDOW_COUNT + 1
    change = np.bincount(question * size + shown[first], minlength=len(asked.log) * size)
    change -= np.bincount(question * size + np.maximum(known, shown[first]), minlength=len(asked.log) * size)
    added: Integers = change.reshape(-1, size)[:, :WINDOW_COUNT].cumsum(axis=1)
    return added


def _bins_before(grouped: _Grouped, names: Hashes, code: Integers, as_of: Integers) -> Integers:
    """Give the narrowest window in which the records before the tail show names[code] as of a time, or OUTSIDE."""
    if not len(grouped.time):
        return np.full(len(code), OUTSIDE)
    start = np.searchsorted(grouped.other, names)
    stop = np.searchsorted(grouped.other, names, side="right")
    scale = _spread(grouped.time, as_of)
    rank = np.cumsum(~grouped.again) - 1
    key = scale(rank, grouped.time)
    group = rank[np.minimum(start, len(rank) - 1)][code]
    latest = np.searchsorted(key, scale(group, as_of), side="right") - 1
    there = (latest >= start[code]) & (start[code] < stop[code])
    return np.where(there, bins(as_of - grouped.time[latest]), OUTSIDE)


def _spread(*times: Integers) -> Scale:
    base = min(int(time.min()) for time in times)
    return Scale(base, (max(int(time.max()) for time in times) - base + 1).bit_length())
