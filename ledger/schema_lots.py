"""Lots and what became of them, reversals and refunds, merges and pools, on the ledger's metadata.

A lot is points that came in together and expire together. `issued - remaining` is what `lot_use` took of it, less what
was restored; `reserved` is what open holds (`hold_lot`) have set aside of what remains.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.schema import metadata, moment

BEFORE_LOTS = 0
"""The `txn_id` of opening lots: balances from before there were lots."""

_PARTS = (
    "from_hold",
    "from_lot",
    "from_reserved",
    "from_traced",
    "from_other",
    "to_arrears",
    "forgiven",
    "restored",
    "repaid",
)

lot = Table(
    "lot",
    metadata,
    Column("lot_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("txn_id", BigInteger, nullable=False),
    Column("parent", BigInteger),
    Column("issued", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    moment("earned_at"),
    moment("expires_at", nullable=True),
    Column("store", Text),
    Column("open", Boolean, Computed("remaining > 0", persisted=True), nullable=False),
    CheckConstraint("0 <= reserved AND reserved <= remaining AND remaining <= issued", name="amounts"),
    CheckConstraint("issued BETWEEN 1 AND 9007199254740991", name="issued"),
    CheckConstraint("parent <> lot_id", name="parent"),
    Index("lot_open_idx", "account_id", "expires_at", "earned_at", "lot_id", postgresql_where=text("open")),
    Index("lot_due_idx", "program", "expires_at", postgresql_where=text("open AND expires_at IS NOT NULL")),
    Index("lot_parent_idx", "parent", postgresql_where=text("parent IS NOT NULL")),
    postgresql_with={"fillfactor": 75},
)

lot_use = Table(
    "lot_use",
    metadata,
    Column("txn_id", BigInteger, nullable=False),
    Column("lot_id", BigInteger, nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    PrimaryKeyConstraint("txn_id", "lot_id", "action"),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("action IN ('debit', 'transfer', 'expire', 'clawback', 'repay', 'restore')", name="action"),
)

hold_lot = Table(
    "hold_lot",
    metadata,
    Column("hold_id", BigInteger, nullable=False),
    Column("lot_id", BigInteger, nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("hold_id", "lot_id"),
    CheckConstraint("amount > 0", name="amount"),
)

lots_since = Table("lots_since", metadata, Column("first_id", BigInteger, primary_key=True, autoincrement=False))

reversal = Table(
    "reversal",
    metadata,
    Column("reversal_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("original_txn", BigInteger, nullable=False, index=True),
    Column("points", BigInteger, nullable=False),
    *[Column(part, BigInteger, nullable=False) for part in _PARTS],
    Column("order_id", Text),
    Column("refund_id", Text),
    moment("recorded_at"),
    CheckConstraint("points > 0", name="points"),
    CheckConstraint(
        f"{' AND '.join(f'{part} >= 0' for part in _PARTS)} AND points = {' + '.join(_PARTS)}", name="parts"
    ),
    CheckConstraint("refund_id IS NULL OR order_id IS NOT NULL", name="refund"),
)

order_refund = Table(
    "order_refund",
    metadata,
    Column("program", Text, nullable=False),
    Column("order_id", Text, nullable=False),
    Column("refund_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("order_total", BigInteger, nullable=False),
    moment("recorded_at"),
    PrimaryKeyConstraint("program", "order_id", "refund_id"),
    CheckConstraint("amount > 0", name="amount"),
    CheckConstraint("order_total > 0", name="order_total"),
)

account_merge = Table(
    "account_merge",
    metadata,
    Column("merge_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("from_id", BigInteger, nullable=False),
    Column("into_id", BigInteger, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    moment("at"),
    UniqueConstraint("from_id"),
    CheckConstraint("from_id <> into_id", name="apart"),
    CheckConstraint("length(actor) BETWEEN 1 AND 128", name="actor"),
)

pool_member = Table(
    "pool_member",
    metadata,
    Column("pool_id", BigInteger, nullable=False),
    Column("member_id", BigInteger, nullable=False, index=True),
    moment("since"),
    moment("until", nullable=True),
    Column("added_by", Text, nullable=False),
    PrimaryKeyConstraint("pool_id", "member_id", "since"),
    CheckConstraint("until >= since", name="until"),
    CheckConstraint("length(added_by) BETWEEN 1 AND 128", name="added_by"),
    Index("pool_member_now_key", "pool_id", "member_id", unique=True, postgresql_where=text("until IS NULL")),
)
