"""The trainer killed anywhere: the same log gives the same states, and nothing is published twice or left half."""

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from alerts.metrics import Metrics
from detectors.models_learner import Learner
from streams.label_rows import LabelLog
from streams.trainer import Trainer
from tests.faults.trainee import KILLED
from tests.integration.label_log import KEY, checkpoints, drain, fill, open_labels, verdicts, versions

ROWS = 700
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0

_STATES = text("SELECT last_seq, manifest ->> 'state' FROM model_snapshot ORDER BY version")
_KEPT = text("SELECT last_seq, manifest ->> 'state' FROM model_checkpoint")
_PROGRESS = text("""
SELECT (SELECT count(*) FROM model_snapshot) + (SELECT coalesce(max(last_seq), 0) FROM model_checkpoint)""")


class KilledError(BaseException):
    """What a kill looks like from inside: nothing catches it."""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A log of labels, a tenth of them fraud."""
    with open_labels(database) as made:
        fill(made, 1, ROWS, fraud_every=10)
        yield made


@contextmanager
def dying(engine: Engine, at: int) -> Iterator[None]:
    """Die just before the `at`-th statement or commit: behind a commit is before the statement that follows it."""
    said = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal said
        said += 1
        if said == at:
            raise KilledError

    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", count)
    try:
        yield
    finally:
        for what in ("before_cursor_execute", "commit"):
            event.remove(engine, what, count)
        engine.dispose()


def check(engine: Engine) -> None:
    """Every state that was published or kept is that of one fold without any interruption; each has its verdict."""
    with engine.connect() as conn:
        published, kept = ({row[0]: row[1] for row in conn.execute(sql)} for sql in (_STATES, _KEPT))
        rows = LabelLog().after(conn, 0, ROWS)
    learner, states = Learner(KILLED.learner), {}
    for _, row in rows:
        learner.learn(row)
        if row.seq in published or row.seq in kept:
            states[row.seq] = learner.digest()
    assert len(published) > 3
    assert published.items() <= states.items()
    assert kept.items() <= states.items()
    given = [version for version, _, _ in verdicts(engine)]
    assert given == sorted(set(given)) == list(range(1, len(given) + 1))
    assert set(versions(engine)) <= set(given)
    assert max(published) == ROWS


def finish(engine: Engine) -> None:
    """Let a trainer come to the end of the log."""
    trainer = Trainer(engine, KEY, Metrics(), KILLED)
    drain(trainer, 1.0)
    trainer.step(1_000.0)


def test_killed_at_any_statement(engine: Engine, rng: random.Random) -> None:
    """Also between a commit and its answer: whoever starts next goes on where the database says."""
    killed, progress = 0, []
    for _ in range(60):
        try:
            with dying(engine, rng.randint(1, 60)):
                drain(Trainer(engine, KEY, Metrics(), KILLED), 1.0)
        except KilledError:
            killed += 1
        progress.append(checkpoints(engine)[-1:] or [0])
        if progress[-1] == [ROWS]:
            break
    assert killed >= 5
    assert progress == sorted(progress)
    finish(engine)
    check(engine)


def test_killed_for_real(engine: Engine, database: str, rng: random.Random) -> None:
    """SIGKILL at seeded moments of its work; the sessions it leaves behind hold up nobody."""
    for _ in range(4):
        trainee = subprocess.Popen([sys.executable, "-m", "tests.faults.trainee", database], cwd=ROOT)
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                before, waited = conn.execute(_PROGRESS).scalar_one(), 0.0
                while conn.execute(_PROGRESS).scalar_one() < min(before + rng.randint(40, 130), ROWS):
                    assert trainee.poll() is None
                    assert waited < PATIENCE_SECONDS
                    threading.Event().wait(0.01)
                    waited += 0.01
            threading.Event().wait(rng.random() / 10)
        finally:
            trainee.kill()
            trainee.wait()
    finish(engine)
    check(engine)
