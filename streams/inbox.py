"""Where each event's identity and each partition's progress are kept: the exactly-once half of PostgreSQL.

All of it runs inside the batch transaction, in the one lock order of the house: progress rows first, then the inbox,
both sorted. Redelivered records stand at or below `last_offset` and are skipped; zombies carry an old epoch and are
fenced; what a producer sends twice meets its own row in the inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from detectors.event import canonical
from ledger import arrays
from streams.deadletters import pack
from streams.records import DeadLetter, Fenced, Hole, Incoming, Log, Span


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition as this worker owns it: its epoch, and the last offset whose effects are committed."""

    epoch: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """What the inbox said of a batch's events, as positions in the list that was asked about.

    `conflicts` are known identities with another body: never posted, always reported.
    """

    accepted: tuple[int, ...]
    duplicates: tuple[int, ...]
    conflicts: tuple[int, ...]


_CLAIM = text("""
INSERT INTO partition_progress (log_id, topic, part, last_offset, epoch, owner)
SELECT :log_id, :topic, part, start - 1, 1, :owner
  FROM unnest(CAST(:parts AS int[]), CAST(:starts AS bigint[])) AS t(part, start) ORDER BY part
ON CONFLICT (log_id, topic, part) DO UPDATE SET epoch = partition_progress.epoch + 1, owner = excluded.owner
RETURNING part, epoch, last_offset""")

_POSITIONS = text("SELECT part, last_offset FROM partition_progress WHERE log_id = :log_id AND topic = :topic")

_LOCK = text("""
SELECT part, last_offset, epoch FROM partition_progress
 WHERE log_id = :log_id AND topic = :topic AND part = ANY(:parts) ORDER BY part FOR UPDATE""")

_ADMIT = """
INSERT INTO event_inbox (source, event_id, log_id, topic, part, "offset", received_at, payload_hash)
SELECT source, event_id, %(log_id)s, %(topic)s, part, "offset", now(), hash
  FROM unnest(%(sources)s, %(ids)s, %(parts)s, %(offsets)s, %(hashes)s) AS t(source, event_id, part, "offset", hash)
 ORDER BY source, event_id, part, "offset"
ON CONFLICT (source, event_id) DO NOTHING RETURNING part, "offset" """

_KNOWN = text("""
SELECT source, event_id, payload_hash FROM event_inbox
 WHERE (source, event_id) IN (SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[])))""")

_DUPLICATE = text("""
INSERT INTO event_duplicate (log_id, topic, part, "offset", source, event_id)
SELECT :log_id, :topic, part, "offset", source, event_id
  FROM unnest(CAST(:parts AS int[]), CAST(:offsets AS bigint[]), CAST(:sources AS text[]), CAST(:ids AS text[]))
       AS t(part, "offset", source, event_id)
ON CONFLICT DO NOTHING""")

_DEAD = text("""
INSERT INTO dead_letter (log_id, topic, part, "offset", key, raw, source, event_id, error, field, detail, first_seen)
SELECT :log_id, :topic, part, "offset", key, raw, source, event_id, error, field, detail, now()
  FROM unnest(CAST(:parts AS int[]), CAST(:offsets AS bigint[]), CAST(:keys AS bytea[]), CAST(:raws AS bytea[]),
              CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:errors AS text[]), CAST(:fields AS text[]),
              CAST(:details AS text[])) AS t(part, "offset", key, raw, source, event_id, error, field, detail)
ON CONFLICT (log_id, topic, part, "offset") DO NOTHING""")

_ADVANCE = text("""
UPDATE partition_progress AS p SET last_offset = GREATEST(p.last_offset, t.last_offset)
  FROM unnest(CAST(:parts AS int[]), CAST(:lasts AS bigint[]), CAST(:epochs AS bigint[])) AS t(part, last_offset, epoch)
 WHERE p.log_id = :log_id AND p.topic = :topic AND p.part = t.part AND p.epoch = t.epoch""")


def claim(conn: Connection, log: Log, starts: Mapping[int, int], owner: str) -> dict[int, Claim]:
    """Take over partitions: every earlier owner's epoch ends here.

    `starts` gives the first offset each partition's log still holds; a partition never seen begins there, so that a
    hole at its very beginning shows, too.
    """
    parts = sorted(starts)
    rows = conn.execute(
        _CLAIM,
        {
            "log_id": log.log_id,
            "topic": log.topic,
            "owner": owner,
            "parts": parts,
            "starts": [starts[part] for part in parts],
        },
    )
    return {row.part: Claim(row.epoch, row.last_offset) for row in rows}


def positions(conn: Connection, log: Log) -> dict[int, int]:
    """The last committed offset of every partition of `log` that was ever claimed."""
    rows = conn.execute(_POSITIONS, {"log_id": log.log_id, "topic": log.topic})
    return {row.part: row.last_offset for row in rows}


