"""Verifies the audit chain against the database: every link, and every row that a link covers or should cover.

Links are followed chain by chain. Then the covered tables are read from the highest id down, range by range: a link is
met where its last id lies, and judged when the range with its first id was read, so that whatever a chain covers is
read once and hardly anything is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledger import chain_rows, chain_store
from ledger.anchors import contradictions
from ledger.chain import (
    BATCH,
    GENESIS,
    Fault,
    Head,
    Link,
    LinkEntry,
    Row,
    compare,
    covered_ids,
    digest,
    follow,
    leaves,
    parse,
)

Tell = Callable[[Fault], None]
Span = tuple[int, int]
"""Ids above the first and up to the second."""


class LogSpan(NamedTuple):
    """Offsets of a log partition above `low` and up to `high`."""

    log_id: str
    topic: str
    part: int
    low: int
    high: int


KINDS = (
    "link_missing",
    "link_differs",
    "link_unreadable",
    "link_inconsistent",
    "covered_row_missing",
    "covered_row_differs",
    "covered_twice",
    "not_in_chain",
    "letters_differ",
    "chain_cut",
    "chain_rewritten",
    "anchor_not_signed",
    "anchor_missing",
)
"""Everything that can be wrong with chain and anchors."""

_PAGE = 2000
_GAP = 2 * chain_rows.CHUNK  # runs that lie closer are read as one range: a page of ids costs about what a query does

_LINKS = text("""
SELECT chain, seq, entry, hash, marks, first_id, last_id FROM audit_link
 WHERE chain = :chain AND seq > :after ORDER BY seq LIMIT :most""")
_HASHES = text("SELECT seq, hash FROM audit_link WHERE chain = :chain AND seq = ANY(CAST(:seqs AS bigint[]))")
_BOUNDS = text(f"""
SELECT coalesce(min(id), 0) - 1, coalesce(max(id), -1)
  FROM ({chain_rows.IDS} UNION ALL SELECT first_id FROM audit_link UNION ALL SELECT last_id FROM audit_link) ids
