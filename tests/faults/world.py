"""Real worker processes over real services, to be killed: what the fault tests share."""

import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer
from sqlalchemy import Engine, create_engine, text

from ledger.programs import create_program
from streams import exits
from streams.kafka import ensure_topics
from tests.faults.drive import PARTITIONS

PROGRAM = "chaos"
SOURCE = "chaos-test"
QUIET_POLICY = """
version: 1
base: -6.0
thresholds: {hold: 0.5, reject: 0.9}
rules: []
models: {}
cold_limit_points: 9007199254740991
max_points: 9007199254740991
holds:
  earn: {on_timeout: escalate}
  redeem: {on_timeout: void}
  transfer: {on_timeout: void}
  adjust: {on_timeout: escalate}
training: {maturity_seconds: 604800, share: 0.0}
"""

_INSTALL = text("INSERT INTO policy (version, document, active, activated_at) VALUES (1, :document, true, now())")
_HANDLED = text("""
SELECT (SELECT count(*) FROM event_inbox) + (SELECT count(*) FROM event_duplicate)
     + (SELECT count(*) FROM dead_letter)""")
_OWNERS = text("SELECT part, last_offset, owner FROM partition_progress WHERE topic = :topic")


@dataclass(frozen=True)
class Places:
    """Addresses of the three services, and the name of the log's life."""

    database: str
    redis: str
    kafka: str
    log_id: str
    directory: Path


@dataclass
class Worker:
    """One worker process that can be killed and started again under the same name."""

    name: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; what it says is appended to its log."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "worker", "--id", self.name],
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])

    @property
    def hung(self) -> bool:
        """Whether its watchdog ended it."""
        return self.process is not None and self.process.poll() == exits.HANG

    def ensure(self) -> None:
        """Start it (again) if it is not running: the part of the supervisor that this test needs."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def end(self) -> None:
        """Stop it for good."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class World:
    """A topic of four partitions, a database, workers, and a record of all that the broker acknowledged."""

    places: Places
    topic: str
    engine: Engine
    workers: list[Worker]
    session_timeout: float = 6.0
    sent: dict[int, list[bytes]] = field(default_factory=dict)
    anew_at: float = 0.0

    def handled(self) -> int:
        """Records with an outcome: in the inbox, as duplicates or as dead letters."""
        with self.engine.connect() as conn:
            return int(conn.execute(_HANDLED).scalar_one())

    def produced(self) -> int:
        """Records the broker has acknowledged."""
        return sum(map(len, self.sent.values()))

    def in_flight(self) -> dict[str, int]:
        """Acknowledged records without an outcome yet, by the worker that owns their partition."""
        waiting: dict[str, int] = {}
        with self.engine.connect() as conn:
            for row in conn.execute(_OWNERS, {"topic": self.topic}):
                name = row.owner.split("/")[0]
                missing = len(self.sent.get(row.part, [])) - (row.last_offset + 1)
                waiting[name] = waiting.get(name, 0) + max(0, missing)
        return waiting

    def kill_worker(self, name: str) -> None:
        """End a worker as `kill -9` does; `wait_until` starts it again."""
        next(worker for worker in self.workers if worker.name == name).kill()

    def produce(self, rng: random.Random, count: int) -> None:
        """Send seeded events and wait until the broker has acknowledged each."""
        asyncio.run(self._produce(traffic(rng, count)))

    async def _produce(self, events: list[dict[str, object]]) -> None:
        """Send events and wait for the broker; each is recorded in its partition's order once it is acknowledged."""
        producer = AIOKafkaProducer(bootstrap_servers=self.places.kafka, acks="all", linger_ms=5)
        await producer.start()
        try:
            for event in events:
                value = json.dumps(event).encode()
                metadata = await producer.send(self.topic, value=value, key=str(event["account"]).encode())
                metadata.add_done_callback(lambda done, value=value: self._acknowledged(done.result(), value))
            await producer.flush()
        finally:
            await producer.stop()

    def _acknowledged(self, metadata: object, value: bytes) -> None:
        partition = self.sent.setdefault(metadata.partition, [])  # type: ignore[attr-defined]  # aiokafka's RecordMetadata
        offset = metadata.offset  # type: ignore[attr-defined]  # as above
        assert offset == len(partition), f"offset {offset} acknowledged after {len(partition)} records"
        partition.append(value)

    def wait_until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition, keeping the workers alive; AssertionError with their logs when it does not come."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {worker.name}\n{worker.tail()}" for worker in self.workers)
                count = f"handled {self.handled()} of {self.produced()}"
                raise AssertionError(f"{what}: not within {seconds} s; {count}\n{tails}")
            self._keep_alive()
            time.sleep(0.02)

    def _keep_alive(self) -> None:
        """Do the supervisor's part; and where a worker gave up waiting for partitions, let the whole group begin anew.

        The embedded broker may leave a member out for good that was killed amid a rebalance, however often it comes
        back. Once all members are gone and their sessions over, it has forgotten them.
        """
        if any(worker.hung for worker in self.workers):
            for worker in self.workers:
                worker.end()
                worker.process = None
            self.anew_at = time.monotonic() + self.session_timeout + 1.0
        if time.monotonic() >= self.anew_at:
            for worker in self.workers:
                worker.ensure()


