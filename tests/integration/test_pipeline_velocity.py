"""The velocity store between the batches: flushed, rebuilt, away; and the times that are observed."""

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest
import redis
from aiokafka import ConsumerRecord
from sqlalchemy import create_engine, text

from alerts.metrics import VELOCITY_COLD
from detectors.layout import Floats
from detectors.velocity import Observations, Velocity
from detectors.velocity_names import Demand
from streams.observing import Observer, stored_epoch
from streams.velocity_store import RedisVelocityStore, VelocityUnavailableError
from tests.integration.pipeline_desk import NOW_MS, POLICY, SIMULATION, WATCHED, Desk, activate, event, velocity_of

NOBODY = "redis://127.0.0.1:1/0"


def observer_of(desk: Desk, store: RedisVelocityStore) -> Observer:
    """Another worker's velocity stage, under the same policy."""
    return Observer(store, desk.engine, desk.keys, lambda: desk.stages.catalog.judge.policy.layout)


def flush(redis_url: str) -> None:
    """Lose everything the store has, as FLUSHALL or a failover to an empty replica does."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()


def history() -> list[dict[str, object]]:
    """Traffic of the simulation, whose clock the rebuild goes by, in which every aggregate has something to count."""
    made: list[dict[str, object]] = []
    for number in range(12):
        at = f"2026-03-01T01:{10 + number * 4}:00Z"
        who = {"account": f"m{number % 4}", "device": f"d{number % 3}", "ip": f"10.0.0.{number % 2}"}
        who |= {"occurred_at": at, "program": SIMULATION, "store": f"s{number % 2}", "staff": f"c{number % 3}"}
        who |= {"campaign": "spring", "payment": f"tok{number % 3}", "referrer": f"m{number % 2}"}
        made.append(event(id=f"h-e{number}", points=100 + number, **who))
        if number % 3 == 0:
            made.append(event("transfer", id=f"h-t{number}", to=f"m{(number + 1) % 4}", points=5, **who))
        if number % 4 == 0:
            made.append(event("login", id=f"h-l{number}", **who))
    return made


def probe(desk: Desk) -> dict[str, list[float]]:
    """What events of now would be told, of each account, device, address, …, by name."""
    more = {"campaign": "spring", "program": SIMULATION}
    values = [
        event(id=f"p-{n}", account=f"m{n}", device=f"d{n % 3}", ip=f"10.0.0.{n % 2}", store=f"s{n % 2}",
              staff=f"c{n % 3}", payment=f"tok{n % 3}", referrer=f"m{n % 2}", **more)
        for n in range(4)
    ]  # fmt: skip
    partition_end, desk.part.next_offset = desk.part.next_offset, 10_000
    prepared = desk.prepare(desk.part.records(*values))
    desk.part.next_offset = partition_end
    names = prepared.judge.policy.layout.velocity
    return dict(zip(names, prepared.velocity.T.tolist(), strict=True))


def test_a_flushed_store_is_rebuilt_to_the_same_values(desk: Desk, redis_url: str) -> None:
    """After FLUSHALL the rebuild from PostgreSQL gives every aggregate of every window as it was."""
    desk.send(*history())
    desk.send(*history()[:3])  # duplicates must not be put back twice
    before = probe(desk)
    flush(redis_url)
    assert desk.run(desk.stages.observer.warm_up()) == len(history())
    after = probe(desk)
    assert after == before
    assert [name for name in WATCHED if not any(after[name])] == []


def test_a_live_programme_is_rebuilt_by_the_databases_clock(desk: Desk, redis_url: str) -> None:
    """Of a live programme the last 7 days before now are put back, and what one that comes late sees; nothing older."""
    now_ms = int(desk.one("SELECT extract(epoch FROM now())") * 1000)

    def happened(event_id: str, hours: int, seen_hours: int | None = None) -> ConsumerRecord[bytes, bytes]:
        at_ms = now_ms - hours * 3_600_000
        at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
        seen_ms = at_ms if seen_hours is None else now_ms - seen_hours * 3_600_000
        return desk.part.record(event(id=event_id, device="d-1", occurred_at=at), time_ms=seen_ms)

    for hours in (9 * 24, 7 * 24 + 12, 6 * 24, 0):
        desk.deliver([happened(f"e-{hours}", hours)])
    flush(redis_url)
    assert desk.run(desk.stages.observer.warm_up()) == 3
    prepared = desk.prepare([happened("p", 0), happened("late", 20, seen_hours=0)])
    assert velocity_of(prepared, "device.count_24h") == [1.0, 0.0]
    assert velocity_of(prepared, "device.count_7d") == [2.0, 2.0]


def test_the_rebuild_takes_as_many_rounds_as_it_needs(
    desk: Desk, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History is read in parts, and events that came since the flush count once."""
    desk.send(*history())
    flush(redis_url)
    desk.send(event(id="since", account="m0", device="d0", ip="10.0.0.0", program=SIMULATION))
    monkeypatch.setattr("streams.observing.CHUNK_ROWS", 5)
    assert desk.run(desk.stages.observer.warm_up()) == len(history()) + 1
    counts = probe(desk)["velocity.account.count_24h"]
    seen = desk.rows("""
        SELECT count(*) + (SELECT count(*) FROM decision t WHERE t.type = 'transfer' AND t.event ->> 'to' = d.account)
            AS events FROM decision d GROUP BY account ORDER BY account""")
    assert counts == [float(row.events) for row in seen]


