"""CloudEvents 1.0 in Kafka's binary mode: the same events, with some fields in headers."""

import pytest

from detectors.event import Event, Invalid, canonical, decode
from tests.unit.event_samples import REQUIRED, full, least, raw

MOVED = {"id": "ce_id", "source": "ce_source", "type": "ce_type", "occurred_at": "ce_time", "account": "ce_subject"}
Headers = list[tuple[str, bytes]]


def binary(fields: dict[str, object], **changes: bytes | None) -> tuple[bytes, Headers]:
    """Write fields as a CloudEvent; changes replace headers, None removes one."""
    headers = {"ce_specversion": b"1.0", "content-type": b"application/json"}
    headers |= {header: str(fields[name]).encode() for name, header in MOVED.items()}
    kept = {name: changes.get(name, value) for name, value in headers.items()} | changes
    data = {name: value for name, value in fields.items() if name not in MOVED}
    return raw(data), [(name, value) for name, value in kept.items() if value is not None]


def accepted(value: bytes, headers: Headers) -> Event:
    """Decode a CloudEvent that has to be accepted."""
    event = decode(value, headers)
    assert not isinstance(event, Invalid), event
    return event


def refused(value: bytes, headers: Headers) -> tuple[str, str]:
    """Decode a CloudEvent that has to be refused; give the code and the field."""
    answer = decode(value, headers)
    assert isinstance(answer, Invalid), answer
    return answer.error, answer.field


@pytest.mark.parametrize("kind", REQUIRED)
def test_both_wire_forms_are_the_same_event(kind: str) -> None:
    """An event is equal, and hashes equal, in plain JSON and in binary mode."""
    for fields in (least(kind), full(kind)):
        event = accepted(*binary(fields))
        assert event == decode(raw(fields))
        assert canonical(event) == canonical(accepted(raw(fields), []))


def test_fields_may_stand_in_both_places_when_they_agree() -> None:
    """Data that repeats the attributes is the same event, also when the time is in another zone."""
    fields = full("redeem")
    _, headers = binary(fields)
    assert accepted(raw(fields), headers) == decode(raw(fields))
    assert accepted(raw(fields | {"occurred_at": "2026-03-01T02:00:00.123Z"}), headers) == decode(raw(fields))


@pytest.mark.parametrize("name", MOVED)
def test_a_field_on_which_the_two_disagree_is_refused_by_name(name: str) -> None:
    """Nobody has to guess which of two values was meant."""
    fields = full("redeem")
    other = "2026-03-01T10:00:01+08:00" if name == "occurred_at" else "other"
    _, headers = binary(fields)
    assert refused(raw(fields | {name: other}), headers) == ("bad_cloudevent", name)


def test_attributes_are_optional_where_the_data_say_it() -> None:
    """Subject and time may come in the data alone."""
    value, headers = binary(least("earn"), ce_subject=None, ce_time=None)
    assert refused(value, headers) == ("missing_field", "account")
    value = value[:-1] + b',"account":"member-1","occurred_at":"2026-03-01T10:00:00.123+08:00"}'
    assert accepted(value, headers) == decode(raw(least("earn")))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ce_specversion": None}, "ce_specversion"),
        ({"ce_specversion": b"0.3"}, "ce_specversion"),
        ({"ce_id": b"\xff"}, "ce_id"),
        ({"content-type": b"text/plain"}, "content-type"),
        ({"content-type": b"application/cloudevents+json"}, "content-type"),
        ({"content-type": b"application/cloudevents-batch+json"}, "content-type"),
    ],
)
def test_a_cloudevent_of_another_kind_is_refused(changes: dict[str, bytes | None], field: str) -> None:
    """Other versions, modes and formats are named, not guessed at."""
    assert refused(*binary(least("earn"), **changes)) == ("bad_cloudevent", field)


def test_structured_mode_is_refused_by_its_content_type_alone() -> None:
    """A structured CloudEvent has no ce_ headers; its content type tells."""
    headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    assert refused(raw(least("earn")), headers) == ("bad_cloudevent", "content-type")


def test_a_header_that_comes_twice_is_refused() -> None:
    """Two values of one attribute are as good as none."""
    value, headers = binary(least("earn"))
    assert refused(value, [*headers, ("ce_id", b"e-2")]) == ("bad_cloudevent", "ce_id")


def test_a_header_without_a_value_is_refused() -> None:
    """Kafka allows a null header; an attribute can't be one."""
    value, headers = binary(least("earn"), ce_id=None)
    headers.append(("ce_id", None))  # type: ignore[arg-type]  # what a hostile producer can send
    assert refused(value, headers) == ("bad_cloudevent", "ce_id")


def test_extensions_and_foreign_headers_are_not_read() -> None:
    """What transports and tracers add changes neither the event nor its hash."""
    value, headers = binary(full("earn"))
    traced = [*headers, ("ce_traceparent", b"00-1-2-01"), ("ce_partitionkey", b"member-1"), ("x", b"\xff")]
    assert accepted(value, traced) == accepted(value, headers)
    assert accepted(raw(full("earn")), [("traceparent", b"00-1-2-01")]) == decode(raw(full("earn")))


def test_a_prefixed_type_and_other_json_media_types_are_accepted() -> None:
    """CloudEvents asks for a prefix of the owner's; any +json data is JSON, header names have no case."""
    value, headers = binary(least("earn"), ce_type=b"pointguard.earn")
    headers = [(name.upper(), value) for name, value in headers if name != "content-type"]
    headers.append(("Content-Type", b"application/vnd.shop+json; charset=utf-8"))
    assert accepted(value, headers) == decode(raw(least("earn")))


def test_attributes_obey_the_same_bounds() -> None:
    """Ids, types and times in headers are checked as those in the data are."""
    assert refused(*binary(least("earn", id="a\nb"))) == ("bad_id", "id")
    assert refused(*binary(least("earn", account="x" * 129))) == ("bad_id", "account")
    assert refused(*binary(least("earn", occurred_at="2026-03-01T10:00:00"))) == ("bad_time", "occurred_at")
    assert refused(*binary(least("earn"), ce_type=b"gift")) == ("unknown_type", "type")
    assert refused(*binary(least("earn", points=1.5))) == ("fractional_points", "points")


def test_a_refused_cloudevent_keeps_its_identity() -> None:
    """Even when its data are unreadable, the headers say which event it was."""
    _, headers = binary(least("earn"))
    answer = decode(b"{", headers)
    assert isinstance(answer, Invalid)
    assert (answer.error, answer.source, answer.event_id) == ("not_json", "pos/shop-17", "e-1")


def test_duplicate_keys_and_surrogates_in_the_data_are_refused() -> None:
    """The data are read as strictly as plain JSON."""
    value, headers = binary(least("earn"))
    assert refused(value.replace(b'"points":1200', b'"points":1,"points":1200'), headers) == ("duplicate_key", "points")
    assert refused(value.replace(b'"demo"', b'"\\ud800"'), headers) == ("not_json", "program")
