"""Messages that leave with the transaction that caused them: written in it, published by the relay afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ledger.arrays import byteas, run, texts


@dataclass(frozen=True, slots=True)
class Message:
    """One message for a topic; `key` decides its partition."""

    topic: str
    key: bytes
    value: bytes


_ENQUEUE = """
INSERT INTO outbox (topic, key, value, created_at)
SELECT topic, key, value, now() FROM unnest(%(topics)s, %(keys)s, %(values)s) AS t(topic, key, value)"""

# Per-row state and no cursor: a cursor over an identity column would skip rows of transactions that commit late.
_TAKE = text("""
DELETE FROM outbox WHERE outbox_id = ANY(ARRAY(
    SELECT outbox_id FROM outbox ORDER BY outbox_id LIMIT :most FOR UPDATE SKIP LOCKED))
RETURNING outbox_id, topic, key, value""")


def enqueue(conn: Connection, messages: Sequence[Message]) -> None:
    """Add messages to the outbox of the running transaction."""
    if messages:
        run(
            conn,
            _ENQUEUE,
            {
                "topics": texts([message.topic for message in messages]),
                "keys": byteas([message.key for message in messages]),
                "values": byteas([message.value for message in messages]),
            },
        )


def take(conn: Connection, most: int) -> list[Message]:
    """Take the oldest messages nobody else is taking; they are gone when the caller commits, after publishing them.

    A crash between publishing and the commit publishes them again: the contract of both outgoing topics is at least
    once, under one event id.
    """
    rows = sorted(conn.execute(_TAKE, {"most": most}), key=lambda row: int(row.outbox_id))
    return [Message(row.topic, bytes(row.key), bytes(row.value)) for row in rows]
