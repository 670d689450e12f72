"""The audit link of a batch: the last thing written before its progress, in the chain of its first partition.

The lock on that partition's progress row, which the batch holds anyway, keeps the chain in order, so no batch waits
here for another. The link covers every decision and all that the ledger wrote of it; what was refused it counts and
digests, without the bytes, which are kept for a shorter time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from ledger import chain_store
from ledger.chain import BATCH, digest, entry_of, marks_of
from ledger.chain_cover import Cover
from streams.decisions import micros
from streams.inbox import storable
from streams.records import DeadLetter, Log, Span


def seal(
    conn: Connection, log: Log, spans: Sequence[Span], cover: Cover, letters: Sequence[DeadLetter], at: datetime
) -> None:
    """Add the batch's link, unless it wrote nothing. Its progress rows are locked."""
    ids, hashes = cover.leaves()
    if not ids and not letters:
        return
    detail = {
        "log": log.log_id,
        "topic": log.topic,
        "spans": [[span.part, span.covers_from, span.last_offset, span.epoch] for span in spans],
        "letters": len(letters),
        "letters_digest": digest(sorted(_refused(letter) for letter in letters)) if letters else "",
    }
    said = {"act": BATCH, "actor": "worker", "at": micros(at) // 1000, "detail": detail}
    chain = chain_store.log_chain(log.log_id, log.topic, min(span.part for span in spans))
    chain_store.append(conn, chain, entry_of(hashes, ids, said), marks_of(hashes))


def _refused(letter: DeadLetter) -> tuple[int, int, str, str]:
    record = letter.record
    return record.part, record.offset, storable(record.source), letter.error
