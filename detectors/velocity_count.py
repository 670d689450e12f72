"""Counting: the velocity of a whole batch from whole logs, in NumPy, without a loop over events."""

from functools import cached_property

import numpy as np

from detectors.velocity import Floats, Hashes, Integers, Observations, Truths
from detectors.velocity_distinct import distinct
from detectors.velocity_groups import representatives
from detectors.velocity_log import Appends, Logs, mixed
from detectors.velocity_names import LARGEST, SEEN, SINCE, SUMMED, Demand
from detectors.velocity_tables import Tables, Totals, bins, build, histogram

_MS_PER_SECOND = 1_000.0
_NEVER = np.iinfo(np.int64).max


def aggregate(batch: Observations, appends: Appends, logs: Logs, demand: Demand) -> tuple[Floats, Truths]:
    """Give the demanded values float64[n, names] of a batch and whether they are approximate, bool[n].

    `logs` are those of the appends as read back right after the batch was appended to them. Raises ValueError for logs
    that lack an event of the batch.
    """
    kept = np.zeros(batch.entity.shape[1], dtype=np.bool_)
    kept[list(demand.coverage.kinds)] = True
    event, kind = np.nonzero((appends.log >= 0) & kept)
    by_log = np.argsort(appends.log[event, kind], kind="stable")
    event, kind = event[by_log], kind[by_log]
    log = appends.log[event, kind]
    logs, row = _own_rows(logs, mixed(batch.event[event], log), log, appends.from_end[event, kind])
    counts = _Counts(build(logs, log, batch.time[event], row), kind, demand)
    values = np.zeros((len(batch), len(demand.names)), dtype=np.float64)
    for group in demand.groups:
        chosen = kind[counts.chosen(group.source)] == group.kind
        if group.aggregate in ("avg", *SINCE):
            values[:, group.columns] = np.nan
        rows = event[counts.chosen(group.source)][chosen]
        counted = counts.values(group.source, group.aggregate)
        values[rows[:, None], group.columns] = counted[np.flatnonzero(chosen)[:, None], group.windows]
    folded, approximate = np.zeros(len(logs.start), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)
    folded[logs.summaries.log] = True
    approximate[event[folded[log]]] = True
    if demand.approximate is not None:
        values[:, demand.approximate] = approximate
    return values, approximate


def _own_rows(logs: Logs, wanted: Hashes, log: Integers, from_end: Integers) -> tuple[Logs, Integers]:
    """Find the first copy of each event in its log, and give the logs without any second copies.

    Copies only come with redelivery. Without one each record lies where the batch has just put it; which copy was first
    is only looked for when there are some.
    """
    keyed = logs.keyed()
    row = logs.start[log + 1] - from_end
    copies = representatives(keyed) != np.arange(len(keyed))
    if not np.any(copies) and np.array_equal(keyed[row], wanted):
        return logs, row
    order = np.argsort(keyed, kind="stable")
    ordered = keyed[order]
    doubled = np.zeros(len(keyed), dtype=np.bool_)
    doubled[order[1:][ordered[1:] == ordered[:-1]]] = True
    row = order[np.minimum(np.searchsorted(ordered, wanted), len(order) - 1)]
    if not np.array_equal(keyed[row], wanted):
        raise ValueError("a log lacks an event that was just appended to it")
    return logs.without(doubled), row - np.cumsum(doubled)[row]


class _Counts:
    """The values of q questions by source and aggregate, each worked out when it is first asked for.

    `kind` int64[q] is each question's. A source is only counted for the questions of kinds that demand it.
    """

    def __init__(self, tables: Tables, kind: Integers, demand: Demand) -> None:
        self._tables, self._kind, self._demand = tables, kind, demand
        self._chosen: dict[int, Truths] = {}
        self._values: dict[tuple[int, str], Floats] = {}

    def chosen(self, source: int) -> Truths:
        """Tell which questions a source is counted for, bool[q]."""
        if source not in self._chosen:
            self._chosen[source] = self._demand.sources[source].kinds[self._kind]
        return self._chosen[source]

    def values(self, source: int, aggregate: str) -> Floats:
        """Give the values of the chosen questions over each of the source's windows."""
        if source < SUMMED:
            aggregate = "others"
        if (source, aggregate) not in self._values:
            self._values |= {(source, name): found for name, found in self._count(source).items()}
        return self._values[source, aggregate]

    @cached_property
    def _totals(self) -> Totals:
        return self._tables.totals()

    def _count(self, source: int) -> dict[str, Floats]:
        tables, windows = self._tables.part(self.chosen(source)), self._demand.sources[source].windows
        if source == SUMMED:
            return _summed(tables, self._totals, windows)
        if source == LARGEST:
            return {"max": _largest(tables, self._totals, windows)}
        if source == SEEN:
            return _since(tables, self._totals, windows)
        return {"others": distinct(tables, source, windows)}


def _summed(tables: Tables, totals: Totals, windows: Integers) -> dict[str, Floats]:
    """Counts, sums and averages, each float64[q, w]."""
    low, high = totals.ranges(tables, windows)
    pairs, shape = tables.pairs, low.shape
    points = tables.logs.rows["points"][pairs.row]
    bin_ = bins(windows, pairs.age)
    moved = points != 0
    count = totals.count[high] - totals.count[low] + histogram(pairs.asked, bin_, shape)
    total = totals.points[high] - totals.points[low] + histogram(pairs.asked, bin_, shape, points)
    moving = totals.moving[high] - totals.moving[low] + histogram(pairs.asked[moved], bin_[moved], shape)
    average = np.full(shape, np.nan)
    np.divide(total, moving, out=average, where=moving > 0)
    return {"count": count.astype(np.float64), "sum": total.astype(np.float64), "avg": average}


def _largest(tables: Tables, totals: Totals, windows: Integers) -> Floats:
    """The largest amount in each window, float64[q, w]."""
    low, high = totals.ranges(tables, windows)
    pairs, width = tables.pairs, len(windows)
    met = np.zeros((len(low), width + 1), dtype=np.int64)
    np.maximum.at(met, (pairs.asked, bins(windows, pairs.age)), tables.logs.rows["points"][pairs.row])
    in_tail = np.maximum.accumulate(met[:, :width], axis=1)
    return np.maximum(totals.most(low, high), in_tail).astype(np.float64)


def _since(tables: Tables, totals: Totals, windows: Integers) -> dict[str, Floats]:
    """Seconds since the first and since the last event in the one window there is, float64[q, 1] each."""
    low, high = (each[:, 0] for each in totals.ranges(tables, windows))
    asked, pairs = tables.asked, tables.pairs
    last, first = np.full((2, len(low)), _NEVER)
    first.fill(-1)
    there = low < high
    last[there] = asked.as_of[there] - totals.time[high[there] - 1]
    first[there] = asked.as_of[there] - totals.time[low[there]]
    inside = pairs.part(pairs.age <= windows[0])
    np.minimum.at(last, inside.asked, inside.age)
    np.maximum.at(first, inside.asked, inside.age)
    known = first >= 0
    return {
        name: np.where(known, age / _MS_PER_SECOND, np.nan)[:, None]
        for name, age in zip(SINCE, (first, last), strict=True)
    }
