"""One contract for both velocity stores, the twin in memory and a real Valkey."""

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest

from detectors.velocity import Observations
from detectors.velocity_names import KINDS, Coverage, demand_of, ordered
from streams.velocity_epoch import Epoch
from streams.velocity_store import (
    BATCH_MAX,
    EPOCH_KEY,
    VelocityStore,
)
from tests.contract.velocity_backend import DEMAND, EPOCH, LATER, Backend, column, expected
from tests.unit.velocity_oracle import Oracle
from tests.unit.velocity_traffic import EVERYTHING, START_MS, Mix, batch, on_one_address


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Give each store in turn."""
    return Backend(request.getfixturevalue("redis_url") if request.param == "redis" else None, {})


def test_batches_equal_the_oracle(backend: Backend, rng: random.Random) -> None:
    """Through either store, from two workers in turn, values are the contract's."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        oracle = Oracle(DEMAND.names)
        for turn in range(12):
            observed = batch(rng, rng.randrange(30), Mix(30, 400, 100_000), START_MS + turn * 50_000)
            velocity = await (one if turn % 2 else other).observe(observed, DEMAND)
            assert np.array_equal(velocity.values, expected(oracle, observed), equal_nan=True)
            assert not velocity.approximate.any()
            assert not velocity.cold

    backend.run(scenario, stores=2)


def test_a_batch_delivered_again_gets_the_same_values(backend: Backend, rng: random.Random) -> None:
    """After a crash between the store and COMMIT, another worker asks again, with others' batches between."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        oracle = Oracle(DEMAND.names)
        batches = [batch(rng, 25, Mix(6, 10**9, 5_000), START_MS + turn * 5_000) for turn in range(4)]
        first = [(await one.observe(observed, DEMAND)).values for observed in batches]
        for turn in (1, 3, 2, 2, 0):
            assert np.array_equal((await other.observe(batches[turn], DEMAND)).values, first[turn], equal_nan=True)
        for observed in batches:
            expected(oracle, observed)
        after = batch(rng, 25, Mix(6, 10**9, 5_000), START_MS + 20_000)
        assert np.array_equal((await other.observe(after, DEMAND)).values, expected(oracle, after), equal_nan=True)

    backend.run(scenario, stores=2)


def test_a_batch_cut_otherwise_gets_the_same_values(backend: Backend, rng: random.Random) -> None:
    """Redelivered events need not come in the batches of the first time."""

    async def scenario(store: VelocityStore) -> None:
        observed = batch(rng, 40, Mix(4, 10**9, 5_000))
        first = (await store.observe(observed, DEMAND)).values
        for start, stop in ((0, 7), (7, 31), (31, 40)):
            assert np.array_equal(
                (await store.observe(observed.part(start, stop), DEMAND)).values, first[start:stop], equal_nan=True
            )

    backend.run(scenario)


def test_large_and_empty_batches(backend: Backend, rng: random.Random) -> None:
    """A batch beyond a script's size gives what its parts give; an empty one gives nothing."""

    async def scenario(store: VelocityStore) -> None:
        observed = batch(rng, BATCH_MAX + 50, Mix(400, 10**9, 100_000))
        velocity = await store.observe(observed, DEMAND)
        assert np.array_equal(velocity.values, expected(Oracle(DEMAND.names), observed), equal_nan=True)
        nothing = await store.observe(observed.part(0, 0), DEMAND)
        assert nothing.values.shape == (0, len(DEMAND.names))
        assert not nothing.cold

    backend.run(scenario)


def test_a_store_without_its_token_is_cold(backend: Backend) -> None:
    """Flushed, never warmed, or warmed under another token: values say so, until both sides agree again."""

    async def scenario(store: VelocityStore) -> None:
        observed = on_one_address(0, 2, 2)
        assert not (await store.observe(observed, DEMAND)).cold
        assert not await store.is_cold()
        backend.wipe()
        assert (await store.observe(observed, DEMAND)).cold
        assert await store.is_cold()
        await store.mark_warm(LATER)
        assert store.epoch == LATER
        assert not (await store.observe(observed, DEMAND)).cold
        store.epoch = EPOCH
        assert (await store.observe(observed, DEMAND)).cold
        store.epoch = None
        assert (await store.observe(observed, DEMAND)).cold
        assert await store.is_cold()

    backend.run(scenario)


