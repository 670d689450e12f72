"""The stages of a worker over real PostgreSQL and Redis, fed with records by hand: no broker, no clock, no waiting."""

import asyncio
import json
import secrets
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import ConsumerRecord
from sqlalchemy import Engine, Row, create_engine, text

from alerts.metrics import Metrics
from config.settings import Settings
from detectors.entity import Keys
from detectors.velocity_names import KINDS, OTHERS, ordered
from ledger.ids import IdBlocks
from ledger.programs import create_program
from ledger.verify import verify
from streams import inbox
from streams.pipeline import Committed, Prepared
from streams.records import Log, Span
from streams.worker import Stages, compose

T = TypeVar("T")
LOG = Log("life-1", "points.events")
LIVE, SIMULATION = "shop", "lab"
NOW_MS = 1_772_330_400_000
"""The records' time unless a test says otherwise: 2026-03-01T02:00:00Z, which is the `occurred_at` of `event`, too."""

_DAY = (
    f"velocity.{kind}.{value}_{window}"
    for kind, windows in ((KINDS[0], ("1h", "24h")), *((kind, ("24h",)) for kind in KINDS[1:]))
    for value in ("count", "sum", *OTHERS[kind])
    for window in windows
)
_DEVICE = (f"velocity.device.{value}" for value in ("count_1m", "count_1h", "count_7d", "accounts_1h"))
WATCHED = (*ordered(_DAY), *_DEVICE)
"""Velocity names that the policy demands, by a rule on trial that never fires."""
POLICY = f"""
version: 1
base: -3.0
thresholds: {{hold: 0.5, reject: 0.999}}
rules:
  - id: large
    expression: event.points >= limit
    limit: 1000
    weight: 4.0
    shows: [event.points]
    reason: {{en: "{{value}} points (limit {{limit}})", zh: "{{value}} 积分（上限 {{limit}}）"}}
  - id: fresh_account
    expression: account.seconds_since_signup <= limit
    limit: 60
    weight: 1.25
    shows: [account.seconds_since_signup]
    reason: {{en: "{{value|duration}} after sign-up", zh: "注册后 {{value|duration}}"}}
  - id: busy_device
    expression: velocity.device.accounts_7d >= limit
    limit: 3
    weight: 3.5
    shows: [velocity.device.accounts_7d]
    reason: {{en: "{{value}} accounts on the device", zh: "设备上有 {{value}} 个账户"}}
  - id: forbidden
    expression: event.points >= 100000
    outcome: reject
    reason: {{en: "more than anybody may move", zh: "超出任何人的限额"}}
  - id: watches_everything
    mode: shadow
    expression: "{" + ".join(WATCHED)} > 1e18"
    weight: 1.0
    reason: {{en: "never", zh: "从不"}}
models:
  hst: {{cap: 0.8, above: 0.5}}
  loda: {{cap: 0.8, above: 0.5}}
cold_limit_points: 500
max_points: 1000000
holds:
  earn: {{due_seconds: 600, on_timeout: post}}
  redeem: {{due_seconds: 600, on_timeout: void}}
  transfer: {{due_seconds: 600, on_timeout: void}}
  adjust: {{due_seconds: 600, on_timeout: escalate}}
training: {{maturity_seconds: 0, share: 1.0}}
"""

_INSTALL = text("INSERT INTO policy (version, document, active, activated_at) VALUES (1, :document, true, now())")

_ADD_POLICY = text("INSERT INTO policy (version, document, active) VALUES (:version, :document, false)")


def event(kind: str = "earn", **changes: Any) -> dict[str, Any]:
    """The fields of an event of the live programme; `points` unless it only informs, None leaves a field out."""
    fields = {
        "type": kind,
        "id": f"e-{secrets.token_hex(6)}",
        "source": "pos",
        "program": LIVE,
        "account": "ann",
        "occurred_at": "2026-03-01T02:00:00Z",
    }
    if kind in {"earn", "redeem", "transfer", "adjust"}:
        fields["points"] = 100  # type: ignore[assignment]  # fields are of many types
    return {name: value for name, value in (fields | changes).items() if value is not None}


def encoded(fields: Mapping[str, Any]) -> bytes:
    """An event's fields as a producer sends them."""
    return json.dumps(fields, ensure_ascii=False).encode()


@dataclass
class Partition:
    """One partition of the log: makes records of values, each at the next offset."""

    number: int = 0
    topic: str = LOG.topic
    next_offset: int = 0

    def record(
        self, value: Mapping[str, Any] | bytes | None, headers: Sequence[tuple[str, Any]] = (), time_ms: int = NOW_MS
    ) -> ConsumerRecord[bytes, bytes]:
        """The next record, as aiokafka gives it; fields are sent as JSON, anything else as it is."""
        raw = encoded(value) if isinstance(value, Mapping) else value
        offset, self.next_offset = self.next_offset, self.next_offset + 1
        return ConsumerRecord(self.topic, self.number, offset, time_ms, 0, b"k", raw, None, 1, 0, tuple(headers))

    def records(self, *values: Mapping[str, Any] | bytes | None) -> list[ConsumerRecord[bytes, bytes]]:
        """The next records."""
        return [self.record(value) for value in values]


