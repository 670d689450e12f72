"""Labels, trainer and snapshots on a real PostgreSQL."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from alerts.metrics import LABELS, MODEL_SEQ, MODEL_VERSION, Metrics
from detectors.features import pack
from detectors.layout import Layout, by_name, layout_of
from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow, Learner
from detectors.models_snapshot import SnapshotRefused, seal
from streams import model_store
from streams.labels import sequence
from streams.layouts import LayoutBook
from streams.trainer import StateDiffers, Trainer, TrainerParams, work
from tests.unit.model_rows import SMALL, unbounded

KEY = b"k" * 32
PARAMS = TrainerParams(
    learner=unbounded(grace_rows=100),
    chunk_rows=60,
    publish_rows=150,
    publish_seconds=30.0,
    idle_seconds=0.01,
)
LAYOUT = layout_of(INPUT_NAMES)
START = datetime(2026, 1, 1, tzinfo=UTC)

_PROGRAM = text("""
INSERT INTO program (program, mode, clock, created_at) VALUES (:name, :mode, :clock, :start)""")
_DECISION = text("""
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, suspicious,
  features, features_version, event, reasons, policy_version, occurred_at, observed_at, decided_at, log_id, topic, part,
  "offset")
VALUES (:id, 's', :id, :program, :account, 'earn', 1, 'approve', 'posted', false, :features, :version, '{}', '[]', 1,
  :at, :at, :at, 'l', 't', 0, :id)""")
_PENDING = text("""
INSERT INTO label_pending (decision_id, program, label, origin, due_at)
VALUES (:id, :program, :label, :origin, :due)""")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on a fresh database with a live and a simulation programme."""
    engine = create_engine(database)
    with engine.begin() as conn:
        conn.execute(_PROGRAM, {"name": "live", "mode": "live", "clock": None, "start": START})
        conn.execute(_PROGRAM, {"name": "sim", "mode": "simulation", "clock": START, "start": START})
        LayoutBook().keep(conn, LAYOUT)
    yield engine
    engine.dispose()


def expect(conn: Connection, number: int, due: datetime, program: str = "live", **changes: Any) -> None:
    """A decision with made-up features (the same for the same number), and its label to come."""
    features = np.abs(np.random.default_rng(number).normal(0, 1, LAYOUT.width))
    row = {"id": number, "program": program, "account": f"a{number}", "at": START, "version": LAYOUT.version}
    conn.execute(_DECISION, {**row, "features": pack(features), **changes})
    conn.execute(_PENDING, {"id": number, "program": program, "label": 0, "origin": "matured", "due": due})


def fill(engine: Engine, first: int, last: int) -> None:
    """Decisions `first` to `last`, all due in the past, in the order of their numbers."""
    with engine.begin() as conn:
        for number in range(first, last + 1):
            expect(conn, number, START + timedelta(seconds=number))


def logged(conn: Connection) -> list[tuple[int, int]]:
    """The label log as (seq, decision)."""
    return [(row.seq, row.decision_id) for row in conn.execute(text("SELECT * FROM label_log ORDER BY seq"))]


def drain(trainer: Trainer, now: float = 0.0) -> None:
    """Step until there is nothing left to read."""
    while trainer.step(now):
        pass


def digest(engine: Engine, version: int) -> object:
    """The digest of the state in a published manifest."""
    with engine.connect() as conn:
        sealed = model_store.read(conn, version)
    assert sealed is not None
    return sealed.manifest["state"]


# --- the sequencer --------------------------------------------------------------------------------------------------


def test_due_labels_are_numbered_in_order_without_gaps(engine: Engine) -> None:
    """By due time, then decision; what is not due stays; later rounds go on counting."""
    past, future = START, datetime.now(UTC) + timedelta(hours=1)
    with engine.begin() as conn:
        for number, due in ((5, past), (4, past), (9, past - timedelta(days=1)), (3, future)):
            expect(conn, number, due)
        assert sequence(conn) == 3
        assert logged(conn) == [(1, 9), (2, 4), (3, 5)]
        expect(conn, 2, past)
        assert (sequence(conn), sequence(conn)) == (1, 0)
        assert logged(conn)[-1] == (4, 2)