def test_a_warm_store_is_left_alone(desk: Desk) -> None:
    """Nothing is rebuilt while the token fits, and a second worker does not rebuild what the first has."""
    desk.send(*history())
    assert desk.run(desk.stages.observer.warm_up()) == 0
    other = desk.beside(desk.log)
    other.stages.observer._store = RedisVelocityStore.connect(desk.settings.required("redis_url"), None)
    assert desk.run(other.stages.observer.warm_up()) == 0
    with desk.engine.connect() as conn:
        assert other.stages.observer._store.epoch == stored_epoch(conn) is not None
    desk.run(other.stages.observer._store.close())


def test_one_worker_at_a_time_rebuilds(desk: Desk, redis_url: str) -> None:
    """While another session holds the rebuild's lock, this worker leaves it to that one, and stays cold."""
    flush(redis_url)
    with desk.engine.connect() as conn:
        conn.execute(text("SELECT pg_advisory_lock(:key)"), {"key": 0x7665_6C6F})
        assert desk.run(desk.stages.observer.warm_up()) == 0
        assert desk.run(desk.stages.observer._store.is_cold())
        conn.rollback()
        conn.invalidate()
    desk.run(desk.stages.observer.warm_up())
    assert not desk.run(desk.stages.observer._store.is_cold())


def test_on_cold_velocity_outflows_wait(desk: Desk, redis_url: str) -> None:
    """Between flush and rebuild: requests are held, small inflows posted and marked, large ones held, facts posted."""
    desk.send(event(id="e-0", points=400))
    flush(redis_url)
    desk.send(
        event("redeem", id="r-1", points=1),
        event("transfer", id="t-1", points=1, to="bob"),
        event("adjust", id="a-1", points=-1, reason="counted twice"),
        event("redeem", id="r-2", points=1, fulfilled=True),
        event(id="e-1", points=500),
        event(id="e-2", points=501),
        event("login", id="l-1"),
    )
    held, posted = ("hold", "held"), ("approve", "posted")
    assert desk.outcomes() == {
        "e-0": posted, "r-1": held, "t-1": held, "a-1": held, "r-2": posted, "e-1": posted, "e-2": held,
        "l-1": ("noted", "noted"),
    }  # fmt: skip
    reasons = {row.event_id: row.reasons for row in desk.rows("SELECT event_id, reasons FROM decision")}
    assert {name for name, said in reasons.items() if said == []} == {"e-0", "l-1"}
    assert {reason["code"] for said in reasons.values() for reason in said} == {"velocity_cold"}
    assert desk.metrics.gauge(VELOCITY_COLD)._value.get() == 1
    desk.send(b"{")  # says nothing about the store
    assert desk.metrics.gauge(VELOCITY_COLD)._value.get() == 1

    desk.run(desk.stages.observer.warm_up())
    desk.send(event("redeem", id="r-3", points=1))
    assert (desk.outcomes()["r-3"], desk.metrics.gauge(VELOCITY_COLD)._value.get()) == (posted, 0)
    desk.verified()


def test_what_is_marked_cold_teaches_no_model(desk: Desk, redis_url: str) -> None:
    """Features without their history would be learned as normal, so such events never mature into labels."""
    flush(redis_url)
    desk.send(event(id="e-1", points=5))
    assert (desk.outcomes(), desk.count("label_pending")) == ({"e-1": ("approve", "posted")}, 0)


