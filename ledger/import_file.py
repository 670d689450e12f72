"""Opens a file of rows: CSV (comma, semicolon, tab or bar) or JSON lines, plain or gzip, UTF-8, UTF-16 or GB18030.

The file is read twice and never held: once to learn its encoding and digest, once for its rows.
"""

from __future__ import annotations

import codecs
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

DELIMITERS = ",;\t|"
ENCODINGS = ("utf-8", "gb18030")
_BLOCK = 1 << 20
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_GZIP = b"\x1f\x8b"

OnBytes = Callable[[int], None]


class UnreadableError(Exception):
    """The file as a whole cannot be read. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a first reading finds: the SHA-256 of the content (unpacked), its encoding, and whether it is gzip."""

    path: Path
    digest: bytes
    encoding: str
    packed: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows behind the header, each with its line: cells by column, or what is wrong with the row as a whole.

    Lines count as a spreadsheet's do: the header is line 1, a row with line breaks in its cells is one line, and so is
    an empty one. Of JSON lines it is the line of the file. `columns` is None for JSON; `delimiter` too.
    """

    columns: tuple[str, ...] | None
    delimiter: str | None
    rows: Iterator[tuple[int, dict[str, str] | str]]


def examine(path: Path, encoding: str | None = None, on_bytes: OnBytes = lambda _: None) -> Kept:
    """Read a file once, in blocks. UnreadableError when it is no text in `encoding` (None: in any that we know)."""
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            packed = start.startswith(_GZIP)
            body = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            return _examined(path, body, encoding, packed, lambda: on_bytes(raw.tell()))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableError(f"{path} breaks off or is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise UnreadableError(
            f"cannot read {path}: {error.strerror or error}; check the path and its rights"
        ) from error


def _examined(path: Path, body: IO[bytes], wanted: str | None, packed: bool, told: Callable[[], None]) -> Kept:  # noqa: FBT001 -- private, and told by position with four others
    digest = hashlib.sha256()
    first = body.read(_BLOCK)
    if first.startswith(_WORKBOOKS):
        raise UnreadableError(f"{path} is a workbook or an archive; save the sheet as “CSV UTF-8” and import that")
    marked = next((name for mark, name in _BOMS if first.startswith(mark)), None)
    names = [wanted] if wanted else [marked] if marked else list(ENCODINGS)
    if wanted and marked and wanted.lower().replace("_", "-") in {"utf-8", "utf8"}:
        names = [marked]
    try:
        readers = {name: codecs.getincrementaldecoder(name)("strict") for name in names}
    except LookupError as error:
        raise UnreadableError(f"encoding {wanted!r} is unknown; take utf-8, utf-16 or gb18030") from error
    block, failed = first, ""
    while True:
        digest.update(block)
        for name, reader in list(readers.items()):
            try:
                reader.decode(block, final=not block)
            except UnicodeDecodeError as error:
                failed = f"{name} fails at byte {body.tell() - len(block) + error.start:,}"
                del readers[name]
        if not readers:
            raise UnreadableError(
                f"{path} is no text in {' or '.join(names)} ({failed}); save it as UTF-8, or give its --encoding"
            )
        told()
        if not block:
            return Kept(path, digest.digest(), next(iter(readers)), packed)
        block = body.read(_BLOCK)


def open_rows(kept: Kept, on_bytes: OnBytes = lambda _: None, *, flat: bool = True) -> Rows:
    """Open an examined file for its rows. UnreadableError, also while they are read.

    A JSON row with a value that is neither text nor number cannot be read, unless it need not be `flat`: then such
    values are left out.
    """
    lines = _lines(kept, on_bytes)
    number, first = 0, ""
    for first in lines:
        number += 1
        if first.strip():
            break
    if not first.strip():
        raise UnreadableError(f"{kept.path} is empty; it needs a header line and rows, or one JSON object a line")
    if first.lstrip().startswith("{"):
        return Rows(None, None, _json_rows(number, first, lines, flat=flat))
    delimiter = max(DELIMITERS, key=first.count)
    records = csv.reader(_chained(first, lines), delimiter=delimiter, strict=True)
    try:
        header = tuple(name.strip().lstrip("\ufeff") for name in next(records))
    except csv.Error as error:
        raise UnreadableError(f"{kept.path}: the header line is no CSV ({error}); correct its quoting") from error
    while header and not header[-1]:
        header = header[:-1]
    if len(set(header)) != len(header) or "" in header:
        raise UnreadableError(f"{kept.path}: the header line has an empty or a repeated name; name each column once")
    return Rows(header, delimiter, _csv_rows(number, header, records))


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _lines(kept: Kept, on_bytes: OnBytes) -> Iterator[str]:
    try:
        with kept.path.open("rb") as raw:
            body = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if kept.packed else raw
            with io.TextIOWrapper(body, encoding=kept.encoding, errors="strict", newline="") as text:
                for number, line in enumerate(text):
                    if number % 4096 == 0:
                        on_bytes(raw.tell())
                    yield line
                on_bytes(raw.tell())
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise UnreadableError(f"{kept.path} changed while it was read ({error}); import it again") from error
    except OSError as error:
        raise UnreadableError(f"cannot read {kept.path}: {error.strerror or error}; check it and try again") from error


def _csv_rows(
    number: int, header: tuple[str, ...], records: Iterator[list[str]]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    while True:
        number += 1
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"is no CSV ({error}); correct the quoting of this row"
            continue
        if len(cells) != len(header):
            cells = _fitted(cells, len(header))
        if len(cells) == len(header):
            if any(cells) and any(map(str.strip, cells)):
                yield number, dict(zip(header, cells, strict=True))
        elif any(map(str.strip, cells)):
            yield number, f"has {len(cells)} cells where the header has {len(header)}; correct the row"


def _fitted(cells: list[str], width: int) -> list[str]:
    """The row without empty cells beyond the header's: spreadsheets add them."""
    return cells[:width] if not any(map(str.strip, cells[width:])) else cells


class _Number(str):
    """A number of a JSON file, as it was written."""

    __slots__ = ()


def _json_rows(
    number: int, first: str, lines: Iterator[str], *, flat: bool
) -> Iterator[tuple[int, dict[str, str] | str]]:
    yield number, _json_row(first, flat=flat)
    for line in lines:
        number += 1
        if line.strip():
            yield number, _json_row(line, flat=flat)


def _json_row(line: str, *, flat: bool) -> dict[str, str] | str:
    try:
        value = json.loads(line, parse_float=_Number, parse_int=_Number, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return "is no JSON object; write one object a line"
    if isinstance(value, _Repeated):
        return f"names {value.name!r} twice; name each field once"
    if not isinstance(value, dict):
        return "is JSON but no object; write one object a line"
    cells: dict[str, str] = {}
    for name, cell in value.items():
        if cell is None:
            cells[name] = ""
        elif isinstance(cell, str):
            cells[name] = cell
        elif flat:
            kind = "true or false" if isinstance(cell, bool) else "a list or an object"
            return f"has {kind} as {name!r}; write a text or a number"
    return cells


class _Repeated:
    def __init__(self, name: str) -> None:
        self.name = name


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | _Repeated:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    return _Repeated(next(name for name in names if names.count(name) > 1))