def test_a_simulation_matures_by_its_own_clock(engine: Engine) -> None:
    """A label of a simulation programme is due when that programme's clock says so, whatever the time is here."""
    with engine.begin() as conn:
        expect(conn, 1, START + timedelta(days=7), "sim")
        assert sequence(conn) == 0
        conn.execute(text("UPDATE program SET clock = clock + interval '8 days' WHERE program = 'sim'"))
        assert sequence(conn) == 1


def test_a_round_is_bounded(engine: Engine) -> None:
    """No more than asked for is moved in one transaction, and what is moved is the oldest."""
    fill(engine, 1, 7)
    with engine.begin() as conn:
        assert sequence(conn, most=5) == 5
        assert [decision for _, decision in logged(conn)] == [1, 2, 3, 4, 5]


def test_one_sequencer_at_a_time(engine: Engine) -> None:
    """While one transaction numbers rows, another moves nothing instead of waiting or numbering twice."""
    fill(engine, 1, 3)
    with engine.begin() as first, engine.begin() as second:
        assert sequence(first, most=2) == 2
        assert sequence(second) == 0
    with engine.begin() as conn:
        assert sequence(conn) == 1
        assert [seq for seq, _ in logged(conn)] == [1, 2, 3]


# --- the trainer ----------------------------------------------------------------------------------------------------


def test_the_trainer_publishes_what_workers_load(engine: Engine) -> None:
    """A snapshot after enough rows, a further one after enough time with news, none without news."""
    fill(engine, 1, 200)
    metrics = Metrics()
    trainer = Trainer(engine, KEY, metrics, PARAMS)
    drain(trainer)
    with engine.connect() as conn:
        first = model_store.load_champion(conn, KEY, None)
        assert first is not None
        assert (first.version, first.last_seq, first.ready) == (1, 180, True)
        assert model_store.load_champion(conn, KEY, 1) is None
    trainer.step(29.0)
    assert _versions(engine) == [1]
    trainer.step(31.0)
    assert _versions(engine) == [1, 2]
    trainer.step(1_000.0)
    assert _versions(engine) == [1, 2]
    assert metrics.gauge(MODEL_VERSION, "trainer")._value.get() == 2
    assert metrics.gauge(MODEL_SEQ, "trainer")._value.get() == 200
    assert metrics.counter(LABELS, "matured")._value.get() == 200


def test_nothing_is_published_within_the_grace_period(engine: Engine) -> None:
    """A model that has seen too little stays with the trainer."""
    fill(engine, 1, 99)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    trainer.step(1_000.0)
    assert _versions(engine) == []


def test_a_restarted_trainer_arrives_at_the_same_state(engine: Engine) -> None:
    """Killed between any two steps and started again, it ends with the digest of one that never stopped."""
    fill(engine, 1, 200)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    interrupted = Trainer(engine, KEY, Metrics(), PARAMS)
    interrupted.step(0.0)
    fill(engine, 201, 400)
    again = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(again)
    again.step(1_000.0)
    drain_alone = Trainer(engine, KEY, Metrics(), replace(PARAMS, chunk_rows=7))
    drain(drain_alone)
    assert drain_alone._learner.digest() == again._learner.digest() == digest(engine, _versions(engine)[-1])


def test_replaying_publishes_nothing_old(engine: Engine) -> None:
    """A restart alone makes no new version."""
    fill(engine, 1, 160)
    for _ in range(2):
        trainer = Trainer(engine, KEY, Metrics(), PARAMS)
        drain(trainer)
        trainer.step(1_000.0)
    assert _versions(engine) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE label_log SET label = 1 WHERE seq = 7", "another state"),
        ("DELETE FROM label_log WHERE seq > 100", "ends at row 100"),
    ],
)
def test_a_changed_log_is_noticed(engine: Engine, change: str, message: str) -> None:
    """If the log no longer leads to the published state the trainer stops instead of publishing something else."""
    fill(engine, 1, 160)
    first = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(first)
    first.step(1_000.0)
    with engine.begin() as conn:
        conn.execute(text(change))
    with pytest.raises(StateDiffers, match=message):
        drain(Trainer(engine, KEY, Metrics(), PARAMS))


