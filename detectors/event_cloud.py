"""CloudEvents 1.0 in Kafka's binary mode: attributes in `ce_` headers, the data in the record's value.

`ce_id`, `ce_source`, `ce_type`, `ce_time` and `ce_subject` stand for the fields id, source, type, occurred_at and
account. A field may stand in the header, in the data, or in both when the two agree. Extension attributes (traceparent,
partitionkey, ...) are the transport's and are not read.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from detectors.event_refusal import Invalid, RefusedError, identified, invalid

ATTRIBUTES: Final[Mapping[str, str]] = {
    "ce_id": "id",
    "ce_source": "source",
    "ce_type": "type",
    "ce_time": "occurred_at",
    "ce_subject": "account",
}
"""The header of each CloudEvents attribute that stands for a field."""
TYPE_PREFIX: Final = "pointguard."
"""May stand before a type in `ce_type`, as CloudEvents asks for a prefix of the owner's."""
_SPECVERSION: Final = "ce_specversion"
_CONTENT_TYPE: Final = "content-type"
_STRUCTURED: Final = "application/cloudevents"

Headers = Sequence[tuple[str, bytes]]


def is_cloudevent(headers: Headers) -> bool:
    """Tell whether a record with these headers claims to be a CloudEvent, of whatever mode."""
    for name, value in headers:
        if name[:3].lower() == "ce_":
            return True
        if name.lower() == _CONTENT_TYPE and value and value.lower().startswith(_STRUCTURED.encode()):
            return True
    return False


def attributes(headers: Headers) -> dict[str, object]:
    """Read the fields that the headers give. Raises RefusedError unless they are a CloudEvent 1.0 in binary mode."""
    texts = dict(_texts(headers))
    _check_content_type(texts.get(_CONTENT_TYPE))
    version = texts.get(_SPECVERSION)
    if version != "1.0":
        note = "the header is missing" if version is None else "another version than 1.0"
        raise RefusedError(invalid("bad_cloudevent", _SPECVERSION, note))
    fields: dict[str, object] = {field: texts[header] for header, field in ATTRIBUTES.items() if header in texts}
    kind = fields.get("type")
    if isinstance(kind, str):
        fields["type"] = kind.removeprefix(TYPE_PREFIX)
    return fields


def merged(fields: Mapping[str, object], data: Mapping[str, object]) -> dict[str, object]:
    """Put the fields of headers and data together. Raises RefusedError for a field on which the two disagree."""
    for header, name in ATTRIBUTES.items():
        if name in fields and name in data and not _same(name, fields[name], data[name]):
            raise RefusedError(identified(invalid("bad_cloudevent", name, f"{header} and the data disagree"), fields))
    return {**data, **fields}


def _texts(headers: Headers) -> Iterable[tuple[str, str]]:
    """Yield the headers that are read, as text; each at most once."""
    seen: set[str] = set()
    for original, value in headers:
        name = original.lower()
        if name not in ATTRIBUTES and name not in (_SPECVERSION, _CONTENT_TYPE):
            continue
        if name in seen:
            raise RefusedError(invalid("bad_cloudevent", name, "the header comes twice"))
        seen.add(name)
        if not isinstance(value, bytes):
            raise RefusedError(invalid("bad_cloudevent", name, "the header has no value"))
        try:
            yield name, value.decode("utf-8")
        except UnicodeDecodeError:
            raise RefusedError(invalid("bad_cloudevent", name, "the header is not UTF-8")) from None


def _check_content_type(given: str | None) -> None:
    if given is None:
        return
    media = given.partition(";")[0].strip().lower()
    if media.startswith(_STRUCTURED):
        raise RefusedError(invalid("bad_cloudevent", _CONTENT_TYPE, "structured and batched mode are not read"))
    if media != "application/json" and not media.endswith("+json"):
        raise RefusedError(invalid("bad_cloudevent", _CONTENT_TYPE, "the data is not declared as JSON"))


def _same(name: str, header: object, body: object) -> bool:
    if name != "occurred_at" or header == body:
        return header == body
    try:
        return msgspec.convert(header, datetime) == msgspec.convert(body, datetime)
    except msgspec.ValidationError:
        return False


__all__ = ["ATTRIBUTES", "TYPE_PREFIX", "Headers", "Invalid", "attributes", "is_cloudevent", "merged"]