def test_a_store_that_is_away_stops_the_batch(desk: Desk) -> None:
    """Nothing is decided without velocity: the error is the dependency's, and nothing is written."""
    store, desk.stages.observer._store = desk.stages.observer._store, RedisVelocityStore.connect(NOBODY, None)
    away = desk.stages.observer._store
    with pytest.raises(VelocityUnavailableError):
        desk.prepare(desk.part.records(event()))
    with pytest.raises(VelocityUnavailableError):
        desk.run(desk.stages.observer.warm_up())
    desk.stages.observer._store = store
    desk.run(away.close())
    assert (set(desk.effects().values()), desk.progress()) == ({0}, -1)


def test_refused_records_are_not_observed(desk: Desk) -> None:
    """What is refused counts for nobody's velocity, and costs no round trip when a batch holds nothing else."""
    desk.send(event(id="bad", points=0, device="d-1"), event(id="no", program="nowhere", device="d-1"))
    prepared = desk.prepare(desk.part.records(b"{", event(id="e-1", device="d-1")))
    assert velocity_of(prepared, "device.count_1h") == [0.0, 0.0]
    assert np.all(prepared.velocity[0] == 0)


def test_programmes_do_not_see_each_other(desk: Desk) -> None:
    """The same device in two programmes is two devices."""
    desk.send(event(device="d-1"), event(device="d-1", account="bob"))
    records = desk.part.records(
        event(id="s", device="d-1", program=SIMULATION), event(id="l", device="d-1", account="cid")
    )
    assert velocity_of(desk.prepare(records), "device.accounts_1h") == [0.0, 2.0]


def test_a_simulation_takes_its_time_from_the_event(desk: Desk) -> None:
    """Observed when it says it happened, however long ago; the programme's ledger clock stands at the latest seen."""
    times = ("2019-05-01T10:00:00Z", "2019-05-01T12:00:00+02:00", "2019-04-01T00:00:00Z")
    desk.send(*(event(id=f"e-{n}", program=SIMULATION, occurred_at=at) for n, at in enumerate(times)))
    rows = desk.rows("SELECT event_id, occurred_at, observed_at FROM decision ORDER BY event_id")
    assert [row.occurred_at == row.observed_at for row in rows] == [True] * 3
    assert [row.occurred_at.year for row in rows] == [2019] * 3
    assert desk.one("SELECT clock FROM program WHERE program = :name", name=SIMULATION) == rows[0].occurred_at
    recorded = {row.recorded_at for row in desk.rows("SELECT recorded_at FROM txn")}
    assert recorded == {rows[0].occurred_at}
    desk.verified()


def test_a_simulations_clock_never_goes_back(desk: Desk) -> None:
    """A late batch is recorded at the clock's time, which only moves on; a live programme's clock is the database's."""
    desk.send(event(id="e-1", program=SIMULATION, occurred_at="2020-06-01T00:00:00Z"))
    desk.send(event(id="e-2", program=SIMULATION, occurred_at="2020-05-01T00:00:00Z"), event(id="e-3"))
    clocks = {row.program: row.clock for row in desk.rows("SELECT program, clock FROM program")}
    assert clocks[SIMULATION].month == 6
    assert set(clocks.values()) == {None, clocks[SIMULATION]}
    recorded = {row.event_id: row.recorded_at for row in desk.rows("SELECT event_id, recorded_at FROM txn")}
    assert recorded["e-2"] == clocks[SIMULATION]
    assert abs(recorded["e-3"].timestamp() * 1000 - NOW_MS) > 60_000


def test_velocity_in_a_simulation_is_of_its_own_time(desk: Desk) -> None:
    """Windows end at the event's time, so an old file counts as it did when it happened."""
    at = {"program": SIMULATION, "device": "d-1"}
    desk.send(
        event(id="e-1", occurred_at="2019-05-01T10:00:00Z", **at),
        event(id="e-2", occurred_at="2019-05-01T10:00:30Z", **at),
    )
    records = desk.part.records(
        event(id="e-3", occurred_at="2019-05-01T10:01:15Z", **at),
        event(id="e-4", occurred_at="2019-05-03T10:00:00Z", **at),
    )
    prepared = desk.prepare(records)
    assert velocity_of(prepared, "device.count_1m") == [1.0, 0.0]
    assert velocity_of(prepared, "device.count_7d") == [2.0, 3.0]


