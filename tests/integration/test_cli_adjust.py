"""`pointguard adjust` and `pointguard import`, as people type them, and killed while they work."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from cli.errors import FOUND, USAGE
from cli.import_report import safe
from cli.main import main
from ledger.programs import create_program
from ledger.verify import verify

Command = Callable[..., tuple[int, str]]
WHY = ("--program", "north", "--reason", "autumn", "--maker", "mia")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database, with the live programme north."""
    made = create_engine(database)
    with made.begin() as conn:
        create_program(conn, "north", "live")
    yield made
    made.dispose()


@pytest.fixture
def run(
    engine: Engine,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command on the test's database; its exit code, and what it said on both outputs."""
    del engine  # its programme is what commands need
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def number(said: str, what: str) -> str:
    """The id that a command told."""
    found = re.search(rf"{what} (\d+)", said)
    assert found is not None, said
    return found[1]


def posted(engine: Engine) -> dict[str, int]:
    """Posted points by member."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT name, posted_cr - posted_dr FROM account WHERE kind = 'member' ORDER BY name"))
        return {row[0]: row[1] for row in rows}


def everything(engine: Engine) -> dict[str, int]:
    """How many rows each table has, and where the sequences stand."""
    with engine.connect() as conn:
        tables = conn.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        counts = {
            table: conn.execute(text(f'SELECT count(*) FROM "{table}"')).scalar_one()  # noqa: S608 -- names of ours
            for table in tables
        }
        rows = conn.execute(text("SELECT sequencename, coalesce(last_value, 0) FROM pg_sequences"))
        return counts | {row[0]: row[1] for row in rows}


def written(folder: Path, text_: str, encoding: str = "utf-8") -> Path:
    """A file with that text."""
    path = folder / "points.csv"
    path.write_bytes(text_.encode(encoding))
    return path


def rows_in(path: Path) -> list[dict[str, str]]:
    """The rows of a result file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_adjustment_is_posted_a_large_one_approved_by_another(run: Command, engine: Engine) -> None:
    """With reason codes and an expiry; negative points need no tricks of the shell."""
    code, said = run("adjust", "propose", "ann", "1,000", *WHY, "--code", "goodwill")
    assert (code, "--create-member" in said) == (FOUND, True)
    code, said = run(
        *("adjust", "propose", "ann", "１，０００", *WHY, "--code", "goodwill", "--create-member"),
        *("--expires", "2099-12-31", "--timezone", "Asia/Shanghai"),
    )
    assert (code, "+1,000 for ann, posted" in said) == (0, True)
    code, said = run("adjust", "propose", "ann", "-400", *WHY, "--code", "correction")
    assert (code, posted(engine)) == (0, {"ann": 600})
    code, said = run("adjust", "propose", "ann", "20000", *WHY, "--code", "dispute")
    big = number(said, "adjustment")
    assert (code, "waits for a checker" in said) == (0, True)
    assert run("adjust", "approve", big, "--checker", "Mia")[0] == FOUND
    code, said = run("adjust", "list")
    assert (code, "+20,000" in said, "waiting" in said) == (0, True, True)
    assert run("adjust", "approve", big, "--checker", "joe")[0] == 0
    assert run("adjust", "reject", big, "--checker", "joe", "--reason", "late")[0] == FOUND
    assert "None is waiting" in run("adjust", "list")[1]
    assert "approved by joe" in run("adjust", "list", "--state", "all")[1]
    assert posted(engine) == {"ann": 20_600}
    assert verify(engine).ok


@pytest.mark.parametrize(
    ("points", "rest", "word"),
    [
        ("1.5", ["--code", "other"], "whole numbers"),
        ("-", ["--code", "other"], "empty"),
        ("5", ["--code", "mood"], "goodwill"),
        ("5", ["--code", "other", "--expires", "2020-01-01"], "is over"),
        ("5", ["--code", "other", "--timezone", "Mars"], "Asia/Shanghai"),
        ("-5", ["--code", "other", "--expires", "2099-01-01"], "do not expire"),
    ],
)
def test_a_wrong_adjustment_says_what_to_do(run: Command, points: str, rest: list[str], word: str) -> None:
    """Two lines, exit code 2."""
    code, said = run("adjust", "propose", "ann", points, *WHY, "--create-member", *rest)
    assert (code, word in said) == (USAGE, True), said


def test_an_import_from_start_to_end(run: Command, engine: Engine, tmp_path: Path) -> None:
    """Chinese, GB18030, a dry run that writes nothing, the import, a result for every row, and the same file again."""
    with engine.begin() as conn:
        conn.execute(text("""UPDATE program SET terms = '{"expiry_days": 365}'"""))
    file = written(
        tmp_path,
        '会员号,积分,有效期至,流水号\n王小明,"1,200",2099-12-31,L1\n王小明,３００,永久,L2\n=李雷,50,,L3\n',
        "gb18030",
    )
    told = ("import", file, *WHY, "--as", "opening", "--system", "old-crm", "--timezone", "Asia/Shanghai")
    before = everything(engine)
    code, said = run(*told, "--dry-run", "--results", tmp_path / "dry.csv")
    assert (code, "gb18030" in said, "2 members would be new" in said, "Nothing was written" in said) == (0,) + (
        True,
    ) * 3
    assert everything(engine) == before
    dry = rows_in(tmp_path / "dry.csv")
    code, said = run(*told)
    assert code == 0, said
    job = number(said, "import")
    done = rows_in(tmp_path / f"import-{job}-results.csv")
    assert [(row["row"], row["account"], row["points"], row["code"]) for row in done] == [
        ("2", "王小明", "1200", "posted"),
        ("3", "王小明", "300", "posted"),
        ("4", "'=李雷", "50", "posted"),
    ]
    assert [row | {"txn_id": ""} for row in done] == dry
    assert all(int(row["txn_id"]) > 0 for row in done)
    code, said = run(*told)
    assert (code, "already" in said) == (0, True)
    assert posted(engine) == {"=李雷": 50, "王小明": 1500}
    assert f"import {job}" in run("import", "show", job)[1]
    assert "finished" in run("import", "list")[1]
    assert verify(engine).ok


def test_a_file_with_rows_that_cannot_be_read_is_kept_out(run: Command, engine: Engine, tmp_path: Path) -> None:
    """Row, column and remedy for each; the others go in when that is asked for."""
    file = written(tmp_path, "account,points\nann,5\nbob,1.5\ncid,\n")
    told = ("import", file, *WHY, "--create-members")
    before = everything(engine)
    code, said = run(*told, "--results", tmp_path / "bad.csv")
    assert (code, "row 3  points: is '1.5'" in said, "2 of 3 rows" in said) == (USAGE, True, True)
    assert everything(engine) == before
    assert [row["row"] for row in rows_in(tmp_path / "bad.csv")] == ["3", "4"]
    code, said = run(*told, "--skip-invalid", "--results", tmp_path / "all.csv")
    assert (code, posted(engine)) == (FOUND, {"ann": 5})
    assert [row["code"] for row in rows_in(tmp_path / "all.csv")] == ["posted", "invalid", "invalid"]
    assert "points: is '1.5'" in rows_in(tmp_path / "all.csv")[1]["reason"]


def test_a_large_import_waits_for_a_checker(run: Command, engine: Engine, tmp_path: Path) -> None:
    """Its maker is none; rejected, it says so; with a label it is another import."""
    file = written(tmp_path, "account,points\nann,6000\nbob,6000\n")
    told = ("import", file, *WHY, "--create-members")
    code, said = run(*told, "--dry-run")
    assert "a checker would have to approve" in said
    code, said = run(*told)
    job = number(said, "approve")
    assert (code, posted(engine)) == (0, {})
    assert run("import", "approve", job, "--checker", "mia")[0] == USAGE
    assert run("import", "reject", job, "--checker", "joe", "--reason", "twice")[0] == 0
    code, said = run(*told)
    assert (code, "was rejected by joe" in said) == (0, True)
    code, said = run(*told, "--label", "again")
    job = number(said, "approve")
    assert run("import", "approve", job, "--checker", "joe")[0] == 0
    assert run("import", "resume", job)[0] == 0
    assert posted(engine) == {"ann": 6000, "bob": 6000}
    assert verify(engine).ok


@pytest.mark.parametrize(
    ("content", "rest", "word"),
    [
        ("account,points\n", [], "no row to import"),
        ("account,pts\nann,5\n", [], "'pts' is unknown"),
        ("account,points,external_id\nann,5,A\n", [], "--system NAME"),
        ("account,points\nann,5\n", ["--as", "opening"], "--system NAME"),
        ("account,points\nann,5\n", ["--code", "mood"], "goodwill"),
        ("account,points\nann,5\n", ["--program", "south"], "program list"),
        ("account,points\nann,5\n", ["--encoding", "klingon"], "utf-8"),
    ],
)
def test_a_wrong_import_says_what_to_do(
    run: Command, engine: Engine, tmp_path: Path, content: str, rest: list[str], word: str
) -> None:
    """Two lines, exit code 2, nothing written."""
    before = everything(engine)
    code, said = run("import", written(tmp_path, content), *WHY, *rest)
    assert (code, word in said) == (USAGE, True), said
    assert everything(engine) == before


@pytest.mark.parametrize("command", [("approve", 77, "--checker", "joe"), ("show", 77), ("resume", 77)])
def test_an_import_that_is_not_there(run: Command, command: tuple[object, ...]) -> None:
    """The remedy is the list."""
    code, said = run("import", *command)
    assert (code, "import list" in said) == (USAGE, True)


def test_killed_at_any_time_an_import_posts_every_row_once(engine: Engine, database: str, tmp_path: Path) -> None:
    """Kill -9 again and again, while it stages and while it posts, and the same command again each time."""
    members, lines, kills = 400, 12_000, 8
    file = written(
        tmp_path, "account,points\n" + "".join(f"m{line % members},{line % 9 + 1}\n" for line in range(lines))
    )
    with engine.begin() as conn:
        conn.execute(text("""UPDATE program SET terms = '{"adjust_limit": 1000000}'"""))
    told = [sys.executable, "-m", "cli.main", "import", str(file), *WHY, "--create-members"]
    environment = {
        **os.environ,
        "POINTGUARD_DATABASE_URL": database,
        "POINTGUARD_DATA_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    seen = set[int]()
    for kill in range(kills):
        process = subprocess.Popen(
            told, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline, start = time.monotonic() + 60, max(seen, default=0)
        # The first two die while they read and stage; the others once they have posted something.
        while kill >= 2 and _results(engine) <= start and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.8 if kill < 2 else 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(_results(engine))
    assert len(seen) >= 4, f"too few of the kills hit a posting: {seen}"
    last = subprocess.run(told, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert last.returncode == 0, last.stderr
    expected = {f"m{member}": sum(line % 9 + 1 for line in range(member, lines, members)) for member in range(members)}
    assert posted(engine) == expected
    assert _results(engine) == lines
    assert verify(engine).ok


def test_a_cell_of_a_result_file_is_no_formula() -> None:
    """A spreadsheet would run it; a phone number stays one."""
    assert [safe(cell) for cell in ("=1+1", "@x", "-1+2", "+8613800138000", "-5", "ann")] == [
        "'=1+1",
        "'@x",
        "'-1+2",
        "+8613800138000",
        "-5",
        "ann",
    ]


def _results(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(conn.execute(text("SELECT count(*) FROM import_result")).scalar_one())
