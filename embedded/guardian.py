"""A small process that stands between PointGuard and one service it started, so that no service outlives PointGuard.

Run as a script, so that it starts fast and knows nothing of the application. Its standard input is a socket whose other
end only the parent holds. It starts the service, writes the service's pid to the socket, and stops the service when
the socket closes: on purpose, by a crash of the parent, or by kill -9 of it. On Linux the kernel also signals the
service when the guardian itself is killed.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypedDict

LINUX = sys.platform.startswith("linux")
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 1.0


class Identity(TypedDict):
    """Who the service shall believe to be when root starts it: in a user namespace, or as another user for real."""

    uid: int
    gid: int
    namespace: bool


class Order(TypedDict):
    """What a guardian is told, as JSON in its only argument."""

    argv: list[str]
    stop_signal: int
    grace_seconds: float
    identity: Identity | None


def enter_namespace(uid: int, gid: int) -> None:
    """Make this process appear as `uid` to itself, while files and permissions stay those of the caller."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {outer_uid} 1"), ("gid_map", f"{gid} {outer_gid} 1")):
        Path(f"/proc/self/{name}").write_text(line, encoding="ascii")


def prepare(order: Order) -> Callable[[], None]:
    """Build what the service's process does just before it becomes the service."""
    guardian, identity = os.getpid(), order["identity"]

    def before_exec() -> None:
        if identity and identity["namespace"]:
            enter_namespace(identity["uid"], identity["gid"])
        if LINUX:  # last, as a change of credentials clears it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, order["stop_signal"])
            if os.getppid() != guardian:
                os._exit(1)

    return before_exec


def spawn(order: Order) -> subprocess.Popen[bytes]:
    """Start the service in a process group of its own; its output goes where the guardian's goes."""
    identity = order["identity"]
    other = identity if identity and not identity["namespace"] else None
    return subprocess.Popen(
        order["argv"],
        stdin=subprocess.DEVNULL,
        process_group=0,
        user=other["uid"] if other else None,
        group=other["gid"] if other else None,
        extra_groups=[] if other else None,
        preexec_fn=prepare(order),  # noqa: PLW1509 - this process has one thread
    )


def parent_is_gone(wakeup: int, parent: int, service: subprocess.Popen[bytes]) -> bool:
    """Wait until the service ends (False), or the parent lets go, dies, or someone asks us to stop (True)."""
    while service.poll() is None:
        readable, _, _ = select.select([0, wakeup], [], [], LOOK_SECONDS)
        if wakeup in readable and set(os.read(wakeup, 64)) - {signal.SIGCHLD}:
            return True
        # A fork of the parent may hold the socket open after the parent's death: hence the look at the parent itself.
        if 0 in readable or os.getppid() != parent:
            return True
    return False


def stop(service: subprocess.Popen[bytes], order: Order) -> None:
    """Ask the service to stop, and after its grace end its whole process group."""
    service.send_signal(order["stop_signal"])
    try:
        service.wait(order["grace_seconds"])
    except subprocess.TimeoutExpired:
        os.killpg(service.pid, signal.SIGKILL)
        service.wait()


def note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the signal's number reaches the wakeup pipe."""


def main() -> int:
    """Guard one service until it ends; return its exit code, or 128 + the signal that ended it."""
    parent = os.getppid()
    order: Order = json.loads(sys.argv[1])
    wakeup, signals = os.pipe()
    os.set_blocking(signals, False)
    signal.set_wakeup_fd(signals)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    service = spawn(order)
    try:
        os.write(0, f"{service.pid}\n".encode())
    except OSError:  # the parent died meanwhile
        stop(service, order)
    if parent_is_gone(wakeup, parent, service):
        stop(service, order)
    return service.returncode if service.returncode >= 0 else 128 - service.returncode


if __name__ == "__main__":
    sys.exit(main())
