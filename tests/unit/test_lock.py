"""requirements.lock: whole, hashed, and in step with pyproject.toml."""

import re
import tomllib
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}


@cache
def locked() -> dict[str, tuple[str, int]]:
    """Return version and number of hashes of each package in the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.\[\],-]+)==(\S+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", text, re.MULTILINE
    )
    return {
        canonicalize_name(name.split("[")[0]): (version, hashes.count("sha256:")) for name, version, hashes in entries
    }


def required() -> list[Requirement]:
    """Return what pyproject.toml asks for, to run and to develop."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in every]


def test_the_lock_meets_every_requirement() -> None:
    """Each requirement is locked at a version it allows; else run make lock."""
    unmet = [
        str(requirement)
        for requirement in required()
        if (found := locked().get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(found[0])
    ]
    assert unmet == []


def test_every_package_is_hashed_and_no_index_is_named() -> None:
    """Each locked package has hashes, and no address, so that any mirror serves."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE)}
    assert names == set(locked())
    assert "://" not in text
    assert "index-url" not in text.replace("--no-emit-index-url", "")


def test_what_the_transport_leans_on_is_pinned_exactly() -> None:
    """Faust and aiokafka, whose private parts the transport uses, are one version and no other."""
    exact = {requirement.name: str(requirement.specifier) for requirement in required() if requirement.name in PINNED}
    assert exact == {name: f"=={version}" for name, version in PINNED.items()}


def test_there_is_one_lock() -> None:
    """The lock is requirements.lock alone."""
    assert not (ROOT / "uv.lock").exists()


def test_dependencies_are_documented() -> None:
    """Each direct dependency has a line in docs/dependencies.md, and nothing else has."""
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w.-]+)`", text, re.MULTILINE))
    assert documented == {requirement.name for requirement in required()}
