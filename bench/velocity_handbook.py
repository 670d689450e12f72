"""The Fraud Detection Handbook's 1, 7 and 30 day features, taken from velocity, beside a computation of our own.

    python -m bench.velocity_handbook FOLDER [--entities 500]

FOLDER holds handbook_visible.csv.gz (bring your own copy; it is not part of this project). Published are, of the
customer, the number and mean amount of transactions in (t - w, t], this one included, and of the terminal the number
and share of frauds in (t - 7 d - w, t - 7 d], as labels come a week late. A customer is an account and a terminal a
store here; for the terminals the points of an event are its label. Velocity counts [t - w, t] without this event, so
what is exactly one window old is taken off again. Where a value is marked as an estimate its error is shown instead.
"""

import argparse
import asyncio
import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bench import measure
from detectors.velocity import Floats, Observations
from detectors.velocity_names import DAY_MS, KINDS, Demand, demand_of, ordered
from streams.velocity_store import MemoryVelocityStore

FILE: Final = "handbook_visible.csv.gz"
DAYS: Final = (1, 7, 30)
DELAY: Final = 7
BATCH: Final = 500


class Transaction(NamedTuple):
    """A row of the file: `points` are cents, or 1 for a fraud and 0 for none."""

    number: int
    time_ms: int
    entity: int
    points: int


class Past(NamedTuple):
    """What one entity did in a window of some days before a transaction, the one exactly that old left out.

    How many (`number`) and their `total`; `edge_number` and `edge_total` of those exactly that old.
    """

    number: int
    total: int
    edge_number: int
    edge_total: int


class Compared(NamedTuple):
    """One feature: values compared, those that differ though exact, those that are estimates, and their worst error."""

    feature: str
    values: int
    differing: int
    estimates: int
    worst: float


