"""Calibration, and snapshots that are verified before they are read."""

import hashlib
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.models import INPUT_NAMES, MODELS, SHARES, Calibration, quantiles
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_snapshot import (
    ArraysChanged,
    BadSignature,
    OtherVersion,
    Sealed,
    Snapshot,
    _sign,
    seal,
    unseal,
)

KEY = b"k" * 32
ORIGIN: dict[str, str | int] = {"river": "0.26.1", "seed": 1}

WIDTH = len(INPUT_NAMES)


@cache
def snapshot() -> Snapshot:
    """A small trained snapshot."""
    learner = Learner(LearnerParams(trees=5, height=4, window_rows=50, cuts=10, grace_rows=100, influence_max=10_000))
    rng = np.random.default_rng(3)
    for seq in range(1, 1_301):
        learner.learn(LabelRow(seq, 0, "p", f"a{seq}", None, np.abs(rng.normal(0, 1, WIDTH))))
    return learner.snapshot(4)


def sealed() -> Sealed:
    """The snapshot, sealed."""
    return seal(snapshot(), KEY, ORIGIN)


def test_a_snapshot_survives_sealing() -> None:
    """What is read back scores and calibrates the same to the last bit, also after the manifest went through JSON."""
    packed = sealed()
    stored = Sealed(json.loads(json.dumps(dict(packed.manifest))), packed.arrays, packed.signature)
    back = unseal(stored, KEY)
    features = np.abs(np.random.default_rng(5).normal(0, 3, (200, WIDTH)))
    programs = ["p", "q"] * 100
    assert back.shares(features, programs).tobytes() == snapshot().shares(features, programs).tobytes()
    assert back.scores(features).tobytes() == snapshot().scores(features).tobytes()
    assert (back.version, back.last_seq, back.learned, back.ready) == (4, 1_300, 1_300, True)


def test_sealing_is_deterministic() -> None:
    """Equal snapshots give equal bytes."""
    assert sealed() == sealed()


def test_the_manifest_says_what_the_snapshot_is() -> None:
    """Version, last row, inputs, River, seed and checksum stand in the signed manifest."""
    packed = sealed()
    assert packed.manifest["sha256"] == hashlib.sha256(packed.arrays).hexdigest()
    assert {"version", "last_seq", "inputs_version", "river", "seed", "format"} <= set(packed.manifest)


@pytest.mark.parametrize("key", [b"x" * 32, b"k" * 31])
def test_a_foreign_key_is_refused(key: bytes) -> None:
    """A snapshot signed with another key is not loaded."""
    with pytest.raises(BadSignature):
        unseal(sealed(), key)


def test_a_short_key_is_a_mistake() -> None:
    """A key that could be guessed is refused when signing already."""
    with pytest.raises(ValueError, match="at least 16 bytes"):
        seal(snapshot(), b"short", ORIGIN)


@pytest.mark.parametrize("name", ["version", "last_seq", "ready", "sha256", "seed"])
def test_a_changed_manifest_is_refused(name: str) -> None:
    """No field of the manifest can be changed, dropped or added."""
    packed = sealed()
    for manifest in (
        {**packed.manifest, name: 99},
        {field: value for field, value in packed.manifest.items() if field != name},
        {**packed.manifest, "extra": 1},
    ):
        with pytest.raises(BadSignature):
            unseal(replace(packed, manifest=manifest), KEY)


@given(st.data())
def test_changed_arrays_are_refused(data: st.DataObject) -> None:
    """Any single changed byte, and any truncation, is noticed before the arrays are parsed."""
    packed = sealed()
    at = data.draw(st.integers(0, len(packed.arrays) - 1))
    flipped = bytearray(packed.arrays)
    flipped[at] ^= 1
    for arrays in (bytes(flipped), packed.arrays[:at]):
        with pytest.raises(ArraysChanged):
            unseal(replace(packed, arrays=arrays), KEY)


def test_an_empty_signature_is_refused() -> None:
    """Unsigned is refused like wrongly signed."""
    with pytest.raises(BadSignature):
        unseal(replace(sealed(), signature=b""), KEY)


@pytest.mark.parametrize("name", ["format", "inputs_version"])
def test_another_version_is_refused(name: str) -> None:
    """A properly signed snapshot for other inputs or of another format is refused by name."""
    manifest = {**sealed().manifest, name: "other"}
    with pytest.raises(OtherVersion, match=name):
        unseal(Sealed(manifest, sealed().arrays, _sign(manifest, KEY)), KEY)


@pytest.mark.parametrize("arrays", [b"", b"PK\x03\x04 no zip", b"\x80\x04}."])
def test_signed_nonsense_is_refused(arrays: bytes) -> None:
    """Even a signed blob that is no npz, or a pickle, is refused and nothing of it executed."""
    manifest = {**sealed().manifest, "sha256": hashlib.sha256(arrays).hexdigest()}
    with pytest.raises(ArraysChanged, match="can't be read"):
        unseal(Sealed(manifest, arrays, _sign(manifest, KEY)), KEY)


def test_a_snapshot_that_is_not_ready_knows_no_shares() -> None:
    """Within the grace period shares are unknown."""
    assert np.isnan(replace(snapshot(), ready=False).shares(np.zeros((2, WIDTH)), ["p", "p"])).all()


# --- calibration ----------------------------------------------------------------------------------------------------


def test_a_share_is_what_scores_lower() -> None:
    """Shares count the learned scores strictly below, in thousandths, of the event's own programme."""
    scores = np.arange(2_000, dtype=np.float64)
    tables = np.array([[quantiles(scores), quantiles(-scores)], [quantiles(scores * 0), quantiles(scores)]])
    calibration = Calibration(("", "mine"), tables)
    assert tables.shape == (2, len(MODELS), SHARES)
    given = np.array([[1_500.0, 5.0], [0.0, 3_000.0], [-1.0, -1e9]])
    assert calibration.shares(given, ["other", "mine", "other"]).tolist() == [[0.75, 1.0], [0.0, 1.0], [0.0, 0.0]]


def test_without_tables_shares_are_unknown() -> None:
    """Before the first score there is nothing to compare with."""
    assert np.isnan(Calibration((), np.zeros((0, 2, SHARES))).shares(np.zeros((3, 2)), ["p"] * 3)).all()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50), st.lists(st.floats(-11, 11), min_size=2, max_size=2))
def test_shares_grow_with_scores(learned: list[float], queries: list[float]) -> None:
    """A higher score never has a lower share, and shares stay within [0, 1]."""
    calibration = Calibration(("",), np.array([[quantiles(np.array(learned))]]))
    low, high = calibration.shares(np.array(sorted(queries))[:, None], ["", ""])[:, 0]
    assert 0.0 <= low <= high <= 1.0
