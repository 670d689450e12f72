"""Reads what flowed between stores in a period, and settles periods, each once.

A run may end at any moment of the past that no earlier run covers, and begins where the last one ended. Before it
reads, it waits until whoever is writing has committed or gone, so that nothing is added to a settled period.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Table, insert, select, text
from sqlalchemy.exc import IntegrityError

from ledger.chain_store import Act, record
from ledger.clearing import Flow, Payment, Settlement, StorePeriod, net
from ledger.history import epoch_ms, moment
from ledger.liability import Valuation
from ledger.liability_store import value_of
from ledger.programs import ledger_now, load_programs
from ledger.schema_reports import settlement_flow, settlement_payment, settlement_run, settlement_store
from ledger.terms import Terms

CHAIN = "settlement"
_WAIT_SECONDS = 60.0


class SettlementError(Exception):
    """A period can't be settled as asked. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class Run:
    """A settlement run that was made: its period, and by whom and when."""

    run_id: int
    program: str
    since: datetime
    until: datetime
    made_by: str
    made_at: datetime


# `span`: the period's transactions, each with the kind that counts (a post: its hold's; a reversed adjust: adjust), and
# the `store` it debits or credits, if not the programme. What a transaction took out of lots, less what it gave back
# and the lots it made by moving or returning points, was funded by the lots' stores; what it lent to a member, by the
# programme. Points that repay a debt are owed to the programme, whoever else the transaction concerns.
_FLOWS = text("""
WITH span AS MATERIALIZED (
    SELECT t.txn_id, t.kind = 'reverse' AS taken_back,
           CASE WHEN o.kind = 'adjust' THEN 'adjust' ELSE coalesce(h.kind, t.kind) END AS kind
      FROM txn t
      LEFT JOIN hold h ON h.hold_id = t.resolves
      LEFT JOIN reversal v ON v.reversal_id = t.txn_id
      LEFT JOIN txn o ON o.txn_id = v.original_txn
     WHERE t.program = :program AND t.recorded_at >= to_timestamp(CAST(:since_ms AS bigint) / 1000.0)
       AND t.recorded_at < to_timestamp(CAST(:until_ms AS bigint) / 1000.0)),
store AS (
    SELECT e.txn_id, a.name FROM span JOIN entry e USING (txn_id) JOIN account a USING (account_id)
     WHERE e.layer = 0 AND a.kind = 'store'),
part AS (
    SELECT u.txn_id, coalesce(l.store, '') AS funder,
           CASE u.action WHEN 'repay' THEN 0 WHEN 'restore' THEN -u.amount ELSE u.amount END AS points,
           CASE u.action WHEN 'repay' THEN u.amount ELSE 0 END AS repaid
      FROM span JOIN lot_use u USING (txn_id) JOIN lot l USING (lot_id)
    UNION ALL
    SELECT s.txn_id, coalesce(l.store, ''), -l.issued, 0
      FROM span s JOIN lot l ON l.lot_id = s.txn_id
     WHERE l.parent IS NOT NULL OR s.taken_back OR s.kind IN ('transfer', 'merge')
    UNION ALL
    SELECT s.txn_id, coalesce(l.store, ''), -l.issued, 0
      FROM span s JOIN lot l ON l.txn_id = s.txn_id AND l.lot_id <> l.txn_id
     WHERE l.parent IS NOT NULL OR s.taken_back OR s.kind IN ('transfer', 'merge')
    UNION ALL
    SELECT e.txn_id, '', -e.amount, 0
      FROM span JOIN entry e USING (txn_id) JOIN account a USING (account_id)
     WHERE e.layer = 0 AND a.kind = 'arrears'
    UNION ALL
    SELECT txn_id, '', u.amount, 0 FROM span JOIN lot_use u USING (txn_id) WHERE u.action = 'repay'),
total AS (
    SELECT txn_id, funder, sum(points) AS points, sum(repaid) AS repaid,
           sum(sum(points)) OVER (PARTITION BY txn_id) AS in_all
      FROM part GROUP BY txn_id, funder),
told AS (
    SELECT t.funder, coalesce(s.name, '') AS party, t.points, t.repaid,
           CASE WHEN p.kind = 'expire' THEN 'breakage' WHEN p.kind = 'adjust' THEN 'cancelled'
                WHEN p.kind IN ('earn', 'transfer', 'merge') OR (p.taken_back AND t.in_all = 0) THEN 'repaid'
                WHEN p.taken_back AND t.in_all > 0 THEN 'clawed_back' ELSE 'redeemed' END AS kind
      FROM total t JOIN span p USING (txn_id) LEFT JOIN store s USING (txn_id))
SELECT funder, party, kind, sum(points) AS points
  FROM (SELECT funder, party, kind, points FROM told
        UNION ALL
        SELECT funder, '', 'repaid', repaid FROM told) flow
 GROUP BY funder, party, kind HAVING sum(points) <> 0 ORDER BY funder, party, kind""")

