"""Commands beside a running `up`: simulated traffic, dead letters and their second chance, lag, the desk."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer

from cli.main import main
from cli.stack import stack
from config.settings import Settings


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack with all processes, as `pointguard up` starts it."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("up"))
    with stack(settings) as started:
        yield started.settings


def said_by(capsys: pytest.CaptureFixture[str], running: Settings, *arguments: object) -> str:
    """What a command that succeeds says."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments), "--data-dir", str(running.data_dir)])
    said = capsys.readouterr()
    assert end.value.code in (0, None), said.err
    return said.out


def test_simulated_fraud_is_stopped_and_honest_members_are_not(
    running: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every event has its outcome; most of the fraud is held, nearly nothing else; the ledger is clean."""
    said = said_by(capsys, running, "simulate", "--events", 2500, "--rate", 250, "--speed", 300, "--program", "trial")
    figures = re.search(r"precision ([\d.]+)%,\s+recall ([\d.]+)%", said)
    assert figures is not None, said
    assert float(figures[1]) >= 75
    assert float(figures[2]) >= 50
    assert "The ledger is clean" in said_by(capsys, running, "verify")
    holds = said_by(capsys, running, "holds", "list", "--program", "trial", "--limit", 1)
    hold = re.search(r"^ +(\d+)  ", holds, re.MULTILINE)
    assert hold is not None, holds
    assert "approved" in said_by(capsys, running, "holds", "approve", hold[1], "--reason", "checked")
    # A second run goes on behind the first: new events, none of them a duplicate or refused.
    said_by(capsys, running, "simulate", "--events", 100, "--rate", 250, "--speed", 300, "--program", "trial")
    said = said_by(capsys, running, "verify", "--topic", "--anchors", running.anchors_path)
    assert re.search(r"2,60[01] events", said)  # the other test of this module adds one
    assert "clean" in said
    assert re.search(r"Compared [2-9] anchors", said), said  # the relay's first, from its topic and from its file
    assert "Not looked at" in said_by(capsys, running, "verify", "--incremental")


def test_a_dead_letter_gets_its_second_chance(running: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """An event of an unknown programme is kept; once the programme exists, the same bytes are decided."""
    event = {
        "id": "e1",
        "source": "till",
        "type": "earn",
        "program": "late",
        "account": "m-1",
        "points": 5,
        "occurred_at": "2026-01-05T09:00:00Z",
    }
    asyncio.run(send(running, json.dumps(event).encode()))
    wait_for(capsys, running, "unknown_program")
    said_by(capsys, running, "program", "create", "late", "--simulation")
    time.sleep(2.5)  # workers look for new programmes every two seconds
    said = said_by(capsys, running, "dlq", "retry", "--all", "--error", "unknown_program")
    assert "1 dead letters were sent again" in said
    deadline = time.monotonic() + 20
    while not re.search(r"late .* 1 ", said := said_by(capsys, running, "program", "list")):
        assert time.monotonic() < deadline, said
        time.sleep(0.3)
    assert "no such dead letters" in said_by(capsys, running, "dlq", "list")
    assert "Dead letters: 0" in said_by(capsys, running, "lag")


async def send(running: Settings, value: bytes) -> None:
    """Produce one record."""
    producer = AIOKafkaProducer(bootstrap_servers=running.kafka_url, acks="all")
    await producer.start()
    await producer.send_and_wait(running.events_topic, key=b"m-1", value=value)
    await producer.stop()


def wait_for(capsys: pytest.CaptureFixture[str], running: Settings, error: str) -> None:
    """Wait until a dead letter with that error is listed."""
    deadline = time.monotonic() + 45
    while error not in (said := said_by(capsys, running, "dlq", "list")):
        assert time.monotonic() < deadline, said
        time.sleep(0.3)
