"""The event contract for other programs: JSON Schema (2020-12) and AsyncAPI 3.0, both made from the event types.

The committed copies in docs/schema are compared with these by a test, so that they can't drift from the code.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from detectors.event_cloud import ATTRIBUTES, TYPE_PREFIX
from detectors.event_types import EVENT_CLASSES, EVENT_TYPES, Common

JSON_SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID: Final = "urn:pointguard:events:1"
NO_CONTROL_CHARACTERS: Final = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
TOPICS: Final[Mapping[str, str]] = {
    "points.events": "Facts and requests as they come; key = account.",
    "points.requests": "Requests that somebody waits for; same key and events. An answer is given before decide_by.",
}

Document = dict[str, Any]


def json_schema() -> Document:
    """Give the schema of one event in plain JSON: exactly one of the types."""
    definitions = dict(_definitions())
    return {
        "$schema": JSON_SCHEMA,
        "$id": SCHEMA_ID,
        "title": "PointGuard event",
        "description": "One event as the value of a Kafka record. See docs/events.md.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": definitions,
    }


def asyncapi() -> Document:
    """Give the AsyncAPI document of the two topics PointGuard reads."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "PointGuard, what goes in",
            "version": "1.0.0",
            "description": "Events of loyalty points, as plain JSON or as CloudEvents 1.0 in Kafka's binary mode.",
        },
        "defaultContentType": "application/json",
        "channels": {_name(topic): _channel(topic, text) for topic, text in TOPICS.items()},
        "operations": {
            f"receive-{_name(topic)}": {"action": "receive", "channel": {"$ref": f"#/channels/{_name(topic)}"}}
            for topic in TOPICS
        },
        "components": {
            "messages": {_name(kind): _message(kind, cls) for kind, cls in EVENT_TYPES.items()},
            "messageTraits": {"cloudevent": {"headers": _headers()}},
        },
    }


def _definitions() -> Iterator[tuple[str, Document]]:
    _, components = msgspec.json.schema_components(EVENT_CLASSES, ref_template="#/$defs/{name}")
    by_name = {cls.__name__: cls for cls in EVENT_CLASSES}
    for name, cls in by_name.items():
        properties = {field: _stricter(field, rule) for field, rule in components[name]["properties"].items()}
        yield cls.type, {**components[name], "title": cls.type, "properties": properties}


def _stricter(field: str, rule: Document) -> Document:
    """Add what the types alone do not say."""
    if field == "ip":
        return {**rule, "description": "A literal IPv4 or IPv6 address; a decimal integer below 2^32 is an IPv4 one."}
    if field == "points" and rule.get("minimum", 0) < 0:
        return {**rule, "not": {"const": 0}}
    return _without_control(rule)


def _without_control(rule: Document) -> Document:
    if "anyOf" in rule:
        return {**rule, "anyOf": [_without_control(one) for one in rule["anyOf"]]}
    if rule.get("type") == "string" and "format" not in rule:
        return {**rule, "pattern": NO_CONTROL_CHARACTERS}
    return rule


def _channel(topic: str, text: str) -> Document:
    return {
        "address": topic,
        "description": text,
        "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in EVENT_TYPES},
    }


def _message(kind: str, cls: type[Common]) -> Document:
    return {
        "name": kind,
        "summary": (cls.__doc__ or "").strip().splitlines()[0],
        "payload": {
            "schemaFormat": f"application/schema+json;version={JSON_SCHEMA.split('/')[-2]}",
            "schema": {"$ref": f"events.schema.json#/$defs/{kind}"},
        },
    }


def _headers() -> Document:
    """Describe the headers of a CloudEvent; fields in headers may be left out of the payload."""
    fields = {
        header: {"type": "string", "description": f"Stands for the field {field}."}
        for header, field in ATTRIBUTES.items()
    }
    fields["ce_type"]["description"] += f" May begin with {TYPE_PREFIX}"
    return {
        "type": "object",
        "required": ["ce_specversion"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "content-type": {"type": "string", "description": "application/json or another +json type."},
            **fields,
        },
    }


def _name(text: str) -> str:
    return text.replace(".", "-")
