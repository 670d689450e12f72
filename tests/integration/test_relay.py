"""The relay: everything in the outbox is published at least once, holds that are due are decided, gauges are true."""

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from alerts.metrics import (
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
from ledger.programs import set_terms
from ledger.terms import Terms
from streams import kafka, outbox, review
from streams.effects import Outgoing
from streams.outbox import Message
from streams.relay import Relay, RelayParams
from streams.watchdog import Pulse
from tests.integration.pipeline_desk import SIMULATION, Desk, event


@dataclass
class Broker:
    """Takes the place of a producer; fails where `failures` say so: on sending, or on the broker's answer."""

    taken: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    refuse_send: list[KafkaError] = field(default_factory=list)
    refuse_answer: list[KafkaError] = field(default_factory=list)

    async def send(self, topic: str, value: bytes, key: bytes) -> "asyncio.Future[None]":
        """Take one message; the future is the broker's answer."""
        if self.refuse_send:
            raise self.refuse_send.pop()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.refuse_answer:
            answer.set_exception(self.refuse_answer.pop())
        else:
            self.taken.append((topic, key, value))
            answer.set_result(None)
        return answer


def relay_of(desk: Desk, producer: Any, most: int = 2000) -> Relay:
    """A relay over the desk's database, with pauses that take no time."""
    params = RelayParams(
        Outgoing("points.decisions", "points.alerts"), most, idle_seconds=0.0, housekeeping_seconds=0.0
    )
    return Relay(desk.engine, producer, desk.metrics, Pulse(), params)


def gauge(desk: Desk, metric: Any, *labels: str) -> float:
    """The value of a gauge or counter."""
    found = desk.metrics.gauge(metric, *labels)
    return float(found._value.get())


async def until(work: Coroutine[Any, Any, None], true: Callable[[], bool]) -> None:
    """Run a relay's loops until the condition holds."""
    running = asyncio.create_task(work)
    async with asyncio.timeout(30):
        while not true():
            await asyncio.wait({running}, timeout=0.01)
            if running.done():
                running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_everything_is_published_once_in_order(desk: Desk) -> None:
    """Decisions and alerts leave for their topics, in the order they were written, and the outbox is empty after."""
    desk.send(*(event(id=f"e-{number}", account=f"m{number % 3}") for number in range(7)), b"{")
    broker = Broker()
    assert desk.run(relay_of(desk, broker).publish()) == 8
    assert desk.run(relay_of(desk, broker).publish()) == 0
    decisions = [(key, json.loads(value)["id"]) for topic, key, value in broker.taken if topic == "points.decisions"]
    assert decisions == [(b"m%d" % (number % 3), f"e-{number}") for number in range(7)]
    assert [topic for topic, _, _ in broker.taken].count("points.alerts") == 1
    assert desk.count("outbox") == 0
    assert gauge(desk, PUBLISHED, "points.decisions") == 7


def test_a_backlog_is_published_in_portions(desk: Desk) -> None:
    """One transaction takes no more than it should hold."""
    desk.send(*(event() for _ in range(5)))
    broker = Broker()
    relay = relay_of(desk, broker, most=2)
    assert [desk.run(relay.publish()) for _ in range(4)] == [2, 2, 1, 0]
    assert len(broker.taken) == 5


@pytest.mark.parametrize("where", ["refuse_send", "refuse_answer"])
def test_nothing_is_lost_while_the_broker_is_away(desk: Desk, where: str) -> None:
    """What the broker has not confirmed stays, whether it fails at once or in its answer, and is published later."""
    desk.send(event(id="e-1"), event(id="e-2"))
    broker = Broker(**{where: [KafkaTimeoutError()]})
    relay = relay_of(desk, broker)
    with pytest.raises(KafkaTimeoutError):
        desk.run(relay.publish())
    assert desk.count("outbox") == 2
    assert desk.run(relay.publish()) == 2
    ids = {json.loads(value)["id"] for _, _, value in broker.taken}
    assert (ids, desk.count("outbox")) == ({"e-1", "e-2"}, 0)


def test_the_loop_waits_for_the_broker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` goes on after errors of Kafka and PostgreSQL; readiness tells which one is missing."""
    desk.send(event(id="e-1"))
    unready: list[float] = []
    real = asyncio.sleep

    async def sleep(_seconds: float) -> None:
        unready.append(gauge(desk, READY, "kafka"))
        await real(0)

    monkeypatch.setattr("streams.relay.asyncio.sleep", sleep)
    broker = Broker(refuse_send=[KafkaConnectionError(), KafkaConnectionError()])
    relay = relay_of(desk, broker)
    desk.run(until(relay._publish_loop(), lambda: gauge(desk, READY, "kafka") == 1.0))
    assert unready[:2] == [0.0, 0.0]
    assert (len(broker.taken), desk.count("outbox")) == (1, 0)


def test_the_loop_waits_for_the_database(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer is waited for; the messages come when it does."""
    desk.send(event(id="e-1"))
    real_sleep, real_take, failures = asyncio.sleep, outbox.take, [1, 2]

    def take(*args: Any) -> list[Message]:
        if failures:
            failures.pop()
            raise OperationalError("SELECT", {}, psycopg.OperationalError("connection refused"))
        return real_take(*args)

    monkeypatch.setattr("streams.relay.outbox.take", take)
    monkeypatch.setattr("streams.relay.asyncio.sleep", lambda _seconds: real_sleep(0))
    broker = Broker()
    desk.run(until(relay_of(desk, broker)._publish_loop(), lambda: bool(broker.taken)))
    assert (failures, len(broker.taken)) == ([], 1)


def test_two_relays_share_the_work(desk: Desk) -> None:
    """While one has messages in hand, another takes the next ones instead of waiting or publishing them twice."""
    desk.send(*(event() for _ in range(6)))
    with desk.engine.begin() as one, desk.engine.begin() as two:
        two.execute(text("SET LOCAL lock_timeout = '2s'"))  # to fail, not to hang, should it wait for the first
        first, second = outbox.take(one, 4), outbox.take(two, 4)
    assert (len(first), len(second)) == (4, 2)
    assert not {message.value for message in first} & {message.value for message in second}
    assert desk.count("outbox") == 0


def test_a_message_whose_transaction_commits_late_is_not_skipped(desk: Desk) -> None:
    """Rows get their number before their commit: one that appears behind a published one is taken all the same."""
    with desk.engine.begin() as slow:
        outbox.enqueue(slow, [Message("points.alerts", b"k", b"slow")])
        with desk.engine.begin() as quick:
            outbox.enqueue(quick, [Message("points.alerts", b"k", b"quick")])
        broker = Broker()
        relay = relay_of(desk, broker)
        assert desk.run(relay.publish()) == 1
    assert desk.run(relay.publish()) == 1
    assert [value for _, _, value in broker.taken] == [b"quick", b"slow"]


def test_a_batch_that_rolls_back_publishes_nothing(desk: Desk) -> None:
    """Messages live and die with the transaction that caused them."""
    with desk.engine.connect() as conn:
        outbox.enqueue(conn, [Message("points.alerts", b"k", b"never")])
        conn.rollback()
    assert desk.run(relay_of(desk, Broker()).publish()) == 0


def test_housekeeping_shows_what_is_open(desk: Desk) -> None:
    """Holds by kind with their points, the age of the oldest by its programme's clock, and the outbox."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(
        event(id="e-1", points=2_000, **at), event(id="e-2", points=3_000, **at), event(id="e-3", points=50, **at)
    )
    relay = relay_of(desk, Broker())
    assert relay.keep_house() == 0
    desk.send(event(id="e-4", program=SIMULATION, occurred_at="2020-01-01T00:05:00Z"))
    relay.keep_house()
    open_ = {kind: (gauge(desk, HOLDS_OPEN, kind), gauge(desk, HOLDS_POINTS, kind)) for kind in ("earn", "redeem")}
    assert open_ == {"earn": (2, 5_000), "redeem": (0, 0)}
    assert (gauge(desk, HOLDS_OLDEST), gauge(desk, OUTBOX), gauge(desk, READY, "postgresql")) == (300, 6, 1)


def test_housekeeping_counts_clusters_and_hubs(desk: Desk) -> None:
    """Two on one phone are a cluster; an address of six is a hub."""
    desk.send(*(event("login", account=f"m{n}", device="one", ip="192.0.2.1") for n in range(2)))
    desk.send(*(event("login", account=f"m{n}", ip="192.0.2.1") for n in range(2, 6)))
    relay_of(desk, Broker()).keep_house()
    assert (gauge(desk, LINK_CLUSTERS), gauge(desk, LINK_LARGEST)) == (1, 2)
    assert (gauge(desk, LINK_HUBS, "ip"), gauge(desk, LINK_HUBS, "device")) == (1, 0)


def test_housekeeping_decides_what_is_due(desk: Desk) -> None:
    """Due holds end, are counted by verdict and told upstream; then nothing is open any more."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(event(id="e-1", points=2_000, **at))
    desk.send(event(id="e-2", program=SIMULATION, occurred_at="2020-01-01T00:10:00Z"))
    relay = relay_of(desk, Broker())
    assert (relay.keep_house(), relay.keep_house()) == (1, 0)
    assert gauge(desk, TIMEOUTS, "post") == 1
    assert (gauge(desk, HOLDS_OPEN, "earn"), gauge(desk, HOLDS_OLDEST)) == (0, 0)
    assert desk.said("points.decisions")[-1]["code"] == "posted"
    assert desk.balance("ann", SIMULATION) == 2_100
    desk.verified()


def test_a_hold_that_cannot_be_decided_stops_no_other(desk: Desk) -> None:
    """When the database refuses one of the due holds, the others are decided all the same, and it stays open."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(*(event(id=f"e-{number}", account=f"m{number}", points=2_000, **at) for number in range(3)))
    desk.send(event(id="later", program=SIMULATION, occurred_at="2020-01-01T00:10:00Z"))
    stuck = desk.one("SELECT decision_id FROM decision WHERE event_id = 'e-1'")
    with desk.engine.begin() as conn:
        conn.execute(text(f"ALTER TABLE review_decision ADD CONSTRAINT stuck CHECK (hold_id <> {stuck})"))
    relay = relay_of(desk, Broker())
    assert (relay.keep_house(), relay.keep_house()) == (2, 0)
    assert [row.hold_id for row in desk.rows("SELECT hold_id FROM hold WHERE resolved_at IS NULL")] == [stuck]
    assert gauge(desk, HOLDS_OPEN, "earn") == 1
    desk.verified()


def test_an_escalated_hold_is_told_to_the_desk(desk: Desk) -> None:
    """The policy that does not end a due hold by itself asks for a person: one alert, and the hold stays open."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(event("adjust", id="a-1", points=2_000, reason="gift", **at))
    desk.send(event(id="later", program=SIMULATION, occurred_at="2020-01-01T00:10:00Z"))
    relay = relay_of(desk, Broker())
    assert (relay.keep_house(), relay.keep_house()) == (1, 0)
    alerts = [alert for alert in desk.said("points.alerts") if alert["alert"] == "hold_escalated"]
    assert [alert["hold_id"] for alert in alerts] == [desk.one("SELECT hold_id FROM hold WHERE resolved_at IS NULL")]
    assert gauge(desk, TIMEOUTS, "escalate") == 1


def test_racing_relays_decide_a_hold_once(desk: Desk) -> None:
    """Two relays that keep house at the same moment end a due hold once, with one message."""
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(*(event(id=f"e-{number}", account=f"m{number}", points=2_000, **at) for number in range(20)))
    desk.send(event(id="later", program=SIMULATION, occurred_at="2020-01-01T00:10:00Z"))
    before = len(desk.said("points.decisions"))
    relays = [relay_of(desk, Broker()), relay_of(desk, Broker())]
    with ThreadPoolExecutor(2) as threads:
        decided = sum(threads.map(Relay.keep_house, relays))
    decided += relays[0].keep_house()
    assert (decided, desk.count("hold_resolution"), len(desk.said("points.decisions")) - before) == (20, 20, 20)
    desk.verified()


def test_housekeeping_expires_what_is_due(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lots that fell due expire in batches, beside held ones, and are counted; the next run finds nothing."""
    with desk.engine.begin() as conn:
        set_terms(conn, SIMULATION, Terms(expiry_days=1))
    desk.stages.catalog.refresh()
    monkeypatch.setattr(review, "EXPIRED_MOST", 2)
    at = {"program": SIMULATION, "occurred_at": "2020-01-01T00:00:00Z"}
    desk.send(*(event(id=f"e-{number}", account=f"m{number}", points=100, **at) for number in range(5)))
    desk.send(event("redeem", id="r-1", account="m0", points=100, **at))
    desk.send(event(id="later", account="m9", program=SIMULATION, occurred_at="2020-01-02T00:00:00Z"))
    relay = relay_of(desk, Broker())
    relay.keep_house()
    relay.keep_house()
    assert gauge(desk, LOTS_EXPIRED) == 4
    assert [desk.balance(f"m{number}", SIMULATION) for number in (0, 1, 4, 9)] == [0, 0, 0, 100]
    desk.verified()


def test_lots_that_cannot_expire_stop_nothing_else(desk: Desk) -> None:
    """When the database refuses an expiry, the rest of the housekeeping is done all the same."""
    with desk.engine.begin() as conn:
        set_terms(conn, SIMULATION, Terms(expiry_days=1))
        conn.execute(text("ALTER TABLE lot_use ADD CONSTRAINT stuck CHECK (action <> 'expire')"))
    desk.stages.catalog.refresh()
    desk.send(event(id="e-1", points=100, program=SIMULATION, occurred_at="2020-01-01T00:00:00Z"))
    desk.send(event(id="later", account="m9", program=SIMULATION, occurred_at="2020-01-02T00:00:00Z"))
    relay_of(desk, Broker()).keep_house()
    assert (gauge(desk, READY, "postgresql"), desk.count("control_delta")) == (1, 0)
    assert desk.balance("ann", SIMULATION) == 100


def test_housekeeping_folds_the_control_accounts(desk: Desk) -> None:
    """The tails that batches append are folded into their accounts' rows, and the books still agree."""
    for _ in range(3):
        desk.send(event())
    assert desk.count("control_delta") > 1
    relay_of(desk, Broker()).keep_house()
    assert desk.count("control_delta") == 0
    desk.verified()


def test_what_was_published_can_be_read_from_kafka(desk: Desk, kafka_broker: Any) -> None:
    """With a real producer: every message arrives in its topic under its key, durable when the outbox forgets it."""
    topic = f"relay-{uuid.uuid4().hex[:8]}"
    with desk.engine.begin() as conn:
        outbox.enqueue(conn, [Message(topic, b"m%d" % number, b"v%d" % number) for number in range(50)])

    async def scenario() -> list[tuple[bytes, bytes]]:
        await kafka.ensure_topics(kafka_broker.url, [topic], 1, 1)
        producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.url, acks="all")
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka_broker.url, auto_offset_reset="earliest")
        await producer.start()
        await consumer.start()
        try:
            assert await relay_of(desk, producer).publish() == 50
            consumer.assign([TopicPartition(topic, 0)])
            consumer.seek(TopicPartition(topic, 0), 0)
            found: list[tuple[bytes, bytes]] = []
            async with asyncio.timeout(30):
                while len(found) < 50:
                    fetched = await consumer.getmany(timeout_ms=200)
                    found += [(record.key, record.value) for records in fetched.values() for record in records]
        finally:
            await consumer.stop()
            await producer.stop()
        return found

    assert desk.run(scenario()) == [(b"m%d" % number, b"v%d" % number) for number in range(50)]
    assert desk.count("outbox") == 0


def test_a_relay_without_work_costs_no_database(database: str) -> None:
    """On an empty ledger housekeeping and publishing do nothing and fail at nothing."""
    engine = create_engine(database)
    metrics = Metrics()
    relay = Relay(engine, Broker(), metrics, Pulse(), RelayParams(Outgoing("points.decisions", "points.alerts")))
    assert (asyncio.run(relay.publish()), relay.keep_house()) == (0, 0)
    with engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM review_decision")).scalar_one() == 0
    assert float(metrics.gauge(HOLDS_OPEN, "earn")._value.get()) == 0
    engine.dispose()