def test_other_parameters_learn_anew(engine: Engine) -> None:
    """After a change of parameters the state is another by intent, and is published as a new version."""
    fill(engine, 1, 160)
    for seed in (1, 2):
        params = replace(PARAMS, learner=unbounded(models=replace(SMALL.models, seed=seed)))
        trainer = Trainer(engine, KEY, Metrics(), params)
        drain(trainer)
        trainer.step(1_000.0)
        fill(engine, 161 + seed, 161 + seed)
    assert _versions(engine) == [1, 2]
    assert digest(engine, 1) != digest(engine, 2)


def test_rows_without_features_are_skipped(engine: Engine) -> None:
    """A label of a decision without features, under a layout nobody knows or without the inputs, or of fraud."""
    before = layout_of(INPUT_NAMES[1:])
    with engine.begin() as conn:
        LayoutBook().keep(conn, before)
        expect(conn, 1, START, features=None, version=None)
        expect(conn, 2, START, version="older")
        expect(conn, 3, START)
        conn.execute(text("UPDATE label_pending SET label = 1, origin = 'review' WHERE decision_id = 3"))
        expect(conn, 4, START)
        expect(conn, 5, START, features=pack(np.ones(before.width)), version=before.version)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    assert (trainer._learner.seq, trainer._learner.learned) == (5, 1)


def test_rows_of_every_layout_teach_the_same(engine: Engine) -> None:
    """The models read their inputs by name, wherever a layout has them."""
    wide, direct = Layout(("lists.more", *reversed(LAYOUT.names))), Learner(PARAMS.learner)
    with engine.begin() as conn:
        LayoutBook().keep(conn, wide)
        for number in range(1, 61):
            row = np.abs(np.random.default_rng(number).normal(0, 1, LAYOUT.width))
            inputs = by_name(row[None, :], LAYOUT, INPUT_NAMES)[0]
            direct.learn(LabelRow(number, 0, "live", f"a{number}", None, inputs))
            turned: dict[str, Any] = {"features": pack(np.append(7.0, row[::-1])), "version": wide.version}
            expect(conn, number, START + timedelta(seconds=number), **(turned if number % 2 else {}))
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    assert (direct.learned, trainer._learner.digest()) == (60, direct.digest())


def test_the_process_works_until_told_to_stop(engine: Engine) -> None:
    """The loop learns and publishes; a second one beside it stands by; both end when told to."""
    fill(engine, 1, 200)
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(engine, KEY, Metrics(), PARAMS, stop)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        deadline = threading.Event()
        while not _versions(engine) and not deadline.wait(0.02):
            assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert _versions(engine) == [1]


# --- what workers load ----------------------------------------------------------------------------------------------


def test_a_bad_snapshot_is_passed_over(engine: Engine) -> None:
    """The newest one that verifies is loaded: foreign and damaged ones above it are refused by name."""
    fill(engine, 1, 160)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    good = trainer._learner.snapshot(1)
    with engine.begin() as conn:
        model_store.publish(conn, seal(replace(good, version=7), KEY, {}))
        model_store.publish(conn, seal(replace(good, version=8), b"other" * 8, {}))
        damaged = seal(replace(good, version=9), KEY, {})
        model_store.publish(conn, replace(damaged, arrays=damaged.arrays[:-10]))
    with engine.connect() as conn:
        loaded = model_store.load_champion(conn, KEY, None)
        assert loaded is not None
        assert loaded.version == 7
        assert model_store.load_champion(conn, KEY, 7) is None
        with pytest.raises(SnapshotRefused):
            model_store.load(conn, KEY, 9)
        assert model_store.load(conn, KEY, 99) is None


def _versions(engine: Engine) -> list[int]:
    with engine.connect() as conn:
        return list(conn.execute(text("SELECT version FROM model_snapshot ORDER BY version")).scalars())
