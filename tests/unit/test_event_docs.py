"""What upstream people read says what the code does: docs/events.md, the JSON Schema and the AsyncAPI document."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from detectors.event import BODY_BYTES_MAX, EVENT_CLASSES, EVENT_TYPES, POINTS_MAX, REMEDIES, Invalid, decode
from detectors.event_cloud import ATTRIBUTES
from detectors.event_schema import TOPICS, asyncapi, json_schema
from detectors.event_types import Common
from tests.unit.event_samples import REQUIRED, full, least, raw

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "events.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    """Give the table row of the page that begins with a name."""
    found = re.findall(rf"^\| `{re.escape(name)}` \|.*$", PAGE, re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0])


@pytest.mark.parametrize(("file", "document"), [("events.schema.json", json_schema), ("asyncapi.json", asyncapi)])
def test_committed_schemas_are_those_of_the_code(file: str, document: Any) -> None:
    """A change of the contract shows in the committed documents (python docs/schema/generate.py writes them)."""
    assert json.loads((DOCS / "schema" / file).read_text(encoding="utf-8")) == document()


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=lambda cls: cls.type)
def test_every_type_and_field_is_on_the_page(cls: type[Common]) -> None:
    """The row of a type names each field it has besides the common ones."""
    common = {field.name for field in msgspec.structs.fields(Common)}
    told = row(cls.type)
    for field in msgspec.structs.fields(cls):
        if field.name in common and not (field.required and field.name in {"order", "device"}):
            assert f"| `{field.name}` |" in PAGE
        else:
            assert f"`{field.name}`" in told


def test_every_refusal_and_header_is_on_the_page() -> None:
    """Codes and headers each have a row, and no row names a code that is none."""
    for name in (*REMEDIES, *ATTRIBUTES):
        row(name)
    listed = re.findall(r"^\| `([a-z_0-9]+)` \|", PAGE.split("## Refusals")[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(listed) == sorted(REMEDIES)


def test_figures_on_the_page_are_the_codes() -> None:
    """Limits are written out as the code has them."""
    assert f"{BODY_BYTES_MAX:,} bytes" in PAGE
    assert f"{POINTS_MAX:,}" in PAGE


def test_the_examples_on_the_page_are_events() -> None:
    """What people copy is accepted."""
    for example in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL):
        assert not isinstance(decode(example.encode()), Invalid)


def test_the_schema_has_every_type_and_nothing_else_passes_it() -> None:
    """Each definition is closed, requires what decoding requires, and names its type."""
    definitions = json_schema()["$defs"]
    assert set(definitions) == set(EVENT_TYPES)
    for kind, definition in definitions.items():
        assert definition["additionalProperties"] is False
        assert set(definition["required"]) == set(least(kind))
        assert set(definition["properties"]) == set(full(kind))
        assert definition["properties"]["type"]["enum"] == [kind]


@pytest.mark.parametrize("kind", REQUIRED)
def test_the_schema_accepts_and_refuses_as_decoding_does(kind: str) -> None:
    """A validator that knows nothing of us comes to the same verdicts."""
    jsonschema = pytest.importorskip("jsonschema", reason="no JSON Schema validator is installed")
    validator = jsonschema.Draft202012Validator(json_schema())
    for fields in (least(kind), full(kind)):
        assert validator.is_valid(fields)
        for changes in ({"id": ""}, {"account": "a\nb"}, {"program": "x" * 129}, {"colour": 1}, {"store": 7}):
            broken = fields | changes
            assert isinstance(decode(raw(broken)), Invalid)
            assert not validator.is_valid(broken)
        for points in (0, 1.5, POINTS_MAX + 1, "7"):
            if "points" in fields:
                assert isinstance(decode(raw(fields | {"points": points})), Invalid)
                assert not validator.is_valid(fields | {"points": points})


def test_the_asyncapi_document_names_topics_and_messages() -> None:
    """Both topics carry every type, and each message's payload is in the schema."""
    document = asyncapi()
    assert {channel["address"] for channel in document["channels"].values()} == set(TOPICS)
    for channel in document["channels"].values():
        assert len(channel["messages"]) == len(EVENT_TYPES)
    for message in document["components"]["messages"].values():
        reference = message["payload"]["schema"]["$ref"]
        assert reference.partition("#/$defs/")[2] in json_schema()["$defs"]
    headers = document["components"]["messageTraits"]["cloudevent"]["headers"]["properties"]
    assert set(headers) == {"ce_specversion", "content-type", *ATTRIBUTES}
