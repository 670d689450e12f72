"""Reading an event: bytes (and headers) of a Kafka record in, a frozen `Event` or a named `Invalid` out.

`decode` never raises. An accepted event costs about 2 us: one msgspec decoder for the tagged union, and a few scans of
the bytes that tell whether anything needs a closer look. Only a refused event pays for finding out why.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from detectors.entity import canonical_ip
from detectors.event_cloud import attributes, is_cloudevent, merged
from detectors.event_refusal import (
    REMEDIES,
    Invalid,
    RefusedError,
    check_values,
    diagnose,
    identified,
    invalid,
    parse_object,
)
from detectors.event_types import (
    BODY_BYTES_MAX,
    EVENT_CLASSES,
    EVENT_TYPES,
    INFORM,
    MOVES,
    POINTS_MAX,
    PROGRAM,
    YEAR_MAX,
    YEAR_MIN,
    AccountCreated,
    ActivityDone,
    Adjust,
    Common,
    CredentialChanged,
    DeviceBound,
    Earn,
    Event,
    Login,
    MemberJoined,
    MemberUpdated,
    OrderPaid,
    OrderRefunded,
    Redeem,
    Reverse,
    Transfer,
    VerificationPassed,
)

LATE_MS_MAX: Final = 24 * 3_600_000
EARLY_MS_MAX: Final = 5 * 60_000

_BACKSLASH: Final = 0x5C
_DELETE: Final = 0x7F
_C1_LEAD: Final = 0xC2

_DECODER: Final = msgspec.json.Decoder(Event)
_ENCODER: Final = msgspec.json.Encoder()


def decode(raw: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> Event | Invalid:
    """Read the event in a record's value: plain JSON, or CloudEvents 1.0 in binary mode when the headers say so."""
    if raw is None:
        return invalid("empty")
    if len(raw) > BODY_BYTES_MAX:
        return invalid("too_large")
    if headers and is_cloudevent(headers):
        return _decode_cloudevent(raw, headers)
    try:
        event = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _refuse(raw)
    refusal = _check(event) if _canonical_looking(raw, event) else _look_closer(raw, event)
    return event if refusal is None else identified(refusal, {"source": event.source, "id": event.id})


def encode(event: Event) -> bytes:
    """Write the event as plain JSON, absent fields left out; `decode(encode(event)) == event`."""
    return _ENCODER.encode(event)


def canonical(event: Event) -> bytes:
    """Give bytes that are equal for equal events, whatever their wire form, order of fields or time zone.

    They hold device and address: what is stored of them is a keyed hash (`Keys.payload_hash`).
    """
    if event.occurred_at.tzinfo is not UTC:
        event = msgspec.structs.replace(event, occurred_at=event.occurred_at.astimezone(UTC))
    decide_by = getattr(event, "decide_by", None)
    if decide_by is not None and decide_by.tzinfo is not UTC:
        event = msgspec.structs.replace(event, decide_by=decide_by.astimezone(UTC))
    return _ENCODER.encode(event)


def milliseconds(time: datetime) -> int:
    """Give an aware time as milliseconds since 1970."""
    return round(time.timestamp() * 1000)


def observe_time(occurred_ms: int, observed_ms: int) -> tuple[int, bool]:
    """Give the time (ms) an event is taken to have happened at, and whether that differs from the producer's claim.

    A claim counts within [observed - 24 h, observed + 5 min]; outside it is moved to the nearer end.
    """
    time = min(max(occurred_ms, observed_ms - LATE_MS_MAX), observed_ms + EARLY_MS_MAX)
    return time, time != occurred_ms


def points_of(event: Event) -> int:
    """Give the points an event moves, absolute: 0 for one that moves none by itself, or a reversal in full."""
    points: int | None = getattr(event, "points", None)
    return abs(points) if points is not None else 0


def _canonical_looking(raw: bytes, event: Event) -> bool:
    """Tell whether the bytes can hold neither a duplicate key nor a control character.

    Without a backslash, quotes only stand around names and strings, so a second copy of a key shows as more quotes than
    the decoded event needs. Control characters need an escape, or are the bytes 7F, or C2 and one more. Explicit nulls
    and defaults also have more quotes; they just go the slower way.
    """
    return (
        _BACKSLASH not in raw
        and _C1_LEAD not in raw
        and _DELETE not in raw
        and raw.count(b'"') == _ENCODER.encode(event).count(b'"')
    )


def _check(event: Event) -> Invalid | None:
    if not YEAR_MIN <= event.occurred_at.year <= YEAR_MAX:
        return invalid("bad_time", "occurred_at")
    if event.ip is not None and canonical_ip(event.ip) is None:
        return invalid("bad_ip", "ip")
    if event.moves:
        if getattr(event, "points", None) == 0:
            return invalid("out_of_range", "points")
        decide_by = getattr(event, "decide_by", None)
        if decide_by is not None and not YEAR_MIN <= decide_by.year <= YEAR_MAX:
            return invalid("bad_time", "decide_by")
    return None


def _look_closer(raw: bytes, event: Event) -> Invalid | None:
    try:
        parse_object(raw)
    except RefusedError as refused:
        return refused.invalid
    return check_values(event) or _check(event)


def _refuse(raw: bytes) -> Invalid:
    try:
        return diagnose(parse_object(raw))
    except RefusedError as refused:
        return refused.invalid


def _decode_cloudevent(raw: bytes, headers: Sequence[tuple[str, bytes]]) -> Event | Invalid:
    fields: dict[str, object] = {}
    try:
        fields = attributes(headers)
        fields = merged(fields, parse_object(raw))
        event: Event = msgspec.convert(fields, Event)
    except RefusedError as refused:
        return refused.invalid if refused.invalid.event_id else identified(refused.invalid, fields)
    except msgspec.ValidationError:
        return diagnose(fields)
    refusal = check_values(event) or _check(event)
    return event if refusal is None else identified(refusal, fields)


__all__ = [
    "BODY_BYTES_MAX",
    "EVENT_CLASSES",
    "EVENT_TYPES",
    "INFORM",
    "MOVES",
    "POINTS_MAX",
    "PROGRAM",
    "REMEDIES",
    "AccountCreated",
    "ActivityDone",
    "Adjust",
    "Common",
    "CredentialChanged",
    "DeviceBound",
    "Earn",
    "Event",
    "Invalid",
    "Login",
    "MemberJoined",
    "MemberUpdated",
    "OrderPaid",
    "OrderRefunded",
    "Redeem",
    "Reverse",
    "Transfer",
    "VerificationPassed",
    "canonical",
    "decode",
    "encode",
    "milliseconds",
    "observe_time",
    "points_of",
]