def test_a_batch_in_flight_survives_a_rebuild(desk: Desk, redis_url: str) -> None:
    """Observed before the store was lost and committed after it was rebuilt: the next event counts it all the same."""
    first = desk.prepare(desk.part.records(*(event(id=f"i-{n}", account=f"a{n}", device="one") for n in range(5))))
    flush(redis_url)
    desk.run(desk.stages.observer.warm_up())
    desk.stages.pipeline.commit(first)
    after = desk.prepare(desk.part.records(event(id="i-9", account="b", device="one")))
    assert (velocity_of(after, "device.accounts_7d"), after.cold) == ([5.0], False)


def test_a_busy_entity_is_rebuilt_once(desk: Desk, redis_url: str) -> None:
    """Of a device with far more events than a log keeps as they are, nobody puts one back twice."""
    who = {"device": "one", "program": SIMULATION}
    for turn in range(9):
        desk.send(*(event(id=f"b-{turn}-{n}", account=f"a{n % 9}", **who) for n in range(200)))
    other = observer_of(desk, RedisVelocityStore.connect(redis_url, None))
    last = desk.part.records(*(event(id=f"o-{n}", account="b", **who) for n in range(50)))
    seen = desk.prepare(last)
    desk.run(other.warm_up())
    layout = seen.judge.policy.layout
    desk.run(other.observe(seen.records, seen.moments, layout))
    desk.stages.pipeline.commit(seen)
    flush(redis_url)
    assert desk.run(desk.stages.observer.warm_up()) == 1_850
    assert desk.run(other.warm_up()) == 0
    after = desk.prepare(desk.part.records(event(id="b-9", **who)))
    assert velocity_of(after, "device.count_24h") == [1_850.0]
    assert velocity_of(after, "device.accounts_24h") == [10.0]
    desk.run(other._store.close())


def test_a_store_that_somebody_else_rebuilt_gets_this_workers_batches_again(desk: Desk, redis_url: str) -> None:
    """Another worker made the store anew while this one's batch was in flight: it is put back at the next look."""
    first = desk.prepare(desk.part.records(*(event(id=f"i-{n}", account=f"a{n}", device="one") for n in range(5))))
    flush(redis_url)
    store = RedisVelocityStore.connect(redis_url, None)
    assert desk.run(observer_of(desk, store).warm_up()) == 0
    desk.run(store.close())
    assert desk.run(desk.stages.observer.warm_up()) == 0
    desk.stages.pipeline.commit(first)
    after = desk.prepare(desk.part.records(event(id="i-9", account="b", device="one")))
    assert (velocity_of(after, "device.accounts_7d"), after.cold) == ([5.0], False)


def test_a_policy_that_demands_more_makes_that_kind_cold_and_rebuilt(desk: Desk) -> None:
    """A longer memory of a kind is filled from the stored decisions, older ones than before too; then it is warm.

    Meanwhile a policy that does not read that kind decides on warm velocity, one that does is cold.
    """
    who = {"device": "one", "program": SIMULATION}
    desk.send(event(id="o-1", occurred_at="2026-01-20T00:00:00Z", **who), event(id="o-2", **who))
    before = desk.stages.catalog.judge
    activate(desk, POLICY.replace("shows: [velocity.device", "shows: [velocity.device.count_60d, velocity.device"))
    prepared = desk.prepare(desk.part.records(event(id="p-1", **who)))
    assert prepared.cold
    assert desk.run(desk.stages.observer.warm_up()) == 2
    prepared = desk.prepare(desk.part.records(event(id="p-1", **who)))
    assert (velocity_of(prepared, "device.count_60d"), velocity_of(prepared, "device.count_7d")) == ([2.0], [1.0])
    assert not prepared.cold
    assert desk.run(desk.stages.observer.warm_up()) == 0
    desk.stages.catalog.judge = before
    assert not desk.prepare(desk.part.records(event(id="p-2", **who))).cold
    assert desk.run(desk.stages.observer.warm_up()) == 0, "a policy that demands less finds all it needs"


