"""Where in a YAML document a problem of a policy stands: line and column, also inside an expression."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import yaml

from detectors.policy import Problem

_STEP = re.compile(r"([A-Za-z_][\w]*)|\[(\d+)\]")


def located(root: yaml.Node | None, text: str, problems: Sequence[Problem]) -> list[Problem]:
    """The problems with line and column, both from 1, of the nearest thing that the document has."""
    if root is None:
        return list(problems)
    return [_located(root, text, problem) for problem in problems]


def child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    """The value of a mapping's key or of a place in a sequence, None if there is none."""
    if isinstance(node, yaml.MappingNode) and isinstance(step, str):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def _located(root: yaml.Node, text: str, problem: Problem) -> Problem:
    node = root
    for name, number in _STEP.findall(problem.path):
        deeper = child(node, name or int(number))
        if deeper is None:
            break
        node = deeper
    index = node.start_mark.index
    if problem.at is not None and isinstance(node, yaml.ScalarNode):
        index = _inside(node, text, problem.at)
    line_start = text.rfind("\n", 0, index) + 1
    return msgspec.structs.replace(problem, line=text.count("\n", 0, index) + 1, column=index - line_start + 1)


def _inside(node: yaml.ScalarNode, text: str, at: int) -> int:
    """The index in the document of the character `at` of a scalar's value.

    Value and text are walked side by side: what YAML folds or unindents is white space, and everything else stands in
    both in the same order.
    """
    index = node.start_mark.index
    if node.style in ("|", ">"):
        index = text.index("\n", index) + 1
    elif node.style in ("'", '"'):
        index += 1
    for character in node.value[:at]:
        if character.isspace():
            continue
        index = text.find(character, index, node.end_mark.index) + 1
        if index == 0:
            return node.start_mark.index
    while index < node.end_mark.index and text[index].isspace():
        index += 1
    return min(index, max(node.start_mark.index, node.end_mark.index - 1))
