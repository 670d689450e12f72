"""A policy from draft to force and back: who may do what, what the database refuses, what workers report."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from cli.main import main
from config.policy import default_policy_text
from streams import policies
from streams.policies import PolicyStepError
from streams.records import Log
from tests.integration.cli_ledger import PROGRAM, SECRET, Desk, event
from tests.integration.pipeline_desk import POLICY, open_desk
from tests.integration.test_audit_acts import audited

STRICTER = default_policy_text().replace("    limit: 60\n", "    limit: 3600\n", 1)
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database, with the default policy in force and a few decisions."""
    made = create_engine(database)
    desk = Desk(made, database)
    desk.decide(
        event(1, "account.created", "m-1"),
        event(5, "earn", "m-1", points=300),
        event(200, "earn", "m-1", points=70),
        event(201, "earn", "m-2", points=40, device="phone"),
    )
    yield made
    made.dispose()


@pytest.fixture
def run(
    engine: Engine, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the test's database; its exit code, and what it said."""
    del engine  # what it wrote is what commands read
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_SECRET_FILE", str(secret))
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


def test_the_whole_life(run: Command, engine: Engine, tmp_path: Path) -> None:
    """Draft, validate, backtest, approval by another, force, roll back; each step on record and in the audit chain."""
    file = tmp_path / "stricter.yaml"
    file.write_text(STRICTER, encoding="utf-8")
    assert run("policy", "draft", str(file), "--reason", "an hour", "--actor", "ann")[1].startswith(
        "drafted version 2;"
    )
    code, said = run("policy", "activate", "2", "--reason", "go")
    assert (code, "not approved" in said) == (2, True)
    code, said = run("policy", "approve", "2", "--reason", "go", "--actor", "bob")
    assert (code, "policy validate 2" in said) == (2, True)
    assert run("policy", "validate", "2", "--actor", "ann") == (0, "2 is a valid policy\n")
    code, said = run("policy", "approve", "2", "--reason", "go", "--actor", "bob")
    assert (code, "policy backtest 2" in said) == (2, True)
    code, said = run("policy", "backtest", "2", "--program", PROGRAM, "--actor", "ann")
    assert code == 0
    assert "3 events of trial, 410 points" in said
    assert "approve → hold" in said
    code, said = run("policy", "approve", "2", "--reason", "go", "--actor", " Ann ")
    assert (code, "let somebody else do it" in said) == (2, True)
    assert run("policy", "approve", "2", "--reason", "looks right", "--actor", "bob")[0] == 0
    assert run("policy", "activate", "2", "--reason", "monday", "--actor", "bob")[0] == 0
    _, exported = run("policy", "export")
    assert exported == STRICTER.replace("version: 1", "version: 2", 1)
    assert run("policy", "export", "1")[1] == default_policy_text()
    assert (
        run("policy", "rollback", "--reason", "too many holds", "--actor", "cai")[1] == "version 1 is in force again\n"
    )
    with engine.connect() as conn:
        assert [step.step for step in policies.steps(conn, 2)] == [
            "drafted", "validated", "backtested", "approved", "activated",
        ]  # fmt: skip
        assert [(step.step, step.actor) for step in policies.steps(conn, 1)][1:] == [("rolled_back", "cai")]
    acts = [(link["act"], link["actor"]) for link in audited(engine) if link["act"].startswith("policy.")]
    assert acts[1:] == [
        ("policy.drafted", "ann"), ("policy.validated", "ann"), ("policy.backtested", "ann"),
        ("policy.approved", "bob"), ("policy.activated", "bob"), ("policy.activated", "cai"),
    ]  # fmt: skip
    code, said = run("policy", "list")
    assert code == 0
    assert "was in force" in said
    assert "drafted" in run("policy", "show", "2")[1]


def test_the_database_itself_asks_for_two_people(engine: Engine) -> None:
    """Whatever program writes: the author can't approve, unapproved versions can't go into force, nothing changes."""
    with engine.begin() as conn:
        assert policies.draft(conn, STRICTER, "Ann", "an hour") == 2
    for change in (
        "UPDATE policy SET approved_by = 'ann ', approved_at = now() WHERE version = 2",
        "UPDATE policy SET active = NOT active",
        "UPDATE policy SET document = 'other' WHERE version = 2",
        "UPDATE policy SET author = NULL WHERE version = 2",
        "DELETE FROM policy WHERE version = 2",
        "UPDATE policy_step SET actor = 'bob'",
        "DELETE FROM policy_step",
    ):
        with pytest.raises(DBAPIError), engine.begin() as conn:
            conn.execute(text(change))
    with engine.begin() as conn:
        conn.execute(text("UPDATE policy SET approved_by = 'bob', approved_at = now() WHERE version = 2"))
    with pytest.raises(DBAPIError, match="never changes"), engine.begin() as conn:
        conn.execute(text("UPDATE policy SET approved_by = 'cai' WHERE version = 2"))


def test_mistakes_have_line_and_column(run: Command, tmp_path: Path) -> None:
    """A broken draft is kept, and refused at each step that would use it, with the place of the mistake."""
    file = tmp_path / "broken.yaml"
    broken = STRICTER.replace("velocity.account.peers_24h >= limit", "velocity.account.pears_24h >= limit")
    file.write_text(broken)
    line = 1 + broken[: broken.index("pears_24h")].count("\n")
    assert run("policy", "validate", str(file)) == (
        1,
        (
            f"line {line}, column 17: rule mule_fan_in, rules[5].expression: unknown_name: "
            "'velocity.account.pears_24h': account has no 'pears', did you mean velocity.account.peers_24h?\n"
        ),
    )
    assert run("policy", "draft", str(file), "--reason", "r", "--actor", "ann")[0] == 0
    assert run("policy", "validate", "2", "--actor", "ann")[0] == 1
    code, said = run("policy", "approve", "2", "--reason", "r", "--actor", "bob")
    assert (code, "does not compile" in said) == (2, True)
    file.write_text("rules: [")
    assert run("policy", "draft", str(file), "--reason", "r")[0] == 2
    assert run("policy", "draft", str(tmp_path), "--reason", "r")[0] == 2


def test_a_backtest_over_nothing_does_not_count(run: Command, tmp_path: Path) -> None:
    """Where events are stored, approval asks for a backtest that looked at some."""
    file = tmp_path / "policy.yaml"
    file.write_text(STRICTER)
    run("policy", "draft", str(file), "--reason", "r", "--actor", "ann")
    run("policy", "validate", "2")
    assert run("policy", "backtest", "2", "--from", "2001-01-01", "--to", "2001-01-02")[0] == 0
    code, said = run("policy", "approve", "2", "--reason", "r", "--actor", "bob")
    assert (code, "over no events" in said) == (2, True)
    assert run("policy", "backtest", "2")[0] == 0
    assert run("policy", "approve", "2", "--reason", "r", "--actor", "bob")[0] == 0


def test_a_list_that_nobody_made_is_a_mistake(run: Command, tmp_path: Path) -> None:
    """A rule that reads it would never fire; a version is valid once the list is there."""
    file = tmp_path / "policy.yaml"
    document = STRICTER.replace("velocity.account.peers_24h >= limit", "lists.block == 0 && lists.vips > 0.0")
    file.write_text(document)
    line = 1 + document[: document.index("lists.vips")].count("\n")
    run("policy", "draft", str(file), "--reason", "r", "--actor", "ann")
    code, said = run("policy", "validate", "2")
    assert (code, said.startswith(f"line {line}, column 37: rule mule_fan_in, rules[5].expression: unknown_list")) == (
        1,
        True,
    )
    assert run("lists", "create", "vips", "--reason", "guests")[0] == 0
    assert run("policy", "validate", "2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("policy", "show", "9"), "policy list"),
        (("policy", "activate", "9", "--reason", "r"), "policy list"),
        (("policy", "activate", "1", "--reason", "r"), "nothing is to do"),
        (("policy", "rollback", "--reason", "r"), "activate one that is approved"),
        (("policy", "rollback", "--reason", " "), "for the record"),
        (("policy", "approve", "1", "--reason", "r"), "no approval"),
        (("policy", "resume-rule", "rapid_repeat", "--reason", "r"), "policy list"),
        (("policy", "templates", "nothing"), "policy templates"),
        (("backtest", "nothing.yaml"), "give a policy file"),
        (("backtest", "1", "--from", "yesterday"), "2026-03-01"),
        (("backtest", "1", "--from", "2026-03-02", "--to", "2026-03-01"), "give --from below --to"),
        (("lists", "add", "block", "account", "m-1", "--program", "other", "--reason", "r"), "program list"),
        (("lists", "add", "block", "ip", "::ffff:203.0.113.0/120", "--reason", "r"), "203.0.113.0/24"),
        (("lists", "create", "vip", "--tier", "vip", "--reason", "r"), "there is no such tier"),
        (("lists", "create", "vip", "--reason", " "), "say who does it, and why"),
        (("lists", "remove", "1", "--reason", " "), "say who does it, and why"),
        (("snooze", "add", "rapid_repeat", "account", "m-1", "--program", "other", "--reason", "r"), "program list"),
        (("snooze", "end", "1", "--reason", " "), "say who does it, and why"),
    ],
)
def test_what_cannot_be_done_says_what_can(run: Command, arguments: tuple[str, ...], remedy: str) -> None:
    """Two lines and the exit code of a wrong request."""
    code, said = run(*arguments)
    assert (code, remedy in said) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("policy", "validate"),
        ("policy", "draft", "--reason", "r"),
        ("backtest",),
        ("lists", "import", "watch", "--reason", "r"),
    ],
)
def test_a_file_that_is_no_text_is_refused_in_words(run: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """One of another encoding is no defect of ours; neither is a digit that is no number, nor a cell without an end."""
    file = tmp_path / "file"
    for content in ("version: 1 # 拦截".encode("gb18030"), b'kind,value\naccount,"' + 200_000 * b"x"):
        file.write_bytes(content)
        code, said = run(*arguments, str(file))
        assert (code > 0, "Traceback" in said) == (True, False)
    assert run("policy", "validate", "²")[0] == 2


def test_lists_and_snoozes_by_command(run: Command, tmp_path: Path) -> None:
    """Add, show, import, remove; snooze, list, end; an entity is found by its value though it is stored hidden."""
    assert run("lists", "add", "block", "device", "bad phone", "--reason", "farm")[1].startswith(
        "entry 1 of list block"
    )
    assert "already" in run("lists", "add", "block", "device", "bad phone", "--reason", "farm")[1]
    said = run("lists", "show", "--kind", "device", "--value", "bad phone")[1]
    assert "farm" in said
    assert "bad phone" not in said
    assert run("lists", "show", "--kind", "device", "--value", "other")[1] == "There is none.\n"
    file = tmp_path / "list.csv"
    file.write_text("kind,value\nip,203.0.113.0/24\naccount,m-9\n")
    assert run("lists", "import", "watch", str(file), "--reason", "tip")[1] == "2 of 2 rows are new on list watch\n"
    assert run("lists", "import", "watch", str(file), "--reason", "tip")[1] == "0 of 2 rows are new on list watch\n"
    file.write_text("kind,value\nstore,s-1\nstore,s-1\naccount,m-9\n")
    assert run("lists", "import", "watch", str(file), "--reason", "tip")[1] == "1 of 3 rows are new on list watch\n"
    file.write_text("kind,value\nip,nonsense\n")
    code, said = run("lists", "import", "watch", str(file), "--reason", "tip")
    assert (code, "line 2" in said) == (2, True)
    file.write_text("kind,value\naccount,m\0\n")
    assert run("lists", "import", "watch", str(file), "--reason", "tip")[0] == 2
    assert run("lists", "create", "vip", "--reason", "guests")[0] == 0
    assert "203.0.113.0/24" in run("lists", "show", "watch")[1]
    assert "guests" in run("lists", "show")[1]
    assert run("lists", "remove", "1", "--reason", "mistake")[0] == 0
    assert "mistake" in run("lists", "show", "--entry", "1")[1]
    assert run("lists", "show", "--kind", "ip")[0] == 2
    assert run("snooze", "add", "rapid_repeat", "account", "m-1", "--reason", "tester", "--days", "180")[0] == 0
    assert run("snooze", "add", "nothing", "account", "m-1", "--reason", "tester")[0] == 2
    assert "m-1" in run("snooze", "list")[1]
    assert run("snooze", "end", "1", "--reason", "done")[0] == 0
    assert run("snooze", "list")[1] == "Nothing is snoozed.\n"
    assert "daily_cap" in run("policy", "templates")[1]
    assert run("policy", "templates", "daily_cap")[1].startswith("# ")


def test_workers_report_what_they_use_and_refuse(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved, in force and loaded are three states: a version that a worker refuses is in force and not used."""
    with open_desk(database, redis_url, tmp_path) as desk:
        catalog = desk.stages.catalog
        catalog.refresh()
        broken = POLICY.replace("version: 1", "version: 2").replace("event.points >= limit", "event.points >>")
        with desk.engine.begin() as conn:
            policies.draft(conn, broken, "ann", "r")
            conn.execute(text("UPDATE policy SET approved_by = 'bob', approved_at = now() WHERE version = 2"))
            with pytest.raises(PolicyStepError, match="does not compile"):
                policies.activate(conn, 2, "bob", "r")
            # As a release would meet it that no longer knows a name.
            monkeypatch.setattr(policies, "_problems", lambda _: ())
            policies.activate(conn, 2, "bob", "r")
        catalog.refresh()
        with desk.engine.connect() as conn:
            (worker,) = policies.loaded(conn)
            newest, oldest = policies.versions(conn, 10)
        assert (worker.version, worker.refused) == (1, 2)
        assert "line 7, column 31" in worker.why
        assert (newest.active, newest.loaded, newest.refusing) == (True, 0, 1)
        assert (oldest.active, oldest.loaded, oldest.refusing) == (False, 1, 0)
        assert catalog.judge.policy.policy.version == 1
        assert desk.beside(Log("life-1", "points.requests")).stages.catalog.judge.policy.policy.version == 1
        with desk.engine.begin() as conn:
            assert policies.roll_back(conn, "bob", "it does not load") == 1
        catalog.refresh()
        with desk.engine.connect() as conn:
            assert [(row.version, row.refused) for row in policies.loaded(conn)] == [(1, None)]
