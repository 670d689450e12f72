"""The tables of the audit chain and of verification, on the ledger's metadata."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from ledger.schema import metadata, moment

# One row a transaction that wrote to the ledger: `ledger.chain` says what is in it.
audit_link = Table(
    "audit_link",
    metadata,
    Column("chain", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("entry", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("marks", LargeBinary, nullable=False),
    Column("first_id", BigInteger),
    Column("last_id", BigInteger),
    PrimaryKeyConstraint("chain", "seq"),
    CheckConstraint("seq > 0", name="seq"),
    CheckConstraint("length(hash) = 32", name="hash"),
    CheckConstraint("(first_id IS NULL) = (last_id IS NULL) AND first_id <= last_id", name="ids"),
    Index("audit_link_last_id_idx", "last_id", postgresql_where=text("last_id IS NOT NULL")),
)

# Our own copy of what was published; the copies elsewhere are the ones that prove something.
audit_anchor = Table(
    "audit_anchor",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    moment("at"),
    Column("signed", Text, nullable=False),
    CheckConstraint("number > 0", name="number"),
)

# What the last clean run of verify had reached: of each chain, and of each account.
verified_chain = Table(
    "verified_chain",
    metadata,
    Column("chain", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

verified_account = Table(
    "verified_account",
    metadata,
    Column("account_id", BigInteger, primary_key=True, autoincrement=False),
    Column("posted_dr", Numeric, nullable=False),
    Column("posted_cr", Numeric, nullable=False),
    Column("pending_dr", Numeric, nullable=False),
    Column("pending_cr", Numeric, nullable=False),
    Column("entry_count", BigInteger, nullable=False),
    postgresql_with={"fillfactor": 75},
)

verify_run = Table(
    "verify_run",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    moment("at", now=True),
    Column("whole", Boolean, nullable=False),
    Column("highest", BigInteger, nullable=False),
    Column("checked", JSON, nullable=False),
)
