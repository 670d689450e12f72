"""Counting: the velocity of a whole batch from whole logs, in NumPy, without a loop over events."""

from typing import Final

import numpy as np

from detectors.velocity import KINDS, VELOCITY_FEATURES, Floats, Hashes, Integers, Observations, Truths
from detectors.velocity_distinct import distinct
from detectors.velocity_fold import COLUMNS
from detectors.velocity_groups import representatives
from detectors.velocity_log import Layout, Logs, mixed
from detectors.velocity_tables import WINDOW_COUNT, Asked, Tables, build, histogram

_FIRST: Final = tuple(
    next(column for column, name in enumerate(VELOCITY_FEATURES) if name.startswith(f"velocity.{kind}."))
    for kind in KINDS
)
"""The column at which each kind's features begin."""


def aggregate(batch: Observations, layout: Layout, logs: Logs) -> tuple[Floats, Truths]:
    """Give the values float64[n, 44] of a batch and whether they are approximate, bool[n].

    `logs` are the layout's logs as read back right after the batch was appended to them. Raises ValueError for logs
    that lack an event of the batch.
    """
    event, kind = np.nonzero(layout.log >= 0)
    by_log = np.argsort(layout.log[event, kind], kind="stable")
    event, kind = event[by_log], kind[by_log]
    log = layout.log[event, kind]
    logs, row = _own_rows(logs, mixed(batch.event[event], log), log, layout.from_end[event, kind])
    tables = build(logs, Asked(log, batch.time[event], row))
    count, points = tables.totals().ranges(tables.asked, tables.scale)
    accounts = kind == 0
    of_accounts = tables.part(accounts)
    others = [distinct(of_accounts, column) for column in range(1, len(COLUMNS))]
    shared = np.concatenate(
        (count + _in_tail(tables, None), points + _in_tail(tables, logs.rows["points"]), distinct(tables, 0)), axis=1
    )
    values = np.zeros((len(batch), len(VELOCITY_FEATURES)), dtype=np.float64)
    for number, first in enumerate(_FIRST):
        chosen = kind == number
        values[event[chosen], first : first + shared.shape[1]] = shared[chosen]
    first = _FIRST[0] + shared.shape[1]
    values[event[accounts], first : first + len(others) * WINDOW_COUNT] = np.concatenate(others, axis=1)
    folded, approximate = np.zeros(len(logs.start), dtype=np.bool_), np.zeros(len(batch), dtype=np.bool_)
    folded[list(logs.summaries)] = True
    approximate[event[folded[log]]] = True
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


def _in_tail(tables: Tables, values: Integers | None) -> Floats:
    """Count the tail's records in each window, or add up their values."""
    pairs = tables.pairs
    weights = None if values is None else values[pairs.row].astype(np.float64)
    return histogram(pairs.asked, pairs.bin, len(tables.asked.log), weights).astype(np.float64)
