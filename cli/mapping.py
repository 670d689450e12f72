"""Maps: how a row of somebody's file becomes events. A map is a small YAML document, read and applied here.

Pure but for reading the map's own file. A field of an event is either a text with `{column}` in it
(`"cust-{CUSTOMER_ID}"`; without a column it is a constant), any other YAML scalar (a constant as it stands), or one of
- `{time: COLUMN, format: FORMAT, zone: +08:00}`: FORMAT is `iso` (the default: 2026-01-05 09:00:00, with or without T
  and zone), a strptime pattern, `seconds` or `milliseconds` (these two counted from `since`, default 1970); a time
  without a zone is taken in `zone`, default UTC;
- `{points: COLUMN, factor: 1}`: amount × factor, rounded half up to whole points, at least 1 (an amount below 0 is
  refused);
- `{ipv4: COLUMN}`: an address as dotted text, or as one integer whose fraction, if any, is dropped. A mapping may add
  `optional: true`, and so may a text written `{text: "{COLUMN}", optional: true}`: an empty cell then leaves the field
  out. Otherwise an empty cell makes the row unmapped.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

PACKAGED = Path(__file__).parent / "maps"
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DOTS = 3  # of a dotted IPv4 address
UNITS = {"seconds": 1_000, "milliseconds": 1}
REQUIRED = ("name", "type", "account", "occurred_at")
OWN = ("name", "type", "outcome")

Row = Mapping[str, str]
Reader = Callable[[Row], Any]


class MapError(Exception):
    """The map cannot be used. The message says what is wrong and what to write instead."""


class CellError(Exception):
    """A cell cannot be read. `column` names it, the message says what was found and what would do."""

    def __init__(self, column: str, detail: str) -> None:
        super().__init__(detail)
        self.column = column


@dataclass(frozen=True, slots=True)
class EventMap:
    """How one event of a row is made: its name, its type, a reader per field; `outcome` if the row is judged by it."""

    name: str
    type: str
    outcome: bool
    at_ms: Callable[[Row], int]
    fields: dict[str, Reader]


@dataclass(frozen=True, slots=True)
class Labels:
    """The label column and which of its texts mean fraud and clean; any other text means that nobody knows."""

    column: str
    fraud: frozenset[str]
    clean: frozenset[str]

    def read(self, row: Row) -> bool | None:
        """True for fraud, False for clean, None for unlabelled."""
        text = row.get(self.column, "").strip()
        return True if text in self.fraud else False if text in self.clean else None


@dataclass(frozen=True, slots=True)
class FileMap:
    """A map: `digest` identifies its text, `columns` are all it reads, `without` the rules to show figures without."""

    name: str
    about: str
    events: tuple[EventMap, ...]
    labels: Labels | None
    without: tuple[str, ...]
    columns: frozenset[str]
    digest: str


def packaged_maps() -> list[str]:
    """The names of the maps that come with the product."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load_map(name_or_path: str) -> FileMap:
    """The packaged map of that name, else the YAML file at that path. Raises `MapError`."""
    packaged = PACKAGED / f"{name_or_path}.yaml"
    path = packaged if name_or_path in packaged_maps() else Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(
            f"no map {name_or_path!r}: it is neither one of {', '.join(packaged_maps())} nor a readable YAML file"
        ) from error
    return parse_map(path.stem, text)


