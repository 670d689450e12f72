"""Folding: what a long log keeps of its older records, so that its size and the cost of reading it stay bounded.

Times, counts, sums and largest amounts go into buckets whose length is a power of two of seconds, a fortieth to an
eightieth of their age; a bucket stands at its latest record's time. The others seen (devices, accounts, ...) are kept
each with the time they were last seen: the 128 seen last, of half of them (those whose hash is divisible by 2) the 128
seen last, of a quarter, and so on, after P. Gibbons and S. Tirthapura, "Distributed streams algorithms for sliding
windows" (SPAA 2002). So up to 128 distinct others in a window are counted exactly, and more are estimated to about a
tenth.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from detectors.velocity import RECORD, Hashes, Integers, Rows, Truths
from detectors.velocity_groups import expand
from detectors.velocity_names import LATE_MS, OTHERS_MAX, WINDOW_MS_MAX

RAW_MAX: Final = 192
"""A log with more foldable records than this is folded."""
RAW_KEPT: Final = 64
"""So many of the latest records stay as they are."""
SUMMARY_MARK: Final = -(2**63)
"""Stands where a record has its time, and tells a summary from a record."""
LEVELS: Final = 16
SAMPLE_MAX: Final = 128
KEPT_MS_MAX: Final = WINDOW_MS_MAX + LATE_MS
"""Nothing is remembered longer, whatever is demanded."""
_SECOND_MS: Final = 1_000
_PER_AGE: Final = 40
_DOUBLINGS: Final = (KEPT_MS_MAX // (_PER_AGE * _SECOND_MS)).bit_length()
BUCKETS: Final = tuple((2 * _PER_AGE * _SECOND_MS << power, _SECOND_MS << power) for power in range(_DOUBLINGS))
"""Up to which age (ms) a bucket has which length (ms): 1 s up to 80 s, 2 s up to 160 s, ..., 2^17 s for the oldest.

