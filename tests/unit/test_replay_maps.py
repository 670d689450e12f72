"""Maps and rows: what a file's rows become, and how a row that cannot be read is reported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cli.mapping import CellError, FileMap, MapError, load_map, packaged_maps, parse_map, parse_time
from cli.replay_plan import Naming, ReplayPlan, plan_replay
from cli.rows import FileError, digest, open_table
from detectors.event import Invalid, decode

MAP = """
label: {column: bad, fraud: [1], clean: [0]}
events:
  - name: in
    type: earn
    account: "c-{who}"
    occurred_at: {time: at}
    points: {points: amount, factor: 1.5}
    ip: {ipv4: ip, optional: true}
    channel: web
"""
HEADER = "who,at,amount,ip,bad\n"


def plan(tmp_path: Path, text: str | bytes, file_map: FileMap | None = None, rows: int | None = None) -> ReplayPlan:
    """The plan of a file with that content."""
    file = tmp_path / "file"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    chosen = file_map or parse_map("test", MAP)
    return plan_replay(open_table(file), chosen, Naming.of(chosen, digest(file), None), rows)


def events(made: ReplayPlan) -> list[dict[str, object]]:
    """The planned events' bodies."""
    return [json.loads(event.value) for event in made.events]


def test_a_row_becomes_the_event_its_map_says(tmp_path: Path) -> None:
    """Template, time, rounded points, integer address and constant all arrive where the map puts them."""
    made = plan(tmp_path, HEADER + "7,2026-01-05 09:00:00,3,3325256711,1\n")
    event = events(made)[0]
    assert event | {"id": "", "source": "", "program": ""} == {
        "id": "",
        "source": "",
        "program": "",
        "type": "earn",
        "account": "c-7",
        "occurred_at": "2026-01-05T09:00:00.000Z",
        "points": 5,
        "ip": "198.51.100.7",
        "channel": "web",
    }
    assert made.labels == [True]


@pytest.mark.parametrize(
    ("amount", "points"),
    [("0", 1), ("0.2", 1), ("1", 2), ("3", 5), ("3.6666", 5), ("3.6667", 6), ("1e2", 150), ("2", 3), ("5", 8)],
)
def test_points_round_half_up_and_are_never_none(tmp_path: Path, amount: str, points: int) -> None:
    """Amount times 1.5, half up, and at least one point."""
    assert events(plan(tmp_path, HEADER + f"7,2026-01-05,{amount},,0\n"))[0]["points"] == points


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ("7,yesterday,3,,0", "at", "is no time"),
        ("7,2026-01-05,-3,,0", "amount", "0 or more"),
        ("7,2026-01-05,nan,,0", "amount", "0 or more"),
        ("7,2026-01-05,€3,,0", "amount", "is no amount"),
        ("7,2026-01-05,,,0", "amount", "is empty"),
        ("7,2026-01-05,3,4294967296,0", "ip", "no IPv4"),
        ("7,2026-01-05,3,300.1.1.1,0", "ip", "no IPv4"),
        (",2026-01-05,3,,0", "who", "is empty"),
        ("7,2026-01-05,3", "", "3 cells"),
    ],
)
def test_a_row_that_cannot_be_read_is_reported_with_its_column(
    tmp_path: Path, row: str, column: str, words: str
) -> None:
    """The row before and the row after are sent; this one is counted and named with what to correct."""
    good = "1,2026-01-05,1,,0"
    made = plan(tmp_path, f"{HEADER}{good}\n{row}\n{good}\n")
    assert (len(made.events), made.unmapped, made.rows) == (2, 1, 3)
    problem = made.problems[0]
    assert (problem.row, problem.column) == (2, column)
    assert words in problem.detail


def test_a_row_is_mapped_whole_or_not_at_all(tmp_path: Path) -> None:
    """A sign-up whose purchase cannot be read is not sent either: half a row would be judged wrongly."""
    two = MAP.replace("    type: earn\n", "    type: earn\n    outcome: true\n").replace(
        "events:\n",
        "events:\n  - {name: up, type: account.created, account: 'c-{who}', occurred_at: {time: at}}\n",
    )
    made = plan(tmp_path, HEADER + "7,2026-01-05,,,0\n", parse_map("two", two))
    assert (made.events, made.unmapped) == ([], 1)


def test_an_address_with_a_fraction_is_the_integer_before_it(tmp_path: Path) -> None:
    """Some exports carry addresses as floats; the fraction means nothing."""
    assert events(plan(tmp_path, HEADER + "7,2026-01-05,1,3325256711.9,0\n"))[0]["ip"] == "198.51.100.7"


