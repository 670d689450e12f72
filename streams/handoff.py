"""The bounded queue between the pump and the batcher, and the gathering of record batches into one transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BatchParams:
    """How much one transaction takes: records at most (about, a fetch is never split) and seconds to wait for more."""

    max_records: int = 500
    linger_seconds: float = 0.02


class Handoff:
    """Record batches on their way from the pump; `put` waits while `depth` of them are not taken yet."""

    def __init__(self, params: BatchParams, depth: int = 4) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=depth)
        self._params = params
        self._getter: asyncio.Task[Any] | None = None

    async def put(self, event: Any) -> None:
        """Hand one record batch over."""
        await self._queue.put(event)

    async def gather(self) -> list[Any]:
        """Record batches for one transaction: at least one, then more until there is enough or the time is up.

        The time runs from the first one's arrival; nothing is awaited while batches are waiting already.
        """
        first = await self._next(None)
        events, records = [first], len(first.value.records)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._params.linger_seconds
        while records < self._params.max_records:
            event = await self._next(max(0.0, deadline - loop.time()))
            if event is None:
                break
            events.append(event)
            records += len(event.value.records)
        return events

    async def _next(self, seconds: float | None) -> Any:
        # A cancelled `Queue.get` may swallow its item; the getter therefore outlives a wait that ran out of time.
        if self._getter is None:
            if not self._queue.empty():
                return self._queue.get_nowait()
            if seconds == 0.0:
                return None
            self._getter = asyncio.ensure_future(self._queue.get())
        done, _ = await asyncio.wait({self._getter}, timeout=seconds)
        if not done:
            return None
        getter, self._getter = self._getter, None
        return getter.result()
