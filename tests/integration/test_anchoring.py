"""Anchors on their way: from the relay to a topic and a file, and from there to `pointguard verify`."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from sqlalchemy import Engine, text

from alerts.metrics import ANCHORED, Metrics
from cli.errors import FOUND, UNREACHABLE
from cli.main import main
from config.settings import load
from ledger.anchors import Anchor, key_id, public_of, read
from ledger.chain_store import heads
from streams import anchoring
from streams.anchoring import Anchorer, Anchoring, ensure_key
from streams.effects import Outgoing
from streams.kafka import ensure_topics
from streams.relay import Relay, RelayParams
from streams.watchdog import Pulse
from tests.integration.ledger_writer import Writer, earn, pool

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
Command = Callable[..., tuple[int, str]]


class Broker:
    """Takes the place of a producer; refuses while it is told to."""

    def __init__(self) -> None:
        """Accept everything."""
        self.taken: list[bytes] = []
        self.refuses = False

    async def send_and_wait(self, _topic: str, value: bytes) -> None:
        """Take one message."""
        if self.refuses:
            raise KafkaTimeoutError
        self.taken.append(value)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool on a migrated database."""
    with pool(database) as lent:
        yield lent


def anchorer_of(engine: Engine, broker: Broker, path: Path, key: bytes = KEY) -> Anchorer:
    """Make a relay's anchorer with a broker of the test's."""
    return Anchorer(engine, broker, Anchoring(key, "points.anchors", path))


def anchors_in(lines: list[bytes]) -> tuple[Anchor, ...]:
    """Read anchors that either key signed."""
    told = read(lines, [public_of(KEY), public_of(OTHER)])
    assert told.faults == ()
    return told.anchors


def test_heads_that_moved_go_to_topic_and_file_and_are_kept(engine: Engine, tmp_path: Path) -> None:
    """The first anchor has all heads, the next only what moved since, and nothing is said when nothing moved."""
    broker, path = Broker(), tmp_path / "deep" / "anchors.jsonl"
    relay, writer = anchorer_of(engine, broker, path), Writer(engine)
    writer.move(earn("ann", 5))
    assert asyncio.run(relay.anchor()) == 3  # the chain's beginning, the writer's, and the new key's act
    assert asyncio.run(relay.anchor()) == 0
    writer.move(earn("ann", 5))
    assert asyncio.run(relay.anchor()) == 1
    with engine.connect() as conn:
        assert broker.taken == anchoring.read_file(path) == anchoring.kept(conn)
        standing = {head.chain: (head.seq, head.hash.hex()) for head in heads(conn)}
    first, second = anchors_in(broker.taken)
    assert [anchor.number for anchor in (first, second)] == [1, 2]
    assert [head.chain for head in second.heads] == ["act:test"]
    said = {head.chain: (head.seq, head.hash) for anchor in (first, second) for head in anchor.heads}
    assert said == standing


def test_several_relays_number_their_anchors_together(engine: Engine, tmp_path: Path) -> None:
    """Each publishes what moved since its own last one; no number is given twice or left out."""
    broker, path, writer = Broker(), tmp_path / "anchors.jsonl", Writer(engine)
    relays = [anchorer_of(engine, broker, path) for _ in range(2)]

    async def together() -> None:
        for _ in range(3):
            await asyncio.to_thread(writer.move, earn("ann", 1))
            await asyncio.gather(*(relay.anchor() for relay in relays))

    asyncio.run(together())
    assert [anchor.number for anchor in anchors_in(broker.taken)] == [1, 2, 3, 4, 5, 6]


def test_a_broker_that_refuses_leaves_no_anchor(engine: Engine, tmp_path: Path) -> None:
    """The next try publishes the same heads under the same number."""
    broker, path = Broker(), tmp_path / "anchors.jsonl"
    relay = anchorer_of(engine, broker, path)
    broker.refuses = True
    with pytest.raises(KafkaTimeoutError):
        asyncio.run(relay.anchor())
    assert not path.exists()
    broker.refuses = False
    assert asyncio.run(relay.anchor()) == 2
    assert [anchor.number for anchor in anchors_in(broker.taken)] == [1]


def test_a_file_that_refuses_is_tried_again_with_the_same_heads(engine: Engine, tmp_path: Path) -> None:
    """The topic gets them at once; the file as soon as it can."""
    broker, path = Broker(), tmp_path / "anchors.jsonl"
    path.mkdir()
    relay = anchorer_of(engine, broker, path)
    assert asyncio.run(relay.anchor()) == 0
    path.rmdir()
    assert asyncio.run(relay.anchor()) == 2
    first, second = anchors_in(broker.taken)
    assert first.heads == second.heads
    assert anchors_in(anchoring.read_file(path)) == (second,)


