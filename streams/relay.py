"""The relay: publishes the outbox, decides due holds, expires due lots, folds control accounts' tails, and measures.

Everything it takes is taken with `FOR UPDATE SKIP LOCKED`, so several relays may run beside each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alerts.metrics import (
    ANCHORED,
    HOLDS_OLDEST,
    HOLDS_OPEN,
    HOLDS_POINTS,
    LINK_CLUSTERS,
    LINK_HUBS,
    LINK_LARGEST,
    LOTS_EXPIRED,
    OUTBOX,
    PUBLISHED,
    READY,
    TIMEOUTS,
    Metrics,
)
from ledger.book import Resolved
from ledger.ids import IdBlocks
from ledger.lots import LotsError
from ledger.store_lots import LedgerConflictError
from streams import outbox, review
from streams.anchoring import Anchorer, Anchoring
from streams.effects import Outgoing
from streams.errors import dependency_down, described
from streams.link_views import totals
from streams.outbox import Message
from streams.watchdog import Pulse, tick

log = structlog.get_logger()

_GAUGES = text("""
SELECT h.kind, count(*) AS holds, sum(h.amount) AS points,
       max(extract(epoch FROM coalesce(p.clock, now()) - h.opened_at)) AS oldest
  FROM hold h JOIN program p ON p.program = h.program WHERE h.resolved_at IS NULL GROUP BY h.kind""")
_OUTBOX_ROWS = text("SELECT count(*) FROM outbox")
_REFUSALS = (DBAPIError, LedgerConflictError, LotsError)
EXPIRY_BATCHES = 10
"""Transactions of expiry in one run of the housekeeping: more waits for the next."""
HOLD_KINDS = ("earn", "redeem", "transfer", "adjust")


@dataclass(frozen=True)
class RelayParams:
    """Where decisions of timers go, messages in one publishing transaction, and how long to wait between runs."""

    topics: Outgoing
    most: int = 2000
    idle_seconds: float = 0.05
    housekeeping_seconds: float = 1.0
    anchoring: Anchoring | None = None


class Relay:
    """One relay process: `run` until cancelled."""

    def __init__(
        self, engine: Engine, producer: AIOKafkaProducer, metrics: Metrics, pulse: Pulse, params: RelayParams
    ) -> None:
        self._engine, self._producer, self._metrics = engine, producer, metrics
        self._pulse, self._params, self._ids = pulse, params, IdBlocks()

    async def run(self) -> None:
        """Publish and keep house until cancelled; a dependency that is down is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_loop())
            group.create_task(self._housekeeping_loop())
            group.create_task(self._anchor_loop())
            group.create_task(tick(self._pulse))

    async def _publish_loop(self) -> None:
        while True:
            published = await self._guarded(self.publish())
            self._pulse.beat()
            if not published:
                await asyncio.sleep(self._params.idle_seconds)

    async def _housekeeping_loop(self) -> None:
        while True:
            await self._guarded(asyncio.to_thread(self.keep_house))
            await asyncio.sleep(self._params.housekeeping_seconds)

    async def _anchor_loop(self) -> None:
        anchoring = self._params.anchoring
        if anchoring is None:
            log.warning("no key to sign anchors with: a rewritten audit chain would not be found")
            return
        anchorer = Anchorer(self._engine, self._producer, anchoring)
        while True:
            if await self._guarded(anchorer.anchor()):
                self._metrics.gauge(ANCHORED).set(time.time())
            await asyncio.sleep(anchoring.seconds)

    async def _guarded(self, work: Awaitable[int]) -> int:
        try:
            return await work
        except Exception as error:  # sorted at once: a dependency's is waited for, any other goes on up
            dependency = "kafka" if isinstance(error, KafkaError | OSError) else dependency_down(error)
            if dependency is None:
                raise
            log.warning("relay waits for a dependency", service=dependency, error=described(error))
            self._metrics.gauge(READY, dependency).set(0)
            await asyncio.sleep(1.0)
            return 0

    async def publish(self) -> int:
        """Publish the oldest messages of the outbox and forget them once the broker has them all; how many."""
        taken = await asyncio.to_thread(self._take)
        if taken is None:
            return 0
        conn, messages = taken
        try:
            sent = [await self._producer.send(m.topic, value=m.value, key=m.key) for m in messages]
            await asyncio.gather(*sent)
            await asyncio.to_thread(conn.commit)
        finally:
            await asyncio.to_thread(conn.close)
        self._metrics.gauge(READY, "kafka").set(1)
        for topic, count in Counter(message.topic for message in messages).items():
            self._metrics.counter(PUBLISHED, topic).inc(count)
        return len(messages)

    def _take(self) -> tuple[Connection, list[Message]] | None:
        """Open a transaction that holds the oldest messages; None, with nothing left open, when there are none."""
        conn = self._engine.connect()
        try:
            messages = outbox.take(conn, self._params.most)
        except BaseException:
            conn.close()
            raise
        if not messages:
            conn.close()
            return None
        return conn, messages

    def keep_house(self) -> int:
        """Decide due holds, expire lots, fold control accounts, refresh the gauges; how many holds were decided."""
        decided = self._decide_due()
        for verdict, count in Counter(one.verdict or "none" for one in decided).items():
            self._metrics.counter(TIMEOUTS, verdict).inc(count)
        self._expire_lots()
        with self._engine.begin() as conn:
            review.fold_controls(conn)
        with self._engine.connect() as conn:
            rows = {row.kind: row for row in conn.execute(_GAUGES)}
            self._metrics.gauge(OUTBOX).set(conn.execute(_OUTBOX_ROWS).scalar_one())
            links = totals(conn)
        for kind in HOLD_KINDS:
            row = rows.get(kind)
            self._metrics.gauge(HOLDS_OPEN, kind).set(row.holds if row else 0)
            self._metrics.gauge(HOLDS_POINTS, kind).set(int(row.points) if row else 0)
        self._metrics.gauge(HOLDS_OLDEST).set(max((float(row.oldest) for row in rows.values()), default=0.0))
        self._metrics.gauge(LINK_CLUSTERS).set(links.clusters)
        self._metrics.gauge(LINK_LARGEST).set(links.largest)
        for kind, hubs in links.hubs.items():
            self._metrics.gauge(LINK_HUBS, kind).set(hubs)
        self._metrics.gauge(READY, "postgresql").set(1)
        return len(decided)

    def _decide_due(self) -> list[Resolved]:
        """Decide due holds together; when one of them cannot be decided, each alone, so that it stops no other."""
        topics = self._params.topics
        try:
            with self._engine.begin() as conn:
                return review.decide_due(conn, self._ids, topics)
        except _REFUSALS as error:
            if dependency_down(error) is not None:
                raise
            log.error("due holds refused, trying each alone", error=described(error))  # noqa: TRY400  # no data in logs
        decided: list[Resolved] = []
        with self._engine.connect() as conn:
            waiting = review.due_now(conn)
        for hold in waiting:
            try:
                with self._engine.begin() as conn:
                    decided += review.decide_one(conn, self._ids, topics, hold)
            except _REFUSALS as error:
                if dependency_down(error) is not None:
                    raise
                log.error("a due hold cannot be decided", seq=hold.hold_id, error=described(error))  # noqa: TRY400 - no data in logs
        return decided

    def _expire_lots(self) -> None:
        """Expire due lots, a bounded number of batches; what can't be is told, and stops nothing else."""
        try:
            for _ in range(EXPIRY_BATCHES):
                with self._engine.begin() as conn:
                    expired = review.expire_lots(conn, self._ids)
                self._metrics.counter(LOTS_EXPIRED).inc(expired)
                if expired < review.EXPIRED_MOST:
                    return
        except _REFUSALS as error:
            if dependency_down(error) is not None:
                raise
            log.error("due lots refused", error=described(error))  # noqa: TRY400 - no data in logs
