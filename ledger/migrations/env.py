"""Alembic's entry: runs the migrations on the connection that `ledger.migrate` opened."""

from __future__ import annotations

from alembic import context

from ledger import (  # noqa: F401 -- define their tables on the metadata
    schema_adjust,
    schema_audit,
    schema_delivery,
    schema_lots,
    schema_policy,
    schema_reports,
)
from ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
