"""The event contract in plain JSON: what is accepted, what is refused, and under which name."""

import json
from datetime import UTC, datetime

import pytest

from detectors.event import (
    BODY_BYTES_MAX,
    EVENT_TYPES,
    INFORM,
    MOVES,
    POINTS_MAX,
    PROGRAM,
    REMEDIES,
    Earn,
    Event,
    Invalid,
    Redeem,
    canonical,
    decode,
    encode,
    milliseconds,
    observe_time,
    points_of,
)
from tests.unit.event_samples import EXTRA, OPTIONAL, REQUIRED, full, least, raw

KINDS = tuple(REQUIRED)


def accepted(fields: dict[str, object]) -> Event:
    """Decode fields that have to be accepted."""
    event = decode(raw(fields))
    assert not isinstance(event, Invalid), event
    return event


def refused(value: bytes | None) -> tuple[str, str]:
    """Decode a value that has to be refused; give the code and the field."""
    answer = decode(value)
    assert isinstance(answer, Invalid), answer
    assert answer.detail.endswith(REMEDIES[answer.error])
    return answer.error, answer.field


def test_the_types_are_those_of_the_design() -> None:
    """Every type moves, informs, or is the programme's, and none is more than one of these."""
    assert set(KINDS) == set(EVENT_TYPES)
    assert set(EVENT_TYPES) == MOVES | INFORM | PROGRAM
    assert len(EVENT_TYPES) == len(MOVES) + len(INFORM) + len(PROGRAM)
    assert {"earn", "redeem", "reverse", "adjust", "transfer"} == MOVES


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_accepted_with_least_and_all_fields(kind: str) -> None:
    """Required fields are enough, optional ones are kept, and writing an event reads back as itself."""
    for fields in (least(kind), full(kind)):
        event = accepted(fields)
        assert type(event) is EVENT_TYPES[kind]
        assert event.type == kind
        assert decode(encode(event)) == event
        for name, value in fields.items():
            if name not in {"occurred_at", "decide_by"}:
                assert getattr(event, name) == value


@pytest.mark.parametrize("kind", KINDS)
def test_each_missing_field_is_named(kind: str) -> None:
    """Leaving out any required field is refused as that missing field."""
    for name in least(kind):
        fields = {key: value for key, value in least(kind).items() if key != name}
        assert refused(raw(fields)) == ("missing_field", name)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_fields_are_named(kind: str) -> None:
    """A field that is not of this type is refused by name, also when it belongs to another type."""
    assert refused(raw(full(kind, colour="red"))) == ("unknown_field", "colour")
    if "to" not in full(kind):
        assert refused(raw(full(kind, to="member-2"))) == ("unknown_field", "to")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"a": 1}, ["x"], 1.5, True, False])
def test_wrong_types_are_named(kind: str, wrong: object) -> None:
    """A value of another JSON type is refused at every field; for decimal points the code says so."""
    for name in full(kind):
        if name == "fulfilled" and isinstance(wrong, bool):
            continue
        expected = "fractional_points" if name == "points" and wrong == 1.5 else "wrong_type"
        assert refused(raw(full(kind, **{name: wrong}))) == (expected, name)


@pytest.mark.parametrize("kind", KINDS)
def test_null_is_only_for_optional_fields(kind: str) -> None:
    """An explicit null equals an absent optional field, and is refused where the field is required."""
    for name in OPTIONAL:
        if name not in REQUIRED[kind]:
            assert accepted(full(kind, **{name: None})) == accepted(
                {key: value for key, value in full(kind).items() if key != name}
            )
    for name in REQUIRED[kind]:
        assert refused(raw(least(kind, **{name: None}))) == ("wrong_type", name)


@pytest.mark.parametrize(
    ("points", "error"),
    [
        (b"1.5", "fractional_points"),
        (b"1.0", "fractional_points"),
        (b"1e2", "fractional_points"),
        (b'"100"', "wrong_type"),
        (b"true", "wrong_type"),
        (b"null", "wrong_type"),
        (b"0", "out_of_range"),
        (b"-0", "out_of_range"),
        (b"-5", "out_of_range"),
        (str(POINTS_MAX + 1).encode(), "out_of_range"),
        (b"1" * 30, "out_of_range"),
        (b"1" * 6000, "out_of_range"),
    ],
)
def test_points_are_whole_positive_and_bounded(points: bytes, error: str) -> None:
    """Anything but an integer from 1 to 2^53 - 1 is refused, each under its own name."""
    assert refused(raw(least("earn")).replace(b"1200", points)) == (error, "points")


