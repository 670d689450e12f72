"""What comes twice counts once: redelivered by Kafka, or sent again by a producer."""

import json
import random

import numpy as np
import pytest

from alerts.metrics import DUPLICATES
from ledger.verify import verify
from streams.records import Log, Span
from tests.faults.model_ledger import expected
from tests.faults.world import QUIET_POLICY
from tests.integration.pipeline_desk import LIVE, Desk, encoded, event, open_desk, velocity_of

CLOUD = {"ce_specversion": b"1.0", "ce_id": b"e-1", "ce_source": b"pos", "ce_type": b"earn"}


def busy_batch() -> list[dict[str, object]]:
    """Events that see each other: shared devices and addresses, a sign-up before its purchase, a transfer."""
    return [
        event("account.created", id="s-1", account="bob", device="d-1", ip="10.0.0.1"),
        event(id="e-1", account="bob", device="d-1", ip="10.0.0.1", points=50),
        event(id="e-2", account="ann", device="d-1", points=70),
        event("transfer", id="t-1", account="ann", to="bob", points=20, device="d-1"),
        event("redeem", id="r-1", account="bob", points=30, ip="10.0.0.1"),
    ]


def test_the_same_batch_again_changes_nothing(desk: Desk) -> None:
    """A redelivered batch stands at or below the progress row: nothing is written, velocity is the first's."""
    records = desk.part.records(*busy_batch())
    first = desk.prepare(records)
    desk.stages.pipeline.commit(first)
    before = desk.effects()
    again = desk.prepare(records)
    committed = desk.stages.pipeline.commit(again)
    assert (committed.decided, committed.letters, committed.duplicates) == ((), (), 0)
    assert (desk.effects(), desk.progress()) == (before, 4)
    np.testing.assert_array_equal(first.velocity, again.velocity)
    assert velocity_of(again, "device.count_1h") == [0.0, 1.0, 2.0, 3.0, 0.0]
    assert velocity_of(again, "account.count_1h") == [0.0, 1.0, 0.0, 1.0, 3.0]


def test_a_crash_between_redis_and_commit_gives_the_same_features(desk: Desk) -> None:
    """Observed, killed, delivered again to another worker: the stored features are those of the first time."""
    records = desk.part.records(*busy_batch())
    first = desk.prepare(records)
    desk.claim(0)
    other = desk.beside(desk.log)
    other.epochs[0] = desk.epochs[0] + 1
    committed = other.deliver(records)
    again = np.array([row.features[: first.velocity.shape[1]] for row in committed.decided if row.features is not None])
    np.testing.assert_array_equal(first.velocity[1:], again)


def test_what_is_committed_is_not_even_decoded(desk: Desk) -> None:
    """`prepare` leaves out what its worker knows to be committed, so redelivery costs no round trip to Redis."""
    records = desk.part.records(*busy_batch())
    prepared = desk.run(desk.stages.pipeline.prepare(records, (desk.span(records),), {0: 2}))
    assert [record.offset for record in prepared.records] == [3, 4]


def test_overlapping_batches_are_cut_at_the_progress_row(desk: Desk) -> None:
    """Of a batch that reaches back, only what lies beyond the committed offset is decided."""
    records = desk.part.records(*busy_batch())
    desk.deliver(records[:3])
    committed = desk.deliver(records[1:])
    assert [row.incoming.offset for row in committed.decided] == [3, 4]
    assert (desk.count("decision"), desk.count("event_duplicate"), desk.progress()) == (5, 0, 4)
    desk.verified()


def test_an_event_twice_in_one_batch_counts_once(desk: Desk) -> None:
    """The first copy is decided, the second is accounted for as a duplicate at its own offset."""
    again = event(id="e-1", points=10)
    committed = desk.send(again, event(id="e-2", points=1), again)
    assert (len(committed.decided), committed.duplicates, desk.balance("ann")) == (2, 1, 11)
    rows = desk.rows('SELECT part, "offset", source, event_id FROM event_duplicate')
    assert [tuple(row) for row in rows] == [(0, 2, "pos", "e-1")]
    assert desk.metrics.counter(DUPLICATES, desk.log.topic)._value.get() == 1
    desk.verified()


