"""The commands that look at points: members, liability, settlement, reconciliation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.errors import FOUND, USAGE
from cli.main import main
from ledger.book import Resolution
from ledger.queries import open_holds
from tests.integration.ledger_writer import START_MS, earn, pool, redeem, transfer
from tests.integration.reports_town import Town

Command = Callable[..., tuple[int, str]]
DAY_MS = 86_400_000
NORTH = ("--program", "north")


@pytest.fixture
def town(database: str) -> Iterator[Town]:
    """A town on 2023-11-14 22:13:20 UTC, where ann has two lots, a hold and a bit of history."""
    with pool(database) as engine:
        town = Town(engine, expiry_days=30, unit_value_micros=1_000_000)
        town.move(
            earn("ann", 100, store="s1", order="o1", event_id="e1"),
            earn("ann", 50, store="s2", event_id="e2", expires_ms=START_MS + 10 * DAY_MS),
        )
        town.move(redeem("ann", 30, store="s2", event_id="r1"), now_ms=START_MS + DAY_MS)
        town.move(redeem("ann", 25, verdict="hold", event_id="r2"), now_ms=START_MS + DAY_MS)
        yield town


@pytest.fixture
def run(
    town: Town, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the test's database; its exit code, and what it said on both outputs."""
    del town  # what it wrote is what commands read
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


def words(text: str) -> str:
    """The words of a table without its frame."""
    return " ".join(text.replace("│", " ").replace("┃", " ").split())


def test_a_member_is_shown(run: Command) -> None:
    """What may be spent, what expires on which day, what a hold freezes of which lot."""
    code, said = run("member", "show", "ann", *NORTH)
    assert code == 0
    for part in (
        "available 95",
        "set aside by holds 25",
        "posted 120",
        "2023-11-24 0 20 1",
        "2023-12-14 95 5 1",
        "redeem 25",
        "20 of lot 2",
    ):
        assert part in words(said)


def test_a_member_is_shown_as_of_any_time(run: Command) -> None:
    """The balance of yesterday, by the clock of where one lives."""
    assert "available 150" in words(
        run("member", "show", "ann", *NORTH, "--at", "2023-11-15T06:14", "--timezone", "Asia/Shanghai")[1]
    )
    assert "available 0" in words(run("member", "show", "ann", *NORTH, "--at", "2023-11-14")[1])


def test_machines_get_json(run: Command) -> None:
    """Every reading command has it, with figures as numbers."""
    shown = json.loads(run("member", "show", "ann", *NORTH, "--json")[1])
    assert shown["balance"]["available"] == 95
    assert shown["expiring"][0] == {"on": "2023-11-24", "points": 0, "reserved": 20, "lots": 1}
    assert shown["holds"][0]["frozen"][0]["points"] == 20
    page = json.loads(run("member", "statement", "ann", *NORTH, "--limit", 2, "--json")[1])
    assert [line["kind"] for line in page["lines"]] == ["redeem", "redeem"]
    assert page["lines"][1]["standing"]["posted"] == 120
    assert json.loads(run("member", "lots", "ann", *NORTH, "--json")[1])[0]["remaining"] == 20
    assert json.loads(run("member", "expiring", *NORTH, "--json")[1])[1]["points"] == 95
    assert json.loads(run("liability", *NORTH, "--json")[1])["face"] == 120
    assert json.loads(run("clearing", "show", *NORTH, "--json")[1])["proven"] is True


def test_a_statement_is_read_page_by_page(run: Command) -> None:
    """The newest first, each line with its cause; the last line says how to go on."""
    said = run("member", "statement", "ann", *NORTH, "--limit", 2)[1]
    for part in (
        "redeem held",
        "(+25 set aside)",
        "till r2",
        "hold",
        "till r1",
        "at s2",
        "lots 2 -30 debit",
        "older: --before 2.0",
    ):
        assert part in words(said)
    older = words(run("member", "statement", "ann", *NORTH, "--before", "2.0")[1])
    assert "order o1" in older
    assert "lots 1 +100 give" in older
    assert "newer: --after 2.0" in older
    assert "till e1" in run("member", "statement", "ann", *NORTH, "--after", "0.0", "--limit", 1)[1]
    assert "No line here." in run("member", "statement", "ann", *NORTH, "--kind", "merge")[1]


