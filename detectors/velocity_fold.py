"""Folding: what a long log keeps of its older records, so that its size and the cost of reading it stay bounded.

Times, counts and sums go into buckets of 1 s, 1 min, 30 min or 3 h by age, about a fiftieth of the window in which an
age still matters; a bucket stands at its latest record's time. The others seen (devices, accounts, ...) are kept each
with the time they were last seen: the 128 seen last, of half of them (those whose hash is divisible by 2) the 128 seen
last, of a quarter, and so on, after P. Gibbons and S. Tirthapura, "Distributed streams algorithms for sliding windows"
(SPAA 2002). So up to 128 distinct others in a window are counted exactly, and more are estimated to about a tenth.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.velocity import DISTINCT, RECORD, WINDOW_MS_MAX, Hashes, Integers, Truths

RAW_MAX: Final = 192
"""A log with more foldable records than this is folded."""
RAW_KEPT: Final = 64
"""So many of the latest records stay as they are."""
SUMMARY_MARK: Final = -(2**63)
"""Stands where a record has its time, and tells a summary from a record."""
LEVELS: Final = 16
SAMPLE_MAX: Final = 128
COLUMNS: Final = DISTINCT["account"]
KEPT_MS: Final = WINDOW_MS_MAX + 25 * 3_600_000
"""What is older than the widest window, and than the latest that an event may come, is forgotten."""
BUCKETS: Final = ((120_000, 1_000), (7_200_000, 60_000), (108_000_000, 1_800_000), (KEPT_MS + 1, 10_800_000))
"""Up to which age (ms) a bucket has which length (ms).

