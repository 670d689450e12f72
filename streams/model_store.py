"""Model snapshots, verdicts on them, and checkpoints in PostgreSQL: written whole, verified when read.

The champion is the snapshot of the last verdict that is no refusal. Workers score with it; the trainer compares each
new snapshot with it, and with the reference: the last one that a person put into use, else the first there was, of
those that this release can read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy import Connection, Row, text

from detectors.models_gate import Check
from detectors.models_snapshot import FORMAT, INPUTS_VERSION, Sealed, Snapshot, SnapshotRefused, unseal

TRIES_MAX = 5
"""How many champions, newest first, are tried before a worker does without."""
CHECKPOINTS_KEPT = 5
CHALLENGERS_KEPT = 20
"""Refused snapshots stay for a while, to be looked at or promoted by hand; champions for ever: decisions name them."""
TRAINER = "trainer"
"""The actor of verdicts that no person made."""
ACTOR_LENGTH_MAX = 128
REASON_LENGTH_MAX = 2_000

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_VERDICT_LOCK = 0x6D6F_6465

Kind = Literal["promoted", "refused", "rolled_back"]

log = structlog.get_logger()

_CHAMPIONS = text("""
SELECT version FROM model_verdict WHERE kind <> 'refused' ORDER BY verdict_id DESC LIMIT :most""")
_STANDING = text("""
SELECT version AS champion, kind = 'rolled_back' AS frozen, actor, reason,
       (SELECT v.version FROM model_verdict v JOIN model_snapshot s ON s.version = v.version
         WHERE v.kind <> 'refused'
           AND s.manifest ->> 'format' = :format AND s.manifest ->> 'inputs_version' = :inputs
         ORDER BY v.actor = :trainer, CASE WHEN v.actor = :trainer THEN v.verdict_id ELSE -v.verdict_id END
         LIMIT 1) AS reference
  FROM model_verdict WHERE kind <> 'refused' ORDER BY verdict_id DESC LIMIT 1""")
_READ = text("SELECT manifest, arrays, signature FROM model_snapshot WHERE version = :version")
_LAST = text("""
SELECT greatest((SELECT max(version) FROM model_snapshot), (SELECT max(version) FROM model_verdict), 0)""")
_INSERT = text("""
INSERT INTO model_snapshot (version, last_seq, manifest, arrays, signature, created_at)
VALUES (:version, :last_seq, CAST(:manifest AS json), :arrays, :signature, clock_timestamp())""")
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
_VERDICT = text("""
INSERT INTO model_verdict (version, kind, actor, reason, checks)
VALUES (:version, :kind, :actor, :reason, CAST(:checks AS json))""")
_FORGET = text("""
DELETE FROM model_snapshot s WHERE s.version <= (SELECT max(version) FROM model_snapshot) - :kept
   AND NOT EXISTS (SELECT FROM model_verdict v WHERE v.version = s.version AND v.kind <> 'refused')""")
_CHECKPOINTS = text("SELECT manifest, arrays, signature FROM model_checkpoint ORDER BY last_seq DESC")
_PUT_CHECKPOINT = text("""
INSERT INTO model_checkpoint (last_seq, manifest, arrays, signature)
VALUES (:last_seq, CAST(:manifest AS json), :arrays, :signature)
ON CONFLICT (last_seq) DO UPDATE
   SET manifest = excluded.manifest, arrays = excluded.arrays, signature = excluded.signature,
       created_at = clock_timestamp()""")
_FORGET_CHECKPOINTS = text("""
DELETE FROM model_checkpoint WHERE last_seq NOT IN (
    SELECT last_seq FROM model_checkpoint ORDER BY created_at DESC, last_seq DESC LIMIT :kept)""")


@dataclass(frozen=True)
class Standing:
    """Who is in use: versions of champion and reference, and whether a roll-back keeps them until a person acts."""

    champion: int | None = None
    reference: int | None = None
    frozen: bool = False
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One verdict on a snapshot."""

    version: int
    kind: Kind
    actor: str
    reason: str
    checks: tuple[Check, ...] = ()
    at: datetime | None = None


