"""Refunds of orders on PostgreSQL: each is done once, however often it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledger.book import OrderRefund
from ledger.ids import IdBlocks
from ledger.movement import Code, Result
from ledger.originals import Found, find_order, read_origins
from ledger.plan import Plan
from ledger.programs import Program, ledger_now
from ledger.reach import completed, lock_reach
from ledger.refunds import plan_refund
from ledger.store import write

_KNOWN = text("""
SELECT refund_id, amount FROM order_refund WHERE program = :program AND order_id = :order""")

_RECORD = text("""
INSERT INTO order_refund (program, order_id, refund_id, amount, order_total, recorded_at)
VALUES (:program, :order, :refund, :amount, :order_total, to_timestamp(CAST(:now AS bigint) / 1000.0))""")


class Refunded(NamedTuple):
    """What became of a refund, and what was written for it."""

    result: Result
    plan: Plan


def refund(conn: Connection, programs: Mapping[str, Program], ids: IdBlocks, refund: OrderRefund) -> Refunded:
    """Take back, and give back, an order's points in proportion to the money refunded so far.

    Must run in a READ COMMITTED transaction, which the caller commits. A refund that is known is a `duplicate`,
    whatever it says now; one of an order without movements is `unknown_original` and not remembered, so it may be told
    again when these have come. The locks of the order's accounts are the lock of its refunds.
    """
    if refund.amount <= 0 or refund.order_total <= 0:
        return _refused("points_out_of_range")

    def read() -> Collection[Found]:
        return read_origins(conn, find_order(conn, refund.program, refund.order)).values()

    accounts = lock_reach(conn, programs, {}, read)
    found = [one for one in read() if one.origin.amount and one.keys <= accounts.members.keys()]
    if not found:
        return _refused("unknown_original")
    asked = {"program": refund.program, "order": refund.order}
    known = {row.refund_id: row.amount for row in conn.execute(_KNOWN, asked)}
    if refund.refund in known:
        return _refused("duplicate")
    now = ledger_now(conn, [refund.program])
    step = {"refund": refund.refund, "amount": refund.amount, "order_total": refund.order_total}
    conn.execute(_RECORD, {**asked, **step, "now": now[refund.program]})
    accounts = completed(conn, accounts, found, now)
    accounts = replace(accounts, origins={("", str(one.origin.root)): one.origin for one in found})
    planned = plan_refund(accounts, refund, sum(known.values()) + refund.amount, now, ids.stream(conn))
    return Refunded(planned.results[0], write(conn, planned, now))


def _refused(code: Code) -> Refunded:
    return Refunded(Result(code, 0, 0), Plan())
