"""One contract for both velocity stores, the twin in memory and a real Valkey, and what only Valkey can show."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import redis
from redis.asyncio import Redis

from detectors.velocity import VELOCITY_FEATURES, WINDOW_MS_MAX, Floats, Observations
from detectors.velocity_fold import RAW_MAX
from streams.velocity_store import (
    BATCH_MAX,
    EPOCH_KEY,
    RENEW_SECONDS,
    TTL_MS,
    MemoryVelocityStore,
    RedisVelocityStore,
    VelocityStore,
    VelocityUnavailableError,
)
from tests.unit.velocity_oracle import Oracle
from tests.unit.velocity_traffic import START_MS, Mix, batch, on_one_address

COLUMN = {name: column for column, name in enumerate(VELOCITY_FEATURES)}
EPOCH = "epoch-1"


@dataclass(frozen=True)
class Backend:
    """Opens stores on the same logs, one for each worker of a test, and tells a log's bytes."""

    url: str | None
    logs: dict[bytes, bytes]

    def run(self, scenario: Callable[..., Awaitable[None]], stores: int = 1) -> None:
        """Run a scenario with so many stores."""

        async def main() -> None:
            opened = [self._open() for _ in range(stores)]
            await opened[0].mark_warm(EPOCH)
            try:
                await scenario(*opened)
            finally:
                for store in opened:
                    await store.close()

        asyncio.run(main())

    def content(self, prefix: str = "v:") -> dict[bytes, bytes]:
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

    def _open(self) -> VelocityStore:
        return (
            MemoryVelocityStore(EPOCH, self.logs) if self.url is None else RedisVelocityStore.connect(self.url, EPOCH)
        )


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Give each store in turn."""
    return Backend(request.getfixturevalue("redis_url") if request.param == "redis" else None, {})


def expected(oracle: Oracle, observed: Observations) -> Floats:
    """Give the oracle's values as a matrix."""
    return np.array(oracle.observe(observed), dtype=np.float64).reshape(len(observed), len(VELOCITY_FEATURES))


def column(values: Floats, name: str) -> list[float]:
    """Give one feature of a batch."""
    listed: list[float] = values[:, COLUMN[f"velocity.{name}"]].tolist()
    return listed


def test_batches_equal_the_oracle(backend: Backend, rng: random.Random) -> None:
    """Through either store, from two workers in turn, values are the contract's."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        oracle = Oracle()
        for turn in range(12):
            observed = batch(rng, rng.randrange(30), Mix(30, 400, 100_000), START_MS + turn * 50_000)
            velocity = await (one if turn % 2 else other).observe(observed)
            assert np.array_equal(velocity.values, expected(oracle, observed))
            assert not velocity.approximate.any()
            assert not velocity.cold

    backend.run(scenario, stores=2)


def test_a_batch_delivered_again_gets_the_same_values(backend: Backend, rng: random.Random) -> None:
    """After a crash between the store and COMMIT, another worker asks again, with others' batches between."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        oracle = Oracle()
        batches = [batch(rng, 25, Mix(6, 10**9, 5_000), START_MS + turn * 5_000) for turn in range(4)]
        first = [(await one.observe(observed)).values for observed in batches]
        for turn in (1, 3, 2, 2, 0):
            assert np.array_equal((await other.observe(batches[turn])).values, first[turn])
        for observed in batches:
            expected(oracle, observed)
        after = batch(rng, 25, Mix(6, 10**9, 5_000), START_MS + 20_000)
        assert np.array_equal((await other.observe(after)).values, expected(oracle, after))

    backend.run(scenario, stores=2)


def test_a_batch_cut_otherwise_gets_the_same_values(backend: Backend, rng: random.Random) -> None:
    """Redelivered events need not come in the batches of the first time."""

    async def scenario(store: VelocityStore) -> None:
        observed = batch(rng, 40, Mix(4, 10**9, 5_000))
        first = (await store.observe(observed)).values
        for start, stop in ((0, 7), (7, 31), (31, 40)):
            assert np.array_equal((await store.observe(observed.part(start, stop))).values, first[start:stop])

    backend.run(scenario)


def test_large_and_empty_batches(backend: Backend, rng: random.Random) -> None:
    """A batch beyond a script's size gives what its parts give; an empty one gives nothing."""

    async def scenario(store: VelocityStore) -> None:
        observed = batch(rng, BATCH_MAX + 50, Mix(400, 10**9, 100_000))
        velocity = await store.observe(observed)
        assert np.array_equal(velocity.values, expected(Oracle(), observed))
        nothing = await store.observe(observed.part(0, 0))
        assert nothing.values.shape == (0, len(VELOCITY_FEATURES))
        assert not nothing.cold

    backend.run(scenario)


