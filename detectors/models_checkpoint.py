"""A checkpoint: the whole state of the fold, sealed like a snapshot, so that a trainer need not learn its log again.

Arrays and a signed manifest, no pickle: a checkpoint can be damaged or forged, and is then refused before anything of
it is used, but it cannot execute. What comes out must have the digest that was signed.
"""

from collections.abc import Mapping

from detectors.models_learner import Learner
from detectors.models_snapshot import (
    ArraysChanged,
    OtherVersion,
    Sealed,
    checked,
    packed,
    sealed_arrays,
    unpacked,
)

FORMAT = 1
PURPOSE = "checkpoint"


def seal_state(learner: Learner, key: bytes, origin: Mapping[str, str | int]) -> Sealed:
    """Pack and sign. `origin` (River version, parameters, inputs) says which learner can go on from it."""
    manifest = {
        **origin,
        "format": FORMAT,
        "last_seq": learner.seq,
        "learned": learner.learned,
        "state": learner.digest(),
    }
    return sealed_arrays(manifest, packed(learner.export()), key, PURPOSE)


def restore_state(learner: Learner, sealed: Sealed, key: bytes, origin: Mapping[str, str | int]) -> None:
    """Verify, then let a new `learner` go on from there. Raises SnapshotRefused; the learner is then unusable.

    BadSignature and ArraysChanged as for a snapshot; OtherVersion if it was made by another River, with other
    parameters or for other inputs.
    """
    manifest = checked(sealed, key, PURPOSE)
    for name, value in {**origin, "format": FORMAT}.items():
        if manifest.get(name) != value:
            raise OtherVersion(f"{name} is {manifest.get(name)!r}, this trainer has {value!r}")
    try:
        learner.restore(unpacked(sealed.arrays))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ArraysChanged(f"no state comes out of the arrays: {error}") from error
    if learner.digest() != manifest["state"]:
        raise ArraysChanged("the state that comes out of the arrays has another digest than the signed one")