def test_rows_are_merged_by_time_and_stay_in_file_order_at_the_same_time(tmp_path: Path) -> None:
    """A replay's clock only goes forward; of two events at one moment, the file's first comes first."""
    times = ("09:00", "08:00", "09:00", "08:00")
    made = plan(tmp_path, HEADER + "".join(f"{n},2026-01-05 {at},1,,0\n" for n, at in enumerate(times)))
    assert [event["account"] for event in events(made)] == ["c-1", "c-3", "c-0", "c-2"]


def test_a_purchase_in_the_minute_of_its_sign_up_comes_after_it(tmp_path: Path) -> None:
    """Both events of a row at one time keep the map's order."""
    ecom = load_map("ecom")
    header = "user_id,signup_time,purchase_time,purchase_value,device_id,source,browser,sex,age,ip_address,class\n"
    row = "{},2015-01-01 05:55:00,2015-01-01 05:55:00,33.0,WPO,Ads,Chrome,M,32.0,2731235388.0,1.0\n"
    made = plan(tmp_path, header + row.format(1) + row.format(2), ecom)
    assert [event.id for event in made.events] == ["1-signup", "1-purchase", "2-signup", "2-purchase"]
    assert [event.id for event in made.judged()] == ["1-purchase", "2-purchase"]


def test_the_same_file_gives_the_same_events_again(tmp_path: Path) -> None:
    """A second replay is all duplicates."""
    content = HEADER + "7,2026-01-05,1,,0\n8,2026-01-05,1,,0\n"
    assert plan(tmp_path, content).events == plan(tmp_path, content).events


def test_another_file_map_or_programme_is_another_source() -> None:
    """Row 1 of two files must not collide, nor one file's under two maps or in two programmes."""
    one, other = parse_map("m", MAP), parse_map("m", MAP.replace("1.5", "2"))
    sources = {
        Naming.of(one, "a", None).source,
        Naming.of(one, "b", None).source,
        Naming.of(other, "a", None).source,
        Naming.of(one, "a", "mine").source,
    }
    assert len(sources) == 4


def test_the_first_rows_of_a_file_are_the_same_events_with_and_without_a_limit(tmp_path: Path) -> None:
    """`--rows` may be raised later: what was sent stays what it was."""
    content = HEADER + "".join(f"{n},2026-01-05,1,,0\n" for n in range(5))
    assert plan(tmp_path, content, rows=2).events == plan(tmp_path, content).events[:2]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_any_common_delimiter_is_read(tmp_path: Path, delimiter: str) -> None:
    """The header line tells which one it is; a byte order mark is no part of the first name."""
    content = (HEADER + "7,2026-01-05,1,,0\n").replace(",", delimiter)
    assert events(plan(tmp_path, b"\xef\xbb\xbf" + content.encode()))[0]["account"] == "c-7"


