"""What the tests of velocity stores share: a demand, opening stores on the same logs, the oracle's values."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import redis

from detectors.velocity import Floats, Observations
from detectors.velocity_names import OTHERS, demand_of, ordered
from streams.velocity_epoch import Epoch
from streams.velocity_store import (
    MemoryVelocityStore,
    RedisVelocityStore,
    VelocityStore,
)
from tests.unit.velocity_oracle import Oracle

DEMAND = demand_of(
    ordered(
        [
            f"velocity.{kind}.{value}_{window}"
            for kind in ("account", "device", "ip")
            for value in ("count", "sum", *OTHERS[kind])
            for window in ("1m", "1h", "24h", "7d")
        ]
        + ["velocity.staff.stores_30d", "velocity.ip_prefix.avg_45m", "velocity.referrer.seconds_since_first"]
    )
)
LONGEST_MS = DEMAND.coverage.longest_ms
COLUMN = {name: column for column, name in enumerate(DEMAND.names)}
EPOCH, LATER = Epoch("epoch-1", DEMAND.coverage), Epoch("epoch-2", DEMAND.coverage)


@dataclass(frozen=True)
class Backend:
    """Opens stores on the same logs, one for each worker of a test, and tells a log's bytes."""

    url: str | None
    logs: dict[bytes, bytes]

    def run(self, scenario: Callable[..., Awaitable[None]], stores: int = 1, epoch: Epoch = EPOCH) -> None:
        """Run a scenario with so many stores, warm in an epoch."""

        async def main() -> None:
            opened = [self._open(epoch) for _ in range(stores)]
            await opened[0].mark_warm(epoch)
            try:
                await scenario(*opened)
            finally:
                for store in opened:
                    await store.close()

        asyncio.run(main())

    def content(self, prefix: str = "v2:") -> dict[bytes, bytes]:
        """Give logs as they are stored."""
        if self.url is None:
            return {key: log for key, log in self.logs.items() if key.startswith(prefix.encode())}
        with redis.Redis.from_url(self.url) as client:
            return {key: client.get(key) for key in client.keys(prefix + "*")}

    def wipe(self) -> None:
        """Lose everything, as FLUSHALL does."""
        self.logs.clear()
        if self.url is not None:
            with redis.Redis.from_url(self.url) as client:
                client.flushall()

    def _open(self, epoch: Epoch) -> VelocityStore:
        if self.url is None:
            return MemoryVelocityStore(epoch, self.logs)
        return RedisVelocityStore.connect(self.url, epoch)


def expected(oracle: Oracle, observed: Observations) -> Floats:
    """Give the oracle's values as a matrix."""
    return np.array(oracle.observe(observed), dtype=np.float64).reshape(len(observed), len(DEMAND.names))


def column(values: Floats, name: str) -> list[float]:
    """Give one feature of a batch."""
    listed: list[float] = values[:, COLUMN[f"velocity.{name}"]].tolist()
    return listed
