"""The velocity stage: one round trip a batch, and the rebuilding of what a store does not hold.

A cold store (flushed, failed over, restarted without its file) is noticed by its epoch, which PostgreSQL keeps, too.
One worker then reads the last days' decisions and appends them again; what was counted meanwhile is recognised by
event, so nothing counts twice. Until that is done, values are marked cold, and outflows are held. The same is done for
single kinds when a new policy demands one, or a longer memory of one; policies that don't read it go on as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from sqlalchemy import Connection, Engine, text

from detectors.entity import Keys
from detectors.layout import Floats, Layout
from detectors.velocity import HistoryRow, Observations, Observed, history, observations
from detectors.velocity_names import KINDS, LATE_MS, Coverage, demand_of
from streams.errors import dependency_down, described
from streams.records import Incoming
from streams.velocity_epoch import Epoch
from streams.velocity_store import IN_FLIGHT_BATCHES, VelocityStore

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_REBUILD_LOCK = 0x7665_6C6F
CHUNK_ROWS = 20_000
RECENT_BATCHES = IN_FLIGHT_BATCHES
"""Batches a worker puts back: those it may have had in flight when the history was read. What was observed earlier is
committed, so it is in the history, and may have been folded: put back it would count twice."""

log = structlog.get_logger()

_TOKEN = text("SELECT token FROM velocity_epoch")
_SET_TOKEN = text("""
INSERT INTO velocity_epoch (token) VALUES (:token)
ON CONFLICT (singleton) DO UPDATE SET token = excluded.token, since = clock_timestamp()""")
_HISTORY = text("""
SELECT d.decision_id, d.program, d.source, d.event_id, d.account, d.device, d.ip, d.ip_prefix, d.payment,
       CASE WHEN d.type <> 'reverse' THEN d.points END AS points,
       CASE WHEN d.type = 'transfer' THEN d.event ->> 'to' END AS receiver,
       d.event ->> 'store' AS store, d.event ->> 'staff' AS staff, d.event ->> 'campaign' AS campaign,
       d.event ->> 'referrer' AS referrer, (date_part('epoch', d.occurred_at) * 1000)::bigint AS time_ms
  FROM decision d JOIN program p ON p.program = d.program
 WHERE d.occurred_at > coalesce(p.clock, now()) - make_interval(secs => :seconds) AND d.decision_id > :after
 ORDER BY d.decision_id LIMIT :most""")


def stored_epoch(conn: Connection) -> Epoch | None:
    """The epoch a warm store carries, or None before the first start."""
    text_form: str | None = conn.execute(_TOKEN).scalar_one_or_none()
    return None if text_form is None else Epoch.parse(text_form)


class Observer:
    """The velocity stage of one worker. `wanted` gives the layout of the policy in force."""

    def __init__(self, store: VelocityStore, engine: Engine, keys: Keys, wanted: Callable[[], Layout]) -> None:
        self._store, self._engine, self._keys, self._wanted = store, engine, keys, wanted
        self._recent: deque[list[Observed]] = deque(maxlen=RECENT_BATCHES)
        self._looked = asyncio.Event()

    async def observe(
        self, records: Sequence[Incoming], moments: Sequence[tuple[int, int]], layout: Layout
    ) -> tuple[Floats, bool]:
        """The layout's velocity beside `records` (zeros for refused ones), and whether the store is cold."""
        demand = demand_of(layout.velocity)
        values = np.zeros((len(records), len(demand.names)))
        seen = [i for i, record in enumerate(records) if record.invalid is None and record.event is not None]
        if not seen:
            return values, False
        observed = [Observed(event, moments[i][0]) for i in seen if (event := records[i].event) is not None]
        self._recent.append(observed)
        batch = self._observations(observed, demand.coverage)
        known = self._store.epoch
        velocity = await self._store.observe(batch, demand)
        behind = False
        if velocity.cold and await self._epoch_is_new(known):
            # A worker that has just started did not know the store yet: the same batch adds nothing. Or another worker
            # has made it anew since this one last looked: this batch came before those that were put back, and does
            # not see them.
            behind = known is not None and len(self._recent) > 1
            velocity = await self._store.observe(self._observations(observed, demand.coverage), demand)
        values[np.array(seen, dtype=np.intp)] = velocity.values
        return values, velocity.cold or behind

    def _observations(self, observed: Sequence[Observed], demanded: Coverage) -> Observations:
        known = Coverage() if self._store.epoch is None else self._store.epoch.coverage
        return observations(observed, self._keys, known.joined(demanded).kinds)

    async def keep_warm(self, seconds: float = 1.0) -> None:
        """Look for a cold store once in a while, for ever, and rebuild it; one worker at a time does."""
        while True:
            try:
                await self.warm_up()
                self._looked.set()
            except Exception as error:  # sorted at once: a dependency's is waited for, any other goes on up
                dependency = dependency_down(error)
                if dependency is None:
                    raise
                log.warning("cannot look after the velocity store", service=dependency, error=described(error))
            await asyncio.sleep(seconds)

    async def settled(self, seconds: float) -> None:
        """Wait for the end of the first look, but not long: a large rebuild goes on beside cold decisions."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), seconds)

    async def warm_up(self) -> int:
        """Rebuild what the store lacks, unless somebody else is at it; how many events were put back."""
        await self._adopt(await asyncio.to_thread(self._read_epoch))
        if not await self._lacks():
            return 0
        conn = await asyncio.to_thread(self._engine.connect)
        try:
            locked = await asyncio.to_thread(
                lambda: conn.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _REBUILD_LOCK}).scalar_one()
            )
            if not locked:
                return 0
            # Somebody else may have rebuilt it while this worker was on its way to the lock.
            await self._adopt(await asyncio.to_thread(self._read_epoch))
            return await self._rebuild(conn) if await self._lacks() else 0
        finally:
            await asyncio.to_thread(conn.invalidate)  # ends the session, and with it the lock
            await asyncio.to_thread(conn.close)

    async def _lacks(self) -> bool:
        """Whether the store is cold, or does not reach as far as the policy in force demands."""
        epoch, demanded = self._store.epoch, demand_of(self._wanted().velocity).coverage
        return epoch is None or bool(epoch.coverage.lacks(demanded)) or await self._store.is_cold()

    async def _epoch_is_new(self, known: Epoch | None) -> bool:
        """Take over the epoch that PostgreSQL names; whether it is another than `known`, which a batch was read under.

        It may have been taken over while that batch was on its way.
        """
        await self._adopt(await asyncio.to_thread(self._read_epoch))
        return self._store.epoch != known

    async def _adopt(self, epoch: Epoch | None) -> None:
        """Take over the epoch that counts. The logs that are new in it were made from what had been committed.

        What this worker had in flight then was in neither the store nor the database, so it adds its latest batches
        once more; copies are recognised by event.
        """
        known, self._store.epoch = self._store.epoch, epoch
        if known is not None and epoch is not None and epoch != known:
            await self._put_back(epoch.grown_since(known))

    async def _put_back(self, coverage: Coverage) -> None:
        if coverage.kinds:
            for observed in tuple(self._recent):
                await self._store.rebuild(observations(observed, self._keys, coverage.kinds), coverage)

    async def _rebuild(self, conn: Connection) -> int:
        """Make anew what the store lacks: all of it, or the kinds that do not reach far enough."""
        started, demanded = time.monotonic(), demand_of(self._wanted().velocity).coverage
        epoch = self._store.epoch
        # What an earlier rebuild left, which may have been cut off, must not count twice.
        if epoch is None or await self._store.is_cold():
            epoch, missing = Epoch(secrets.token_hex(16), Coverage()), demanded
            await self._store.clear()
        else:
            missing = demanded.of(epoch.coverage.lacks(demanded))
            # From here on the logs that are made anew are cold for everybody, the others stay warm.
            epoch = dataclasses.replace(epoch, coverage=epoch.coverage.without(missing.kinds))
            await asyncio.to_thread(self._write_epoch, conn, epoch)
            await self._store.mark_warm(epoch)
            await self._store.clear(missing.kinds)
        rows = await self._read_back(conn, missing)
        epoch = dataclasses.replace(epoch, coverage=epoch.coverage.joined(missing))
        await asyncio.to_thread(self._write_epoch, conn, epoch)
        await self._put_back(missing)
        await self._store.mark_warm(epoch)
        kinds, seconds = [KINDS[kind] for kind in missing.kinds], round(time.monotonic() - started, 2)
        log.info("velocity store is warm", count=rows, kinds=kinds, seconds=seconds)
        return rows

    async def _read_back(self, conn: Connection, missing: Coverage) -> int:
        """Append the history of some kinds, oldest first; how many events there were."""
        rows, after = 0, 0
        while True:
            chunk, after = await asyncio.to_thread(self._read_chunk, conn, after, (missing.longest_ms + LATE_MS) / 1000)
            if not chunk:
                return rows
            await self._store.rebuild(history(chunk, self._keys, missing.kinds), missing)
            rows += len(chunk)

    def _read_epoch(self) -> Epoch | None:
        with self._engine.connect() as conn:
            return stored_epoch(conn)

    @staticmethod
    def _write_epoch(conn: Connection, epoch: Epoch) -> None:
        conn.execute(_SET_TOKEN, {"token": epoch.text})
        conn.commit()

    @staticmethod
    def _read_chunk(conn: Connection, after: int, seconds: float) -> tuple[list[HistoryRow], int]:
        rows = conn.execute(_HISTORY, {"seconds": seconds, "after": after, "most": CHUNK_ROWS}).all()
        conn.commit()
        return [
            HistoryRow(
                row.program,
                row.source,
                row.event_id,
                row.account,
                row.time_ms,
                abs(row.points or 0),
                device=_bytes(row.device),
                ip=_bytes(row.ip),
                ip_prefix=_bytes(row.ip_prefix),
                store=row.store,
                staff=row.staff,
                campaign=row.campaign,
                payment=_bytes(row.payment),
                referrer=row.referrer,
                to=row.receiver,
            )
            for row in rows
        ], (rows[-1].decision_id if rows else after)


def _bytes(value: memoryview | bytes | None) -> bytes | None:
    return None if value is None else bytes(value)
