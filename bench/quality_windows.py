"""Velocity and label feedback over a whole file at once: the contract of detectors.velocity by sorting and searching.

A window covers the rows of an entity before this one whose time lies in [t - w, t]; rows are in the order of time, so
that is a range in the entity's own log. Label feedback covers the rows whose labels have come in by then: those of
[t - delay - w, t - delay].
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.quality_data import Integers, Transactions
from detectors.layout import Floats

HOUR, DAY = 3_600, 86_400
_SPAN = np.int64(1 << 34)


@dataclass(frozen=True)
class EntityLog:
    """The logs of all entities of one kind, one after the other. `entity` and `seconds` int64[n], in stream order."""

    entity: Integers
    seconds: Integers

    @cached_property
    def order(self) -> Integers:
        """Rows of the stream by entity, each entity's in order."""
        return np.argsort(self.entity, kind="stable")

    @cached_property
    def place(self) -> Integers:
        """Where each row of the stream stands in `order`."""
        place = np.empty(len(self.order), dtype=np.int64)
        place[self.order] = np.arange(len(self.order))
        return place

    @cached_property
    def _key(self) -> Integers:
        return (self.entity * _SPAN + self.seconds)[self.order]

    @cached_property
    def _start(self) -> Integers:
        return np.searchsorted(self._key, self.entity * _SPAN)

    def until(self, delay: int = 0) -> Integers:
        """Where the log of each row's entity ends for it: before the row, or with the last row `delay` seconds old."""
        if not delay:
            return self.place
        latest = self.seconds - delay
        ends = np.searchsorted(self._key, self.entity * _SPAN + np.maximum(latest, 0), "right")
        return np.where(latest < 0, self._start, np.maximum(ends, self._start))

    def since(self, window: int, delay: int = 0) -> Integers:
        """Where each row's window of so many seconds begins."""
        earliest = np.maximum(self.seconds - delay - window, 0)
        return np.maximum(np.searchsorted(self._key, self.entity * _SPAN + earliest, "left"), self._start)

    def total(self, values: Floats, window: int, delay: int = 0) -> Floats:
        """Sum of `values` in the window."""
        running = np.concatenate(([0.0], np.cumsum(values[self.order])))
        until = self.until(delay)
        total: Floats = running[until] - running[np.minimum(self.since(window, delay), until)]
        return total

    def count(self, window: int, delay: int = 0) -> Floats:
        """Rows in the window."""
        until = self.until(delay)
        return (until - np.minimum(self.since(window, delay), until)).astype(np.float64)

    def highest(self, values: Floats, window: int) -> Floats:
        """The greatest of `values` in the window, NaN if it is empty; a table of maxima over powers of two."""
        first, until = self.since(window), self.place
        length = until - first
        level = np.frexp(np.maximum(length, 1).astype(np.float64))[1] - 1
        highest = np.full(len(length), np.nan)
        table, reach = values[self.order].astype(np.float64), 1
        for power in range(int(level.max(initial=0)) + 1):
            rows = np.flatnonzero((level == power) & (length > 0))
            highest[rows] = np.maximum(table[first[rows]], table[until[rows] - reach])
            table = np.maximum(table, np.concatenate((table[reach:], np.full(min(reach, len(table)), -np.inf))))
            reach *= 2
        return highest

    def since_last(self) -> Floats:
        """Seconds since the entity's row before, NaN for its first."""
        gap = np.full(len(self.order), np.nan)
        same = np.flatnonzero(self.entity[self.order][1:] == self.entity[self.order][:-1])
        gap[self.order[same + 1]] = self.seconds[self.order[same + 1]] - self.seconds[self.order[same]]
        return gap

    def since_label(self, marked: Integers, delay: int) -> Floats:
        """Seconds since the newest row that is `marked` and at least `delay` seconds old, NaN if there is none."""
        rows = np.arange(len(self.order))
        newest = np.maximum.accumulate(np.where(marked[self.order] != 0, rows, -1))
        until = self.until(delay)
        last = np.where(until > 0, newest[np.maximum(until - 1, 0)], -1)
        known = (until > self._start) & (last >= self._start)
        return np.where(known, self.seconds - self.seconds[self.order][np.maximum(last, 0)], np.nan)