def test_decisions_are_told_with_their_words(run: Command, town: Town) -> None:
    """Who approved a hold, and why, stands in the statement."""
    with town.engine.connect() as conn:
        (hold,) = open_holds(conn)
    town.end(Resolution(hold.hold_id, "post", "li.na", "called the member"))
    assert "by li.na: called the member" in words(run("member", "statement", "ann", *NORTH)[1])


def test_lots_are_listed_in_the_order_of_use(run: Command) -> None:
    """The one that expires first comes first, with what is reserved of it."""
    said = words(run("member", "lots", "ann", *NORTH)[1])
    assert said.index("2 20 20 50") < said.index("1 100 5 100")


def test_reminders_name_who_and_how_much(run: Command, town: Town) -> None:
    """Each member and day by itself, for whoever writes the messages; reserved points are nobody's to hurry for."""
    town.move(earn("bob", 7, expires_ms=START_MS + 9 * DAY_MS), now_ms=START_MS + DAY_MS)
    said = run("member", "expiring", *NORTH, "--each", "--until", "2023-12-31")[1]
    assert said.splitlines() == ["ann  95 on 2023-12-14", "bob  7 on 2023-11-23"]
    one = json.loads(run("member", "expiring", *NORTH, "--each", "--until", "2023-11-30", "--json")[1])
    assert (one["account"], one["expiring"]["points"]) == ("bob", 7)
    assert "2023-11-24 0 20 1" in words(run("member", "expiring", "ann", *NORTH)[1])


def test_nobody_is_explained(run: Command) -> None:
    """A name that no event has named, a programme that is none, and a place that is none: what, and what to do."""
    code, said = run("member", "show", "Ann", *NORTH)
    assert code == USAGE
    assert said.startswith("error  programme 'north' has no member 'Ann'\ndo     names are compared exactly")
    assert "program list" in run("member", "lots", "ann", "--program", "nowhere")[1]
    assert "no place" in run("member", "statement", "ann", *NORTH, "--before", "x")[1]
    assert "one of them" in run("member", "statement", "ann", *NORTH, "--before", "1.0", "--after", "1.0")[1]
    assert "there is no kind x" in run("member", "statement", "ann", *NORTH, "--kind", "x")[1]
    assert "--at is" in run("member", "show", "ann", *NORTH, "--at", "yesterday")[1]


def test_a_pool_has_a_statement_too(run: Command, town: Town) -> None:
    """A pool is an account like any other."""
    town.move(transfer("ann", "pool:home", 10), now_ms=START_MS + DAY_MS)
    assert "transfer from ann" in words(run("member", "statement", "pool:home", *NORTH)[1])


def test_the_liability_is_told_in_points_and_money(run: Command) -> None:
    """Face, held and expected, with the age of the points; and how it came to that."""
    said = words(run("liability", *NORTH)[1])
    assert "posted in all 120 1.20 CNY" in said
    assert "of which set aside by holds 25 0.25 CNY" in said
    assert "expected to be redeemed, of face 1.20 CNY" in said
    moved = words(run("liability", *NORTH, "--since", "2023-11-15")[1])
    for part in ("opening 150 1.50 CNY 0", "redeemed -30 -0.30 CNY +0", "closing 120 1.20 CNY 0", "Breakage: 0 points"):
        assert part in moved
    assert run("liability", *NORTH, "--until", "2023-11-15")[0] == USAGE


def test_stores_are_settled_once(run: Command, town: Town) -> None:
    """Look, settle, look again: the run is there, and there is no second one."""
    shown = words(run("clearing", "show", *NORTH)[1])
    assert "s2 s2 redeemed 30" in shown
    assert "Proven" in shown
    town.move(redeem("ann", 80, store="s3"), now_ms=START_MS + 2 * DAY_MS)
    town.tick(START_MS + 5 * DAY_MS)
    code, said = run("clearing", "settle", *NORTH, "--until", "2023-11-18", "--actor", "ann")
    assert (code, "Settled as run 1." in said) == (0, True)
    assert "s1 s3 80 0.80 CNY" in words(said)
    assert "1 1970-01-01 00:00 2023-11-19 00:00 ann" in words(run("clearing", "runs", *NORTH)[1])
    assert "s1 s3 80 0.80 CNY" in words(run("clearing", "run", 1)[1])
    assert "settled already" in run("clearing", "settle", *NORTH, "--until", "2023-11-18")[1]
    assert "not over" in run("clearing", "settle", *NORTH, "--until", "2033-01-01")[1]
    assert run("clearing", "run", 9)[0] == USAGE


