"""Pseudonyms, entity hashes and sealed bytes of one secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.entity import (
    PSEUDONYM_BYTES,
    SEALED_OVERHEAD_BYTES,
    Keys,
    UnknownKeyVersionError,
    UnsealableError,
    canonical_ip,
    key_version,
)

SECRET = b"0123456789abcdef0123456789abcdef"
KEYS = Keys(SECRET)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("3405803783", "203.0.113.7"),
        ("1", "0.0.0.1"),
        ("4294967295", "255.255.255.255"),
        ("4294967296", None),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:CB00:7107", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("١٢٣", None),
        ("", None),
        ("unknown", None),
        ("1" * 65, None),
    ],
)
def test_addresses_have_one_spelling(text: str, canonical: str | None) -> None:
    """All spellings of an address become one; what is no address is told apart."""
    assert canonical_ip(text) == canonical


def test_equal_spellings_give_one_pseudonym() -> None:
    """An address written in four ways, and a device with white space around it, are each one entity."""
    assert len({KEYS.ip(ip) for ip in ("203.0.113.7", "3405803783", "::ffff:203.0.113.7", " 203.0.113.7")}) == 1
    assert KEYS.device(" d-1\t") == KEYS.device("d-1")
    assert KEYS.device("d-1") != KEYS.device("D-1")


def test_equal_bytes_in_two_fields_give_two_pseudonyms() -> None:
    """A device that calls itself by an address is not that address."""
    assert KEYS.device("203.0.113.7") != KEYS.ip("203.0.113.7")


def test_a_pseudonym_tells_its_key_version() -> None:
    """The first of the sixteen bytes is the version, and another version gives other bytes."""
    later = Keys(SECRET, version=2)
    assert len(KEYS.device("d-1")) == PSEUDONYM_BYTES
    assert (key_version(KEYS.device("d-1")), key_version(later.device("d-1"))) == (1, 2)
    assert KEYS.device("d-1")[1:] != later.device("d-1")[1:]
    with pytest.raises(UnknownKeyVersionError):
        KEYS.check_version(later.device("d-1"))


def test_another_secret_gives_other_values() -> None:
    """Without the secret nothing can be computed or compared."""
    other = Keys(SECRET[::-1])
    assert KEYS.device("d-1") != other.device("d-1")
    assert KEYS.hash64("demo", "account", b"a") != other.hash64("demo", "account", b"a")


def test_pseudonyms_do_not_change_between_releases() -> None:
    """Fixed values: another derivation would silently break every stored link."""
    assert KEYS.device("d-1").hex() == "014c5264588b912943b3e1cfad7bd348"
    assert KEYS.ip("203.0.113.7").hex() == "01d9596a6bbea670bedc824afb5d2d92"
    assert KEYS.hash64("demo", "account", b"member-1") == 15308061804730699935


def test_a_text_that_is_no_address_is_refused() -> None:
    """Decoded events never hold one; other callers hear of it."""
    with pytest.raises(ValueError, match="not an IP address"):
        KEYS.ip("unknown")


@given(st.tuples(st.text(max_size=8), st.sampled_from(["account", "device", "ip"]), st.binary(max_size=8)))
def test_hashes_are_64_bits_and_never_zero(value: tuple[str, str, bytes]) -> None:
    """Zero is kept for entities that an event lacks."""
    assert 0 < KEYS.hash64(*value) < 2**64
    assert KEYS.hash64(*value) == KEYS.event_hash64(*value)


def test_hashes_tell_programme_and_kind_apart() -> None:
    """The same name in another programme or kind is another entity, and parts can't be shifted into each other."""
    values = [("a", "account", b"bc"), ("b", "account", b"bc"), ("a", "device", b"bc"), ("aaccount:", "account", b"bc")]
    assert len({KEYS.hash64(*value) for value in values}) == len(values)


@given(st.binary(max_size=2000))
def test_sealed_bytes_open_again(raw: bytes) -> None:
    """What was sealed comes back, is longer by a fixed amount, and the same content seals to the same bytes."""
    sealed = KEYS.seal(raw)
    assert KEYS.unseal(sealed) == raw
    assert len(sealed) == len(raw) + SEALED_OVERHEAD_BYTES
    assert KEYS.seal(raw) == sealed


def test_sealed_bytes_hide_their_content() -> None:
    """Neither the content nor an equal nonce for another content shows."""
    one, two = KEYS.seal(b"device=d-1" * 10), KEYS.seal(b"device=d-2" * 10)
    assert b"device" not in one
    assert one[1:13] != two[1:13]


def test_changed_bytes_another_secret_or_purpose_do_not_open() -> None:
    """Every changed byte, cut, foreign secret and foreign purpose is refused by name."""
    sealed = KEYS.seal(b"raw")
    for at in range(1, len(sealed)):
        with pytest.raises(UnsealableError):
            KEYS.unseal(sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :])
    for broken in (b"", sealed[:-1], sealed[:20]):
        with pytest.raises(UnsealableError):
            KEYS.unseal(broken)
    with pytest.raises(UnsealableError):
        KEYS.unseal(sealed, purpose="vault")
    with pytest.raises(UnsealableError):
        Keys(SECRET[::-1]).unseal(sealed)
    with pytest.raises(UnknownKeyVersionError):
        KEYS.unseal(b"\x02" + sealed[1:])


def test_weak_secrets_and_versions_are_refused() -> None:
    """A short secret could be guessed; a version has to fit its byte."""
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Keys(b"short")
    with pytest.raises(ValueError, match="1 to 255"):
        Keys(SECRET, version=0)


def test_payload_hashes_are_keyed() -> None:
    """Equal bodies hash equal under one secret; another secret gives another hash, so none can be searched for."""
    one, other = Keys(b"a" * 32), Keys(b"b" * 32)
    assert one.payload_hash(b"body") == one.payload_hash(b"body") != one.payload_hash(b"body2")
    assert one.payload_hash(b"body") != other.payload_hash(b"body")
    assert len(one.payload_hash(b"body")) == 16
