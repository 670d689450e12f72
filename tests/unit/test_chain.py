"""The audit chain's mathematics: what it proves, and that every kind of tampering with a chain or its rows shows."""

from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import (
    GENESIS,
    Fault,
    Link,
    LinkEntry,
    Row,
    canonical,
    compare,
    covered_ids,
    entry_of,
    follow,
    ids_of,
    leaves,
    link_hash,
    marks_of,
    merkle_root,
    parse,
    runs,
)

SAID: dict[str, Any] = {"act": "batch", "actor": "worker-0", "at": 1_700_000_000_000, "detail": {"spans": [[0, 1, 9]]}}

ids_strategy = st.lists(st.integers(1, 2**62), unique=True, max_size=40).map(sorted)
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
rows = st.lists(values, max_size=6).map(tuple)
tables = st.lists(st.dictionaries(st.integers(1, 60), rows, max_size=20), min_size=1, max_size=4)


def chain_of(count: int, name: str = "log:a") -> list[Link]:
    """Make a sound chain of links, each over two rows."""
    links: list[Link] = []
    previous = GENESIS
    for seq in range(1, count + 1):
        ids = [seq * 10, seq * 10 + 1]
        hashes = leaves(ids, [{one: ("earn", one) for one in ids}])
        entry = canonical(entry_of(hashes, ids, SAID))
        previous = link_hash(previous, seq, entry)
        links.append(Link(name, seq, entry, previous, marks_of(hashes)))
    return links


def kinds(found: list[Fault]) -> list[str]:
    """Name what was found."""
    return [fault.kind for fault in found]


