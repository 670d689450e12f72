"""The tables of the ledger proper, as SQLAlchemy metadata.

The migrations under `ledger/migrations` create them and are the truth in production; a test compares the two. Lots,
reversals, merges and pools are in `ledger.schema_lots`, delivery, decisions and models in `ledger.schema_delivery`, on
the same metadata.

Signs: an entry's `amount` is positive for a credit and negative for a debit. Layers: 0 posted, 1 pending (a hold
opens), 2 release (a hold ends; same sign and amount as the pending entry it releases). Each layer of a transaction sums
to zero.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

CONTROLS = ("issued", "redeemed", "expired", "clawback", "adjust")

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

# Hi-lo: whoever takes a value v owns the ids v to v + 999 (ledger.ids.IdBlocks).
decision_seq = Sequence("decision_seq", metadata=metadata, start=1, increment=1000, data_type=BigInteger)


def moment(name: str, *, nullable: bool = False, now: bool = False) -> Column[Any]:
    """Build a timestamptz column; with `now` it defaults to the database's clock."""
    return Column(
        name, DateTime(timezone=True), nullable=nullable, server_default=text("clock_timestamp()") if now else None
    )


def counter(name: str) -> Column[Any]:
    """Build a counter column that starts at zero."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


program = Table(
    "program",
    metadata,
    Column("program", Text, primary_key=True),
    Column("mode", Text, nullable=False),
    moment("clock", nullable=True),
    moment("created_at", now=True),
    Column("terms", JSONB, nullable=False, server_default=text("'{}'")),
    CheckConstraint("mode IN ('live', 'simulation')", name="mode"),
    CheckConstraint("length(program) BETWEEN 1 AND 128", name="name"),
    CheckConstraint("mode = 'simulation' OR clock IS NULL", name="clock"),
)

account = Table(
    "account",
    metadata,
    Column("account_id", BigInteger, Identity(always=True, cache=100), primary_key=True),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    counter("posted_dr"),
    counter("posted_cr"),
    counter("pending_dr"),
    counter("pending_cr"),
    counter("entry_count"),
    Column("arrears_id", BigInteger),
    moment("opened_at"),
    moment("signed_up_at", nullable=True),
    moment("credential_changed_at", nullable=True),
    Column("open_holds", Integer, nullable=False, server_default=text("0")),
    Column("merged_into", BigInteger),
    UniqueConstraint("program", "kind", "name"),
    CheckConstraint("kind IN ('member', 'arrears', 'control', 'pool', 'store')", name="kind"),
    CheckConstraint(
        "posted_dr >= 0 AND posted_cr >= 0 AND pending_dr >= 0 AND pending_cr >= 0 AND entry_count >= 0",
        name="counters",
    ),
    CheckConstraint(
        "kind IN ('control', 'store')"
        " OR (posted_dr <= 9007199254740991 AND posted_cr + pending_cr <= 9007199254740991)",
        name="bounds",  # these two sum up a whole programme or store: ledger.roll keeps them below 2^62
    ),
    CheckConstraint("kind NOT IN ('member', 'pool') OR posted_cr - posted_dr - pending_dr >= 0", name="available"),
    CheckConstraint(
        "kind <> 'arrears' OR (posted_dr - posted_cr >= 0 AND pending_dr = 0 AND pending_cr = 0)", name="arrears"
    ),
    CheckConstraint("arrears_id IS NULL OR kind = 'member'", name="arrears_of"),
    CheckConstraint("open_holds >= 0", name="open_holds"),
    CheckConstraint("merged_into IS NULL OR (kind = 'member' AND merged_into <> account_id)", name="merged_into"),
    postgresql_with={"fillfactor": 75},
)

control_delta = Table(
    "control_delta",
    metadata,
    Column("account_id", BigInteger, nullable=False),
    Column("delta_id", BigInteger, Identity(always=True, cache=100), nullable=False),
    Column("posted_dr", BigInteger, nullable=False),
    Column("posted_cr", BigInteger, nullable=False),
    Column("pending_dr", BigInteger, nullable=False),
    Column("pending_cr", BigInteger, nullable=False),
    PrimaryKeyConstraint("account_id", "delta_id"),
    CheckConstraint("posted_dr >= 0 AND posted_cr >= 0", name="posted"),
)

txn = Table(
    "txn",
    metadata,
    Column("txn_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("source", Text),
    Column("event_id", Text),
    Column("resolves", BigInteger),
    Column("amount", BigInteger, nullable=False),
    Column("pending", Boolean, nullable=False),
    moment("occurred_at"),
    moment("recorded_at"),
    Column("order_id", Text),
    CheckConstraint(
        "kind IN ('earn', 'redeem', 'transfer', 'adjust', 'post', 'void', 'reverse', 'expire', 'merge')", name="kind"
    ),
    CheckConstraint("(kind IN ('post', 'void')) = (resolves IS NOT NULL)", name="resolves"),
    CheckConstraint("(resolves IS NULL) = (source IS NOT NULL AND event_id IS NOT NULL)", name="cause"),
    CheckConstraint("amount <> 0 AND amount BETWEEN -9007199254740991 AND 9007199254740991", name="amount"),
    Index("txn_resolves_key", "resolves", unique=True, postgresql_where=text("resolves IS NOT NULL")),
    Index("txn_order_idx", "program", "order_id", postgresql_where=text("order_id IS NOT NULL")),
)

entry = Table(
    "entry",
    metadata,
    Column("txn_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("account_seq", BigInteger),
    Column("leg", SmallInteger, nullable=False),
    Column("layer", SmallInteger, nullable=False),
    PrimaryKeyConstraint("txn_id", "leg"),
    CheckConstraint("amount <> 0 AND amount BETWEEN -9007199254740991 AND 9007199254740991", name="amount"),
    CheckConstraint("layer BETWEEN 0 AND 2 AND leg >= 0", name="layer"),
    Index(
        "entry_account_id_account_seq_key",
        "account_id",
        "account_seq",
        unique=True,
        postgresql_where=text("account_seq IS NOT NULL"),
    ),
)

hold = Table(
    "hold",
    metadata,
    Column("hold_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("account_id", BigInteger, nullable=False),
    Column("peer_id", BigInteger),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    moment("opened_at"),
    moment("due_at", nullable=True),
    Column("on_timeout", Text, nullable=False),
    moment("resolved_at", nullable=True),
    Column("replaces", BigInteger),
    moment("expires_at", nullable=True),
    Column("store", Text),
    Column("order_id", Text),
    CheckConstraint("kind IN ('earn', 'redeem', 'transfer', 'adjust')", name="kind"),
    CheckConstraint("(kind = 'transfer') = (peer_id IS NOT NULL)", name="peer"),
    CheckConstraint("amount > 0 OR (kind = 'adjust' AND amount < 0)", name="amount"),
    CheckConstraint("on_timeout IN ('void', 'post', 'escalate')", name="on_timeout"),
    Index("hold_open_idx", "program", "opened_at", "hold_id", postgresql_where=text("resolved_at IS NULL")),
    Index("hold_account_idx", "account_id", postgresql_where=text("resolved_at IS NULL")),
    Index("hold_due_idx", "due_at", postgresql_where=text("resolved_at IS NULL AND due_at IS NOT NULL")),
    Index("hold_replaces_key", "replaces", unique=True, postgresql_where=text("replaces IS NOT NULL")),
)

review_decision = Table(
    "review_decision",
    metadata,
    Column("decision_id", BigInteger, primary_key=True, autoincrement=False),
    Column("hold_id", BigInteger, ForeignKey("hold.hold_id"), nullable=False, index=True),
    Column("verdict", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    moment("decided_at"),
    moment("effective_at"),
    CheckConstraint("verdict IN ('post', 'void', 'escalate')", name="verdict"),
    CheckConstraint("length(actor) BETWEEN 1 AND 128", name="actor"),
)

hold_resolution = Table(
    "hold_resolution",
    metadata,
    Column("hold_id", BigInteger, ForeignKey("hold.hold_id"), primary_key=True, autoincrement=False),
    Column("verdict", Text, nullable=False),
    Column("decision_id", BigInteger, ForeignKey("review_decision.decision_id"), nullable=False, unique=True),
    moment("resolved_at"),
    Column("posted", BigInteger, nullable=False),
    CheckConstraint("verdict IN ('post', 'void')", name="verdict"),
    CheckConstraint("posted >= 0 AND (posted > 0) = (verdict = 'post')", name="posted"),
)