def test_json_lines_are_read_with_numbers_and_nulls(tmp_path: Path) -> None:
    """A number is its digits, null is an empty cell, a missing key is named."""
    lines = [
        {"who": 7, "at": "2026-01-05", "amount": 3.0, "ip": None, "bad": 1},
        {"who": 8, "amount": 3},
        [1],
        {"who": 9, "at": "2026-01-05", "amount": 1},
    ]
    made = plan(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\nnot json\n")
    assert [event["account"] for event in events(made)] == ["c-7", "c-9"]
    assert [(problem.row, problem.column) for problem in made.problems] == [(2, "at"), (3, ""), (5, "")]
    assert made.labels == [True, None, None, None, None]


def test_a_gzip_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    """The name does not matter."""
    assert len(plan(tmp_path, gzip.compress((HEADER + "7,2026-01-05,1,,0\n").encode())).events) == 1


def test_a_cell_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    """Bytes of another encoding are named, the rest of the file is sent."""
    made = plan(tmp_path, HEADER.encode() + b"caf\xe9,2026-01-05,1,,0\n7,2026-01-05,1,,0\n")
    assert [(problem.row, problem.column) for problem in made.problems] == [(1, "who")]
    assert len(made.events) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a,a\n1,2\n", "repeated column"),
        (gzip.compress(HEADER.encode() + b"7,2026-01-05,1,,0\n" * 5000)[:-20], "breaks off"),
        (b"\x1f\x8bno gzip at all", "breaks off"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    """Empty, ambiguous or cut short: said before anything is sent."""
    with pytest.raises(FileError, match=words):
        plan(tmp_path, content)


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(FileError, match="missing"):
        open_table(tmp_path / "missing")


def test_a_map_for_another_file_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """The message names the column that is missing and those that are there."""
    with pytest.raises(MapError, match=r"no column 'amount'.*who, at"):
        plan(tmp_path, "who,at,ip,bad\n7,2026-01-05,,0\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("a: 1", "unknown key 'a'"),
        ("events: []", "must be a list"),
        ("events: [{name: in, type: earn, account: a}]", "`occurred_at` is missing"),
        ("events: [{name: in, type: earn, account: a, occurred_at: now}]", "needs {time"),
        (MAP.replace("{time: at}", "{time: at, format: soon}"), "format 'soon'"),
        (MAP.replace("1.5", "0"), "must be above 0"),
        (MAP.replace("channel: web", "channel: [web]"), "cannot read"),
        (MAP.replace("channel: web", "channel: '{who'"), "unbalanced brace"),
        (MAP.replace("channel: web", "source: me"), "set by replay itself"),
        (MAP.replace("name: in", "name: In Store"), "part of the event's id"),
        (MAP.replace("label: {column: bad,", "label: {"), "`label` needs column"),
        (MAP + "  - {name: b, type: login, account: a, occurred_at: {time: at}}\n", "outcome: true"),
    ],
)
def test_a_map_with_a_mistake_says_where(text: str, words: str) -> None:
    """Each refusal names the place and what to write."""
    with pytest.raises(MapError) as refused:
        parse_map("mine", text)
    assert words in str(refused.value)


def test_a_map_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    """`--map ./mine.yaml` needs no installation; an unknown name lists the packaged ones."""
    (tmp_path / "mine.yaml").write_text(MAP)
    assert load_map(str(tmp_path / "mine.yaml")).name == "mine"
    with pytest.raises(MapError, match="ecom, handbook, sffsd"):
        load_map("nothing")


def test_a_label_that_is_neither_is_unlabelled() -> None:
    """Semi-labelled files have rows that nobody has judged: they count for neither side."""
    labels = load_map("sffsd").labels
    assert labels is not None
    assert [labels.read({"Labels": text}) for text in ("1", "0", "2", "")] == [True, False, None, None]


def test_times_without_a_zone_are_taken_in_the_maps_zone() -> None:
    """An export in local time lands where it happened; a zone in the text wins."""
    text = MAP.replace("{time: at}", "{time: at, zone: +08:00}")
    at = parse_map("m", text).events[0].at_ms
    assert at({"at": "2026-01-05 09:00:00"}) == parse_time("2026-01-05T01:00:00Z", "iso")
    assert at({"at": "2026-01-05T09:00:00Z"}) == parse_time("2026-01-05T09:00:00Z", "iso")


def test_counted_times_start_where_the_map_says() -> None:
    """Seconds since 1970, milliseconds, or seconds since a moment of the map's own."""
    for form, cell, expected in (
        ("{time: at, format: seconds}", "1.5", 1_500),
        ("{time: at, format: milliseconds}", "1500", 1_500),
        ("{time: at, format: seconds, since: 1970-01-01T00:01:00Z}", "1", 61_000),
    ):
        assert parse_map("m", MAP.replace("{time: at}", form)).events[0].at_ms({"at": cell}) == expected
    with pytest.raises(CellError):
        parse_map("m", MAP.replace("{time: at}", "{time: at, format: seconds}")).events[0].at_ms({"at": "inf"})


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (
            "ecom",
            {
                "user_id": "1",
                "signup_time": "2015-01-01 05:55:00",
                "purchase_time": "2015-01-02 05:55:00",
                "purchase_value": "33.0",
                "device_id": "W",
                "ip_address": "2731235388.0",
                "class": "1.0",
            },
        ),
        (
            "handbook",
            {
                "TRANSACTION_ID": "0",
                "TX_DATETIME": "2018-04-01 00:00:31",
                "CUSTOMER_ID": "596",
                "TERMINAL_ID": "3156",
                "TX_AMOUNT": "57.16",
                "TX_FRAUD": "0",
            },
        ),
        ("sffsd", {"Time": "3", "Source": "S1", "Target": "T1", "Amount": "13.74", "Location": "L1", "Labels": "2"}),
    ],
)
def test_packaged_maps_make_events_of_the_contract(tmp_path: Path, name: str, row: dict[str, str]) -> None:
    """A row as these files have them passes the door."""
    assert name in packaged_maps()
    made = plan(tmp_path, json.dumps(row), load_map(name))
    assert made.problems == []
    assert made.events
    assert not [event for event in made.events if isinstance(decode(event.value), Invalid)]
