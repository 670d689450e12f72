"""Model snapshots in PostgreSQL: published whole in one transaction, verified before they are used."""

from __future__ import annotations

import structlog
from sqlalchemy import Connection, text

from detectors.models_snapshot import Sealed, Snapshot, SnapshotRefused, unseal

TRIES_MAX = 5
"""How many snapshots, newest first, are tried before a worker does without."""

log = structlog.get_logger()

_VERSIONS = text("SELECT version FROM model_snapshot WHERE version > :than ORDER BY version DESC LIMIT :most")
_READ = text("SELECT manifest, arrays, signature FROM model_snapshot WHERE version = :version")
_LAST = text("SELECT coalesce(max(version), 0) FROM model_snapshot")
_INSERT = text("""
INSERT INTO model_snapshot (version, last_seq, manifest, arrays, signature, created_at)
VALUES (:version, :last_seq, CAST(:manifest AS json), :arrays, :signature, clock_timestamp())""")


def load_latest(conn: Connection, key: bytes, current_version: int | None) -> Snapshot | None:
    """The newest snapshot above `current_version` that verifies; None if there is none.

    One that is refused is logged and the next older one tried, so a damaged or foreign row never stops a worker.
    """
    than = current_version if current_version is not None else 0
    for version in conn.execute(_VERSIONS, {"than": than, "most": TRIES_MAX}).scalars().all():
        try:
            return load(conn, key, version)
        except SnapshotRefused as refused:
            log.error(  # noqa: TRY400  # what was wrong is said by name; a traceback adds nothing
                "model snapshot refused", version=version, error=refused.error, detail=str(refused)
            )
    return None


def load(conn: Connection, key: bytes, version: int) -> Snapshot | None:
    """The snapshot of one version, to decide again what it decided; None if there is none. Raises SnapshotRefused."""
    sealed = read(conn, version)
    return None if sealed is None else unseal(sealed, key)


def read(conn: Connection, version: int) -> Sealed | None:
    """The sealed snapshot as stored, not verified."""
    row = conn.execute(_READ, {"version": version}).one_or_none()
    return None if row is None else Sealed(row.manifest, bytes(row.arrays), bytes(row.signature))


def last_version(conn: Connection) -> int:
    """The highest version ever published, 0 before the first."""
    version: int = conn.execute(_LAST).scalar_one()
    return version


def publish(conn: Connection, sealed: Sealed) -> None:
    """Add a snapshot in the caller's transaction. IntegrityError if its version is taken."""
    conn.execute(
        _INSERT,
        {
            "version": sealed.manifest["version"],
            "last_seq": sealed.manifest["last_seq"],
            "manifest": sealed.canonical().decode(),
            "arrays": sealed.arrays,
            "signature": sealed.signature,
        },
    )