def parse_map(name: str, text: str) -> FileMap:
    """A map from its YAML text. Raises `MapError` naming the place."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MapError(f"map {name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise MapError(f"map {name}: must be a mapping with `events:`")
    unknown = set(document) - {"about", "label", "without", "events"}
    if unknown:
        raise MapError(f"map {name}: unknown key {min(map(str, unknown))!r}; known are about, label, without, events")
    events, columns = [], set[str]()
    for entry in _entries(name, document):
        event, used = _event_map(name, entry)
        events.append(event)
        columns |= used
    if len(events) == 1:
        events = [EventMap(events[0].name, events[0].type, True, events[0].at_ms, events[0].fields)]
    if sum(event.outcome for event in events) != 1:
        raise MapError(f"map {name}: write `outcome: true` at the one event by which the row is judged")
    if len({event.name for event in events}) != len(events):
        raise MapError(f"map {name}: two events have the same name")
    labels = _labels(name, document.get("label"))
    without = document.get("without") or []
    if not isinstance(without, list) or not all(isinstance(rule, str) for rule in without):
        raise MapError(f"map {name}: `without` must be a list of rule ids")
    if labels:
        columns.add(labels.column)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return FileMap(
        name, str(document.get("about", "")), tuple(events), labels, tuple(without), frozenset(columns), digest
    )


def _entries(name: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    entries = document.get("events")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise MapError(f"map {name}: `events` must be a list of mappings, one for each event that a row becomes")
    return entries


def _event_map(name: str, entry: dict[str, Any]) -> tuple[EventMap, set[str]]:
    """One event of the map, and the columns it reads."""
    label = str(entry.get("name", "?"))
    for key in REQUIRED:
        if entry.get(key) in (None, ""):
            raise MapError(f"map {name}, event {label}: `{key}` is missing")
    if not all(isinstance(entry[key], str) for key in ("name", "type")):
        raise MapError(f"map {name}, event {label}: `name` and `type` must be text")
    if not re.fullmatch(r"[a-z0-9_-]{1,32}", label):
        raise MapError(
            f"map {name}, event {label}: a name is 1-32 of a-z, 0-9, - and _, as it becomes part of the event's id"
        )
    fields, columns = {}, set[str]()
    for key, template in entry.items():
        if key in OWN:
            continue
        if key in ("id", "source", "program"):
            raise MapError(f"map {name}, event {label}: `{key}` is set by replay itself; leave it out")
        try:
            reader, used = _reader(template)
        except (ValueError, TypeError) as error:
            raise MapError(f"map {name}, event {label}, field {key}: {error}") from error
        fields[key] = reader
        columns |= used
    at_ms = fields.pop("occurred_at")
    if not (isinstance(entry["occurred_at"], dict) and "time" in entry["occurred_at"]):
        raise MapError(f"map {name}, event {label}: `occurred_at` needs {{time: COLUMN, format: ...}}")
    return EventMap(label, entry["type"], bool(entry.get("outcome", False)), at_ms, fields), columns


def _labels(name: str, entry: object) -> Labels | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or not entry.get("column") or not entry.get("fraud"):
        raise MapError(
            f"map {name}: `label` needs column and fraud, as in {{column: class, fraud: ['1'], clean: ['0']}}"
        )
    fraud, clean = ([str(text) for text in entry.get(key) or []] for key in ("fraud", "clean"))
    return Labels(str(entry["column"]), frozenset(fraud), frozenset(clean))


def _reader(template: object) -> tuple[Reader, set[str]]:
    """The function that reads one field from a row, and the columns it uses. ValueError or TypeError.

    The error says what to write instead.
    """
    if isinstance(template, str):
        return _text(template)
    if isinstance(template, (bool, int)):
        return (lambda _: template), set()
    if not isinstance(template, dict):
        raise TypeError(f"cannot read {template!r}; write a text, a whole number, true or false, or a mapping")
    options = {str(key): value for key, value in template.items()}
    optional = bool(options.pop("optional", False))
    if "text" in options and len(options) == 1:
        reader, columns = _text(str(options["text"]))
    elif "time" in options and not set(options) - {"time", "format", "zone", "since"}:
        reader, columns = _time(options), {str(options["time"])}
    elif "points" in options and not set(options) - {"points", "factor"}:
        reader, columns = _points(str(options["points"]), options.get("factor", 1)), {str(options["points"])}
    elif "ipv4" in options and len(options) == 1:
        reader, columns = _ipv4(str(options["ipv4"])), {str(options["ipv4"])}
    else:
        raise ValueError(f"cannot read {template}; write a text, or one of time, points, ipv4, text")
    return (_optional(reader, columns) if optional else reader), columns


def _cell(row: Row, column: str) -> str:
    text = row[column].strip()
    if not text:
        raise CellError(column, "is empty; fill it in, or mark the field `optional: true` in the map")
    return text


def _optional(reader: Reader, columns: set[str]) -> Reader:
    return lambda row: reader(row) if all(row.get(column, "").strip() for column in columns) else None


def _text(template: str) -> tuple[Reader, set[str]]:
    columns = set(PLACEHOLDER.findall(template))
    if "{" in PLACEHOLDER.sub("", template) or "}" in PLACEHOLDER.sub("", template):
        raise ValueError(f"unbalanced brace in {template!r}")
    if not columns:
        return (lambda _: template), columns
    return (lambda row: PLACEHOLDER.sub(lambda match: _cell(row, match[1]), template)), columns


def _time(options: dict[str, Any]) -> Callable[[Row], int]:
    column, form = str(options["time"]), str(options.get("format", "iso"))
    since = parse_time(str(options["since"]), "iso") if "since" in options else 0
    zone = _zone(options.get("zone", "+00:00"))
    if form != "iso" and form not in UNITS and "%" not in form:
        raise ValueError(
            f"format {form!r} is none of iso, seconds, milliseconds, or a strptime pattern such as %d/%m/%Y %H:%M"
        )

    def read(row: Row) -> int:
        text = _cell(row, column)
        try:
            return since + round(float(text) * UNITS[form]) if form in UNITS else parse_time(text, form, zone)
        except (ValueError, OverflowError) as error:
            raise CellError(
                column, f"{text!r} is no time of the format {form}; correct the cell, or the format in the map"
            ) from error

    return read


def _zone(zone: object) -> tzinfo | None:
    """A zone offset; YAML 1.1 reads an unquoted +10:00 as the number 600, which is its minutes."""
    if isinstance(zone, int):
        return timezone(timedelta(minutes=zone))
    return datetime.strptime(str(zone), "%z").tzinfo


def parse_time(text: str, form: str, zone: tzinfo | None = UTC) -> int:
    """A time as epoch milliseconds; `form` is `iso` or a strptime pattern; `zone` is for times without one.

    Raises ValueError when it is none.
    """
    read = datetime.fromisoformat if form == "iso" else lambda cell: datetime.strptime(cell, form)  # noqa: DTZ007 -- see below
    moment = read(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _points(column: str, factor: object) -> Callable[[Row], int]:
    try:
        times = Decimal(str(factor))
    except InvalidOperation as error:
        raise ValueError(f"factor {factor!r} is no number") from error
    if not (times.is_finite() and times > 0):
        raise ValueError(f"factor {factor!r} must be above 0")

    def read(row: Row) -> int:
        text = _cell(row, column)
        try:
            amount = Decimal(text)
            if not amount.is_finite() or amount < 0:
                raise CellError(column, f"{text!r} is no amount of 0 or more; give refunds an event type of their own")
            return max(1, int((amount * times).to_integral_value(ROUND_HALF_UP)))
        except InvalidOperation as error:
            raise CellError(
                column, f"{text!r} is no amount; write digits with a decimal point, without a currency"
            ) from error

    return read


def _ipv4(column: str) -> Callable[[Row], str]:
    def read(row: Row) -> str:
        text = _cell(row, column)
        try:
            return str(ipaddress.IPv4Address(text if text.count(".") == DOTS else int(Decimal(text))))
        except (ValueError, ArithmeticError) as error:
            raise CellError(
                column, f"{text!r} is no IPv4 address; write 198.51.100.7 or an integer below 4294967296"
            ) from error

    return read
