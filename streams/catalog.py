"""What a worker keeps of slowly changing things: programmes, the policy in force, the model, quarantined sources.

Read again every few seconds and swapped whole, between batches: a batch sees one policy and one model. A policy or
model that cannot be used is refused loudly, and the old one stays.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Set as AbstractSet

import structlog
from sqlalchemy import Connection, Engine, text

from alerts.metrics import MODEL_SEQ, MODEL_VERSION, Metrics
from config.policy import load_policy
from detectors.decision import CompiledPolicy
from detectors.policy import PolicyRefused
from ledger.programs import Program, load_programs
from streams.intake import Circumstances
from streams.model_store import load_champion
from streams.posting import Judge

LOOK_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 1.0
NAMES_MAX = 1000

log = structlog.get_logger()

_ACTIVE = text("SELECT version, document FROM policy WHERE active")
_QUARANTINED = text("SELECT source FROM quarantine")


class NoPolicy(RuntimeError):
    """No policy is active: run `pointguard migrate`, which installs the default one."""


class Catalog:
    """The current view; read it at the start of a batch and keep what was read."""

    def __init__(self, engine: Engine, model_key: bytes, metrics: Metrics) -> None:
        self._engine, self._model_key, self._metrics = engine, model_key, metrics
        self._asked: dict[str, float] = {}
        with engine.connect() as conn:
            row = conn.execute(_ACTIVE).one_or_none()
            if row is None:
                raise NoPolicy("no policy is active: run `pointguard migrate`")
            self._active = row.version
            self.judge = Judge(load_policy(row.document), load_champion(conn, model_key, None))
            self.programs: dict[str, Program] = {}
            self.circumstances = Circumstances({})
            self._read_programs(conn)
        self._show()

    async def keep_current(self) -> None:
        """Look for changes once in a while, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # noqa: BLE001  # the old view stays, and the next look may succeed
                log.warning("cannot look for changes, the old view stays", error=repr(error)[:300])

    async def look_again(self, names: AbstractSet[str]) -> bool:
        """Read programmes at once because these were unknown, each name at most once a second. True if it was read."""
        now = time.monotonic()
        new = {name for name in names if now - self._asked.get(name, -math.inf) >= LOOK_AGAIN_SECONDS}
        if not new:
            return False
        if len(self._asked) > NAMES_MAX:
            self._asked.clear()
        self._asked.update(dict.fromkeys(new, now))
        await asyncio.to_thread(self._look_at_programs)
        return True

    def refresh(self) -> None:
        """Take over what changed in the database."""
        with self._engine.connect() as conn:
            self._read_programs(conn)
            policy = self._newer_policy(conn)
            current = self.judge.snapshot.version if self.judge.snapshot else None
            snapshot = load_champion(conn, self._model_key, current)
            if policy is not None or snapshot is not None:
                self.judge = Judge(policy or self.judge.policy, snapshot or self.judge.snapshot)
                self._show()

    def _newer_policy(self, conn: Connection) -> CompiledPolicy | None:
        row = conn.execute(_ACTIVE).one_or_none()
        if row is None or row.version == self._active:
            return None
        self._active = row.version
        try:
            policy = load_policy(row.document)
        except PolicyRefused as refused:
            log.error(  # noqa: TRY400  # the message says it all, no traceback needed
                "policy refused, the old one stays", version=row.version, detail=str(refused)
            )
            return None
        log.info("policy in force", version=row.version)
        return policy

    def _look_at_programs(self) -> None:
        with self._engine.connect() as conn:
            self._read_programs(conn)

    def _read_programs(self, conn: Connection) -> None:
        programs = load_programs(conn)
        quarantined = frozenset(conn.execute(_QUARANTINED).scalars())
        self.programs = programs
        modes = {name: program.mode == "simulation" for name, program in programs.items()}
        self.circumstances = Circumstances(modes, quarantined)

    def _show(self) -> None:
        snapshot = self.judge.snapshot
        self._metrics.gauge(MODEL_VERSION, "worker").set(snapshot.version if snapshot else 0)
        self._metrics.gauge(MODEL_SEQ, "worker").set(snapshot.last_seq if snapshot else 0)
