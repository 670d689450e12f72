"""Anchors: the heads of all audit chains, signed and kept where nobody who can change the database can change them.

A chain alone does not stop an administrator of the database from rewriting it to its end, or from cutting its tail. An
anchor says, under a key that is not on the database's host, how far each chain had come and with which hash; whoever
changes what lies behind it contradicts it. Each anchor stands by itself: one that was published twice harms nothing,
and the numbers tell when one is missing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.chain import Fault, Head

_CONTEXT = b"pointguard anchor v1\n"  # an anchor's signature is good for nothing else
KEY_BYTES = 32


class AnchorHead(msgspec.Struct, frozen=True, array_like=True):
    """The head of one chain; `hash` in hexadecimal."""

    chain: str
    seq: int
    hash: str


class Anchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed: the `number` of this anchor, counted from 1, when (epoch milliseconds), and all heads."""

    number: int
    at: int
    heads: tuple[AnchorHead, ...]


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An anchor as it travels: the exact text that was signed, who signed, and the signature, both in hexadecimal."""

    anchor: str
    key: str
    signature: str


class Told(NamedTuple):
    """The anchors that can be believed, and what was wrong with the others."""

    anchors: tuple[Anchor, ...]
    faults: tuple[Fault, ...]


_json = msgspec.json.Encoder(order="sorted").encode
_read_anchor = msgspec.json.Decoder(Anchor).decode
_read_signed = msgspec.json.Decoder(Signed).decode


def key_id(public: bytes) -> str:
    """The short name of a public key (its 32 raw bytes): the first eight bytes of its hash."""
    return sha256(public).hexdigest()[:16]


def public_of(private: bytes) -> bytes:
    """The public key of a private one, both raw. ValueError when it is none."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def make_anchor(number: int, at_ms: int, heads: Iterable[Head]) -> Anchor:
    """The anchor over these heads, in the order of their chains' names."""
    return Anchor(
        number=number,
        at=at_ms,
        heads=tuple(AnchorHead(head.chain, head.seq, head.hash.hex()) for head in sorted(heads)),
    )


def sign(anchor: Anchor, private: bytes) -> bytes:
    """Sign an anchor with a raw ed25519 key; one line of JSON, without the line's end."""
    text = _json(anchor)
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(_CONTEXT + text)
    return _json(Signed(anchor=text.decode(), key=key_id(public_of(private)), signature=signature.hex()))


def read(lines: Sequence[bytes], keys: Iterable[bytes]) -> Told:
    """Read signed anchors, as many as were kept, and believe those that one of the raw public `keys` signed.

    Told as faults: a line nobody of these signed, and numbers missing between the first and the last.
    """
    known = {key_id(public): Ed25519PublicKey.from_public_bytes(public) for public in keys}
    anchors: list[Anchor] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        try:
            anchors.append(_verified(line, known))
        except (ValueError, LookupError, InvalidSignature) as error:
            said = str(error) or "the signature is not that key's"
            faults.append(Fault("anchor_not_signed", f"anchor in line {number}", said))
    numbers = sorted({anchor.number for anchor in anchors})
    faults += [
        Fault("anchor_missing", f"anchor {before + 1}", f"{before} is followed by {after}")
        for before, after in pairwise(numbers)
        if after != before + 1
    ]
    return Told(tuple(sorted(anchors, key=lambda anchor: (anchor.number, anchor.at))), tuple(faults))


def _verified(line: bytes, known: Mapping[str, Ed25519PublicKey]) -> Anchor:
    signed = _read_signed(line)
    public = known.get(signed.key)
    if public is None:
        raise LookupError(f"signed by key {signed.key}, which is not among those given")
    text = signed.anchor.encode()
    public.verify(bytes.fromhex(signed.signature), _CONTEXT + text)
    return _read_anchor(text)


def said_of(anchors: Iterable[Anchor]) -> dict[str, dict[int, tuple[str, ...]]]:
    """What anchors say, by chain and seq: the hashes; more than one where anchors contradict each other."""
    said: dict[str, dict[int, tuple[str, ...]]] = {}
    for anchor in anchors:
        for head in anchor.heads:
            hashes = said.setdefault(head.chain, {})
            if head.hash not in hashes.get(head.seq, ()):
                hashes[head.seq] = (*hashes.get(head.seq, ()), head.hash)
    return said


def contradictions(
    chain: str, said: Mapping[int, Sequence[str]], stored: Mapping[int, bytes], head: int
) -> Iterator[Fault]:
    """Find what anchors say of a chain that is not so; `stored` are its hashes at those seqs, `head` its last seq.

    A link that is missing before the head is the chain's own fault, and told by `ledger.chain.follow`.
    """
    for seq, hashes in sorted(said.items()):
        subject = f"{chain} link {seq}"
        if seq > head:
            yield Fault("chain_cut", subject, f"an anchor knows it; the chain ends at {head}")
            return
        found = stored.get(seq)
        for expected in hashes:
            if found is not None and found.hex() != expected:
                yield Fault("chain_rewritten", subject, f"an anchor says {expected}, here stands {found.hex()}")
