"""Calibration, and snapshots that are verified before they are read."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.models import CHANCE, MODELS, SHARES, WIDE
from detectors.models_calibration import Calibration, isotonic, quantiles
from detectors.models_snapshot import (
    PURPOSE,
    ArraysChanged,
    BadSignature,
    OtherVersion,
    Sealed,
    Snapshot,
    _sign,
    seal,
    unseal,
)
from tests.unit.model_rows import fold, inputs, mixed, unbounded

KEY = b"k" * 32
ORIGIN: dict[str, str | int] = {"river": "0.26.1", "seed": 1}


@cache
def snapshot() -> Snapshot:
    """A small trained snapshot."""
    return fold(mixed(1_500), unbounded()).snapshot(4)


def sealed() -> Sealed:
    """The snapshot, sealed."""
    return seal(snapshot(), KEY, ORIGIN)


def test_a_snapshot_survives_sealing() -> None:
    """What is read back scores and calibrates the same to the last bit, also after the manifest went through JSON."""
    packed = sealed()
    stored = Sealed(json.loads(json.dumps(dict(packed.manifest))), packed.arrays, packed.signature)
    back = unseal(stored, KEY)
    queries = inputs(200, seed=5, scale=3.0)
    programs = ["p", "q"] * 100
    assert np.isfinite(back.numbers(queries, programs)).all()
    assert back.numbers(queries, programs).tobytes() == snapshot().numbers(queries, programs).tobytes()
    assert back.scores(queries).tobytes() == snapshot().scores(queries).tobytes()
    assert (back.version, back.last_seq, back.learned, back.ready) == (4, 1_500, snapshot().learned, True)
    assert back.profile.edges.tobytes() == snapshot().profile.edges.tobytes()


def test_sealing_is_deterministic() -> None:
    """Equal snapshots give equal bytes."""
    assert sealed() == sealed()


def test_the_manifest_says_what_the_snapshot_is() -> None:
    """Version, last row, features, River, seed and checksum stand in the signed manifest."""
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
    """A properly signed snapshot for other features or of another format is refused by name."""
    manifest = {**sealed().manifest, name: "other"}
    with pytest.raises(OtherVersion, match=name):
        unseal(Sealed(manifest, sealed().arrays, _sign(manifest, KEY, PURPOSE)), KEY)


@pytest.mark.parametrize("arrays", [b"", b"PK\x03\x04 no zip", b"\x80\x04}."])
def test_signed_nonsense_is_refused(arrays: bytes) -> None:
    """Even a signed blob that is no npz, or a pickle, is refused and nothing of it executed."""
    manifest = {**sealed().manifest, "sha256": hashlib.sha256(arrays).hexdigest()}
    with pytest.raises(ArraysChanged, match="can't be read"):
        unseal(Sealed(manifest, arrays, _sign(manifest, KEY, PURPOSE)), KEY)


def test_a_snapshot_that_is_not_ready_knows_no_shares() -> None:
    """Within the grace period shares are unknown."""
    assert np.isnan(replace(snapshot(), ready=False).numbers(np.zeros((2, WIDE)), ["p", "p"])).all()


# --- calibration ----------------------------------------------------------------------------------------------------


NO_FIT = np.zeros(0)
ANY = MODELS.index("hst")
CHANCES = MODELS.index(CHANCE)


def tables(*of: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Calibration:
    """A calibration with one table a programme, the same for all models, named "", "mine", and so on."""
    names = ("", "mine", "other")[: len(of)]
    return Calibration(names, np.array([[quantiles(scores)] * len(MODELS) for scores in of]), NO_FIT, NO_FIT)


def test_a_share_is_what_scores_lower() -> None:
    """Shares count the learned scores strictly below, in thousandths, of the event's own programme."""
    scores = np.arange(2_000, dtype=np.float64)
    given = np.full((3, len(MODELS)), [[1_500.0], [0.0], [-1.0]])
    numbers = tables(scores, scores - 1_000).numbers(given, ["nobody's", "mine", "nobody's"])
    assert numbers[:, ANY].tolist() == [0.75, 0.5, 0.0]


def test_without_tables_numbers_are_unknown() -> None:
    """Before the first score there is nothing to compare with; so it is for a model without scores, and for NaN."""
    nothing = Calibration((), np.zeros((0, len(MODELS), SHARES)), NO_FIT, NO_FIT)
    assert np.isnan(nothing.numbers(np.zeros((3, len(MODELS))), ["p"] * 3)).all()
    silent = tables(np.full(5, np.nan))
    assert np.isnan(silent.numbers(np.zeros((3, len(MODELS))), ["p"] * 3)).all()
    assert np.isnan(tables(np.arange(5.0)).numbers(np.full((1, len(MODELS)), np.nan), ["p"])).all()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50), st.lists(st.floats(-11, 11), min_size=2, max_size=2))
def test_shares_grow_with_scores(learned: list[float], queries: list[float]) -> None:
    """A higher score never has a lower share, and shares stay within [0, 1]."""
    given_ = np.repeat(np.array(sorted(queries))[:, None], len(MODELS), axis=1)
    low, high = tables(np.array(learned)).numbers(given_, ["", ""])[:, ANY]
    assert 0.0 <= low <= high <= 1.0


SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@given(SCORES, SCORES, st.floats(0.001, 0.5))
def test_the_chance_grows_with_the_score(good: list[float], fraud: list[float], rate: float) -> None:
    """Whatever the labels said, a higher score never has a lower chance, and no chance is certain."""
    edges, chances = isotonic(np.array(good), np.array(fraud), rate)
    assert (np.diff(edges) > 0).all()
    assert (np.diff(chances) >= 0).all()
    assert ((chances > 0) & (chances < 1)).all()


def test_the_chance_is_the_frequency() -> None:
    """Where scores say how frequent fraud is, the fit agrees, also when fraud was sampled more densely than it is."""
    numbers = np.random.default_rng(7)
    scores = numbers.random(40_000)
    fraud = numbers.random(40_000) < scores**2
    rate = float(fraud.mean())
    for kept in (slice(None), slice(0, 3_000)):
        edges, chances = isotonic(scores[~fraud][kept], scores[fraud], rate)
        calibration = Calibration((), np.zeros((0, len(MODELS), SHARES)), edges, chances)
        asked = np.full((4, len(MODELS)), [[0.25], [0.5], [0.75], [0.95]])
        found = calibration.numbers(asked, ["p"] * 4)[:, CHANCES]
        assert np.abs(found - asked[:, CHANCES] ** 2).max() < 0.06


def test_workers_need_no_river() -> None:
    """What scores is arrays: a worker loads neither River nor what that brings along."""
    code = "import sys, streams.worker, streams.catalog; print({'river', 'scipy'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
