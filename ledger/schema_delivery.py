"""The tables around the ledger, on the same metadata: delivery, decisions, policies, labels and models.

Their rows are written by `streams`; only their shape is kept here, so that one migration history covers the database.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.schema import metadata, moment

decision = Table(
    "decision",
    metadata,
    Column("decision_id", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("program", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("points", BigInteger),
    Column("outcome", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("suspicious", Boolean, nullable=False, server_default=text("false")),
    Column("score", Double),
    Column("features", LargeBinary),
    Column("features_version", Text),
    Column("event", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("policy_version", BigInteger),
    Column("model_version", BigInteger),
    Column("device", LargeBinary),
    Column("ip", LargeBinary),
    moment("occurred_at"),
    moment("observed_at"),
    moment("decided_at"),
    Column("log_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("part", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("ip_prefix", LargeBinary),
    Column("payment", LargeBinary),
    UniqueConstraint("source", "event_id"),
    CheckConstraint("outcome IN ('approve', 'hold', 'reject', 'expired', 'noted')", name="outcome"),
)

feature_layout = Table(
    "feature_layout",
    metadata,
    Column("version", Text, primary_key=True),
    Column("names", ARRAY(Text), nullable=False),
)

partition_progress = Table(
    "partition_progress",
    metadata,
    Column("log_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("part", Integer, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    PrimaryKeyConstraint("log_id", "topic", "part"),
    postgresql_with={"fillfactor": 50},
)

event_inbox = Table(
    "event_inbox",
    metadata,
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("log_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("part", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    moment("received_at"),
    Column("payload_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("source", "event_id"),
    UniqueConstraint("log_id", "topic", "part", "offset"),
)

event_duplicate = Table(
    "event_duplicate",
    metadata,
    Column("log_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("part", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    PrimaryKeyConstraint("log_id", "topic", "part", "offset"),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("log_id", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("part", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("raw", LargeBinary),
    Column("source", Text),
    Column("event_id", Text),
    Column("error", Text, nullable=False),
    Column("field", Text),
    Column("detail", Text),
    moment("first_seen"),
    moment("retried_at", nullable=True),
    UniqueConstraint("log_id", "topic", "part", "offset"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary, nullable=False),
    moment("created_at", now=True),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("source", Text, primary_key=True),
    moment("since", now=True),
    Column("reason", Text, nullable=False),
)

velocity_epoch = Table(
    "velocity_epoch",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("token", Text, nullable=False),
    moment("since", now=True),
    CheckConstraint("singleton", name="singleton"),
)

policy = Table(
    "policy",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("false")),
    moment("activated_at", nullable=True),
    Column("author", Text),
    moment("drafted_at", now=True),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("approved_by", Text),
    moment("approved_at", nullable=True),
    CheckConstraint("length(btrim(author)) BETWEEN 1 AND 128", name="author"),
    CheckConstraint(
        "approved_by IS NULL OR (author IS NOT NULL AND lower(btrim(approved_by)) <> lower(btrim(author)))",
        name="four_eyes",
    ),
    CheckConstraint("(approved_by IS NULL) = (approved_at IS NULL)", name="approved"),
    CheckConstraint("NOT active OR author IS NULL OR approved_by IS NOT NULL", name="in_force"),
    Index("policy_active_key", "active", unique=True, postgresql_where=text("active")),
)

label_pending = Table(
    "label_pending",
    metadata,
    Column("decision_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, nullable=False),
    Column("label", SmallInteger, nullable=False),
    Column("origin", Text, nullable=False),
    moment("due_at"),
    CheckConstraint("label IN (0, 1)", name="label"),
    CheckConstraint("origin IN ('matured', 'review')", name="origin"),
    Index("label_pending_due_at_idx", "due_at"),
)

label_log = Table(
    "label_log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("decision_id", BigInteger, nullable=False),
    Column("label", SmallInteger, nullable=False),
    Column("origin", Text, nullable=False),
    moment("recorded_at"),
    CheckConstraint("label IN (0, 1)", name="label"),
    CheckConstraint("origin IN ('matured', 'review')", name="origin"),
)

model_snapshot = Table(
    "model_snapshot",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    moment("created_at"),
)

model_verdict = Table(
    "model_verdict",
    metadata,
    Column("verdict_id", BigInteger, Identity(always=True), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("checks", JSON, nullable=False),
    moment("at", now=True),
    CheckConstraint("kind IN ('promoted', 'refused', 'rolled_back')", name="kind"),
    CheckConstraint("length(btrim(actor)) BETWEEN 1 AND 128", name="actor"),
    CheckConstraint("length(btrim(reason)) BETWEEN 1 AND 2000", name="reason"),
)

model_checkpoint = Table(
    "model_checkpoint",
    metadata,
    Column("last_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("manifest", JSON, nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    moment("created_at", now=True),
)

account_norm = Table(
    "account_norm",
    metadata,
    Column("program", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    PrimaryKeyConstraint("program", "account"),
    postgresql_with={"fillfactor": 80},
)
