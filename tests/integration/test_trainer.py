"""Labels, trainer and snapshots on a real PostgreSQL."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, text

from alerts.metrics import LABELS, MODEL_SEQ, MODEL_VERSION, Metrics
from config.policy import default_policy_text
from detectors.features import pack
from detectors.layout import Layout, by_name, layout_of
from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow, Learner
from detectors.models_snapshot import OtherVersion, SnapshotRefused, seal
from streams import model_store
from streams.label_rows import LabelLog
from streams.labels import sequence
from streams.layouts import LayoutBook
from streams.model_store import Verdict
from streams.trainer import StateDiffers, Trainer, refold, work
from tests.integration.label_log import (
    KEY,
    LAYOUT,
    PARAMS,
    START,
    checkpoints,
    digest,
    drain,
    expect,
    fill,
    open_labels,
    versions,
)
from tests.unit.model_rows import SMALL, unbounded


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on a fresh database with a live and a simulation programme."""
    with open_labels(database) as made:
        yield made


def logged(conn: Connection) -> list[tuple[int, int]]:
    """The label log as (seq, decision)."""
    return [(row.seq, row.decision_id) for row in conn.execute(text("SELECT * FROM label_log ORDER BY seq"))]


def forget_checkpoints(engine: Engine) -> None:
    """Whoever trains next has to learn the whole log again."""
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM model_checkpoint"))


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
    assert versions(engine) == [1]
    trainer.step(31.0)
    assert versions(engine) == [1, 2]
    trainer.step(1_000.0)
    assert versions(engine) == [1, 2]
    assert metrics.gauge(MODEL_VERSION, "trainer")._value.get() == 2
    assert metrics.gauge(MODEL_SEQ, "trainer")._value.get() == 200
    assert metrics.counter(LABELS, "matured")._value.get() == 180


def test_nothing_is_learned_before_its_label_has_matured(engine: Engine) -> None:
    """A decision whose label is not due yet leaves the state as it is, to the digest."""
    fill(engine, 1, 120)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    before = trainer._learner.digest()
    with engine.begin() as conn:
        expect(conn, 121, datetime.now(UTC) + timedelta(hours=1))
    drain(trainer)
    assert trainer._learner.digest() == before


def test_labels_count_for_the_share_that_was_logged(engine: Engine) -> None:
    """What matured stands for as many events as the policy of the time left out; what people decided for itself."""
    document = default_policy_text().replace("version: 1", "version: 2", 1).replace("share: 1.0", "share: 0.25")
    with engine.begin() as conn:
        conn.execute(text("INSERT INTO policy (version, document) VALUES (2, :document)"), {"document": document})
        expect(conn, 1, START)
        expect(conn, 2, START + timedelta(seconds=1), policy=2)
        expect(conn, 3, START + timedelta(seconds=2), policy=2, origin="review", label=1)
        expect(conn, 4, START + timedelta(seconds=3), policy=77)
        sequence(conn)
        assert [row.weight for _, row in LabelLog().after(conn, 0, 9)] == [1.0, 4.0, 1.0, 1.0]


def test_nothing_is_published_within_the_grace_period(engine: Engine) -> None:
    """A model that has seen too little stays with the trainer."""
    fill(engine, 1, 99)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    trainer.step(1_000.0)
    assert versions(engine) == []


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
    assert drain_alone._learner.digest() == again._learner.digest() == digest(engine, versions(engine)[-1])


def test_replaying_publishes_nothing_old(engine: Engine) -> None:
    """A restart alone makes no new version."""
    fill(engine, 1, 180)
    for _ in range(2):
        trainer = Trainer(engine, KEY, Metrics(), PARAMS)
        drain(trainer)
        trainer.step(1_000.0)
    assert versions(engine) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE label_log SET label = 1 WHERE seq = 7", "another state"),
        ("DELETE FROM label_log WHERE seq > 100", "ends at row 100"),
    ],
)
def test_a_changed_log_is_noticed(engine: Engine, change: str, message: str) -> None:
    """If the log no longer leads to the published state the trainer stops instead of publishing something else."""
    fill(engine, 1, 180)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    forget_checkpoints(engine)
    with engine.begin() as conn:
        conn.execute(text(change))
    with pytest.raises(StateDiffers, match=message):
        drain(Trainer(engine, KEY, Metrics(), PARAMS))