def test_a_rebuilt_store_knows_what_was(backend: Backend, rng: random.Random) -> None:
    """History appended after a loss gives the values there would have been, also beside live events."""

    async def scenario(store: VelocityStore) -> None:
        oracle = Oracle(DEMAND.names)
        past = batch(rng, 700, Mix(200, 10**9, 10_000_000))
        live = batch(rng, 20, Mix(200, 10**9, 1_000), START_MS + 10_000_000)
        await store.observe(live, DEMAND)
        await store.rebuild(past, DEMAND.coverage)
        await store.rebuild(live, DEMAND.coverage)
        await store.mark_warm(LATER)
        expected(oracle, past)
        expected(oracle, live)
        later = batch(rng, 50, Mix(200, 10**9, 1_000), START_MS + 10_002_000)
        velocity = await store.observe(later, DEMAND)
        assert np.array_equal(velocity.values, expected(oracle, later), equal_nan=True)
        assert not velocity.cold

    backend.run(scenario)


def test_every_value_there_is_through_a_store(backend: Backend, rng: random.Random) -> None:
    """All kinds, aggregates and windows at once."""

    async def scenario(store: VelocityStore) -> None:
        oracle = Oracle(EVERYTHING.names)
        for turn in range(3):
            observed = batch(rng, 20, Mix(4, 10**9, 4_000_000), START_MS + turn * 4_000_000)
            velocity = await store.observe(observed, EVERYTHING)
            values = np.array(oracle.observe(observed), dtype=np.float64)
            assert np.array_equal(velocity.values, values, equal_nan=True)

    backend.run(scenario)


def test_a_demand_beyond_what_the_store_holds_is_cold(backend: Backend, rng: random.Random) -> None:
    """Another kind or a longer window than the epoch covers; what is covered stays warm, and is kept all the same."""
    narrow = demand_of(("velocity.ip.count_1h",))
    beyond = (demand_of(("velocity.campaign.count_1m",)), demand_of(("velocity.ip.count_8d",)))

    async def scenario(store: VelocityStore) -> None:
        observed = batch(rng, 10, Mix(3))
        assert [(await store.observe(observed, each)).cold for each in (narrow, *beyond)] == [False, True, True]
        assert not (await store.observe(observed, DEMAND)).cold

    backend.run(scenario)
    kinds = {key.decode().rsplit(":", 2)[1] for key in backend.content() if key != EPOCH_KEY}
    assert kinds == {"account", "device", "ip", "ip_prefix", "staff", "referrer", "campaign"}


def test_single_kinds_are_made_anew(backend: Backend, rng: random.Random) -> None:
    """Some kinds cleared and rebuilt, farther back or for the first time: all values are what the contract says."""
    more = demand_of(ordered([*DEMAND.names, "velocity.ip.max_30d", "velocity.campaign.accounts_24h"]))
    changed = DEMAND.coverage.lacks(more.coverage)

    async def scenario(store: VelocityStore) -> None:
        oracle, past = Oracle(more.names), batch(rng, 300, Mix(20, 10**9, 10_000_000))
        await store.observe(past, DEMAND)
        assert [KINDS[kind] for kind in changed] == ["ip", "campaign"]
        await store.clear(changed)
        left = {key.decode().rsplit(":", 2)[1] for key in backend.content() if key != EPOCH_KEY}
        assert left == {"account", "device", "ip_prefix", "staff", "referrer"}
        await store.rebuild(past, more.coverage.of(changed))
        await store.mark_warm(Epoch("epoch-1", more.coverage))
        oracle.observe(past)
        later = batch(rng, 50, Mix(20, 10**9, 1_000), START_MS + 10_000_000)
        velocity = await store.observe(later, more)
        assert np.array_equal(velocity.values, np.array(oracle.observe(later)), equal_nan=True)
        assert not velocity.cold

    backend.run(scenario)


def test_what_no_window_reaches_is_forgotten(backend: Backend) -> None:
    """A longer memory keeps old events of a busy entity in summary, a shorter one lets them go."""
    counts = {}

    async def scenario(store: VelocityStore) -> None:
        for days in (1, 30):
            name = f"velocity.ip.count_{days}d"
            await store.clear()
            batches = [on_one_address(turn * 100, 100, 5, 3_600_000) for turn in range(12)]
            velocity = [await store.observe(observed, demand_of((name,))) for observed in batches][-1]
            blob = max(backend.content("v2:demo:ip:").values(), key=len)
            counts[days] = (velocity.values[-1, 0], len(blob))

    backend.run(scenario, epoch=Epoch("covers nothing", Coverage()))
    assert counts[1][0] == 24
    assert counts[30][0] == pytest.approx(30 * 24, rel=1 / 40)
    assert counts[1][1] < counts[30][1]


