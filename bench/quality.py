"""How well PointGuard finds fraud, on published and simulated streams, beside published figures.

    python -m bench.quality [FOLDER] [--only PART ...] [--seeds N] [--quick] [--output DIRECTORY]

FOLDER (or POINTGUARD_DATA) holds the labelled streams; docs/quality.md says which, and where they come from. Every row
is scored before it is learned, labels come late, everything is seeded. Parts: handbook, sffsd, sets, points; a part
that is run alone replaces its section of quality.md and its plots. --quick runs the beginning of each stream with one
seed, to show that all works: its figures mean nothing.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.quality_data import DataMissing
from bench.quality_handbook import measure_handbook, measure_sffsd
from bench.quality_points import measure_points
from bench.quality_report import Columns, Figure, Table
from bench.quality_sets import measure_sets
from config.settings import load

RESULTS = Path(__file__).parent / "results"
PAGE = "quality.md"
MARK = "<!-- part: {} -->"
SIMULATOR_SEEDS = 20
HEAD = """# Detection quality

Written by `python -m bench.quality`; docs/quality.md says what is measured and how. Every row is scored before it is
learned, nothing is trained ahead, and labels are used only where a row says so and only once they are due. Figures are
means over seeds, with their range where it shows.
"""


@dataclass(frozen=True)
class Size:
    """How much is run: `seeds` of models, `simulator_seeds` of `events` each, `users` of finforge, rows of a stream."""

    seeds: int = 3
    simulator_seeds: int = SIMULATOR_SEEDS
    events: int = 20_000
    users: int = 100
    rows_max: int | None = None


QUICK = Size(seeds=1, simulator_seeds=1, events=1_500, users=3, rows_max=3_000)

Measured = tuple[Sequence[Table], Sequence[Figure | Columns]]
PARTS: Mapping[str, Callable[[Path | None, Size], Measured]] = {
    "handbook": lambda folder, size: measure_handbook(folder, size.seeds),
    "sffsd": lambda folder, size: (measure_sffsd(folder, size.seeds, size.rows_max), ()),
    "sets": lambda folder, size: measure_sets(folder, size.seeds, size.rows_max),
    "points": lambda folder, size: (measure_points(folder, size.simulator_seeds, size.events, size.users), ()),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; 1 if their data is missing, with a message that says how to give it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the labelled streams (or POINTGUARD_DATA)")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="parts to run")
    parser.add_argument("--seeds", type=int, default=Size.seeds, help="seeds of each model")
    parser.add_argument("--quick", action="store_true", help="the beginning of each stream, one seed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where pages and plots go")
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else Size(seeds=chosen.seeds)
    try:
        for part in chosen.only:
            started = time.monotonic()
            _write(part, PARTS[part](chosen.folder or load().data, size), chosen.output)
            print(f"{part}: {time.monotonic() - started:.0f} s")
    except DataMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    print(f"written: {chosen.output / PAGE}")
    return 0


def _write(part: str, measured: Measured, folder: Path) -> None:
    """Replace a part's section of the page, and its plots; the section is printed as well."""
    folder.mkdir(parents=True, exist_ok=True)
    tables, plots = measured
    pictures = [f"![{plot.title}]({plot.draw(folder).name})\n" for plot in plots]
    text = "\n".join([*(table.markdown() for table in tables), *pictures])
    print(text)
    sections = _sections(folder / PAGE) | {part: text}
    page = "\n".join([HEAD, *(f"{MARK.format(name)}\n\n{sections[name]}" for name in PARTS if name in sections)])
    (folder / PAGE).write_text(page, encoding="utf-8")


def _sections(page: Path) -> dict[str, str]:
    """What an earlier page holds of each part."""
    if not page.is_file():
        return {}
    pieces = re.split(MARK.format("(.+)"), page.read_text(encoding="utf-8"))[1:]
    return {name: text.strip("\n") + "\n" for name, text in zip(pieces[::2], pieces[1::2], strict=True)}


if __name__ == "__main__":
    sys.exit(main())
