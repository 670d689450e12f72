"""What a reversal reads goes by indexes, for one event and for a batch of them, in a ledger with a long past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from sqlalchemy import Connection, text

from bench.ledger_fill import PROGRAM, Past, fill
from ledger import originals
from ledger.arrays import bigints, fetch, texts
from tests.integration.ledger_writer import pool
from tests.services import Databases

BATCH = 40
# Rows as many movements leave behind; what they say does not matter, only how many there are.
PAST = """
INSERT INTO decision (decision_id, source, event_id, program, account, type, outcome, code, event, reasons, occurred_at,
                      observed_at, decided_at, log_id, topic, part, "offset")
SELECT txn_id, 'pos', 'x-' || txn_id, program, 'm1', kind, 'approve', 'posted', '{}', '[]', now(), now(), now(), 'l',
       't', 0, txn_id FROM txn WHERE resolves IS NULL;
INSERT INTO hold (hold_id, program, account_id, kind, amount, opened_at, on_timeout, resolved_at, replaces)
SELECT t.txn_id, t.program, 1, 'redeem', 5, now(), 'void', CASE WHEN t.txn_id % 20 > 0 THEN now() END,
       CASE WHEN t.txn_id % 7 = 0 THEN t.txn_id + 1000000000 END FROM txn t WHERE t.resolves IS NULL;
INSERT INTO hold_lot (hold_id, lot_id, amount)
SELECT h.hold_id, l.lot_id, 5 FROM hold h JOIN lot l ON l.lot_id = h.hold_id;
INSERT INTO reversal (reversal_id, program, original_txn, points, from_hold, from_lot, from_reserved, from_traced,
                      from_other, to_arrears, forgiven, restored, repaid, recorded_at)
SELECT txn_id, program, txn_id, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0, now() FROM txn WHERE resolves IS NULL;
INSERT INTO lot (lot_id, program, account_id, txn_id, parent, issued, remaining, reserved, earned_at)
SELECT lot_id + 1000000000, program, account_id, txn_id, lot_id, 5, 5, 0, now() FROM lot;"""


@pytest.fixture(scope="module")
def conn(databases: Databases, template: str) -> Iterator[Connection]:
    """A ledger of 20,000 members with decisions, holds, lots that moved on, and reversals."""
    with databases.fresh(template) as url, pool(url) as engine:
        fill(engine, Past(20_000, 3))
        with engine.begin() as made:
            for statement in PAST.split(";")[:-1]:
                made.execute(text(statement))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as made:
            made.execute(text("VACUUM ANALYZE"))
            yield made


def asked(many: int) -> list[tuple[str, Mapping[str, object]]]:
    """Each statement with so many keys."""
    numbers = list(range(1, many + 1))
    ids = bigints(numbers)
    by_id: list[tuple[str, Mapping[str, object]]] = [(statement, {"ids": ids}) for statement in BY_ID]
    sources, events = texts(["pos"] * many), texts([f"x-{number}" for number in numbers])
    return [
        (originals._EVENTS, {"sources": sources, "ids": events}),
        (originals._ORDER, {"program": PROGRAM, "order": "o-1"}),
        *by_id,
        (originals._TREES, {"starts": ids}),
        (originals._HOLDERS, {"lots": ids}),
    ]


BY_ID = (
    originals._TXNS,
    originals._PARTIES,
    originals._ENDS,
    originals._REVERSED,
    originals._USED,
    originals._RESTORED,
    originals._GAVE,
    originals._NAMES,
)


def plan(conn: Connection, statement: str, given: Mapping[str, object]) -> str:
    """PostgreSQL's plan for a statement with these values."""
    return "\n".join(row[0] for row in fetch(conn, f"EXPLAIN {statement}", given))


@pytest.mark.parametrize("many", [1, BATCH])
def test_no_table_is_read_whole(conn: Connection, many: int) -> None:
    """However large the ledger, what a reversal costs depends on what it takes back."""
    for statement, given in asked(many):
        told = plan(conn, statement, given)
        for table in ("txn", "entry", "lot", "lot_use", "hold", "hold_lot", "reversal", "decision", "account"):
            assert f"Seq Scan on {table} " not in told, told
