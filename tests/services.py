"""What the fixtures of conftest.py hand to tests: databases copied from a template, and a Kafka that can be killed."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from embedded import kafka
from embedded.process import Service


@dataclass(frozen=True)
class Databases:
    """A PostgreSQL server for tests, by the SQLAlchemy URL of a superuser's database on it."""

    server_url: str

    def url(self, name: str) -> str:
        """Return the URL of another database on the server."""
        return make_url(self.server_url).set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: sql.Composed) -> None:
        """Run a statement outside a transaction."""
        plain = make_url(self.server_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(statement)

    def create(self, template: str = "template1") -> str:
        """Create a database as a copy of another one and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        # FILE_COPY is 3 x faster here than the default: the template is small and nobody writes to it.
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier("file_copy")
            )
        )
        return name

    @contextmanager
    def fresh(self, template: str) -> Iterator[str]:
        """Lend the URL of a copy of `template`; dropped afterwards, with whoever is still connected."""
        name = self.create(template)
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class ApacheKafka:
    """A real Apache Kafka. Ours can be killed and started again on the same log and port; a given one cannot."""

    def __init__(self, url: str, log_id: str | None, service: Service | None, places: tuple[Path, Path] | None) -> None:
        """Use `start` or `given`."""
        self.url = url
        self.log_id = log_id
        self._service = service
        self._places = places

    @classmethod
    def given(cls, url: str) -> "ApacheKafka":
        """Use a broker that somebody else runs."""
        return cls(url, None, None, None)

    @classmethod
    def start(cls, data_dir: Path, cache: Path) -> "ApacheKafka":
        """Start a broker with an empty log."""
        service = kafka.start(data_dir, cache)
        return cls(service.url, service.log_id, service, (data_dir, cache))

    @property
    def can_be_killed(self) -> bool:
        """Whether this broker is ours to kill."""
        return self._service is not None

    def kill(self) -> None:
        """End the broker with kill -9."""
        if self._service is None:
            raise RuntimeError("a broker given by KAFKA_BOOTSTRAP is not ours to kill; unset it to use our own")
        self._service.process.kill()

    def restart(self) -> None:
        """Start the broker again after `kill`, on the same log and port, and wait until it answers."""
        if self._places is None:
            raise RuntimeError("a broker given by KAFKA_BOOTSTRAP is not ours to start; unset it to use our own")
        self._service = kafka.start(*self._places, port=int(self.url.rpartition(":")[2]))

    def stop(self) -> None:
        """Stop our broker."""
        if self._service is not None:
            self._service.process.stop()