def fence(conn: Connection, log: Log, spans: Sequence[Span]) -> dict[int, int]:
    """Lock the progress rows of a batch and give the last committed offset of each partition.

    Raises Fenced when a partition is no longer ours and Hole when the batch does not join on to what is committed.
    """
    asked = {"log_id": log.log_id, "topic": log.topic, "parts": sorted({span.part for span in spans})}
    current = {row.part: row for row in conn.execute(_LOCK, asked)}
    reached = {part: row.last_offset for part, row in current.items()}
    for span in spans:
        row = current.get(span.part)
        if row is None or row.epoch != span.epoch:
            raise Fenced(span.part, span.epoch, row.epoch if row else -1)
        if span.covers_from > reached[span.part] + 1:
            raise Hole(span.part, reached[span.part] + 1, span.covers_from - 1)
        reached[span.part] = max(reached[span.part], span.last_offset)
    return {part: row.last_offset for part, row in current.items()}


def admit(conn: Connection, log: Log, records: Sequence[Incoming], digest: Callable[[bytes], bytes]) -> Admitted:
    """Enter each decodable record's identity; say which are new, which came before and which came with another body.

    `digest` makes the stored hash of a canonical body.
    """
    if not records:
        return Admitted((), (), ())
    hashes = [digest(canonical(record.event)) for record in records if record.event is not None]
    identities = [(record.event.source, record.event.id) for record in records if record.event is not None]
    rows = arrays.fetch(
        conn,
        _ADMIT,
        {
            "log_id": log.log_id,
            "topic": log.topic,
            "sources": arrays.texts([source for source, _ in identities]),
            "ids": arrays.texts([event_id for _, event_id in identities]),
            "parts": arrays.integers([record.part for record in records]),
            "offsets": arrays.bigints([record.offset for record in records]),
            "hashes": arrays.byteas(hashes),
        },
    )
    new = {(row[0], row[1]) for row in rows}
    accepted = tuple(i for i, record in enumerate(records) if (record.part, record.offset) in new)
    if len(accepted) == len(records):
        return Admitted(accepted, (), ())
    rest = [i for i, record in enumerate(records) if (record.part, record.offset) not in new]
    known = {
        (row.source, row.event_id): bytes(row.payload_hash)
        for row in conn.execute(
            _KNOWN, {"sources": [identities[i][0] for i in rest], "ids": [identities[i][1] for i in rest]}
        )
    }
    return Admitted(
        accepted,
        tuple(i for i in rest if known[identities[i]] == hashes[i]),
        tuple(i for i in rest if known[identities[i]] != hashes[i]),
    )


def record_duplicates(conn: Connection, log: Log, records: Sequence[Incoming]) -> None:
    """Account for records that came again, so that every offset is explained."""
    if not records:
        return
    conn.execute(
        _DUPLICATE,
        {
            "log_id": log.log_id,
            "topic": log.topic,
            "parts": [record.part for record in records],
            "offsets": [record.offset for record in records],
            "sources": [record.source for record in records],
            "ids": [record.event.id if record.event else "" for record in records],
        },
    )


def bury(conn: Connection, log: Log, letters: Sequence[DeadLetter], seal: Callable[[bytes], bytes]) -> None:
    """Keep refused records with the reason; their raw bytes are sealed, for they may hold personal data."""
    if not letters:
        return
    records = [letter.record for letter in letters]
    conn.execute(
        _DEAD,
        {
            "log_id": log.log_id,
            "topic": log.topic,
            "parts": [record.part for record in records],
            "offsets": [record.offset for record in records],
            "keys": [record.key for record in records],
            "raws": [pack(record.headers, record.raw, seal) for record in records],
            "sources": [storable(record.source) for record in records],
            "ids": [None if record.event_id is None else storable(record.event_id) for record in records],
            "errors": [letter.error for letter in letters],
            "fields": [storable(letter.field) for letter in letters],
            "details": [storable(letter.detail) for letter in letters],
        },
    )


def advance(conn: Connection, log: Log, spans: Sequence[Span]) -> None:
    """Move the progress rows to the end of the batch; Fenced when one was taken over (cannot be, under the lock)."""
    last: dict[int, Span] = {}
    for span in spans:
        if span.part not in last or span.last_offset > last[span.part].last_offset:
            last[span.part] = span
    moved = conn.execute(
        _ADVANCE,
        {
            "log_id": log.log_id,
            "topic": log.topic,
            "parts": list(last),
            "lasts": [span.last_offset for span in last.values()],
            "epochs": [span.epoch for span in last.values()],
        },
    ).rowcount
    if moved != len(last):
        span = next(iter(last.values()))
        raise Fenced(span.part, span.epoch, -1)


def storable(value: str) -> str:
    """What is kept of a text that a refused record may have filled with anything."""
    # PostgreSQL text holds no NUL, and a refused record may say anything.
    return value.replace("\x00", "�")[:500]