Lengths divide each other, so buckets that grow old merge whole. A window's start is off by at most a fortieth of its
age; of an event that comes late by its window's own length, by a twentieth.
"""

NEVER: Final = SUMMARY_MARK
"""The time before all times."""
_TOTAL_MAX: Final = 2**52
_HEAD: Final = 4 + OTHERS_MAX
_WORD_BYTES: Final = 8
_BUCKET_COLUMNS: Final = 5


@dataclass(frozen=True)
class Summary:
    """What a log remembers of folded records.

    `time`, `count`, `moving`, `total`, `largest` int64[b]: the buckets, each with its events, those of them that moved
    points, their sum and the largest. `seen` uint64 and `seen_time` int64, one pair for each column of others: others
    and when each was last seen. `cover` int64[OTHERS_MAX, LEVELS]: of the others whose hash is divisible by 2^level,
    all that were seen after this time are there. `generation` counts the foldings.
    """

    generation: int
    time: Integers
    count: Integers
    moving: Integers
    total: Integers
    largest: Integers
    seen: tuple[Hashes, ...]
    seen_time: tuple[Integers, ...]
    cover: Integers

    @property
    def buckets(self) -> tuple[Integers, ...]:
        """Time, count, moving, total and largest."""
        return self.time, self.count, self.moving, self.total, self.largest

    @property
    def size_bytes(self) -> int:
        """The length of the written summary, a multiple of a record's."""
        words = _HEAD + self.cover.size + len(self.buckets) * len(self.time) + 2 * sum(map(len, self.seen))
        return -(-words * _WORD_BYTES // RECORD.itemsize) * RECORD.itemsize

    def write(self) -> bytes:
        """Write the summary as the head of a log."""
        sizes = [len(self.time), *(len(column) for column in self.seen)]
        parts = [np.array([SUMMARY_MARK, self.generation, self.size_bytes, *sizes], dtype="<i8"), self.cover.ravel()]
        parts += self.buckets
        for seen, time in zip(self.seen, self.seen_time, strict=True):
            parts += [seen.view(np.int64), time]
        return np.concatenate(parts).astype("<i8").tobytes().ljust(self.size_bytes, b"\0")

    @staticmethod
    def size_of(log: bytes) -> int:
        """The length of the summary at the head of a folded log."""
        return int.from_bytes(log[2 * _WORD_BYTES : 3 * _WORD_BYTES], "little")

    @staticmethod
    def read(log: bytes) -> "Summary":
        """Read the summary at the head of a folded log."""
        head = np.frombuffer(log, dtype="<i8", count=_HEAD)
        words = np.frombuffer(log, dtype="<i8", count=int(head[2]) // _WORD_BYTES)
        take = _Taker(words, _HEAD)
        cover = take(OTHERS_MAX * LEVELS).reshape(OTHERS_MAX, LEVELS)
        time, count, moving, total, largest = (take(int(head[3])) for _ in range(5))
        pairs = [(take(size), take(size)) for size in head[4 : 4 + OTHERS_MAX].tolist()]
        return Summary(
            generation=int(head[1]),
            time=time,
            count=count,
            moving=moving,
            total=total,
            largest=largest,
            seen=tuple(seen.view(np.uint64) for seen, _ in pairs),
            seen_time=tuple(seen_time for _, seen_time in pairs),
            cover=cover,
        )


_NO_TIMES: Final = np.empty(0, dtype=np.int64)
NOTHING: Final = Summary(
    generation=0,
    time=_NO_TIMES,
    count=_NO_TIMES,
    moving=_NO_TIMES,
    total=_NO_TIMES,
    largest=_NO_TIMES,
    seen=(np.empty(0, dtype=np.uint64),) * OTHERS_MAX,
    seen_time=(_NO_TIMES,) * OTHERS_MAX,
    cover=np.full((OTHERS_MAX, LEVELS), NEVER, dtype=np.int64),
)
"""The summary of a log that was never folded."""


@dataclass(frozen=True)
class Summaries:
    """What k folded logs remember, as one array each; k may be 0.

    `log` int64[k] are the logs, ascending. `buckets` are time, count, moving, total and largest of all, int64[b], log
    after log, and `buckets_each` int64[k] how many each has. `seen` and `seen_time` have an array for each column of
    others, `seen_each` int64[OTHERS_MAX, k] how many of each. `cover` is int64[k, OTHERS_MAX, LEVELS].
    """

    log: Integers
    buckets: tuple[Integers, ...]
    buckets_each: Integers
    seen: tuple[Hashes, ...]
    seen_time: tuple[Integers, ...]
    seen_each: Integers
    cover: Integers

    @staticmethod
    def read(log: Integers, heads: bytes, sizes: Integers) -> "Summaries":
        """Read the written summaries of some logs, one after the other in `heads`, of `sizes` bytes each."""
        words = np.frombuffer(heads, dtype="<i8")
        base = (np.cumsum(sizes) - sizes) // _WORD_BYTES
        head = words[base[:, None] + np.arange(_HEAD)]
        each, seen_each = head[:, 3], np.ascontiguousarray(head[:, 4:].T)
        at = base + _HEAD
        cover = words[at[:, None] + np.arange(OTHERS_MAX * LEVELS)].reshape(len(log), OTHERS_MAX, LEVELS)
        at = at + OTHERS_MAX * LEVELS
        which, first = expand(at, each)
        buckets = tuple(words[first + number * each[which]] for number in range(_BUCKET_COLUMNS))
        at = at + _BUCKET_COLUMNS * each
        seen, seen_time = [], []
        for column in seen_each:
            which, first = expand(at, column)
            seen.append(words[first].view(np.uint64))
            seen_time.append(words[first + column[which]])
            at = at + 2 * column
        return Summaries(log, buckets, each, tuple(seen), tuple(seen_time), seen_each, cover)

    def __len__(self) -> int:
        """Give the number of folded logs."""
        return len(self.log)


@dataclass
class _Taker:
    """Takes runs of words one after the other."""

    words: Integers
    at: int

    def __call__(self, count: int) -> Integers:
        self.at += count
        return self.words[self.at - count : self.at]


def foldable(rows: Rows, protected: Hashes) -> int:
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


def fold(summary: Summary, rows: Rows, newest: int, kept_ms: int) -> Summary:
    """Add records to a summary; `newest` (ms) is the log's latest time, from which ages count.

    What is older than `kept_ms` is forgotten.
    """
    points = rows["points"]
    ones = np.ones(len(rows), dtype=np.int64)
    added = rows["time"], ones, (points != 0).astype(np.int64), points, points
    merged = _merge_buckets(
        [np.concatenate(pair) for pair in zip(summary.buckets, added, strict=True)], newest - kept_ms, newest
    )
    others = rows["others"]
    sampled = [
        _sample(summary, column, (others[:, column], rows["time"]), newest - kept_ms) for column in range(OTHERS_MAX)
    ]
    time, count, moving, total, largest = merged
    return Summary(
        generation=summary.generation + 1,
        time=time,
        count=count,
        moving=moving,
        total=total,
        largest=largest,
        seen=tuple(seen for seen, _, _ in sampled),
        seen_time=tuple(seen_time for _, seen_time, _ in sampled),
        cover=np.stack([cover for _, _, cover in sampled]),
    )


def belongs(hashes: Hashes, level: int) -> Truths:
    """Tell which others belong to a level: all to level 0, of each level half to the next."""
    members: Truths = (hashes != 0) & ((hashes & np.uint64((1 << level) - 1)) == 0)
    return members


def _merge_buckets(buckets: list[Integers], oldest: int, newest: int) -> list[Integers]:
    """Put buckets (time, count, moving, total, largest) together by age, without those before `oldest`."""
    kept = buckets[0] >= oldest
    time, count, moving, total, largest = (column[kept] for column in buckets)
    if not len(time):
        return [time, count, moving, total, largest]
    ages, lengths = np.array(BUCKETS, dtype=np.int64).T
    size = np.minimum(np.searchsorted(ages, newest - time, side="right"), len(ages) - 1)
    bucket = time // lengths[size]
    order = np.lexsort((time, bucket, size))
    size, bucket = size[order], bucket[order]
    first = np.flatnonzero(np.concatenate(([True], (size[1:] != size[:-1]) | (bucket[1:] != bucket[:-1]))))
    totals = np.minimum(np.add.reduceat(total[order].astype(np.float64), first), _TOTAL_MAX).astype(np.int64)
    merged = [
        np.maximum.reduceat(time[order], first),
        np.add.reduceat(count[order], first),
        np.add.reduceat(moving[order], first),
        totals,
        np.maximum.reduceat(largest[order], first),
    ]
    by_time = np.argsort(merged[0], kind="stable")
    return [column[by_time] for column in merged]


def _sample(
    summary: Summary, column: int, added: tuple[Hashes, Integers], oldest: int
) -> tuple[Hashes, Integers, Integers]:
    """The others remembered of one column, when each was last seen, and the cover, with those that records add."""
    if not len(summary.seen[column]) and not np.any(added[0]):
        return summary.seen[column], summary.seen_time[column], summary.cover[column]
    seen = np.concatenate((summary.seen[column], added[0]))
    time = np.concatenate((summary.seen_time[column], added[1]))
    order = np.lexsort((time, seen))
    seen, time = seen[order], time[order]
    last = np.concatenate((seen[1:] != seen[:-1], [True]))[: len(seen)]
    last &= (seen != 0) & (time >= oldest)
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