def test_another_key_leaves_its_act_in_the_chain(engine: Engine, tmp_path: Path) -> None:
    """The change of keys is told before the new key signs, and under it."""
    broker, path = Broker(), tmp_path / "anchors.jsonl"
    for key in (KEY, KEY, OTHER):
        asyncio.run(anchorer_of(engine, broker, path, key).anchor())
    with engine.connect() as conn:
        acts = conn.execute(
            text(
                "SELECT entry::json #>> '{detail,from}', entry::json #>> '{detail,to}' FROM audit_link"
                " WHERE chain = 'act:anchor' ORDER BY seq"
            )
        ).all()
    assert [tuple(act) for act in acts] == [
        (None, key_id(public_of(KEY))),
        (key_id(public_of(KEY)), key_id(public_of(OTHER))),
    ]
    assert "act:anchor" in {head.chain for head in anchors_in(broker.taken)[-1].heads}


def test_the_relay_anchors_in_its_turn(engine: Engine, tmp_path: Path) -> None:
    """A relay with a key does so at once, and says when; one without says that it cannot."""
    broker, metrics, path = Broker(), Metrics(), tmp_path / "anchors.jsonl"
    params = RelayParams(
        Outgoing("d", "a"), housekeeping_seconds=0.0, anchoring=Anchoring(KEY, "points.anchors", path, 0.01)
    )

    async def work() -> None:
        relay = Relay(engine, broker, metrics, Pulse(), params)
        running = asyncio.create_task(relay.run())
        async with asyncio.timeout(30):
            while metrics.gauge(ANCHORED)._value.get() == 0:
                await asyncio.wait({running}, timeout=0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())
    assert anchors_in(broker.taken)


def test_a_key_is_made_once_and_fits_its_public_half(tmp_path: Path) -> None:
    """The start of an embedded stack makes both files; the private one is nobody else's to read."""
    ensure_key(tmp_path)
    settings = load(data_dir=tmp_path)
    key = settings.anchor_key()
    assert key is not None
    assert settings.anchor_public_keys() == (public_of(key),)
    assert (tmp_path / "anchor.key").stat().st_mode & 0o077 == 0
    ensure_key(tmp_path)
    assert load(data_dir=tmp_path).anchor_key() == key


@pytest.fixture
def run(
    database: str, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the test's database and broker; its exit code, and what it said on both outputs."""
    monkeypatch.setenv("POINTGUARD_DATABASE_URL", database)
    monkeypatch.setenv("POINTGUARD_KAFKA_URL", kafka)
    monkeypatch.setenv("POINTGUARD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return command


def test_verify_compares_with_the_anchors_it_is_given(
    run: Command, engine: Engine, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file, from the topic, from the database's own copies; a chain cut since is found by each."""
    topic = f"anchors-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("POINTGUARD_ANCHORS_TOPIC", topic)
    path = tmp_path / "kept.jsonl"
    Writer(engine).move(earn("ann", 5))
    code, said = run("verify")
    assert (code, "No anchors were compared" in said) == (0, True)
    assert run("verify", "--anchors", path)[0] == UNREACHABLE
    ensure_key(tmp_path)
    key = load(data_dir=tmp_path).anchor_key()
    assert key is not None

    async def anchor() -> None:
        await ensure_topics(kafka, [topic], 1, 1)
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        try:
            assert await Anchorer(engine, producer, Anchoring(key, topic, path)).anchor()
        finally:
            await producer.stop()

    asyncio.run(anchor())
    sources = ((), ("--anchors", path), ("--topic",))
    for source in sources:
        code, said = run("verify", *source)
        assert (code, "Compared 1 anchors" in said) == (0, True), said
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        conn.execute(text("DELETE FROM audit_link WHERE chain = 'act:anchor'"))
    for source in sources:
        code, said = run("verify", *source)
        assert (code, "chain_cut" in said) == (FOUND, True), said


def test_verify_alerts_of_what_it_finds(run: Command, engine: Engine) -> None:
    """One alert a kind waits for the relay, with the kind and how often it was found; a clean run sends none."""
    Writer(engine).move(earn("ann", 5))
    assert run("verify")[0] == 0
    query = text("SELECT convert_from(value, 'UTF8')::json FROM outbox WHERE topic = 'points.alerts'")
    with engine.begin() as conn:
        assert conn.execute(query).scalars().all() == []
        conn.execute(text("UPDATE account SET posted_cr = posted_cr + 5 WHERE name = 'ann'"))
    assert run("verify")[0] == FOUND
    with engine.connect() as conn:
        alerts = conn.execute(query).scalars().all()
    assert {(alert["alert"], alert["error"], alert["points"]) for alert in alerts} == {
        ("ledger_differs", "counters_differ", 1),
        ("ledger_differs", "lots_differ_from_balance", 1),
        ("ledger_differs", "not_conserved", 1),
    }


def test_verify_says_what_an_incremental_run_did_not_look_at(run: Command, engine: Engine) -> None:
    """The first has nothing to go on from; the next tells what earlier ones had looked at."""
    Writer(engine).move(earn("ann", 5))
    code, said = run("verify", "--incremental")
    assert (code, "There was no clean run to go on from" in said) == (0, True)
    Writer(engine).move(earn("ann", 6), earn("bob", 7))
    code, said = run("verify", "--incremental")
    assert (code, "Checked 2 transactions, 4 entries" in said) == (0, True), said
    assert "Not looked at: what clean runs until" in said
    assert "1 transactions, 2 entries" in said
