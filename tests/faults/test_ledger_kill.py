"""PostgreSQL and writers are killed in the middle of batches: what was acknowledged is there, the rest whole or not."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import InterfaceError, OperationalError

from embedded import identity, postgres
from embedded.process import Command, Guarded, private_directory
from ledger.book_postgres import PostgresLedger
from ledger.ids import BLOCK, IdBlocks
from ledger.migrate import migrate
from ledger.verify import verify
from tests.faults.bank import open_bank
from tests.faults.teller import Audit, Teller, audit

TELLERS = 4
PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parents[2]

_BACKENDS = text("""
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()""")


def wait_until(there: Callable[[], bool], what: str) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.002)


def proven(engine: Engine, journals: list[Path], kills: int, in_flight: int) -> None:
    """Check journals, invariants and replay after the last kill."""
    with engine.connect() as conn:
        found = audit(conn, journals)
    report = verify(engine)
    print(f"{kills} kills, {in_flight} with a call in flight; {dict(found.counts)}; {dict(report.checked)}")  # noqa: T201  # the figures of the run
    assert in_flight >= kills * 0.8, "most kills must hit a call, or they prove nothing"
    assert found.faults == []
    assert report.ok, report.discrepancies
    assert worked(found, kills)


def worked(found: Audit, kills: int) -> bool:
    """Whether there was enough to lose: acknowledged calls between kills, and calls that never got an answer."""
    counts = found.counts
    acknowledged = counts["post acknowledged"] + counts["end acknowledged"]
    return acknowledged >= kills and counts["post without an answer"] + counts["end without an answer"] > 0


# -- PostgreSQL is killed


class Branch:
    """Tellers that work on a PostgreSQL of their own, and go on after each of its crashes."""

    def __init__(self, directory: Path) -> None:
        """Start PostgreSQL in a directory and open the bank."""
        self.directory = private_directory(directory / "service")
        self.service = postgres.start(self.directory)
        self.port = int(self.service.url.rpartition(":")[2].partition("/")[0])
        migrate(self.service.url)
        self.engine = create_engine(self.service.url, pool_size=TELLERS + 1, max_overflow=0)
        self.ledger = PostgresLedger(self.engine)
        open_bank(self.ledger)
        self.journals = [directory / f"teller-{n}.jsonl" for n in range(TELLERS)]
        self.tellers: list[Teller] = []
        self.raised: list[str] = []
        self._stop = threading.Event()
        self._up = threading.Event()
        self._up.set()
        self._threads = [threading.Thread(target=self._work, args=(journal,)) for journal in self.journals]
        for thread in self._threads:
            thread.start()

    def _work(self, journal: Path) -> None:
        life = 0
        while not self._stop.is_set():
            self._up.wait()
            teller = Teller(self.ledger, journal, f"{journal.stem}-{life}")
            self.tellers.append(teller)
            try:
                while not self._stop.is_set():
                    teller.work()
            except (OperationalError, InterfaceError):
                pass  # without an answer nobody can know; the next teller goes on with names of its own
            except Exception as error:  # noqa: BLE001  # nothing else may reach a caller
                self.raised.append(repr(error)[:2000])
                self._stop.set()
            finally:
                self.tellers.remove(teller)
                teller.close()
            life += 1

    @property
    def in_flight(self) -> int:
        """Calls that wait for PostgreSQL's answer."""
        return sum(teller.in_flight for teller in list(self.tellers))

    def crash(self) -> None:
        """Stop PostgreSQL at once, with whatever it is at, and start it again."""
        self._up.clear()
        stop_at_once(self.directory)
        self.service.process.stop()
        self.service = postgres.start(self.directory, port=self.port)
        self._up.set()

    def close(self) -> None:
        """Let the tellers finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def stop_at_once(directory: Path) -> None:
    """Run `pg_ctl stop -m immediate`."""
    argv = [str(postgres.BIN / "pg_ctl"), "-D", str(directory / postgres.NAME), "stop", "-m", "immediate"]
    Guarded(Command("pg_ctl", argv, identity=identity.choose()), directory).wait_for_end()


def crashes_lose_nothing(directory: Path, rng: random.Random, kills: int) -> None:
    """Crash PostgreSQL so often under tellers at work, and check."""
    branch = Branch(directory)
    try:
        in_flight = 0
        for _ in range(kills):
            time.sleep(rng.uniform(0.2, 0.8))
            wait_until(lambda: branch.in_flight > 0 or bool(branch.raised), "a call in flight")
            in_flight += branch.in_flight > 0
            branch.crash()
        time.sleep(0.5)
    finally:
        branch.close()
    try:
        assert branch.raised == []
        proven(branch.engine, branch.journals, kills, in_flight)
    finally:
        branch.engine.dispose()
        branch.service.process.stop()


def test_a_crash_of_postgresql_loses_nothing_and_tears_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Three times `pg_ctl stop -m immediate` with calls in flight."""
    crashes_lose_nothing(tmp_path, rng, 3)


