"""Every kind of record that must be refused by name, as (name, value, headers, error, field)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.integration.pipeline_desk import encoded

HEADERS = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"bad-cloud"),
    ("ce_source", b"pos"),
    ("ce_type", b"earn"),
    ("ce_time", b"2026-03-01T02:00:00Z"),
)
"""A complete CloudEvent in binary mode, but for its data."""


class Bad(NamedTuple):
    """A record that is refused, and how."""

    name: str
    value: bytes | None
    error: str
    field: str = ""
    headers: tuple[tuple[str, Any], ...] = ()

    @property
    def event_id(self) -> str:
        """The id of the event, where the record has one that can be read."""
        return f"bad-{self.name}"


def _header(name: str, value: bytes | None) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((key, value if key == name else given) for key, given in HEADERS)


def bad_records(program: str) -> list[Bad]:
    """All of them, each an event of its own of `program` (or nearly one)."""

    def fields(name: str, **changes: Any) -> dict[str, Any]:
        good = {"type": "earn", "id": f"bad-{name}", "source": "pos", "program": program, "account": "ann"}
        good |= {"occurred_at": "2026-03-01T02:00:00Z", "points": 100}  # type: ignore[dict-item]  # of many types
        return {key: value for key, value in (good | changes).items() if value is not None}

    def event(name: str, error: str, field: str, **changes: Any) -> Bad:
        return Bad(name, encoded(fields(name, **changes)), error, field)

    data = encoded({"program": program, "account": "ann", "points": 100})
    cloudy: Mapping[str, tuple[tuple[tuple[str, Any], ...], bytes, str]] = {
        "no-specversion": (HEADERS[1:], data, "ce_specversion"),
        "old-specversion": (_header("ce_specversion", b"0.3"), data, "ce_specversion"),
        "structured": ((("content-type", b"application/cloudevents+json"),), data, "content-type"),
        "not-declared-json": ((*HEADERS, ("content-type", b"text/xml")), data, "content-type"),
        "header-twice": ((*HEADERS, ("ce_id", b"other")), data, "ce_id"),
        "header-without-value": (_header("ce_id", None), data, "ce_id"),
        "header-not-utf8": (_header("ce_source", b"\xff"), data, "ce_source"),
        "disagrees": (HEADERS, encoded({"program": program, "account": "ann", "points": 1, "id": "x"}), "id"),
    }
    plain = encoded(fields("twice"))
    return [
        Bad("not-json", b"{oops", "not_json"),
        Bad("nan", encoded(fields("nan", points=float("nan"))), "not_json"),
        Bad("null", None, "empty"),
        Bad("blank", b"", "empty"),
        Bad("not-utf8", b'{"type": "\xff\xfe"}', "not_utf8"),
        Bad("list", b"[1, 2]", "not_an_object"),
        Bad("deep", b'{"a":' * 40 + b"1" + b"}" * 40, "too_deep"),
        Bad("huge", encoded(fields("huge", store="x" * 70_000)), "too_large"),
        Bad("twice", plain.replace(b'"points": 100', b'"points": 100, "points": 1'), "duplicate_key", "points"),
        event("points-text", "wrong_type", "points", points="100"),
        event("points-true", "wrong_type", "points", points=True),
        event("points-float", "fractional_points", "points", points=10.5),
        event("points-round-float", "fractional_points", "points", points=10.0),
        event("points-zero", "out_of_range", "points", points=0),
        event("points-negative", "out_of_range", "points", points=-5),
        event("points-over-bounds", "out_of_range", "points", points=2**53),
        event("points-endless", "out_of_range", "points", points=10**400),
        event("account-number", "wrong_type", "account", account=7),
        event("no-account", "missing_field", "account", account=None),
        event("unknown-type", "unknown_type", "type", type="gift"),
        event("no-type", "missing_field", "type", type=None),
        event("unknown-field", "unknown_field", "colour", colour="red"),
        event("nul", "bad_id", "account", account="an\x00n"),
        event("control", "bad_id", "account", account="an\x1bn"),
        event("long", "bad_id", "account", account="a" * 129),
        Bad("half-a-pair", encoded(fields("half-a-pair")).replace(b'"ann"', b'"\\ud800"'), "not_json", "account"),
        event("no-zone", "bad_time", "occurred_at", occurred_at="2026-03-01T02:00:00"),
        event("no-time", "bad_time", "occurred_at", occurred_at="yesterday"),
        event("year-9999", "bad_time", "occurred_at", occurred_at="9999-12-31T23:59:59Z"),
        event("bad-address", "bad_ip", "ip", ip="999.1.1.1"),
        event("unknown-program", "unknown_program", "program", program="nowhere"),
        event("own", "reserved_source", "source", source="pointguard:expiry"),
        event("order-paid", "unsupported_type", "type", type="order.paid", points=None, order="o", amount=5),
        *(Bad(name, value, "bad_cloudevent", field, headers) for name, (headers, value, field) in cloudy.items()),
    ]
