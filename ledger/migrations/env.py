"""Alembic's entry: runs the migrations on the connection that `ledger.migrate` opened."""

from __future__ import annotations

from alembic import context

from ledger import schema_delivery  # noqa: F401 -- defines its tables on the metadata
from ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
