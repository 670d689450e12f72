"""Why an event was refused: the slow path of decoding, which only runs for events that are not accepted.

Nothing here quotes a value: a refusal is stored and shown in clear, while the values (device, address) must not be.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn

import msgspec
from msgspec.structs import FieldInfo

from detectors.entity import canonical_ip
from detectors.event_types import (
    BODY_BYTES_MAX,
    DEPTH_MAX,
    EVENT_TYPES,
    ID_LENGTH_MAX,
    POINTS_MAX,
    TEXT_LENGTH_MAX,
    YEAR_MAX,
    YEAR_MIN,
    Common,
)

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_FIELD_NAME_SHOWN_MAX: Final = 64
_HUGE: Final = POINTS_MAX * 2
_DIGITS_MAX: Final = 20
_BACKSLASH: Final = 0x5C
_GENERIC: Final = msgspec.json.Decoder(dict[str, object])

REMEDIES: Final[Mapping[str, str]] = {
    "empty": "the record has no value; send the event as its value (there are no tombstones on this topic)",
    "too_large": f"the event is larger than {BODY_BYTES_MAX} bytes; send only the contract's fields",
    "not_utf8": "the event is not UTF-8; encode it as UTF-8 without a byte order mark",
    "not_json": "the event is not JSON (RFC 8259; NaN and Infinity are not JSON)",
    "not_an_object": "the event is JSON but not an object; send one object a record, without a list around it",
    "too_deep": f"the event nests deeper than {DEPTH_MAX} levels; the contract's events are flat",
    "duplicate_key": "the object names this field twice; send it once",
    "missing_field": "the field is required for this type of event; send it",
    "unknown_field": "this type of event has no such field; leave it out, or correct its name",
    "unknown_type": "the type is not one of: " + ", ".join(EVENT_TYPES),
    "wrong_type": "the field has another JSON type than the contract's",
    "fractional_points": "points are whole: send an integer without a decimal point or exponent (also not 1.0)",
    "out_of_range": f"the number is outside its bounds (at most {POINTS_MAX} either way; points are never 0)",
    "bad_id": f"send 1 to {ID_LENGTH_MAX} characters (a reason {TEXT_LENGTH_MAX}, a currency 3), no control characters",
    "bad_time": f"send RFC 3339 with a zone, as 2026-03-01T10:00:00.123+08:00, of the years {YEAR_MIN} to {YEAR_MAX}",
    "bad_ip": "send a literal IPv4 or IPv6 address, or leave the field out",
    "bad_cloudevent": "send CloudEvents 1.0 in Kafka's binary mode with JSON data, or plain JSON without ce_ headers",
}
"""Each refusal code and what the producer does about it."""


class Invalid(NamedTuple):
    """An event that is refused: by which rule, for which field, and what to do about it.

    `error` is a key of REMEDIES; `field` is "" when the whole is meant; `source` and `event_id` are given when they
    could be read.
    """

    error: str
    field: str
    detail: str
    source: str | None = None
    event_id: str | None = None


class RefusedError(Exception):
    """Carries an `Invalid` out of nested parsing; never leaves this package."""

    def __init__(self, invalid: Invalid) -> None:
        super().__init__(invalid.error)
        self.invalid = invalid


def invalid(error: str, field: str = "", note: str = "") -> Invalid:
    """Build the refusal `error` with its remedy, after an optional note."""
    detail = REMEDIES[error]
    return Invalid(error, field, f"{note}; {detail}" if note else detail)


def identified(refusal: Invalid, fields: Mapping[str, object]) -> Invalid:
    """Add the identity of the event to a refusal, as far as `fields` hold a usable one."""
    return refusal._replace(source=_usable_id(fields.get("source")), event_id=_usable_id(fields.get("id")))


def parse_object(raw: bytes) -> dict[str, object]:
    """Parse the one JSON object in raw, strictly: no duplicate keys, NaN or deep nesting. Raises RefusedError.

    An object of plain strings and numbers is read by msgspec, which keeps the last of two equal keys: without a
    backslash, quotes only stand around names and strings, so a lost key shows as quotes too many. The rest is reread.
    """
    if _BACKSLASH not in raw:
        try:
            fields = _GENERIC.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _parse_slowly(raw)
        if raw.count(b'"') == 2 * (len(fields) + sum(type(value) is str for value in fields.values())):
            return fields
    return _parse_slowly(raw)


def _parse_slowly(raw: bytes) -> dict[str, object]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(invalid("not_utf8", note=f"byte {error.start}")) from None
    if not text.strip():
        raise RefusedError(invalid("empty"))
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise RefusedError(invalid("not_json", note=f"at character {error.pos}")) from None
    except RecursionError:
        raise RefusedError(invalid("too_deep")) from None
    if _depth(value) > DEPTH_MAX:
        raise RefusedError(invalid("too_deep"))
    if not isinstance(value, dict):
        raise RefusedError(invalid("not_an_object"))
    return value


def diagnose(fields: Mapping[str, object]) -> Invalid:
    """Name the first reason, in the order of docs/events.md, why these fields are no event."""
    return identified(_diagnose(fields), fields)


def check_values(event: Common) -> Invalid | None:
    """Refuse what a struct can't say by itself: control characters and lone surrogates. None when all is well."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        refusal = _check_text(name, value) if isinstance(value, str) else None
        if refusal is not None:
            return refusal
    return None


