"""Settlement and reconciliation runs, and the indexes of reports, on the ledger's metadata."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.schema import hold, metadata, moment, txn
from ledger.schema_delivery import decision
from ledger.schema_lots import lot

_GROWS: dict[str, Any] = {
    "postgresql_using": "brin",
    "postgresql_with": {"pages_per_range": 32, "autosummarize": "on"},
}
_MADE_BY = "length(btrim(made_by)) BETWEEN 1 AND 128"

Index("lot_txn_idx", lot.c.txn_id, postgresql_where=text("lot_id <> txn_id"))
Index("hold_peer_idx", hold.c.peer_id, postgresql_where=text("resolved_at IS NULL AND peer_id IS NOT NULL"))
Index("txn_recorded_idx", txn.c.recorded_at, **_GROWS)
Index("decision_occurred_idx", decision.c.occurred_at, **_GROWS)

settlement_run = Table(
    "settlement_run",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    Column("program", Text, ForeignKey("program.program"), nullable=False),
    moment("since"),
    moment("until"),
    moment("follows", nullable=True),
    Column("money", Text, nullable=False),
    Column("unit_value_micros", BigInteger, nullable=False),
    Column("made_by", Text, nullable=False),
    moment("made_at", now=True),
    UniqueConstraint("program", "until", name="settlement_run_until_key"),
    UniqueConstraint("program", "follows", name="settlement_run_follows_key", postgresql_nulls_not_distinct=True),
    ForeignKeyConstraint(
        ["program", "follows"],
        ["settlement_run.program", "settlement_run.until"],
        name="settlement_run_follows_fkey",
    ),
    CheckConstraint("since < until AND (follows IS NULL OR follows = since)", name="period"),
    CheckConstraint("unit_value_micros >= 0", name="value"),
    CheckConstraint(_MADE_BY, name="made_by"),
)

settlement_store = Table(
    "settlement_store",
    metadata,
    Column("run_id", BigInteger, ForeignKey("settlement_run.run_id"), nullable=False),
    Column("store", Text, nullable=False),
    *(Column(name, Numeric, nullable=False) for name in ("issued", "redeemed", "breakage", "cancelled", "balance")),
    PrimaryKeyConstraint("run_id", "store"),
)

settlement_flow = Table(
    "settlement_flow",
    metadata,
    Column("run_id", BigInteger, ForeignKey("settlement_run.run_id"), nullable=False),
    Column("funder", Text, nullable=False),
    Column("redeemer", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("points", Numeric, nullable=False),
    PrimaryKeyConstraint("run_id", "funder", "redeemer", "kind"),
    CheckConstraint("kind IN ('redeemed', 'clawed_back', 'repaid')", name="kind"),
)

settlement_payment = Table(
    "settlement_payment",
    metadata,
    Column("run_id", BigInteger, ForeignKey("settlement_run.run_id"), nullable=False),
    Column("payer", Text, nullable=False),
    Column("payee", Text, nullable=False),
    Column("points", Numeric, nullable=False),
    Column("amount", Numeric, nullable=False),
    PrimaryKeyConstraint("run_id", "payer", "payee"),
    CheckConstraint("payer <> payee", name="parties"),
    CheckConstraint("points > 0 AND amount >= 0", name="amount"),
)

reconciliation_run = Table(
    "reconciliation_run",
    metadata,
    Column("run_id", BigInteger, Identity(), primary_key=True),
    Column("program", Text, ForeignKey("program.program"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    moment("since", nullable=True),
    moment("until"),
    Column("made_by", Text, nullable=False),
    moment("made_at", now=True),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("matched", "missing_here", "missing_there", "differing", "corrected", "repeated", "unreadable")
    ),
    CheckConstraint("kind IN ('events', 'balances')", name="kind"),
    CheckConstraint(_MADE_BY, name="made_by"),
    Index("reconciliation_run_program_idx", "program", "run_id"),
)

reconciliation_finding = Table(
    "reconciliation_finding",
    metadata,
    Column(
        "run_id",
        BigInteger,
        ForeignKey("reconciliation_run.run_id", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    Column("number", Integer, nullable=False),
    Column("found", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("source", Text),
    Column("event_id", Text),
    Column("line", BigInteger),
    Column("their_account", Text),
    Column("their_points", BigInteger),
    Column("our_account", Text),
    Column("our_points", BigInteger),
    PrimaryKeyConstraint("run_id", "number"),
    CheckConstraint(
        "found IN ('missing_here', 'missing_there', 'differing', 'corrected', 'repeated', 'unreadable')", name="found"
    ),
)
