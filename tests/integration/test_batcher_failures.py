"""What the batcher does when something fails: wait, bury one record, drop what is not ours, or end the process."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from alerts.metrics import COMMITS, DEAD_LETTERS, READY
from streams import exits, inbox, pipeline
from streams.quarantine import QuarantineLimits, SourceHealth
from streams.velocity_store import RedisVelocityStore
from tests.integration.batcher_rig import Rig, make_rig
from tests.integration.pipeline_desk import Desk, event

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def rig(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A batcher on the desk's stages."""
    return make_rig(desk, monkeypatch)


def commits(desk: Desk, result: str) -> float:
    """How many batches ended so, by the metric."""
    return float(desk.metrics.counter(COMMITS, desk.log.topic, result)._value.get())


def spy(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, before: Callable[..., Any]) -> None:
    """Call `before` with the arguments of a method ahead of each call."""
    real = getattr(target, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, called)


def test_acks_follow_the_commit_in_order(desk: Desk, rig: Rig) -> None:
    """Each record batch is acked once, in order, and never before the progress row has reached its end."""
    batches = [rig.batch(desk.part.records(event(), event(), event())) for _ in range(8)]
    rig.max_records = 7
    rig.run(*batches)
    assert [last for last, _ in rig.acks] == [2, 5, 8, 11, 14, 17, 20, 23]
    assert all(progress >= last for last, progress in rig.acks)
    assert (desk.count("decision"), rig.ownership.committed, rig.pulse.work) == (24, {0: 23}, 0)


