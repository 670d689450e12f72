"""One rule's expression: a small part of CEL, checked by name and type, compiled once, with a bound for whole batches.

What is allowed: comparisons, `&& || !`, arithmetic, `? :`, `in [..]`, string tests and conversions on numbers (features
and models' shares), STRINGS, FLAGS, and `limit`. Loops (`all`, `map`, ..) are left out, so a rule's cost is bounded.
The *bound* is a NumPy mask over a batch: where it is false the expression can't be true, so CEL is only asked about
the rest; where the expression is nothing but comparisons of numbers the bound is the answer itself.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import cel
import numpy as np
from numpy.typing import NDArray

from detectors.layout import FIXED, Floats, Layout, is_feature
from detectors.policy import ModelName
from detectors.velocity_names import KINDS, OTHERS, SINCE, SUMS, advice

Mask = NDArray[np.bool_]
Bound = Callable[[Floats], Mask]

MODEL_NUMBERS: tuple[str, ...] = tuple(f"model.{name}" for name in get_args(ModelName))
STRINGS: tuple[str, ...] = ("event.program", "event.type", "event.store", "event.channel", "event.campaign")
FLAGS: tuple[str, ...] = ("event.fulfilled", "event.has_device", "event.has_ip")
VELOCITY_EXAMPLES: tuple[str, ...] = tuple(
    f"velocity.{kind}.{value}"
    for kind in KINDS
    for value in (*(f"{aggregate}_24h" for aggregate in (*SUMS, *OTHERS[kind])), *SINCE)
)
EXAMPLES: tuple[str, ...] = (*FIXED, *MODEL_NUMBERS, *STRINGS, *FLAGS, *VELOCITY_EXAMPLES)
"""Names to suggest for one that does not exist; velocity stands for any window."""
FUNCTIONS = frozenset({"size", "contains", "startsWith", "endsWith", "matches", "int", "double", "string"})
KEYWORDS = frozenset({"true", "false", "in"})
DEPTH_MAX = 20
EXACT_INTEGER_MAX = 2**53

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)
      | (?P<op>&&|\|\||[=!<>]=|[<>!+\-*/%?:,()\[\].])""",
    re.VERBOSE,
)
_COMPARE: dict[str, Any] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip
_FLIP = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class ExpressionRefused(ValueError):
    """The expression can't be a rule; `error` is a short name, `detail` says what to do."""

    def __init__(self, error: str, detail: str) -> None:
        self.error, self.detail = error, detail
        super().__init__(f"{error}: {detail}")


class Token(NamedTuple):
    """A piece of the expression; `kind` is string, number, name, call or op."""

    kind: str
    text: str


@dataclass(frozen=True)
class Expression:
    """A checked expression. `names` are those it reads; `execute` needs a context with the flat form of each.

    `exact` tells that the bound is the answer itself.
    """

    source: str
    names: tuple[str, ...]
    tokens: tuple[Token, ...]
    exact: bool
    program: cel.Program

    def bound(self, columns: Mapping[str, int]) -> Bound:
        """The bound, for matrices that have the numbers of these names in these columns: a mask over their rows."""
        return _bound(list(self.tokens), columns)[0]

    def execute(self, context: cel.Context | Mapping[str, object]) -> bool:
        """What CEL says for one event. Raises what CEL raises, and TypeError if the answer is not a truth value."""
        answer = self.program.execute(context)  # type: ignore[arg-type]  # the stub wants dict, a Mapping serves
        if answer is True or answer is False:
            return answer
        raise TypeError(f"the expression gives {type(answer).__name__}, not true or false")


def is_number(name: str) -> bool:
    """Whether an expression may use this name as a number: a feature, or a model's share."""
    return name in MODEL_NUMBERS or is_feature(name)


def is_name(name: str) -> bool:
    """Whether an expression may use this name."""
    return name in STRINGS or name in FLAGS or is_number(name)


def columns_of(layout: Layout) -> dict[str, int]:
    """Where each number stands in the matrix that rules see: a layout's features, then the models' shares."""
    return layout.index | {name: layout.width + place for place, name in enumerate(MODEL_NUMBERS)}