def test_a_kind_that_is_new_in_a_policy_is_filled(desk: Desk, redis_url: str) -> None:
    """What no policy read is not kept; what one reads for the first time is put back from the stored decisions."""
    activate(desk, POLICY.replace(" + ".join(WATCHED), "velocity.device.count_1h"))
    flush(redis_url)
    desk.run(desk.stages.observer.warm_up())
    desk.send(*history())
    with redis.Redis.from_url(redis_url) as client:
        assert not client.keys("v2:*:staff:*")
        assert client.keys("v2:*:account:*")
    activate(desk, POLICY, version=3)
    desk.run(desk.stages.observer.warm_up())
    again = probe(desk)
    assert [name for name in WATCHED if not any(again[name])] == []


def test_another_worker_that_filled_a_kind_gets_this_ones_batches_too(desk: Desk, redis_url: str) -> None:
    """A batch in flight while somebody else made a kind anew is in it once this worker has taken the epoch over."""
    other = RedisVelocityStore.connect(redis_url, None)
    narrow = desk.stages.catalog.judge
    first = desk.prepare(desk.part.records(*(event(id=f"i-{n}", staff="cid") for n in range(4))))
    activate(desk, POLICY.replace(" + ".join(WATCHED), "velocity.staff.count_30d"))
    wide, desk.stages.catalog.judge = desk.stages.catalog.judge, narrow
    observer = Observer(other, desk.engine, desk.keys, lambda: wide.policy.layout)
    assert desk.run(observer.warm_up()) == 0
    desk.run(other.close())
    desk.stages.pipeline.commit(first)
    desk.stages.catalog.judge = wide
    assert desk.run(desk.stages.observer.warm_up()) == 0
    after = desk.prepare(desk.part.records(event(id="i-9", staff="cid")))
    assert (velocity_of(after, "staff.count_30d"), after.cold) == ([4.0], False)


def test_an_estimate_is_marked_in_the_features(desk: Desk) -> None:
    """A value that rests on a summary says so where rules, models and the stored decision see it."""
    for turn in range(8):
        desk.prepare(desk.part.records(*(event(id=f"m-{turn}-{n}", device="busy") for n in range(60))))
    prepared = desk.prepare(desk.part.records(event(id="n-1", device="busy"), event(id="n-2", account="x")))
    assert velocity_of(prepared, "approximate") == [1.0, 0.0]


def test_looking_after_the_store_survives_a_database_that_is_away(desk: Desk) -> None:
    """The look is repeated; it never ends the worker because PostgreSQL does not answer for a moment."""
    gone = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 1})
    observer = Observer(desk.stages.observer._store, gone, desk.keys, lambda: desk.stages.catalog.judge.policy.layout)

    async def look() -> bool:
        task = asyncio.ensure_future(observer.keep_warm(0.0))
        done, _ = await asyncio.wait({task}, timeout=0.5)
        task.cancel()
        return not done

    assert desk.run(look())


def test_a_worker_that_starts_beside_a_warm_store_holds_nothing(desk: Desk, redis_url: str) -> None:
    """Its first batch finds the token that another worker has set since it last looked: nothing is cold."""
    store = RedisVelocityStore.connect(redis_url, None)
    late = observer_of(desk, store)
    prepared = desk.prepare(desk.part.records(event(id="w-1", device="one")))
    _, cold = desk.run(late.observe(prepared.records, [(NOW_MS, NOW_MS)], prepared.judge.policy.layout))
    desk.run(store.close())
    assert not cold


def test_a_worker_that_starts_with_several_batches_holds_nothing(desk: Desk, redis_url: str) -> None:
    """Neither a second batch on its way nor a look at the store at the same moment makes the first one cold."""
    store = RedisVelocityStore.connect(redis_url, None)
    late, asked = observer_of(desk, store), store.observe

    async def asked_while_somebody_looks(batch: Observations, demand: Demand) -> Velocity:
        velocity = await asked(batch, demand)
        await late.warm_up()
        return velocity

    store.observe = asked_while_somebody_looks  # type: ignore[method-assign]  # the race, made certain
    prepared = desk.prepare(desk.part.records(event(id="w-1", device="one")))
    told = (prepared.records, [(NOW_MS, NOW_MS)], prepared.judge.policy.layout)

    async def both() -> list[tuple[Floats, bool]]:
        return list(await asyncio.gather(late.observe(*told), late.observe(*told)))

    assert [cold for _, cold in desk.run(both())] == [False, False]
    desk.run(store.close())