def _check_text(name: str, value: str) -> Invalid | None:
    if CONTROL.search(value):
        return invalid("bad_id", name, "a control character")
    if not value.isascii() and _lone_surrogate(value):
        return invalid("not_json", name, "half of a surrogate pair")
    return None


def _diagnose(fields: Mapping[str, object]) -> Invalid:
    name = fields.get("type")
    if name is None:
        return invalid("missing_field", "type")
    if not isinstance(name, str):
        return invalid("wrong_type", "type", "expected a string")
    cls = EVENT_TYPES.get(name)
    if cls is None:
        return invalid("unknown_type", "type")
    refusals = _field_refusals(_fields_of(cls), fields)
    return next(refusals, invalid("not_json", note="not readable for an unnamed reason"))


def _field_refusals(known: Mapping[str, tuple[FieldInfo, str]], fields: Mapping[str, object]) -> Iterator[Invalid]:
    for name in fields:
        if name not in known and name != "type":
            yield invalid("unknown_field", shown(name))
    for field, _ in known.values():
        if field.required and field.name not in fields:
            yield invalid("missing_field", field.name)
    for field, expected in known.values():
        refusal = _check_field(field, expected, fields[field.name]) if field.name in fields else None
        if refusal is not None:
            yield refusal


def _check_field(field: FieldInfo, expected: str, value: object) -> Invalid | None:
    if isinstance(value, str):
        refusal = _check_text(field.name, value)
        if refusal is not None:
            return refusal
    try:
        converted = msgspec.convert(value, field.type, strict=True)
    except msgspec.ValidationError:
        return _misfit(field.name, expected, value)
    if field.name == "ip" and isinstance(value, str) and canonical_ip(value) is None:
        return invalid("bad_ip", field.name)
    if field.name == "points" and converted == 0:
        return invalid("out_of_range", field.name)
    if expected == "time" and converted is not None and not YEAR_MIN <= converted.year <= YEAR_MAX:
        return invalid("bad_time", field.name)
    return None


def _misfit(name: str, expected: str, value: object) -> Invalid:
    if expected == "integer" and isinstance(value, float):
        if name == "points":
            return invalid("fractional_points", name)
        return invalid("wrong_type", name, "expected an integer, not a decimal number")
    if expected == "integer" and isinstance(value, int) and not isinstance(value, bool):
        return invalid("out_of_range", name)
    if expected == "time" and isinstance(value, str):
        return invalid("bad_time", name)
    if expected == "string" and isinstance(value, str):
        return invalid("bad_id", name)
    return invalid("wrong_type", name, f"expected {_ARTICLE[expected]}, got {_json_type(value)}")


_ARTICLE: Final = {
    "integer": "an integer",
    "time": "a time as a string",
    "string": "a string",
    "boolean": "true or false",
}
_KINDS: Final = {
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.DateTimeType: "time",
    msgspec.inspect.BoolType: "boolean",
}


@lru_cache
def _fields_of(cls: type[Common]) -> Mapping[str, tuple[FieldInfo, str]]:
    """List each field of a type of event with the JSON kind it expects."""
    return {field.name: (field, _expected(field)) for field in msgspec.structs.fields(cls)}


def _expected(field: FieldInfo) -> str:
    """Name the JSON kind of a field, None apart."""
    described = msgspec.inspect.type_info(field.type)
    if isinstance(described, msgspec.inspect.UnionType):
        described = next(kind for kind in described.types if not isinstance(kind, msgspec.inspect.NoneType))
    return _KINDS.get(type(described), "string")


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, dict) else "a list"


def shown(name: str) -> str:
    """Show a field's name as given, cut and freed of what can't be shown."""
    clean = CONTROL.sub("?", name).encode("utf-8", "replace").decode("utf-8")
    return clean[:_FIELD_NAME_SHOWN_MAX]


def _usable_id(value: object) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= ID_LENGTH_MAX:
        return None
    return None if CONTROL.search(value) or _lone_surrogate(value) else value


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _object(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise RefusedError(identified(invalid("duplicate_key", shown(name)), result))
        result[name] = value
    return result


def _no_constant(_name: str) -> NoReturn:
    raise RefusedError(invalid("not_json", note="NaN or Infinity"))


def _integer(digits: str) -> int:
    """Python refuses to read thousands of digits; far out of range is all that must be known of them."""
    if len(digits) <= _DIGITS_MAX:
        return int(digits)
    return -_HUGE if digits[0] == "-" else _HUGE


def _depth(value: object) -> int:
    """Count how deep lists and objects nest, without recursion; counting stops above the limit."""
    depth, level = 0, [value]
    while depth <= DEPTH_MAX:
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return depth
        depth += 1
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return depth
