"""Which rows the audit chain covers, read back from their tables in canonical form.

Every row hangs on an id that the writing transaction took. A row's canonical form is a tuple of its immutable columns
in the order written here, times as microseconds since 1970; several rows of one id come sorted. What is changed in
place (balances, what remains of a lot, whether a hold is open) is not covered: `verify` replays it from what is. Not
covered either are a decision's pseudonyms of address prefix and payment token: only velocity is rebuilt from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from psycopg import Connection as DriverConnection
from sqlalchemy import Connection

from ledger.chain import Row

CHUNK = 20_000
"""So many ids are read at a time."""


class Covered(NamedTuple):
    """A table: the column with the covering id, the columns covered, and whether an id may have several rows."""

    table: str
    key: str
    columns: tuple[str, ...]
    several: bool = False

    @property
    def statement(self) -> str:
        """What reads the rows of a range of ids: the id, then the canonical columns."""
        return (
            f"SELECT {self.key}, {', '.join(self.columns)} FROM {self.table}"  # noqa: S608 -- made of this module's constants only
            f" WHERE {self.key} > %(low)s AND {self.key} <= %(high)s"
        )


def _at(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


COVERED = (
    Covered(
        "decision",
        "decision_id",
        (
            *("source", "event_id", "program", "account", "type", "points", "outcome", "code", "suspicious", "score"),
            *("features", "features_version", "convert_to(event::text, 'UTF8')", "convert_to(reasons::text, 'UTF8')"),
            *("policy_version", "model_version", "device", "ip"),
            *(_at("occurred_at"), _at("observed_at"), _at("decided_at"), "log_id", "topic", "part", '"offset"'),
        ),
    ),
    Covered(
        "txn",
        "txn_id",
        (
            *("program", "kind", "source", "event_id", "resolves", "amount", "pending"),
            *(_at("occurred_at"), _at("recorded_at"), "order_id"),
        ),
    ),
    Covered("entry", "txn_id", ("leg", "account_id", "amount", "coalesce(account_seq, 0)", "layer"), several=True),
    Covered(
        "lot",
        "lot_id",
        ("program", "account_id", "txn_id", "parent", "issued", _at("earned_at"), _at("expires_at"), "store"),
    ),
    Covered("lot_use", "txn_id", ("lot_id", "action", "amount"), several=True),
    Covered(
        "hold",
        "hold_id",
        (
            *("program", "account_id", "peer_id", "kind", "amount", _at("opened_at"), "on_timeout", "replaces"),
            *(_at("expires_at"), "store", "order_id"),
        ),
    ),
    Covered("hold_lot", "hold_id", ("lot_id", "amount"), several=True),
    Covered(
        "review_decision",
        "decision_id",
        ("hold_id", "verdict", "actor", "reason", _at("decided_at"), _at("effective_at")),
    ),
    Covered("hold_resolution", "decision_id", ("hold_id", "verdict", "posted", _at("resolved_at"))),
    Covered(
        "reversal",
        "reversal_id",
        (
            *("program", "original_txn", "points", "from_hold", "from_lot", "from_reserved", "from_traced"),
            *("from_other", "to_arrears", "forgiven", "restored", "repaid", "order_id", "refund_id"),
            _at("recorded_at"),
        ),
    ),
    Covered("account_merge", "merge_id", ("program", "from_id", "into_id", "actor", "reason", _at("at"))),
    Covered(
        "adjustment",
        "adjustment_id",
        (
            *("program", "account", "points", "reason_code", "reason", _at("expires_at"), "reference", "maker"),
            *(_at("made_at"), "limit_points"),
        ),
    ),
    Covered(
        "import_job",
        "job_id",
        (
            *("program", "kind", "system", "label", "digest", "file_name", "options", "reason_code", "reason"),
            *("maker", _at("made_at"), "limit_points"),
        ),
    ),
)
"""The covered tables, in the order in which a leaf holds them. A change here is a new `ledger.chain.FORM`."""

IDS = " UNION ALL ".join(f"SELECT {covered.key} AS id FROM {covered.table}" for covered in COVERED)  # noqa: S608 -- made of constants only
"""A query of the ids of all covered rows."""


def read(conn: Connection, low: int, high: int) -> list[dict[int, Any]]:
    """The rows whose id lies in (low, high], one mapping a table in the order of `COVERED`."""
    return [_read(conn, covered, low, high) for covered in COVERED]


def _read(conn: Connection, covered: Covered, low: int, high: int) -> dict[int, Any]:
    # The driver's own cursor, for its binary results: half of what text costs, and a verification reads everything.
    with _driver(conn).cursor(binary=True) as cursor:
        rows = cursor.execute(covered.statement, {"low": low, "high": high}).fetchall()
    if not covered.several:
        return {row[0]: row[1:] for row in rows}
    return gather((row[0], row[1:]) for row in rows)


def _driver(conn: Connection) -> DriverConnection[tuple[Any, ...]]:
    connection: DriverConnection[tuple[Any, ...]] = conn.connection.driver_connection  # type: ignore[assignment]  # typed as anything's
    return connection


def gather(rows: Iterable[tuple[int, Row]]) -> dict[int, list[Row]]:
    """Several rows an id, sorted."""
    found: dict[int, list[Row]] = {}
    for one, row in rows:
        found.setdefault(one, []).append(row)
    for several in found.values():
        several.sort()
    return found
