"""The velocity stage: one round trip a batch, and the rebuilding of a store that lost its memory.

A cold store (flushed, failed over, restarted without its file) is noticed by its epoch token, which PostgreSQL keeps,
too. One worker then reads the last days' decisions and appends them again; what was counted meanwhile is recognised by
event, so nothing counts twice. Until that is done, values are marked cold, and outflows are held.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import structlog
from sqlalchemy import Connection, Engine, text

from detectors.entity import Keys
from detectors.layout import Floats, Layout, by_name
from detectors.velocity import VELOCITY_FEATURES, WINDOWS, HistoryRow, Observations, Observed, history, observations
from streams.errors import dependency_down, described
from streams.records import Incoming
from streams.velocity_store import VelocityStore

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_REBUILD_LOCK = 0x7665_6C6F
CHUNK_ROWS = 20_000
RECENT_BATCHES = 128
"""Batches a worker can put back: at least as many as it may have in flight while a rebuild goes on."""

_ALL = Layout(VELOCITY_FEATURES)

log = structlog.get_logger()

_TOKEN = text("SELECT token FROM velocity_epoch")
_SET_TOKEN = text("""
INSERT INTO velocity_epoch (token) VALUES (:token)
ON CONFLICT (singleton) DO UPDATE SET token = excluded.token, since = clock_timestamp()""")
_HISTORY = text("""
SELECT d.decision_id, d.program, d.source, d.event_id, d.account, d.device, d.ip,
       CASE WHEN d.type <> 'reverse' THEN d.points END AS points,
       CASE WHEN d.type = 'transfer' THEN d.event ->> 'to' END AS receiver,
       (date_part('epoch', d.occurred_at) * 1000)::bigint AS time_ms
  FROM decision d JOIN program p ON p.program = d.program
 WHERE d.occurred_at > coalesce(p.clock, now()) - make_interval(secs => :seconds) AND d.decision_id > :after
 ORDER BY d.decision_id LIMIT :most""")


def epoch_token(conn: Connection) -> str | None:
    """The token a warm store carries, or None before the first start."""
    token: str | None = conn.execute(_TOKEN).scalar_one_or_none()
    return token


class Observer:
    """The velocity stage of one worker."""

    def __init__(self, store: VelocityStore, engine: Engine, keys: Keys) -> None:
        self._store, self._engine, self._keys = store, engine, keys
        self._recent: deque[Observations] = deque(maxlen=RECENT_BATCHES)
        self._looked = asyncio.Event()

    async def observe(
        self, records: Sequence[Incoming], moments: Sequence[tuple[int, int]], layout: Layout
    ) -> tuple[Floats, bool]:
        """The layout's velocity beside `records` (zeros for refused ones), and whether the store is cold."""
        values = np.zeros((len(records), len(layout.velocity)))
        seen = [i for i, record in enumerate(records) if record.invalid is None and record.event is not None]
        if not seen:
            return values, False
        observed = [Observed(event, moments[i][0]) for i in seen if (event := records[i].event) is not None]
        batch = observations(observed, self._keys)
        self._recent.append(batch)
        velocity = await self._store.observe(batch)
        if velocity.cold and await self._token_is_new():
            # Another worker has made the store warm since this one last looked. The same batch adds nothing.
            velocity = await self._store.observe(batch)
        values[np.array(seen, dtype=np.intp)] = by_name(velocity.values, _ALL, layout.velocity)
        return values, velocity.cold

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
        """Rebuild the store if it is cold and nobody else is at it; how many events were put back."""
        await self._adopt(await asyncio.to_thread(self._read_token))
        if not await self._store.is_cold():
            return 0
        conn = await asyncio.to_thread(self._engine.connect)
        try:
            locked = await asyncio.to_thread(
                lambda: conn.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _REBUILD_LOCK}).scalar_one()
            )
            if not locked:
                return 0
            # Somebody else may have rebuilt it while this worker was on its way to the lock.
            await self._adopt(await asyncio.to_thread(self._read_token))
            return await self._rebuild(conn) if await self._store.is_cold() else 0
        finally:
            await asyncio.to_thread(conn.invalidate)  # ends the session, and with it the lock
            await asyncio.to_thread(conn.close)

    async def _token_is_new(self) -> bool:
        """Look whether PostgreSQL names another token than this worker knows, and take it over."""
        known = self._store.epoch
        await self._adopt(await asyncio.to_thread(self._read_token))
        return self._store.epoch != known

    async def _adopt(self, token: str | None) -> None:
        """Take over the token that counts. Under a new one the store was made anew from what had been committed.

        What this worker had in flight then was in neither the store nor the database, so it adds its latest batches
        once more; copies are recognised by event.
        """
        known, self._store.epoch = self._store.epoch, token
        if known is not None and token != known:
            for batch in tuple(self._recent):
                await self._store.rebuild(batch)

    async def _rebuild(self, conn: Connection) -> int:
        started, rows, after = time.monotonic(), 0, 0
        # An earlier rebuild may have been cut off: what it put back must not count twice.
        await self._store.clear()
        while True:
            chunk, after = await asyncio.to_thread(self._read_chunk, conn, after)
            if not chunk:
                break
            await self._store.rebuild(history(chunk, self._keys))
            rows += len(chunk)
        token = secrets.token_hex(16)
        await asyncio.to_thread(self._write_token, conn, token)
        for batch in tuple(self._recent):
            await self._store.rebuild(batch)
        await self._store.mark_warm(token)
        log.info("velocity store is warm", count=rows, seconds=round(time.monotonic() - started, 2))
        return rows

    def _read_token(self) -> str | None:
        with self._engine.connect() as conn:
            return epoch_token(conn)

    @staticmethod
    def _write_token(conn: Connection, token: str) -> None:
        conn.execute(_SET_TOKEN, {"token": token})
        conn.commit()

    @staticmethod
    def _read_chunk(conn: Connection, after: int) -> tuple[list[HistoryRow], int]:
        seconds = max(WINDOWS.values()) / 1000
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
                None if row.device is None else bytes(row.device),
                None if row.ip is None else bytes(row.ip),
                row.receiver,
            )
            for row in rows
        ], (rows[-1].decision_id if rows else after)
