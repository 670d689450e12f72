"""Files of points: whatever encoding, separator or language; every row read, or named with its line and column."""

import csv
import gzip
import io
import json
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.import_cells import NEVER_MS, Kind, Reading
from ledger.import_file import UnreadableError, examine, open_rows
from ledger.import_parse import FIELDS, HeaderError, ImportRow, RowReader, columns_of, field_of
from ledger.movement import MAX_POINTS

NOW_MS = 1_800_000_000_000
DAY = 86_400_000
NAMES = st.text(
    st.characters(codec="gb18030", exclude_categories=("C", "Z"), exclude_characters="０１２３４５６７８９"),
    min_size=1,
    max_size=12,
).filter(lambda name: not name.startswith("pool:") and "E+" not in name.upper())


def read(
    path: Path, kind: Kind = "credit", ignored: tuple[str, ...] = (), encoding: str | None = None
) -> list[ImportRow]:
    """All rows of a file."""
    rows = open_rows(examine(path, encoding))
    reading = Reading(kind, UTC, NOW_MS, grouped=rows.delimiter != ";")
    columns = None if rows.columns is None else columns_of(rows.columns, kind, ignored)
    return list(RowReader(reading, columns, ignored).all(rows.rows))


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    """A file with that text."""
    path = folder / "points.csv"
    path.write_bytes(text.encode(encoding))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    rows=st.lists(st.tuples(NAMES, st.integers(1, 10**12)), min_size=1, max_size=20),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]),
    chinese=st.booleans(),
    packed=st.booleans(),
)
def test_a_file_reads_the_same_however_it_was_saved(
    tmp_path: Path, rows: list[tuple[str, int]], delimiter: str, encoding: str, chinese: bool, packed: bool
) -> None:
    """Encodings, separators, header languages and gzip: the same rows at the same lines."""
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    table.writerow(["会员号", "积分"] if chinese else ["Account", "POINTS"])
    table.writerows(rows)
    data = text.getvalue().encode(encoding)
    path = tmp_path / "any"
    path.write_bytes(gzip.compress(data) if packed else data)
    # Without a mark, some texts in GB18030 happen to be good UTF-8 or the other way round: then the encoding is given.
    given_encoding = encoding if encoding == "gb18030" else None
    assert read(path, encoding=given_encoding) == [
        ImportRow(line, name.strip(), points) for line, (name, points) in enumerate(rows, start=2)
    ]


def test_chinese_text_in_gb18030_is_found_out(tmp_path: Path) -> None:
    """What Excel in China saves as CSV needs no option."""
    path = written(tmp_path, "会员号,积分\n王小明,100\n李雷,２００\n", "gb18030")
    assert examine(path).encoding == "gb18030"
    assert read(path) == [ImportRow(2, "王小明", 100), ImportRow(3, "李雷", 200)]


def test_json_lines_read_like_csv(tmp_path: Path) -> None:
    """Numbers stay as they were written; an absent or null cell is an empty one."""
    path = written(
        tmp_path,
        '{"account": "ann", "points": 10}\n\n{"积分": "1,000", "会员号": 7, "store": null}\n',
    )
    assert read(path) == [ImportRow(2 - 1, "ann", 10), ImportRow(3, "7", 1000)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"account": "ann", "points": 1.0}', "points: is '1.0', but points are whole numbers"),
        ('{"account": "ann", "points": 1e3}', "points: is '1e3', shortened"),
        ('{"account": "ann", "points": true}', "has true or false as 'points'"),
        ('{"account": "ann", "points": [1]}', "has a list or an object as 'points'"),
        ('{"account": "ann", "points": {"a": 1, "a": 2}}', "has a list or an object as 'points'"),
        ('{"account": "ann", "points": 1, "points": 2}', "names 'points' twice"),
        ('{"account": "ann"}', "column points (可用积分) is missing"),
        ('{"account": "ann", "points": 1, "poinst": 2}', "column 'poinst' is unknown"),
        ('{"account": "\\ud800", "points": 1}', "account: holds a line break or another control character"),
        ("[1]", "is JSON but no object"),
        ("{nonsense", "is no JSON object"),
        ("NaN", "is JSON but no object"),
    ],
)
def test_a_bad_line_of_json_is_a_problem_of_that_line(tmp_path: Path, line: str, problem: str) -> None:
    """It costs its row and nothing else."""
    first, bad, last = read(written(tmp_path, f'{{"account":"a","points":1}}\n{line}\n{{"account":"b","points":2}}\n'))
    assert (first, last) == (ImportRow(1, "a", 1), ImportRow(3, "b", 2))
    assert bad.line == 2
    assert problem in (bad.problem or "")
    assert "; " in (bad.problem or "")


def test_a_row_of_csv_is_refused_with_line_column_and_remedy(tmp_path: Path) -> None:
    """Empty rows and cells beyond the header are passed over; what is wrong costs its row."""
    path = written(tmp_path, "account,points\nann,5\n,,\n\nbob,1.5\ncid\neve,7,,\n,9\npool:x,3\ndan,8,9\n")
    assert read(path) == [
        ImportRow(2, "ann", 5),
        ImportRow(5, "bob", problem="points: is '1.5', but points are whole numbers; write it without separators and "
                                    "decimals, as 1000"),
        ImportRow(6, "", problem="has 1 cells where the header has 2; correct the row"),
        ImportRow(7, "eve", 7),
        ImportRow(8, "", problem="account: is empty; every row needs its account"),
        ImportRow(9, "pool:x", problem="account: is 'pool:x', a pool; name the member whose points these are"),
        ImportRow(10, "", problem="has 3 cells where the header has 2; correct the row"),
    ]  # fmt: skip


