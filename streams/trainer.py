"""The trainer: a process of its own that folds the label log into the models and publishes snapshots.

It goes on from its newest checkpoint that verifies; without one it learns the whole log again, while workers go on with
the champion. Either way it comes to the row of the last snapshot with the digest that was signed then, or it stops.
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
from sqlalchemy import Connection, Engine, text

from alerts.metrics import LABELS, MODEL_SEQ, MODEL_VERSION, READY, Metrics
from config import logs
from config.settings import Settings
from detectors.models_checkpoint import restore_state, seal_state
from detectors.models_learner import LabelRow, Learner, LearnerParams
from detectors.models_snapshot import INPUTS_VERSION, PURPOSE, OtherVersion, SnapshotRefused, checked
from streams import model_store, norms
from streams.errors import dependency_down
from streams.keys import model_key
from streams.label_rows import LabelLog
from streams.labels import sequence
from streams.processes import engine_of, serve_metrics
from streams.publishing import Publisher, PublishParams

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_TRAINER_LOCK = 0x7472_6169

log = structlog.get_logger()

_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")


@dataclass(frozen=True, kw_only=True)
class TrainerParams:
    """How the trainer works: rows read at a time, when it publishes, and how long it waits when there is nothing to do.

    With news it publishes after `publish_rows` learned rows or `publish_seconds`, whichever comes first. Besides it
    keeps a checkpoint every `checkpoint_rows` rows of the log.
    """

    learner: LearnerParams = field(default_factory=LearnerParams)
    publish: PublishParams = field(default_factory=PublishParams)
    chunk_rows: int = 500
    publish_rows: int = 25_000
    publish_seconds: float = 120.0
    checkpoint_rows: int = 20_000
    idle_seconds: float = 1.0


class StateDiffers(RuntimeError):
    """The log does not lead to the state of the published snapshot: it was changed, or rows of it are missing."""


class Trainer:
    """One trainer. `step` does a bounded piece of work; time is an argument."""

    def __init__(self, engine: Engine, key: bytes, metrics: Metrics, params: TrainerParams) -> None:
        self._engine, self._key, self._metrics, self._params = engine, key, metrics, params
        self.idle_seconds = params.idle_seconds
        self._log = LabelLog()
        self._publisher = Publisher(key, metrics, params.publish)
        self._published_learned = 0
        self._published_at: float | None = None
        with engine.connect() as conn:
            self._version = model_store.last_version(conn)
            self._target = _manifest(conn, key, self._version)
            self._learner = resumed(conn, key, params.learner)
            last = LabelLog.last(conn)
        self._kept_seq = self._learner.seq
        known = max(self._learner.seq, self._target.get("last_seq", 0))
        if last < known:
            raise StateDiffers(
                f"the label log ends at row {last}, but up to row {known} it was learned already: restore the log, or "
                "delete the newest snapshot and all checkpoints to start anew"
            )
        if self._is_alike() and self._learner.seq >= self._target["last_seq"]:
            self._published_learned = self._target["learned"]
        if self._learner.seq == self._target.get("last_seq"):
            self._compare()
        self._show()

    def step(self, now: float) -> int:
        """Sequence what is due, learn one chunk, publish if it is time; how many rows were read. `now` in seconds."""
        with self._engine.begin() as conn:
            sequence(conn)
        with self._engine.connect() as conn:
            rows = self._log.after(conn, self._learner.seq, self._params.chunk_rows)
            norms.follow(conn, [row for _, row in rows])
            conn.commit()
        self._learn(rows)
        if self._is_time(now, len(rows)):
            self._publish(now)
        elif self._learner.seq - self._kept_seq >= self._params.checkpoint_rows:
            self._keep()
        return len(rows)

    def _learn(self, rows: Sequence[tuple[str, LabelRow]]) -> None:
        learned: dict[str, int] = {}
        for origin, row in rows:
            if self._learner.learn(row):
                learned[origin] = learned.get(origin, 0) + 1
            if self._learner.seq == self._target.get("last_seq"):
                self._compare()
        if self._learner.seq <= self._target.get("last_seq", 0):
            # What is learned again has been told of.
            self._learner.drifted.clear()
        for origin, count in learned.items():
            self._metrics.counter(LABELS, origin).inc(count)

    def _is_alike(self) -> bool:
        """Whether the last snapshot was made as this trainer makes them."""
        return bool(self._target) and all(
            self._target.get(name) == value for name, value in origin(self._params.learner).items()
        )

    def _compare(self) -> None:
        """Back at the row of the last snapshot: its digest must come out again."""
        if not self._is_alike():
            log.warning("models are learned anew: inputs, parameters or River changed", version=self._version)
            return
        if self._target.get("state") != self._learner.digest():
            raise StateDiffers(
                f"row {self._learner.seq} of the label log gives another state than snapshot {self._version}: "
                "restore the log, or delete the newest snapshot and all checkpoints to start anew"
            )
        self._published_learned = self._learner.learned

    def _is_time(self, now: float, rows_read: int) -> bool:
        if self._published_at is None:
            self._published_at = now
        news = self._learner.learned - self._published_learned
        ready = self._learner.learned >= self._params.learner.grace_rows
        # At the last snapshot's very row there is news only if it was made otherwise than this trainer makes them.
        replaying = self._learner.seq < self._target.get("last_seq", 0)
        caught_up = rows_read < self._params.chunk_rows
        late = caught_up and now - self._published_at >= self._params.publish_seconds
        return ready and not replaying and news > 0 and (news >= self._params.publish_rows or late)

    def _publish(self, now: float) -> None:
        started = time.perf_counter()
        with self._engine.begin() as conn:
            given = self._publisher.publish(conn, self._learner, self._version + 1, origin(self._params.learner))
        self._publisher.told(given, self._learner)
        self._version, self._published_learned, self._published_at = given.verdict.version, self._learner.learned, now
        self._kept_seq = self._learner.seq
        seconds = round(time.perf_counter() - started, 3)
        log.info(
            "model snapshot published", version=self._version, count=self._learner.learned, seconds=seconds,
            result=given.verdict.kind, detail=given.verdict.reason,
        )  # fmt: skip
        self._show()

    def _keep(self) -> None:
        """A checkpoint between snapshots."""
        with self._engine.begin() as conn:
            model_store.put_checkpoint(conn, seal_state(self._learner, self._key, origin(self._params.learner)))
        self._kept_seq = self._learner.seq

    def _show(self) -> None:
        self._metrics.gauge(MODEL_VERSION, "trainer").set(self._version)
        self._metrics.gauge(MODEL_SEQ, "trainer").set(self._learner.seq)


def origin(params: LearnerParams) -> dict[str, str | int]:
    """What shapes the state besides the log; goes into manifests."""
    return {
        "river": package_version("river"),
        "seed": params.models.seed,
        "params": repr(params),
        "inputs_version": INPUTS_VERSION,
    }


def resumed(conn: Connection, key: bytes, params: LearnerParams) -> Learner:
    """A learner that goes on from the furthest checkpoint that verifies; a new one if there is none."""
    for sealed in model_store.checkpoints(conn):
        learner = Learner(params)
        try:
            restore_state(learner, sealed, key, origin(params))
        except SnapshotRefused as refused:
            log.warning("checkpoint passed over", error=refused.error, detail=str(refused))
        else:
            return learner
    return Learner(params)


def refold(conn: Connection, key: bytes, params: LearnerParams, version: int) -> bool:
    """Learn the log from its first row to that of a snapshot: whether its signed digest comes out. Raises LookupError.

    SnapshotRefused if its signature does not hold, OtherVersion included if this trainer makes other models.
    """
    target = _manifest(conn, key, version)
    if not target:
        raise LookupError(f"there is no snapshot {version} with a valid signature")
    for name, value in origin(params).items():
        if target.get(name) != value:
            raise OtherVersion(
                f"snapshot {version} was made with other {name} than this trainer's: it can't be made again"
            )
    learner, rows = Learner(params), LabelLog()
    while learner.seq < target["last_seq"]:
        found = rows.after(conn, learner.seq, min(5_000, target["last_seq"] - learner.seq))
        if not found:
            return False
        for _, row in found:
            learner.learn(row)
    return bool(learner.digest() == target["state"])


def _manifest(conn: Connection, key: bytes, version: int) -> dict[str, Any]:
    """The signed manifest of a snapshot, empty if there is none; one that is not ours is said so and not believed."""
    sealed = model_store.read(conn, version)
    if sealed is None:
        return {}
    try:
        return dict(checked(sealed, key, PURPOSE))
    except SnapshotRefused as refused:
        log.error(  # noqa: TRY400  # what was wrong is said by name; a traceback adds nothing
            "model snapshot refused", version=version, error=refused.error, detail=str(refused)
        )
        return {}


def run_trainer(settings: Settings) -> None:
    """The trainer process, until SIGINT or SIGTERM; a second one stands by until the first is gone."""
    logs.configure(settings, "trainer")
    metrics, stop = Metrics(), threading.Event()
    serve_metrics(settings, metrics)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    params = TrainerParams(publish=PublishParams(alerts_topic=settings.alerts_topic))
    work(engine_of(settings, "trainer"), model_key(settings.secret()), metrics, params, stop)


def work(engine: Engine, key: bytes, metrics: Metrics, params: TrainerParams, stop: threading.Event) -> None:
    """Learn and publish until `stop` is set. A database that is away is waited for; then it resumes."""
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
