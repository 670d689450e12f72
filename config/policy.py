"""The policy document: YAML text into a checked `Policy`, and the JSON Schema for editors and the console.

The YAML is read as JSON with comments: no aliases, no repeated keys, and only `true` and `false` are truth values, so
that `mode: off` is the word "off".
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from config.places import child, located
from detectors.decision import CompiledPolicy, compile_policy
from detectors.policy import Policy, PolicyRefused, Problem

DEFAULT_PATH = Path(__file__).with_name("default_policy.yaml")
SCHEMA_PATH = Path(__file__).with_name("policy_schema.json")
DOCUMENT_BYTES_MAX = 256 * 1024

_MSGSPEC_PATH = re.compile(r" - at `\$?\.?(?P<path>[^`]*)`$")


class _Loader(yaml.SafeLoader):
    """SafeLoader with JSON's scalars only, without aliases and without repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)  # type: ignore[no-untyped-call]  # PyYAML's stub
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+\.[0-9]+$"), list("-0123456789")
)  # fmt: skip


def load_policy(text: str) -> CompiledPolicy:
    """The checked and compiled policy of a YAML document. Raises PolicyRefused with every problem and its place."""
    policy = parse_policy(text)
    try:
        return compile_policy(policy)
    except PolicyRefused as refused:
        raise PolicyRefused(located(compose(text), text, refused.problems)) from None


def parse_policy(text: str) -> Policy:
    """The policy of a YAML document, with types and bounds checked but rules not compiled. Raises PolicyRefused."""
    return _convert(text, compose(text))


def compose(text: str) -> yaml.Node | None:
    """The document as YAML's nodes, which know where they stand. Raises PolicyRefused if it can't be read."""
    if len(text.encode()) > DOCUMENT_BYTES_MAX:
        raise _refused("$", "too_large", f"a policy document has at most {DOCUMENT_BYTES_MAX // 1024} KiB")
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise _unreadable(error) from None


def _convert(text: str, node: yaml.Node | None) -> Policy:
    try:
        document = None if node is None else _Loader("").construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise _unreadable(error) from None
    try:
        return msgspec.convert(document, Policy)
    except msgspec.ValidationError as error:
        message = str(error)
        match = _MSGSPEC_PATH.search(message)
        path = match.group("path") if match else ""
        found = Problem(path or "$", "invalid_value", _MSGSPEC_PATH.sub("", message), _rule_at(document, path))
        raise PolicyRefused(located(node, text, [found])) from None


def _unreadable(error: Exception) -> PolicyRefused:
    """What YAML itself can't read, with the place if it names one."""
    mark = getattr(error, "problem_mark", None)
    problem = Problem("$", "not_yaml", " ".join(str(error).split()))
    return PolicyRefused(
        [problem if mark is None else msgspec.structs.replace(problem, line=mark.line + 1, column=mark.column + 1)]
    )


def renumbered(text: str, version: int) -> str:
    """The document with another `version`, and not a character changed besides. Raises PolicyRefused without one."""
    node = compose(text)
    place = None if node is None else child(node, "version")
    if place is None:
        raise _refused("version", "missing", "a policy has a version; write `version: 1`")
    return f"{text[: place.start_mark.index]}{version}{text[place.end_mark.index :]}"


def load_policy_file(path: Path) -> CompiledPolicy:
    """As `load_policy`, from a file. Raises OSError if it can't be read."""
    return load_policy(path.read_text(encoding="utf-8"))


def default_policy_text() -> str:
    """The document of the policy a fresh installation starts with."""
    return DEFAULT_PATH.read_text(encoding="utf-8")


def policy_schema() -> dict[str, Any]:
    """The JSON Schema of the document, generated from the types."""
    schema = msgspec.json.schema(Policy)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "PointGuard policy", **schema}


def policy_schema_text() -> str:
    """The schema as it is committed in config/policy_schema.json."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


def _refused(path: str, error: str, detail: str, rule: str | None = None) -> PolicyRefused:
    return PolicyRefused([Problem(path, error, detail, rule)])


def _rule_at(document: object, path: str) -> str | None:
    """The id of the rule a path leads into, so that the message names it."""
    match = re.match(r"rules\[(\d+)\]", path)
    if match is None or not isinstance(document, dict):
        return None
    rules = document.get("rules")
    rule = rules[int(match.group(1))] if isinstance(rules, list) else None
    found = rule.get("id") if isinstance(rule, dict) else None
    return found if isinstance(found, str) else None
