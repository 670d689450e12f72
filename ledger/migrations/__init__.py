"""Alembic migrations of the whole database; run by `ledger.migrate`."""
