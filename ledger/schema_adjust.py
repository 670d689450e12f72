"""Manual adjustments and bulk imports on the ledger's metadata.

What keeps makers and checkers apart is in the database: constraints here, and triggers in migration 0004.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ledger.schema import metadata, moment

_CHECKER = """checker IS NULL OR (length(btrim(checker)) BETWEEN 1 AND 128
    AND lower(btrim(normalize(checker, NFKC))) <> lower(btrim(normalize(maker, NFKC))))"""
_APPROVED_ALONE = "verdict IS DISTINCT FROM 'approved' OR checker IS NOT NULL OR "


def _made() -> list[Any]:
    """Columns and checks of who makes something, and why."""
    return [
        Column("reason_code", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("maker", Text, nullable=False),
        moment("made_at"),
        Column("limit_points", BigInteger, nullable=False),
        CheckConstraint("reason_code ~ '^[a-z][a-z0-9_]{0,63}$'", name="reason_code"),
        CheckConstraint("length(btrim(reason)) BETWEEN 1 AND 1000", name="reason"),
        CheckConstraint("length(btrim(maker)) BETWEEN 1 AND 128", name="maker"),
    ]


def _checked() -> list[Any]:
    """Columns and checks of who approves or rejects it."""
    return [
        Column("verdict", Text),
        Column("checker", Text),
        moment("checked_at", nullable=True),
        Column("check_reason", Text),
        CheckConstraint(_CHECKER, name="checker"),
        CheckConstraint("verdict IN ('approved', 'rejected')", name="verdict"),
        CheckConstraint(
            "(verdict IS NULL) = (checked_at IS NULL) AND (verdict IS NOT NULL OR checker IS NULL)", name="checked"
        ),
    ]


adjustment = Table(
    "adjustment",
    metadata,
    Column("adjustment_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, ForeignKey("program.program"), nullable=False),
    Column("account", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    *_made(),
    moment("expires_at", nullable=True),
    Column("reference", Text),
    *_checked(),
    Column(
        "txn_id",
        BigInteger,
        ForeignKey("txn.txn_id", deferrable=True, initially="DEFERRED"),
        unique=True,
        nullable=True,
    ),
    CheckConstraint("points <> 0 AND points BETWEEN -9007199254740991 AND 9007199254740991", name="points"),
    CheckConstraint("expires_at IS NULL OR points > 0", name="expires"),
    CheckConstraint("(verdict IS NOT DISTINCT FROM 'approved') = (txn_id IS NOT NULL)", name="posted"),
    CheckConstraint(_APPROVED_ALONE + "abs(points) <= limit_points", name="limit"),
    Index("adjustment_open_idx", "program", "adjustment_id", postgresql_where=text("verdict IS NULL")),
    Index("adjustment_account_idx", "program", "account", "adjustment_id"),
    Index(
        "adjustment_reference_key", "program", "reference", unique=True, postgresql_where=text("reference IS NOT NULL")
    ),
)

import_job = Table(
    "import_job",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("program", Text, ForeignKey("program.program"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("options", Text, nullable=False),
    *_made(),
    moment("staged_at", nullable=True),
    Column("line_count", Integer),
    Column("points", BigInteger),
    *_checked(),
    moment("finished_at", nullable=True),
    UniqueConstraint("program", "kind", "system", "label", "digest", name="import_job_identity_key"),
    CheckConstraint("kind IN ('opening', 'credit', 'debit')", name="kind"),
    CheckConstraint("kind <> 'opening' OR system <> ''", name="system"),
    CheckConstraint("length(digest) = 32", name="digest"),
    CheckConstraint(
        """(staged_at IS NULL) = (line_count IS NULL) AND (staged_at IS NULL) = (points IS NULL)
        AND (staged_at IS NOT NULL OR verdict IS NULL)""",
        name="staged",
    ),
    CheckConstraint("points BETWEEN 0 AND 9007199254740991", name="points"),
    CheckConstraint("finished_at IS NULL OR verdict IS NOT DISTINCT FROM 'approved'", name="finished"),
    CheckConstraint(_APPROVED_ALONE + "points <= limit_points", name="limit"),
    Index(
        "import_job_maker_idx",
        "program",
        "checked_at",
        postgresql_where=text("verdict = 'approved' AND checker IS NULL"),
    ),
)

import_row = Table(
    "import_row",
    metadata,
    Column("job_id", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("points", BigInteger),
    moment("earned_at", nullable=True),
    moment("expires_at", nullable=True),
    moment("member_since", nullable=True),
    Column("store", Text),
    Column("external_id", Text),
    Column("problem", Text),
    PrimaryKeyConstraint("job_id", "line"),
    CheckConstraint("line > 0", name="line"),
    CheckConstraint("points BETWEEN 1 AND 9007199254740991", name="points"),
    CheckConstraint("(points IS NULL) = (problem IS NOT NULL)", name="problem"),
)

import_result = Table(
    "import_result",
    metadata,
    Column("job_id", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    Column("code", Text, nullable=False),
    Column("txn_id", BigInteger),
    PrimaryKeyConstraint("job_id", "line"),
    CheckConstraint("(code = 'posted') = (txn_id IS NOT NULL)", name="posted"),
)

import_external = Table(
    "import_external",
    metadata,
    Column("program", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("line", Integer, nullable=False),
    PrimaryKeyConstraint("program", "system", "external_id"),
    UniqueConstraint("job_id", "line"),
)
