"""The commands that read and write a ledger: holds, dead letters, programmes, outcomes, and deciding again."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from sqlalchemy import Engine, create_engine, text

from cli.errors import FOUND, UNREACHABLE, USAGE, CommandError
from cli.main import main
from cli.outcomes import DEAD, Outcomes
from cli.produce import Place
from cli.redecided import check_rules, redecided
from cli.running import simulation_programme
from ledger.programs import load_programs
from streams.kafka import ensure_topics
from tests.integration.cli_ledger import LOG, PROGRAM, SECRET, SOURCE, Desk, event

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database."""
    made = create_engine(database)
    yield made
    made.dispose()


@pytest.fixture
def desk(engine: Engine, database: str) -> Desk:
    """A ledger with one sign-up whose purchase within the minute is held, and one honest earn."""
    made = Desk(engine, database)
    outcomes = made.decide(
        event(1, "account.created", "m-1"),
        event(5, "earn", "m-1", points=300, channel="app"),
        event(6, "earn", "m-2", points=40),
    )
    assert outcomes == {"e1": "noted", "e5": "hold", "e6": "approve"}
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

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def held(engine: Engine) -> int:
    """The id of the newest hold."""
    with engine.connect() as conn:
        return int(conn.execute(text("SELECT max(hold_id) FROM hold")).scalar_one())


def balances(engine: Engine, name: str) -> tuple[int, int]:
    """Posted and coming points of a member."""
    with engine.connect() as conn:
        query = text("SELECT posted_cr - posted_dr, pending_cr FROM account WHERE kind = 'member' AND name = :name")
        posted, coming = conn.execute(query, {"name": name}).one()
        return posted, coming


@pytest.mark.parametrize("actor", [" ", "policy:timeout"])
def test_a_hold_is_decided_by_a_person(run: Command, desk: Desk, actor: str) -> None:
    """Not by nobody, and not in the name of the policy, which decides by time."""
    for verdict in ("approve", "reject"):
        code, said = run("holds", verdict, held(desk.engine), "--reason", "ticket 7", "--actor", actor)
        assert (code, "name" in said) == (2, True)
    assert str(held(desk.engine)) in run("holds", "list")[1]


def test_holds_are_listed_with_their_main_reason(run: Command, desk: Desk) -> None:
    """One open hold: who, how much, since when, and why in words."""
    code, said = run("holds", "list")
    assert code == 0
    assert str(held(desk.engine)) in said
    assert re.search(r"earn 300 by m-1 in trial, since 2026-01-01 00:00, due .*\n +.*4 s after sign-up", said)
    assert "m-2" not in said


def test_reasons_are_told_in_chinese(run: Command, desk: Desk) -> None:
    """The same hold for a Chinese-speaking analyst."""
    assert "积分变动距注册仅" in run("holds", "list", "--lang", "zh")[1]
    assert "积分变动距注册仅" in run("holds", "show", held(desk.engine), "--lang", "zh")[1]


def test_a_list_can_be_narrowed(run: Command) -> None:
    """By programme, account and kind."""
    assert "m-1" in run("holds", "list", "--program", PROGRAM, "--account", "m-1", "--kind", "earn")[1]
    assert "Nothing is held" in run("holds", "list", "--kind", "redeem")[1]


def test_a_hold_is_shown_with_everything_behind_it(run: Command, desk: Desk) -> None:
    """Score, versions, balance, event and each reason with what it added."""
    code, said = run("holds", "show", held(desk.engine))
    assert code == 0
    for words in (
        "same_minute_signup",
        "+3.50",
        "policy 1, model none yet",
        "0 available, 300 coming",
        "till e5",
        "0.62",
    ):
        assert words in said


def test_an_approved_hold_is_posted_once(run: Command, desk: Desk) -> None:
    """The points arrive, the decision is on record, and the second analyst is told who was first."""
    assert balances(desk.engine, "m-1") == (0, 300)
    code, said = run("holds", "approve", held(desk.engine), "--reason", "member called", "--actor", "li.na")
    assert (code, "approved" in said) == (0, True)
    assert balances(desk.engine, "m-1") == (300, 0)
    code, said = run("holds", "reject", held(desk.engine), "--reason", "too late")
    assert code == FOUND
    assert "approved already by li.na" in said
    assert "member called" in said
    assert balances(desk.engine, "m-1") == (300, 0)
    assert "approved by li.na" in run("holds", "show", held(desk.engine))[1]


