"""Reads the rows of another system's file for reconciliation: events or balances, columns in English or Chinese. Pure.

A dump of `points.events` is such a file as it is: a JSON event a line. Columns that mean nothing here are passed over,
and so are rows of other programmes and of types that move no points; a row that cannot be read is a problem of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal, NamedTuple

from ledger.import_cells import FULL_WIDTH, CellError, moment_in, name_in, shown
from ledger.movement import MAX_POINTS

Kind = Literal["events", "balances"]
MOVING = frozenset({"earn", "redeem", "transfer", "adjust", "reverse"})

FIELDS: Mapping[str, tuple[str, ...]] = {
    "source": ("source", "system", "来源", "系统"),
    "event_id": (
        *("id", "eventid", "externalid", "reference", "transactionid"),
        *("流水号", "单号", "交易号", "外部编号", "外部id", "外部单号", "事件号"),
    ),
    "account": (
        *("account", "accountid", "member", "memberid", "memberno", "customerid"),
        *("会员", "会员号", "会员id", "会员编号", "会员账号", "会员账户", "会员卡号", "账户", "账号", "帐号", "卡号"),
    ),
    "points": ("points", "point", "balance", "积分", "积分数", "积分值", "积分余额", "分值"),
    "kind": ("type", "kind", "类型", "业务类型", "交易类型"),
    "at": ("occurredat", "time", "at", "date", "timestamp", "发生时间", "交易时间", "时间", "日期"),
    "program": ("program", "programme", "积分计划"),
}
"""What a column may be called; case, blanks, `_` and `-` do not count."""

_FIELD_OF = {name: field for field, names in FIELDS.items() for name in names}
_IGNORED = re.compile(r"[\s_\-()（）]+")
_WHOLE = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)")


class ColumnsError(Exception):
    """The columns are not what they must be. The message is "what; remedy"."""


class EventRow(NamedTuple):
    """An event as the other system has it; without `kind`, points are signed. `at_ms` is None where no time is told."""

    line: int
    source: str
    event_id: str
    account: str
    points: int
    kind: str | None
    at_ms: int | None


class BalanceRow(NamedTuple):
    """An account's points as the other system has them."""

    line: int
    account: str
    points: int


class Problem(NamedTuple):
    """A line that cannot be read: what is wrong, and the remedy."""

    line: int
    detail: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: of which programme, `source` where they name none, `zone` for times without their own.

    `grouped` says whether 1,000 is a thousand, as it is not where columns are separated by semicolons.
    """

    program: str
    source: str | None
    zone: tzinfo
    grouped: bool = True


def columns_of(names: Sequence[str]) -> dict[str, str]:
    """The column of each field that these names hold. ColumnsError where two columns hold the same."""
    found: dict[str, str] = {}
    for name in names:
        meant = _FIELD_OF.get(_IGNORED.sub("", name.translate(FULL_WIDTH)).lower())
        if meant is None:
            continue
        if meant in found:
            raise ColumnsError(f"columns {found[meant]!r} and {name!r} are both {meant}; remove one of them")
        found[meant] = name
    return found


def kind_of(names: Sequence[str], reading: Reading) -> Kind:
    """Whether a file with these columns lists events or balances. ColumnsError when it can be neither."""
    found = columns_of(names)
    for field in ("account", "points"):
        if field not in found:
            raise ColumnsError(
                f"there is no column {field} ({FIELDS[field][-1]}); name it so (columns: {', '.join(names)})"
            )
    if "event_id" not in found:
        return "balances"
    if "source" not in found and reading.source is None:
        raise ColumnsError("the events name no source; add a column source (来源), or give --source")
    return "events"


def events(rows: Iterable[tuple[int, dict[str, str] | str]], reading: Reading) -> Iterator[EventRow | Problem]:
    """Read rows as events."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for line, cells in rows:
        if isinstance(cells, str):
            yield Problem(line, cells)
            continue
        columns = _columns(known, cells)
        if _cell(cells, columns, "program") not in {"", reading.program}:
            continue
        kind = _cell(cells, columns, "kind") or None
        if kind is not None and kind not in MOVING:
            continue
        yield _event(line, cells, columns, reading)


def balances(rows: Iterable[tuple[int, dict[str, str] | str]], reading: Reading) -> Iterator[BalanceRow | Problem]:
    """Read rows as balances."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for line, cells in rows:
        if isinstance(cells, str):
            yield Problem(line, cells)
            continue
        columns = _columns(known, cells)
        if _cell(cells, columns, "program") not in {"", reading.program}:
            continue
        try:
            account = _named(cells, columns, "account")
            points = _points(cells, columns, reading)
        except CellError as error:
            yield Problem(line, str(error))
        else:
            yield BalanceRow(line, account, points)


def _event(line: int, cells: Mapping[str, str], columns: Mapping[str, str], reading: Reading) -> EventRow | Problem:
    kind = _cell(cells, columns, "kind") or None
    told = _cell(cells, columns, "source")
    try:
        at = _cell(cells, columns, "at")
        return EventRow(
            line,
            _named(cells, columns, "source") if reading.source is None or told else reading.source,
            _named(cells, columns, "event_id"),
            _named(cells, columns, "account"),
            0 if kind == "reverse" and not _cell(cells, columns, "points") else _points(cells, columns, reading),
            kind,
            _moment(at, columns["at"], reading.zone) if at else None,
        )
    except CellError as error:
        return Problem(line, str(error))


def _columns(known: dict[tuple[str, ...], dict[str, str]], cells: Mapping[str, str]) -> dict[str, str]:
    names = tuple(cells)
    if names not in known:
        known[names] = columns_of(names)
    return known[names]


def _cell(cells: Mapping[str, str], columns: Mapping[str, str], field: str) -> str:
    return cells[columns[field]].strip() if field in columns else ""


def _named(cells: Mapping[str, str], columns: Mapping[str, str], field: str) -> str:
    try:
        return name_in(_cell(cells, columns, field), field)
    except CellError as error:
        raise CellError(f"{columns.get(field, field)} {error}") from error


def _points(cells: Mapping[str, str], columns: Mapping[str, str], reading: Reading) -> int:
    text = _cell(cells, columns, "points")
    name = columns.get("points", "points")
    plain = text.translate(FULL_WIDTH)
    if not _WHOLE.fullmatch(plain) or not plain.isascii() or ("," in plain and not reading.grouped):
        raise CellError(f"{name} is {shown(text)}, no whole number; write digits only, as 1000 or -1000")
    digits = plain.replace(",", "")
    if len(digits.lstrip("+-0")) > len(str(MAX_POINTS)) or abs(int(digits)) > MAX_POINTS:
        raise CellError(f"{name} is {shown(text)}; at most {MAX_POINTS:,} points fit one posting")
    return int(digits)


def _moment(text: str, name: str, zone: tzinfo) -> int:
    try:
        return moment_in(text, zone, end_of_day=False)
    except CellError as error:
        raise CellError(f"{name} {error}") from error
