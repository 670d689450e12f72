"""How fast the ledger posts: by size of batch, of the programme and of its past, beside an ORM ledger and bare INSERTs.

Every posting is decided and written as in a worker's batch, lots and holds on: 60 % earns, 35 % redemptions, 5 %
transfers, 5 % of all held, members drawn alike. Peers and sizes alternate within a run of the whole. The floors insert
the rows of PointGuard's own plans, in the same batches, into tables without checks or triggers: bare heaps, and tables
with the keys and indexes without which nothing is found again. Collector and allocator are set as in a worker.
"""

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import create_engine, make_url, text

from bench import measure
from bench.ledger_fill import Past, fill
from bench.ledger_peers import Floor, OrmPoster, prepare_orm
from bench.ledger_work import Ask, Poster, asks
from embedded.services import Services
from ledger.migrate import migrate
from ledger.plan import Plan
from streams.memory import calm_memory

BAR_ORM: Final = 20.0
BAR_FLOOR: Final = 0.4
BAR_GROWTH: Final = 1.2
BATCH: Final = 500
FLOORS: Final = {"floor, heaps": False, "floor, keys": True}
"""The floors by name, and whether their tables have the ledger's keys and indexes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured: postings by size of batch, sizes of programmes, pasts, postings of the ORM ledger, runs."""

    batches: Mapping[int, int] = field(
        default_factory=lambda: {1: 500, 10: 3_000, 100: 20_000, 500: 40_000, 2_000: 40_000}
    )
    members: tuple[int, ...]
    home: int
    grown: tuple[Past, Past]
    orm: int
    runs: int
    seed: int = 7


FULL: Final = Size(
    batches={1: 500, 10: 3_000, 100: 20_000, 500: 40_000, 2_000: 40_000},
    members=(1_000, 10_000, 100_000, 1_000_000),
    home=100_000,
    grown=(Past(10_000, 2), Past(10_000, 250)),
    orm=2_000,
    runs=5,
)
QUICK: Final = Size(
    batches={1: 50, 10: 200, 100: 1_000, 500: 2_000, 2_000: 4_000},
    members=(1_000, 10_000),
    home=1_000,
    grown=(Past(1_000, 2), Past(1_000, 20)),
    orm=100,
    runs=1,
)


@dataclass(slots=True)
class Figures:
    """Postings a second and CPU in µs a posting, one entry a run."""

    rates: list[float] = field(default_factory=list)
    client_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)

    def row(self, *names: str) -> list[str]:
        """A line of a table."""
        shown = [measure.Spread.of(values).show(digits) for values, digits in self._columns()]
        return [*names, *shown]

    def _columns(self) -> tuple[tuple[list[float], int], ...]:
        return (self.rates, 0), (self.client_us, 1), (self.server_us, 1)

    @property
    def rate(self) -> float:
        """The median rate."""
        return measure.Spread.of(self.rates).median


HEADER: Final = ("postings/s", "µs client", "µs PostgreSQL")


class Bench:
    """One PostgreSQL with a database a size; measures one thing at a time."""

    def __init__(self, url: str, size: Size) -> None:
        self._url, self._size = make_url(url), size
        self._pid = measure.listener_pid(self._url.port or 0)
        self._rng = random.Random(size.seed)
        self._asked = 0

    def database(self, name: str) -> str:
        """The URL of a new, migrated database."""
        admin = create_engine(self._url, isolation_level="AUTOCOMMIT")
        with admin.connect() as conn:
            conn.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        url = self._url.set(database=name).render_as_string(hide_password=False)
        migrate(url)
        return url

    def asked(self, count: int, members: int) -> list[Ask]:
        """Postings that were not asked for before."""
        self._asked += 1
        return asks(self._rng, count, members, f"b{self._asked}")

    def timed(self, figures: Figures, count: int, work: Callable[[], object]) -> None:
        """Run `count` postings and note what they took."""
        gc.collect()
        server, client, began = measure.tree_cpu_seconds(self._pid), time.process_time(), time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        figures.rates.append(count / seconds)
        figures.client_us.append((time.process_time() - client) / count * 1e6)
        figures.server_us.append((measure.tree_cpu_seconds(self._pid) - server) / count * 1e6)


@contextmanager
def home(bench: Bench, members: int) -> Iterator[tuple[Poster, str]]:
    """A database with so many members, and a poster on it."""
    url = bench.database(f"members_{members}")
    with _poster(url, Past(members)) as poster:
        yield poster, url


@contextmanager
def _poster(url: str, past: Past) -> Iterator[Poster]:
    engine = create_engine(url)
    try:
        yield Poster(engine, fill(engine, past))
    finally:
        engine.dispose()