def test_a_store_without_its_token_is_cold(backend: Backend) -> None:
    """Flushed, never warmed, or warmed under another token: values say so, until both sides agree again."""

    async def scenario(store: VelocityStore) -> None:
        observed = on_one_address(0, 2, 2)
        assert not (await store.observe(observed)).cold
        assert not await store.is_cold()
        backend.wipe()
        assert (await store.observe(observed)).cold
        assert await store.is_cold()
        await store.mark_warm("epoch-2")
        assert store.epoch == "epoch-2"
        assert not (await store.observe(observed)).cold
        store.epoch = EPOCH
        assert (await store.observe(observed)).cold
        store.epoch = None
        assert (await store.observe(observed)).cold
        assert await store.is_cold()

    backend.run(scenario)


def test_a_rebuilt_store_knows_what_was(backend: Backend, rng: random.Random) -> None:
    """History appended after a loss gives the values there would have been, also beside live events."""

    async def scenario(store: VelocityStore) -> None:
        oracle = Oracle()
        past = batch(rng, 700, Mix(200, 10**9, 10_000_000))
        live = batch(rng, 20, Mix(200, 10**9, 1_000), START_MS + 10_000_000)
        await store.observe(live)
        await store.rebuild(past)
        await store.rebuild(live)
        await store.mark_warm("epoch-2")
        expected(oracle, past)
        expected(oracle, live)
        later = batch(rng, 50, Mix(200, 10**9, 1_000), START_MS + 10_002_000)
        velocity = await store.observe(later)
        assert np.array_equal(velocity.values, expected(oracle, later))
        assert not velocity.cold

    backend.run(scenario)


def test_clearing_forgets_logs_and_token(backend: Backend, rng: random.Random) -> None:
    """Before a rebuild nothing may be left of an interrupted one."""

    async def scenario(store: VelocityStore) -> None:
        await store.observe(batch(rng, 100, Mix(50, 10**9, 1_000)))
        await store.clear()
        assert backend.content() == {}
        assert await store.is_cold()

    backend.run(scenario)


def test_a_hot_address_costs_no_more_at_the_end(backend: Backend) -> None:
    """Of 100,000 events on one address the last cost as many bytes as early ones; counts stay right to a bucket."""
    size, batches = 250, 400

    async def scenario(store: VelocityStore) -> None:
        lengths = []
        velocity = await store.observe(on_one_address(0, size, 3_000))
        for turn in range(1, batches):
            velocity = await store.observe(on_one_address(turn * size, size, 3_000))
            if turn % 20 == 19 or turn > batches - 5:
                lengths.append(max(map(len, backend.content("v:demo:ip:").values())))
        values = velocity.values
        assert max(lengths[-8:]) < 1.3 * lengths[1]
        assert max(lengths) < 120_000
        assert velocity.approximate.all()
        last = size * batches - 1
        for name, exact in (("count_1m", 6_000), ("count_24h", last), ("count_7d", last), ("sum_7d", 10 * last)):
            assert column(values, f"ip.{name}")[-1] == pytest.approx(exact, rel=1 / 50)
        assert column(values, "ip.accounts_7d")[-1] == pytest.approx(3_000, rel=0.3)

    backend.run(scenario)


def test_few_others_stay_exact_on_a_hot_address(backend: Backend) -> None:
    """A hundred and twenty accounts behind one address are counted as such, however many events they send."""

    async def scenario(store: VelocityStore) -> None:
        for turn in range(19):
            await store.observe(on_one_address(turn * 200, 200, 120))
        velocity = await store.observe(on_one_address(3_800, 200, 120))
        assert velocity.approximate.all()
        assert set(column(velocity.values, "ip.accounts_7d")) == {120.0}
        assert set(column(velocity.values, "ip.accounts_1m")) == {120.0}

    backend.run(scenario)


def test_events_in_flight_are_not_folded(backend: Backend) -> None:
    """A hot batch that comes again after a crash finds its own first copies, and adds nothing."""

    async def scenario(store: VelocityStore) -> None:
        for turn in range(4):
            await store.observe(on_one_address(turn * 300, 300, 40))
        one, two = on_one_address(1_200, 300, 40), on_one_address(1_500, 300, 40)
        first, second = await store.observe(one), await store.observe(two)
        for observed, before in ((one, first), (two, second), (two, second)):
            again = await store.observe(observed)
            assert column(again.values, "ip.count_7d") == column(before.values, "ip.count_7d")
            assert column(again.values, "ip.accounts_7d") == column(before.values, "ip.accounts_7d")
        after = await store.observe(on_one_address(1_800, 1, 40))
        assert column(after.values, "ip.count_7d") == [1_800.0]

    backend.run(scenario)


