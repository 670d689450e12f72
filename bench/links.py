"""What links cost an event, in batches of 500: first sightings and steady state, client and PostgreSQL apart.

    python -m bench.links [--quick]

A programme with many members whose devices and addresses are all known is filled in; then each kind of batch is put
through the stage alone, accounts locked as in the pipeline (the lock is not counted), one worker, fsync on:

- steady: known members with their own device and address, 3 % of them in families of four;
- restarted: the same, for a worker that has just started and remembers nothing;
- first seen: as many new members, each with a new device and a new address of its own;
- farm: new members, ten to a device, ten devices to an address, so that every batch joins clusters and makes hubs.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, create_engine, make_url, text

from bench import measure
from detectors.entity import Keys
from detectors.event_types import Redeem
from detectors.policy import Links
from embedded.services import Services
from ledger.batch import lock_batch
from ledger.migrate import migrate
from ledger.programs import create_program, load_programs
from streams.links import Linker, Visit

BATCH: Final = 500
PROGRAM: Final = "bench"
AT: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
FAMILY, FAMILY_SHARE = 4, 0.03
KINDS: Final = ("steady", "restarted", "first seen", "farm")


@dataclass(frozen=True, slots=True)
class Size:
    """Members there are already, batches of each kind a run, runs."""

    members: int
    batches: int
    runs: int
    seed: int = 7


FULL: Final = Size(members=200_000, batches=40, runs=5)
QUICK: Final = Size(members=4_000, batches=2, runs=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """An account with its device and address."""

    account: str
    device: str
    ip: str


@dataclass(slots=True)
class Figures:
    """Microseconds an event: wall, CPU of the client, CPU of PostgreSQL; one entry a run."""

    wall: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """A line of a table."""
        return [name, *(measure.Spread.of(values).show(1) for values in (self.wall, self.client, self.server))]


class Traffic:
    """Batches of each kind; members are drawn alike, newcomers never come twice."""

    def __init__(self, size: Size) -> None:
        self._rng, self._size, self._new = random.Random(size.seed), size, 0

    def member(self, number: int) -> Seen:
        """A known member: with the phone and address of a family, or with their own."""
        family, _ = divmod(number, FAMILY)
        home = family if family % round(1 / FAMILY_SHARE) == 0 else None
        name = f"n{number}" if home is None else f"h{home}"
        return Seen(f"m{number}", f"d-{name}", _address(number if home is None else self._size.members + home))

    def known(self) -> Iterator[list[Seen]]:
        """All members, in batches."""
        for start in range(0, self._size.members, BATCH):
            yield [self.member(number) for number in range(start, min(start + BATCH, self._size.members))]

    def batch(self, kind: str) -> list[Seen]:
        """One batch of a kind."""
        if kind in ("steady", "restarted"):
            return [self.member(self._rng.randrange(self._size.members)) for _ in range(BATCH)]
        first, self._new = self._new, self._new + BATCH
        numbers = range(first, first + BATCH)
        if kind == "first seen":
            return [Seen(f"x{n}", f"dx{n}", _address(2**24 + n)) for n in numbers]
        return [Seen(f"x{n}", f"dx{n // 10}", _address(2**24 + n // 100)) for n in numbers]


def _address(number: int) -> str:
    return ".".join(str(byte) for byte in (10 + (number >> 24), number >> 16 & 255, number >> 8 & 255, number & 255))


class Bench:
    """The stage on one database."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = create_engine(url)
        self._pid = measure.listener_pid(make_url(url).port or 0)
        self._keys, self._terms = Keys(b"bench" * 8), Links()
        self._seasoned = Linker(self._keys)
        with self._engine.begin() as conn:
            create_program(conn, PROGRAM, "live")
            self._programs = load_programs(conn)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def settle(self) -> None:
        """Let PostgreSQL know its tables, and no run pay for the pages of the one before."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM (ANALYZE)"))
            conn.execute(text("CHECKPOINT"))

    def observe(self, batches: Sequence[Sequence[Seen]], figures: Figures, *, restarted: bool = False) -> None:
        """Put batches through the stage, each in a transaction of its own, and note what the stage took."""
        linker = Linker(self._keys) if restarted else self._seasoned
        at_ms = int(AT.timestamp() * 1000)
        wall = client = server = 0.0
        for batch in batches:
            with self._engine.begin() as conn:
                opened = dict.fromkeys(((PROGRAM, one.account) for one in batch), at_ms)
                members = lock_batch(conn, self._programs, opened).accounts.members
                visits = [Visit(_event(one), members[PROGRAM, one.account], at_ms, math.nan) for one in batch]
                before = measure.tree_cpu_seconds(self._pid), time.process_time(), time.perf_counter()
                linker.observe(conn, visits, self._terms)
                wall += time.perf_counter() - before[2]
                client += time.process_time() - before[1]
                server += measure.tree_cpu_seconds(self._pid) - before[0]
        events = sum(map(len, batches))
        figures.wall.append(wall / events * 1e6)
        figures.client.append(client / events * 1e6)
        figures.server.append(server / events * 1e6)


def _event(one: Seen) -> Redeem:
    return Redeem(
        id="e", source="bench", program=PROGRAM, account=one.account, occurred_at=AT, points=1, device=one.device,
        ip=one.ip,
    )  # fmt: skip


def run(url: str, size: Size) -> dict[str, Figures]:
    """Fill in the members, then measure each kind in turn, run by run."""
    bench, traffic = Bench(url), Traffic(size)
    found = {kind: Figures() for kind in KINDS}
    try:
        for _ in range(2):  # a worker remembers what it has seen to be known: the second time
            bench.observe(list(traffic.known()), Figures())
            bench.settle()
        for _ in range(size.runs):
            for kind in KINDS:
                gc.collect()
                batches = [traffic.batch(kind) for _ in range(size.batches)]
                bench.observe(batches, found[kind], restarted=kind == "restarted")
            bench.settle()
    finally:
        bench.close()
    return found


def page(size: Size, found: dict[str, Figures]) -> str:
    """The report in Markdown."""
    header = ("batches of 500", "µs wall", "µs client", "µs PostgreSQL")
    how = f"{size.runs} runs of {size.batches} batches, seed {size.seed}, median (range)"
    what = f"{size.members:,} members, {how}; accounts' locks and commits left out. {measure.machine()}."
    table = measure.markdown_table(header, [figures.row(kind) for kind, figures in found.items()])
    return f"# Links: microseconds an event\n\n{what}\n\n{table}"


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, one run: shows that it works, no figures")
    size = QUICK if parser.parse_args().quick else FULL
    with (
        tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder,
        # Only PostgreSQL is wanted: the two others count as given.
        Services.start(Path(folder), redis_url="redis://none", kafka_url="none") as running,
    ):
        migrate(running.urls.database)
        report = page(size, run(running.urls.database, size))
    measure.publish("links-quick" if size is QUICK else "links", report)


if __name__ == "__main__":
    main()
