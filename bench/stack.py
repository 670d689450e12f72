"""The services a pipeline benchmark runs on, a fresh database for every run, and what each service's processes cost."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
from sqlalchemy import URL, Engine, create_engine, make_url, text

from bench import measure, services
from config.settings import ensure_secret
from embedded.process import free_port
from embedded.services import Services

TEMPLATE: Final = "bench_template"


@dataclass(frozen=True, slots=True)
class Site:
    """What one run of one program gets: an own database, the emptied Valkey, the broker, a directory."""

    database_url: str
    redis_url: str
    bootstrap: str
    log_id: str
    secret_file: Path
    metrics_port: int
    data_dir: Path


class Stack:
    """PostgreSQL, Valkey and Apache Kafka on this machine."""

    def __init__(self, running: Services, data_dir: Path) -> None:
        self.urls, self.log_id, self._data_dir = running.urls, running.log_id, data_dir
        self._admin = create_engine(running.urls.database, isolation_level="AUTOCOMMIT")
        ports = {
            "PostgreSQL": make_url(running.urls.database).port or 0,
            "Valkey": make_url(running.urls.redis).port or 0,
            "Kafka": int(running.urls.kafka.rpartition(":")[2]),
        }
        self._pids = {name: measure.listener_pid(port) for name, port in ports.items()}
        self._runs = 0
        ensure_secret(data_dir)
        self.secret_file = data_dir / "secret"

    def url_of(self, database: str) -> str:
        """The SQLAlchemy URL of a database of this PostgreSQL."""
        url: URL = make_url(self.urls.database).set(database=database)
        return url.render_as_string(hide_password=False)

    def create_template(self) -> str:
        """Make the empty database that every run's is copied from; its URL."""
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        return self.url_of(TEMPLATE)

    @contextlib.contextmanager
    def site(self) -> Iterator[Site]:
        """A copy of the template database and an empty Valkey, dropped afterwards."""
        self._runs += 1
        name = f"bench_run_{self._runs}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        redis.Redis.from_url(self.urls.redis).flushall()
        self._execute("CHECKPOINT")  # no run pays for the pages of the one before
        try:
            with tempfile.TemporaryDirectory(dir=self._data_dir) as folder:
                yield Site(
                    database_url=self.url_of(name),
                    redis_url=self.urls.redis,
                    bootstrap=self.urls.kafka,
                    log_id=self.log_id or "",
                    secret_file=self.secret_file,
                    metrics_port=free_port(),
                    data_dir=Path(folder),
                )
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time each service has used so far, all its processes together."""
        return {name: measure.tree_cpu_seconds(pid) for name, pid in self._pids.items()}

    def durability(self) -> str:
        """The settings that make PostgreSQL's commits durable, as they are in force."""
        names = ("fsync", "synchronous_commit", "full_page_writes")
        with self._admin.connect() as conn:
            return ", ".join(f"{name} {conn.execute(text(f'SHOW {name}')).scalar_one()}" for name in names)

    def _execute(self, statement: str) -> None:
        with self._admin.connect() as conn:
            conn.execute(text(statement))


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """Start the three services in a temporary directory; all stop at the end."""
    with tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder:
        data_dir = Path(folder)
        with Services.start(data_dir, apache_kafka=services.JARS) as running:
            yield Stack(running, data_dir)


def engine_for(url: str) -> Engine:
    """An engine for looking on: one connection, each statement its own transaction."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