def test_a_file_is_reconciled(run: Command, tmp_path: Path) -> None:
    """What differs is counted, reported and, if asked for, proposed for somebody else to approve; once."""
    file = tmp_path / "till.csv"
    file.write_text(
        "source,id,account,points,type,time\n"
        "till,e1,ann,100,earn,2023-11-14T22:13:20Z\n"
        "till,e2,ann,60,earn,2023-11-14T22:13:20Z\n"
        "till,=x,ann,5,earn,2023-11-14T22:13:20Z\n"
        "till,e5,ann,many,earn,2023-11-14T22:13:20Z\n"
    )
    code, said = run("reconcile", file, *NORTH, "--propose", "--report", "found.csv", "--actor", "ann")
    assert code == FOUND
    for part in ("matched 1", "missing here 1", "missing there 2", "differing 1", "unreadable 1", "3 corrections wait"):
        assert part in words(said)
    with (tmp_path / "found.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = {row["event_id"]: row for row in csv.DictReader(table)}
    assert rows["e2"]["correction"] == "adjust +10 for ann"
    assert rows["'=x"]["found"] == "missing_here"
    assert rows[""]["why"].startswith("points is 'many'")
    assert len(json.loads(run("reconcile", file, *NORTH, "--json")[1])) == 6
    again = words(run("reconcile", file, *NORTH, "--propose")[1])
    assert "wait for" not in again
    assert "proposed before" in (tmp_path / "reconciliation-3.csv").read_text(encoding="utf-8-sig")
    assert "reconciliation" in run("adjust", "list", *NORTH)[1]
    assert not list(tmp_path.glob(".reconciliation-*"))


def test_balances_of_an_evening_agree(run: Command, tmp_path: Path) -> None:
    """A file of balances, in Chinese, as of the end of a day."""
    file = tmp_path / "余额.csv"
    file.write_text("会员号,积分余额\nann,120\n", encoding="gb18030")
    code, said = run("reconcile", file, *NORTH, "--at", "2023-11-15")
    assert (code, "Both sides agree." in said) == (0, True)
    code, said = run("reconcile", file, *NORTH, "--at", "2023-11-14")
    assert (code, "differing 1" in words(said)) == (FOUND, True)


def test_a_dump_of_the_topic_is_reconciled(run: Command, tmp_path: Path) -> None:
    """Our own events, as they were on the topic, with whatever else was on it."""
    common = {"source": "till", "program": "north", "account": "ann", "occurred_at": "2023-11-14T22:13:20.000Z"}
    events = [
        common | {"id": "e1", "type": "earn", "points": 100},
        common | {"id": "e2", "type": "earn", "points": 50},
        common | {"id": "r1", "type": "redeem", "points": 30, "fulfilled": True},
        common | {"id": "l1", "type": "login"},
    ]
    file = tmp_path / "dump.jsonl"
    file.write_text("\n".join(json.dumps(event) for event in events))
    said = words(run("reconcile", file, *NORTH)[1])
    assert "matched 3" in said
    assert "missing there 1" in said


def test_far_too_many_corrections_are_not_proposed(run: Command, tmp_path: Path) -> None:
    """The wrong file proposes nothing: it says that it is probably the wrong file."""
    file = tmp_path / "wrong.csv"
    file.write_text("source,id,account,points,time\n" + "".join(f"pos,x{n},m{n},5,2023-11-15\n" for n in range(9)))
    said = run("reconcile", file, *NORTH, "--propose", "--most", 5)[1]
    assert "Is this the file" in said
    assert "None is waiting" in run("adjust", "list", *NORTH)[1]
    file.write_text("a,b\n1,2\n")
    assert "no column account" in run("reconcile", file, *NORTH)[1]