def test_clearing_forgets_logs_and_token(backend: Backend, rng: random.Random) -> None:
    """Before a rebuild nothing may be left of an interrupted one."""

    async def scenario(store: VelocityStore) -> None:
        await store.observe(batch(rng, 100, Mix(50, 10**9, 1_000)), DEMAND)
        await store.clear()
        assert backend.content() == {}
        assert await store.is_cold()

    backend.run(scenario)


def test_a_hot_address_costs_no_more_at_the_end(backend: Backend) -> None:
    """Of 100,000 events on one address the last cost as many bytes as early ones; counts stay right to a bucket."""
    size, batches = 250, 400

    async def scenario(store: VelocityStore) -> None:
        lengths = []
        velocity = await store.observe(on_one_address(0, size, 3_000), DEMAND)
        for turn in range(1, batches):
            velocity = await store.observe(on_one_address(turn * size, size, 3_000), DEMAND)
            if turn % 20 == 19 or turn > batches - 5:
                lengths.append(max(map(len, backend.content("v2:demo:ip:").values())))
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
            await store.observe(on_one_address(turn * 200, 200, 120), DEMAND)
        velocity = await store.observe(on_one_address(3_800, 200, 120), DEMAND)
        assert velocity.approximate.all()
        assert set(column(velocity.values, "ip.accounts_7d")) == {120.0}
        assert set(column(velocity.values, "ip.accounts_1m")) == {120.0}

    backend.run(scenario)


def test_events_in_flight_are_not_folded(backend: Backend) -> None:
    """A hot batch that comes again after a crash finds its own first copies, and adds nothing."""

    async def scenario(store: VelocityStore) -> None:
        for turn in range(4):
            await store.observe(on_one_address(turn * 300, 300, 40), DEMAND)
        one, two = on_one_address(1_200, 300, 40), on_one_address(1_500, 300, 40)
        first, second = await store.observe(one, DEMAND), await store.observe(two, DEMAND)
        for observed, before in ((one, first), (two, second), (two, second)):
            again = await store.observe(observed, DEMAND)
            assert column(again.values, "ip.count_7d") == column(before.values, "ip.count_7d")
            assert column(again.values, "ip.accounts_7d") == column(before.values, "ip.accounts_7d")
        after = await store.observe(on_one_address(1_800, 1, 40), DEMAND)
        assert column(after.values, "ip.count_7d") == [1_800.0]

    backend.run(scenario)


def test_two_workers_never_fold_one_log_twice(backend: Backend) -> None:
    """Both read the same long log and fold it; the second finds it changed and leaves it, appends since are kept."""

    async def scenario(one: VelocityStore, other: VelocityStore) -> None:
        def of(place: int) -> Observations:
            return on_one_address(place, 100, 7)

        for turn in range(12):
            await asyncio.gather(one.observe(of(turn * 200), DEMAND), other.observe(of(turn * 200 + 100), DEMAND))
        velocity = await one.observe(on_one_address(2_400, 1, 7), DEMAND)
        assert column(velocity.values, "ip.count_7d") == [2_400.0]
        assert column(velocity.values, "ip.sum_7d") == [24_000.0]

    backend.run(scenario, stores=2)


def test_logs_are_named_by_programme_and_kind(backend: Backend) -> None:
    """Keys begin with the programme and hold no raw value."""

    async def scenario(store: VelocityStore) -> None:
        observed = replace(on_one_address(0, 2, 2), programs=("a", "b"), program=np.array([0, 1]))
        await store.observe(replace(observed, entity=observed.entity + np.arange(2, dtype=np.uint64)[:, None]), DEMAND)

    backend.run(scenario)
    names = sorted(key.decode().rsplit(":", 1)[0] for key in backend.content() if key != EPOCH_KEY)
    assert names == ["v2:a:account", "v2:a:ip", "v2:b:account", "v2:b:device", "v2:b:ip"]
    assert all(len(key.decode().rsplit(":", 1)[1]) == 16 for key in backend.content() if key != EPOCH_KEY)
