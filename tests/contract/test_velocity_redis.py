"""What only a real Valkey can show of the velocity store: round trips, expiry, lost scripts, errors by name."""

import asyncio

import pytest
from redis.asyncio import Redis

from detectors.velocity_fold import RAW_MAX
from detectors.velocity_names import DAY_MS
from streams.velocity_store import (
    RENEW_SECONDS,
    RedisVelocityStore,
    VelocityStore,
    VelocityUnavailableError,
    ttl_ms,
)
from tests.contract.velocity_backend import DEMAND, EPOCH, LATER, LONGEST_MS, Backend, column
from tests.unit.velocity_traffic import on_one_address


def test_a_batch_is_one_round_trip(redis_url: str) -> None:
    """One command a batch, whatever it touches; a fold adds one now and then."""

    async def scenario(store: VelocityStore) -> None:
        assert isinstance(store, RedisVelocityStore)
        await store.observe(on_one_address(0, 50, 50), DEMAND)
        async with Redis.from_url(redis_url) as client:
            await client.config_resetstat()
            await store.observe(on_one_address(50, 50, 50), DEMAND)
            calls = {name: stats["calls"] for name, stats in (await client.info("commandstats")).items()}
        assert calls.pop("cmdstat_evalsha") == 1
        assert {"cmdstat_append", "cmdstat_mget", "cmdstat_config|resetstat"} >= set(calls)

    Backend(redis_url, {}).run(scenario)


def test_every_log_expires(redis_url: str) -> None:
    """New logs expire after their last window and a day; the expiry is renewed, but not with each write."""
    now = [0.0]

    async def scenario(_: VelocityStore) -> None:
        async with Redis.from_url(redis_url) as client:
            store = RedisVelocityStore(client, EPOCH, clock=lambda: now[0])
            await store.observe(on_one_address(0, 3, 3), DEMAND)
            keys = list(await client.keys("v2:demo:*"))
            assert len(keys) == 4
            for key in keys:
                assert LONGEST_MS + DAY_MS < await client.pttl(key) <= ttl_ms(DEMAND.coverage)
                await client.pexpire(key, 1_000_000)
            await store.observe(on_one_address(3, 3, 3), DEMAND)
            assert {await client.pttl(key) <= 1_000_000 for key in keys} == {True}
            now[0] = RENEW_SECONDS + 1.0
            await store.observe(on_one_address(6, 3, 3), DEMAND)
            assert {await client.pttl(key) > LONGEST_MS for key in keys} == {True}
            await client.flushall()
            await store.observe(on_one_address(9, 3, 3), DEMAND)
            assert {await client.pttl(key) > LONGEST_MS for key in keys} == {True}
            for turn in range(4):
                await store.observe(on_one_address(100 + turn * (RAW_MAX + 9), RAW_MAX + 9, 3), DEMAND)
            assert {await client.pttl(key) > LONGEST_MS for key in keys} == {True}

    Backend(redis_url, {}).run(scenario)


def test_a_server_that_forgot_the_script_is_served(redis_url: str) -> None:
    """After a restart or SCRIPT FLUSH the script is sent anew."""

    async def scenario(store: VelocityStore) -> None:
        await store.observe(on_one_address(0, 1, 1), DEMAND)
        async with Redis.from_url(redis_url) as client:
            await client.script_flush()
        velocity = await store.observe(on_one_address(1, 1, 1), DEMAND)
        assert column(velocity.values, "ip.count_1m") == [1.0]

    Backend(redis_url, {}).run(scenario)


def test_an_unreachable_store_is_named(redis_url: str) -> None:
    """No connection, a wrong password and a full memory all raise the one error that means: try again."""

    async def refused(url: str) -> None:
        store = RedisVelocityStore.connect(url, EPOCH, timeout_seconds=0.5)
        for attempt in (
            store.observe(on_one_address(0, 1, 1), DEMAND),
            store.mark_warm(LATER),
            store.is_cold(),
            store.clear(),
        ):
            with pytest.raises(VelocityUnavailableError):
                await attempt
        assert store.epoch == EPOCH
        await store.close()

    async def full(store: VelocityStore) -> None:
        async with Redis.from_url(redis_url) as client:
            await client.config_set("maxmemory", 1)
            try:
                with pytest.raises(VelocityUnavailableError, match="OutOfMemoryError"):
                    await store.observe(on_one_address(0, 1, 1), DEMAND)
            finally:
                await client.config_set("maxmemory", 0)
        assert not (await store.observe(on_one_address(0, 1, 1), DEMAND)).cold

    asyncio.run(refused("redis://127.0.0.1:1/0"))
    asyncio.run(refused(redis_url.replace("redis://:", "redis://:wrong")))
    Backend(redis_url, {}).run(full)