Twice the window's own length, as far as it goes, so that also events a minute (an hour, six hours) late meet buckets
fit for their window of a minute (an hour, a day).
"""

NEVER: Final = SUMMARY_MARK
"""The time before all times."""
_TOTAL_MAX: Final = 2**52
_HEAD: Final = 8
_WORD_BYTES: Final = 8


@dataclass(frozen=True)
class Summary:
    """What a log remembers of folded records.

    `time`, `count`, `total` int64[b]: the buckets. `seen` uint64 and `seen_time` int64, one pair for each of COLUMNS:
    others and when each was last seen. `cover` int64[3, LEVELS]: of the others whose hash is divisible by 2^level, all
    that were seen after this time are there. `generation` counts the foldings.
    """

    generation: int
    time: Integers
    count: Integers
    total: Integers
    seen: tuple[Hashes, ...]
    seen_time: tuple[Integers, ...]
    cover: Integers

    @property
    def size_bytes(self) -> int:
        """The length of the written summary, a multiple of a record's."""
        words = _HEAD + self.cover.size + 3 * len(self.time) + 2 * sum(map(len, self.seen))
        return -(-words * _WORD_BYTES // RECORD.itemsize) * RECORD.itemsize

    def write(self) -> bytes:
        """Write the summary as the head of a log."""
        sizes = [len(self.time), *(len(column) for column in self.seen), 0]
        parts = [np.array([SUMMARY_MARK, self.generation, self.size_bytes, *sizes], dtype="<i8"), self.cover.ravel()]
        parts += [self.time, self.count, self.total]
        for seen, time in zip(self.seen, self.seen_time, strict=True):
            parts += [seen.view(np.int64), time]
        return np.concatenate(parts).astype("<i8").tobytes().ljust(self.size_bytes, b"\0")

    @staticmethod
    def read(log: bytes) -> "Summary":
        """Read the summary at the head of a folded log."""
        head = np.frombuffer(log, dtype="<i8", count=_HEAD)
        words = np.frombuffer(log, dtype="<i8", count=int(head[2]) // _WORD_BYTES)
        take = _Taker(words, _HEAD)
        cover = take(len(COLUMNS) * LEVELS).reshape(len(COLUMNS), LEVELS)
        time, count, total = (take(int(head[3])) for _ in range(3))
        pairs = [(take(size), take(size)) for size in head[4 : 4 + len(COLUMNS)].tolist()]
        return Summary(
            generation=int(head[1]),
            time=time,
            count=count,
            total=total,
            seen=tuple(seen.view(np.uint64) for seen, _ in pairs),
            seen_time=tuple(seen_time for _, seen_time in pairs),
            cover=cover,
        )


NOTHING: Final = Summary(
    generation=0,
    time=np.empty(0, dtype=np.int64),
    count=np.empty(0, dtype=np.int64),
    total=np.empty(0, dtype=np.int64),
    seen=tuple(np.empty(0, dtype=np.uint64) for _ in COLUMNS),
    seen_time=tuple(np.empty(0, dtype=np.int64) for _ in COLUMNS),
    cover=np.full((len(COLUMNS), LEVELS), NEVER, dtype=np.int64),
)
"""The summary of a log that was never folded."""


@dataclass
class _Taker:
    """Takes runs of words one after the other."""

    words: Integers
    at: int

    def __call__(self, count: int) -> Integers:
        self.at += count
        return self.words[self.at - count : self.at]


def foldable(rows: np.ndarray[tuple[int], np.dtype[np.void]], protected: Hashes) -> int:
    """Count the records that may be folded, from the first on; 0 when folding would not pay yet.

    `protected` are hashes, in order, of events that may still be delivered again: from the first such record on nothing
    is folded, as a folded record can't be told from a new one.
    """
    if len(rows) <= RAW_MAX:
        return 0
    held = np.flatnonzero(_among(rows["event"], protected))
    count = min(len(rows) - RAW_KEPT, int(held[0]) if len(held) else len(rows))
    return count if count >= RAW_KEPT else 0


def _among(hashes: Hashes, ordered: Hashes) -> Truths:
    if not len(ordered):
        return np.zeros(len(hashes), dtype=np.bool_)
    place = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    among: Truths = ordered[place] == hashes
    return among


def fold(summary: Summary, rows: np.ndarray[tuple[int], np.dtype[np.void]], newest: int) -> Summary:
    """Add records to a summary; `newest` (ms) is the log's latest time, from which ages count."""
    time, count, total = _merge_buckets(
        np.concatenate((summary.time, rows["time"])),
        np.concatenate((summary.count, np.ones(len(rows), dtype=np.int64))),
        np.concatenate((summary.total, rows["points"])),
        newest,
    )
    sampled = [_sample(summary, column, rows, newest) for column in range(len(COLUMNS))]
    return Summary(
        generation=summary.generation + 1,
        time=time,
        count=count,
        total=total,
        seen=tuple(seen for seen, _, _ in sampled),
        seen_time=tuple(seen_time for _, seen_time, _ in sampled),
        cover=np.stack([cover for _, _, cover in sampled]),
    )


def belongs(hashes: Hashes, level: int) -> Truths:
    """Tell which others belong to a level: all to level 0, of each level half to the next."""
    members: Truths = (hashes != 0) & ((hashes & np.uint64((1 << level) - 1)) == 0)
    return members


def _merge_buckets(
    time: Integers, count: Integers, total: Integers, newest: int
) -> tuple[Integers, Integers, Integers]:
    age = newest - time
    ages, lengths = np.array(BUCKETS, dtype=np.int64).T
    kept = age <= KEPT_MS
    time, count, total, age = time[kept], count[kept], total[kept], age[kept]
    if not len(time):
        return time, count, total
    size = np.searchsorted(ages, age, side="right")
    bucket = time // lengths[size]
    order = np.lexsort((time, bucket, size))
    size, bucket = size[order], bucket[order]
    first = np.flatnonzero(np.concatenate(([True], (size[1:] != size[:-1]) | (bucket[1:] != bucket[:-1]))))
    totals = np.minimum(np.add.reduceat(total[order].astype(np.float64), first), _TOTAL_MAX).astype(np.int64)
    merged = np.maximum.reduceat(time[order], first), np.add.reduceat(count[order], first), totals
    by_time = np.argsort(merged[0], kind="stable")
    return merged[0][by_time], merged[1][by_time], merged[2][by_time]


def _sample(
    summary: Summary, column: int, rows: np.ndarray[tuple[int], np.dtype[np.void]], newest: int
) -> tuple[Hashes, Integers, Integers]:
    if not len(summary.seen[column]) and not np.any(rows[COLUMNS[column]]):
        return summary.seen[column], summary.seen_time[column], summary.cover[column]
    seen = np.concatenate((summary.seen[column], rows[COLUMNS[column]]))
    time = np.concatenate((summary.seen_time[column], rows["time"]))
    order = np.lexsort((time, seen))
    seen, time = seen[order], time[order]
    last = np.concatenate((seen[1:] != seen[:-1], [True]))[: len(seen)]
    last &= (seen != 0) & (newest - time <= KEPT_MS)
    latest_first = np.argsort(-time[last], kind="stable")
    seen, time = seen[last][latest_first], time[last][latest_first]
    cover = summary.cover[column].copy()
    kept = np.zeros(len(seen), dtype=np.bool_)
    for level in range(LEVELS):
        members = np.flatnonzero(belongs(seen, level))
        kept[members[:SAMPLE_MAX]] = True
        if len(members) <= SAMPLE_MAX:
            break
        cover[level] = max(cover[level], time[members[SAMPLE_MAX]])
    return seen[kept][::-1], time[kept][::-1], cover
