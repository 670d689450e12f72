"""What commands have in common: the settings, a database that answers, and consoles to write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import Engine, create_engine, make_url

from cli.errors import UNREACHABLE, CommandError
from config.settings import Settings, load
from embedded.services import Services

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where `pointguard up` keeps its data (default .pointguard).")
]

out = Console(highlight=False)
"""What was asked for; may be piped."""
err = Console(stderr=True, highlight=False)
"""Progress and remarks."""


def engine_of(url: str) -> Engine:
    """An engine for a command: few connections, checked before use. A URL without a driver gets ours."""
    address = make_url(url)
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    return create_engine(address, pool_size=2, pool_pre_ping=True, connect_args={"connect_timeout": 10})


def say(sentence: str) -> None:
    """A sentence of what was asked for, as one line however narrow the terminal: it may be searched for."""
    out.print(sentence, soft_wrap=True)


@contextmanager
def database(settings: Settings) -> Iterator[Engine]:
    """The ledger's database: the one given or running, else that of an earlier `up`, started for this command only."""
    if settings.database_url:
        engine = engine_of(settings.database_url)
        try:
            yield engine
        finally:
            engine.dispose()
        return
    if not (settings.data_dir / "postgres").exists():
        raise CommandError(
            "no ledger here: nothing is running, and there are no data of an earlier run",
            "start everything with `pointguard up`, or set POINTGUARD_DATABASE_URL",
            UNREACHABLE,
        )
    # Only PostgreSQL is wanted: the two others count as given.
    with (
        Services.start(settings.data_dir, redis_url="redis://none", kafka_url="none") as services,
        database(settings.model_copy(update={"database_url": services.urls.database})) as engine,
    ):
        yield engine


def settings_of(data_dir: Path | None) -> Settings:
    """The settings, completed by a running `up` on that data directory."""
    return load(data_dir=data_dir)