def test_a_log_that_was_changed_for_good_is_learned_anew(engine: Engine) -> None:
    """As the runbook says: without checkpoints and the newest snapshot; the others stay, as decisions name them."""
    fill(engine, 1, 400)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    *kept, newest = versions(engine)
    forget_checkpoints(engine)
    with engine.begin() as conn:
        conn.execute(text("UPDATE label_log SET label = 1 WHERE seq = 7"))
        conn.execute(text("DELETE FROM model_snapshot WHERE version = :newest"), {"newest": newest})
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    assert kept
    assert versions(engine)[: len(kept) + 1] == [*kept, newest + 1]


def test_a_log_that_lost_its_end_is_noticed_with_a_checkpoint_too(engine: Engine) -> None:
    """Rows that a checkpoint has learned must be there."""
    fill(engine, 1, 180)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    with engine.begin() as conn:
        conn.execute(text("DELETE FROM label_log WHERE seq > 100"))
    with pytest.raises(StateDiffers, match="ends at row 100"):
        Trainer(engine, KEY, Metrics(), PARAMS)


def test_the_log_is_checked_against_a_snapshot(engine: Engine) -> None:
    """Folded from its first row it gives the signed digest, and no longer once a row was changed or is gone."""
    fill(engine, 1, 180)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    with engine.begin() as conn:
        assert refold(conn, KEY, PARAMS.learner, 1)
        conn.execute(text("UPDATE label_log SET label = 1 WHERE seq = 7"))
        assert not refold(conn, KEY, PARAMS.learner, 1)
        conn.execute(text("DELETE FROM label_log WHERE seq > 100"))
        assert not refold(conn, KEY, PARAMS.learner, 1)
        with pytest.raises(LookupError):
            refold(conn, b"x" * 32, PARAMS.learner, 1)
        with pytest.raises(OtherVersion, match="other params"):
            refold(conn, KEY, replace(PARAMS.learner, block_rows=99), 1)


def test_a_restart_goes_on_from_the_checkpoint(engine: Engine) -> None:
    """A trainer that starts reads only what came after its newest checkpoint, and keeps five of them."""
    params = replace(PARAMS, publish_rows=10_000, checkpoint_rows=60)
    fill(engine, 1, 400)
    drain(Trainer(engine, KEY, Metrics(), params))
    assert checkpoints(engine) == [120, 180, 240, 300, 360]
    metrics = Metrics()
    again = Trainer(engine, KEY, metrics, params)
    assert again._learner.seq == 360
    drain(again)
    forget_checkpoints(engine)
    anew = Trainer(engine, KEY, Metrics(), params)
    assert anew._learner.seq == 0
    drain(anew)
    assert again._learner.digest() == anew._learner.digest()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE model_checkpoint SET arrays = substr(arrays, 1, 900) WHERE last_seq = 360",
        "UPDATE model_checkpoint SET signature = '\\x00' WHERE last_seq = 360",
        "UPDATE model_checkpoint SET manifest = '{\"format\": 1}' WHERE last_seq = 360",
    ],
)
def test_a_damaged_checkpoint_is_passed_over(engine: Engine, damage: str) -> None:
    """The newest one that verifies is taken; the state in the end is the same."""
    params = replace(PARAMS, publish_rows=10_000, checkpoint_rows=60)
    fill(engine, 1, 400)
    first = Trainer(engine, KEY, Metrics(), params)
    drain(first)
    with engine.begin() as conn:
        conn.execute(text(damage))
    again = Trainer(engine, KEY, Metrics(), params)
    assert again._learner.seq == 300
    drain(again)
    assert again._learner.digest() == first._learner.digest()


