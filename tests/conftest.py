"""Fixtures for every tier: real services started when first asked for, a database per test, seeded randomness."""

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from embedded import postgres, tansu, valkey
from embedded.process import Service, ServiceError, private_directory
from ledger.migrate import migrate
from tests.services import ApacheKafka, Databases

TESTS = Path(__file__).parent
CI = os.environ.get("CI") == "true"
KAFKA_BOOTSTRAP = os.environ.pop("KAFKA_BOOTSTRAP", None)
KAFKA_CACHE = Path(os.environ.get("POINTGUARD_KAFKA_CACHE") or TESTS.parent / ".pointguard" / "kafka-jars")
SEED = int(os.environ.get("POINTGUARD_SEED") or random.SystemRandom().getrandbits(32))


def pytest_configure(config: pytest.Config) -> None:
    """Take the developer's own settings out of the tests' environment."""
    del config
    for name in list(os.environ):
        if name.startswith("POINTGUARD_") or name in {"DATABASE_URL", "REDIS_URL", "KAFKA_URL"}:
            del os.environ[name]


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed of the `rng` fixture, and how to use it again."""
    del config
    return f"rng seed: {SEED} (again with POINTGUARD_SEED={SEED})"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they lie in, and with `kafka` those that need a real Apache Kafka."""
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier in {"integration", "faults", "e2e"}:
            item.add_marker(tier)
        if "apache_kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections from the unit tier, which has to run without any service."""
    if request.path.is_relative_to(TESTS / "unit"):

        def refuse(_self: socket.socket, address: object) -> NoReturn:
            raise AssertionError(f"a unit test connects to {address}")

        monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def seed() -> int:
    """This run's seed, for what several tests share."""
    return SEED


@pytest.fixture
def rng() -> random.Random:
    """Random numbers of this run's seed, the same for a test whatever ran before it."""
    return random.Random(SEED)


@pytest.fixture(scope="session")
def services_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the data and logs of this session's services."""
    return private_directory(tmp_path_factory.mktemp("services"))


@pytest.fixture(scope="session")
def databases(services_dir: Path) -> Iterator[Databases]:
    """Embedded PostgreSQL; `database` gives a migrated database of one's own on it."""
    service = postgres.start(services_dir)
    yield Databases(service.url)
    service.process.stop()


@pytest.fixture(scope="session")
def template(databases: Databases) -> str:
    """Name of a database with the current schema, made once, to be copied."""
    name = databases.create()
    migrate(databases.url(name))
    return name


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """URL of an empty database of the test's own."""
    with databases.fresh("template1") as url:
        yield url


@pytest.fixture
def database(databases: Databases, template: str) -> Iterator[str]:
    """URL of a database of the test's own, with the current schema."""
    with databases.fresh(template) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server(services_dir: Path) -> Iterator[Service]:
    """Embedded Valkey; `redis_url` gives it emptied."""
    service = valkey.start(services_dir)
    yield service
    service.process.stop()


@pytest.fixture
def redis_url(valkey_server: Service) -> str:
    """URL of an empty Redis-protocol store."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture(scope="session")
def kafka_broker(services_dir: Path) -> Iterator[Service]:
    """Embedded Kafka-protocol broker (Tansu) with its url and log_id, one for the session: use topics of your own."""
    service = tansu.start(services_dir)
    yield service
    service.process.stop()


@pytest.fixture
def kafka(kafka_broker: Service) -> str:
    """Bootstrap address (host:port) of the embedded broker."""
    return kafka_broker.url


@pytest.fixture(scope="session")
def apache_kafka(services_dir: Path) -> Iterator[ApacheKafka]:
    """A real Apache Kafka: the one at KAFKA_BOOTSTRAP, else our own. Without Java: skipped, but a failure in CI."""
    if KAFKA_BOOTSTRAP:
        yield ApacheKafka.given(KAFKA_BOOTSTRAP)
        return
    try:
        broker = ApacheKafka.start(services_dir, KAFKA_CACHE)
    except ServiceError as error:
        if CI:
            raise
        pytest.skip(f"no Apache Kafka: {error}")
    yield broker
    broker.stop()
