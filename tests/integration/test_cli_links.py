"""`pointguard links show`, as analysts type it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from cli.errors import USAGE
from cli.main import main
from streams.link_views import totals
from tests.integration.cli_ledger import PROGRAM, SECRET, Desk, event

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database."""
    made = create_engine(database)
    yield made
    made.dispose()


@pytest.fixture
def desk(engine: Engine, database: str) -> Desk:
    """Three accounts on one phone, one with points, one referred by a fourth; an address with too many."""
    made = Desk(engine, database)
    office = [event(20 + n, "login", f"o{n}", ip="192.0.2.1") for n in range(6)]
    made.decide(
        event(1, "account.created", "m-1", device="phone"),
        event(2, "account.created", "m-2", device="phone", referrer="m-9"),
        event(3, "account.created", "m-3", device="phone", ip="192.0.2.1"),
        event(600, "earn", "m-2", points=250),
        event(601, "earn", "z", points=5),
        *office,
    )
    return made


@pytest.fixture
def run(
    desk: Desk, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the test's database; its exit code, and what it said on both outputs."""
    del desk  # what it wrote is what commands read
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_SECRET_FILE", str(secret))
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def test_the_cluster_of_a_member(run: Command) -> None:
    """Who is in it with how many points, what links them, and the address that would, if so many did not share it."""
    code, said = run("links", "show", "m-1", "--program", PROGRAM)
    assert code == 0
    assert "3 accounts belong together; 250 points are at stake." in said
    assert "m-1, m-2, m-3" in said
    assert "phone" not in said
    shared, _, hubs = said.partition("hubs: shared by too many")
    assert "device" in shared
    assert "192.0.2.1" not in said
    assert ("ip" in hubs, "m-3" in hubs, "or more" in hubs) == (True, True, True)


def test_the_cluster_for_machines(run: Command, engine: Engine) -> None:
    """The same as JSON, with who is flagged and why."""
    with engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO link_flag SELECT account_id, 'review' FROM account WHERE name = 'm-3' AND kind = 'member'"
            )
        )
        conn.execute(text("UPDATE account SET open_holds = 1 WHERE name = 'm-2' AND kind = 'member'"))
    code, said = run("links", "show", "m-2", "--program", PROGRAM, "--json")
    found = json.loads(said)
    assert (code, found["accounts"], found["points_at_stake"]) == (0, 3, 250)
    members = {one["account"]: one for one in found["cluster"]["members"]}
    assert {name: one["flagged"] for name, one in members.items()} == {
        "m-1": None,
        "m-2": "open hold",
        "m-3": "rejected (review)",
    }
    assert (members["m-2"]["links"], members["m-2"]["at_stake"]) == (2, 250)
    (device,) = found["cluster"]["shared"]
    assert (device["kind"], device["accounts"], device["seen_with"]) == ("device", ["m-1", "m-2", "m-3"], 3)


def test_who_is_linked_with_nobody(run: Command) -> None:
    """A member alone, and names that there are none of."""
    assert "z is linked with nobody." in run("links", "show", "z", "--program", PROGRAM)[1]
    code, said = run("links", "show", "m-99", "--program", PROGRAM)
    assert (code, "no member 'm-99'" in said) == (USAGE, True)
    assert "no programme" in run("links", "show", "m-1", "--program", "south")[1]


def test_totals(desk: Desk) -> None:
    """What the metrics show: one cluster of three, one address that is a hub."""
    with desk.engine.connect() as conn:
        found = totals(conn)
    assert (found.clusters, found.largest) == (1, 3)
    assert found.hubs == {"device": 0, "ip": 1, "payment": 0, "referrer": 0}
