"""The services PointGuard needs, embedded ones for those that nobody gave the address of."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded import kafka, postgres, tansu, valkey
from embedded.process import Service, ServiceError, private_directory, write_private

CLEARING_SECONDS = 30.0
RUNNING = "services.json"


@dataclass(frozen=True)
class Urls:
    """Where the three services are: a SQLAlchemy URL, a Redis URL, and Kafka bootstrap servers (`host:port`)."""

    database: str
    redis: str
    kafka: str


@dataclass(frozen=True)
class Ports:
    """Ports to start embedded services on; None takes a free one."""

    database: int | None = None
    redis: int | None = None
    kafka: int | None = None


@dataclass(frozen=True)
class Running:
    """What one who did not start the services needs to use them; `log_id` is None with a broker that was given."""

    urls: Urls
    log_id: str | None


class Services:
    """PostgreSQL, Valkey and a Kafka broker; a context manager that stops those it started.

    They stop, too, when this process ends in any other way. Only one process at a time may run services on a data
    directory.
    """

    def __init__(self, data_dir: Path, lock: int, started: Sequence[Service], running: Running) -> None:
        """Take over what has been started; use `Services.start`."""
        self.data_dir = data_dir
        self.urls = running.urls
        self.log_id = running.log_id
        self._lock: int | None = lock
        self._started = tuple(started)

    @classmethod
    def start(
        cls,
        data_dir: Path,
        database_url: str | None = None,
        redis_url: str | None = None,
        kafka_url: str | None = None,
        ports: Ports = Ports(),
        apache_kafka: Path | None = None,
    ) -> Self:
        """Start every service that has no URL, all at once, and return when all of them answer.

        `apache_kafka` is a directory for the jars of a real Apache Kafka, which is then started in place of the broker
        that keeps its log in memory. Raises ServiceError when one cannot be started; then none is left running.
        """
        data_dir = private_directory(data_dir)
        lock = acquire(data_dir)
        to_start: dict[str, Callable[[], Service]] = {}
        if database_url is None:
            to_start["database"] = partial(postgres.start, data_dir, ports.database, lock)
        if redis_url is None:
            to_start["redis"] = partial(valkey.start, data_dir, ports.redis, lock)
        if kafka_url is None and apache_kafka is None:
            to_start["kafka"] = partial(tansu.start, data_dir, ports.kafka, lock)
        elif kafka_url is None and apache_kafka is not None:
            to_start["kafka"] = partial(kafka.start, data_dir, apache_kafka, ports.kafka, lock)
        try:
            started = start_all(to_start)
        except BaseException:
            os.close(lock)
            raise
        own = {name: service.url for name, service in started.items()}
        given = {"database": database_url, "redis": redis_url, "kafka": kafka_url}
        urls = Urls(**{name: url or own[name] for name, url in given.items()})
        log_id = started["kafka"].log_id if "kafka" in started else None
        write_private(data_dir / RUNNING, json.dumps(asdict(Running(urls, log_id))))
        return cls(data_dir, lock, list(started.values()), Running(urls, log_id))

    def failed(self) -> str | None:
        """Name a service that ended on its own, or return None while all run; for a supervisor to ask now and then."""
        return next((service.process.name for service in self._started if not service.process.running), None)

    def stop(self) -> None:
        """Stop what was started and wait until it has ended. May be called twice."""
        if self._lock is None:
            return
        (self.data_dir / RUNNING).unlink(missing_ok=True)
        stop_all(self._started)
        os.close(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the services."""
        self.stop()


def start_all(to_start: Mapping[str, Callable[[], Service]]) -> dict[str, Service]:
    """Run the starters side by side; when one fails, stop the others and raise its error."""
    with ThreadPoolExecutor(max(1, len(to_start))) as pool:
        futures = {name: pool.submit(start) for name, start in to_start.items()}
        wait(futures.values())
    errors = [error for future in futures.values() if (error := future.exception())]
    if errors:
        stop_all([future.result() for future in futures.values() if not future.exception()])
        raise errors[0]
    return {name: future.result() for name, future in futures.items()}


def stop_all(services: Iterable[Service]) -> None:
    """Stop services side by side."""
    for service in services:
        service.process.let_go()
    for service in services:
        service.process.stop()


def acquire(data_dir: Path) -> int:
    """Take the lock of a data directory; its guardians share it, so that it is free when all services have ended.

    A crashed run's services may still be stopping: they are waited for.
    """
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + CLEARING_SECONDS
    while not try_lock(lock, fcntl.LOCK_EX):
        owner = os.pread(lock, 32, 0).decode()
        if is_alive(owner) or time.monotonic() > deadline:
            os.close(lock)
            raise ServiceError(
                f"process {owner} runs PointGuard's services on {data_dir} already; stop it, or take another directory"
            )
        time.sleep(0.1)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def try_lock(file: int, kind: int) -> bool:
    """Take a file lock of the kind if it is free, and say whether."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_alive(pid: str) -> bool:
    """Whether a process has this pid."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def running(data_dir: Path) -> Running | None:
    """Return what another process runs on a data directory now, or None: for commands beside `pointguard up`."""
    try:
        text = (data_dir / RUNNING).read_text(encoding="utf-8")
        lock = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if try_lock(lock, fcntl.LOCK_SH):  # nobody holds it: the file is a crashed run's
            return None
    finally:
        os.close(lock)
    found = json.loads(text)
    return Running(Urls(**found["urls"]), found["log_id"])
