"""Query plans of every hot statement, on tables of 10⁶ rows: each comes by an index, none reads a large table through.

The statements are not listed here: whatever the ledger sends while it does one of everything is explained again, with
the values it was sent with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, func, select, table

from bench.ledger_fill import PROGRAM, Past, fill
from ledger import queries, statements
from ledger.book import Merge, OrderRefund, Resolution
from ledger.book_postgres import PostgresLedger
from ledger.movement import Movement
from tests.services import Databases

PAST = Past(members=170_000, pairs=5)
LARGE = {"txn": 1_000_000, "entry": 1_000_000, "lot": 1_000_000, "lot_use": 800_000, "account": 170_000}
NOW_MS = 1_800_000_000_000
LIKE_A_WRITE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


@pytest.fixture(scope="module")
def engine(databases: Databases, template: str) -> Iterator[Engine]:
    """Lend a pool on a ledger with a long past, the same for all tests here."""
    with databases.fresh(template) as url:
        made = create_engine(url)
        fill(made, PAST)
        yield made
        made.dispose()


class Sent:
    """The distinct statements that went to the database, with the values of the first time."""

    def __init__(self) -> None:
        self.statements: dict[str, Any] = {}

    def note(self, _conn: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        """Keep a statement."""
        if statement.lstrip().upper().startswith(LIKE_A_WRITE):
            self.statements.setdefault(statement, parameters)


@contextmanager
def watched(engine: Engine) -> Iterator[Sent]:
    """Note what is sent meanwhile."""
    sent = Sent()
    event.listen(engine, "before_cursor_execute", sent.note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", sent.note)


def through(node: dict[str, Any]) -> Iterator[str]:
    """The large tables that a plan reads from end to end."""
    if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in LARGE:
        yield f"{node['Relation Name']} ({node['Plan Rows']} rows)"
    for inner in node.get("Plans", ()):
        yield from through(inner)


def read_through(engine: Engine, sent: Sent) -> dict[str, list[str]]:
    """The statements that read a large table from end to end, and which."""
    found = {}
    with engine.connect() as conn:
        for statement, parameters in sent.statements.items():
            plan = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            if tables := list(through(plan[0]["Plan"])):
                found[statement] = tables
        conn.rollback()
    return found


def movements(ledger: PostgresLedger, *asked: dict[str, Any]) -> list[Movement]:
    """Movements of the programme, with ids of their own."""
    usual: dict[str, Any] = {"program": PROGRAM, "verdict": "post", "source": "till", "occurred_ms": NOW_MS}
    ids = ledger.take_ids(len(asked))
    return [Movement(**(usual | {"id": n, "event_id": f"e{n}"} | one)) for n, one in zip(ids, asked, strict=True)]


def everything(ledger: PostgresLedger) -> None:
    """Do one of everything that events, people and jobs ask of the ledger."""
    ordinary = [{"kind": "earn", "account": f"m{n}", "points": 5} for n in range(100)]
    ordinary += [{"kind": "redeem", "account": f"m{n}", "points": 7} for n in range(50, 150)]
    ordinary += [{"kind": "transfer", "account": f"m{n}", "to": f"m{n + 500}", "points": 9} for n in range(20)]
    ordinary += [{"kind": "redeem", "account": "m900", "points": 2_000_000, "fact": True}]
    assert {result.code for result in ledger.post(movements(ledger, *ordinary))} == {"posted"}
    bought, spent, gift = movements(
        ledger,
        {"kind": "earn", "account": "m700", "points": 30, "order": "o1"},
        {"kind": "redeem", "account": "m701", "points": 20},
        {"kind": "transfer", "account": "m702", "to": "m703", "points": 10},
    )
    held = movements(
        ledger,
        {"kind": "earn", "account": "m710", "points": 30, "verdict": "hold"},
        {"kind": "redeem", "account": "m711", "points": 20, "verdict": "hold", "due_seconds": 60},
    )
    ledger.post([bought, spent, gift, *held])
    undo = [
        {"kind": "reverse", "account": one.account, "points": 5, "reverses": ("till", one.event_id)}
        for one in (bought, spent, gift)
    ]
    assert {result.code for result in ledger.post(movements(ledger, *undo))} == {"posted"}
    refund_id, merge_id = ledger.take_ids(2)
    ledger.refund(
        OrderRefund(
            id=refund_id, program=PROGRAM, order="o1", refund="r1", amount=50, order_total=100, occurred_ms=NOW_MS
        )
    )
    in_part, voided = Resolution(held[0].id, "post", "ann", "part", 20), Resolution(held[1].id, "void", "ann", "no")
    ledger.resolve([in_part, voided])
    ledger.time_out(PROGRAM)
    ledger.expire(PROGRAM)
    ledger.join_pool(PROGRAM, "family", "m720")
    ledger.merge(Merge(id=merge_id, program=PROGRAM, account="m721", into="m722", actor="ann", reason="twice"))


def reads(conn: Connection) -> list[Callable[[], object]]:
    """What people look at, account by account."""
    return [
        lambda: queries.balance(conn, PROGRAM, "m700"),
        lambda: queries.balance(conn, PROGRAM, "m700", NOW_MS),
        lambda: queries.lots(conn, PROGRAM, "m700"),
        lambda: queries.open_holds(conn, queries.HoldFilter(program=PROGRAM)),
        lambda: queries.open_holds(conn, queries.HoldFilter(program=PROGRAM, account="m711")),
        lambda: statements.statement(conn, PROGRAM, "m700"),
        lambda: queries.expiring_days(conn, PROGRAM, NOW_MS, UTC),
    ]


def test_the_past_is_large(engine: Engine) -> None:
    """What follows would prove nothing on small tables."""
    with engine.connect() as conn:
        counts = {name: conn.execute(select(func.count()).select_from(table(name))).scalar_one() for name in LARGE}
    assert all(counts[name] >= least for name, least in LARGE.items()), counts


def test_writes_come_by_an_index(engine: Engine) -> None:
    """Batches, reversals, refunds, resolutions, time-outs, expiry, pools and merges."""
    with watched(engine) as sent:
        everything(PostgresLedger(engine))
    assert len(sent.statements) > 30
    assert read_through(engine, sent) == {}


def test_a_statement_without_an_index_is_told(engine: Engine) -> None:
    """The check can fail: nothing finds a transaction by its amount."""
    with watched(engine) as sent, engine.connect() as conn:
        conn.exec_driver_sql("WITH found AS MATERIALIZED (SELECT * FROM txn WHERE amount = 17) SELECT * FROM found")
    assert len(read_through(engine, sent)) == 1


def test_reads_come_by_an_index(engine: Engine) -> None:
    """Balances now and then, lots, holds, statements, reminders."""
    with watched(engine) as sent, engine.connect() as conn:
        for read in reads(conn):
            read()
    assert len(sent.statements) > 10
    assert read_through(engine, sent) == {}