# The entries of stores' accounts have no index of their own: those of the period, and those since its end, are found by
# time; the rest of a balance is in the account and in the tail that nobody has rolled up yet.
_STORES = text("""
WITH moved AS (
    SELECT e.account_id, e.amount, t.recorded_at >= to_timestamp(CAST(:until_ms AS bigint) / 1000.0) AS after,
           coalesce(h.kind, t.kind) = 'earn' OR (t.kind = 'reverse' AND e.amount > 0) AS issue
      FROM txn t JOIN entry e USING (txn_id) JOIN account a USING (account_id)
      LEFT JOIN hold h ON h.hold_id = t.resolves
     WHERE t.program = :program AND t.recorded_at >= to_timestamp(CAST(:since_ms AS bigint) / 1000.0)
       AND e.layer = 0 AND a.kind = 'store'),
summed AS (
    SELECT account_id, sum(amount) FILTER (WHERE NOT after AND issue) AS issued,
           sum(amount) FILTER (WHERE NOT after AND NOT issue) AS redeemed, sum(amount) FILTER (WHERE after) AS after
      FROM moved GROUP BY account_id),
tail AS (SELECT account_id, sum(posted_cr - posted_dr) AS points FROM control_delta GROUP BY account_id)
SELECT a.name, -coalesce(s.issued, 0) AS issued, coalesce(s.redeemed, 0) AS redeemed,
       a.posted_cr - a.posted_dr + coalesce(d.points, 0) - coalesce(s.after, 0) AS balance
  FROM account a LEFT JOIN summed s USING (account_id) LEFT JOIN tail d USING (account_id)
 WHERE a.program = :program AND a.kind = 'store' ORDER BY a.name""")

_LAST = text("SELECT max(until) FROM settlement_run WHERE program = :program")
_RUNS = text("""
SELECT run_id, program, since, until, made_by, made_at FROM settlement_run
 WHERE program = :program ORDER BY until DESC LIMIT :most""")
_RUN = text("SELECT program, since, until, money, unit_value_micros FROM settlement_run WHERE run_id = :run_id")
_OURS = text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
_OLDEST = text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


def settlement(conn: Connection, program: str, terms: Terms, since_ms: int, until_ms: int) -> Settlement:
    """Read what flowed between stores from `since_ms` up to, not including, `until_ms`, netted and valued by `terms`.

    SettlementError for a programme that funds its points itself. Give a REPEATABLE READ transaction for a period that
    is not over yet.
    """
    if terms.funding != "store":
        raise SettlementError(
            f"programme {program!r} funds its points itself: stores owe each other nothing; see `funding` in its terms"
        )
    asked = {"program": program, "since_ms": since_ms, "until_ms": until_ms}
    flows: list[Flow] = []
    kept: dict[tuple[str, str], int] = {}
    for row in conn.execute(_FLOWS, asked):
        if row.kind in {"breakage", "cancelled"}:
            kept[row.funder, row.kind] = kept.get((row.funder, row.kind), 0) + int(row.points)
        else:
            flows.append(Flow(row.funder, row.party, row.kind, int(row.points)))
    stores = tuple(
        StorePeriod(
            row.name,
            int(row.issued),
            int(row.redeemed),
            kept.get((row.name, "breakage"), 0),
            kept.get((row.name, "cancelled"), 0),
            int(row.balance),
        )
        for row in conn.execute(_STORES, asked)
    )
    value = value_of(terms)
    return Settlement(program, moment(since_ms), moment(until_ms), value, stores, tuple(flows), net(flows, value))


