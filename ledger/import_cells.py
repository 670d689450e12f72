"""Reads single cells as people write them: whole numbers, dates, names. Pure.

Nothing is guessed: what could mean two things is refused, with the remedy. Points never pass through a float.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from ledger.movement import MAX_POINTS

Kind = Literal["opening", "credit", "debit"]
"""What a file brings: balances from another system, points for members, points to take from them."""

TEXT_MAX = 128
YEAR_MIN, YEAR_MAX = 1971, 2199
NEVER = "never"
NEVER_MS = 253_370_764_800_000
"""9999-01-01: what stands for "never" in a programme whose points expire by its terms."""

# Character by character: Unicode's own folding would make 52 of 5².
FULL_WIDTH = str.maketrans("０１２３４５６７８９，．＋－−　", "0123456789,.+-- ")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_GROUPED = re.compile(r"\+?\d{1,3}(,\d{3})+")
_PLAIN = re.compile(r"\+?\d+")
_FRACTION = re.compile(r"[+-]?\d[\d,' ]*[.,]\d*")
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d+)?[eE][+-]?\d+")
_SPREADSHEET_ID = re.compile(r"\d(\.\d+)?[eE]\+\d+")
_MYRIADS = re.compile(r"\d+(\.\d+)?\s*[万萬亿億kKmM]")
_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})|(\d{4})年(\d{1,2})月(\d{1,2})日|(\d{4})(\d{2})(\d{2})")
_TIME = re.compile(r"[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?\s*(Z|[+-]\d{2}:?\d{2})?")
_FOREIGN_DATE = re.compile(r"\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}")
NEVER_WORDS = frozenset({"never", "永久", "永久有效", "长期", "长期有效", "不过期"})


class CellError(Exception):
    """A cell cannot be read. The message is "what; remedy"."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How cells are read: `zone` for dates without one, `now_ms` to refuse what is over or not yet.

    `grouped` says whether 1,000 is a thousand: not where columns are separated by semicolons, as there the comma is the
    decimal point.
    """

    kind: Kind
    zone: tzinfo
    now_ms: int
    grouped: bool = True


def points_in(text: str, reading: Reading) -> int:
    """A positive whole number of points, as people write it: 1000, 1,000 or １０００. CellError otherwise."""
    text = text.strip()
    if not (text.isascii() and text.isdigit()):
        text = _digits(text.translate(FULL_WIDTH).strip(), reading)
    if len(text) > len(str(MAX_POINTS)) and len(text.lstrip("0")) > len(str(MAX_POINTS)):
        raise CellError(f"has {len(text)} digits; at most {MAX_POINTS:,} points fit one posting")
    points = int(text.lstrip("0") or "0")
    if points == 0:
        raise CellError("is zero; write 1 or more, or leave the row out")
    if points > MAX_POINTS:
        raise CellError(f"is {points:,}; at most {MAX_POINTS:,} points fit one posting")
    return points


def _digits(text: str, reading: Reading) -> str:
    """The digits of a number that is more than digits."""
    if not text:
        raise CellError("is empty; write how many points")
    if _PLAIN.fullmatch(text) and text.isascii():
        return text.lstrip("+")
    if _GROUPED.fullmatch(text) and text.isascii():
        if not reading.grouped:
            raise CellError(
                f"is {text!r}, where the comma may be a thousands or a decimal one; write {text.replace(',', '')}"
            )
        return text.lstrip("+").replace(",", "")
    if text.startswith("-"):
        hint = (
            "take them away with --as debit" if reading.kind != "debit" else "write how many to take, without a minus"
        )
        raise CellError(f"is negative ({text!r}); {hint}")
    if _SCIENTIFIC.fullmatch(text):
        raise CellError(f"is {text!r}, shortened by a spreadsheet; format the column as a number without decimals")
    if _MYRIADS.fullmatch(text):
        raise CellError(f"is {text!r}; write it out in digits, as 50000 for 5万")
    if _FRACTION.fullmatch(text):
        raise CellError(f"is {text!r}, but points are whole numbers; write it without separators and decimals, as 1000")
    raise CellError(f"is {shown(text)}, no whole number; write digits only, as 1000")


def moment_in(text: str, zone: tzinfo, *, end_of_day: bool) -> int:
    """Epoch milliseconds of a date or a time; one without its offset is in `zone`. CellError otherwise.

    With `end_of_day` a date means the last day: the moment is the next midnight.
    """
    text = text.translate(FULL_WIDTH).strip()
    match = _DATE.match(text)
    if match is None:
        if _FOREIGN_DATE.match(text):
            raise CellError(f"is {text!r}, in which day and month may be swapped; write 2027-12-31")
        raise CellError(f"is {shown(text)}, no date; write 2027-12-31 or 2027-12-31T23:59:59+08:00")
    year, month, day = (int(part) for part in match.groups() if part is not None)
    rest = text[match.end() :]
    if rest and match.group().endswith("日"):
        rest = f" {rest}"
    try:
        if rest:
            at = _timed(datetime(year, month, day, tzinfo=zone), rest)
        else:
            at = datetime(year, month, day, tzinfo=zone)
            if end_of_day:
                at = (at.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    except (ValueError, OverflowError) as error:
        raise CellError(f"is {shown(text)}, which no calendar or clock has; write 2027-12-31") from error
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise CellError(
            f"is {text!r}; take a year from {YEAR_MIN} to {YEAR_MAX}, or {NEVER!r} for points without expiry"
        )
    utc = at.astimezone(UTC)
    return int(utc.replace(microsecond=0).timestamp()) * 1000 + utc.microsecond // 1000


def _timed(date: datetime, rest: str) -> datetime:
    match = _TIME.fullmatch(rest)
    if match is None:
        raise ValueError(rest)
    hour, minute, second, fraction, offset = match.groups()
    at = date.replace(
        hour=int(hour), minute=int(minute), second=int(second or 0), microsecond=int((fraction or "0").ljust(6, "0"))
    )
    if offset is None:
        return at
    return at.replace(tzinfo=datetime.strptime("+00:00" if offset == "Z" else offset, "%z").tzinfo)


def name_in(text: str, what: str) -> str:
    """An account, a store or an id, exactly as written: 1 to 128 characters, no control ones. CellError otherwise."""
    text = text.strip()
    if not text:
        raise CellError(f"is empty; every row needs its {what}")
    if len(text) > TEXT_MAX:
        raise CellError(f"has {len(text)} characters; a name has at most {TEXT_MAX}")
    if CONTROL.search(text):
        raise CellError("holds a line break or another control character; take it out")
    if not text.isascii() and any("０" <= character <= "９" for character in text):
        raise CellError(f"is {shown(text)} with full-width digits, which is another name; write 0-9")
    if _SPREADSHEET_ID.fullmatch(text):
        raise CellError(f"is {text!r}, shortened by a spreadsheet; format the column as text and export again")
    return text


def shown(text: str) -> str:
    """The text as a message may hold it."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")  # noqa: PLR2004 -- what fits a line of a message