@pytest.mark.long
def test_30_crashes_of_postgresql_lose_nothing_and_tear_nothing(tmp_path: Path, rng: random.Random) -> None:
    """Thirty times."""
    crashes_lose_nothing(tmp_path, rng, 30)


def test_a_crash_gives_no_id_to_two(tmp_path: Path) -> None:
    """A sequence forgets what a crash overtook: whoever survives it must not go on with the rest of such a block."""
    directory = private_directory(tmp_path / "service")
    service = postgres.start(directory)
    port = int(service.url.rpartition(":")[2].partition("/")[0])
    migrate(service.url)
    engine, survivor = create_engine(service.url), IdBlocks()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("ALTER SYSTEM SET wal_writer_delay = '10s'"))  # else the log may be on disk by the crash
        conn.execute(text("SELECT pg_reload_conf()"))
    overtaken = engine.connect()
    survivor.take(overtaken, BLOCK // 2)
    stop_at_once(directory)
    with pytest.raises(OperationalError):
        overtaken.close()
    service.process.stop()
    service = postgres.start(directory, port=port)
    with engine.begin() as conn:
        mine = set(survivor.take(conn, BLOCK // 2))
    with engine.begin() as conn:
        theirs = set(IdBlocks().take(conn, BLOCK))
    engine.dispose()
    service.process.stop()
    assert not mine & theirs


# -- A writer is killed


def kill_a_writer(url: str, journal: Path, rng: random.Random) -> bool:
    """Start a teller, let it work, and end it with kill -9; whether that was in the middle of a call."""
    name = f"{journal.stem}-{rng.getrandbits(32):08x}"
    argv = [sys.executable, "-m", "tests.faults.teller", url, str(journal), name]
    with subprocess.Popen(argv, cwd=ROOT) as process:
        try:
            wait_until(lambda: process.poll() is not None or done(journal) >= rng.randint(3, 8), "acknowledged calls")
            assert process.poll() is None, "the writer ended by itself"
            time.sleep(rng.uniform(0, 0.05))
            wait_until(lambda: in_flight_of(journal), "a call in flight")
        finally:
            process.kill()
    return in_flight_of(journal)


def done(journal: Path) -> int:
    """How many calls were acknowledged."""
    return journal.read_text(encoding="utf-8").count('["ok"') if journal.exists() else 0


def in_flight_of(journal: Path) -> bool:
    """Whether the last thing in a journal is a call without an answer."""
    return '"ok"' not in journal.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2]


def killed_writers_lose_nothing(database: str, directory: Path, rng: random.Random, kills: int) -> None:
    """Kill so many writers, one after the other on the same ten members, and check."""
    engine = create_engine(database)
    try:
        open_bank(PostgresLedger(engine))
        journals = [directory / f"writer-{n}.jsonl" for n in range(kills)]
        in_flight = sum(kill_a_writer(database, journal, rng) for journal in journals)
        with engine.connect() as conn:
            wait_until(lambda: conn.execute(_BACKENDS).scalar_one() == 0, "the killed writers' transactions end")
        proven(engine, journals, kills, in_flight)
    finally:
        engine.dispose()


def test_a_killed_writer_loses_nothing_and_tears_nothing(database: str, tmp_path: Path, rng: random.Random) -> None:
    """Three times kill -9 of a writer in the middle of a batch."""
    killed_writers_lose_nothing(database, tmp_path, rng, 3)


@pytest.mark.long
def test_30_killed_writers_lose_nothing_and_tear_nothing(database: str, tmp_path: Path, rng: random.Random) -> None:
    """Thirty times."""
    killed_writers_lose_nothing(database, tmp_path, rng, 30)
