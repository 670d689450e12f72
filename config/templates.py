"""Ready rules for the usual abuse, one file each, to be pasted under `rules` of a policy.

Each begins with comments: what it is against in English and Chinese, and why its numbers are as they are. All start in
shadow mode: a rule proves itself on one's own traffic first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Template:
    """A ready rule: its name (also the rule's id), what it is against in both languages, and its YAML."""

    name: str
    about: str
    about_zh: str
    text: str


def templates() -> tuple[Template, ...]:
    """All templates by name."""
    return tuple(_template(path) for path in sorted(FOLDER.glob("*.yaml")))


def template_text(name: str) -> str:
    """The YAML of one template. KeyError if there is none of that name."""
    found = {path.stem: path for path in FOLDER.glob("*.yaml")}
    return found[name].read_text(encoding="utf-8")


def _template(path: Path) -> Template:
    text = path.read_text(encoding="utf-8")
    about, about_zh = (line.removeprefix("# ") for line in text.splitlines()[:2])
    return Template(path.stem, about, about_zh, text)
