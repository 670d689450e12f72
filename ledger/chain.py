"""The audit chain's mathematics: canonical rows, Merkle roots, links, and what is wrong with a chain. Pure.

Whatever a transaction writes under the ids it took is covered by one link. A leaf is the hash of all rows of one id, a
link's `root` the Merkle root over its leaves (RFC 6962), and `h_n = SHA256(h_(n-1) || seq || entry)`, seq being eight
bytes, big-endian, and entry canonical JSON. So a changed, added or missing row changes a leaf, a changed, missing or
moved link breaks the links behind it, and only a chain rewritten to its end agrees with itself again: signed anchors
(`ledger.anchors`), kept elsewhere, tell that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import repeat
from typing import Any, NamedTuple

import msgspec

GENESIS = bytes(32)
"""What the first link of a chain follows."""
FORM = 1
"""The version of the canonical form; a link says under which its leaves were made."""
BATCH = "batch"
"""The act of a batch of events; its detail says log, topic and spans [partition, first offset, last offset, epoch]."""
MARK_BYTES = 8
"""So much of each leaf is kept beside its link, to name the id whose rows changed."""

Row = tuple[Any, ...]
Rows = Mapping[int, object]
"""The rows of one table by the id that covers them: a row, or a list of rows in the order of their key."""

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder(order="sorted").encode


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a link says: who did what and when (epoch milliseconds), and which rows it covers.

    `ids` are the covered ids as runs [first, last], ascending; `count` is how many, `root` the Merkle root over their
    leaves, in hexadecimal. `detail` says more of the act, without floats and without personal data.
    """

    act: str
    actor: str
    at: int
    count: int
    detail: dict[str, Any]
    form: int
    ids: tuple[tuple[int, int], ...]
    root: str


_read_entry = msgspec.json.Decoder(LinkEntry).decode


class Link(NamedTuple):
    """A link as stored; `marks` are the first bytes of each leaf, in the order of the ids."""

    chain: str
    seq: int
    entry: bytes
    hash: bytes
    marks: bytes


class Head(NamedTuple):
    """Where a chain stands."""

    chain: str
    seq: int
    hash: bytes


class Fault(NamedTuple):
    """Something wrong with a chain: its name, what it is about, and what was seen."""

    kind: str
    subject: str
    detail: str


def canonical(entry: LinkEntry) -> bytes:
    """Encode an entry as canonical JSON: sorted keys, no spaces, UTF-8."""
    return _json(entry)


def parse(entry: bytes) -> LinkEntry:
    """Decode an entry; ValueError when it is not canonical JSON of one."""
    parsed = _read_entry(entry)
    if canonical(parsed) != entry:
        raise ValueError("not in canonical form")
    return parsed


def leaves(ids: Sequence[int], tables: Sequence[Rows]) -> list[bytes]:
    """Hash the rows of each id, over all covered tables in their order; an id may have no row in some of them."""
    columns = [map(table.get, ids) if table else repeat(None) for table in tables]
    return [sha256(b"\x00" + _pack(rows)).digest() for rows in zip(ids, *columns, strict=False)]


def covered_ids(tables: Sequence[Rows]) -> list[int]:
    """The ids that have a row in any of the tables, ascending."""
    ids: set[int] = set()
    for table in tables:
        ids.update(table)
    return sorted(ids)


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962 over leaves that are hashed already."""
    if not hashes:
        return sha256(b"").digest()
    level = hashes
    while len(level) > 1:
        above = [sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def digest(rows: Sequence[Row]) -> str:
    """The hash of rows in their order, in hexadecimal."""
    return sha256(_pack(rows)).hexdigest()


def link_hash(previous: bytes, seq: int, entry: bytes) -> bytes:
    """The hash of a link behind `previous`."""
    return sha256(previous + seq.to_bytes(8, "big") + entry).digest()


def marks_of(hashes: Iterable[bytes]) -> bytes:
    """What is kept of the leaves beside their link."""
    return b"".join([leaf[:MARK_BYTES] for leaf in hashes])


def runs(ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending ids as runs of consecutive ones, each (first, last)."""
    if not ids:
        return ()
    if ids[-1] - ids[0] == len(ids) - 1:
        return ((ids[0], ids[-1]),)
    cuts = [n for n in range(1, len(ids)) if ids[n] != ids[n - 1] + 1]
    return tuple((ids[low], ids[high - 1]) for low, high in zip([0, *cuts], [*cuts, len(ids)], strict=True))


def ids_of(spans: Iterable[tuple[int, int]]) -> list[int]:
    """The ids of runs, in order."""
    return [one for first, last in spans for one in range(first, last + 1)]


def entry_of(hashes: Sequence[bytes], ids: Sequence[int], said: Mapping[str, Any]) -> LinkEntry:
    """The entry over these leaves; `said` holds act, actor, at and detail."""
    return LinkEntry(count=len(ids), form=FORM, ids=runs(ids), root=merkle_root(hashes).hex(), **said)


def follow(chain: str, links: Iterable[Link], seq: int = 0, reached: bytes = GENESIS) -> Iterator[Fault]:
    """Find what is wrong with the links behind link `seq`, whose hash is `reached`; they come in order of their seq.

    Each link is judged by what is stored of the one before it, so that a fault shows where it is.
    """
    for link in links:
        subject = f"{chain} link {link.seq}"
        if link.seq != seq + 1:
            yield Fault("link_missing", subject, f"comes behind link {seq}")
        elif link_hash(reached, link.seq, link.entry) != link.hash:
            yield Fault("link_differs", subject, "its hash is not that of its entry behind the link before it")
        try:
            parsed = parse(link.entry)
        except ValueError as error:
            yield Fault("link_unreadable", subject, str(error))
        else:
            yield from _inconsistent(subject, parsed, link)
        seq, reached = link.seq, link.hash


def _inconsistent(subject: str, entry: LinkEntry, link: Link) -> Iterator[Fault]:
    flat = [bound for run in entry.ids for bound in run]
    covered = sum(last - first + 1 for first, last in entry.ids)
    if flat != sorted(flat) or covered != entry.count or len(link.marks) != MARK_BYTES * entry.count:
        yield Fault(
            "link_inconsistent",
            subject,
            f"{entry.count} ids are said, {covered} listed, {len(link.marks) // MARK_BYTES} marked",
        )
    elif entry.form != FORM:
        yield Fault("link_inconsistent", subject, f"its form {entry.form} is unknown to this version")


def compare(entry: LinkEntry, marks: bytes, found: Mapping[int, bytes]) -> Iterator[Fault]:
    """Find the ids whose rows are not as their link covers them; `found` are the leaves made of the stored rows."""
    ids = ids_of(entry.ids)
    missing = [one for one in ids if one not in found]
    for one in missing:
        yield Fault("covered_row_missing", f"id {one}", "its link covers rows that are gone")
    if missing or merkle_root([found[one] for one in ids]).hex() == entry.root:
        if not missing and marks != marks_of([found[one] for one in ids]):
            yield Fault("link_inconsistent", f"ids {ids[0]} to {ids[-1]}", "the marks are not those of the leaves")
        return
    changed = [
        one for n, one in enumerate(ids) if found[one][:MARK_BYTES] != marks[n * MARK_BYTES : (n + 1) * MARK_BYTES]
    ]
    for one in changed:
        yield Fault("covered_row_differs", f"id {one}", "a row of it is not as it was written")
    if not changed:
        yield Fault("covered_row_differs", f"ids {ids[0]} to {ids[-1]}", "rows are not as written, and marks agree")
