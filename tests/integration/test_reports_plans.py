"""What people read of one account goes by indexes, and reports of a period read that period: no table is read whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, TextClause, text

from bench.ledger_fill import PROGRAM, Past, fill
from ledger import clearing_store, history, liability_store, queries, statements
from tests.integration.ledger_writer import pool
from tests.services import Databases

HOUR_MS = 3_600_000
IDS = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def conn(databases: Databases, template: str) -> Iterator[Connection]:
    """A ledger of 20,000 members with 180,000 transactions of long ago."""
    with databases.fresh(template) as url, pool(url) as engine:
        fill(engine, Past(20_000, 4))
        with engine.connect() as conn:
            yield conn


def plan(conn: Connection, statement: TextClause, given: dict[str, Any]) -> str:
    """PostgreSQL's plan for a statement with these values."""
    return "\n".join(conn.execute(text(f"EXPLAIN {statement.text}"), given).scalars())


ONE: list[tuple[TextClause, dict[str, Any]]] = [
    (history._BY_NAME, {"program": PROGRAM, "kind": "member", "name": "m777"}),
    (history._BY_ID, {"account_id": 777}),
    (history._BISECT, {"account_id": 777, "count": 9, "at_ms": 0}),
    (history._SUMS, {"account_id": 777, "low": 0, "high": 4}),
    (history._LOTS, {"account_id": 777}),
    (history._LOTS_AT, {"account_id": 777, "seq": 4}),
    (statements._FALLING, {"account_id": 777, "other_id": None, "low": 0, "high": 9, "most": 100}),
    (statements._RISING, {"account_id": 777, "other_id": 778, "low": 0, "high": 9, "most": 100}),
    (statements._CAUSES, {"ids": IDS}),
    (statements._PEERS, {"ids": IDS, "account_id": 777}),
    (statements._TOUCHES, {"ids": IDS, "account_id": 777}),
]
# Tables that hold nothing here, so that reading them whole is right; with rows they are found by their keys.
EMPTY = ("hold", "hold_lot", "adjustment", "import_job", "reversal", "account_merge", "decision", "review_decision")


@pytest.mark.parametrize("number", range(len(ONE)))
def test_one_account_is_read_by_its_indexes(conn: Connection, number: int) -> None:
    """Whatever is asked of one account, the size of the ledger does not matter."""
    told = plan(conn, *ONE[number])
    for line in told.splitlines():
        if "Seq Scan" in line:
            assert line.split(" on ")[1].split()[0] in {*EMPTY, "program"}, told


@pytest.mark.parametrize(
    "statement", [liability_store._MOVED, clearing_store._FLOWS], ids=["the roll", "the settlement"]
)
def test_a_period_is_found_by_time(conn: Connection, statement: TextClause) -> None:
    """A report of an hour looks for that hour, not through a year."""
    now = int(conn.execute(text("SELECT extract(epoch FROM now()) * 1000")).scalar_one())
    told = plan(conn, statement, {"program": PROGRAM, "since_ms": now - HOUR_MS, "until_ms": now})
    assert "txn_recorded_idx" in told
    for table in ("txn", "entry", "lot", "lot_use", "account"):
        assert f"Seq Scan on {table} " not in told, told


def test_what_expires_is_found_by_its_date(conn: Connection) -> None:
    """Reminders of a week read the lots of that week."""
    given = {"program": PROGRAM, "since_ms": 0, "until_ms": HOUR_MS}
    assert "lot_due_idx" in plan(conn, queries._REMINDERS, given)
    assert "lot_due_idx" in plan(conn, queries._DUE_LOTS, given)