def test_an_event_on_both_topics_counts_once(desk: Desk) -> None:
    """Its identity knows no topic: the one that commits first decides it."""
    requests = desk.beside(Log(desk.log.log_id, "points.requests"))
    desk.send(event(id="e-1", points=10))
    committed = requests.send(event(id="e-1", points=10), event(id="e-2", points=5))
    assert ([row.event.id for row in committed.decided], committed.duplicates) == (["e-2"], 1)
    assert desk.one("SELECT topic FROM event_duplicate") == "points.requests"
    assert desk.balance("ann") == 15


def test_a_source_of_the_same_id_is_another_event(desk: Desk) -> None:
    """Identity is source and id together."""
    desk.send(event(id="e-1", source="pos"), event(id="e-1", source="app"))
    assert (desk.count("decision"), desk.count("event_duplicate")) == (2, 0)


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        pytest.param(json.dumps(event(id="e-1"), indent=2).encode(), {}, id="white space"),
        pytest.param(encoded(dict(reversed(event(id="e-1").items()))), {}, id="another order of fields"),
        pytest.param(encoded(event(id="e-1", occurred_at="2026-03-01T10:00:00+08:00")), {}, id="another time zone"),
        pytest.param(encoded({**event(id="e-1"), "device": None}), {}, id="an explicit null"),
        pytest.param(
            encoded({"program": LIVE, "account": "ann", "points": 100}),
            {**CLOUD, "ce_time": b"2026-03-01T02:00:00Z"},
            id="a CloudEvent in binary mode",
        ),
    ],
)
def test_the_same_event_in_another_form_is_a_duplicate(desk: Desk, raw: bytes, headers: dict[str, bytes]) -> None:
    """A producer that sends again may write differently: what counts is what the event says."""
    desk.send(event(id="e-1"))
    committed = desk.deliver([desk.part.record(raw, tuple(headers.items()))])
    assert (committed.duplicates, committed.letters, desk.count("event_duplicate")) == (1, (), 1)
    assert desk.balance("ann") == 100


def test_a_duplicate_sees_and_adds_no_velocity(desk: Desk) -> None:
    """A copy sent later adds nothing to its account, and the events behind it see one event, not two."""
    desk.send(event(id="e-1", points=10, device="d-1"))
    desk.send(event(id="e-1", points=10, device="d-1"))
    prepared = desk.prepare(desk.part.records(event(id="e-2", device="d-1")))
    assert velocity_of(prepared, "device.count_1h") == [1.0]
    assert velocity_of(prepared, "account.sum_1h") == [10.0]


def test_a_batch_that_failed_half_way_is_decided_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that broke before its end leaves nothing; the same batch then commits as if for the first time."""
    prepared = desk.prepare(desk.part.records(*busy_batch()))
    with monkeypatch.context() as broken:
        broken.setattr("streams.pipeline.inbox.advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.stages.pipeline.commit(prepared)
    assert set(desk.effects().values()) == {0}
    assert desk.progress() == -1
    assert len(desk.stages.pipeline.commit(prepared).decided) == 5
    desk.verified()


def test_any_redelivery_comes_to_the_same_ledger(
    database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    """Seeded traffic in random batches that reach back at random equals an independent model that reads it once."""
    accounts = [f"m{i}" for i in range(8)]
    values = [
        event(
            kind,
            id=f"e-{rng.randrange(150)}",
            account=rng.choice(accounts),
            points=5,
            occurred_at="2026-03-01T02:00:00Z",
        )
        for kind in rng.choices(("earn", "redeem"), (3, 2), k=200)
    ]
    kept: dict[str, dict[str, object]] = {}
    values = [kept.setdefault(str(value["id"]), value) for value in values]
    with open_desk(database, redis_url, tmp_path_factory.mktemp("desk"), QUIET_POLICY) as desk:
        records, done = desk.part.records(*values), 0
        while done < len(records):
            first = max(0, done - rng.randrange(20))
            last = min(len(records), done + rng.randrange(1, 30))
            desk.deliver(records[first:last], Span(0, first, last - 1, desk.epochs[0]))
            done = last
        model = expected(encoded(value) for value in values)
        assert desk.outcomes() == model.outcomes
        assert {name: desk.balance(name) for name in model.balances} == model.balances
        handled = desk.count("event_inbox") + desk.count("event_duplicate")
        assert (handled, verify(desk.engine).ok) == (len(values), True)
