"""What a worker keeps of slowly changing things: programmes, policy, model, lists, silent rules, quarantined sources.

Read again every few seconds and swapped whole, between batches: a batch sees one policy and one model. A policy or
model that cannot be used is refused loudly, and the old one stays. Which policy was loaded and which refused is told to
the database: what is in force there, and what workers use, are two things.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, text

from alerts.metrics import MODEL_SEQ, MODEL_VERSION, POLICY_REFUSED, POLICY_VERSION, RULES_PAUSED, Metrics
from config.policy import load_policy
from detectors.decision import CompiledPolicy
from detectors.policy import PolicyRefused
from ledger.programs import Program, load_programs
from streams.breaking import expected_shares
from streams.intake import Circumstances
from streams.listing import load_entries, load_snoozes
from streams.model_store import load_champion
from streams.posting import Judge

LOOK_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 1.0
NAMES_MAX = 1000
REPORT_SECONDS = 30.0
REFUSAL_MOST = 4_000

log = structlog.get_logger()

_ACTIVE = text("SELECT version, document FROM policy WHERE active")
_BEFORE = text("""
SELECT document FROM policy WHERE NOT active AND activated_at IS NOT NULL ORDER BY activated_at DESC LIMIT 20""")
_CHANGES = text("SELECT version FROM catalog_version")
_PAUSED = text("SELECT rule FROM rule_pause WHERE version = :version AND resumed_at IS NULL")
_REPORT = text("""
INSERT INTO policy_loaded (worker, version, refused, why) VALUES (:worker, :version, :refused, :why)
ON CONFLICT (worker) DO UPDATE SET version = excluded.version, refused = excluded.refused, why = excluded.why,
  at = clock_timestamp()""")
_QUARANTINED = text("SELECT source FROM quarantine")


class NoPolicy(RuntimeError):
    """No policy is active: run `pointguard migrate`, which installs the default one."""


class Catalog:
    """The current view; read it at the start of a batch and keep what was read."""

    def __init__(self, engine: Engine, model_key: bytes, metrics: Metrics, worker: str = "") -> None:
        """`worker` is the name under which what was loaded is reported; without one nothing is."""
        self._engine, self._model_key, self._metrics, self._worker = engine, model_key, metrics, worker
        self._topic = worker.rpartition("/")[2] or "worker"
        self._asked: dict[str, float] = {}
        self._refused: tuple[int, str] | None = None
        self._reported: tuple[float, tuple[int, int | None]] = (0.0, (0, None))
        with engine.connect() as conn:
            self._active = 0
            self._changes: int = conn.execute(_CHANGES).scalar_one()
            judge = Judge(self._first_policy(conn), load_champion(conn, model_key, None))
            self.judge = replace(judge, **self._standing(conn, judge.policy))
            self.expected = expected_shares(conn, judge.policy.policy.version)
            self.programs: dict[str, Program] = {}
            self.circumstances = Circumstances({})
            self._read_programs(conn)
        self._show()

    def _first_policy(self, conn: Connection) -> CompiledPolicy:
        """The policy in force; if it can't be used, the latest before it that can: a restart must not stop the shop."""
        row = conn.execute(_ACTIVE).one_or_none()
        if row is None:
            raise NoPolicy("no policy is active: run `pointguard migrate`")
        policy = self._newer_policy(conn)
        if policy is not None:
            return policy
        for before in conn.execute(_BEFORE):
            with contextlib.suppress(PolicyRefused):
                return load_policy(before.document)
        raise NoPolicy(f"no policy can be used, version {row.version} for: {self._refused and self._refused[1]}")

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
        """Take over what changed in the database, all of it or, if some of it can't be read, nothing; report it."""
        known = self._active, self._refused
        try:
            with self._engine.begin() as conn:
                self._read_programs(conn)
                changed, changes, expected = self._changed(conn)
        except BaseException:
            self._active, self._refused = known  # looked at again next time
            raise
        self._changes, self.expected = changes, expected
        if changed:
            self.judge = replace(self.judge, **changed)
            self._show()
        with self._engine.begin() as conn:
            self._report(conn)

    def _changed(self, conn: Connection) -> tuple[dict[str, Any], int, dict[str, float]]:
        """What is new of the judge; the number of changes that it includes; what to expect of the policy's rules."""
        changed: dict[str, Any] = {}
        policy, expected = self._newer_policy(conn), self.expected
        if policy is not None:
            changed["policy"] = policy
            expected = expected_shares(conn, self._active)
        # The number is read before what it counts: a change in between is read again next time.
        changes: int = conn.execute(_CHANGES).scalar_one()
        if policy is not None or changes != self._changes:
            changed |= self._standing(conn, policy or self.judge.policy)
        current = self.judge.snapshot.version if self.judge.snapshot else None
        snapshot = load_champion(conn, self._model_key, current)
        if snapshot is not None:
            changed["snapshot"] = snapshot
        return changed, changes, expected

    def pause(self, rule: str) -> None:
        """Take a rule's effect away at once, before the next look at the database says so."""
        self.judge = replace(self.judge, paused=self.judge.paused | {rule})
        self._show()

    @staticmethod
    def _standing(conn: Connection, policy: CompiledPolicy) -> dict[str, Any]:
        """Lists, snoozes, and the rules of the policy that are paused."""
        version = policy.policy.version
        return {
            "entries": load_entries(conn),
            "snoozes": load_snoozes(conn),
            "paused": frozenset(conn.execute(_PAUSED, {"version": version}).scalars()),
        }

    def _report(self, conn: Connection) -> None:
        """Tell the database what is used, when that changed and every half a minute."""
        now, said = time.monotonic(), (self.judge.policy.policy.version, self._refused and self._refused[0])
        if not self._worker or (said == self._reported[1] and now - self._reported[0] < REPORT_SECONDS):
            return
        refused, why = self._refused or (None, None)
        conn.execute(_REPORT, {"worker": self._worker, "version": said[0], "refused": refused, "why": why})
        self._reported = (now, said)

    def _newer_policy(self, conn: Connection) -> CompiledPolicy | None:
        row = conn.execute(_ACTIVE).one_or_none()
        if row is None or row.version == self._active:
            return None
        self._active, self._refused = row.version, None
        try:
            policy = load_policy(row.document)
        except PolicyRefused as refused:
            self._refused = (row.version, str(refused)[:REFUSAL_MOST])
            self._metrics.gauge(POLICY_REFUSED, self._topic).set(row.version)
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
        self._metrics.gauge(POLICY_VERSION, self._topic).set(self.judge.policy.policy.version)
        self._metrics.gauge(POLICY_REFUSED, self._topic).set(self._refused[0] if self._refused else 0)
        self._metrics.gauge(RULES_PAUSED, self._topic).set(len(self.judge.paused))