def test_points_at_their_bounds() -> None:
    """Both ends of the range are accepted; an adjustment has a sign but is never zero."""
    assert points_of(accepted(least("earn", points=1))) == 1
    assert points_of(accepted(least("earn", points=POINTS_MAX))) == POINTS_MAX
    assert points_of(accepted(least("adjust", points=-POINTS_MAX))) == POINTS_MAX
    assert points_of(accepted(least("login"))) == 0
    assert points_of(accepted(least("reverse"))) == 0
    assert refused(raw(least("adjust", points=0))) == ("out_of_range", "points")
    assert refused(raw(least("adjust", points=-POINTS_MAX - 1))) == ("out_of_range", "points")


@pytest.mark.parametrize("name", ["id", "source", "program", "account", "store", "device", "staff"])
@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", "a\x00", "\x7f", "a\x85b", "tab\t"])
def test_ids_have_a_length_and_no_control_characters(name: str, value: str) -> None:
    """Empty and over-long ids and control characters are refused, escaped or as they are."""
    assert refused(raw(full("earn", **{name: value}))) == ("bad_id", name)
    assert refused(json.dumps(full("earn", **{name: value})).encode()) == ("bad_id", name)


def test_ids_at_their_bounds() -> None:
    """128 characters of any script are an id; the reason of an adjustment has 256."""
    assert accepted(least("earn", account="会" * 128)).account == "会" * 128
    assert accepted(least("adjust", reason="x" * 256)).type == "adjust"
    assert refused(raw(least("adjust", reason="x" * 257))) == ("bad_id", "reason")


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-01T10:00:00",
        "2026-03-01",
        "yesterday",
        "",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-10:00",
        "2200-01-01T00:00:00Z",
    ],
)
@pytest.mark.parametrize("name", ["occurred_at", "decide_by"])
def test_times_need_a_zone_and_a_sensible_year(name: str, time: str) -> None:
    """Naive, unreadable and far-off times are refused."""
    assert refused(raw(full("redeem", **{name: time}))) == ("bad_time", name)


def test_times_are_strings() -> None:
    """A number is no time, whatever its unit."""
    assert refused(raw(least("earn", occurred_at=1772330400))) == ("wrong_type", "occurred_at")


def test_milliseconds_of_a_time() -> None:
    """A time with milliseconds keeps them exactly, in any zone."""
    assert milliseconds(accepted(least()).occurred_at) == 1772330400123
    assert milliseconds(datetime(2026, 3, 1, 2, 0, 0, 123_000, tzinfo=UTC)) == 1772330400123


@pytest.mark.parametrize("ip", ["203.0.113.256", "localhost", "1.2.3", "99999999999", "::g", "0x7f.1", "1.2.3.4/8"])
def test_an_address_that_is_none_is_refused(ip: str) -> None:
    """Only literal addresses count as such; guessing would give velocity a false hub."""
    assert refused(raw(full("earn", ip=ip))) == ("bad_ip", "ip")


@pytest.mark.parametrize("ip", ["203.0.113.7", "2001:db8::1", "::ffff:203.0.113.7", "2731235388"])
def test_every_spelling_of_an_address_is_accepted(ip: str) -> None:
    """IPv4, IPv6, mapped and integer spellings pass as they are."""
    assert accepted(full("earn", ip=ip)).ip == ip


@pytest.mark.parametrize(
    ("value", "error", "field"),
    [
        (None, "empty", ""),
        (b"", "empty", ""),
        (b" \n", "empty", ""),
        (b"{", "not_json", ""),
        (b"nonsense", "not_json", ""),
        (b"{}x", "not_json", ""),
        (b"\xef\xbb\xbf{}", "not_json", ""),
        (b"\xff\xfe{}", "not_utf8", ""),
        (b"[]", "not_an_object", ""),
        (b"null", "not_an_object", ""),
        (b"12", "not_an_object", ""),
        (b"[" * 60_000, "too_deep", ""),
        (b'{"a":' * 10_000, "too_deep", ""),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "too_deep", ""),
        (b'{"a":' * 8 + b"1" + b"}" * 8, "missing_field", "type"),
        (b"{}", "missing_field", "type"),
        (b'{"type":null}', "missing_field", "type"),
        (b'{"type":7}', "wrong_type", "type"),
        (b'{"type":"gift"}', "unknown_type", "type"),
        (b'{"type":NaN}', "not_json", ""),
    ],
)
def test_what_is_no_event_at_all(value: bytes | None, error: str, field: str) -> None:
    """Records without a value, other formats and foreign objects each have their name."""
    assert refused(value) == (error, field)


