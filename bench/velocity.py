"""What velocity costs an event: CPU of the client and of Valkey, by kinds of entity, spread of keys, and heat.

    python -m bench.velocity [--quick] [--profile]

Batches of 500 go through the store as a worker's do; the logs are filled first, so that figures are those of a steady
state. Of each kind count, sum and the first of its others are asked over 1 m, 1 h, 24 h and 7 d.
"""

import argparse
import asyncio
import cProfile
import pstats
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import redis

from bench import measure
from detectors.entity import Keys
from detectors.event_types import Earn, Event
from detectors.velocity import Observations, Observed, observations
from detectors.velocity_names import KINDS, OTHERS, Demand, demand_of, ordered
from embedded import valkey
from streams.velocity_epoch import Epoch
from streams.velocity_store import RedisVelocityStore

BATCH: Final = 500
WINDOWS: Final = ("1m", "1h", "24h", "7d")
THREE: Final = KINDS[:3]
START: Final = datetime(2026, 3, 1, tzinfo=UTC)
KEYS: Final = Keys(bytes(range(32)))
ZIPF: Final = 1.1
BUDGET: Final = {3: "8-41 + 10", 9: "45-100 + 35"}
"""Client and server, as the design has it."""


@dataclass(frozen=True)
class Size:
    """How much is done: keys of each kind, batches to fill with and to measure, runs, events of the hot address."""

    keys: int
    filled: int
    measured: int
    runs: int
    hot_events: int
    seed: int = 7


FULL: Final = Size(keys=20_000, filled=200, measured=60, runs=3, hot_events=1_000_000)
QUICK: Final = Size(keys=500, filled=10, measured=5, runs=1, hot_events=10_000)


@dataclass
class Figures:
    """Microseconds an event, one figure a run."""

    hashing: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """As table cells."""
        columns = (self.hashing, self.client, self.server, self.wall)
        return [measure.Spread.of(values).show(1) if values else "" for values in columns]


def demand(kinds: Sequence[str]) -> Demand:
    """What is asked of these kinds."""
    names = [
        f"velocity.{kind}.{value}_{window}"
        for kind in kinds
        for value in ("count", "sum", OTHERS[kind][0])
        for window in WINDOWS
    ]
    return demand_of(ordered(names))


def traffic(rng: np.random.Generator, size: Size, count: int, *, zipf: bool) -> list[Observed]:
    """Events a tenth of a second apart, each with an entity of every kind."""
    shares = 1.0 / np.arange(1, size.keys + 1) ** ZIPF if zipf else np.ones(size.keys)
    picks = rng.choice(size.keys, (count, len(KINDS)), p=shares / shares.sum())
    return [Observed(_event(number, row), number * 100) for number, row in enumerate(picks.tolist())]


def _event(number: int, entity: Sequence[int]) -> Event:
    account, device, ip, prefix, store, staff, campaign, payment, referrer = entity
    return Earn(
        id=f"e{number}", source="bench", program="bench", account=f"a{account}",
        occurred_at=START + timedelta(milliseconds=100 * number), points=1 + number % 97, device=f"d{device}",
        ip=f"10.{prefix >> 8 & 255}.{prefix & 255}.{ip & 255}", store=f"s{store}", staff=f"c{staff}",
        campaign=f"k{campaign}", payment=f"t{payment}", referrer=f"a{referrer}",
    )  # fmt: skip


