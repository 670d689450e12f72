"""Every act that must be audited leaves its row in the chain: each is performed as in production, and found."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from alerts.metrics import Metrics
from cli.main import main
from ledger.adjustments import Proposal, approve, propose
from ledger.book import TIMEOUT_ACTOR
from ledger.ids import IdBlocks
from ledger.programs import load_programs, set_terms
from ledger.terms import Terms
from ledger.verify import verify
from streams import acts, quarantine, review
from streams.effects import Outgoing
from streams.kafka import ensure_topics
from streams.keys import model_key
from streams.trainer import Trainer, TrainerParams
from tests.integration.cli_ledger import PROGRAM, SECRET, Desk, event
from tests.unit.model_rows import unbounded

TOPICS = Outgoing("points.decisions", "points.alerts")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to the test's own database."""
    made = create_engine(database)
    yield made
    made.dispose()


@pytest.fixture
def desk(engine: Engine, database: str) -> Desk:
    """A ledger with two held purchases and an honest one."""
    made = Desk(engine, database)
    made.decide(
        event(1, "account.created", "m-1"),
        event(5, "earn", "m-1", points=300, channel="app"),
        event(6, "earn", "m-2", points=40),
        event(7, "earn", "m-1", points=301, channel="app"),
    )
    return made


@pytest.fixture
def run(database: str, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command on the test's database and broker; its exit code."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_KAFKA_URL", kafka)
    monkeypatch.setenv("POINTGUARD_SECRET_FILE", str(secret))
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))

    def command(*arguments: object) -> int:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return int(end.value.code or 0)

    return command


def audited(engine: Engine) -> list[dict[str, Any]]:
    """What the chain says was done, link by link."""
    with engine.connect() as conn:
        return [json.loads(entry) for entry in conn.execute(text("SELECT entry FROM audit_link")).scalars()]


def one(engine: Engine, act: str) -> dict[str, Any]:
    """The only link of an act."""
    (found,) = (link for link in audited(engine) if link["act"] == act)
    return found


def holds(engine: Engine) -> list[int]:
    """The open holds."""
    with engine.connect() as conn:
        return list(conn.execute(text("SELECT hold_id FROM hold WHERE resolved_at IS NULL ORDER BY 1")).scalars())


def test_decisions_are_audited_with_their_versions(desk: Desk, engine: Engine) -> None:
    """The batch's link covers each decision's row, which holds policy, model and feature versions."""
    link = one(engine, "batch")
    with engine.connect() as conn:
        ids = list(conn.execute(text("SELECT decision_id FROM decision ORDER BY 1")).scalars())
        versions = conn.execute(text("SELECT count(policy_version) FROM decision")).scalar_one()
    assert desk.judge.policy.policy.version
    assert (link["ids"], link["count"], versions) == ([[ids[0], ids[-1]]], len(ids), len(ids))


def test_resolutions_by_people_and_by_timers_are_audited(desk: Desk, engine: Engine, run: Callable[..., int]) -> None:
    """A person's decision with the person, a time-out with the policy; both cover the review decision they made."""
    first, second = holds(engine)
    assert run("holds", "approve", first, "--reason", "known member", "--actor", "ann") == 0
    person = one(engine, "holds.decided")
    assert person["actor"] == "ann"
    with engine.begin() as conn:
        conn.execute(text("UPDATE hold SET due_at = opened_at WHERE hold_id = :hold"), {"hold": second})
        review.decide_due(conn, IdBlocks(), TOPICS)
    timer = one(engine, "holds.timed_out")
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT hold_id, decision_id FROM review_decision")).all()
        decided = {row.hold_id: row.decision_id for row in rows}
    assert [person["ids"][0][0], timer["ids"][0][0]] == [decided[first], decided[second]]
    assert timer["actor"] == TIMEOUT_ACTOR
    assert desk.engine is engine


def test_policy_and_programme_of_a_fresh_installation_are_audited(desk: Desk, engine: Engine) -> None:
    """The default policy, by version and hash of its document; the first programme with its terms."""
    policy = one(engine, "policy.activated")
    assert policy["detail"]["version"] == desk.judge.policy.policy.version
    with engine.connect() as conn:
        digest = conn.execute(
            text("SELECT encode(sha256(convert_to(document, 'UTF8')), 'hex') FROM policy")
        ).scalar_one()
    assert policy["detail"]["sha256"] == digest
    assert one(engine, "program.created")["detail"] == {"program": "default", "mode": "live", "terms": {}}


