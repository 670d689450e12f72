"""Rounds: many events of one log in a batch, out of the order of their times, without meeting each other one by one.

The events of such a log are asked about in rounds, of a bounded number each. A round has a copy of the log up to its
last event: there, what was observed before the round is put in order, and only its own events meet one by one. So a
store or campaign that half the batch belongs to costs rows in proportion to the batch, not pairs by its square.
"""

from typing import Final

import numpy as np

from detectors.velocity import Integers
from detectors.velocity_fold import Summaries
from detectors.velocity_groups import expand
from detectors.velocity_log import Logs
from detectors.velocity_tables import ordered_logs

ROUND: Final = 64
"""Events of a round; a log with fewer than twice as many in a batch has none."""


def in_rounds(logs: Logs, log: Integers, as_of: Integers, row: Integers) -> tuple[Logs, Integers, Integers]:
    """Give logs, and each question's log and row in them, with the rounds' copies behind the logs as they were.

    Questions about one log stand together.
    """
    much = np.bincount(log, minlength=len(logs.start) - 1) >= 2 * ROUND
    if not much.any():
        return logs, log, row
    much &= ~ordered_logs(logs, log, as_of, row)
    source: list[int] = []
    stop: list[int] = []
    new_log, new_row = log.copy(), row.copy()
    for busy in np.flatnonzero(much).tolist():
        asked = np.arange(*np.searchsorted(log, (busy, busy + 1)))
        asked = asked[np.argsort(row[asked], kind="stable")]
        for first in range(0, len(asked), ROUND):
            part = asked[first : first + ROUND]
            new_log[part] = len(logs.start) - 1 + len(source)
            source.append(busy)
            stop.append(int(row[part[-1]]) + 1)
    if not source:
        return logs, log, row
    of = np.array(source)
    copied = _copied(logs, of, np.array(stop))
    moved = new_log != log
    new_row[moved] += (copied.start[new_log] - logs.start[log])[moved]
    return copied, new_log, new_row


def _copied(logs: Logs, source: Integers, stop: Integers) -> Logs:
    """The logs, and behind them copies of some up to a row each."""
    lengths = stop - logs.start[source]
    which, rows = expand(logs.start[source], lengths)
    return Logs(
        rows=np.concatenate((logs.rows, logs.rows[rows])),
        of=np.concatenate((logs.of, len(logs.start) - 1 + which)),
        start=np.concatenate((logs.start, logs.start[-1] + np.cumsum(lengths))),
        summaries=_remembered(logs.summaries, source, len(logs.start) - 1),
    )


def _remembered(summaries: Summaries, source: Integers, logs: int) -> Summaries:
    place = np.searchsorted(summaries.log, source)
    folded = np.flatnonzero(np.append(summaries.log, -1)[place] == source)
    place = place[folded]

    def again(each: Integers) -> Integers:
        return expand((np.cumsum(each) - each)[place], each[place])[1]

    buckets, seen = again(summaries.buckets_each), [again(each) for each in summaries.seen_each]
    return Summaries(
        log=np.concatenate((summaries.log, logs + folded)),
        buckets=tuple(np.concatenate((column, column[buckets])) for column in summaries.buckets),
        buckets_each=np.concatenate((summaries.buckets_each, summaries.buckets_each[place])),
        seen=tuple(np.concatenate((one, one[rows])) for one, rows in zip(summaries.seen, seen, strict=True)),
        seen_time=tuple(np.concatenate((one, one[rows])) for one, rows in zip(summaries.seen_time, seen, strict=True)),
        seen_each=np.concatenate((summaries.seen_each, summaries.seen_each[:, place]), axis=1),
        cover=np.concatenate((summaries.cover, summaries.cover[place])),
    )