@dataclass
class Desk:
    """A worker's stages with partitions claimed, and ways to look at what they wrote."""

    engine: Engine
    settings: Settings
    stages: Stages
    metrics: Metrics
    runner: asyncio.Runner
    log: Log = LOG
    epochs: dict[int, int] = field(default_factory=dict)
    part: Partition = field(default_factory=Partition)
    ids: IdBlocks = field(default_factory=IdBlocks)

    @property
    def keys(self) -> Keys:
        """The keys that the stages derive from the same secret."""
        return Keys(self.settings.secret())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the desk's own loop, to which its connections belong."""
        return self.runner.run(work)

    def claim(self, *parts: int) -> None:
        """Take partitions over, as at an assignment."""
        with self.engine.begin() as conn:
            claims = inbox.claim(conn, self.log, dict.fromkeys(parts, 0), "desk")
        self.epochs |= {part: claimed.epoch for part, claimed in claims.items()}

    def beside(self, log: Log) -> "Desk":
        """Another worker's stages for another log, over the same database and store; partition 0 claimed."""
        stages = compose(self.settings, log, self.engine, self.metrics)
        stages.observer._store = self.stages.observer._store
        other = Desk(
            self.engine, self.settings, stages, self.metrics, self.runner, log, part=Partition(topic=log.topic)
        )
        other.claim(0)
        return other

    def span(self, records: Sequence[Any], covers_from: int | None = None) -> Span:
        """The span of records of one partition."""
        part = records[0].partition
        start = records[0].offset if covers_from is None else covers_from
        return Span(part, start, records[-1].offset, self.epochs[part])

    def prepare(self, records: Sequence[Any], *spans: Span) -> Prepared:
        """Decode and observe records of one partition; nothing counts as committed yet."""
        return self.run(self.stages.pipeline.prepare(records, spans or (self.span(records),), {}))

    def deliver(self, records: Sequence[Any], *spans: Span) -> Committed:
        """Prepare and commit records of one partition."""
        return self.stages.pipeline.commit(self.prepare(records, *spans))

    def send(self, *values: Mapping[str, Any] | bytes | None) -> Committed:
        """Deliver values as one batch, at the next offsets of the desk's partition."""
        return self.deliver(self.part.records(*values))

    def rows(self, query: str, **values: Any) -> Sequence[Row[Any]]:
        """What the database answers."""
        with self.engine.connect() as conn:
            return conn.execute(text(query), values).all()

    def one(self, query: str, **values: Any) -> Any:
        """The single value of a query."""
        (row,) = self.rows(query, **values)
        return row[0]

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.one(f"SELECT count(*) FROM {table}"))  # noqa: S608  # names are written in the tests

    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Outcome and code of every decision, by event id."""
        return {row.event_id: (row.outcome, row.code) for row in self.rows("SELECT * FROM decision")}

    def balance(self, account: str, program: str = LIVE) -> int:
        """Points posted to a member and not taken out again."""
        query = """SELECT coalesce(sum(posted_cr - posted_dr), 0)::bigint FROM account
                    WHERE kind = 'member' AND program = :program AND name = :account"""
        return int(self.one(query, program=program, account=account))

    def progress(self, part: int = 0) -> int:
        """The last offset whose effects are committed."""
        return int(self.one("SELECT last_offset FROM partition_progress WHERE part = :part", part=part))

    def said(self, topic: str) -> list[dict[str, Any]]:
        """Messages waiting in the outbox for a topic, in order."""
        rows = self.rows("SELECT value FROM outbox WHERE topic = :topic ORDER BY outbox_id", topic=topic)
        return [json.loads(bytes(row.value)) for row in rows]

    def effects(self) -> dict[str, int]:
        """How much stands in every table that a batch writes."""
        tables = ("event_inbox", "event_duplicate", "dead_letter", "decision", "txn", "entry", "hold", "outbox")
        return {table: self.count(table) for table in tables}

    def verified(self) -> None:
        """Let the ledger replay itself; AssertionError with what it finds."""
        found = verify(self.engine)
        assert found.ok, found.discrepancies


@contextmanager
def open_desk(
    database: str, redis_url: str, directory: Path, policy: str = POLICY, *, warm: bool = True
) -> Iterator[Desk]:
    """Stages over fresh services, a live and a simulation programme, partition 0 claimed and velocity warm."""
    secret = directory / "secret"
    secret.write_text(secrets.token_hex(32))
    settings = Settings(database_url=database, redis_url=redis_url, secret_file=secret, data_dir=directory)
    engine = create_engine(database)
    with engine.begin() as conn:
        conn.execute(_INSTALL, {"document": policy})
        create_program(conn, LIVE, "live")
        create_program(conn, SIMULATION, "simulation")
    metrics = Metrics()
    with asyncio.Runner() as runner:
        stages = compose(settings, LOG, engine, metrics)
        made = Desk(engine, settings, stages, metrics, runner)
        made.claim(0)
        if warm:
            made.run(stages.observer.warm_up())
        try:
            yield made
        finally:
            runner.run(stages.observer._store.close())
            engine.dispose()


def activate(desk: Desk, document: str, version: int = 2) -> None:
    """Make another policy the active one, and let the stages take it over."""
    document = document.replace("version: 1\n", f"version: {version}\n", 1)
    with desk.engine.begin() as conn:
        conn.execute(_ADD_POLICY, {"version": version, "document": document})
        conn.execute(text("UPDATE policy SET active = (version = :version)"), {"version": version})
    desk.stages.catalog.refresh()
    assert desk.stages.catalog.judge.policy.policy.version == version


def velocity_of(prepared: Prepared, name: str) -> list[float]:
    """One velocity feature of every record of a batch."""
    column = prepared.judge.policy.layout.velocity.index(f"velocity.{name}")
    return [float(value) for value in prepared.velocity[:, column]]
