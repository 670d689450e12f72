"""Folding: what it keeps, what it costs, and how far off its estimates are."""

import asyncio
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from detectors.velocity import RECORD, Floats, Observations, Rows, Velocity
from detectors.velocity_fold import (
    BUCKETS,
    KEPT_MS_MAX,
    LEVELS,
    NEVER,
    NOTHING,
    RAW_KEPT,
    RAW_MAX,
    SAMPLE_MAX,
    Summaries,
    Summary,
    belongs,
    fold,
    foldable,
)
from detectors.velocity_log import RECORD_BYTES, read
from detectors.velocity_names import DAY_MS, LATE_MS, OTHERS, OTHERS_MAX, SUMS, demand_of, ordered
from streams.velocity_store import MemoryVelocityStore
from tests.unit.velocity_traffic import START_MS, WINDOWS, on_one_address

KEPT_MS = 7 * DAY_MS + LATE_MS
ADDRESS = demand_of(
    ordered(f"velocity.ip.{value}_{window}" for value in (*SUMS, *OTHERS["ip"]) for window in ("1m", "90m", "7h", "7d"))
)
NONE = np.empty(0, dtype=np.uint64)


def rows(size: int, step_ms: int, others: int, seed: int = 1) -> Rows:
    """Make records, step_ms apart, each with one of so many devices."""
    rng = np.random.default_rng(seed)
    names = rng.integers(1, 2**63, others).astype(np.uint64)
    made = np.zeros(size, dtype=RECORD)
    made["time"] = START_MS + np.arange(size) * step_ms
    made["event"] = np.arange(1, size + 1)
    made["others"][:, 0] = names[rng.integers(0, others, size)]
    made["points"] = 7
    return made


def folded(made: Rows, part: int = 128, kept_ms: int = KEPT_MS) -> Summary:
    """Fold records as a store does, some at a time."""
    summary = NOTHING
    for start in range(0, len(made), part):
        piece = made[start : start + part]
        summary = fold(summary, piece, int(piece["time"].max()), kept_ms)
    return summary


def same(one: Summary, other: Summary) -> bool:
    """Compare two summaries."""
    alone = all(map(np.array_equal, one.buckets, other.buckets)) and np.array_equal(one.cover, other.cover)
    seen = all(map(np.array_equal, one.seen, other.seen)) and all(map(np.array_equal, one.seen_time, other.seen_time))
    return alone and seen and one.generation == other.generation


@pytest.mark.parametrize("size", [1, 100, 5_000])
def test_a_summary_is_read_as_it_was_written(size: int) -> None:
    """Written and read back, alone or before records, a summary is the same, and whole records long."""
    summary = folded(rows(size, 1_000, 300))
    tail = rows(3, 1, 3)
    log = summary.write() + tail.tobytes()
    assert same(Summary.read(log), summary)
    assert summary.size_bytes == len(summary.write())
    assert summary.size_bytes % RECORD_BYTES == 0
    logs = read([b"", log, tail.tobytes()])
    assert logs.start.tolist() == [0, 0, 3, 6]
    together = Summaries.read(np.arange(2), summary.write() * 2, np.array([summary.size_bytes] * 2))
    for found, copies in ((logs.summaries, 1), (together, 2)):
        assert all(
            np.array_equal(column, np.tile(one, copies))
            for column, one in zip(
                (*found.buckets, *found.seen, *found.seen_time),
                (*summary.buckets, *summary.seen, *summary.seen_time),
                strict=True,
            )
        )
        assert found.buckets_each.tolist() == [len(summary.time)] * copies
        assert found.seen_each.T.tolist() == [[len(column) for column in summary.seen]] * copies
        assert np.array_equal(found.cover, np.stack([summary.cover] * copies))
    assert logs.summaries.log.tolist() == [1]


def test_nothing_is_lost_from_counts_and_sums() -> None:
    """All that is not older than seven days and a day is in some bucket, whose time is that of a record."""
    made = rows(20_000, 10_000, 50)
    summary = folded(made)
    assert summary.count.sum() == 20_000
    assert summary.total.sum() == 140_000
    assert (summary.moving.sum(), set(summary.largest.tolist())) == (20_000, {7})
    assert np.isin(summary.time, made["time"]).all()
    assert np.all(np.diff(summary.time) > 0)


