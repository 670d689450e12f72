"""Starting one service under a guardian, and the files around it: log, pid, free port, secret."""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded import guardian

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_768)


class ServiceError(RuntimeError):
    """An embedded service cannot be started; the message says which, why and what to do."""


@dataclass(frozen=True)
class Command:
    """How to run and to stop one service.

    `name` names its log and pid file; `stop_signal` asks it to stop, and after `grace_seconds` it is killed; `identity`
    is who it runs as when root must not run it.
    """

    name: str
    argv: Sequence[str]
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 20.0
    identity: guardian.Identity | None = None


def log_path(data_dir: Path, name: str) -> Path:
    """Return the file that holds what the service said since its last start; the start before it is in `.1`."""
    return data_dir / "logs" / f"{name}.log"


class Guarded:
    """A running service and its guardian. Whoever drops it, or dies, stops the service."""

    def __init__(self, command: Command, data_dir: Path, lock: int | None = None) -> None:
        """Start the service; `lock` is a file descriptor that its guardian keeps open as long as the service runs."""
        self.name = command.name
        self.log = log_path(data_dir, command.name)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        order: guardian.Order = {
            "argv": [str(part) for part in command.argv],
            "stop_signal": int(command.stop_signal),
            "grace_seconds": command.grace_seconds,
            "identity": command.identity,
        }
        self._lifeline, theirs = socket.socketpair()
        with theirs, self.log.open("ab") as output:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(order)],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        self._pid_file = data_dir / f"{self.name}.pid"
        with self._lifeline.makefile("rb") as guardian_says:
            said = guardian_says.readline()
        if not said:
            self.stop()
            raise ServiceError(f"{self.name} did not start; its log ends: {self.tail()}")
        self.pid = int(said)
        self._pid_file.write_text(f"{self.pid}\n{birth(self.pid)}\n", encoding="utf-8")

    @property
    def running(self) -> bool:
        """Whether the service still runs."""
        return self._guardian.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The service's exit code (128 + signal if one ended it), or None while it runs."""
        return self._guardian.poll()

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of the service's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def wait_until(self, healthy: Callable[[], bool], seconds: float) -> None:
        """Ask `healthy` until it is, or stop and raise ServiceError when the service ends or `seconds` are over."""
        deadline = time.monotonic() + seconds
        try:
            while not healthy():
                self._check_start(deadline)
                time.sleep(0.03)
        except BaseException:
            self.stop()
            raise

    def _check_start(self, deadline: float) -> None:
        if not self.running:
            raise ServiceError(f"{self.name} ended while starting; see {self.log}, which ends: {self.tail()}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{self.name} does not answer; see {self.log}, which ends: {self.tail()}")

    def wait_for_end(self) -> None:
        """Wait until the service ends by itself: for programs that do one job."""
        self._guardian.wait()
        self.stop()

    def let_go(self) -> None:
        """Ask the guardian to stop the service, without waiting for it."""
        self._lifeline.close()

    def stop(self) -> None:
        """Stop the service and wait until it has ended. May be called twice."""
        self.let_go()
        self._guardian.wait()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the service with kill -9, as a crash would, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.stop()


@dataclass(frozen=True)
class Service:
    """A service that answers: its process, its URL and, of a broker, the id of the life of its log (its cluster id)."""

    process: Guarded
    url: str
    log_id: str | None = None


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty text when there is none."""
    if guardian.LINUX:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    return ask_ps(pid, "command")


def birth(pid: int) -> str:
    """Return when a process was started, as text to compare: with the pid, it tells a process from all others."""
    if guardian.LINUX:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            return after_name.split()[19]
        return ""
    return ask_ps(pid, "lstart")


def ask_ps(pid: int, column: str) -> str:
    """Return a column of `ps` for a process, where there is no /proc."""
    command = ["ps", "-ww", "-o", f"{column}=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def clear_leftover(data_dir: Path, name: str, seconds: float = 20.0) -> None:
    """End a service of a crashed run whose guardian was killed too. Call it only under the data directory's lock."""
    pid_file = data_dir / f"{name}.pid"
    try:
        pid_text, born = pid_file.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ValueError):
        return
    pid, deadline = int(pid_text), time.monotonic() + seconds
    while born and birth(pid) == born:  # else the pid belongs to somebody else by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.2)
    pid_file.unlink(missing_ok=True)


def free_port() -> int:
    """Return a TCP port that nobody listens on at the loopback address now.

    It lies below those that systems give to outgoing connections: a client that knocks while the service is down could
    otherwise be given the very port it knocks at, and keep the service from coming back.
    """
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner may look into, and return its absolute path. ServiceError if it can't."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServiceError(f"cannot make {path}: {error.strerror or error}; give another --data-dir") from error
    return path.resolve()


def secret(path: Path) -> str:
    """Read a random secret from a file of mode 0600, made on the first call."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="ascii")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, wholly or not at all."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def package_directory(name: str) -> Path:
    """Return where an installed package lies, without running its code."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceError(f"the package {name} is not installed; run make run or make test, which install everything")
    return Path(spec.submodule_search_locations[0])
