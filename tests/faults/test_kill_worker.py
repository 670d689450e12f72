"""Nothing lost, nothing doubled: workers are killed with events in flight, and the ledger must equal a model's."""

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from embedded.process import Service
from ledger.verify import verify
from tests.faults.drive import KILLS, WORKERS, rounds, settle
from tests.faults.model_ledger import expected
from tests.faults.world import SOURCE, Places, World, world
from tests.services import ApacheKafka

BROKER_KILLS = 3

_OUTCOMES = text("SELECT event_id, outcome, code FROM decision WHERE source = :source")
_BALANCES = text("SELECT name, posted_cr - posted_dr AS balance FROM account WHERE kind = 'member'")
_DOUBLED = text("""
SELECT count(*) FROM (
    SELECT source, event_id FROM txn WHERE source IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1) AS t""")
_DEAD = text("SELECT count(*) FROM dead_letter")


@contextmanager
def two_workers(places: Places) -> Iterator[World]:
    """Two workers that have consumed a first event each."""
    with world(places, WORKERS) as made:
        settle(made)
        yield made


def audit(made: World, report: dict[str, int]) -> None:
    """Compare every outcome and balance with the independent model, and let the ledger verify itself."""
    model = expected(value for part in sorted(made.sent) for value in made.sent[part])
    with made.engine.connect() as conn:
        outcomes = {row.event_id: (row.outcome, row.code) for row in conn.execute(_OUTCOMES, {"source": SOURCE})}
        balances = {row.name: row.balance for row in conn.execute(_BALANCES)}
        doubled = conn.execute(_DOUBLED).scalar_one()
        dead = conn.execute(_DEAD).scalar_one()
    lost = set(model.outcomes) - set(outcomes)
    different = {k: (v, outcomes[k]) for k, v in model.outcomes.items() if k in outcomes and outcomes[k] != v}
    counts = {"events": len(model.outcomes), "lost": len(lost), "doubled": doubled, "differ": len(different)}
    print(report | counts)  # noqa: T201  # the figures of the run, shown with -s and in CI
    assert (len(lost), doubled, dead) == (0, 0, 0)
    assert different == {}
    assert {name: balance for name, balance in balances.items() if balance} == {
        name: balance for name, balance in model.balances.items() if balance
    }
    found = verify(made.engine)
    assert found.ok, found.discrepancies


def test_kill_minus_9_loses_and_doubles_nothing(
    database: str, redis_url: str, kafka_broker: Service, tmp_path: Path, rng: random.Random
) -> None:
    """20,000 events over 4 partitions, 2 workers, 10 kill -9 with events in flight: the ledger equals the model's."""
    places = Places(database, redis_url, kafka_broker.url, kafka_broker.log_id or uuid.uuid4().hex, tmp_path)
    with two_workers(places) as made:
        in_flight = rounds(made, rng)
        audit(made, {"kills": KILLS, "in_flight": in_flight})


@pytest.mark.usefixtures("apache_kafka")
def test_kill_minus_9_of_workers_and_broker_on_apache_kafka(
    database: str, redis_url: str, apache_kafka: ApacheKafka, tmp_path: Path, rng: random.Random
) -> None:
    """The same on a real Apache Kafka, whose broker is killed 3 times, too, where it is ours to kill."""
    places = Places(database, redis_url, apache_kafka.url, apache_kafka.log_id or "given", tmp_path)
    with two_workers(places) as made:
        in_flight = rounds(made, rng)
        broker_kills = 0
        while apache_kafka.can_be_killed and broker_kills < BROKER_KILLS:
            made.produce(rng, 4_000)
            waiting = sum(made.in_flight().values())
            apache_kafka.kill()
            broker_kills += waiting > 0
            apache_kafka.restart()
            made.wait_until(lambda: made.handled() >= made.produced(), 180, "everything is handled after a broker kill")
        audit(made, {"kills": KILLS, "broker_kills": broker_kills, "in_flight": in_flight})
