"""Keys for purposes of their own, derived from the one root secret."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def model_key(secret: bytes) -> bytes:
    """The key that signs model snapshots (32 bytes); the trainer signs with it, workers verify."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"pointguard|model-snapshot|v1").derive(secret)
