"""Packed arrays arrive at PostgreSQL as the values they were packed from, whatever these are."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger import arrays
from tests.integration.ledger_writer import pool

LONG = "x" * 127
TEXTS: list[list[str | None]] = [
    [],
    ["a"],
    ["", "b", "c"],
    [None, None],
    [None, "a", "b", "c"],
    ["é", "积分", "😀", "a"],
    [LONG, LONG + "y", "z"],
    ["\x01", "\x7f", "\t", "tab\tand\nline"],
    ["same"] * 9,
    [f"event-{n}" for n in range(1000)],
]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool on a fresh database."""
    with pool(database) as lent:
        yield lent


def arrived(engine: Engine, packed: object) -> list[Any]:
    """What PostgreSQL unpacks of an array."""
    with engine.connect() as conn:
        return [row[0] for row in arrays.fetch(conn, "SELECT * FROM unnest(%(packed)s)", {"packed": packed})]


@pytest.mark.parametrize("values", TEXTS, ids=[f"column-{n}" for n in range(len(TEXTS))])
def test_texts_arrive(engine: Engine, values: list[str | None]) -> None:
    """Few or many distinct values, short or long, of any script, and none at all."""
    assert arrived(engine, arrays.texts(values)) == values


@pytest.mark.parametrize(
    ("packer", "values"),
    [
        (arrays.bigints, [0, -1, 2**63 - 1, -(2**63)]),
        (arrays.bigints_or_0, [5, 0, -7]),
        (arrays.integers, [0, -1, 2**31 - 1, -(2**31)]),
        (arrays.smallints, [0, -1, 2**15 - 1, -(2**15)]),
        (arrays.booleans, [True, False, True]),
        (arrays.doubles, [0.5, None, -1e300]),
        (arrays.byteas, [b"", None, b"\x00\xff"]),
        (arrays.bigints, []),
    ],
)
def test_numbers_and_bytes_arrive(engine: Engine, packer: Callable[[Sequence[Any]], object], values: list[Any]) -> None:
    """Every type to the ends of its range."""
    assert arrived(engine, packer(values)) == values


def test_times_arrive(engine: Engine) -> None:
    """Milliseconds become the moment they count from 1970, before 2000 too."""
    times = [0, 1, 946_684_799_999, 1_700_000_000_123]
    assert arrived(engine, arrays.timestamps(times)) == [datetime.fromtimestamp(ms / 1000, UTC) for ms in times]
    assert arrived(engine, arrays.timestamps_or_epoch([None, 1_000])) == [
        datetime.fromtimestamp(seconds, UTC) for seconds in (0, 1)
    ]


@pytest.mark.parametrize(("packer", "value"), [(arrays.bigints, 2**63), (arrays.smallints, 2**15)])
def test_what_does_not_fit_is_refused(packer: Callable[[Sequence[int]], object], value: int) -> None:
    """A number beyond its type is an error, never another number."""
    with pytest.raises(OverflowError):
        packer([value])
