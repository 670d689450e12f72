"""Pseudonyms of devices, addresses and payments, 64-bit hashes for velocity, and sealed bytes: what one secret gives.

Every purpose has a key of its own, derived from the secret by HKDF-SHA256 (RFC 5869), so equal bytes in two fields give
two values and no stored value helps against another purpose. Nothing here can be computed without the secret; a plain
hash of an address could be reversed by trying all 2^32.
"""

import hmac
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES_MIN: Final = 32
PSEUDONYM_BYTES: Final = 16
"""One byte of key version and 15 of HMAC-SHA256."""
PAYLOAD_HASH_BYTES: Final = 16
KEY_VERSION: Final = 1
KEY_VERSION_MAX: Final = 255
SEALED_OVERHEAD_BYTES: Final = 1 + 12 + 16

_CACHED: Final = 1 << 16
_ENTITIES_CACHED: Final = 1 << 17
_PREFIXES_CACHED: Final = 1 << 10
_PSEUDONYMOUS: Final = frozenset({"device", "payment", "ip", "ip_prefix"})
_NONCE_BYTES: Final = 12
_IPV4_MAX: Final = 2**32 - 1
_IP_LENGTH_MAX: Final = 64


class UnknownKeyVersionError(ValueError):
    """A stored value was made under a key version that this secret does not serve."""


class UnsealableError(ValueError):
    """Sealed bytes were cut, changed, or sealed under another secret or for another purpose."""


@lru_cache(maxsize=_CACHED)
def canonical_ip(text: str) -> str | None:
    """The one spelling of an address, or None when the text is none.

    An IPv4-mapped IPv6 address is its IPv4 address, a decimal integer below 2^32 is an IPv4 address (so some shops
    export them), and a zone index (`%eth0`) is dropped, as it only means something on the host that wrote it.
    """
    text = text.strip()
    if not 0 < len(text) <= _IP_LENGTH_MAX:
        return None
    if text.isascii() and text.isdigit():
        number = int(text)
        return str(IPv4Address(number)) if number <= _IPV4_MAX else None
    try:
        if ":" not in text:
            return str(IPv4Address(text))
        address = IPv6Address(text.partition("%")[0])
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


@lru_cache(maxsize=_CACHED)
def canonical_prefix(text: str) -> str | None:
    """The network an address is of, /24 of IPv4 or /64 of IPv6 (what one household or site usually gets), or None."""
    canonical = canonical_ip(text)
    if canonical is None:
        return None
    address = ip_address(canonical)
    if isinstance(address, IPv4Address):
        return str(IPv4Network((address, 24), strict=False))
    return str(IPv6Network((address, 64), strict=False))


def key_version(pseudonym: bytes) -> int:
    """The version of the key a stored pseudonym was made under."""
    return pseudonym[0]