def test_a_part_of_a_hold_is_approved(run: Command, desk: Desk) -> None:
    """The part is posted and the rest released; more than is held is refused, and a part of several holds at once."""
    code, said = run("holds", "approve", held(desk.engine), "--points", "301", "--reason", "typo")
    assert (code, "fewer than 301" in said) == (FOUND, True)
    assert run("holds", "approve", held(desk.engine), 1, "--points", "5", "--reason", "which")[0] == USAGE
    code, said = run("holds", "approve", held(desk.engine), "--points", "120", "--reason", "half came back")
    assert (code, "120 points approved" in said) == (0, True)
    assert balances(desk.engine, "m-1") == (120, 0)
    assert "120 points approved by" in run("holds", "show", said.split()[1].rstrip(":"))[1]


def test_a_rejected_hold_moves_nothing(run: Command, desk: Desk) -> None:
    """The points are released, and the list is empty again."""
    assert run("holds", "reject", held(desk.engine), "--reason", "a farm")[0] == 0
    assert balances(desk.engine, "m-1") == (0, 0)
    assert "Nothing is held" in run("holds", "list")[1]


def test_a_decision_needs_a_reason_and_a_hold(run: Command, desk: Desk) -> None:
    """An empty reason is none; an unknown id is said, and what was asked beside it is done."""
    assert run("holds", "approve", held(desk.engine), "--reason", " ")[0] == USAGE
    code, said = run("holds", "approve", 1, held(desk.engine), "--reason", "fine")
    assert code == FOUND
    assert "hold 1: there is none" in said
    assert balances(desk.engine, "m-1") == (300, 0)
    assert run("holds", "show", 1)[0] == USAGE


def test_the_ledger_is_verified(run: Command, desk: Desk) -> None:
    """After holds and decisions every check agrees: exit code 0."""
    run("holds", "approve", held(desk.engine), "--reason", "fine")
    code, said = run("verify")
    assert (code, "clean" in said) == (0, True), said


def test_a_changed_balance_is_found(run: Command, desk: Desk) -> None:
    """Points that came from nowhere are named, with exit code 1."""
    with desk.engine.begin() as conn:
        conn.execute(text("UPDATE account SET posted_cr = posted_cr + 5 WHERE kind = 'member' AND name = 'm-2'"))
    code, said = run("verify")
    assert code == FOUND
    assert "m-2" in said


def test_programmes_are_created_and_listed(run: Command) -> None:
    """The mode is for life: asking for another one is refused."""
    assert run("program", "create", "north")[0] == 0
    assert run("program", "create", "north")[0] == 0
    assert run("program", "create", "north", "--simulation")[0] == USAGE
    said = run("program", "list")[1]
    assert re.search(r"north .*live", said)
    assert re.search(r"trial .*simulation .*2026-01-01 00:00", said)


def test_terms_are_given_shown_and_changed(run: Command, engine: Engine) -> None:
    """Terms at creation, some changed later with an audit act; what is wrong or for life is refused by its name."""
    assert run("program", "create", "mall", "funding=store", "expiry_days=730")[0] == 0
    code, said = run("program", "terms", "mall", "expiry_days=never", "cohorts=[[12, 900000]]", "money=EUR")
    assert (code, "((12, 900000),)" in said, "EUR" in said) == (0, True, True)
    with engine.connect() as conn:
        found = load_programs(conn)["mall"].terms
        acts = conn.execute(text("SELECT count(*) FROM audit_link WHERE chain = 'act:terms'")).scalar_one()
    assert (found.funding, found.expiry_days, found.cohorts, found.money) == ("store", None, ((12, 900_000),), "EUR")
    assert acts == 1
    for wrong, named in (("funding=program", "funding"), ("expires=3", "expires"), ("expiry_days=soon", "expiry_days")):
        code, said = run("program", "terms", "mall", wrong)
        assert (code, named in said) == (USAGE, True)
    assert run("program", "terms", "nowhere")[0] == USAGE
    assert run("program", "create", "mall", "expiry_days=5")[0] == USAGE


