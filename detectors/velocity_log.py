"""The logs of velocity as bytes: what a batch appends to which log, and logs read back as arrays.

A log is a run of 56-byte RECORDs in the order of observation, after a summary of older ones once it was folded
(detectors/velocity_fold.py). All logs that a batch touches are handled as one concatenation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from detectors.velocity import RECORD, Hashes, Integers, Observations, Rows, Truths
from detectors.velocity_fold import NOTHING, RAW_MAX, SUMMARY_MARK, Summaries, Summary, fold, foldable
from detectors.velocity_names import KIND_OF_OTHERS, KINDS, LATE_MS, OTHERS, OTHERS_MAX, Coverage

POINTS_COUNTED_MAX: Final = 2**42
"""One event adds at most this to a sum, so that no sum of a log overflows 64 bits."""
RECORD_BYTES: Final = RECORD.itemsize
_MARK: Final = SUMMARY_MARK.to_bytes(8, "little", signed=True)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_ACCOUNT: Final = KINDS.index("account")
_PEERS: Final = OTHERS["account"].index("peers")
_PEER_COLUMN, _NO_COLUMN = len(KINDS), len(KINDS) + 1


def _shown() -> Integers:
    """For each kind the columns (of entities, then the peer, then nothing) that its records take their others from."""
    shown = np.full((len(KINDS), OTHERS_MAX), _NO_COLUMN, dtype=np.int64)
    for kind, others in enumerate(OTHERS.values()):
        for place, name in enumerate(others):
            shown[kind, place] = KINDS.index(KIND_OF_OTHERS[name]) if name in KIND_OF_OTHERS else _PEER_COLUMN
    return shown


_SHOWN: Final = _shown()


@dataclass(frozen=True)
class Appends:
    """What a batch of n events appends to its m logs.

    `program`, `kind` int64[m] and `entity` uint64[m] name each log; `payload[m]` are the bytes to append, whole records
    in the order of the batch. `log` int64[n, 9] is the log of each event's entities (-1 = absent, or not kept),
    `from_end` int64[n, 9] where the event's record then lies, counted in records from the log's end (1 = last).
    """

    program: Integers
    kind: Integers
    entity: Hashes
    payload: tuple[bytes, ...]
    log: Integers
    from_end: Integers


@dataclass(frozen=True)
class Logs:
    """m logs as arrays: `rows` RECORD[r] of all, log after log; log i has rows start[i] to start[i + 1], exclusive.

    `of` int64[r] is each row's log; `summaries` hold what folded logs remember besides their rows.
    """

    rows: Rows
    of: Integers
    start: Integers
    summaries: Summaries

    def keyed(self) -> Hashes:
        """Give a number for each row that is equal only for copies of one event in one log."""
        return mixed(self.rows["event"], self.of)

    def without(self, doubled: Truths) -> "Logs":
        """Give the logs without some rows."""
        kept = ~doubled
        before = np.concatenate(([0], np.cumsum(kept)))
        return Logs(self.rows[kept], self.of[kept], before[self.start], self.summaries)


def mixed(hashes: Hashes, log: Integers) -> Hashes:
    """Give a number for each hash that is equal only for equal hashes of one log."""
    salt = (log.astype(np.uint64) + np.uint64(1)) * _MIX
    return hashes ^ (salt ^ (salt >> np.uint64(29)))


def arrange(batch: Observations, kinds: Sequence[int]) -> Appends:
    """Arrange a batch by log, for the logs of some kinds."""
    size = len(batch)
    kept = np.zeros(len(KINDS), dtype=np.bool_)
    kept[list(kinds)] = True
    present = (batch.entity != 0) & kept
    receives = (batch.peer != 0) & (batch.peer != batch.entity[:, _ACCOUNT]) & kept[_ACCOUNT]
    events, of_kind = np.nonzero(present)
    receivers = np.flatnonzero(receives)
    row = np.concatenate((events, receivers))
    kind = np.concatenate((of_kind, np.full(len(receivers), _ACCOUNT)))
    entity = np.concatenate((batch.entity[present], batch.peer[receives]))
    records = _records(batch, row, kind)
    records["others"][len(events) :] = 0
    records["others"][len(events) :, _PEERS] = batch.entity[receivers, _ACCOUNT]
    names, log = np.unique(entity, return_inverse=True)
    order = np.argsort(log * size + row, kind="stable")
    counts = np.bincount(log, minlength=len(names))
    ends = np.cumsum(counts)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    first = order[ends - counts]
    packed = records[order].tobytes()
    cuts = [0, *(ends * RECORD_BYTES).tolist()]
    log_of, from_end = np.full((2, size, len(KINDS)), -1, dtype=np.int64)
    log_of[events, of_kind] = log[: len(events)]
    from_end[events, of_kind] = (ends[log] - place)[: len(events)]
    return Appends(
        program=batch.program[row[first]],
        kind=kind[first],
        entity=names,
        payload=tuple(packed[start:stop] for start, stop in pairwise(cuts)),
        log=log_of,
        from_end=from_end,
    )


def read(blobs: Sequence[bytes]) -> Logs:
    """Read whole logs. A record cut short at the end of a log would be a fault of the store, and raises ValueError."""
    folded = [log for log, blob in enumerate(blobs) if blob.startswith(_MARK)]
    sizes, parts, heads = [Summary.size_of(blobs[log]) for log in folded], list(blobs), []
    for log, size in zip(folded, sizes, strict=True):
        heads.append(blobs[log][:size])
        parts[log] = blobs[log][size:]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    if np.any(lengths % RECORD_BYTES):
        raise ValueError("a log does not hold whole records")
    lengths //= RECORD_BYTES
    return Logs(
        rows=np.frombuffer(b"".join(parts), dtype=RECORD),
        of=np.repeat(np.arange(len(parts)), lengths),
        start=np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths))),
        summaries=Summaries.read(np.array(folded, dtype=np.int64), b"".join(heads), np.array(sizes, dtype=np.int64)),
    )


def refolded(
    logs: Logs, blobs: Sequence[bytes], kind: Integers, protected: Hashes, coverage: Coverage
) -> Iterator[tuple[int, bytes]]:
    """Give each log that has grown long, and its new, shorter content (detectors/velocity_fold.py).

    `blobs` are what the logs were read from, `kind` int64[m] is each log's; what no window of `coverage` reaches is
    forgotten.
    """
    long = np.flatnonzero(np.diff(logs.start) > RAW_MAX).tolist()
    if not long:
        return
    protected = np.sort(protected)
    for log in long:
        rows = logs.rows[logs.start[log] : logs.start[log + 1]]
        _, first = np.unique(rows["event"], return_index=True)
        rows = rows[np.sort(first)]
        count = foldable(rows, protected)
        if count:
            kept_ms = coverage.memory_ms[int(kind[log])] + LATE_MS
            before = Summary.read(blobs[log]) if blobs[log].startswith(_MARK) else NOTHING
            summary = fold(before, rows[:count], int(rows["time"].max()), kept_ms)
            yield log, summary.write() + rows[count:].tobytes()


def _records(batch: Observations, row: Integers, kind: Integers) -> Rows:
    """Build the records of the batch's rows for logs of these kinds."""
    records = np.zeros(len(row), dtype=RECORD)
    hashes = np.column_stack((batch.entity, batch.peer, np.zeros(len(batch), dtype=np.uint64)))
    records["time"] = batch.time[row]
    records["event"] = batch.event[row]
    records["others"] = hashes[row[:, None], _SHOWN[kind]]
    records["points"] = np.minimum(batch.points[row], POINTS_COUNTED_MAX)
    return records
