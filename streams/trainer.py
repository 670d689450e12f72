"""The trainer: a process of its own that folds the label log into the models and publishes snapshots.

It keeps no state on disk. At start it learns the whole log again, while workers go on with the last snapshot; when it
has come back to that snapshot's row its state must have the same digest. It publishes only what goes beyond.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, text

from alerts.metrics import LABELS, MODEL_SEQ, MODEL_VERSION, READY, Metrics
from detectors.features import unpack
from detectors.layout import Floats
from detectors.models import INPUT_NAMES
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_snapshot import INPUTS_VERSION, seal
from streams import model_store
from streams.acts import model_published
from streams.errors import dependency_down
from streams.keys import model_key
from streams.labels import sequence
from streams.layouts import LayoutBook, UnknownLayout

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_TRAINER_LOCK = 0x7472_6169

log = structlog.get_logger()

_ROWS = text("""
SELECT l.seq, l.label, l.origin, d.program, d.account, d.device, d.features, d.features_version
  FROM label_log l LEFT JOIN decision d USING (decision_id)
 WHERE l.seq > :after ORDER BY l.seq LIMIT :most""")
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")


@dataclass(frozen=True, kw_only=True)
class TrainerParams:
    """How the trainer works: rows read at a time, when it publishes, and how long it waits when there is nothing to do.

    With news it publishes after `publish_rows` learned rows or `publish_seconds`, whichever comes first.
    """

    learner: LearnerParams = field(default_factory=LearnerParams)
    chunk_rows: int = 500
    publish_rows: int = 5_000
    publish_seconds: float = 60.0
    idle_seconds: float = 1.0


class StateDiffers(RuntimeError):
    """The log does not lead to the state of the published snapshot: it was changed, or rows of it are missing."""


class Trainer:
    """One trainer. `step` does a bounded piece of work; time is an argument."""

    def __init__(self, engine: Engine, key: bytes, metrics: Metrics, params: TrainerParams) -> None:
        self._engine, self._key, self._metrics, self._params = engine, key, metrics, params
        self.idle_seconds = params.idle_seconds
        self._learner = Learner(params.learner)
        self._layouts = LayoutBook()
        self._published_learned = 0
        self._published_at: float | None = None
        self._checked = False
        with engine.connect() as conn:
            self._version = model_store.last_version(conn)
            last = model_store.read(conn, self._version)
        self._target: dict[str, Any] = dict(last.manifest) if last is not None else {}
        self._show()

    def step(self, now: float) -> int:
        """Sequence what is due, learn one chunk, publish if it is time; how many rows were read. `now` in seconds."""
        with self._engine.begin() as conn:
            sequence(conn)
        with self._engine.connect() as conn:
            found = conn.execute(_ROWS, {"after": self._learner.seq, "most": self._params.chunk_rows}).all()
            rows = [(row.origin, _label_row(row, conn, self._layouts)) for row in found]
        if not rows and self._learner.seq < self._target.get("last_seq", 0):
            raise StateDiffers(
                f"the label log ends at row {self._learner.seq}, snapshot {self._version} has learned up to row "
                f"{self._target['last_seq']}: restore the log, or delete the snapshot to start anew"
            )
        self._learn(rows)
        if self._is_time(now, len(rows)):
            self._publish(now)
        return len(rows)

    def _learn(self, rows: Sequence[tuple[str, LabelRow]]) -> None:
        learned: dict[str, int] = {}
        for origin, row in rows:
            if self._learner.learn(row):
                learned[origin] = learned.get(origin, 0) + 1
            if self._learner.seq == self._target.get("last_seq"):
                self._compare()
        for origin, count in learned.items():
            self._metrics.counter(LABELS, origin).inc(count)

    def _compare(self) -> None:
        """Back at the row of the last snapshot: its digest must come out again."""
        if any(self._target.get(name) != value for name, value in self._origin().items()):
            log.warning("models are learned anew: inputs, parameters or River changed", version=self._version)
            return
        if self._target.get("state") != self._learner.digest():
            raise StateDiffers(
                f"row {self._learner.seq} of the label log gives another state than snapshot {self._version}: "
                "restore the log, or delete the snapshot to start anew"
            )
        self._published_learned = self._learner.learned

    def _origin(self) -> dict[str, str | int]:
        """What shapes the state besides the log; goes into the manifest."""
        learner = self._params.learner
        return {
            "river": package_version("river"),
            "seed": learner.seed,
            "params": repr(learner),
            "inputs_version": INPUTS_VERSION,
        }

    def _is_time(self, now: float, rows_read: int) -> bool:
        if self._published_at is None:
            self._published_at = now
        news = self._learner.learned - self._published_learned
        ready = self._learner.learned >= self._params.learner.grace_rows
        replaying = self._learner.seq <= self._target.get("last_seq", 0)
        caught_up = rows_read < self._params.chunk_rows
        late = caught_up and now - self._published_at >= self._params.publish_seconds
        return ready and not replaying and news > 0 and (news >= self._params.publish_rows or late)

    def _publish(self, now: float) -> None:
        """One transaction: version, last row, manifest, arrays, signature."""
        started = time.perf_counter()
        snapshot = self._learner.snapshot(self._version + 1)
        sealed = seal(snapshot, self._key, {**self._origin(), "state": self._learner.digest()})
        with self._engine.begin() as conn:
            model_store.publish(conn, sealed)
            model_published(conn, snapshot.version, sealed.manifest["last_seq"], sealed.signature)
        self._version, self._published_learned, self._published_at = snapshot.version, self._learner.learned, now
        seconds = round(time.perf_counter() - started, 3)
        log.info("model snapshot published", version=snapshot.version, count=snapshot.learned, seconds=seconds)
        self._show()

    def _show(self) -> None:
        self._metrics.gauge(MODEL_VERSION, "trainer").set(self._version)
        self._metrics.gauge(MODEL_SEQ, "trainer").set(self._learner.seq)


def run(engine: Engine, secret: bytes, metrics: Metrics, params: TrainerParams | None = None) -> None:
    """The trainer process, until SIGINT or SIGTERM; a second one stands by until the first is gone."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    work(engine, model_key(secret), metrics, params or TrainerParams(), stop)