def read(path: Path, column: str, entities: int) -> list[Transaction]:
    """The transactions of the first so many customers (CUSTOMER_ID) or terminals (TERMINAL_ID), in order of time."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [
            Transaction(
                int(row["TRANSACTION_ID"]),
                round(datetime.fromisoformat(row["TX_DATETIME"]).replace(tzinfo=UTC).timestamp() * 1000),
                int(row[column]),
                round(100 * float(row["TX_AMOUNT"])) if column == "CUSTOMER_ID" else int(row["TX_FRAUD"]),
            )
            for row in csv.DictReader(file)
            if int(row[column]) < entities
        ]


def pasts(rows: Sequence[Transaction], days: int) -> list[Past]:
    """The computation of our own: a list for each entity, walked from its end; transactions before this one only."""
    seen: dict[int, list[Transaction]] = defaultdict(list)
    found = []
    for row in rows:
        count = total = edge_count = edge_total = 0
        for earlier in reversed(seen[row.entity]):
            age = row.time_ms - earlier.time_ms
            if age > days * DAY_MS:
                break
            if age < days * DAY_MS:
                count, total = count + 1, total + earlier.points
            else:
                edge_count, edge_total = edge_count + 1, edge_total + earlier.points
        seen[row.entity].append(row)
        found.append(Past(count, total, edge_count, edge_total))
    return found


async def velocity(rows: Sequence[Transaction], kind: str, demand: Demand) -> Floats:
    """What velocity says of each transaction, in batches as a worker has them."""
    store = MemoryVelocityStore(None)
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return np.concatenate([(await store.observe(_observations(part, kind), demand)).values for part in parts])


def _observations(rows: Sequence[Transaction], kind: str) -> Observations:
    entity = np.zeros((len(rows), len(KINDS)), dtype=np.uint64)
    entity[:, KINDS.index(kind)] = [row.entity + 1 for row in rows]
    return Observations(
        programs=("handbook",),
        program=np.zeros(len(rows), dtype=np.int64),
        time=np.array([row.time_ms for row in rows], dtype=np.int64),
        event=np.array([row.number + 1 for row in rows], dtype=np.uint64),
        entity=entity,
        peer=np.zeros(len(rows), dtype=np.uint64),
        points=np.array([row.points for row in rows], dtype=np.int64),
    )


def customers(rows: Sequence[Transaction]) -> Iterable[Compared]:
    """Number and mean amount over 1, 7 and 30 days."""
    values = ("count", "sum", "avg")
    names = [f"velocity.account.{value}_{days}d" for value in values for days in DAYS]
    demand = demand_of(ordered([*names, "velocity.approximate"]))
    found = dict(zip(demand.names, asyncio.run(velocity(rows, "account", demand)).T, strict=True))
    marked, amounts = found["velocity.approximate"] > 0, np.array([row.points for row in rows])
    for days in DAYS:
        past = np.array(pasts(rows, days))
        count, total, average = (found[f"velocity.account.{value}_{days}d"] for value in values)
        yield _compare(f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW", count - past[:, 2] + 1, past[:, 0] + 1, marked)
        published = (past[:, 1] + amounts) / (past[:, 0] + 1)
        ours = (total - past[:, 3] + amounts) / (count - past[:, 2] + 1)
        yield _compare(f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW", ours, published, marked)
        known = ~np.isnan(average)
        moved = np.array(pasts([row._replace(points=int(row.points > 0)) for row in rows], days))[known]
        exact = (past[known, 1] + past[known, 3]) / (moved[:, 1] + moved[:, 3])
        yield _compare(f"velocity.account.avg_{days}d", average[known], exact, marked[known])


def terminals(rows: Sequence[Transaction]) -> Iterable[Compared]:
    """Number and share of frauds over 1, 7 and 30 days that ended a week ago."""
    names = [f"velocity.store.{value}_{days + DELAY}d" for value in ("count", "sum") for days in (0, *DAYS)]
    demand = demand_of(ordered([*names, "velocity.approximate"]))
    found = dict(zip(demand.names, asyncio.run(velocity(rows, "store", demand)).T, strict=True))
    marked, late = found["velocity.approximate"] > 0, np.array(pasts(rows, DELAY))
    for days in DAYS:
        past = np.array(pasts(rows, days + DELAY))
        count, total = (
            found[f"velocity.store.{value}_{days + DELAY}d"] - found[f"velocity.store.{value}_{DELAY}d"] - edge
            for value, edge in (("count", past[:, 2] - late[:, 2]), ("sum", past[:, 3] - late[:, 3]))
        )
        yield _compare(f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW", count, past[:, 0] - late[:, 0], marked)
        published = (past[:, 1] - late[:, 1]) / np.maximum(past[:, 0] - late[:, 0], 1)
        yield _compare(f"TERMINAL_ID_RISK_{days}DAY_WINDOW", total / np.maximum(count, 1), published, marked)


def _compare(feature: str, ours: Floats, published: Floats, marked: np.ndarray) -> Compared:
    # Both are quotients of the same whole numbers, if they are right.
    differing = int(np.count_nonzero(ours[~marked] != published[~marked]))
    worst = float(np.max(np.abs(ours - published)[marked] / np.maximum(np.abs(published[marked]), 1), initial=0.0))
    return Compared(feature, len(ours), differing, int(np.count_nonzero(marked)), worst)


def main(folder: Path, entities: int) -> int:
    """Compare and publish; 1 if the file is missing or a value that is not marked differs."""
    path = folder / FILE
    if not path.is_file():
        print(f"{path} is missing: give the folder that holds {FILE}", file=sys.stderr)
        return 1
    compared = [
        *customers(read(path, "CUSTOMER_ID", entities)),
        *terminals(read(path, "TERMINAL_ID", 2 * entities)),
    ]
    rows = [
        [one.feature, f"{one.values:,}", str(one.differing), f"{one.estimates:,}", f"{one.worst:.1%}"]
        for one in compared
    ]
    table = measure.markdown_table(("feature", "values", "differ", "estimates", "worst error of an estimate"), rows)
    title = f"# Velocity beside the Handbook's features\n\nThe first {entities} customers, {2 * entities} terminals."
    measure.publish("velocity-handbook", f"{title}\n\n{table}")
    return int(any(one.differing for one in compared))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help=f"folder with {FILE}")
    parser.add_argument("--entities", type=int, default=500, help="how many customers; twice as many terminals")
    options = parser.parse_args()
    sys.exit(main(options.folder, options.entities))
