"""Whole columns as PostgreSQL arrays in binary form, for set-based statements: `INSERT … SELECT FROM unnest(…)`.

psycopg's own list adapter is Python, element by element; these pack a column at once, which is most of what the
ledger's client CPU would otherwise be. Layout: PostgreSQL's `array_send` (src/backend/utils/adt/arrayfuncs.c): number
of dimensions, null flag, element type, length and lower bound of the dimension, then each element as a length and its
bytes, all big-endian. Each class is an array's bytes, typed by the array type that psycopg announces with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from psycopg import Connection as DriverConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import Connection
from sqlalchemy.engine import CursorResult

Layout = Mapping[str, Callable[[Any], object]]
"""The names of a row's columns as a statement's parameters, in order, each with what packs the column."""

_NULL = struct.pack(">i", -1)
# Timestamps travel as microseconds since 2000-01-01 UTC.
_EPOCH_2000_MS = 946_684_800_000
# Lengths of short texts, as the text that four such bytes are.
_LENGTHS = [f"\0\0\0{chr(length)}" for length in range(128)]
# An element of so many bytes behind its length.
_CELLS = {size: np.dtype([("length", ">i4"), ("value", f">i{size}")]) for size in (1, 2, 4, 8)}


class _Array(bytes):
    array_oid = 0


class Bigints(_Array):
    """An array of type bigint[]."""

    array_oid = 1016


class Smallints(_Array):
    """An array of type smallint[]."""

    array_oid = 1005


class Booleans(_Array):
    """An array of type boolean[]."""

    array_oid = 1000


class Texts(_Array):
    """An array of type text[]."""

    array_oid = 1009


class Timestamps(_Array):
    """An array of type timestamptz[]."""

    array_oid = 1185


class Integers(_Array):
    """An array of type integer[]."""

    array_oid = 1007


class Doubles(_Array):
    """An array of type double precision[]."""

    array_oid = 1022


class Byteas(_Array):
    """An array of type bytea[]."""

    array_oid = 1001


def bigints(values: Sequence[int]) -> Bigints:
    """Pack a bigint[]; OverflowError for a value beyond 64 bits."""
    return Bigints(_fixed(np.array(values, dtype=np.int64), 20))


def smallints(values: Sequence[int]) -> Smallints:
    """Pack a smallint[]; OverflowError for a value beyond 16 bits."""
    return Smallints(_fixed(np.array(values, dtype=np.int16), 21))


def booleans(values: Sequence[bool]) -> Booleans:
    """Pack a boolean[]."""
    return Booleans(_fixed(np.array(values, dtype=np.int8), 16))


def timestamps(epoch_ms: Sequence[int]) -> Timestamps:
    """Pack a timestamptz[] from milliseconds since 1970 (UTC)."""
    return Timestamps(_fixed((np.array(epoch_ms, dtype=np.int64) - _EPOCH_2000_MS) * 1000, 1184))


def texts(values: Sequence[str | None]) -> Texts:
    """Pack a text[]; of columns with few values, each distinct one is encoded once, so they cost next to nothing."""
    distinct = set(values)
    if 2 * len(distinct) > len(values):
        cells = _plain(values)
        if cells is not None:
            return Texts(_header(len(values), 25) + cells)
    packed: dict[str | None, bytes] = {}
    for value in distinct:
        if value is None:
            packed[None] = _NULL
        else:
            encoded = value.encode()
            packed[value] = struct.pack(">i", len(encoded)) + encoded
    return Texts(_header(len(values), 25) + b"".join(map(packed.__getitem__, values)))


def _plain(values: Sequence[str | None]) -> bytes | None:
    """The elements of a column, as text of its lengths and values; None unless all are short ASCII."""
    try:
        return "".join([_LENGTHS[len(value)] + value for value in values]).encode("ascii")  # type: ignore[arg-type, operator]  # None is refused
    except (TypeError, IndexError, UnicodeEncodeError):
        return None


def integers(values: Sequence[int]) -> Integers:
    """Pack an integer[]; OverflowError for a value beyond 32 bits."""
    return Integers(_fixed(np.array(values, dtype=np.int32), 23))


def doubles(values: Sequence[float | None]) -> Doubles:
    """Pack a double precision[]; None becomes NULL."""
    cells = [_NULL if value is None else struct.pack(">id", 8, value) for value in values]
    return Doubles(_header(len(values), 701, nulls=None in values) + b"".join(cells))


def byteas(values: Sequence[bytes | None]) -> Byteas:
    """Pack a bytea[]; None becomes NULL."""
    cells = [_NULL if value is None else struct.pack(">i", len(value)) + value for value in values]
    return Byteas(_header(len(values), 17, nulls=None in values) + b"".join(cells))


def bigints_or_0(values: Sequence[int | None]) -> Bigints:
    """Pack a bigint[] in which 0 stands for None; the statement says `nullif(…, 0)`."""
    return bigints([value or 0 for value in values])


def timestamps_or_epoch(epoch_ms: Sequence[int | None]) -> Timestamps:
    """Pack a timestamptz[] in which 1970 stands for None; the statement says `nullif(…, 'epoch')`."""
    return timestamps([value or 0 for value in epoch_ms])


def pack(rows: Sequence[tuple[Any, ...]], layout: Layout) -> dict[str, object]:
    """Make a statement's parameters of rows, of which there must be one: a packed array a column."""
    return {name: packer(column) for (name, packer), column in zip(layout.items(), columns(rows), strict=True)}


def run(conn: Connection, statement: str, parameters: Mapping[str, object]) -> CursorResult[Any]:
    """Execute `statement` (psycopg's `%(name)s` style) with parameters that may be the arrays of this module."""
    if "ledger_arrays" not in conn.info:
        _register(conn.connection.driver_connection)
        conn.info["ledger_arrays"] = True
    return conn.exec_driver_sql(statement, dict(parameters))


def fetch(conn: Connection, statement: str, parameters: Mapping[str, object]) -> Sequence[tuple[Any, ...]]:
    """Execute like `run` and return all rows, as plain tuples."""
    result = run(conn, statement, parameters)
    rows: Sequence[tuple[Any, ...]] = result.cursor.fetchall()
    result.close()
    return rows


def columns(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Transpose rows to columns; there must be a row."""
    return list(zip(*rows, strict=True))


def _header(length: int, element_oid: int, *, nulls: bool = True) -> bytes:
    if length == 0:
        return struct.pack(">iii", 0, 0, element_oid)
    return struct.pack(">iiiii", 1, nulls, element_oid, length, 1)


def _fixed(values: np.ndarray[tuple[int], np.dtype[np.signedinteger]], element_oid: int) -> bytes:
    cells = np.empty(len(values), dtype=_CELLS[values.dtype.itemsize])
    cells["length"] = values.dtype.itemsize
    cells["value"] = values
    return _header(len(values), element_oid) + cells.tobytes()


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Array) -> bytes:
        return obj


def _register(connection: object) -> None:
    if not isinstance(connection, DriverConnection):
        raise TypeError(f"the ledger's arrays need psycopg 3 (URL postgresql+psycopg://…), not {type(connection)}")
    for kind in (Bigints, Smallints, Integers, Doubles, Booleans, Texts, Byteas, Timestamps):
        dumper = type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.array_oid})
        connection.adapters.register_dumper(kind, dumper)