class Valkey:
    """A server of our own, and what it has spent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = redis.Redis.from_url(url)

    def cpu_seconds(self) -> float:
        """User and system time of the server."""
        used = self._client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def empty(self) -> None:
        """Forget everything."""
        self._client.flushall()

    def bytes_used(self) -> int:
        """Memory of the data."""
        return int(self._client.info("memory")["used_memory_dataset"])


async def spread(server: Valkey, size: Size, asked: Demand, events: Sequence[Observed], figures: Figures) -> None:
    """Fill, then measure one run."""
    server.empty()
    store = RedisVelocityStore.connect(server.url, None)
    await store.mark_warm(Epoch("bench", asked.coverage))
    try:
        for number in range(size.filled):
            await store.observe(_batch(events, number, asked), asked)
        first, last = size.filled, size.filled + size.measured
        started = time.process_time()
        batches = [_batch(events, number, asked) for number in range(first, last)]
        hashed = time.process_time() - started
        client, server_before, wall = time.process_time(), server.cpu_seconds(), time.perf_counter()
        for batch in batches:
            await store.observe(batch, asked)
        done = size.measured * BATCH / 1e6
        figures.client.append((time.process_time() - client) / done)
        figures.wall.append((time.perf_counter() - wall) / done)
        figures.server.append((server.cpu_seconds() - server_before) / done)
        figures.hashing.append(hashed / done)
    finally:
        await store.close()


def _batch(events: Sequence[Observed], number: int, asked: Demand) -> Observations:
    return observations(events[number * BATCH : (number + 1) * BATCH], KEYS, asked.coverage.kinds)


async def heat(server: Valkey, size: Size) -> tuple[Figures, Figures, list[int]]:
    """Events of addresses seen once, then of one address with very many; bytes of the hot log on the way."""
    asked, cold, hot = demand(["ip"]), Figures(), Figures()
    store = RedisVelocityStore.connect(server.url, None)
    rng, batches, lengths = np.random.default_rng(size.seed), size.hot_events // BATCH, []
    try:
        for figures, address in ((cold, None), (hot, np.uint64(7))):
            server.empty()
            await store.mark_warm(Epoch("bench", asked.coverage))
            for number in range(batches if address else size.measured):
                batch = _on_addresses(rng, number, address)
                client, server_before, wall = time.process_time(), server.cpu_seconds(), time.perf_counter()
                await store.observe(batch, asked)
                if number >= (batches if address else size.measured) - size.measured:
                    figures.client.append((time.process_time() - client) / BATCH * 1e6)
                    figures.wall.append((time.perf_counter() - wall) / BATCH * 1e6)
                    figures.server.append((server.cpu_seconds() - server_before) / BATCH * 1e6)
                if address and number % (batches // 4) == batches // 4 - 1:
                    lengths.append(server.bytes_used())
    finally:
        await store.close()
    return cold, hot, lengths


def _on_addresses(rng: np.random.Generator, number: int, address: np.uint64 | None) -> Observations:
    """A batch of events a second apart, of 3,000 accounts, on one address or on one each."""
    entity = np.zeros((BATCH, len(KINDS)), dtype=np.uint64)
    entity[:, KINDS.index("account")] = rng.integers(0, 3_000, BATCH).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    each = rng.integers(1, 2**63, BATCH).astype(np.uint64)
    entity[:, KINDS.index("ip")] = each if address is None else address
    return Observations(
        programs=("bench",),
        program=np.zeros(BATCH, dtype=np.int64),
        time=int(START.timestamp() * 1000) + 1_000 * (number * BATCH + np.arange(BATCH)),
        event=rng.integers(1, 2**63, BATCH).astype(np.uint64),
        entity=entity,
        peer=np.zeros(BATCH, dtype=np.uint64),
        points=np.full(BATCH, 10, dtype=np.int64),
    )


async def rebuilding(server: Valkey, size: Size, asked: Demand, events: Sequence[Observed]) -> float:
    """Events a second that go back into an empty store, of the client's and the server's work one after the other."""
    server.empty()
    store = RedisVelocityStore.connect(server.url, None)
    started = time.perf_counter()
    try:
        for number in range(size.measured):
            await store.rebuild(_batch(events, number, asked), asked.coverage)
    finally:
        await store.close()
    return size.measured * BATCH / (time.perf_counter() - started)


def page(
    size: Size,
    found: dict[tuple[int, str], Figures],
    heated: tuple[Figures, Figures, list[int]],
    rebuilt: Sequence[float],
) -> str:
    """The report in Markdown."""
    header = ("hashing", "client", "Valkey", "wall")
    rows = [[f"{kinds} kinds, {how}", *figures.cells(), BUDGET[kinds]] for (kinds, how), figures in found.items()]
    cold, hot, lengths = heated
    hot_rows = [
        ["addresses seen once", *cold.cells()[1:]],
        [f"one address with {size.hot_events:,} events", *hot.cells()[1:]],
    ]
    facts = (
        f"Batches of {BATCH}, {size.keys:,} keys of each kind, {size.filled * BATCH:,} before, {size.runs} runs, "
        f"seed {size.seed}; µs an event, median (range). {measure.machine()}."
    )
    grown = ", ".join(f"{used / 1024:.0f}" for used in lengths)
    return "\n\n".join(
        (
            "# Velocity: CPU an event",
            facts,
            measure.markdown_table(("", *header, "design: client + Valkey"), rows),
            "One kind (IP address), per batch:",
            measure.markdown_table(("", *header[1:]), hot_rows),
            f"KiB of all data with the hot address at a quarter, half, three quarters and all of its events: {grown}.",
            f"Rebuilding all kinds: {measure.Spread.of(rebuilt).show()} events a second.",
        )
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, one run: shows that it works, no figures")
    parser.add_argument(
        "--profile", action="store_true", help="print where the client's time goes, and measure nothing"
    )
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    count = (size.filled + size.measured) * BATCH
    with tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder:
        service = valkey.start(Path(folder))
        try:
            server, found, rebuilt = Valkey(service.url), dict[tuple[int, str], Figures](), list[float]()
            if options.profile:
                _profile(server, replace(size, runs=1), count)
                return
            for run in range(size.runs):
                for how in ("uniform", "Zipf"):
                    events = traffic(np.random.default_rng(size.seed + run), size, count, zipf=how == "Zipf")
                    for kinds in (THREE, KINDS):
                        figures = found.setdefault((len(kinds), how), Figures())
                        asyncio.run(spread(server, size, demand(kinds), events, figures))
                    if how == "Zipf":
                        rebuilt.append(asyncio.run(rebuilding(server, size, demand(KINDS), events)))
            report = page(size, found, asyncio.run(heat(server, size)), rebuilt)
        finally:
            service.process.stop()
    measure.publish("velocity-quick" if options.quick else "velocity", report)


def _profile(server: Valkey, size: Size, count: int) -> None:
    events = traffic(np.random.default_rng(size.seed), size, count, zipf=True)
    with cProfile.Profile() as profile:
        asyncio.run(spread(server, size, demand(KINDS), events, Figures()))
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