def test_two_workers_never_fold_one_log_twice(backend: Backend) -> None:
    """Both read the same long log and fold it; the second finds it changed and leaves it, appends since are kept."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        def of(place: int) -> Observations:
            return on_one_address(place, 100, 7)

        for turn in range(12):
            await asyncio.gather(one.observe(of(turn * 200)), other.observe(of(turn * 200 + 100)))
        velocity = await one.observe(on_one_address(2_400, 1, 7))
        assert column(velocity.values, "ip.count_7d") == [2_400.0]
        assert column(velocity.values, "ip.sum_7d") == [24_000.0]

    backend.run(scenario, stores=2)


def test_logs_are_named_by_programme_and_kind(backend: Backend) -> None:
    """Keys begin with the programme and hold no raw value."""

    async def scenario(store: VelocityStore) -> None:
        observed = replace(on_one_address(0, 2, 2), programs=("a", "b"), program=np.array([0, 1]))
        await store.observe(replace(observed, entity=observed.entity + np.arange(2, dtype=np.uint64)[:, None]))

    backend.run(scenario)
    names = sorted(key.decode().rsplit(":", 1)[0] for key in backend.content() if key != EPOCH_KEY)
    assert names == ["v:a:account", "v:a:ip", "v:b:account", "v:b:device", "v:b:ip"]
    assert all(len(key.decode().rsplit(":", 1)[1]) == 16 for key in backend.content() if key != EPOCH_KEY)


def test_a_batch_is_one_round_trip(redis_url: str) -> None:
    """One command a batch, whatever it touches; a fold adds one now and then."""

    async def scenario(store: VelocityStore) -> None:
        assert isinstance(store, RedisVelocityStore)
        await store.observe(on_one_address(0, 50, 50))
        async with Redis.from_url(redis_url) as client:
            await client.config_resetstat()
            await store.observe(on_one_address(50, 50, 50))
            calls = {name: stats["calls"] for name, stats in (await client.info("commandstats")).items()}
        assert calls.pop("cmdstat_evalsha") == 1
        assert {"cmdstat_append", "cmdstat_mget", "cmdstat_config|resetstat"} >= set(calls)

    Backend(redis_url, {}).run(scenario)


def test_every_log_expires(redis_url: str) -> None:
    """New logs expire after their last window and a day; the expiry is renewed, but not with each write."""
    now = [0.0]

    async def scenario(_: VelocityStore) -> None:
        async with Redis.from_url(redis_url) as client:
            store = RedisVelocityStore(client, EPOCH, ttl_ms=TTL_MS, clock=lambda: now[0])
            await store.observe(on_one_address(0, 3, 3))
            keys = list(await client.keys("v:demo:*"))
            assert len(keys) == 4
            for key in keys:
                assert WINDOW_MS_MAX + 24 * 3_600_000 < await client.pttl(key) <= TTL_MS
                await client.pexpire(key, 1_000_000)
            await store.observe(on_one_address(3, 3, 3))
            assert {await client.pttl(key) <= 1_000_000 for key in keys} == {True}
            now[0] = RENEW_SECONDS + 1.0
            await store.observe(on_one_address(6, 3, 3))
            assert {await client.pttl(key) > WINDOW_MS_MAX for key in keys} == {True}
            await client.flushall()
            await store.observe(on_one_address(9, 3, 3))
            assert {await client.pttl(key) > WINDOW_MS_MAX for key in keys} == {True}
            for turn in range(4):
                await store.observe(on_one_address(100 + turn * (RAW_MAX + 9), RAW_MAX + 9, 3))
            assert {await client.pttl(key) > WINDOW_MS_MAX for key in keys} == {True}

    Backend(redis_url, {}).run(scenario)


def test_a_server_that_forgot_the_script_is_served(redis_url: str) -> None:
    """After a restart or SCRIPT FLUSH the script is sent anew."""

    async def scenario(store: VelocityStore) -> None:
        await store.observe(on_one_address(0, 1, 1))
        async with Redis.from_url(redis_url) as client:
            await client.script_flush()
        velocity = await store.observe(on_one_address(1, 1, 1))
        assert column(velocity.values, "ip.count_1m") == [1.0]

    Backend(redis_url, {}).run(scenario)


def test_an_unreachable_store_is_named(redis_url: str) -> None:
    """No connection, a wrong password and a full memory all raise the one error that means: try again."""

    async def refused(url: str) -> None:
        store = RedisVelocityStore.connect(url, EPOCH, timeout_seconds=0.5)
        for attempt in (store.observe(on_one_address(0, 1, 1)), store.mark_warm("x"), store.is_cold(), store.clear()):
            with pytest.raises(VelocityUnavailableError):
                await attempt
        assert store.epoch == EPOCH
        await store.close()

    async def full(store: VelocityStore) -> None:
        async with Redis.from_url(redis_url) as client:
            await client.config_set("maxmemory", 1)
            try:
                with pytest.raises(VelocityUnavailableError, match="OutOfMemoryError"):
                    await store.observe(on_one_address(0, 1, 1))
            finally:
                await client.config_set("maxmemory", 0)
        assert not (await store.observe(on_one_address(0, 1, 1))).cold

    asyncio.run(refused("redis://127.0.0.1:1/0"))
    asyncio.run(refused(redis_url.replace("redis://:", "redis://:wrong")))
    Backend(redis_url, {}).run(full)