def by_batch(bench: Bench, size: Size) -> dict[tuple[str, int], Figures]:
    """Ours and the floors at every size of batch, the ORM ledger once a run."""
    found = {(who, batch): Figures() for batch in size.batches for who in ("PointGuard", *FLOORS)}
    found["ORM", 1] = Figures()
    with home(bench, size.home) as (poster, url):
        floors = {name: Floor(url, keys=keys) for name, keys in FLOORS.items()}
        orm_url = bench.database("orm")
        orm_engine = create_engine(orm_url)
        prepare_orm(orm_engine, size.home)
        orm = OrmPoster(orm_engine)
        for batch, count in size.batches.items():  # the first statement of each kind is prepared, the caches are warm
            _post(poster, bench.asked(min(count, 2 * batch), size.home), batch, [])
        for _ in range(size.runs):
            for batch, count in size.batches.items():
                work, plans = bench.asked(count, size.home), list[tuple[Plan, ...]]()
                bench.timed(found["PointGuard", batch], count, partial(_post, poster, work, batch, plans))
                now_ms = time.time_ns() // 1_000_000
                for name, floor in floors.items():
                    bench.timed(found[name, batch], count, partial(floor.post_all, plans, now_ms))
            single = bench.asked(size.orm, size.home)
            bench.timed(found["ORM", 1], size.orm, partial(orm.post, single))
        for floor in floors.values():
            floor.close()
        orm_engine.dispose()
    return found


def by_members(bench: Bench, size: Size) -> dict[int, Figures]:
    """Ours at batches of 500, on programmes of different sizes; each in turn."""
    found = {members: Figures() for members in size.members}
    for members in size.members:
        with _poster(bench.database(f"programme_{members}"), Past(members)) as poster:
            _several(bench, size, poster, members, found[members])
    return found


def by_past(bench: Bench, size: Size) -> dict[Past, Figures]:
    """Ours at batches of 500, after few and after many entries; alternated."""
    found = {past: Figures() for past in size.grown}
    young, old = size.grown
    with (
        _poster(bench.database("young"), young) as young_poster,
        _poster(bench.database("old"), old) as old_poster,
    ):
        for run in range(size.runs + 1):
            for past, poster in ((young, young_poster), (old, old_poster)):
                count = size.batches[BATCH]
                work = bench.asked(count, past.members)
                figures = found[past] if run else Figures()  # the first run warms up
                bench.timed(figures, count, partial(_post, poster, work, BATCH, []))
    return found


def _several(bench: Bench, size: Size, poster: Poster, members: int, figures: Figures) -> None:
    count = size.batches[BATCH]
    for run in range(size.runs + 1):
        work = bench.asked(count, members)
        bench.timed(figures if run else Figures(), count, partial(_post, poster, work, BATCH, []))


def _post(poster: Poster, work: Sequence[Ask], batch: int, plans: list[tuple[Plan, ...]]) -> None:
    plans += [poster.post(work[start : start + batch]) for start in range(0, len(work), batch)]


def page(
    size: Size,
    batches: Mapping[tuple[str, int], Figures],
    members: Mapping[int, Figures],
    pasts: Mapping[Past, Figures],
) -> str:
    """The report in Markdown."""
    orm = batches["ORM", 1]
    rows = [batches[who, batch].row(who, f"{batch:,}") for batch in size.batches for who in ("PointGuard", *FLOORS)]
    young, old = size.grown
    growth = pasts[young].rate / pasts[old].rate
    cpu = [
        measure.Spread.of([a + b for a, b in zip(one.client_us, one.server_us, strict=True)]).median
        for one in (pasts[young], pasts[old])
    ]
    ours = batches["PointGuard", BATCH].rate
    ratios = [
        ["÷ ORM ledger, batches of 500", f"{ours / orm.rate:.1f}", f"≥ {BAR_ORM:.0f}"],
        *[
            [f"÷ {name}, batches of 500", f"{ours / batches[name, BATCH].rate:.2f}", f"≥ {BAR_FLOOR}"]
            for name in FLOORS
        ],
        [f"cost of a posting, {old.entries:,} ÷ {young.entries:,} entries (wall)", f"{growth:.2f}", f"≤ {BAR_GROWTH}"],
        ["the same in CPU, client and server", f"{cpu[1] / cpu[0]:.2f}", f"≤ {BAR_GROWTH}"],
    ]
    return "\n\n".join(
        (
            "# Ledger: postings a second",
            f"{size.runs} runs, seed {size.seed}, median (range). fsync on, one writer. {measure.machine()}.",
            f"By size of batch, {size.home:,} members:",
            measure.markdown_table(("program", "batch", *HEADER), [*rows, orm.row("ORM ledger", "1")]),
            measure.markdown_table(("PointGuard", "measured", "bar"), ratios),
            "By number of members, batches of 500:",
            measure.markdown_table(("members", *HEADER), [found.row(f"{n:,}") for n, found in members.items()]),
            f"By entries that are there already, batches of 500, {young.members:,} members:",
            measure.markdown_table(
                ("entries", *HEADER), [found.row(f"{past.entries:,}") for past, found in pasts.items()]
            ),
        )
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, one run: shows that it works, no figures")
    size = QUICK if parser.parse_args().quick else FULL
    calm_memory()
    with tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder, Services.start(Path(folder)) as running:
        bench = Bench(running.urls.database, size)
        report = page(size, by_batch(bench, size), by_members(bench, size), by_past(bench, size))
    measure.publish("ledger-quick" if size is QUICK else "ledger", report)


if __name__ == "__main__":
    main()
