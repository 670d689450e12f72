"""The tables of a policy's life, of lists, snoozes and pauses, on the ledger's metadata; `streams` writes them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

from ledger.schema import metadata, moment

policy_step = Table(
    "policy_step",
    metadata,
    Column("step_id", BigInteger, Identity(always=True), primary_key=True),
    Column("version", BigInteger, ForeignKey("policy.version"), nullable=False),
    Column("step", Text, nullable=False),
    Column("actor", Text, nullable=False),
    moment("at", now=True),
    Column("reason", Text, nullable=False),
    CheckConstraint(
        "step IN ('drafted', 'validated', 'refused', 'backtested', 'approved', 'activated', 'rolled_back')",
        name="step",
    ),
    CheckConstraint("length(btrim(actor)) BETWEEN 1 AND 128", name="actor"),
    Index("policy_step_version_idx", "version", "step_id"),
)

backtest = Table(
    "backtest",
    metadata,
    Column("backtest_id", BigInteger, Identity(always=True), primary_key=True),
    Column("version", BigInteger, ForeignKey("policy.version"), nullable=False),
    Column("made_by", Text, nullable=False),
    moment("made_at", now=True),
    Column("program", Text),
    moment("since"),
    moment("until"),
    Column("events", BigInteger, nullable=False),
    Column("report", JSON, nullable=False),
    CheckConstraint("since < until", name="period"),
    Index("backtest_version_idx", "version", "backtest_id"),
)

policy_loaded = Table(
    "policy_loaded",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("refused", BigInteger),
    Column("why", Text),
    moment("at", now=True),
)

rule_use = Table(
    "rule_use",
    metadata,
    Column("day", Date, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("rule", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("shadow", BigInteger, nullable=False),
    Column("snoozed", BigInteger, nullable=False),
    Column("points", Numeric, nullable=False),
    PrimaryKeyConstraint("day", "version", "rule"),
)

rule_pause = Table(
    "rule_pause",
    metadata,
    Column("pause_id", BigInteger, Identity(always=True), primary_key=True),
    Column("version", BigInteger, ForeignKey("policy.version"), nullable=False),
    Column("rule", Text, nullable=False),
    moment("since", now=True),
    Column("worker", Text, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("expected", Double, nullable=False),
    Column("why", Text, nullable=False),
    moment("resumed_at", nullable=True),
    Column("resumed_by", Text),
    Column("resumed_reason", Text),
    CheckConstraint(
        "(resumed_at IS NULL) = (resumed_by IS NULL) AND (resumed_at IS NULL) = (resumed_reason IS NULL)",
        name="resumed",
    ),
    Index("rule_pause_open_key", "version", "rule", unique=True, postgresql_where=text("resumed_at IS NULL")),
)

rule_snooze = Table(
    "rule_snooze",
    metadata,
    Column("snooze_id", BigInteger, Identity(always=True), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("shown", Text, nullable=False),
    moment("until"),
    Column("reason", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    moment("made_at", now=True),
    moment("ended_at", nullable=True),
    Column("ended_by", Text),
    Column("ended_reason", Text),
    CheckConstraint("kind IN ('account', 'device', 'ip', 'store', 'staff')", name="kind"),
    CheckConstraint("until > made_at AND until <= made_at + interval '180 days'", name="until"),
    CheckConstraint("length(btrim(reason)) BETWEEN 1 AND 500", name="reason"),
    CheckConstraint("length(btrim(made_by)) BETWEEN 1 AND 128", name="made_by"),
    Index("rule_snooze_open_idx", "until", postgresql_where=text("ended_at IS NULL")),
)

lists = Table(
    "list",
    metadata,
    Column("name", Text, primary_key=True),
    Column("tier", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    moment("made_at", now=True),
    CheckConstraint("name ~ '^[a-z][a-z0-9_]{0,40}$'", name="name"),
    CheckConstraint("tier IN ('allow', 'block', 'final', 'watch', 'plain')", name="tier"),
)

list_entry = Table(
    "list_entry",
    metadata,
    Column("entry_id", BigInteger, Identity(always=True), primary_key=True),
    Column("list", Text, ForeignKey("list.name"), nullable=False),
    Column("program", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("prefix", SmallInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("shown", Text, nullable=False),
    moment("until", nullable=True),
    Column("reason", Text, nullable=False),
    Column("added_by", Text, nullable=False),
    moment("added_at", now=True),
    moment("removed_at", nullable=True),
    Column("removed_by", Text),
    Column("removed_reason", Text),
    CheckConstraint(
        "kind IN ('account', 'device', 'ip', 'payment', 'referrer', 'store', 'staff', 'campaign', 'channel', 'source')",
        name="kind",
    ),
    CheckConstraint("prefix BETWEEN 0 AND 128 AND (prefix = 0 OR kind = 'ip')", name="prefix"),
    CheckConstraint("length(btrim(reason)) BETWEEN 1 AND 500", name="reason"),
    CheckConstraint("length(btrim(added_by)) BETWEEN 1 AND 128", name="added_by"),
    CheckConstraint("until > added_at", name="until"),
    Index(
        "list_entry_open_key", "list", "program", "kind", "prefix", "value",
        unique=True, postgresql_where=text("removed_at IS NULL"),
    ),
)  # fmt: skip

catalog_version = Table(
    "catalog_version",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("singleton", name="singleton"),
)