def plain_root(hashes: list[bytes]) -> bytes:
    """Compute RFC 6962's tree hash by its own recursive definition."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return sha256(b"\x01" + plain_root(hashes[:split]) + plain_root(hashes[split:])).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70))
def test_the_root_is_the_tree_hash_of_rfc_6962(hashes: list[bytes]) -> None:
    """Level by level gives what the recursive definition gives, for every number of leaves."""
    assert merkle_root(hashes) == plain_root(hashes)


def test_a_known_tree_has_its_known_root() -> None:
    """The first leaves of the test vectors of RFC 6962's implementations: empty, and one empty leaf."""
    assert merkle_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    leaf = sha256(b"\x00").digest()
    assert merkle_root([leaf]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(tables, st.data())
def test_any_change_of_a_row_changes_the_leaf_of_its_id_alone(
    stored: list[dict[int, Row]], data: st.DataObject
) -> None:
    """A changed value, a row more or a row less: the leaf of that id differs, all others stay."""
    ids = covered_ids(stored)
    before = dict(zip(ids, leaves(ids, stored), strict=True))
    place = data.draw(st.integers(0, len(stored) - 1))
    one = data.draw(st.sampled_from([*ids, 61]))
    row = data.draw(rows)
    if repr(stored[place].get(one)) == repr(row):  # by repr: 1, 1.0 and True are equal, but no two are the same bytes
        return
    changed = [{**table, one: row} if n == place else table for n, table in enumerate(stored)]
    now = covered_ids(changed)
    after = dict(zip(now, leaves(now, changed), strict=True))
    assert {i for i in after if after[i] != before.get(i)} == {one}


@given(ids_strategy)
def test_runs_hold_exactly_their_ids(ids: list[int]) -> None:
    """Ids and runs tell the same, and runs neither touch nor overlap."""
    spans = runs(ids)
    assert ids_of(spans) == ids
    assert all(low[1] + 1 < high[0] for low, high in pairwise(spans))


def test_an_entry_is_canonical_json() -> None:
    """Keys are sorted at every level and nothing is spaced, so that one entry has one encoding."""
    entry = LinkEntry(act="a", actor="b", at=1, count=0, detail={"z": 1, "a": [None]}, form=1, ids=(), root="")
    said = b'{"act":"a","actor":"b","at":1,"count":0,"detail":{"a":[null],"z":1},"form":1,"ids":[],"root":""}'
    assert canonical(entry) == said
    assert parse(said) == entry
    for other in (said.replace(b":1", b": 1"), said.replace(b'"form"', b'"from"'), b"{}", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            parse(other)


def test_a_sound_chain_has_no_fault() -> None:
    """From its beginning, and from any link already verified."""
    links = chain_of(5)
    assert list(follow("log:a", links)) == []
    assert list(follow("log:a", links[3:], 3, links[2].hash)) == []


@given(st.integers(0, 4), st.data())
def test_a_flipped_bit_of_a_link_is_found(at: int, data: st.DataObject) -> None:
    """Wherever it is in entry or hash."""
    links = chain_of(5)
    link = links[at]
    field = data.draw(st.sampled_from(["entry", "hash"]))
    value = bytearray(getattr(link, field))
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = bytes(value)
    links[at] = link._replace(entry=changed) if field == "entry" else link._replace(hash=changed)
    found = list(follow("log:a", links))
    assert "link_differs" in kinds(found)
    assert f"log:a link {at + 1}" in {fault.subject for fault in found}


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_removed_link_is_found(gone: int) -> None:
    """The first or one between: the next one says what is missing."""
    links = chain_of(5)
    del links[gone]
    assert kinds(list(follow("log:a", links))) == ["link_missing"]


def test_reordered_links_are_found() -> None:
    """Two links that changed places, whether or not their numbers were changed with them."""
    links = chain_of(5)
    swapped = [links[0], links[2], links[1], *links[3:]]
    assert "link_missing" in kinds(list(follow("log:a", swapped)))
    renumbered = [link._replace(seq=n) for n, link in enumerate(swapped, start=1)]
    assert kinds(list(follow("log:a", renumbered))).count("link_differs") == 3


def test_a_link_of_another_chain_is_found() -> None:
    """A link that is sound at its place elsewhere does not follow here."""
    mine, other = chain_of(3), chain_of(4)
    moved = canonical(entry_of([], [], SAID | {"actor": "eve"}))
    forged = Link("log:a", 4, moved, link_hash(other[2].hash[::-1], 4, moved), b"")
    assert kinds(list(follow("log:a", [*mine, forged]))) == ["link_differs"]


def test_a_cut_tail_and_a_chain_rewritten_to_its_end_agree_with_themselves() -> None:
    """What the anchors are for: neither is seen from within."""
    links = chain_of(5)
    assert list(follow("log:a", links[:3])) == []
    entry = canonical(entry_of([], [], SAID | {"actor": "eve"}))
    forged = link_hash(links[3].hash, 5, entry)
    assert list(follow("log:a", [*links[:4], Link("log:a", 5, entry, forged, b"")])) == []


def test_an_entry_that_contradicts_itself_is_found() -> None:
    """Ids that are not as many as it says, or a form nobody knows, though the hash is right."""
    for wrong in ({"count": 3}, {"form": 9}, {"ids": ((5, 4),)}):
        entry = entry_of([], [], SAID)
        raw = canonical(LinkEntry(**{name: getattr(entry, name) for name in LinkEntry.__struct_fields__} | wrong))
        link = Link("log:a", 1, raw, link_hash(GENESIS, 1, raw), b"")
        assert kinds(list(follow("log:a", [link]))) == ["link_inconsistent"]


def test_covered_rows_are_compared_with_their_link() -> None:
    """A changed row, an id without rows, and marks that are not the leaves' are told by name and id."""
    ids = [3, 4, 5]
    hashes = leaves(ids, [{one: ("earn", one) for one in ids}])
    entry, marks = entry_of(hashes, ids, SAID), marks_of(hashes)
    found = dict(zip(ids, hashes, strict=True))
    assert list(compare(entry, marks, found)) == []
    changed = {**found, 4: leaves([4], [{4: ("earn", 5)}])[0]}
    assert [(fault.kind, fault.subject) for fault in compare(entry, marks, changed)] == [
        ("covered_row_differs", "id 4")
    ]
    gone = {one: leaf for one, leaf in found.items() if one != 5}
    assert [(fault.kind, fault.subject) for fault in compare(entry, marks, gone)] == [("covered_row_missing", "id 5")]
    assert kinds(list(compare(entry, marks[::-1], found))) == ["link_inconsistent"]
    forged = marks_of([found[3], changed[4], found[5]])
    assert kinds(list(compare(entry, forged, changed))) == ["covered_row_differs"]