@contextmanager
def world(places: Places, names: tuple[str, ...], session_timeout: float = 6.0) -> Iterator[World]:
    """Two (or more) workers on a fresh topic and database; everything is stopped at the end."""
    engine = create_engine(places.database)
    with engine.begin() as conn:
        conn.execute(_INSTALL, {"document": QUIET_POLICY})
        create_program(conn, PROGRAM, "live")
    topic = f"chaos-{uuid.uuid4().hex[:8]}"
    asyncio.run(ensure_topics(places.kafka, [topic], PARTITIONS, 1))
    secret = places.directory / "secret"
    secret.write_text(secrets.token_hex(32))
    environment = os.environ | {
        "POINTGUARD_DATABASE_URL": places.database,
        "POINTGUARD_REDIS_URL": places.redis,
        "POINTGUARD_KAFKA_URL": places.kafka,
        "POINTGUARD_LOG_ID": places.log_id,
        "POINTGUARD_TRUST_END_OFFSETS": "false",
        "POINTGUARD_SECRET_FILE": str(secret),
        "POINTGUARD_DATA_DIR": str(places.directory),
        "POINTGUARD_EVENTS_TOPIC": topic,
        "POINTGUARD_GROUP": topic,
        "POINTGUARD_SESSION_TIMEOUT": str(session_timeout),
    }
    workers = [Worker(name, environment, places.directory / f"{name}.log") for name in names]
    made = World(places, topic, engine, workers, session_timeout)
    try:
        for worker in workers:
            worker.start()
        yield made
    finally:
        for worker in workers:
            worker.end()
        engine.dispose()


def traffic(rng: random.Random, count: int, accounts: int = 400) -> list[dict[str, object]]:
    """Seeded events of a programme in which redemptions sometimes ask for more than there is."""
    events: list[dict[str, object]] = []
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for _ in range(count):
        account = f"m{rng.randrange(accounts)}"
        kind = rng.choices(("earn", "redeem", "account.created"), (6, 3, 1))[0]
        event: dict[str, object] = {
            "type": kind,
            "id": uuid.UUID(int=rng.getrandbits(128)).hex,
            "source": SOURCE,
            "program": PROGRAM,
            "account": account,
            "occurred_at": now,
            "device": f"d{rng.randrange(accounts)}",
            "ip": f"10.0.{rng.randrange(4)}.{rng.randrange(256)}",
        }
        if kind != "account.created":
            event["points"] = rng.randrange(1, 200)
        events.append(event)
    return events
