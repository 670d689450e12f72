"""Rows of a file: CSV (comma, semicolon, tab or bar) or JSON lines, plain or gzip, told apart by their first bytes."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

GZIP_MAGIC = b"\x1f\x8b"
DELIMITERS = ",;\t|"


class FileError(Exception):
    """The file as a whole cannot be read. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that became no event: its number (the first is 1), the column (empty: all of it), and the remedy."""

    row: int
    column: str
    detail: str


@dataclass(frozen=True, slots=True)
class Table:
    """An open file: its rows in order, each a mapping of texts or a `Problem`; `columns` is None for JSON."""

    columns: tuple[str, ...] | None
    rows: Iterator[tuple[int, dict[str, str] | Problem]]


def digest(path: Path) -> str:
    """The SHA-256 of the file's bytes, as hex. Raises `FileError`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error


def open_table(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Table:
    """The rows of `path`; `on_bytes` hears now and then how many bytes have been read. Raises `FileError`."""
    try:
        raw = path.open("rb")
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    body = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
    # A cell that is not UTF-8 must cost its row, not the file: its bytes come through as surrogates, found again below.
    text = io.TextIOWrapper(body, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _counted(path, text, raw, on_bytes)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise FileError(f"{path} is empty; it needs a header line and rows, or one JSON object a line")
    if first.lstrip().startswith("{"):
        return Table(None, _json_rows(first, lines))
    delimiter = max(DELIMITERS, key=first.count)
    header = tuple(name.strip() for name in next(csv.reader([first], delimiter=delimiter)))
    if len(set(header)) != len(header) or "" in header:
        raise FileError(
            f"{path}: the header line has an empty or a repeated column name; give each column a name of its own"
        )
    return Table(header, _csv_rows(header, csv.reader(lines, delimiter=delimiter)))


def _counted(path: Path, text: IO[str], raw: IO[bytes], on_bytes: Callable[[int], None]) -> Iterator[str]:
    """The lines of an open file, with progress; closes it at the end."""
    try:
        with raw, text:
            for number, line in enumerate(text):
                if number % 4096 == 0:
                    on_bytes(raw.tell())
                yield line
            on_bytes(raw.tell())
    except (EOFError, OSError, zlib.error) as error:
        raise FileError(f"{path} breaks off or is damaged ({error}); fetch it again") from error


def _csv_rows(header: tuple[str, ...], reader: Iterator[list[str]]) -> Iterator[tuple[int, dict[str, str] | Problem]]:
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield number, Problem(number, "", f"is no CSV ({error}); correct the quoting of this row")
            continue
        if not cells:
            continue
        number += 1
        if len(cells) != len(header):
            yield (
                number,
                Problem(number, "", f"has {len(cells)} cells where the header has {len(header)}; correct the row"),
            )
        else:
            yield number, _readable(number, dict(zip(header, cells, strict=True)))


def _json_rows(first: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, str] | Problem]]:
    number, line = 0, first
    while True:
        if line.strip():
            number += 1
            yield number, _json_row(number, line)
        try:
            line = next(lines)
        except StopIteration:
            return


def _json_row(number: int, line: str) -> dict[str, str] | Problem:
    try:
        value = json.loads(line, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return Problem(number, "", "is no JSON object; write one object a line")
    if not isinstance(value, dict):
        return Problem(number, "", "is JSON but no object; write one object a line")
    return _readable(
        number,
        {
            key: "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell)
            for key, cell in value.items()
        },
    )


def _readable(number: int, row: dict[str, str]) -> dict[str, str] | Problem:
    """The row, unless a cell holds what UTF-8 cannot carry."""
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError:
        column = next(name for name, cell in row.items() if not _is_text(cell))
        return Problem(number, column, "is not UTF-8 text; save the file as UTF-8")
    return row


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True