def load_champion(conn: Connection, key: bytes, current_version: int | None) -> Snapshot | None:
    """The champion if it is another than `current_version` and verifies; else None, and the current one stays.

    A worker that has none yet falls back to earlier champions. One that is refused is logged, so a damaged or foreign
    row never stops a worker.
    """
    champions = conn.execute(_CHAMPIONS, {"most": 1 if current_version is not None else TRIES_MAX}).scalars().all()
    for version in dict.fromkeys(champions):
        if version == current_version:
            return None
        try:
            loaded = load(conn, key, version)
        except SnapshotRefused as refused:
            log.error(  # noqa: TRY400  # what was wrong is said by name; a traceback adds nothing
                "model snapshot refused", version=version, error=refused.error, detail=str(refused)
            )
        else:
            if loaded is not None:
                return loaded
            log.error("model snapshot is missing", version=version, error="missing")
    return None


def load(conn: Connection, key: bytes, version: int) -> Snapshot | None:
    """The snapshot of one version, to decide again what it decided; None if there is none. Raises SnapshotRefused."""
    sealed = read(conn, version)
    return None if sealed is None else unseal(sealed, key)


def read(conn: Connection, version: int) -> Sealed | None:
    """The sealed snapshot as stored, not verified."""
    row = conn.execute(_READ, {"version": version}).one_or_none()
    return None if row is None else _sealed(row)


def last_version(conn: Connection) -> int:
    """The highest version ever published, 0 before the first."""
    version: int = conn.execute(_LAST).scalar_one()
    return version


def publish(conn: Connection, sealed: Sealed) -> None:
    """Add a snapshot in the caller's transaction, and forget old refused ones. IntegrityError if its version is taken.

    Nobody uses it before a verdict says so.
    """
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
    conn.execute(_FORGET, {"kept": CHALLENGERS_KEPT})


def lock(conn: Connection) -> Standing:
    """Who is in use, held until the caller's transaction ends: nobody else gives a verdict meanwhile."""
    conn.execute(_LOCK, {"key": _VERDICT_LOCK})
    return standing(conn)


def standing(conn: Connection) -> Standing:
    """Who is in use now."""
    row = conn.execute(_STANDING, {"trainer": TRAINER, "format": str(FORMAT), "inputs": INPUTS_VERSION}).one_or_none()
    return Standing() if row is None else Standing(row.champion, row.reference, row.frozen, row.actor, row.reason)


def give(conn: Connection, verdict: Verdict) -> None:
    """Record a verdict in the caller's transaction, which holds the `lock`."""
    conn.execute(
        _VERDICT,
        {
            "version": verdict.version,
            "kind": verdict.kind,
            "actor": verdict.actor,
            "reason": verdict.reason[:REASON_LENGTH_MAX],
            "checks": json.dumps(msgspec.to_builtins(verdict.checks)),
        },
    )


def checkpoints(conn: Connection) -> Sequence[Sealed]:
    """The checkpoints as stored, not verified, the furthest first."""
    return [_sealed(row) for row in conn.execute(_CHECKPOINTS)]


def put_checkpoint(conn: Connection, sealed: Sealed) -> None:
    """Keep a checkpoint in the caller's transaction, and CHECKPOINTS_KEPT in all."""
    conn.execute(
        _PUT_CHECKPOINT,
        {
            "last_seq": sealed.manifest["last_seq"],
            "manifest": sealed.canonical().decode(),
            "arrays": sealed.arrays,
            "signature": sealed.signature,
        },
    )
    conn.execute(_FORGET_CHECKPOINTS, {"kept": CHECKPOINTS_KEPT})


def _sealed(row: Row[Any]) -> Sealed:
    return Sealed(row.manifest, bytes(row.arrays), bytes(row.signature))
