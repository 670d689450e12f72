"""Publishes the heads of the audit chains, signed, where the database's administrators cannot reach: file and topic.

The relay does it once a minute. Anchors go out before our own copy of them is committed, so a crash between the two
repeats one, which harms nothing. What moved since the last anchor is known from memory, not from the database: nobody
can suppress an anchor by telling the database that it was made.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine, text

from config.settings import ANCHOR_KEY, ANCHOR_PUBLIC, write_private
from ledger import chain_store
from ledger.anchors import key_id, make_anchor, public_of, sign
from ledger.chain_store import Act, record
from streams.errors import described
from streams.kafka import partitions_of

_QUIET_POLLS = 3

log = structlog.get_logger()

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('pointguard anchors', 7236))")
_LAST = text("""
SELECT number, (signed::json)->>'key' AS key FROM audit_anchor ORDER BY number DESC LIMIT 1""")
_KEEP = text("INSERT INTO audit_anchor (number, at, signed) VALUES (:number, to_timestamp(:at), :signed)")
_KEPT = text("SELECT signed FROM audit_anchor ORDER BY number")


@dataclass(frozen=True)
class Anchoring:
    """With which key anchors are signed, to which topic and file they go, and how often."""

    key: bytes
    topic: str
    path: Path
    seconds: float = 60.0


@dataclass(frozen=True)
class _Made:
    number: int
    at: float
    line: bytes
    seqs: dict[str, int]


class Anchorer:
    """Makes one relay's anchors."""

    def __init__(self, engine: Engine, producer: AIOKafkaProducer, params: Anchoring) -> None:
        self._engine, self._producer, self._params = engine, producer, params
        self._anchored: dict[str, int] = {}

    async def anchor(self) -> int:
        """Publish the heads that moved since this relay's last anchor; how many. What the broker raises goes on up.

        If only the file refuses, the same heads are published again the next time.
        """
        conn = await asyncio.to_thread(self._engine.connect)
        try:
            made = await asyncio.to_thread(self._make, conn)
            if made is None:
                return 0
            await self._producer.send_and_wait(self._params.topic, value=made.line)
            filed = await asyncio.to_thread(_append, self._params.path, made.line)
            await asyncio.to_thread(self._keep, conn, made)
        finally:
            await asyncio.to_thread(conn.close)
        if not filed:
            return 0
        self._anchored.update(made.seqs)
        return len(made.seqs)

    def _make(self, conn: Connection) -> _Made | None:
        conn.execute(_LOCK)
        last = conn.execute(_LAST).one_or_none()
        key = key_id(public_of(self._params.key))
        if last is None or last.key != key:
            changed = Act("anchor", "relay", "anchor.key_changed", {"from": last.key if last else None, "to": key})
            record(conn, changed)
        moved = [head for head in chain_store.heads(conn) if self._anchored.get(head.chain) != head.seq]
        if not moved:
            return None
        number, at = (last.number if last else 0) + 1, time.time()
        line = sign(make_anchor(number, int(at * 1000), moved), self._params.key)
        return _Made(number, at, line, {head.chain: head.seq for head in moved})

    def _keep(self, conn: Connection, made: _Made) -> None:
        conn.execute(_KEEP, {"number": made.number, "at": made.at, "signed": made.line.decode()})
        conn.commit()


def ensure_key(data_dir: Path) -> None:
    """Make the key that signs anchors, and its public half, at the first start of an embedded stack."""
    path = data_dir / ANCHOR_KEY
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        write_private(data_dir / ANCHOR_PUBLIC, key.public_key().public_bytes_raw().hex().encode() + b"\n")
        write_private(path, key.private_bytes_raw().hex().encode() + b"\n")


def kept(conn: Connection) -> list[bytes]:
    """Our own copies of the anchors."""
    return [signed.encode() for signed in conn.execute(_KEPT).scalars()]


def read_file(path: Path) -> list[bytes]:
    """The anchors of a file, one a line. Raises OSError."""
    return path.read_bytes().splitlines()


async def read_topic(kafka_url: str, topic: str) -> list[bytes]:
    """The anchors still on their topic, from its beginning until nothing more comes for a while."""
    parts = [TopicPartition(topic, part) for part in await partitions_of(kafka_url, topic)]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_url, enable_auto_commit=False)
    lines: list[bytes] = []
    await consumer.start()
    try:
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        quiet = 0
        while quiet < _QUIET_POLLS and parts:
            batches = await consumer.getmany(timeout_ms=1000)
            quiet = 0 if batches else quiet + 1
            lines += [record.value for records in batches.values() for record in records if record.value is not None]
    finally:
        await consumer.stop()
    return lines


def _append(path: Path, line: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.error("the file of anchors refuses", error=described(error))  # noqa: TRY400 -- said by name
        return False
    return True
