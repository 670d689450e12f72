"""A model snapshot: compiled models and calibration, sealed into arrays, a manifest and a signature.

Sealed form: `arrays` is an npz without pickles; the manifest names version, last_seq, features and River versions,
seeds and the sha256 of the arrays; the signature is HMAC-SHA256 over the manifest. `unseal` checks signature and
checksum before it parses a single array.
"""

import hashlib
import hmac
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.layout import Floats
from detectors.models import INPUTS, MODELS, SHARES, WIDE, Arrays, Scorer, squash
from detectors.models_calibration import Calibration
from detectors.models_drift import Profile
from detectors.models_registry import arrays_of, scorers_of
from detectors.models_rows import HeldOut
from detectors.policy import ModelName

FORMAT = 2
PURPOSE = "snapshot"
KEY_BYTES_MIN = 16
INPUTS_VERSION = hashlib.sha256(json.dumps([INPUTS, MODELS]).encode()).hexdigest()[:16]


class SnapshotRefused(Exception):
    """A snapshot that must not be loaded; `error` is a short name, the text says what to do."""

    error = "refused"


class BadSignature(SnapshotRefused):
    """The signature is not ours: unsigned, changed, or signed with another key. Check who can write snapshots."""

    error = "bad_signature"


class ArraysChanged(SnapshotRefused):
    """The arrays are not those that were signed: damaged or cut short. Restore them or wait for the next snapshot."""

    error = "arrays_changed"


class OtherVersion(SnapshotRefused):
    """Made for other features, inputs or another format. Let the trainer of this release publish a new one."""

    error = "other_version"


@dataclass(frozen=True)
class Snapshot:
    """What workers score with. `learned` rows shaped it; it speaks only once it is `ready` (past its grace period).

    `profile` is how inputs and scores were spread when it was made, to tell drift by.
    """

    version: int
    last_seq: int
    learned: int
    ready: bool
    scorers: Mapping[ModelName, Scorer]
    calibration: Calibration
    profile: Profile

    def scores(self, inputs: Floats) -> Floats:
        """Raw scores float64[n, len(MODELS)] of inputs in the order of INPUT_NAMES, equal to River's row by row."""
        squashed = squash(inputs)
        return np.stack([scorer.score(squashed) for scorer in self.scorers.values()], axis=1)

    def numbers(self, inputs: Floats, programs: Sequence[str]) -> Floats:
        """For each event and model its calibrated number (models.py), float64[n, len(MODELS)]; NaN while not ready."""
        if not self.ready:
            return np.full((len(inputs), len(MODELS)), np.nan)
        return self.calibration.numbers(self.scores(inputs), programs)

    def compare(self, rows: HeldOut) -> Floats:
        """As `numbers`, of rows that are squashed already."""
        scores = np.stack([scorer.score(rows.inputs) for scorer in self.scorers.values()], axis=1)
        return self.calibration.numbers(scores, rows.programs)


@dataclass(frozen=True)
class Sealed:
    """A snapshot as it is stored: JSON-ready manifest, npz bytes, signature."""

    manifest: Mapping[str, Any]
    arrays: bytes
    signature: bytes

    def canonical(self) -> bytes:
        """The manifest as the bytes that are signed: equal manifests give equal bytes."""
        return _canonical(self.manifest)


def seal(snapshot: Snapshot, key: bytes, origin: Mapping[str, Any]) -> Sealed:
    """Pack and sign. `origin` (River version, parameters, digest of the state) becomes part of the manifest."""
    manifest = {
        **origin,
        "format": FORMAT,
        "version": snapshot.version,
        "last_seq": snapshot.last_seq,
        "learned": snapshot.learned,
        "ready": snapshot.ready,
        "inputs_version": INPUTS_VERSION,
        "programs": list(snapshot.calibration.programs),
    }
    return sealed_arrays(manifest, _pack(snapshot), key, PURPOSE)


def unseal(sealed: Sealed, key: bytes) -> Snapshot:
    """Verify, then load. Raises BadSignature, ArraysChanged or OtherVersion, in that order of checking."""
    manifest = checked(sealed, key, PURPOSE)
    for name, value in (("format", FORMAT), ("inputs_version", INPUTS_VERSION)):
        if manifest.get(name) != value:
            raise OtherVersion(f"{name} is {manifest.get(name)!r}, this release reads {value!r}")
    try:
        return _loaded(manifest, unpacked(sealed.arrays))
    except (ValueError, KeyError) as error:
        raise ArraysChanged(f"the arrays can't be read: {error}") from error


def sealed_arrays(manifest: Mapping[str, Any], arrays: bytes, key: bytes, purpose: str) -> Sealed:
    """Any manifest and npz, signed for one purpose: what was signed for another never passes for it."""
    complete = {**manifest, "sha256": hashlib.sha256(arrays).hexdigest()}
    return Sealed(complete, arrays, _sign(complete, key, purpose))


def checked(sealed: Sealed, key: bytes, purpose: str) -> Mapping[str, Any]:
    """The manifest, once signature and checksum hold. Raises BadSignature or ArraysChanged; parses nothing."""
    if not hmac.compare_digest(_sign(sealed.manifest, key, purpose), bytes(sealed.signature)):
        raise BadSignature("the signature does not fit manifest and key")
    if hashlib.sha256(sealed.arrays).hexdigest() != sealed.manifest["sha256"]:
        raise ArraysChanged("the arrays do not fit the signed checksum")
    return sealed.manifest


def _sign(manifest: Mapping[str, Any], key: bytes, purpose: str) -> bytes:
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"a signing key has at least {KEY_BYTES_MIN} bytes")
    message = f"pointguard model {purpose}\n".encode() + _canonical(manifest)
    return hmac.new(key, message, hashlib.sha256).digest()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _pack(snapshot: Snapshot) -> bytes:
    calibration = snapshot.calibration
    return packed(
        {
            **arrays_of(snapshot.scorers),
            "calibration.tables": calibration.tables,
            "calibration.edges": calibration.edges,
            "calibration.chances": calibration.chances,
            "profile.edges": snapshot.profile.edges,
            "profile.shares": snapshot.profile.shares,
        }
    )


def packed(arrays: Arrays) -> bytes:
    """Named arrays as npz without pickles; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays again. Raises ArraysChanged for what is no npz of plain arrays; nothing is ever unpickled."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, KeyError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ArraysChanged(f"the arrays can't be read: {error}") from error


def _loaded(manifest: Mapping[str, Any], arrays: Arrays) -> Snapshot:
    scorers = scorers_of(arrays)
    for scorer in scorers.values():
        # Every model names the inputs it reads in one of these, or reads all of them.
        column = getattr(scorer, "column", getattr(scorer, "feature", None))
        if column is not None and not 0 <= column.min(initial=0) <= column.max(initial=0) < WIDE:
            raise ValueError("a model reads an input that does not exist")
    calibration = Calibration(
        tuple(manifest["programs"]),
        *(arrays[f"calibration.{name}"] for name in ("tables", "edges", "chances")),
    )
    if calibration.tables.shape != (len(calibration.programs), len(MODELS), SHARES):
        raise ValueError("the calibration has another shape than its programmes")
    return Snapshot(
        version=int(manifest["version"]), last_seq=int(manifest["last_seq"]), learned=int(manifest["learned"]),
        ready=bool(manifest["ready"]), scorers=scorers, calibration=calibration,
        profile=Profile(arrays["profile.edges"], arrays["profile.shares"]),
    )  # fmt: skip
