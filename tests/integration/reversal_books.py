"""Books on a real database: a writer that also takes back, refunds, merges, and looks at what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text

from ledger.book import Merge, OrderRefund
from ledger.chain_store import Act, NotedIds, record
from ledger.merge_store import merge
from ledger.programs import load_programs
from ledger.refund_store import refund
from tests.integration.ledger_writer import START_MS, Writer


class Books(Writer):
    """A writer that knows reversals, refunds, merges and pools, each a transaction with its link in the chain."""

    def back(self, event: str, points: int = 0, account: str = "ann", **rest: Any) -> str:
        """Take an event back; the code."""
        return self.move(reverse(event, points, account, **rest))[0].code

    def refund(self, refund_id: str, amount: int, order: str = "o-1") -> str:
        """Refund a part of an order of 1,000; the code."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            asked = OrderRefund(
                id=noted.take(conn, 1)[0],
                program=self.program,
                order=order,
                refund=refund_id,
                amount=amount,
                order_total=1_000,
                occurred_ms=START_MS,
            )
            done = refund(conn, load_programs(conn), noted, asked)
            record(conn, Act("test", "writer", "test.refunded"), noted.taken)
            return done.result.code

    def merge(self, account: str, into: str) -> str:
        """Merge one member into another; the code."""
        with self.engine.begin() as conn:
            noted = NotedIds(self.ids)
            number = noted.take(conn, 1)[0]
            asked = Merge(id=number, program=self.program, account=account, into=into, actor="bea", reason="one person")
            done = merge(conn, load_programs(conn), noted, asked)
            record(conn, Act("merge", "bea", "members.merged"), noted.taken)
            return done.result.code

    def rows(self, query: str, **values: Any) -> Sequence[Row[Any]]:
        """What the database answers."""
        with self.engine.connect() as conn:
            return conn.execute(text(query), values).all()

    def money(self, name: str) -> tuple[int, int, int]:
        """Points posted, set aside and owed of an account."""
        query = """
            SELECT a.posted_cr - a.posted_dr AS posted, a.pending_dr, coalesce(o.posted_dr - o.posted_cr, 0) AS owed
              FROM account a LEFT JOIN account o ON o.account_id = a.arrears_id
             WHERE a.program = :program AND a.kind IN ('member', 'pool') AND a.name = :name"""
        (row,) = self.rows(query, program=self.program, name=name)
        return row.posted, row.pending_dr, row.owed

    def parts(self, event: str) -> list[dict[str, int]]:
        """What reversals took back of an event, and from where."""
        query = """
            SELECT r.* FROM reversal r JOIN txn t ON t.txn_id = r.original_txn WHERE t.event_id = :event
             ORDER BY r.reversal_id"""
        names = ("from_hold", "from_lot", "from_reserved", "from_traced", "from_other", "to_arrears", "forgiven",
                 "restored", "repaid")  # fmt: skip
        return [
            {name: getattr(row, name) for name in names if getattr(row, name)} for row in self.rows(query, event=event)
        ]

    def open_holds(self) -> list[tuple[str, int]]:
        """The open holds' kinds and amounts, oldest first."""
        query = "SELECT kind, amount FROM hold WHERE resolved_at IS NULL ORDER BY hold_id"
        return [(row.kind, row.amount) for row in self.rows(query)]


def reverse(event: str, points: int = 0, account: str = "ann", **rest: Any) -> dict[str, Any]:
    """Arguments of a reverse."""
    return {"kind": "reverse", "account": account, "points": points, "reverses": ("till", event)} | rest