def near(name: str) -> str:
    """What to do about a name that does not exist."""
    if name.startswith("velocity."):
        return advice(name)
    found = difflib.get_close_matches(name, EXAMPLES, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(found)}?" if found else "see docs/policy.md for the names"


def flat(name: str) -> str:
    """The name under which a dotted name is put into the CEL context: one flat level is four times cheaper to build."""
    return name.replace(".", "__")


def parse(source: str, limit: float | None = None) -> Expression:
    """Check and compile `source`; `limit` replaces the name `limit`. Raises ExpressionRefused."""
    tokens = _resolve(_tokens(source), limit)
    # CEL's own parser says where a syntax error is, so it sees the text as written first.
    _compile(source)
    names = tuple(dict.fromkeys(token.text for token in tokens if token.kind == "name"))
    for operand in _operands(tokens):
        _probe(_compile(_render(operand)), operand)
    program = _compile(_render(tokens))
    _, exact = _bound(tokens, dict.fromkeys(filter(is_number, names), 0))
    return Expression(source, names, tuple(tokens), exact, program)


def _tokens(source: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise ExpressionRefused(
                "syntax_error", f"can't read {source[position : position + 12]!r} at character {position + 1}"
            )
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "space":
            continue
        text = match.group()
        if kind == "string" and tokens and tokens[-1].kind in ("name", "string"):
            raise ExpressionRefused("syntax_error", f"write {text} as a plain string, without a prefix")
        if kind == "name" and text in KEYWORDS:
            kind = "op"
        if text == "(" and tokens and tokens[-1].kind == "name":
            tokens[-1:] = _call(tokens[-1].text, after_dot=len(tokens) > 1 and tokens[-2].text == ".")
        tokens.append(Token(kind, text))
    return tokens


def _call(name: str, *, after_dot: bool) -> list[Token]:
    """`event.store.startsWith` before a parenthesis is a name and a call of one of FUNCTIONS."""
    owner, _, function = name.rpartition(".")
    if function not in FUNCTIONS:
        raise ExpressionRefused("unknown_function", f"{function!r}: use one of {', '.join(sorted(FUNCTIONS))}")
    if after_dot and owner:
        raise ExpressionRefused("syntax_error", f"can't call {name!r} there")
    return [Token("name", owner), Token("op", "."), Token("call", function)] if owner else [Token("call", function)]


def _resolve(tokens: list[Token], limit: float | None) -> list[Token]:
    """Put the limit's value for its name, and refuse names that do not exist and nesting beyond DEPTH_MAX."""
    resolved = []
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
        if depth > DEPTH_MAX:
            raise ExpressionRefused("too_deep", f"nest at most {DEPTH_MAX} parentheses")
        if token.kind == "name" and token.text == "limit":
            if limit is None:
                raise ExpressionRefused("unknown_name", "'limit' is used, so give the rule a limit")
            resolved.append(Token("number", repr(float(limit))))
            continue
        if token.kind == "name" and not is_name(token.text):
            raise ExpressionRefused("unknown_name", f"{token.text!r}: {near(token.text)}")
        resolved.append(token)
    return resolved


def _render(tokens: list[Token]) -> str:
    return " ".join(flat(token.text) if token.kind == "name" else token.text for token in tokens)


def _compile(source: str) -> cel.Program:
    try:
        return cel.compile(source)
    except ValueError as error:
        raise ExpressionRefused("syntax_error", " ".join(str(error).split())) from None


# --- the boolean skeleton -------------------------------------------------------------------------------------------


def _split(tokens: list[Token], operator: str) -> list[list[Token]]:
    """The parts between `operator` outside parentheses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
        if depth == 0 and token == Token("op", operator):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _bare(tokens: list[Token]) -> list[Token]:
    """Without parentheses around the whole."""
    while tokens and tokens[0].text == "(" and tokens[-1].text == ")":
        depth = 0
        for position, token in enumerate(tokens):
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0 and position < len(tokens) - 1:
                return tokens
        tokens = tokens[1:-1]
    return tokens


def _parts(tokens: list[Token]) -> tuple[str, list[list[Token]]]:
    """`("||" | "&&", operands)`, or `("", [the whole])` where the expression is no such combination."""
    tokens = _bare(tokens)
    if len(_split(tokens, "?")) == 1:
        for operator in ("||", "&&"):
            parts = _split(tokens, operator)
            if len(parts) > 1:
                return operator, parts
    return "", [tokens]


def _operands(tokens: list[Token]) -> Iterator[list[Token]]:
    """The operands of all `||` and `&&`: each must make sense alone, whatever CEL would skip."""
    operator, parts = _parts(tokens)
    for part in parts:
        if operator:
            yield from _operands(part)
        else:
            yield part


def _probe(program: cel.Program, operand: list[Token]) -> None:
    """Run an operand on made-up values, to find wrong types before an event does."""
    text = " ".join(token.text for token in operand)
    numbers = [flat(token.text) for token in operand if token.kind == "name" and is_number(token.text)]
    for number, string, flag in ((1.0, "a", True), (0.0, "", False), (1e6, "1", True)):
        values: dict[str, object] = dict.fromkeys(numbers, number)
        values |= dict.fromkeys(map(flat, STRINGS), string)
        values |= dict.fromkeys(map(flat, FLAGS), flag)
        try:
            answer = program.execute(values)
        except TypeError as error:
            hint = "numbers are doubles, so calculate with 2.0, not 2; compare strings with strings"
            raise ExpressionRefused("wrong_type", f"{text!r}: {hint} ({str(error).split('.')[0]})") from None
        except ZeroDivisionError:
            raise ExpressionRefused("division_by_zero", f"{text!r} divides by zero when its value is 0") from None
        except (ValueError, RuntimeError, OverflowError) as error:
            raise ExpressionRefused("not_computable", f"{text!r}: {' '.join(str(error).split())}") from None
        if not isinstance(answer, bool):
            raise ExpressionRefused("wrong_type", f"{text!r} must be true or false, and is a {type(answer).__name__}")


def _bound(tokens: list[Token], columns: Mapping[str, int]) -> tuple[Bound, bool]:
    """The mask above which the expression can't be true, and whether it is exactly where it is true.

    CEL's logic absorbs: `false && error` is false and `true || error` is true. A comparison with an unknown (NaN) is
    such an error and is False in NumPy, which can't turn the whole true; `==` and `!=` with NaN agree in both.
    """
    operator, parts = _parts(tokens)
    if operator:
        pieces = [_bound(part, columns) for part in parts]
        combine = np.logical_and if operator == "&&" else np.logical_or
        exact = all(piece_exact for _, piece_exact in pieces)
        return (lambda matrix: combine.reduce([piece(matrix) for piece, _ in pieces])), exact
    comparison = _comparison(parts[0], columns)
    if comparison is None:
        return (lambda matrix: np.ones(len(matrix), dtype=np.bool_)), False
    return comparison, True


def _comparison(tokens: list[Token], columns: Mapping[str, int]) -> Bound | None:
    """A comparison of two numbers (a feature with a constant or with another feature) as a function of the matrix."""
    places = [i for i, token in enumerate(tokens) if token.kind == "op" and token.text in _COMPARE]
    if len(places) != 1:
        return None
    left, right = _side(tokens[: places[0]], columns), _side(tokens[places[0] + 1 :], columns)
    operator = tokens[places[0]].text
    if isinstance(left, float):
        left, right, operator = right, left, _FLIP[operator]
    if left is None or right is None or isinstance(left, float):
        return None
    column, other, compare = left, right, _COMPARE[operator]
    if isinstance(other, float):
        return lambda matrix: compare(matrix[:, column], other)
    return lambda matrix: compare(matrix[:, column], matrix[:, other])


def _side(tokens: list[Token], columns: Mapping[str, int]) -> int | float | None:
    """The column (int) or constant (float) that `tokens` stand for, None if they are more than that."""
    negative = tokens[:1] == [Token("op", "-")]
    if len(tokens) != 1 + negative:
        return None
    token = tokens[-1]
    if token.kind == "name" and not negative:
        return columns.get(token.text)
    if token.kind != "number":
        return None
    value = float(token.text)
    if not math.isfinite(value) or abs(value) >= EXACT_INTEGER_MAX:
        return None
    return -value if negative else value
