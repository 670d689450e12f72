"""`pointguard member merge` and `pointguard pool`, as people type them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cli.errors import FOUND, USAGE
from cli.main import main
from ledger.verify import verify
from tests.integration.ledger_writer import Writer, earn, pool, redeem, transfer

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database."""
    with pool(database) as made:
        yield made


@pytest.fixture
def writer(engine: Engine) -> Writer:
    """The programme north with ann, who has 100 points, and bob, who owes 30."""
    made = Writer(engine)
    made.move(earn("ann", 100), redeem("bob", 30, fact=True))
    return made


@pytest.fixture
def run(
    writer: Writer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the test's database; its exit code, and what it said on both outputs."""
    del writer  # its programme is what commands need
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def test_two_members_become_one(run: Command, writer: Writer) -> None:
    """For good, with a reason on record; the second time it is told that it was done."""
    asked = ("member", "merge", "ann", "bob", "--program", "north", "--actor", "mia", "--reason", "one person")
    assert run(*asked) == (0, "ann is bob now: 70 points available.\n")
    code, said = run(*asked)
    assert (code, "was merged into another before" in said) == (USAGE, True)
    assert "was merged into bob" in run("member", "show", "ann", "--program", "north")[1]
    assert verify(writer.engine).ok


def test_merges_that_can_not_be(run: Command, writer: Writer) -> None:
    """Each says what to do; nothing changes."""
    merge = ("--program", "north", "--reason", "why not")
    assert "name the account that goes" in run("member", "merge", "ann", "ann", *merge)[1]
    assert "not have both" in run("member", "merge", "ann", "zoe", *merge)[1]
    assert "needs a reason" in run("member", "merge", "ann", "bob", "--program", "north", "--reason", " ")[1]
    assert "no programme" in run("member", "merge", "ann", "bob", "--program", "south", "--reason", "x")[1]
    writer.move(redeem("ann", 10, verdict="hold"))
    code, said = run("member", "merge", "ann", "bob", *merge)
    assert (code, "decide these holds first" in said) == (USAGE, True)
    assert verify(writer.engine).ok


def test_members_come_and_go(run: Command, writer: Writer) -> None:
    """Adding, adding again, listing with points, removing, removing again; and names that no pool can have."""
    north = ("--program", "north")
    assert run("pool", "list", *north) == (0, "There is no pool.\n")
    assert "ann may spend from the pool home" in run("pool", "add", "home", "ann", *north, "--actor", "mia")[1]
    assert "could spend already" in run("pool", "add", "home", "ann", *north)[1]
    writer.move(transfer("ann", "pool:home", 60))
    code, said = run("pool", "list", *north)
    assert code == 0
    assert all(part in said for part in ("home", "60", "ann", "mia"))
    assert run("pool", "remove", "home", "ann", *north)[0] == 0
    assert run("pool", "remove", "home", "ann", *north)[0] == FOUND
    assert "–" in run("pool", "list", *north, "--pool", "home")[1]
    assert "no pool attic" in run("pool", "list", *north, "--pool", "attic")[1]
    assert "no member 'zoe'" in run("pool", "add", "home", "zoe", *north)[1]
    assert run("pool", "add", "pool:home", "ann", *north)[0] == USAGE
    assert run("pool", "add", "x" * 124, "ann", *north)[0] == USAGE
    assert verify(writer.engine).ok
