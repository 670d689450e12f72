"""Reads the rows of a file of points: columns named in English or Chinese, a row whole or with its problem. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.import_cells import (
    CONTROL,
    FULL_WIDTH,
    NEVER_MS,
    NEVER_WORDS,
    TEXT_MAX,
    CellError,
    Kind,
    Reading,
    moment_in,
    name_in,
    points_in,
    shown,
)
from ledger.movement import MAX_POINTS, POOL

LINES_MAX = 1_000_000
_MOMENTS_KEPT = 10_000

FIELDS: Mapping[str, tuple[str, ...]] = {
    "account": (
        *("account", "accountid", "member", "memberid", "memberno", "customerid"),
        *("会员", "会员号", "会员id", "会员编号", "会员账号", "会员账户", "会员卡号", "账户", "账号", "帐号", "卡号"),
    ),
    "points": ("points", "point", "balance", "积分", "积分数", "积分值", "积分余额", "分值", "可用积分"),
    "expires_at": (
        *("expiresat", "expires", "expiry", "expirydate", "expirationdate", "validuntil"),
        *("到期", "到期日", "到期日期", "到期时间", "过期日期", "过期时间", "失效日期", "失效时间", "有效期至"),
    ),
    "earned_at": (
        *("earnedat", "earned", "earneddate", "issuedat"),
        *("获得日期", "获得时间", "发放日期", "发放时间", "入账日期", "入账时间", "生效日期"),
    ),
    "member_since": ("membersince", "joinedat", "signedupat", "入会日期", "入会时间", "注册日期", "注册时间"),
    "store": ("store", "storeid", "门店", "门店编号", "门店号", "店铺"),
    "external_id": (
        *("externalid", "reference", "transactionid"),
        *("外部编号", "外部id", "外部单号", "流水号", "交易号"),
    ),
}
"""What a column may be called; case, blanks, `_` and `-` do not count."""

ALLOWED: Mapping[Kind, frozenset[str]] = {
    "opening": frozenset(FIELDS),
    "credit": frozenset(FIELDS) - {"member_since"},
    "debit": frozenset({"account", "points", "store", "external_id"}),
}
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "opening": ("account", "points", "expires_at", "external_id"),
    "credit": ("account", "points"),
    "debit": ("account", "points"),
}

_FIELD_OF = {name: field for field, names in FIELDS.items() for name in names}
_IGNORED_IN_NAMES = re.compile(r"[\s_\-()（）]+")


class HeaderError(Exception):
    """The columns are not what they must be. The message is "what; remedy"."""


class ImportRow(NamedTuple):
    """A row as it will be posted. With a `problem` the rest may be missing, and it is not posted."""

    line: int
    account: str
    points: int = 0
    earned_ms: int | None = None
    expires_ms: int | None = None
    since_ms: int | None = None
    store: str | None = None
    external_id: str | None = None
    problem: str | None = None


def field_of(name: str) -> str | None:
    """The field that a column of this name holds; None for an unknown name."""
    return _FIELD_OF.get(_IGNORED_IN_NAMES.sub("", name.translate(FULL_WIDTH)).lower())


def columns_of(header: Sequence[str], kind: Kind, ignored: Collection[str] = ()) -> dict[str, str]:
    """The column of each field. HeaderError for one that is missing, unknown, not for this kind, or there twice.

    Nothing is passed over in silence: a misspelt `expires_at` would make points that never expire.
    """
    missing = [name for name in ignored if name not in header]
    if missing:
        raise HeaderError(f"there is no column {missing[0]!r} to ignore; it has {', '.join(header)}")
    found: dict[str, str] = {}
    for name in header:
        if name in ignored:
            continue
        meant = field_of(name)
        if meant is None:
            known = ", ".join(f"{field} ({names[-1]})" for field, names in FIELDS.items() if field in ALLOWED[kind])
            raise HeaderError(f"column {name!r} is unknown; rename it to one of {known}, or give --ignore {name!r}")
        if meant in found:
            raise HeaderError(f"columns {found[meant]!r} and {name!r} are both {meant}; remove one of them")
        if meant not in ALLOWED[kind]:
            raise HeaderError(f"column {name!r} has no meaning with --as {kind}; remove it, or give --ignore {name!r}")
        found[meant] = name
    for wanted in REQUIRED[kind]:
        if wanted not in found:
            raise HeaderError(
                f"column {wanted} ({FIELDS[wanted][-1]}) is missing, which --as {kind} needs; add it"
                + (" (its cells may be empty: by the programme's terms)" if wanted == "expires_at" else "")
            )
    return found


@dataclass(slots=True)
class RowReader:
    """Reads the rows of one file and keeps count of them; `points` sums up those without a problem.

    `columns` names each field's column. For JSON lines it is None: there each row brings its own names.
    """

    reading: Reading
    columns: Mapping[str, str] | None
    ignored: Collection[str] = ()
    lines: int = 0
    problems: int = 0
    points: int = 0
    _ids: dict[str, int] = field(default_factory=dict)
    _moments: dict[tuple[str, str], int | str] = field(default_factory=dict)
    _columns: dict[tuple[str, ...], Mapping[str, str] | str] = field(default_factory=dict)

    def all(self, rows: Iterable[tuple[int, Mapping[str, str] | str]]) -> Iterator[ImportRow]:
        """Read rows by their lines: cells by column, or what is wrong with the row. HeaderError beyond LINES_MAX."""
        for line, cells in rows:
            if self.lines >= LINES_MAX:
                raise HeaderError(f"the file has more than {LINES_MAX:,} rows; split it")
            self.lines += 1
            yield self._refused(line, cells, {}) if isinstance(cells, str) else self._row(line, cells)

    def _row(self, line: int, cells: Mapping[str, str]) -> ImportRow:
        columns = self.columns or self._columns_of(tuple(cells))
        if isinstance(columns, str):
            return self._refused(line, columns, cells)
        values: dict[str, str | int | None] = {}
        for meant, column in columns.items():
            try:
                values[meant] = self._cell(meant, cells[column])
            except CellError as error:
                return self._refused(line, f"{column}: {error}", cells)
        problem = self._contradiction(line, values, columns)
        if problem:
            return self._refused(line, problem, cells)
        row = ImportRow(
            line,
            str(values["account"]),
            _number(values["points"]) or 0,
            _number(values.get("earned_at")),
            _number(values.get("expires_at")),
            _number(values.get("member_since")),
            _text(values.get("store")),
            _text(values.get("external_id")),
        )
        self.points += row.points
        return row

    def _refused(self, line: int, problem: str, cells: Mapping[str, str]) -> ImportRow:
        """A row with a problem, under the account it names as far as that can be kept."""
        self.problems += 1
        named = next((cell for name, cell in cells.items() if field_of(name) == "account"), "")
        return ImportRow(line, CONTROL.sub(" ", named).strip()[:TEXT_MAX], problem=problem)

    def _columns_of(self, names: tuple[str, ...]) -> Mapping[str, str] | str:
        known = self._columns.get(names)
        if known is None:
            try:
                known = columns_of(names, self.reading.kind, [name for name in self.ignored if name in names])
            except HeaderError as error:
                known = str(error)
            self._columns[names] = known
        return known

    def _cell(self, meant: str, text: str) -> str | int | None:
        if meant == "points":
            return points_in(text, self.reading)
        if meant == "account":
            name = name_in(text, "account")
            if name.startswith(POOL):
                raise CellError(f"is {shown(name)}, a pool; name the member whose points these are")
            return name
        if not text.strip():
            if meant == "external_id" and self.reading.kind == "opening":
                raise CellError("is empty; every row needs the id it has in the other system")
            return None
        if meant in {"store", "external_id"}:
            return name_in(text, meant)
        return self._moment(meant, text)

    def _moment(self, meant: str, text: str) -> int:
        known = self._moments.get((meant, text))
        if known is None:
            try:
                known = self._checked_moment(meant, text)
            except CellError as error:
                known = str(error)
            if len(self._moments) >= _MOMENTS_KEPT:
                self._moments.clear()
            self._moments[meant, text] = known
        if isinstance(known, str):
            raise CellError(known)
        return known

    def _checked_moment(self, meant: str, text: str) -> int:
        if meant == "expires_at" and text.strip().lower() in NEVER_WORDS | {"9999-12-31"}:
            return NEVER_MS
        at = moment_in(text, self.reading.zone, end_of_day=meant == "expires_at")
        if meant == "expires_at" and at <= self.reading.now_ms:
            raise CellError(f"is {text.strip()!r}, which is over; leave out what has expired")
        if meant != "expires_at" and at > self.reading.now_ms:
            raise CellError(f"is {text.strip()!r}, which is still to come; correct the date")
        return at

    def _contradiction(
        self, line: int, values: Mapping[str, str | int | None], columns: Mapping[str, str]
    ) -> str | None:
        earned, expires = _number(values.get("earned_at")), _number(values.get("expires_at"))
        if earned is not None and expires is not None and expires <= earned:
            return f"{columns['expires_at']}: is not after {columns['earned_at']}; correct one of the two"
        named = _text(values.get("external_id"))
        if named is not None:
            first = self._ids.setdefault(named, line)
            if first != line:
                return f"{columns['external_id']}: is {shown(named)}, as in row {first}; each id stands only once"
        if self.points + (_number(values["points"]) or 0) > MAX_POINTS:
            return f"{columns['points']}: the file's sum is above {MAX_POINTS:,}; split the file"
        return None


def _number(value: str | int | None) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) else None
