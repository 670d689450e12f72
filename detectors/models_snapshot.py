"""A model snapshot: compiled models and calibration, sealed into arrays, a manifest and a signature.

Sealed form: `arrays` is an npz without pickles; the manifest names version, last_seq, inputs and River versions,
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
from detectors.models import INPUT_NAMES, INPUTS, MODELS, Calibration, squash
from detectors.models_hst import CompiledHst
from detectors.models_loda import CompiledLoda

FORMAT = 1
KEY_BYTES_MIN = 16
INPUTS_VERSION = hashlib.sha256(json.dumps(INPUTS).encode()).hexdigest()[:16]


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
    """Made for other inputs or in another format. Let the trainer of this release publish a new one."""

    error = "other_version"


@dataclass(frozen=True)
class Snapshot:
    """What workers score with. `learned` rows shaped it; it speaks only once it is `ready` (past its grace period)."""

    version: int
    last_seq: int
    learned: int
    ready: bool
    hst: CompiledHst
    loda: CompiledLoda
    calibration: Calibration

    def scores(self, inputs: Floats) -> Floats:
        """Raw scores float64[n, len(MODELS)] of the features named by INPUT_NAMES, equal to River's row by row."""
        inputs = squash(inputs)
        return np.stack((self.hst.score(inputs), self.loda.score(inputs)), axis=1)

    def shares(self, inputs: Floats, programs: Sequence[str]) -> Floats:
        """For each event and model the share of its programme's events that score lower; NaN while not ready."""
        if not self.ready:
            return np.full((len(inputs), len(MODELS)), np.nan)
        return self.calibration.shares(self.scores(inputs), programs)


@dataclass(frozen=True)
class Sealed:
    """A snapshot as it is stored: JSON-ready manifest, npz bytes, signature."""

    manifest: Mapping[str, Any]
    arrays: bytes
    signature: bytes

    def canonical(self) -> bytes:
        """The manifest as the bytes that are signed: equal manifests give equal bytes."""
        return _canonical(self.manifest)


def seal(snapshot: Snapshot, key: bytes, origin: Mapping[str, str | int]) -> Sealed:
    """Pack and sign. `origin` (River version, seed, digest of the state) becomes part of the manifest."""
    arrays = _pack(snapshot)
    manifest = {
        **origin,
        "format": FORMAT,
        "version": snapshot.version,
        "last_seq": snapshot.last_seq,
        "learned": snapshot.learned,
        "ready": snapshot.ready,
        "inputs_version": INPUTS_VERSION,
        "programs": list(snapshot.calibration.programs),
        "sha256": hashlib.sha256(arrays).hexdigest(),
    }
    return Sealed(manifest, arrays, _sign(manifest, key))


def unseal(sealed: Sealed, key: bytes) -> Snapshot:
    """Verify, then load. Raises BadSignature, ArraysChanged or OtherVersion, in that order of checking."""
    manifest = sealed.manifest
    if not hmac.compare_digest(_sign(manifest, key), bytes(sealed.signature)):
        raise BadSignature("the signature does not fit manifest and key")
    if hashlib.sha256(sealed.arrays).hexdigest() != manifest["sha256"]:
        raise ArraysChanged("the arrays do not fit the signed checksum")
    expected = {"format": FORMAT, "inputs_version": INPUTS_VERSION}
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise OtherVersion(f"{name} is {manifest.get(name)!r}, this release reads {value!r}")
    try:
        hst, loda, tables = _unpack(sealed.arrays)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ArraysChanged(f"the arrays can't be read: {error}") from error
    calibration = Calibration(tuple(manifest["programs"]), tables)
    return Snapshot(
        version=int(manifest["version"]), last_seq=int(manifest["last_seq"]), learned=int(manifest["learned"]),
        ready=bool(manifest["ready"]), hst=hst, loda=loda, calibration=calibration,
    )  # fmt: skip


def _sign(manifest: Mapping[str, Any], key: bytes) -> bytes:
    if len(key) < KEY_BYTES_MIN:
        raise ValueError(f"a signing key has at least {KEY_BYTES_MIN} bytes")
    return hmac.new(key, b"pointguard model snapshot\n" + _canonical(manifest), hashlib.sha256).digest()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _pack(snapshot: Snapshot) -> bytes:
    hst, loda = snapshot.hst, snapshot.loda
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        hst_feature=hst.feature, hst_threshold=hst.threshold, hst_leaf=hst.leaf,
        hst_mass_max=np.float64(hst.mass_max),
        loda_column=loda.column.astype(np.int64), loda_weight=loda.weight, loda_left=loda.left,
        loda_right=loda.right, loda_surprise=loda.surprise,
        calibration=snapshot.calibration.tables,
    )  # fmt: skip
    return buffer.getvalue()


def _unpack(arrays: bytes) -> tuple[CompiledHst, CompiledLoda, Floats]:
    with np.load(io.BytesIO(arrays), allow_pickle=False) as stored:
        hst = CompiledHst(
            stored["hst_feature"], stored["hst_threshold"], stored["hst_leaf"], float(stored["hst_mass_max"])
        )
        loda = CompiledLoda(
            stored["loda_column"].astype(np.intp), stored["loda_weight"], stored["loda_left"],
            stored["loda_right"], stored["loda_surprise"],
        )  # fmt: skip
        tables = stored["calibration"]
    inputs = len(INPUT_NAMES)
    if hst.feature.max(initial=0) >= inputs or loda.column.max(initial=0) >= inputs:
        raise ValueError("a model reads an input that does not exist")
    return hst, loda, tables
