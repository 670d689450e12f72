"""`pointguard migrate`: the tables this version needs."""

from __future__ import annotations

from cli.context import DataDir, say, settings_of
from ledger.migrate import migrate as bring_up
from streams.setup import seed


def migrate(data_dir: DataDir = None) -> None:
    """Bring the database up to date, and install the default policy where there is none. Safe to run again.

    `pointguard up` does it by itself; this is for a database of your own, before new workers start.
    """
    settings = settings_of(data_dir)
    revision = bring_up(settings.required("database_url"))
    seed(settings)
    say(f"The database is at revision {revision}.")
