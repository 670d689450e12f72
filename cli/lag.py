"""`pointguard lag`: how far the workers are behind, and what else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from rich.table import Table
from sqlalchemy import Connection, text

from cli.context import DataDir, engine_of, out, say, settings_of
from config.settings import Settings
from streams.inbox import positions
from streams.kafka import cluster_id, log_bounds, partitions_of
from streams.records import Log

_WAITING = text("""
SELECT (SELECT count(*) FROM outbox) AS unsent, (SELECT min(created_at) FROM outbox) AS unsent_since,
       (SELECT count(*) FROM hold WHERE resolved_at IS NULL) AS held,
       (SELECT count(*) FROM dead_letter WHERE retried_at IS NULL) AS dead,
       (SELECT max(decided_at) FROM decision) AS decided_at, clock_timestamp() AS now""")


def lag(data_dir: DataDir = None) -> None:
    """Show, for each partition, the records that no worker has committed yet; and the outbox, open holds, dead letters.

    Committed means committed in PostgreSQL, which is the truth; what Kafka has noted for the group follows behind it.
    """
    settings = settings_of(data_dir)
    kafka_url = settings.required("kafka_url")
    engine = engine_of(settings.required("database_url"))
    log_id = settings.log_id or asyncio.run(cluster_id(kafka_url))
    table, unknown, total = Table(), False, 0
    for title in ("topic", "partition", "committed", "end of log", "lag"):
        table.add_column(title, justify="left" if title == "topic" else "right")
    with engine.connect() as conn:
        for topic in (settings.events_topic, settings.requests_topic):
            for part, committed, end in _positions(conn, settings, Log(log_id, topic)):
                behind = max(0, end - 1 - committed) if end is not None else None
                unknown, total = unknown or behind is None, total + (behind or 0)
                cells = (str(part), f"{committed:,}", *("?" if n is None else f"{n:,}" for n in (end, behind)))
                table.add_row(topic, *cells)
        waiting = conn.execute(_WAITING).one()
    engine.dispose()
    out.print(table)
    if unknown:
        say("This broker does not tell where its log ends: “?” is not 0. The workers' metrics tell what they hold.")
    else:
        say(f"{total:,} records wait.")
    if waiting.decided_at:
        say(f"The newest decision is {(waiting.now - waiting.decided_at).total_seconds():,.1f} s old.")
    age = (
        f", the oldest for {(waiting.now - waiting.unsent_since).total_seconds():,.1f} s"
        if waiting.unsent_since
        else ""
    )
    say(f"Outbox: {waiting.unsent:,} messages{age}. Open holds: {waiting.held:,}. Dead letters: {waiting.dead:,}.")


def _positions(conn: Connection, settings: Settings, where: Log) -> Iterator[tuple[int, int, int | None]]:
    """Each partition with the last committed offset (-1: none) and the end of its log (None: not told)."""
    kafka_url = settings.required("kafka_url")
    parts = asyncio.run(partitions_of(kafka_url, where.topic))
    bounds = asyncio.run(log_bounds(kafka_url, where.topic, parts)) if parts else {}
    committed = positions(conn, where)
    for part in parts:
        first, end = bounds[part]
        at = committed.get(part, first - 1)
        # An end before what is committed cannot be: such a broker's ends say nothing.
        told = settings.trust_end_offsets is not False and end > at
        yield part, at, end if told else None