def test_a_backend_that_is_killed_in_the_transaction(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_terminate_backend in the middle: the batch waits, is tried again and is committed once."""
    killed: list[int] = []

    def kill_once(conn: Any, *_: Any) -> None:
        if not killed:
            killed.append(conn.execute(text("SELECT pg_backend_pid()")).scalar_one())
            desk.one("SELECT pg_terminate_backend(:pid, 5000)", pid=killed[0])

    spy(monkeypatch, desk.stages.pipeline._parts.poster, "post", kill_once)
    ready: list[float] = []
    spy(monkeypatch, desk.stages.pipeline, "answered", lambda: ready.append(_ready(desk, "postgresql")))
    rig.run(rig.batch(desk.part.records(event(), event())))
    assert (len(killed), commits(desk, "retried"), commits(desk, "committed"), rig.exits) == (1, 1, 1, [])
    assert (ready[-1], _ready(desk, "postgresql")) == (0.0, 1.0)
    assert (desk.balance("ann"), desk.count("decision")) == (200, 2)
    desk.verified()


def _ready(desk: Desk, dependency: str) -> float:
    return float(desk.metrics.gauge(READY, dependency)._value.get())


def test_a_lock_that_is_held_too_long(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock time-out is waited out: nothing is acked while somebody holds the row, one commit follows."""
    short = text(pipeline._BEGIN.text.replace("'5s'", "'20ms'"))
    monkeypatch.setattr(pipeline, "_BEGIN", short)
    holder = desk.engine.connect()
    holder.execute(text("SELECT 1 FROM partition_progress FOR UPDATE"))
    waited: list[int] = []

    def release(_dependency: str) -> None:
        waited.append(len(rig.acks))
        if len(waited) == 2:
            holder.rollback()

    spy(monkeypatch, desk.stages.pipeline, "waiting", release)
    rig.run(rig.batch(desk.part.records(event())))
    holder.close()
    assert (waited[:2], commits(desk, "committed"), desk.count("decision")) == ([0, 0], 1, 1)


def test_a_deadlock_is_tried_again(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that PostgreSQL chose as a deadlock's victim is run again as it was."""
    failures = [psycopg.errors.DeadlockDetected(), psycopg.errors.SerializationFailure()]

    def fail(*_: Any) -> None:
        if failures:
            raise OperationalError("COMMIT", {}, failures.pop())

    spy(monkeypatch, inbox, "advance", fail)
    rig.run(rig.batch(desk.part.records(event(), event("redeem", points=1))))
    assert (commits(desk, "retried"), commits(desk, "committed"), desk.balance("ann")) == (2, 1, 99)
    desk.verified()


def test_a_lost_reply_to_commit(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed, but the reply never came: the same transaction again finds progress made and posts nothing."""
    real, lost = desk.stages.pipeline.commit, [True]

    def commit(prepared: pipeline.Prepared) -> pipeline.Committed:
        done = real(prepared)
        if lost:
            lost.pop()
            raise OperationalError("COMMIT", {}, psycopg.OperationalError("server closed the connection"))
        return done

    monkeypatch.setattr(desk.stages.pipeline, "commit", commit)
    rig.run(rig.batch(desk.part.records(event(), b"{", event())))
    assert (len(rig.acks), desk.count("decision"), desk.count("dead_letter"), desk.balance("ann")) == (1, 2, 1, 200)
    assert desk.count("outbox") == 3
    desk.verified()


def test_one_event_that_violates_a_check(desk: Desk, rig: Rig) -> None:
    """A record the database refuses is buried alone, in the transaction that passes it; the others are posted."""
    with desk.engine.begin() as conn:
        conn.execute(text("ALTER TABLE decision ADD CONSTRAINT no_poison CHECK (event_id <> 'poison')"))
    first = desk.part.records(event(id="e-0"), event(id="poison", account="secret-account"), event("redeem", id="e-2"))
    rig.run(rig.batch(first), rig.batch(desk.part.records(event(id="e-3"))))
    assert desk.outcomes() == dict.fromkeys(("e-0", "e-2", "e-3"), ("approve", "posted"))
    letter = desk.rows("SELECT * FROM dead_letter")[0]
    assert (letter.error, letter.offset, letter.source, letter.event_id) == ("processing_failed", 1, "pos", "poison")
    assert "no_poison" in letter.detail
    assert "secret-account" not in letter.detail
    assert ([last for last, _ in rig.acks], rig.ownership.committed, rig.exits) == ([2, 3], {0: 3}, [])
    assert desk.metrics.counter(DEAD_LETTERS, desk.log.topic, "processing_failed")._value.get() == 1
    assert [alert["error"] for alert in desk.said("points.alerts")] == ["processing_failed"]
    desk.verified()


def test_one_event_that_our_code_cannot_post(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a defect of ours; the letter names the place, never the data."""

    def fail(_conn: Any, arrivals: Any, *_: Any) -> None:
        if any(arrival.event.id == "poison" for arrival in arrivals.events):
            raise KeyError("secret-account")

    spy(monkeypatch, desk.stages.pipeline._parts.poster, "post", fail)
    twice = event(id="e-2")
    rig.run(rig.batch(desk.part.records(event(id="e-0"), event(id="poison"), b"{", twice, twice)))
    assert desk.outcomes() == dict.fromkeys(("e-0", "e-2"), ("approve", "posted"))
    letters = {row.offset: row.error for row in desk.rows("SELECT * FROM dead_letter")}
    assert letters == {1: "processing_failed", 2: "not_json"}
    detail = desk.one("SELECT detail FROM dead_letter WHERE error = 'processing_failed'")
    assert detail.startswith("KeyError at test_batcher_failures.py:")
    assert (commits(desk, "split"), desk.count("event_duplicate"), desk.progress()) == (1, 1, 4)
    desk.verified()


def test_one_record_that_our_code_cannot_read(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that makes decoding itself fail is refused alone, too, and the worker goes on."""

    def fail(record: Any, _circumstances: Any) -> None:
        if b"poison" in (record.value or b""):
            raise RecursionError("secret-account")

    spy(monkeypatch, pipeline, "read", fail)
    rig.run(rig.batch(desk.part.records(event(id="e-0"), event(id="poison"), event(id="e-2"))))
    assert desk.outcomes() == dict.fromkeys(("e-0", "e-2"), ("approve", "posted"))
    letter = desk.rows('SELECT "offset", error, detail FROM dead_letter')[0]
    assert (letter.offset, letter.error) == (1, "processing_failed")
    assert "secret" not in letter.detail
    assert (len(rig.acks), rig.exits) == (1, [])


def test_failures_in_a_row_end_the_worker(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """When record after record fails, the fault is ours: the process ends instead of burying everything, un-acked."""
    desk.stages.pipeline._health = SourceHealth(QuarantineLimits(failures_in_row=3))
    spy(monkeypatch, desk.stages.pipeline._parts.poster, "post", lambda *_: 1 / 0)
    rig.run(rig.batch(desk.part.records(*(event() for _ in range(10)))))
    assert (rig.exits[0], rig.acks, desk.count("dead_letter"), desk.progress()) == (exits.FAULT, [], 3, 2)


def test_the_store_is_away(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Redis nothing is committed or acked, readiness says so, and the batch goes on when Redis is back."""
    observer, seen = desk.stages.observer, []
    there, away = observer._store, RedisVelocityStore.connect(NOBODY, None)
    observer._store = away

    def back(dependency: str) -> None:
        seen.append((dependency, len(rig.acks), desk.count("event_inbox")))
        if len(seen) == 2:
            observer._store = there

    spy(monkeypatch, desk.stages.pipeline, "waiting", back)
    rig.run(rig.batch(desk.part.records(event("redeem"), event())))
    desk.run(away.close())
    assert seen == [("redis", 0, 0), ("redis", 0, 0)]
    assert (commits(desk, "committed"), _ready(desk, "redis"), len(rig.acks)) == (1, 1.0, 1)
    assert desk.count("decision") == 2


def test_late_requests_need_no_store(desk: Desk, rig: Rig) -> None:
    """While Redis is away, requests that nobody waits for any more are answered `expired`; the rest waits."""
    observer, away = desk.stages.observer, RedisVelocityStore.connect(NOBODY, None)
    there, observer._store = observer._store, away
    late = [event("redeem", id=f"r-{number}", decide_by="2026-03-01T02:00:01Z") for number in range(3)]
    rig.run(rig.batch(desk.part.records(*late[:2], b"{")))
    assert desk.outcomes() == dict.fromkeys(("r-0", "r-1"), ("expired", "expired"))
    assert (len(rig.acks), desk.count("dead_letter"), commits(desk, "retried")) == (1, 1, 0)
    mixed = rig.batch(desk.part.records(late[2], event(id="e-1")))
    rig.run(mixed, until=lambda: commits(desk, "retried") >= 2)
    observer._store = there
    desk.run(away.close())
    assert (len(rig.acks), desk.progress(), len(desk.outcomes())) == (1, 2, 2)


def test_a_fault_of_the_installation_buries_nothing(desk: Desk, rig: Rig) -> None:
    """A table that is missing is no event's doing: the worker stays down instead of burying everything."""
    with desk.engine.begin() as conn:
        conn.execute(text("ALTER TABLE label_pending RENAME TO label_elsewhere"))
    rig.run(rig.batch(desk.part.records(event(), event())))
    assert (rig.exits[0], rig.acks, desk.progress()) == (exits.FAULT, [], -1)
    assert set(desk.effects().values()) == {0}
    assert exits.FAULT in exits.STAY_DOWN


def test_a_batch_that_takes_too_long_is_cut_up(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statement time-outs again and again: after some tries record by record, where each one passes."""

    def slow(_conn: Any, arrivals: Any, *_: Any) -> None:
        if len(arrivals.events) > 1:
            raise OperationalError("INSERT", {}, psycopg.errors.QueryCanceled())

    spy(monkeypatch, desk.stages.pipeline._parts.poster, "post", slow)
    rig.run(rig.batch(desk.part.records(event(), event(), event())))
    assert (commits(desk, "retried"), commits(desk, "split"), commits(desk, "committed")) == (3, 1, 3)
    assert (desk.balance("ann"), desk.count("dead_letter"), len(rig.acks), rig.exits) == (300, 0, 1, [])


def test_a_batch_of_a_partition_that_was_taken_over(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fenced after a rebalance: dropped without an ack; what comes under the new epoch is committed."""
    records = desk.part.records(event(id="e-0"), event(id="e-1"))

    def lose(*_: Any) -> None:
        if rig.ownership.epochs[0] == 1:
            desk.claim(0)
            rig.ownership.release()
            rig.take(0)

    spy(monkeypatch, inbox, "fence", lose)
    rig.run(rig.batch(records), until=lambda: commits(desk, "fenced") > 0)
    assert (rig.acks, desk.count("decision"), rig.exits, rig.pulse.work) == ([], 0, [], 0)
    rig.run(rig.batch(records))
    assert (len(rig.acks), desk.count("decision")) == (1, 2)


def test_a_partition_that_somebody_else_claimed(desk: Desk, rig: Rig) -> None:
    """Fenced although no rebalance was told of: two workers run under one name, so this one ends."""
    desk.claim(0)
    desk.epochs[0] -= 1
    rig.take(0)
    rig.run(rig.batch(desk.part.records(event())))
    assert (rig.exits[0], rig.acks, desk.count("decision")) == (exits.FENCED, [], 0)


def test_waiting_ends_with_ownership(desk: Desk, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that waits for PostgreSQL is dropped as soon as its partition is gone; it comes to the next owner."""
    spy(monkeypatch, inbox, "fence", _down)
    spy(monkeypatch, desk.stages.pipeline, "waiting", lambda _dependency: rig.ownership.release())
    rig.run(rig.batch(desk.part.records(event())), until=lambda: commits(desk, "retried") > 0 and rig.pulse.work == 0)
    assert (rig.acks, rig.exits, commits(desk, "retried")) == ([], [], 1)


def _down(*_: Any) -> None:
    raise OperationalError("SELECT", {}, psycopg.OperationalError("connection refused"))


def test_a_fetch_from_before_the_rebalance(desk: Desk, rig: Rig) -> None:
    """A record batch that was fetched before the last assignment is dropped: it comes again after the seek."""
    stale, fresh = desk.part.records(event(id="e-0")), desk.part.records(event(id="e-1"))
    rig.current = lambda batch: batch.last_offset == 1
    rig.run(rig.batch(stale), rig.batch(fresh, covers_from=0), until=lambda: len(rig.acks) == 1)
    assert (desk.outcomes(), rig.acks) == ({"e-1": ("approve", "posted")}, [(1, 1)])


def test_cancelled_while_the_worker_runs(rig: Rig) -> None:
    """A batcher that is cancelled without a shutdown would leave a worker that reads and never commits: it ends."""
    rig.run(until=lambda: True)
    assert rig.exits == []
    rig.run(until=lambda: True, orderly=False)
    assert rig.exits == [exits.UNEXPECTED]
