"""Whatever bytes and headers come, decode gives an event or a named refusal."""

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.event import REMEDIES, Invalid, canonical, decode, encode
from tests.unit.event_samples import REQUIRED, full, least, raw

NAMES = sorted({name for kind in REQUIRED for name in full(kind)})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=140),
    st.sampled_from(["", "1.2.3.4", "earn"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type", "x"]
        ),
        st.binary(max_size=20) | st.sampled_from([b"1.0", b"earn", b"application/json", b"2026-03-01T10:00:00Z"]),
    ),
    max_size=6,
)


def check(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Decode and assert what always holds."""
    answer = decode(value, headers)
    if isinstance(answer, Invalid):
        assert answer.error in REMEDIES
        assert answer.detail.endswith(REMEDIES[answer.error])
        (answer.field + answer.detail + (answer.source or "") + (answer.event_id or "")).encode()
    else:
        assert decode(encode(answer)) == answer
        again = decode(canonical(answer))
        assert not isinstance(again, Invalid)
        assert canonical(again) == canonical(answer)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), HEADERS)
def test_any_bytes(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Random bytes under random headers never raise."""
    check(value, headers)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(REQUIRED)), st.dictionaries(st.sampled_from([*NAMES, "x"]), VALUES, max_size=3), HEADERS)
def test_any_value_in_any_field(kind: str, changes: dict[str, object], headers: list[tuple[str, bytes]]) -> None:
    """Valid events with some fields replaced by any JSON, NaN and lone surrogates included, never raise."""
    check(json.dumps(full(kind, **changes)).encode(), headers)
    check(json.dumps(least(kind, **changes), ensure_ascii=False).encode("utf-8", "surrogatepass"), [])


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(REQUIRED)), st.randoms(use_true_random=False), st.integers(1, 6))
def test_broken_events(kind: str, rng: random.Random, edits: int) -> None:
    """Valid events with bytes changed, doubled or lost never raise."""
    value = bytearray(raw(full(kind)))
    for _ in range(edits):
        at = rng.randrange(len(value))
        action = rng.randrange(4)
        if action == 0:
            value[at] = rng.randrange(256)
        elif action == 1:
            del value[at : at + rng.randrange(8)]
        elif action == 2:
            value[at:at] = value[at : at + rng.randrange(20)]
        else:
            value[at:at] = rng.choice([b"\\u0000", b'"', b"1e9", b"\xff", b"[", b"{", b',"points":1', b"\\ud800"])
        if not value:
            break
    check(bytes(value), [])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(REQUIRED)), st.data())
def test_a_doubled_key_never_passes(kind: str, data: st.DataObject) -> None:
    """Whichever field is sent twice, wherever and with whatever value, the event is refused."""
    fields = full(kind)
    name = data.draw(st.sampled_from(sorted(fields)))
    again = data.draw(st.one_of(st.just(fields[name]), SCALARS))
    parts = [json.dumps({key: value})[1:-1] for key, value in fields.items()]
    parts.insert(data.draw(st.integers(0, len(parts))), json.dumps({name: again})[1:-1])
    answer = decode(("{" + ",".join(parts) + "}").encode())
    assert isinstance(answer, Invalid)
