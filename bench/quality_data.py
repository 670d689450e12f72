"""The labelled streams that detection quality is measured on, as arrays. They are not part of this project.

Bring a folder with the files named in FILES (`docs/quality.md` says where they come from); River brings Shuttle.
"""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import datasets

from detectors.layout import Floats

Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]

FILES = {
    "handbook": "handbook_visible.csv.gz",
    "ecom": "ecom_visible.csv.gz",
    "sffsd": "sffsd_first60.csv.gz",
    "cover": "10_cover.npz",
    "mammography": "23_mammography.npz",
}
SETS = ("shuttle", "cover", "mammography")
DAY_SECONDS = 86_400


class DataMissing(Exception):
    """A file of the evaluation data is not where it should be; the text says how to give it."""


def file_of(folder: Path | None, name: str) -> Path:
    """The path of one data set; raises DataMissing if there is none."""
    if folder is None:
        raise DataMissing("no data folder given: name it as an argument, or set POINTGUARD_DATA")
    path = folder / FILES[name]
    if not path.is_file():
        raise DataMissing(f"{path} is missing: give the folder that holds it as an argument or in POINTGUARD_DATA")
    return path


@dataclass(frozen=True)
class Transactions:
    """A stream in the order of time, one element a row.

    `seconds` since the first midnight; `account` and `store` are numbers from 0; `points` what was paid. `fraud` is 1,
    0, or -1 where nobody knows.
    """

    seconds: Integers
    account: Integers
    store: Integers
    points: Floats
    fraud: Integers

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def day(self) -> Integers:
        """The day of each row, from 0."""
        return self.seconds // DAY_SECONDS

    def first(self, rows: int | None) -> "Transactions":
        """The beginning of the stream, or all of it."""
        whole = (self.seconds[:rows], self.account[:rows], self.store[:rows])
        return Transactions(*whole, self.points[:rows], self.fraud[:rows])


def handbook(folder: Path | None) -> Transactions:
    """Card transactions of the Fraud Detection Handbook."""
    columns = ("TX_TIME_SECONDS", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
    seconds, account, store, points, fraud = _columns(file_of(folder, "handbook"), columns)
    return Transactions(_whole(seconds), _coded(account), _coded(store), points.astype(np.float64), _whole(fraud))


def sffsd(folder: Path | None) -> Transactions:
    """S-FFSD, semi-labelled: its label 2 is unknown, its Time counts rows, taken here as minutes."""
    columns = ("Time", "Source", "Target", "Amount", "Labels")
    times, account, store, points, labels = _columns(file_of(folder, "sffsd"), columns)
    known = _whole(labels)
    fraud = np.where(known == 2, -1, known)
    return Transactions(_whole(times) * 60, _coded(account), _coded(store), points.astype(np.float64), fraud)


def anomalies(folder: Path | None, name: str) -> tuple[Floats, Truths]:
    """One of SETS in file order: inputs float64[n, width] and which rows are anomalies."""
    if name == "shuttle":
        rows: list[tuple[dict[str, float], Any]] = list(datasets.Shuttle())
        return np.array([list(row.values()) for row, _ in rows], dtype=np.float64), np.array([bool(y) for _, y in rows])
    with np.load(file_of(folder, name), allow_pickle=False) as stored:
        return stored["X"].astype(np.float64), stored["y"].astype(np.bool_)


def _columns(path: Path, names: tuple[str, ...]) -> Iterator[NDArray[np.str_]]:
    """The named columns of a compressed CSV file, as text."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        lacking = [name for name in names if name not in header]
        if lacking:
            raise DataMissing(f"{path} has no column {', '.join(lacking)}: it is another file than expected")
        places = [header.index(name) for name in names]
        rows = [[row[place] for place in places] for row in reader]
    return (np.array(column) for column in zip(*rows, strict=True))


def _whole(text: NDArray[np.str_]) -> Integers:
    return text.astype(np.float64).astype(np.int64)


def _coded(names: NDArray[np.str_]) -> Integers:
    """Numbers from 0 for equal names."""
    codes: Integers = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return codes