def settle(conn: Connection, program: str, until_ms: int, made_by: str) -> tuple[Run, Settlement]:
    """Settle what no run has settled yet, up to `until_ms`, and record it; the caller commits.

    Needs a READ COMMITTED transaction that has written nothing so far: it waits for the writers of before. Ends with a
    link of the audit chain. SettlementError where there is nothing to settle, or somebody was faster.
    """
    programs = load_programs(conn, [program])
    if program not in programs:
        raise SettlementError(f"there is no programme {program!r}; see `pointguard program list`")
    if until_ms > ledger_now(conn, [program])[program]:
        raise SettlementError("the period is not over by the programme's ledger clock; settle it when it is")
    _wait_for_writers(conn)
    last = conn.execute(_LAST, {"program": program}).scalar_one()
    since_ms = 0 if last is None else epoch_ms(last)
    if until_ms <= since_ms:
        raise SettlementError(f"all up to {moment(since_ms):%Y-%m-%d %H:%M} is settled already; give a later end")
    made = settlement(conn, program, programs[program].terms, since_ms, until_ms)
    if not (made.sums_to_zero and made.is_traced):
        raise SettlementError("the settlement does not add up; run `pointguard verify`, and report this")
    return _record(conn, made, last, made_by), made


def runs(conn: Connection, program: str, most: int = 100) -> list[Run]:
    """List a programme's settlement runs, the latest first."""
    return [Run(*row) for row in conn.execute(_RUNS, {"program": program, "most": most})]


def find_run(conn: Connection, run_id: int) -> Settlement | None:
    """Read a settlement as it was recorded; None if there is no run of that id."""
    row = conn.execute(_RUN, {"run_id": run_id}).one_or_none()
    if row is None:
        return None
    return Settlement(
        row.program,
        row.since,
        row.until,
        Valuation(row.money, row.unit_value_micros),
        tuple(StorePeriod(**one) for one in _read(conn, settlement_store, run_id)),
        tuple(Flow(**one) for one in _read(conn, settlement_flow, run_id)),
        tuple(Payment(**one) for one in _read(conn, settlement_payment, run_id)),
    )


def _read(conn: Connection, table: Table, run_id: int) -> list[dict[str, Any]]:
    """A run's rows in the order of their key, as keyword arguments; sums come as Decimal, which are integers here."""
    found = select(table).where(table.c.run_id == run_id).order_by(*table.primary_key.columns)
    return [
        {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items() if name != "run_id"}
        for row in conn.execute(found).mappings()
    ]


def _wait_for_writers(conn: Connection) -> None:
    """Wait until every transaction that is writing now has ended: until none is older than ours.

    What begins to write later is recorded later: it asks for the time behind its first lock, which is a write.
    """
    ours: int = conn.execute(_OURS).scalar_one()
    deadline = time.monotonic() + _WAIT_SECONDS
    while conn.execute(_OLDEST).scalar_one() < ours:
        if time.monotonic() > deadline:
            raise SettlementError(
                f"a transaction has been writing for {_WAIT_SECONDS:.0f} s; end it (pg_stat_activity), then settle"
            )
        time.sleep(0.02)


def _record(conn: Connection, made: Settlement, last: datetime | None, made_by: str) -> Run:
    row = {
        "program": made.program,
        "since": made.since,
        "until": made.until,
        "follows": last,
        "money": made.value.money,
        "unit_value_micros": made.value.unit_value_micros,
        "made_by": made_by,
    }
    written = insert(settlement_run).values(row).returning(settlement_run.c.run_id, settlement_run.c.made_at)
    try:
        run_id, made_at = conn.execute(written).one()
    except IntegrityError as error:
        raise SettlementError(
            "somebody else has just settled a period of this programme; see `clearing runs`"
        ) from error
    for table, rows in (
        (settlement_store, made.stores),
        (settlement_flow, made.flows),
        (settlement_payment, made.payments),
    ):
        values = [{"run_id": run_id} | asdict(one) for one in rows]
        if values:
            conn.execute(insert(table), values)
    told: Mapping[str, Any] = {
        "program": made.program,
        "run": run_id,
        "since": epoch_ms(made.since),
        "until": epoch_ms(made.until),
        "unit_value_micros": made.value.unit_value_micros,
        "payments": [[one.payer, one.payee, one.points, one.amount] for one in made.payments],
    }
    record(conn, Act(CHAIN, made_by, "settlement.made", told))
    return Run(run_id, made.program, made.since, made.until, made_by, made_at)
