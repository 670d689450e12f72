"""Anchors: what was signed is believed, anything else is told, and a chain that contradicts one is found."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.anchors import Anchor, contradictions, key_id, make_anchor, public_of, read, said_of, sign
from ledger.chain import Head

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = public_of(KEY)
HEADS = [Head("log:a:points.events:0", 7, b"\x07" * 32), Head("act:review", 2, b"\x02" * 32)]


def lines(*numbers: int) -> list[bytes]:
    """Sign anchors of these numbers."""
    return [sign(make_anchor(number, 1_700_000_000_000 + number, HEADS), KEY) for number in numbers]


def test_what_was_signed_is_read_back() -> None:
    """Heads, number and time, with the chains in order."""
    told = read(lines(1), [PUBLIC])
    assert told.faults == ()
    assert [(head.chain, head.seq) for head in told.anchors[0].heads] == [
        ("act:review", 2),
        ("log:a:points.events:0", 7),
    ]
    assert (told.anchors[0].number, told.anchors[0].at) == (1, 1_700_000_000_001)


@given(st.data())
def test_a_flipped_bit_is_never_believed(data: st.DataObject) -> None:
    """Wherever it lies in the line: the anchor is refused, or it says exactly what it said before."""
    line = bytearray(lines(1)[0])
    line[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    told = read([bytes(line)], [PUBLIC])
    if told.faults:
        assert [fault.kind for fault in told.faults] == ["anchor_not_signed"]
    else:  # the case of a hexadecimal digit
        assert told.anchors == read(lines(1), [PUBLIC]).anchors


def test_another_key_is_not_believed() -> None:
    """Neither one that is not given, nor one that claims the name of one that is."""
    foreign = sign(make_anchor(1, 5, HEADS), OTHER)
    claimed = msgspec.json.encode(msgspec.json.decode(foreign) | {"key": key_id(PUBLIC)})
    told = read([foreign, claimed, b"{}", b""], [PUBLIC])
    assert [fault.kind for fault in told.faults] == ["anchor_not_signed"] * 4
    assert told.anchors == ()


def test_keys_may_change() -> None:
    """Anchors of the old and of the new key are believed while both are given."""
    told = read([*lines(1), sign(make_anchor(2, 5, HEADS), OTHER)], [PUBLIC, public_of(OTHER)])
    assert [anchor.number for anchor in told.anchors] == [1, 2]


def test_a_missing_number_is_told_and_a_repeated_one_is_not() -> None:
    """Anchors may come twice and in any order; between the first and the last none may be missing."""
    assert read(lines(4, 3, 5, 3), [PUBLIC]).faults == ()
    assert [fault.subject for fault in read(lines(1, 2, 5), [PUBLIC]).faults] == ["anchor 3"]


def test_a_chain_that_is_shorter_or_other_than_an_anchor_says_is_found() -> None:
    """A cut tail and a rewritten link; what agrees, and what an anchor does not know, is no contradiction."""
    said = said_of(read(lines(1, 2), [PUBLIC]).anchors)["act:review"]
    assert said == {2: ((b"\x02" * 32).hex(),)}
    assert list(contradictions("act:review", said, {2: b"\x02" * 32}, 9)) == []
    assert [fault.kind for fault in contradictions("act:review", said, {}, 1)] == ["chain_cut"]
    assert [fault.kind for fault in contradictions("act:review", said, {2: bytes(32)}, 2)] == ["chain_rewritten"]
    assert list(contradictions("act:review", said, {}, 3)) == []


def test_anchors_that_contradict_each_other_are_found_whichever_the_chain_agrees_with() -> None:
    """A chain rewritten between two anchors agrees with one of them at most."""
    other = make_anchor(2, 9, [Head("act:review", 2, b"\x03" * 32)])
    said = said_of([make_anchor(1, 8, HEADS), other])["act:review"]
    for stored in (b"\x02" * 32, b"\x03" * 32):
        assert [fault.kind for fault in contradictions("act:review", said, {2: stored}, 2)] == ["chain_rewritten"]


def test_a_key_that_is_none_is_refused() -> None:
    """Thirty-two bytes, no more and no less."""
    with pytest.raises(ValueError, match="32"):
        public_of(b"short")
    assert isinstance(make_anchor(1, 1, []), Anchor)
