"""Embedded services: what they promise about processes left behind, and about data."""

import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from embedded import identity, postgres
from embedded.process import Command, Guarded, ServiceError, clear_leftover, command_line, private_directory
from embedded.services import Ports, Services, running

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from pathlib import Path
from embedded.services import Services
with Services.start(Path(sys.argv[1])) as services:
    print("up", flush=True)
    sys.stdin.read()
"""


def plain(url: str) -> str:
    """Return a SQLAlchemy URL as psycopg wants it."""
    return url.replace("postgresql+psycopg", "postgresql")


def store(services: Services) -> redis.Redis:
    """Return a client of the services' Redis-protocol store."""
    return redis.Redis.from_url(services.urls.redis)


def processes(data_dir: Path) -> dict[int, str]:
    """Return the processes that work on a data directory, with their guardians and children, without this one."""
    pids = {int(path.read_text(encoding="utf-8").splitlines()[0]) for path in data_dir.glob("*.pid")}
    listed = subprocess.run(
        ["ps", "-ww", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [
        (int(pid), int(parent), line)
        for pid, parent, line in re.findall(r"^\s*(\d+)\s+(\d+)\s+(.*)$", listed, re.MULTILINE)
    ]
    guardians = {parent for pid, parent, _ in rows if pid in pids}
    return {
        pid: line
        for pid, parent, line in rows
        if pid != os.getpid() and (str(data_dir) in line or pid in pids | guardians or parent in pids)
    }


def wait_for_end(pids: set[int], seconds: float = 10) -> dict[int, str]:
    """Wait until processes have ended; return those that have not."""
    deadline = time.monotonic() + seconds
    while (left := {pid: line for pid in pids if (line := command_line(pid))}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture
def owner(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Lend a process that runs all three services on tmp_path."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0]
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_owner_ends(
    owner: "subprocess.Popen[str]", tmp_path: Path, number: signal.Signals
) -> None:
    """However their owner ends, no service and no guardian outlives it, and PostgreSQL stops cleanly."""
    before = set(processes(tmp_path)) - {owner.pid}
    assert len(before) >= 6
    owner.send_signal(number)
    owner.wait(20)
    assert wait_for_end(before) == {}
    assert "database system is shut down" in (tmp_path / "logs" / "postgres.log").read_text(encoding="utf-8")
    assert running(tmp_path) is None


def test_services_end_with_their_guardians(owner: "subprocess.Popen[str]", tmp_path: Path) -> None:
    """When the guardians are killed too, the next start ends what they left and uses the same data."""
    found = processes(tmp_path)
    guardians = {pid for pid, line in found.items() if "guardian.py" in line}
    assert len(guardians) == 3
    for pid in (owner.pid, *guardians):
        os.kill(pid, signal.SIGKILL)
    owner.wait(10)
    with Services.start(tmp_path) as services:
        assert services.failed() is None
    assert wait_for_end(set(found)) == {}


def test_a_second_start_keeps_the_data(tmp_path: Path) -> None:
    """Rows and keys are there after a stop and a start; the broker's log is another one."""
    with Services.start(tmp_path) as first, psycopg.connect(plain(first.urls.database)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        connection.commit()
        with store(first) as client:
            client.set("kept", "7")
    with Services.start(tmp_path) as second, psycopg.connect(plain(second.urls.database)) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
        with store(second) as client:
            assert client.get("kept") == b"7"
        assert second.log_id != first.log_id


def test_data_survive_kill_9_of_the_services(tmp_path: Path) -> None:
    """A committed row is there after PostgreSQL and Valkey were killed; the owner can tell which service ended."""
    services = Services.start(tmp_path)
    with psycopg.connect(plain(services.urls.database)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
        connection.commit()
    assert services.failed() is None
    os.kill(int((tmp_path / "postgres.pid").read_text(encoding="utf-8").split()[0]), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while services.failed() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert services.failed() == "postgres"
    services.stop()
    with Services.start(tmp_path) as again, psycopg.connect(plain(again.urls.database)) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """Another start on the same directory is refused by name; commands beside it find what runs."""
    assert running(tmp_path) is None
    with Services.start(tmp_path) as services:
        with pytest.raises(ServiceError, match=f"process {os.getpid()} runs"):
            Services.start(tmp_path)
        found = running(tmp_path)
        assert found is not None
        assert (found.urls, found.log_id) == (services.urls, services.log_id)
    assert running(tmp_path) is None


def test_a_given_url_replaces_a_service(tmp_path: Path) -> None:
    """Only what has no URL is started."""
    with Services.start(tmp_path, database_url="postgresql+psycopg://there/db", kafka_url="there:9092") as services:
        assert services.urls.database == "postgresql+psycopg://there/db"
        assert services.urls.kafka == "there:9092"
        assert services.log_id is None
        with store(services) as client:
            assert client.ping()
    assert not (tmp_path / "postgres").exists()


def test_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    """A port that is taken is reported with the service's own words, and the other services are stopped."""
    with Services.start(tmp_path / "one", database_url="-", redis_url="-") as one:
        taken = int(one.urls.kafka.rpartition(":")[2])
        with pytest.raises(ServiceError, match="valkey"):
            Services.start(tmp_path / "two", ports=Ports(redis=taken))
        assert processes(tmp_path / "two") == {}
        assert running(tmp_path / "two") is None


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A place where nothing can be written is an error that says so, not a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match=r"cannot make .*/file/data: Not a directory; give another --data-dir"):
        Services.start(tmp_path / "file" / "data")


def test_secrets_are_private(tmp_path: Path) -> None:
    """Passwords and the addresses that hold them are for the owner's eyes, and PostgreSQL asks for its password."""
    with Services.start(tmp_path, kafka_url="-") as services:
        for name in ("postgres.password", "valkey.password", "valkey.conf", "services.json"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
        wrong = re.sub(r":[^:@]+@", ":wrong@", plain(services.urls.database))
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        stranger = redis.Redis.from_url(re.sub(r":[^:@]+@", "", services.urls.redis))
        with pytest.raises(redis.AuthenticationError), stranger:
            stranger.ping()


def test_settings_that_keep_data(tmp_path: Path) -> None:
    """PostgreSQL runs with fsync and synchronous commits, Valkey with an append-only file and without eviction."""
    with Services.start(tmp_path, kafka_url="-") as services:
        with psycopg.connect(plain(services.urls.database)) as connection:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == ("on",)
        with store(services) as client:
            for name, value in {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
            }.items():
                assert client.config_get(name) == {name: value}


def test_a_pid_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A pid file or PostgreSQL lock of a crashed run may name a stranger by now: it lives, and PostgreSQL starts."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "valkey.pid").write_text(f"{stranger.pid}\n12345\n", encoding="utf-8")
        clear_leftover(tmp_path, "valkey")
        postgres.start(tmp_path).process.kill()
        lock = tmp_path / "postgres" / "postmaster.pid"
        lines = lock.read_text(encoding="utf-8").splitlines()
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n", encoding="utf-8")
        postgres.start(tmp_path).process.stop()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes who it is")
@pytest.mark.parametrize("namespace", [True, False])
def test_postgres_runs_when_root_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: bool) -> None:
    """Root's PostgreSQL runs in a user namespace or as another user, and takes over data written the other way."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o711)
    data_dir = private_directory(tmp_path / "data")
    choose = identity.choose
    for wanted in (namespace, not namespace):
        monkeypatch.setattr(identity, "choose", lambda wanted=wanted: choose(namespace=wanted))
        service = postgres.start(data_dir)
        with psycopg.connect(plain(service.url)) as connection:
            connection.execute("SELECT 1")
        service.process.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes who it is")
def test_a_place_the_other_user_cannot_enter_is_named(tmp_path: Path) -> None:
    """Without namespaces, a directory closed to the other user is reported with what to do."""
    data_dir = private_directory(tmp_path / "closed" / "data")
    (tmp_path / "closed").chmod(0o700)
    with pytest.raises(ServiceError, match="cannot enter /"):
        identity.open_way(data_dir, postgres.BIN, identity.choose(namespace=False))


def test_a_service_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """After its grace, a service that ignores its stop signal is ended."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    service = Guarded(Command("stubborn", [sys.executable, "-c", stubborn], grace_seconds=0.3), tmp_path)
    service.wait_until(lambda: "on" in service.tail(), 10)
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 5
    assert command_line(service.pid) == ""


def test_the_log_of_the_start_before_is_kept(tmp_path: Path) -> None:
    """Each start has a log of its own, and the one before stays beside it."""
    for word in ("first", "second"):
        Guarded(Command("talker", ["/bin/echo", word]), tmp_path).wait_for_end()
    logs = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "logs").iterdir()}
    assert logs == {"talker.log": "second\n", "talker.log.1": "first\n"}


def test_the_state_file_is_plain_json(tmp_path: Path) -> None:
    """What runs is written as JSON with the three URLs and the log id."""
    with Services.start(tmp_path, database_url="d", redis_url="r", kafka_url="k"):
        found = json.loads((tmp_path / "services.json").read_text(encoding="utf-8"))
    assert found == {"urls": {"database": "d", "redis": "r", "kafka": "k"}, "log_id": None}
