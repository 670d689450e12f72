"""Who PostgreSQL runs as when root starts it, since it refuses to run as root."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

from embedded import guardian
from embedded.guardian import Identity
from embedded.process import ServiceError


def ordinary_user() -> pwd.struct_passwd:
    """Return an account of this machine that is not root; initdb wants it to have a name."""
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody", "daemon"):
        if name in known:
            return known[name]
    raise ServiceError(
        "PostgreSQL refuses to run as root, and this machine has no other user; create one and run as it"
    )


def namespaces_work() -> bool:
    """Whether this process may make a user namespace; container runtimes often forbid it."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import guardian; guardian.enter_namespace(1, 1)"
    probe = [sys.executable, "-I", "-S", "-c", code, str(Path(guardian.__file__).parent)]
    return guardian.LINUX and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def choose(*, namespace: bool | None = None) -> Identity | None:
    """Return None unless this is root; then an ordinary user, inside a user namespace where that is possible.

    In a namespace the files stay root's, so no directory has to be opened to another user; else the service really runs
    as the ordinary user. `namespace` forces one of the two.
    """
    if os.geteuid() != 0:
        return None
    user = ordinary_user()
    return {
        "uid": user.pw_uid,
        "gid": user.pw_gid,
        "namespace": namespaces_work() if namespace is None else namespace,
    }


def hand_over(directory: Path, identity: Identity | None) -> None:
    """Make the service's data its own, whoever it ran as the last time."""
    if identity is None:
        return
    uid, gid = (os.geteuid(), os.getegid()) if identity["namespace"] else (identity["uid"], identity["gid"])
    for path in (directory, *directory.rglob("*")):
        if path.lstat().st_uid != uid:
            os.chown(path, uid, gid, follow_symlinks=False)


def open_way(data_dir: Path, program: Path, identity: Identity | None) -> None:
    """Let the other user that shall run the service through our own directory to its data.

    Raises ServiceError when directories that are not ours keep it from its data or its program.
    """
    if identity is None or identity["namespace"]:
        return
    data_dir.chmod(data_dir.stat().st_mode | 0o011)
    for folder in {*data_dir.resolve().parents, *program.resolve().parents}:
        if not folder.stat().st_mode & 0o001:
            raise ServiceError(
                f"PostgreSQL refuses to run as root, and the user with id {identity['uid']}, which would run it, "
                f"cannot enter {folder}. Run PointGuard as an ordinary user, or from a place that others may enter."
            )
