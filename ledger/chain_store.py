"""Appends to the audit chain, in the transaction that wrote what the link covers.

Each partition of the log has a chain of its own, whose order the lock on its progress row keeps anyway, and so has each
kind of act (review, adjustment, policy …), kept in order by an advisory lock that is taken last and held to the commit.
So no link waits for another that has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from ledger import chain_rows
from ledger.arrays import fetch
from ledger.chain import GENESIS, Head, LinkEntry, canonical, covered_ids, entry_of, leaves, marks_of, runs
from ledger.ids import IdBlocks

BEGUN = "chain"
"""The chain whose first link covers what was there before the chain was."""


@dataclass(frozen=True, slots=True)
class Act:
    """Something people or timers did: which `chain` of acts it goes to, who did it, what it was, and its details.

    Details are integers, texts, truth values, None, and lists and mappings of these; never personal data.
    """

    chain: str
    actor: str
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class NotedIds(IdBlocks):
    """Ids from another allocator, remembering which were given: what `record` needs to know of a transaction."""

    def __init__(self, ids: IdBlocks) -> None:
        self._ids = ids
        self.taken: list[int] = []

    def take(self, conn: Connection, count: int) -> list[int]:
        """Take `count` new ids, ascending."""
        given = self._ids.take(conn, count)
        self.taken += given
        return given


# One statement: the head is read and followed in the snapshot behind the lock that keeps the chain's order.
_APPEND = """
INSERT INTO audit_link (chain, seq, entry, hash, marks, first_id, last_id)
SELECT %(chain)s, next.seq, %(entry)s,
       sha256(coalesce(head.hash, %(genesis)s) || int8send(next.seq) || convert_to(%(entry)s, 'UTF8')), %(marks)s,
       %(first)s::bigint, %(last)s::bigint
  FROM (SELECT) one
  LEFT JOIN LATERAL (SELECT seq, hash FROM audit_link WHERE chain = %(chain)s ORDER BY seq DESC LIMIT 1) head ON true
 CROSS JOIN LATERAL (SELECT coalesce(head.seq, 0) + 1 AS seq) next
RETURNING chain, seq, hash"""

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:chain, 7236))")
_NOW = text("SELECT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint")

_HEADS = text("""
WITH RECURSIVE chains AS (
    (SELECT chain FROM audit_link ORDER BY chain LIMIT 1)
    UNION ALL
    SELECT (SELECT l.chain FROM audit_link l WHERE l.chain > c.chain ORDER BY l.chain LIMIT 1) FROM chains c
     WHERE c.chain IS NOT NULL)
SELECT c.chain, h.seq, h.hash FROM chains c
 CROSS JOIN LATERAL (SELECT seq, hash FROM audit_link l WHERE l.chain = c.chain ORDER BY seq DESC LIMIT 1) h
 WHERE c.chain IS NOT NULL ORDER BY c.chain""")

_ANY = text("SELECT 1 FROM audit_link WHERE chain = :chain LIMIT 1")
_ALL_IDS = text(f"SELECT DISTINCT id FROM ({chain_rows.IDS}) ids ORDER BY id")  # noqa: S608 -- made of constants only


def log_chain(log_id: str, topic: str, part: int) -> str:
    """The name of a log partition's chain."""
    return f"log:{log_id}:{topic}:{part}"


def act_chain(name: str) -> str:
    """The name of a chain of acts."""
    return f"act:{name}"


def append(conn: Connection, chain: str, entry: LinkEntry, marks: bytes) -> Head:
    """Add a link. The caller holds the lock that keeps this chain's order, and commits soon."""
    rows = fetch(
        conn,
        _APPEND,
        {
            "chain": chain,
            "entry": canonical(entry).decode(),
            "genesis": GENESIS,
            "marks": marks,
            "first": entry.ids[0][0] if entry.ids else None,
            "last": entry.ids[-1][1] if entry.ids else None,
        },
    )
    return Head(*rows[0])


def record(conn: Connection, act: Act, ids: Sequence[int] = ()) -> Head:
    """Add the link of an act, over all rows that its transaction has written under `ids`: read back, so call it last.

    Takes the lock of the act's chain and keeps it until the caller commits.
    """
    chain = act_chain(act.chain)
    hashes: dict[int, bytes] = {}
    for low, high in _chunks(runs(sorted(set(ids)))):
        tables = chain_rows.read(conn, low, high)
        found = covered_ids(tables)
        hashes.update(zip(found, leaves(found, tables), strict=True))
    covered = sorted(hashes)
    made = [hashes[one] for one in covered]
    conn.execute(_LOCK, {"chain": chain})
    now: int = conn.execute(_NOW).scalar_one()
    said = {"act": act.what, "actor": act.actor, "at": now, "detail": dict(act.detail)}
    return append(conn, chain, entry_of(made, covered, said), marks_of(made))


def begin(conn: Connection) -> bool:
    """Cover whatever was written before there was a chain, unless that was done; while nothing writes (a migration)."""
    if conn.execute(_ANY, {"chain": act_chain(BEGUN)}).first() is not None:
        return False
    ids = list(conn.execute(_ALL_IDS).scalars())
    record(conn, Act(BEGUN, "pointguard migrate", "chain.begun"), ids)
    return True


def heads(conn: Connection) -> list[Head]:
    """Where every chain stands, by name."""
    return [Head(row.chain, row.seq, bytes(row.hash)) for row in conn.execute(_HEADS)]


def _chunks(spans: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The spans [first, last] as ranges (low, high] of at most `chain_rows.CHUNK` ids."""
    for first, last in spans:
        for low in range(first - 1, last, chain_rows.CHUNK):
            yield low, min(low + chain_rows.CHUNK, last)