""")  # noqa: S608 -- made of constants only
_LETTERS = text("""
SELECT part, "offset", coalesce(source, ''), error FROM dead_letter
 WHERE log_id = :log_id AND topic = :topic AND part = :part AND "offset" > :low AND "offset" <= :high""")
_ENDING = text("SELECT chain, seq, entry, marks FROM audit_link WHERE last_id > :low AND last_id <= :high")
_ACROSS = text("SELECT chain, seq, entry, marks FROM audit_link WHERE last_id > :high AND first_id <= :high")


@dataclass(frozen=True, slots=True)
class Walked:
    """What was walked: how many links, where every chain stands, and what these links cover.

    `runs` are exactly the covered ids, `logs` the offsets.
    """

    links: int
    heads: tuple[Head, ...]
    runs: tuple[Span, ...]
    logs: tuple[LogSpan, ...]


def walk(
    conn: Connection, tell: Tell, since: Mapping[str, Head], said: Mapping[str, Mapping[int, Sequence[str]]]
) -> Walked:
    """Follow every chain behind its link in `since`, and compare it with what anchors have `said` of it."""
    heads = {head.chain: head for head in chain_store.heads(conn)}
    noted = _Noted(conn, tell)
    count = 0
    for chain in sorted({*heads, *since, *said}):
        start = since.get(chain, Head(chain, 0, GENESIS))
        head = heads.get(chain, Head(chain, 0, GENESIS))
        known = {**said.get(chain, {}), **({start.seq: (start.hash.hex(),)} if start.seq else {})}
        for fault in contradictions(chain, known, _hashes(conn, chain, known), head.seq):
            tell(fault)
        for fault in follow(chain, noted.links(chain, start.seq), start.seq, start.hash):
            tell(fault)
        count += max(0, head.seq - start.seq)
    return Walked(count, tuple(heads.values()), _joined(noted.runs, 0), tuple(noted.logs.values()))


def all_ids(conn: Connection) -> tuple[Span, ...]:
    """Every id there is, covered or not."""
    low, high = conn.execute(_BOUNDS).one()
    return ((low, high),) if high > low else ()


def new_ids(conn: Connection, walked: Walked, highest: int) -> tuple[Span, ...]:
    """What new links cover, and whatever else has come above the highest id there was."""
    return _joined([*walked.runs, *((max(low, highest), high) for low, high in all_ids(conn) if high > highest)], _GAP)


def check_rows(
    conn: Connection, tell: Tell, spans: Sequence[Span], since: Mapping[str, Head], done: Callable[[int], None]
) -> None:
    """Compare the rows of these ids (ascending spans) with the links that cover them.

    Links up to those in `since` were compared before: here they only count as covering. `done` is told after each
    range how many ids it had.
    """
    reader = _Reader(conn, tell, since)
    for low, high in reversed(spans):
        reader.meet(_ACROSS, low, high)
        top = high
        while top > low:
            bottom = max(low, top - chain_rows.CHUNK)
            reader.meet(_ENDING, bottom, top)
            reader.judge(bottom, top)
            done(top - bottom)
            top = bottom


@dataclass(slots=True)
class _Pending:
    """A link whose ids are being read; `found` are the leaves so far."""

    entry: LinkEntry
    marks: bytes
    compared_before: bool
    found: dict[int, bytes] = field(default_factory=dict)

    def ids_in(self, low: int, high: int) -> list[int]:
        return [one for first, last in self.entry.ids for one in range(max(first, low + 1), min(last, high) + 1)]


class _Reader:
    """Reads ranges of ids from the highest down, with the links that reach into them."""

    def __init__(self, conn: Connection, tell: Tell, since: Mapping[str, Head]) -> None:
        self._conn, self._tell, self._since = conn, tell, since
        self._pending: dict[tuple[str, int], _Pending] = {}

    def meet(self, statement: object, low: int, high: int) -> None:
        """Take up the links that the statement finds."""
        for chain, seq, entry, marks in self._conn.execute(statement, {"low": low, "high": high}):  # type: ignore[call-overload]  # one of this module's
            try:
                parsed = parse(entry.encode())
            except ValueError:
                continue  # told when the chain was walked; its rows show as covered by no link
            before = chain in self._since and seq <= self._since[chain].seq
            self._pending.setdefault((chain, seq), _Pending(parsed, bytes(marks), before))

    def judge(self, low: int, high: int) -> None:
        """Read one range; tell what no link covers or two do, and how the links that begin here compare."""
        tables = chain_rows.read(self._conn, low, high)
        ids = covered_ids(tables)
        made = dict(zip(ids, leaves(ids, tables), strict=True))
        claimed: set[int] = set()
        for key, link in list(self._pending.items()):
            for one in link.ids_in(low, high):
                if one in claimed:
                    self._tell(Fault("covered_twice", f"id {one}", f"{key[0]} link {key[1]} covers it, and another"))
                claimed.add(one)
                if one in made:
                    link.found[one] = made[one]
            if link.entry.ids[0][0] > low:
                del self._pending[key]
                if not link.compared_before:
                    self._compare(key, link)
        for one in ids:
            if one not in claimed:
                self._tell(Fault("not_in_chain", f"id {one}", f"no link covers it: {_where(one, tables)}"))

    def _compare(self, key: tuple[str, int], link: _Pending) -> None:
        for fault in compare(link.entry, link.marks, link.found):
            self._tell(fault._replace(detail=f"{fault.detail} ({key[0]} link {key[1]})"))


def _where(one: int, tables: Sequence[Mapping[int, object]]) -> str:
    names = [covered.table for covered, rows in zip(chain_rows.COVERED, tables, strict=True) if one in rows]
    return ", ".join(names)


class _Noted:
    """Reads links in order and notes what they cover."""

    def __init__(self, conn: Connection, tell: Tell) -> None:
        self._conn, self._tell = conn, tell
        self.runs: list[Span] = []
        self.logs: dict[tuple[str, str, int], LogSpan] = {}

    def links(self, chain: str, after: int) -> Iterator[Link]:
        """The links of a chain behind `after`."""
        while True:
            rows = self._conn.execute(_LINKS, {"chain": chain, "after": after, "most": _PAGE}).all()
            for row in rows:
                link = Link(row.chain, row.seq, row.entry.encode(), bytes(row.hash), bytes(row.marks))
                self._note(link, (row.first_id, row.last_id))
                yield link
            if len(rows) < _PAGE:
                return
            after = rows[-1].seq

    def _note(self, link: Link, bounds: tuple[int | None, int | None]) -> None:
        try:
            entry = parse(link.entry)
        except ValueError:
            return  # told by `follow`
        ids = entry.ids
        if bounds != ((ids[0][0], ids[-1][1]) if ids else (None, None)):
            subject = f"{link.chain} link {link.seq}"
            self._tell(Fault("link_inconsistent", subject, f"its columns say ids {bounds}, its entry {ids}"))
        for first, last in ids:
            if self.runs and self.runs[-1][1] == first - 1:
                self.runs[-1] = (self.runs[-1][0], last)
            else:
                self.runs.append((first - 1, last))
        if entry.act == BATCH and entry.detail["letters"]:
            self._check_letters(link, entry)
        for span in log_spans(entry):
            known = self.logs.setdefault(span[:3], span)
            self.logs[span[:3]] = span._replace(low=min(span.low, known.low), high=max(span.high, known.high))

    def _check_letters(self, link: Link, entry: LinkEntry) -> None:
        """Compare the dead letters of a batch with what its link says of them."""
        rows: list[Row] = []
        for span in log_spans(entry):
            rows += [tuple(row) for row in self._conn.execute(_LETTERS, span._asdict())]
        said = entry.detail["letters"]
        if len(rows) != said or digest(sorted(rows)) != entry.detail["letters_digest"]:
            where = f"{link.chain} link {link.seq}"
            self._tell(Fault("letters_differ", where, f"it says {said} dead letters; {len(rows)} are there, or others"))


def log_spans(entry: LinkEntry) -> list[LogSpan]:
    """The offsets that the entry of a batch covers; none of an act."""
    said = entry.detail
    if entry.act != BATCH:
        return []
    return [LogSpan(said["log"], said["topic"], part, first - 1, last) for part, first, last, _ in said["spans"]]


def _hashes(conn: Connection, chain: str, known: Iterable[int]) -> dict[int, bytes]:
    rows = conn.execute(_HASHES, {"chain": chain, "seqs": list(known)})
    return {row.seq: bytes(row.hash) for row in rows}


def _joined(spans: Iterable[Span], gap: int) -> tuple[Span, ...]:
    """The spans in order, those that touch or lie closer than `gap` made one."""
    joined: list[Span] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return tuple(joined)