def test_a_foreign_checkpoint_is_never_restored(engine: Engine) -> None:
    """Signed with another key, or signed by us as something else, it is not looked into."""
    fill(engine, 1, 180)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    with engine.begin() as conn:
        conn.execute(
            text("""
            UPDATE model_checkpoint SET manifest = s.manifest, arrays = s.arrays, signature = s.signature
              FROM model_snapshot s""")
        )
    assert Trainer(engine, KEY, Metrics(), PARAMS)._learner.seq == 0


def test_other_parameters_learn_anew(engine: Engine) -> None:
    """After a change of parameters the state is another by intent, and is published as a new version."""
    fill(engine, 1, 160)
    for seed in (1, 2):
        params = replace(PARAMS, learner=unbounded(models=replace(SMALL.models, seed=seed)))
        trainer = Trainer(engine, KEY, Metrics(), params)
        drain(trainer)
        trainer.step(1_000.0)
        fill(engine, 161 + seed, 161 + seed)
    assert versions(engine) == [1, 2]
    assert digest(engine, 1) != digest(engine, 2)


def test_other_parameters_need_no_new_label(engine: Engine) -> None:
    """After an upgrade a log that ends where the last snapshot did gives a snapshot of this release all the same."""
    fill(engine, 1, 180)
    drain(Trainer(engine, KEY, Metrics(), PARAMS))
    params = replace(PARAMS, learner=unbounded(models=replace(SMALL.models, seed=2)))
    trainer = Trainer(engine, KEY, Metrics(), params)
    drain(trainer)
    trainer.step(1_000.0)
    trainer.step(2_000.0)
    assert versions(engine) == [1, 2]


def test_rows_without_features_are_skipped(engine: Engine) -> None:
    """A label of a decision without features, or under a layout nobody knows or without the inputs."""
    before = layout_of(INPUT_NAMES[1:])
    with engine.begin() as conn:
        LayoutBook().keep(conn, before)
        expect(conn, 1, START, features=None, version=None)
        expect(conn, 2, START, version="older")
        expect(conn, 3, START)
        expect(conn, 4, START, features=pack(np.ones(before.width)), version=before.version)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    assert (trainer._learner.seq, len(trainer._learner._block)) == (4, 1)


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
    assert (direct.learned, trainer._learner.digest()) == (50, direct.digest())


def test_the_process_works_until_told_to_stop(engine: Engine) -> None:
    """The loop learns and publishes; a second one beside it stands by; both end when told to."""
    fill(engine, 1, 200)
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(engine, KEY, Metrics(), PARAMS, stop)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        deadline = threading.Event()
        while not versions(engine) and not deadline.wait(0.02):
            assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert versions(engine) == [1]


# --- what workers load ----------------------------------------------------------------------------------------------


def test_a_bad_snapshot_is_passed_over(engine: Engine) -> None:
    """A worker that starts takes the newest champion that verifies: foreign and damaged ones are refused by name."""
    fill(engine, 1, 180)
    trainer = Trainer(engine, KEY, Metrics(), PARAMS)
    drain(trainer)
    good = trainer._learner.snapshot(1)
    with engine.begin() as conn:
        model_store.publish(conn, seal(replace(good, version=7), KEY, {}))
        model_store.publish(conn, seal(replace(good, version=8), b"other" * 8, {}))
        damaged = seal(replace(good, version=9), KEY, {})
        model_store.publish(conn, replace(damaged, arrays=damaged.arrays[:-10]))
        for version in (7, 8, 9):
            model_store.give(conn, Verdict(version, "promoted", "ann", "a test"))
    with engine.connect() as conn:
        loaded = model_store.load_champion(conn, KEY, None)
        assert loaded is not None
        assert loaded.version == 7
        # Whoever has one keeps it, be it what it may: going back is for people to decide.
        assert model_store.load_champion(conn, KEY, 7) is None
        assert model_store.load_champion(conn, KEY, 1) is None
        with pytest.raises(SnapshotRefused):
            model_store.load(conn, KEY, 9)
        assert model_store.load(conn, KEY, 99) is None