class Keys:
    """The keys of one secret and version. Values are equal for equal inputs for as long as the secret stays.

    `device(text)`, `payment(text)`, `ip(text)` and `ip_prefix(text)` give the 16-byte pseudonym of a device or payment
    token (white space around it is dropped), of an address or its network (canonical first; a text that is no address
    raises ValueError). `hash64(program, kind, value)` gives the number of an entity in velocity logs, never 0. All
    remember recent answers; so does `entity64(program, kind, text)`, which takes what the producer wrote instead of the
    stored value. Treat an instance as frozen.
    """

    __slots__ = (
        *("_cipher", "_device", "_ip", "_ip_prefix", "_nonce", "_payload", "_payment", "_state"),
        *("device", "entity64", "hash64", "ip", "ip_prefix", "payment", "version"),
    )

    def __init__(self, secret: bytes, version: int = KEY_VERSION) -> None:
        """`secret` is at least 32 random bytes; `version` (1 to 255) becomes part of every stored value."""
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret of pseudonyms must be at least {SECRET_BYTES_MIN} bytes")
        if not 1 <= version <= KEY_VERSION_MAX:
            raise ValueError(f"the key version must be 1 to {KEY_VERSION_MAX}")
        self.version = version
        self._device = _subkey(secret, version, "device")
        self._payment = _subkey(secret, version, "payment")
        self._ip = _subkey(secret, version, "ip")
        self._ip_prefix = _subkey(secret, version, "ip-prefix")
        hashed = blake2b(key=_subkey(secret, version, "velocity"), digest_size=8)
        self._state = lru_cache(_PREFIXES_CACHED)(lambda program, kind: _begun(hashed, program, kind))
        self._payload = _subkey(secret, version, "payload")
        self._nonce = _subkey(secret, version, "seal-nonce")
        self._cipher = AESGCM(_subkey(secret, version, "seal"))
        self.device: Callable[[str], bytes] = lru_cache(_CACHED)(self._device_of)
        self.payment: Callable[[str], bytes] = lru_cache(_CACHED)(self._payment_of)
        self.ip: Callable[[str], bytes] = lru_cache(_CACHED)(self._ip_of)
        self.ip_prefix: Callable[[str], bytes] = lru_cache(_CACHED)(self._ip_prefix_of)
        self.hash64: Callable[[str, str, bytes], int] = lru_cache(_CACHED)(self.event_hash64)
        self.entity64: Callable[[str, str, str], int] = lru_cache(_ENTITIES_CACHED)(self._entity64)

    def event_hash64(self, program: str, kind: str, value: bytes) -> int:
        """As `hash64`, without remembering: for values that hardly come twice, such as event ids."""
        state = self._state(program, kind).copy()
        state.update(value)
        return int.from_bytes(state.digest(), "little") or 1

    def payload_hash(self, canonical: bytes) -> bytes:
        """16 bytes that tell two bodies of one event apart; keyed, as an unkeyed one would give addresses away."""
        return blake2b(canonical, key=self._payload, digest_size=PAYLOAD_HASH_BYTES).digest()

    def seal(self, raw: bytes, purpose: str = "dead-letter") -> bytes:
        """Encrypted and authenticated bytes (AES-256-GCM), bound to a purpose, to be opened by `unseal` only.

        The nonce is an HMAC of the content (as in SIV modes), so no randomness is needed and a nonce never serves two
        contents; equal contents give equal bytes, which is all that a sealed value gives away besides its length.
        """
        bound = purpose.encode()
        nonce = _mac(self._nonce, len(bound).to_bytes(2, "big") + bound + raw)[:_NONCE_BYTES]
        return bytes((self.version,)) + nonce + self._cipher.encrypt(nonce, raw, bound)

    def unseal(self, sealed: bytes, purpose: str = "dead-letter") -> bytes:
        """What was sealed for that purpose. Raises UnknownKeyVersionError or UnsealableError."""
        if len(sealed) < SEALED_OVERHEAD_BYTES:
            raise UnsealableError("the sealed bytes are cut short")
        self.check_version(sealed)
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, purpose.encode())
        except InvalidTag:
            raise UnsealableError("the sealed bytes were changed, or sealed with another secret or purpose") from None

    def check_version(self, stored: bytes) -> None:
        """Raises UnknownKeyVersionError unless a stored pseudonym or sealed value was made under this version."""
        if stored[0] != self.version:
            raise UnknownKeyVersionError(f"key version {stored[0]} is not served, only {self.version} is")

    def _entity64(self, program: str, kind: str, text: str) -> int:
        if kind in _PSEUDONYMOUS:
            value: bytes = getattr(self, f"_{kind}_of")(text)
        else:
            value = text.encode()
        return self.event_hash64(program, kind, value)

    def _device_of(self, device: str) -> bytes:
        return self._pseudonym(self._device, device.strip().encode())

    def _payment_of(self, payment: str) -> bytes:
        return self._pseudonym(self._payment, payment.strip().encode())

    def _ip_of(self, ip: str) -> bytes:
        return self._pseudonym(self._ip, _address(canonical_ip(ip)))

    def _ip_prefix_of(self, ip: str) -> bytes:
        return self._pseudonym(self._ip_prefix, _address(canonical_prefix(ip)))

    def _pseudonym(self, key: bytes, value: bytes) -> bytes:
        return bytes((self.version,)) + _mac(key, value)[: PSEUDONYM_BYTES - 1]


def _address(canonical: str | None) -> bytes:
    if canonical is None:
        raise ValueError("not an IP address")
    return canonical.encode()


def _subkey(secret: bytes, version: int, purpose: str) -> bytes:
    info = f"pointguard|{purpose}|v{version}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _begun(hashed: blake2b, program: str, kind: str) -> blake2b:
    state = hashed.copy()
    state.update(f"{len(program)}:{program}{kind}:".encode())
    return state


def _mac(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, "sha256")
