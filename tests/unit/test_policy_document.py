"""The policy document: YAML that is read as meant, mistakes that are named, and the schema that is committed."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.places import located
from config.policy import (
    DOCUMENT_BYTES_MAX,
    SCHEMA_PATH,
    compose,
    default_policy_text,
    load_policy,
    load_policy_file,
    parse_policy,
    policy_schema_text,
    renumbered,
)
from detectors.expression import EXAMPLES, VELOCITY_EXAMPLES
from detectors.policy import PolicyRefused, Problem
from detectors.velocity_names import KINDS, OTHERS, SINCE, SUMS

DEFAULT = default_policy_text()


def problems(text: str) -> list[tuple[str, str, str | None]]:
    """What is wrong with a document: path, error, rule."""
    with pytest.raises(PolicyRefused) as refused:
        load_policy(text)
    return [(problem.path, problem.error, problem.rule) for problem in refused.value.problems]


def test_the_default_policy_loads() -> None:
    """Its live rules, in the order of the document."""
    compiled = load_policy(DEFAULT)
    assert [live.rule.id for live in compiled.rules.live] == [
        "same_minute_signup", "device_shared", "ip_shared", "rapid_repeat", "redeem_after_takeover", "mule_fan_in",
        "farm_redeems", "ring_flagged", "woken_account", "passed_on", "given_back", "night_run",
    ]  # fmt: skip


def test_a_policy_file_loads(tmp_path: Path) -> None:
    """The same document from a file."""
    path = tmp_path / "policy.yaml"
    path.write_text(DEFAULT, encoding="utf-8")
    assert load_policy_file(path).policy == parse_policy(DEFAULT)


def test_off_is_a_word() -> None:
    """YAML's own truth values (on, off, yes, no) are plain words here, so that `mode: off` works unquoted."""
    text = DEFAULT.replace("  - id: ip_shared\n", "  - id: ip_shared\n    mode: off\n")
    assert "ip_shared" not in [live.rule.id for live in load_policy(text).rules.live]
    assert parse_policy(text).rules[2].mode == "off"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version: 1", "version: one", ("version", "invalid_value", None)),
        ("version: 1", "version: 1\nspeed: 2", ("$", "invalid_value", None)),
        ("base: -3.0", "base: 1.0", ("base", "invalid_value", None)),
        ("base: -3.0", "base: .nan", ("base", "invalid_value", None)),
        ("hold: 0.5", "hold: 1.5", ("thresholds.hold", "invalid_value", None)),
        ("limit: 12", "limit: 1:30", ("rules[3].limit", "invalid_value", "rapid_repeat")),
        ("id: rapid_repeat", "id: Rapid", ("rules[3].id", "invalid_value", "Rapid")),
        ("[redeem, transfer]", "[redeem, login]", ("rules[5].types[1]", "invalid_value", "mule_fan_in")),
        ("peers_24h >= limit", "peers_24x >= limit", ("rules[5].expression", "unknown_name", "mule_fan_in")),
        ("{cap: 0.5, above: 0.95}", "{cap: 9.0, above: 0.95}", ("models", "model_can_reject", None)),
        ("version: 1", "version: 1\nversion: 2", ("$", "not_yaml", None)),
        ("version: 1", "version: &a 1\nbase: *a", ("$", "not_yaml", None)),
        ("version: 1", "version: !!python/object/apply:os.system [date]", ("$", "not_yaml", None)),
        ("version: 1", "version: [", ("$", "not_yaml", None)),
        ("version: 1", "version: 1\n? [version]\n: 1", ("$", "not_yaml", None)),
    ],
)
def test_a_mistake_is_named(old: str, new: str, problem: tuple[str, str, str | None]) -> None:
    """Every mistake names its place, and the rule it is in."""
    assert old in DEFAULT
    assert problem in problems(DEFAULT.replace(old, new))


SCALARS = [rule.expression for rule in parse_policy(DEFAULT).rules]


@given(st.integers(0, len(SCALARS) - 1), st.data())
def test_a_place_in_an_expression_is_found_in_the_document(rule: int, data: st.DataObject) -> None:
    """Whatever way YAML folds it, line and column point at the very character of the expression."""
    at = data.draw(st.integers(0, len(SCALARS[rule]) - 1))
    (found,) = located(compose(DEFAULT), DEFAULT, [Problem(f"rules[{rule}].expression", "e", "d", at=at)])
    assert found.line is not None
    assert found.column is not None
    line = DEFAULT.splitlines()[found.line - 1]
    character = SCALARS[rule][at:].lstrip()[0]
    assert line[found.column - 1] == character
    # Not just any such character: the words around it are the same.
    assert line[found.column - 1 :].split()[0] == SCALARS[rule][at:].split()[0]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_place_in_a_quoted_expression(quote: str) -> None:
    """Quotes are no part of the value."""
    text = DEFAULT.replace(
        "account.seconds_since_signup <= limit", f"{quote}account.seconds_since_sign <= limit{quote}"
    )
    with pytest.raises(PolicyRefused) as refused:
        load_policy(text)
    (problem,) = refused.value.problems
    assert text.splitlines()[(problem.line or 0) - 1][(problem.column or 0) - 1 :].startswith(
        "account.seconds_since_sign "
    )


@given(st.integers(1, 2**62))
def test_only_the_number_of_a_version_changes(version: int) -> None:
    """Comments, order and white space stay to the byte, and numbering twice is numbering once."""
    document = renumbered(DEFAULT, version)
    assert document == DEFAULT.replace("version: 1\n", f"version: {version}\n", 1)
    assert renumbered(document, 1) == DEFAULT
    assert parse_policy(document).version == version


def test_a_document_without_a_version_cannot_be_numbered() -> None:
    """It is refused by name, as is one that is no mapping."""
    for text in ("base: -3.0\n", "- 1\n", ""):
        with pytest.raises(PolicyRefused, match="has a version"):
            renumbered(text, 2)


@pytest.mark.parametrize("text", ["", "- 1", "null", "[" * 100_000, "#" * (DOCUMENT_BYTES_MAX + 1)])
def test_what_is_no_policy_is_refused(text: str) -> None:
    """Empty, too large, too deep or not a mapping: refused, never an exception of the parser."""
    assert len(problems(text)) == 1


def test_the_committed_schema_is_the_generated_one() -> None:
    """config/policy_schema.json is what the types say; regenerate it with `config.policy.policy_schema_text`."""
    assert SCHEMA_PATH.read_text(encoding="utf-8") == policy_schema_text()


def test_the_guide_explains_every_name_and_field() -> None:
    """docs/policy.md mentions each name a rule may read and each field of the document."""
    guide = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    missing = [name for name in EXAMPLES if f"`{name}`" not in guide and name not in VELOCITY_EXAMPLES]
    values = [(kind, value) for kind in KINDS for value in (*SUMS, *OTHERS[kind], *SINCE)]
    told = {kind: row for kind in KINDS for row in re.findall(rf"^\| `velocity\.{kind}\.` \|.*$", guide, re.MULTILINE)}
    missing += [f"{kind} {value}" for kind, value in values if f"`{value}`" not in told.get(kind, "")]
    fields = set(re.findall(r'"([a-z_]+)": \{\n +"(?:\$ref|type|anyOf|enum|minLength)', policy_schema_text()))
    missing += [name for name in fields - {"items"} if f"`{name}`" not in guide]
    assert missing == []
