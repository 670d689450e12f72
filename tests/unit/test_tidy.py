"""Style that can be counted: sizes, banned words, broad excepts, purity, and a docstring for every test."""

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
MAX_PARAMETERS = 6
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
BANNED_WHERE = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".sql", ".xml", "", ".cfg", ".ini"}
BROAD = {"Exception", "BaseException"}
PURE_LEDGER = (
    *("book", "desk", "expiry", "lots", "memory", "merging", "movement", "origin", "plan", "posting", "refunds"),
    *("reversal", "settling", "taking", "terms", "working"),
    *("clearing.py", "liability.py", "lines.py", "matching.py", "reconcile_rows.py"),
    *("import_cells.py", "import_parse.py"),
    *("anchors.py", "chain.py", "chain_cover.py"),
)
PURE = ("detectors/", "programs/", *(f"ledger/{name}" for name in PURE_LEDGER))
IMPURE_MODULES = {
    "asyncio",
    "logging",
    "multiprocessing",
    "os",
    "secrets",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "time",
}
CLOCKS = {"now", "utcnow", "today"}
OUTSIDE = {
    ".venv",
    ".git",
    ".pointguard",
    "build",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> Iterator[Path]:
    """Yield the project's own files."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in OUTSIDE]
        yield from (Path(folder) / name for name in names)


@cache
def modules() -> dict[str, tuple[str, ast.Module]]:
    """Return text and syntax tree of each Python file by its path from the root."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files() if path.suffix == ".py"}
    return {name: (text, ast.parse(text, name)) for name, text in sorted(texts.items())}


def functions() -> Iterator[tuple[str, Function]]:
    """Yield every function and method with where it stands."""
    for name, (_, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{name}:{node.lineno} {node.name}", node


def parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters, the instance or class left out."""
    spec = function.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return [parameter.arg for parameter in every if parameter.arg not in {"self", "cls"}]


def test_functions_are_short() -> None:
    """No function is longer than a screen."""
    lengths = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions()}
    assert {where: lines for where, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_modules_are_short() -> None:
    """No module is longer than can be held in mind."""
    lengths = {name: text.count("\n") for name, (text, _) in modules().items()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_parameters_are_few() -> None:
    """No function takes so many parameters that they ought to be a value. A fixture or option is a parameter too."""
    counts = {where: len(parameters(node)) for where, node in functions()}
    assert {where: count for where, count in counts.items() if count > MAX_PARAMETERS} == {}


def test_tests_say_what_they_prove() -> None:
    """Every test function has a docstring."""
    tests = [
        (where, node) for where, node in functions() if where.startswith("tests/") and node.name.startswith("test_")
    ]
    assert len(tests) > 20
    assert [where for where, node in tests if not ast.get_docstring(node)] == []


def test_packages_and_modules_say_what_they_are() -> None:
    """Every module has a docstring."""
    assert [name for name, (_, tree) in modules().items() if not ast.get_docstring(tree)] == []


def test_no_word_promises_work_for_later() -> None:
    """No file holds a note for later: what is missing is an issue, not a comment."""
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in files()
        if path.suffix in BANNED_WHERE and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if BANNED.search(line)
    ]
    assert found == []


def comments(text: str) -> dict[int, str]:
    """Return the comments of a Python text by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def broad_handlers(tree: ast.Module) -> Iterator[ast.ExceptHandler]:
    """Yield the handlers that catch whatever comes and do not raise it again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)
            last = node.body[-1]
            if broad and not (isinstance(last, ast.Raise) and last.exc is None):
                yield node


def test_broad_excepts_have_a_reason() -> None:
    """Who swallows whatever comes says why, on the line, in words and not by a rule's number alone."""
    bare = []
    for name, (text, tree) in modules().items():
        said = comments(text)
        for handler in broad_handlers(tree):
            words = re.sub(r"noqa(: ?[A-Z]+\d+(, ?[A-Z]+\d+)*)?", "", said.get(handler.lineno, ""))
            if len(re.findall(r"\w{2,}", words)) < 3:
                bare.append(f"{name}:{handler.lineno}")
    assert bare == []


def test_ignores_have_a_reason() -> None:
    """Whoever silences ruff or mypy on a line says why beside it, and which rule."""
    silent = []
    for name, (text, _) in modules().items():
        for number, comment in comments(text).items():
            marks = re.findall(r"(?:noqa|type: ignore)(: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[[\w, -]+\])?", comment)
            if marks and ("" in marks or not re.search(r"(?:\]|\d)\s+(?:#|-+|–|:)\s*\w", comment)):
                silent.append(f"{name}:{number} {comment}")
    assert silent == []


def impurities(node: ast.AST) -> list[str]:
    """Return what a node imports or calls that a pure module must not."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names if alias.name.split(".")[0] in IMPURE_MODULES]
        case ast.ImportFrom(module=str(module)):
            return [module] if module.split(".")[0] in IMPURE_MODULES else []
        case ast.Call(func=ast.Attribute(attr=name)):
            return [f".{name}()"] if name in CLOCKS else []
        case ast.Call(func=ast.Name(id=name)):
            return [f"{name}()"] if name in {"open", "print", "input"} else []
    return []


@pytest.mark.parametrize("start", PURE)
def test_pure_code_asks_no_clock_and_does_no_io(start: str) -> None:
    """Pure modules import nothing that waits, reads or tells the time, and take the time as an argument."""
    pure = {name: tree for name, (_, tree) in modules().items() if name.startswith(start)}
    assert pure
    found = [f"{name} {what}" for name, tree in pure.items() for node in ast.walk(tree) for what in impurities(node)]
    assert found == []


def test_only_settings_read_the_environment() -> None:
    """`config` is the only reader of the environment; the rest gets values."""
    readers = [
        f"{name}:{node.lineno}"
        for name, (_, tree) in modules().items()
        if not name.startswith(("config/", "tests/", "bench/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert readers == []
