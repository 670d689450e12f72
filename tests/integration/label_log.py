"""A database with labels to come, and what its trainers published."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, create_engine, text

from detectors.features import pack
from detectors.layout import layout_of
from detectors.models import INPUT_NAMES
from streams import model_store
from streams.layouts import LayoutBook
from streams.trainer import Trainer, TrainerParams
from tests.unit.model_rows import unbounded

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
VALUES (:id, 's', :id, :program, :account, 'earn', 1, 'approve', 'posted', false, :features, :version, '{}', '[]',
  :policy, :at, :at, :at, 'l', 't', 0, :id)""")
_PENDING = text("""
INSERT INTO label_pending (decision_id, program, label, origin, due_at)
VALUES (:id, :program, :label, :origin, :due)""")


@contextmanager
def open_labels(database: str) -> Iterator[Engine]:
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
    row = {**_row(number), "program": program, "due": due, **changes}
    conn.execute(_DECISION, row)
    conn.execute(_PENDING, row)


def fill(engine: Engine, first: int, last: int, fraud_every: int = 0, scale: float = 1.0) -> None:
    """Decisions `first` to `last`, all due in the past, in the order of their numbers; some of them fraud."""
    every = fraud_every or last + 1
    rows = [_row(number, fraud=number % every == 0, scale=scale) for number in range(first, last + 1)]
    with engine.begin() as conn:
        conn.execute(_DECISION, rows)
        conn.execute(_PENDING, rows)


def _row(number: int, *, fraud: bool = False, scale: float = 1.0) -> dict[str, Any]:
    features = np.abs(np.random.default_rng(number).normal(0, scale, LAYOUT.width))
    if fraud:
        features[LAYOUT.index["event.points"]] = 5_000.0
        features[LAYOUT.index["account.seconds_since_signup"]] = 60.0
    return {
        "id": number,
        "program": "live",
        "account": f"a{number}",
        "at": START,
        "version": LAYOUT.version,
        "policy": 1,
        "features": pack(features),
        "label": int(fraud),
        "origin": "review" if fraud else "matured",
        "due": START + timedelta(seconds=number),
    }


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


def versions(engine: Engine) -> list[int]:
    """The snapshots there are, ascending."""
    with engine.connect() as conn:
        return list(conn.execute(text("SELECT version FROM model_snapshot ORDER BY version")).scalars())


def checkpoints(engine: Engine) -> list[int]:
    """The rows that checkpoints were made at, ascending."""
    with engine.connect() as conn:
        return list(conn.execute(text("SELECT last_seq FROM model_checkpoint ORDER BY last_seq")).scalars())


def verdicts(engine: Engine) -> list[tuple[int, str, str]]:
    """Version, kind and actor of all verdicts, in order."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT version, kind, actor FROM model_verdict ORDER BY verdict_id"))
        return [tuple(row) for row in rows]