def test_nan_and_infinity_are_not_json() -> None:
    """The constants that some JSON writers emit are refused wherever they stand."""
    for constant in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        error, _ = refused(raw(least("earn")).replace(b"1200", constant))
        assert error == ("fractional_points" if constant == b"1e999" else "not_json")


def test_duplicate_keys_are_refused_in_any_disguise() -> None:
    """The second copy of a key is seen in compact, spaced and escaped JSON, and beside nulls."""
    event = raw(least("earn"))
    for twice in (
        event.replace(b'"points":1200', b'"points":1,"points":1200'),
        event.replace(b'"points":1200', b'"points" : 1, "points" :1200'),
        event.replace(b'"points":1200', b'"points":1,"p\\u006fints":1200'),
        event.replace(b'"points":1200', b'"points":1,"points":1200,"order":null'),
    ):
        assert refused(twice) == ("duplicate_key", "points")
    assert refused(event.replace(b'"points"', b'"order":"a","order":null,"points"')) == ("duplicate_key", "order")


def test_size_is_bounded() -> None:
    """65,536 bytes are read, one more is refused before anything is parsed."""
    event = raw(least("earn"))
    padded = event[:-1] + b" " * (BODY_BYTES_MAX - len(event)) + b"}"
    assert isinstance(decode(padded), Earn)
    assert refused(padded + b" ") == ("too_large", "")


def test_a_lone_surrogate_is_not_json() -> None:
    """Half of a surrogate pair can't be stored as UTF-8, so it never passes."""
    assert refused(raw(least("earn")).replace(b"member-1", b"\\ud800")) == ("not_json", "account")


def test_a_refusal_carries_the_identity_it_could_read() -> None:
    """A dead letter can be found by source and id whenever these were usable."""
    answer = decode(raw(least("earn", points=1.5)))
    assert isinstance(answer, Invalid)
    assert (answer.source, answer.event_id) == ("pos/shop-17", "e-1")
    answer = decode(raw(least("earn", id="\n", ip="nonsense")))
    assert isinstance(answer, Invalid)
    assert (answer.source, answer.event_id) == ("pos/shop-17", None)


def test_refusals_do_not_quote_values() -> None:
    """Device and address never leak into the stored reason."""
    for fields in (full("earn", ip="secret-ip"), full("earn", device="secret\n"), full("earn", device={"secret": 1})):
        answer = decode(raw(fields))
        assert isinstance(answer, Invalid)
        assert "secret" not in answer.detail + answer.field


def test_a_long_unknown_field_is_cut() -> None:
    """A hostile field name can't fill the table of dead letters."""
    answer = decode(raw(least("earn", **{"f\n" * 500: 1})))
    assert isinstance(answer, Invalid)
    assert answer.field == "f?" * 32


def test_equal_events_hash_equal() -> None:
    """Order of fields, time zone, explicit defaults and nulls do not change the hash; any other field does."""
    event = accepted(full("redeem"))
    same = full("redeem", occurred_at="2026-03-01T02:00:00.123Z", decide_by="2026-03-01T10:00:05+08:00")
    assert canonical(accepted(dict(reversed(same.items())))) == canonical(event)
    assert canonical(accepted(least("redeem", fulfilled=False, order=None))) == canonical(accepted(least("redeem")))
    hashes = {canonical(accepted(full("redeem", **{name: "9.9.9.9"}))) for name in (*OPTIONAL, "id", "account")}
    assert len(hashes | {canonical(event)}) == len(OPTIONAL) + 3


def test_observe_time_is_clamped() -> None:
    """A claim counts within 24 h before and 5 min after it was seen; outside it is moved and said to be."""
    seen = 1_772_330_400_000
    early, late = seen + 300_000, seen - 86_400_000
    assert observe_time(seen, seen) == (seen, False)
    assert observe_time(early, seen) == (early, False)
    assert observe_time(early + 1, seen) == (early, True)
    assert observe_time(late, seen) == (late, False)
    assert observe_time(late - 1, seen) == (late, True)


def test_events_are_frozen() -> None:
    """An event can't be changed after it was read."""
    event = accepted(least("redeem"))
    assert isinstance(event, Redeem)
    with pytest.raises(AttributeError):
        event.points = 1  # type: ignore[misc]  # the point of the test


def test_every_type_with_extra_fields_exists() -> None:
    """The samples name only types of the contract."""
    assert set(EXTRA) <= set(EVENT_TYPES)