def test_what_no_window_reaches_is_forgotten() -> None:
    """Buckets and others past the widest window and the latest delivery go."""
    made = rows(2_000, 600_000, 5_000)
    newest = int(made["time"].max())
    summary = folded(made)
    assert int(summary.time.min()) >= newest - KEPT_MS
    assert int(summary.seen_time[0].min()) >= newest - KEPT_MS
    a_bucket_of_four_hours = 14_336 * 1_000 // 600_000
    reached = np.count_nonzero(made["time"] >= newest - KEPT_MS)
    assert reached <= summary.count.sum() <= reached + a_bucket_of_four_hours


@pytest.mark.parametrize("step_ms", [1, 200, 10_000, 90_000])
def test_a_summary_has_a_bounded_size(step_ms: int) -> None:
    """However many events and others over 90 days, a summary has 760 buckets at most, of 40 bytes each, and samples."""
    summary = folded(rows(100_000, step_ms, 1_000_000), part=500, kept_ms=KEPT_MS_MAX)
    assert len(summary.time) <= 80 + 40 * (len(BUCKETS) - 1) + len(BUCKETS)
    assert summary.size_bytes < 52_000


def test_buckets_are_a_small_part_of_their_age_and_merge_whole() -> None:
    """From 80 s on a bucket is a fortieth to an eightieth of its age; lengths divide each other."""
    lengths = [length for _, length in BUCKETS]
    assert all(longer == 2 * shorter for shorter, longer in pairwise(lengths))
    assert all(length == until // 80 for until, length in BUCKETS)
    assert BUCKETS[-2][0] < KEPT_MS_MAX <= BUCKETS[-1][0]


@pytest.mark.parametrize("window_ms", [*WINDOWS.values(), 45 * 60_000, 3 * DAY_MS, 31 * DAY_MS])
def test_counts_are_right_to_a_bucket(window_ms: int) -> None:
    """A bucket that straddles a window's start is all that may be counted too much or too little."""
    made = rows(60_000, 130_000, 5)
    newest = int(made["time"].max())
    summary = folded(made, part=64, kept_ms=KEPT_MS_MAX)
    since = newest - window_ms
    exact = np.count_nonzero(made["time"] >= since)
    kept = int(summary.count[summary.time >= since].sum())
    assert abs(kept - exact) <= max(exact / 40, 1)


def test_few_others_are_remembered_exactly() -> None:
    """Up to 128 others are all there with the time they were last seen, however often they came."""
    made = rows(5_000, 1_000, SAMPLE_MAX)
    summary = folded(made)
    last = {int(row["others"][0]): int(row["time"]) for row in made}
    assert dict(zip(summary.seen[0].tolist(), summary.seen_time[0].tolist(), strict=True)) == last
    assert np.all(summary.cover[0] == NEVER)
    assert [len(column) for column in summary.seen[1:]] == [0] * (OTHERS_MAX - 1)


@pytest.mark.parametrize("others", [100, 1_000, 20_000])
def test_each_level_holds_all_it_says_it_covers(others: int) -> None:
    """Of the others of a level, every one seen after the level's cover is remembered with its last time."""
    made = rows(20_000, 1_000, others)
    summary = folded(made)
    last = {int(row["others"][0]): int(row["time"]) for row in made}
    newest = int(made["time"].max())
    kept = dict(zip(summary.seen[0].tolist(), summary.seen_time[0].tolist(), strict=True))
    for level in range(LEVELS):
        cover = max(int(summary.cover[0, level]), newest - KEPT_MS)
        for other, time in last.items():
            if time > cover and other % 2**level == 0:
                assert kept[other] == time


def test_levels_halve() -> None:
    """Every other belongs to level 0, half of a level to the next; no other is no other."""
    rng = random.Random(3)
    hashes = np.array([0] + [rng.getrandbits(64) for _ in range(40_000)], dtype=np.uint64)
    counts = [int(belongs(hashes, level).sum()) for level in range(5)]
    assert counts[0] == 40_000
    for upper, lower in pairwise(counts):
        assert 0.45 < lower / upper < 0.55


def test_short_logs_and_events_in_flight_are_left_alone() -> None:
    """Folding waits for 193 records, keeps 64, and stops before the first event that may come again."""
    made = rows(RAW_MAX + 1, 1, 5)
    assert foldable(made[:RAW_MAX], NONE) == 0
    assert foldable(made, NONE) == RAW_MAX + 1 - RAW_KEPT
    assert foldable(made, made["event"][100:103]) == 100
    assert foldable(made, made["event"][10:13]) == 0


def test_absurd_sums_stay_within_64_bits() -> None:
    """A bucket's total has a bound, so that running totals of a log never overflow."""
    made = rows(2_000, 0, 5)
    made["points"] = 2**42
    assert int(folded(made).total.sum()) == 2**52


def last_of(observed: Observations, part: int) -> Velocity:
    """Observe a batch in parts; give the velocity of its last part."""

    async def observe() -> Velocity:
        store = MemoryVelocityStore(None)
        for start in range(0, len(observed) - part, part):
            await store.observe(observed.part(start, start + part), ADDRESS)
        return await store.observe(observed.part(len(observed) - part, len(observed)), ADDRESS)

    return asyncio.run(observe())


@pytest.mark.parametrize("step_ms", [300, 9_000, 120_000])
def test_estimates_of_a_folded_log_are_near_the_truth(step_ms: int) -> None:
    """For windows of any width, counts are off by a bucket at most, and others by a tenth in the mean of eight sets."""
    size, errors = 6_000, []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        accounts = np.frombuffer(rng.bytes(8 * 2_000), dtype=np.uint64)
        observed = on_one_address(0, size, 1, step_ms)
        entity = observed.entity.copy()
        entity[:, 0] = accounts[rng.integers(0, len(accounts), size)]
        times = START_MS + np.sort(rng.integers(0, size * step_ms, size))
        observed = replace(observed, entity=entity, time=times)
        velocity = last_of(observed, 500)
        assert velocity.approximate.all()
        for window, length in (("1m", 60_000), ("90m", 5_400_000), ("7h", 25_200_000), ("7d", 7 * DAY_MS)):
            inside = times[:-1] >= times[-1] - length
            exact = len(set(entity[:-1, 0][inside].tolist()))
            count = velocity.values[-1, ADDRESS.names.index(f"velocity.ip.count_{window}")]
            others = velocity.values[-1, ADDRESS.names.index(f"velocity.ip.accounts_{window}")]
            assert count == pytest.approx(np.count_nonzero(inside), rel=1 / 30, abs=5)
            assert velocity.values[-1, ADDRESS.names.index(f"velocity.ip.sum_{window}")] == 10 * count
            errors.append((others - exact) / max(exact, 1))
            if exact <= SAMPLE_MAX:
                assert others == exact
    assert np.sqrt(np.mean(np.square(errors))) < 0.12


@pytest.mark.parametrize("patched", ["detectors.velocity_distinct.BUSY", "detectors.velocity_tables._ordered"])
def test_every_way_of_counting_says_the_same_of_a_folded_log(patched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order or not, asked once or often in a batch: summaries, samples of all levels and records count alike."""

    def counted() -> Floats:
        rng = np.random.default_rng(5)
        observed = on_one_address(0, 3_000, 1, 40_000)
        entity = observed.entity.copy()
        entity[:, 0] = rng.integers(1, 2**63, 900).astype(np.uint64)[rng.integers(0, 900, len(entity))]
        return last_of(replace(observed, entity=entity), 300).values

    usual = counted()
    busy = "BUSY" in patched
    monkeypatch.setattr(patched, 10**9 if busy else lambda logs, _time, _first: np.zeros(len(logs.start) - 1, np.bool_))
    assert np.array_equal(counted(), usual)
    assert usual[:, ADDRESS.names.index("velocity.ip.accounts_7d")].max() > 2 * SAMPLE_MAX
