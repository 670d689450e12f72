"""How a refused record is kept: headers and body in one sealed pack, so that it can be sent again as it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

Headers = Sequence[tuple[str, bytes | None]]


class SealedPackError(ValueError):
    """A dead letter cannot be opened: the secret is not the one it was sealed with, or bytes were changed."""


def pack(headers: Headers, raw: bytes | None, seal: Callable[[bytes], bytes]) -> bytes:
    """Headers and body as one sealed value."""
    return seal(msgspec.msgpack.encode((list(headers), raw)))


def unpack(sealed: bytes, unseal: Callable[[bytes], bytes]) -> tuple[list[tuple[str, bytes]], bytes | None]:
    """The headers and body that `pack` was given; SealedPackError when they cannot be opened.

    A header that came without a value (Kafka allows it) is given with an empty one.
    """
    try:
        headers, raw = msgspec.msgpack.decode(unseal(sealed), type=tuple[list[tuple[str, bytes | None]], bytes | None])
    except ValueError as error:
        raise SealedPackError("cannot open this dead letter: is secret_file the one it was sealed with?") from error
    return [(name, value or b"") for name, value in headers], raw