@dataclass(frozen=True)
class Features:
    """Named columns in [0, 1], float64[n, len(names)]; unknown is 1 as for a time long past, and .5 for a ratio."""

    names: tuple[str, ...]
    columns: Floats

    def of(self, names: tuple[str, ...]) -> Floats:
        """The named columns, in that order."""
        return self.columns[:, [self.names.index(name) for name in names]]


def features(stream: Transactions, delay: int) -> Features:
    """What velocity and label feedback tell of each row before it happens; labels come `delay` seconds late."""
    account, store = EntityLog(stream.account, stream.seconds), EntityLog(stream.store, stream.seconds)
    points, fraud = stream.points, (stream.fraud == 1).astype(np.int64)
    known = (stream.fraud >= 0).astype(np.float64)
    columns = {"event.points": _half(points, 100.0), "event.hour": _half(stream.seconds % DAY / HOUR, 12.0)}
    for name, days in (("7d", 7), ("30d", 30), ("90d", 90)):
        count, total = account.count(days * DAY), account.total(points, days * DAY)
        highest = account.highest(points, days * DAY)
        average = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        columns[f"account.points_to_avg_{name}"] = _ratio(points, average)
        columns[f"account.points_to_max_{name}"] = _ratio(points, highest)
        columns[f"account.avg_{name}"] = _half(average, 50.0)
        columns[f"account.max_{name}"] = _half(highest, 100.0)
    for name, window, half in (("24h", DAY, 4.0), ("7d", 7 * DAY, 10.0), ("30d", 30 * DAY, 40.0)):
        columns[f"account.count_{name}"] = _half(account.count(window), half)
        columns[f"account.sum_{name}"] = _half(account.total(points, window), 50 * half)
        columns[f"store.count_{name}"] = _half(store.count(window), half)
    columns["store.sum_7d"] = _half(store.total(points, 7 * DAY), 500.0)
    columns["account.since_last"] = _half(account.since_last(), DAY)
    for name, days in (("1d", 1), ("7d", 7), ("30d", 30)):
        bad = store.total(fraud.astype(np.float64), days * DAY, delay)
        columns[f"store.fraud_{name}"] = _half(bad, 1.0)
        columns[f"store.risk_{name}"] = bad / np.maximum(store.total(known, days * DAY, delay), 1.0)
    columns["store.since_fraud"] = _half(store.since_label(fraud, delay), 7.0 * DAY)
    columns["store.since_good"] = _half(store.since_label((stream.fraud == 0).astype(np.int64), delay), 7.0 * DAY)
    return Features(tuple(columns), np.stack(list(columns.values()), axis=1))


LABEL_FEEDBACK = (
    "store.fraud_1d", "store.fraud_7d", "store.fraud_30d", "store.risk_1d", "store.risk_7d", "store.risk_30d",
    "store.since_fraud", "store.since_good",
)  # fmt: skip
"""Columns that come of labels: no model that has them is called one without labels."""
TERMINAL_RISK = ("account.points_to_avg_90d", "event.points", "store.fraud_1d", "store.fraud_7d", "store.fraud_30d")
WITHOUT_LABELS = ("account.points_to_avg_90d", "event.points", "account.max_7d")


def _half(value: Floats, half: float) -> Floats:
    """The fixed squashing of detectors.models: `half` becomes .5, unknown 1."""
    return np.where(np.isfinite(value), value / (value + half), 1.0)


def _ratio(value: Floats, norm: Floats) -> Floats:
    """A value against a norm: equal is .5, and so is a norm that is not known yet."""
    return np.where(np.isfinite(norm), value / np.maximum(value + norm, 1e-9), 0.5)