def test_opening_balances_bring_their_lots(tmp_path: Path) -> None:
    """Several lots a member, each with its id, its day of expiry and when it was earned."""
    path = written(
        tmp_path,
        "会员号,积分,有效期至,获得时间,入会时间,流水号,门店\n"
        "王小明,100,2027-12-31,2026/1/2,2020-05-06,L1,S1\n"
        "王小明,50,永久,,,L2,\n"
        "王小明,50,,,,L3,\n",
    )
    first, second, third = read(path, "opening")
    assert (first.expires_ms, first.earned_ms) == (1830297600000, 1767312000000)
    assert (first.since_ms, first.store, first.external_id) == (1588723200000, "S1", "L1")
    assert (second.expires_ms, third.expires_ms, second.store) == (NEVER_MS, None, None)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,5,2026-01-01,,x", "有效期至: is '2026-01-01', which is over"),
        ("a,5,2027-12-31,2027-11-30,x", "获得时间: is '2027-11-30', which is still to come"),
        ("a,5,2027-12-31,,", "流水号: is empty"),
        ("a,5,2027-12-31,,L0", "流水号: is 'L0', as in row 2"),
        (f"a,{MAX_POINTS},2027-12-31,,x", "积分: the file's sum is above"),
    ],
)
def test_opening_rows_that_contradict_are_refused(tmp_path: Path, row: str, problem: str) -> None:
    """Before anything is written."""
    path = written(tmp_path, f"会员号,积分,有效期至,获得时间,流水号\nann,5,2027-12-31,,L0\n{row}\n")
    _, bad = read(path, "opening")
    assert problem in (bad.problem or "")
    assert "; " in (bad.problem or "")


@pytest.mark.parametrize(
    ("header", "kind", "word"),
    [
        ("account,points,expirs_at", "credit", "'expirs_at' is unknown"),
        ("account,points,会员号", "credit", "are both account"),
        ("account,points,expires_at", "debit", "no meaning with --as debit"),
        ("account", "credit", "column points"),
        ("account,points,external_id", "opening", "column expires_at"),
        ("account,points,expires_at", "opening", "column external_id"),
    ],
)
def test_columns_are_never_passed_over_in_silence(header: str, kind: Kind, word: str) -> None:
    """A misspelt name would make points that never expire."""
    with pytest.raises(HeaderError, match=word):
        columns_of(header.split(","), kind)


def test_a_column_may_be_ignored_by_name(tmp_path: Path) -> None:
    """Said aloud; and only one that is there."""
    path = written(tmp_path, "account,phone,points\nann,138,5\n")
    assert read(path, ignored=("phone",)) == [ImportRow(2, "ann", 5)]
    with pytest.raises(HeaderError, match="no column 'fax'"):
        read(path, ignored=("fax",))


@pytest.mark.parametrize("name", ["Expires At", "expires-at", "EXPIRES_AT", "有效期至", "到期日 "])
def test_names_of_columns_are_forgiving(name: str) -> None:
    """Case, blanks, lines and brackets do not count."""
    assert field_of(name) == "expires_at"


def test_no_name_means_two_fields() -> None:
    """Each is listed once."""
    names = [name for names in FIELDS.values() for name in names]
    assert len(names) == len(set(names))
    assert all(field_of(name) for name in names)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"PK\x03\x04rest", "workbook"),
        (b"account,points\n\xff\xff\xff,1\n", "no text in"),
        (b"\x1f\x8b\x08\x00broken", "damaged"),
        (b"account,account\n", "repeated"),
        (b"account,,points\n", "empty or a repeated"),
        (b'"account,points\n', "no CSV"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(tmp_path: Path, data: bytes, word: str) -> None:
    """With what to do about it."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=word) as error:
        list(open_rows(examine(path)).rows)
    assert "; " in str(error.value)


def test_a_missing_file_and_an_unknown_encoding_are_refused(tmp_path: Path) -> None:
    """No traceback for either."""
    with pytest.raises(UnreadableError, match="check the path"):
        examine(tmp_path / "none.csv")
    with pytest.raises(UnreadableError, match="unknown"):
        examine(written(tmp_path, "account,points\n"), "klingon")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    """Packed or not, the same rows are the same file."""
    plain = written(tmp_path, "account,points\nann,5\n")
    packed = tmp_path / "points.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert examine(plain).digest == examine(packed).digest


def test_the_reader_keeps_count(tmp_path: Path) -> None:
    """Rows, problems, and the points of those without one."""
    rows = open_rows(examine(written(tmp_path, "account,points\nann,5\nbob,x\ncid,7\n")))
    reader = RowReader(Reading("credit", UTC, NOW_MS), columns_of(rows.columns or (), "credit"))
    list(reader.all(rows.rows))
    assert (reader.lines, reader.problems, reader.points) == (3, 1, 12)


@settings(max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from(["account", "points", "store", "x"]), st.text(max_size=8), max_size=4)))
def test_no_row_raises(rows: list[Mapping[str, str]]) -> None:
    """Every row comes back once, in order, whole or with a problem."""
    reader = RowReader(Reading("credit", UTC, NOW_MS), None)
    read_rows = list(reader.all(enumerate(rows, start=1)))
    assert [row.line for row in read_rows] == list(range(1, len(rows) + 1))
    assert all((row.problem is None) == (row.points > 0) for row in read_rows)
    assert json.dumps([row.problem for row in read_rows])