def test_a_replay_refuses_a_live_programme(desk: Desk) -> None:
    """Events of another time must not move points that are worth something; a new name becomes a simulation."""
    with pytest.raises(CommandError, match="live"):
        simulation_programme(desk.engine, "default")
    assert simulation_programme(desk.engine, "fresh") is None
    clock = simulation_programme(desk.engine, PROGRAM)
    assert clock is not None
    assert clock % 60_000 == 6_000


def test_migrate_brings_an_empty_database_up(
    run: Command, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables and default policy; before that a command says what is missing."""
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", empty_database)
    code, said = run("holds", "list")
    assert (code, "pointguard migrate" in said) == (UNREACHABLE, True)
    assert run("migrate")[0] == 0
    assert run("migrate")[0] == 0
    assert "Nothing is held" in run("holds", "list")[1]


def test_a_database_that_does_not_answer_is_said_in_two_lines(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, and which address to look at."""
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, said = run("holds", "list")
    assert code == UNREACHABLE
    assert len(said.strip().splitlines()) == 2
    assert "POINTGUARD_DATABASE_URL" in said


def test_outcomes_are_found_by_id_and_by_place(desk: Desk) -> None:
    """A decided event by its id, a refused one by where its record lies; what has neither is not there yet."""
    offset = desk.bury(LOG.topic, [b"{"])[0]
    outcomes = Outcomes(desk.engine, SOURCE, LOG.log_id)
    lost = Place(LOG.topic, 0, offset)
    asked = {"e5": None, "e6": Place(LOG.topic, 0, 2), "e9": lost, "e10": Place(LOG.topic, 0, 999), "e11": None}
    assert outcomes.settled(asked) == {"e5": "hold", "e6": "approve", "e9": DEAD}
    assert outcomes.decided_before() == 3
    assert list(outcomes.why_dead([lost])) == ["1 × not_json body: mend it"]


def test_a_dead_letter_of_another_log_is_not_this_events(desk: Desk) -> None:
    """Offsets begin again with each life of an embedded broker: a place counts only in its own log."""
    offset = desk.bury(LOG.topic, [b"{"])[0]
    outcomes = Outcomes(desk.engine, SOURCE, "another life")
    assert outcomes.settled({"e9": Place(LOG.topic, 0, offset)}) == {}


def test_decisions_are_made_again_with_a_rule_off(desk: Desk) -> None:
    """The early purchase is held by one rule alone: without it, it is approved; the ledger's own refusal stays."""
    assert desk.decide(event(8, "redeem", "m-2", points=500)) == {"e8": "reject"}

    def no_models(*_: object) -> None:
        raise AssertionError("no model was in use")

    found = redecided(desk.engine, SOURCE, ["same_minute_signup", "mule_fan_in"], no_models)  # type: ignore[arg-type]  # raises
    assert found["same_minute_signup"] == {"e5": "approve", "e6": "approve", "e8": "reject"}
    assert found["mule_fan_in"] == {"e5": "hold", "e6": "approve", "e8": "reject"}


def test_an_unknown_rule_is_refused_with_the_known_ones(desk: Desk) -> None:
    """Before anything is sent."""
    check_rules(desk.engine, ["same_minute_signup"])
    with pytest.raises(CommandError) as refused:
        check_rules(desk.engine, ["nonsense"])
    assert "same_minute_signup" in refused.value.remedy


def test_dead_letters_are_listed_and_opened_on_request(run: Command, desk: Desk, tmp_path: Path) -> None:
    """The list and `show` never show content; --raw does, with the secret it was sealed with."""
    desk.bury(LOG.topic, [b'{"phone": "555"'])
    code, said = run("dlq", "list")
    assert code == 0
    assert "not_json" in said
    assert "mend it" in said
    assert "555" not in said + run("dlq", "show", 1)[1]
    said = run("dlq", "show", 1, "--raw")[1]
    assert '{"phone": "555"' in said
    assert "header h" in said
    (tmp_path / "secret").write_bytes(b"1" * 64)
    code, said = run("dlq", "show", 1, "--raw")
    assert (code, "secret" in said) == (UNREACHABLE, True)
    assert run("dlq", "show", 99)[0] == USAGE


def test_dead_letters_are_sent_again_as_they_came(
    run: Command, desk: Desk, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same topic, key, headers and bytes, in their order, once; what was retried is not sent a second time."""
    topic = f"retry-{uuid.uuid4().hex[:8]}"
    asyncio.run(ensure_topics(kafka, [topic], 1, 1))
    monkeypatch.setenv("POINTGUARD_KAFKA_URL", kafka)
    desk.bury(topic, [b"one", b"two", None])
    desk.bury("elsewhere", [b"three"], error="unknown_program")
    assert run("dlq", "retry")[0] == USAGE
    code, said = run("dlq", "retry", "--all", "--error", "not_json")
    assert (code, "3 dead letters" in said) == (0, True)
    got = asyncio.run(read(kafka, topic, 3))
    assert got == [(b"k", value, (("h", b"1"),)) for value in (b"one", b"two", None)]
    assert run("dlq", "retry", 1)[0] == FOUND
    assert "0 dead letters" in run("dlq", "retry", "--all", "--error", "not_json")[1]
    said = run("dlq", "list")[1]
    assert "unknown_program" in said
    assert "not_json" not in said
    assert "not_json" in run("dlq", "list", "--retried")[1]


async def read(kafka: str, topic: str, count: int) -> list[tuple[bytes | None, bytes | None, tuple[object, ...]]]:
    """The first records of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        records = [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]
        return [(record.key, record.value, tuple(record.headers)) for record in records]
    finally:
        await consumer.stop()


def test_a_letter_that_cannot_be_opened_is_not_sent(
    run: Command, desk: Desk, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another secret nothing is sent and nothing is marked; the exit code says so."""
    monkeypatch.setenv("POINTGUARD_KAFKA_URL", kafka)
    desk.bury(LOG.topic, [b"one"])
    (tmp_path / "secret").write_bytes(b"1" * 64)
    code, said = run("dlq", "retry", "--all")
    assert (code, "1 could not be opened" in said) == (FOUND, True)
    assert "not_json" in run("dlq", "list")[1]


def test_a_source_is_released_from_quarantine(run: Command, desk: Desk) -> None:
    """Listed with its reason, lifted by name, once."""
    with desk.engine.begin() as conn:
        conn.execute(text("INSERT INTO quarantine (source, reason) VALUES ('bad-till', 'too many refusals')"))
    assert "bad-till is in quarantine" in run("dlq", "list")[1]
    assert run("dlq", "release", "bad-till")[0] == 0
    assert run("dlq", "release", "bad-till")[0] == USAGE


def test_lag_counts_what_is_not_committed(
    run: Command, desk: Desk, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the broker does not tell its end, a question mark, never a 0; and what else waits."""
    topic = f"lag-{uuid.uuid4().hex[:8]}"
    asyncio.run(ensure_topics(kafka, [topic], 2, 1))
    monkeypatch.setenv("POINTGUARD_KAFKA_URL", kafka)
    monkeypatch.setenv("POINTGUARD_EVENTS_TOPIC", topic)
    monkeypatch.setenv("POINTGUARD_REQUESTS_TOPIC", topic)
    monkeypatch.setenv("POINTGUARD_TRUST_END_OFFSETS", "false")
    desk.bury(topic, [b"one"])
    code, said = run("lag")
    assert code == 0
    assert re.search(rf"{topic} .*1 .*-1 .*\? .*\?", said)
    assert "Open holds: 1. Dead letters: 1." in said


def test_waiting_again_finds_what_was_decided_before(desk: Desk) -> None:
    """A second replay's events have their outcomes before they are sent: nothing waits for a worker."""
    outcomes = Outcomes(desk.engine, SOURCE, LOG.log_id)
    assert outcomes.settled(dict.fromkeys(("e1", "e5", "e6"))).keys() == {"e1", "e5", "e6"}
