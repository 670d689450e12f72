"""Brings a database to the schema this code needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from ledger import chain_store

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_LOCK = 0x706F696E74


def migrate(database_url: str) -> str:
    """Run all missing migrations in one transaction, begin the audit chain, and return the revision reached.

    `database_url` is a SQLAlchemy URL (`postgresql+psycopg://…`). Safe to call again and by several processes at once:
    an advisory lock lets one run and the others find nothing left to do.
    """
    engine = create_engine(database_url)
    try:
        with engine.begin() as conn:
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            command.upgrade(_config(conn), "head")
            chain_store.begin(conn)
            return MigrationContext.configure(conn).get_current_revision() or ""
    finally:
        engine.dispose()


def _config(conn: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = conn
    return config