def work(engine: Engine, key: bytes, metrics: Metrics, params: TrainerParams, stop: threading.Event) -> None:
    """Learn and publish until `stop` is set. A database that is away is waited for; then the log is learned again."""
    while not stop.is_set():
        try:
            with engine.connect() as guard:
                try:
                    if _locked(guard):
                        _fold(Trainer(engine, key, metrics, params), guard, stop)
                finally:
                    guard.invalidate()  # ends the session, and with it the lock
        except Exception as error:  # whatever is no outage is raised again
            if dependency_down(error) is None:
                raise
            metrics.gauge(READY, "postgresql").set(0)
            log.warning("trainer waits for a dependency", service="postgresql", error=repr(error)[:300])
        stop.wait(params.idle_seconds)


def _fold(trainer: Trainer, guard: Connection, stop: threading.Event) -> None:
    while not stop.is_set():
        # The lock lives as long as its session: ask it something, and fail with it.
        guard.execute(text("SELECT 1"))
        guard.commit()
        if not trainer.step(time.monotonic()):
            stop.wait(trainer.idle_seconds)


def _locked(guard: Connection) -> bool:
    locked: bool = guard.execute(_TRY_LOCK, {"key": _TRAINER_LOCK}).scalar_one()
    guard.commit()
    return locked


def _label_row(row: Row[Any], conn: Connection, layouts: LayoutBook) -> LabelRow:
    return LabelRow(
        seq=row.seq,
        label=row.label,
        program=row.program or "",
        account=row.account or "",
        device=None if row.device is None else bytes(row.device),
        inputs=None if row.features is None else _inputs(row, conn, layouts),
    )


def _inputs(row: Row[Any], conn: Connection, layouts: LayoutBook) -> Floats | None:
    """What the models read of a stored row; None if it was stored before they read that."""
    try:
        stored = layouts.layout(conn, row.features_version)
    except UnknownLayout:  # older than the table of layouts: nobody can say what its numbers are
        return None
    if not stored.index.keys() >= set(INPUT_NAMES):
        return None
    inputs: Floats = unpack([bytes(row.features)], stored, INPUT_NAMES)[0]
    return inputs
