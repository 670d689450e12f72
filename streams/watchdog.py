"""Turns every hang into a restart: a thread that ends the process when work stands still.

Faust can hang in more than one way (a consumer dies slowly, a rebalance never ends, a member is idle for ever); none of
them is worth telling apart at run time. What is not committed comes again, so the cheapest cure is a new process.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import structlog

from streams.exits import HANG

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """When a process counts as hung: seconds without progress with work waiting, seconds the loop is late, MB."""

    stall_seconds: float = 60.0
    loop_late_seconds: float = 10.0
    rss_mb: int = 2048


@dataclass
class Pulse:
    """What the process tells its watchdog. Times are of `time.monotonic`; writes of one float or int need no lock.

    `loop` is when the event loop last turned, None before it first did: a slow start is no hang. `joining` is since
    when a member of a group waits to be told its partitions (none, for a spare one), None while it knows them.
    """

    progress: float = field(default_factory=time.monotonic)
    loop: float | None = None
    work: int = 0
    broker_lag: int | None = 0
    joining: float | None = None

    def beat(self) -> None:
        """Something was committed, or the process waits for a dependency and says so."""
        self.progress = time.monotonic()


def verdict(pulse: Pulse, limits: Limits, now: float, rss_mb: float) -> str | None:
    """Why a process with this pulse should end, or None. `broker_lag` None means that the broker gave no answer."""
    has_work = pulse.work > 0 or pulse.broker_lag is None or pulse.broker_lag > 0
    if has_work and now - pulse.progress > limits.stall_seconds:
        return f"no progress for {now - pulse.progress:.0f} s with work waiting"
    if pulse.joining is not None and now - pulse.joining > limits.stall_seconds:
        return f"no partitions assigned for {now - pulse.joining:.0f} s"
    if pulse.loop is not None and now - pulse.loop > limits.loop_late_seconds:
        return f"event loop late by {now - pulse.loop:.0f} s"
    if rss_mb > limits.rss_mb:
        return f"resident memory {rss_mb:.0f} MB over the limit of {limits.rss_mb} MB"
    return None


async def tick(pulse: Pulse, seconds: float = 1.0) -> None:
    """Tell the watchdog that the event loop turns, for ever."""
    while True:
        pulse.loop = time.monotonic()
        await asyncio.sleep(seconds)


class Watchdog(threading.Thread):
    """Looks at the pulse once a second, on its own thread, and ends the process when `verdict` says so."""

    def __init__(self, pulse: Pulse, limits: Limits, end: Callable[[int], None] = os._exit) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._pulse, self._limits, self._end = pulse, limits, end
        self._stopped = threading.Event()

    def run(self) -> None:
        """Watch until stopped."""
        process = psutil.Process()
        while not self._stopped.wait(1.0):
            rss_mb = process.memory_info().rss / 1e6
            reason = verdict(self._pulse, self._limits, time.monotonic(), rss_mb)
            if reason is not None:
                log.critical("watchdog ends the process", reason=reason, code=HANG)
                self._end(HANG)
                return

    def stop(self) -> None:
        """End the watch; the process is about to end in order."""
        self._stopped.set()