def test_programmes_and_terms_are_audited(desk: Desk, engine: Engine, run: Callable[..., int]) -> None:
    """A new programme once, however often it is asked for; changed terms with what they were."""
    for _ in range(2):
        assert run("program", "create", "north") == 0
    assert [link["detail"]["program"] for link in audited(engine) if link["act"] == "program.created"] == [
        "default",
        "north",
    ]
    with engine.begin() as conn:
        after = Terms(expiry_days=365)
        acts.terms_changed(conn, "ann", PROGRAM, set_terms(conn, PROGRAM, after), after)
    assert one(engine, "terms.changed")["detail"] == {"program": PROGRAM, "from": {}, "to": {"expiry_days": 365}}
    assert desk.engine is engine


def test_adjustments_are_audited_by_maker_and_checker(desk: Desk, engine: Engine) -> None:
    """Who proposed what and who approved it, over the rows of both."""
    with engine.begin() as conn:
        programs = load_programs(conn)
        proposal = Proposal(PROGRAM, "m-2", 5, "goodwill", "late parcel", "mia")
        (proposed,) = propose(conn, programs, desk.ids, [proposal], wait=True)
    with engine.begin() as conn:
        approve(conn, programs, desk.ids, [proposed.adjustment_id or 0], "cai")
    made, checked = one(engine, "adjustment.proposed"), one(engine, "adjustment.approved")
    assert (made["actor"], checked["actor"]) == ("mia", "cai")
    assert made["ids"] == [[proposed.adjustment_id] * 2]
    assert made["detail"]["adjustments"][0][0] == checked["detail"]["adjustments"][0][0] == proposed.adjustment_id
    assert checked["count"] == 1


def test_replays_of_dead_letters_and_releases_are_audited(
    desk: Desk, engine: Engine, kafka: str, run: Callable[..., int]
) -> None:
    """Which letters were sent again, and which source was let out of quarantine."""
    topic = f"acts-{uuid.uuid4().hex[:8]}"
    asyncio.run(ensure_topics(kafka, [topic], 1, 1))
    desk.bury(topic, [b"one", b"two"])
    assert run("dlq", "retry", "--all") == 0
    with engine.connect() as conn:
        letters = list(conn.execute(text("SELECT id FROM dead_letter ORDER BY id")).scalars())
    assert one(engine, "dlq.retried")["detail"] == {"letters": letters}
    with engine.begin() as conn:
        quarantine.put_in(conn, ["bad-till"])
    assert run("dlq", "release", "bad-till") == 0
    assert one(engine, "source.released")["detail"] == {"source": "bad-till"}


def test_expiry_is_audited(desk: Desk, engine: Engine) -> None:
    """The job's link covers the expiring transactions; a run that finds nothing says nothing."""
    with engine.begin() as conn:
        set_terms(conn, PROGRAM, Terms(expiry_days=1))
    desk.decide(event(20, "earn", "m-3", points=10), event(3000, "earn", "m-4", points=1))
    with engine.begin() as conn:
        conn.execute(
            text("UPDATE program SET clock = clock + interval '3 days' WHERE program = :name"), {"name": PROGRAM}
        )
    for _ in range(2):
        with engine.begin() as conn:
            review.expire_lots(conn, desk.ids)
    link = one(engine, "lots.expired")
    assert (link["actor"], link["count"]) == (review.EXPIRY_ACTOR, 2)


def test_a_published_model_is_audited(desk: Desk, engine: Engine) -> None:
    """The snapshot that workers will take, by version and signature."""
    learner = unbounded(grace_rows=0, block_rows=1)
    params = TrainerParams(learner=learner, chunk_rows=1000, publish_rows=1, publish_seconds=0.0)
    with engine.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO label_pending SELECT decision_id, program, 0, 'matured', now() - interval '1 day'"
                " FROM decision WHERE features IS NOT NULL"
            )
        )
        conn.execute(text("UPDATE program SET clock = now() WHERE mode = 'simulation'"))
    trainer = Trainer(engine, model_key(SECRET), Metrics(), params)
    for second in range(5):
        trainer.step(float(second))
    published = [link for link in audited(engine) if link["act"] == "model.published"]
    with engine.connect() as conn:
        versions = list(conn.execute(text("SELECT version FROM model_snapshot ORDER BY 1")).scalars())
    assert versions
    assert [link["detail"]["version"] for link in published] == versions
    assert desk.engine is engine


def test_a_ledger_full_of_acts_is_proved(desk: Desk, engine: Engine, run: Callable[..., int]) -> None:
    """Whatever the acts wrote is covered, once."""
    for hold in holds(engine):
        assert run("holds", "reject", hold, "--reason", "fraud") == 0
    assert verify(desk.engine).ok
