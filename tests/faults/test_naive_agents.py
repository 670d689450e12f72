"""The meta-test: agents that are known to lose events on the stock driver, and a checker that must report them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.faults.audit import Place, Report, audit
from tests.faults.naive import EXIT_FAILED

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 45.0


class Scene:
    """A topic of one partition, what was sent to it, and the workers of one agent that read it."""

    def __init__(self, broker: str, agent: str, directory: Path) -> None:
        self.broker, self.agent = broker, agent
        self.topic = f"naive-{agent}-{uuid.uuid4().hex[:8]}"
        self.done_file = directory / self.topic
        self.done_file.touch()
        self.log_file = directory / f"{self.topic}.log"
        self.sent: dict[str, Place] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        asyncio.run(self._create())

    async def _create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.topic, 1, 1)])
        finally:
            await admin.close()

    def send(self, ids: Iterable[str]) -> None:
        """Send events and note where the broker put them."""
        asyncio.run(self._send(list(ids)))

    async def _send(self, ids: list[str]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.broker, acks="all") as producer:
            results = [await producer.send(self.topic, event_id.encode(), partition=0) for event_id in ids]
            for event_id, result in zip(ids, await asyncio.gather(*results), strict=True):
                self.sent[event_id] = Place(result.partition, result.offset)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of this scene's agent."""
        command = [sys.executable, "-m", "tests.faults.naive", self.agent, self.broker, self.topic, str(self.done_file)]
        with self.log_file.open("ab") as log:
            worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def kill(self) -> None:
        """Kill whoever still runs."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def done(self) -> list[str]:
        """The ids whose work was done."""
        return self.done_file.read_text().split()

    def committed(self) -> Mapping[int, int]:
        """What the group has committed."""
        return asyncio.run(self._committed())

    async def _committed(self) -> Mapping[int, int]:
        async with AIOKafkaConsumer(bootstrap_servers=self.broker, group_id=self.topic) as consumer:
            offset = await consumer.committed(TopicPartition(self.topic, 0))
            return {0: offset or 0}

    def report(self) -> Report:
        """What the checker says now."""
        return audit(self.sent, self.done(), self.committed())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, with the workers' output in the failure."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.topic}: {self.report()}\n{self.log_file.read_text()[-4000:]}")
            time.sleep(0.1)


@pytest.fixture
def scene(request: pytest.FixtureRequest, kafka: str, tmp_path: Path) -> Iterator[Scene]:
    """A scene of the agent that the test is parametrized with."""
    with contextlib.ExitStack() as stack:
        made = Scene(kafka, request.param, tmp_path)
        stack.callback(made.kill)
        yield made


@pytest.mark.parametrize("scene", ["auto-ack"], indirect=True)
def test_auto_ack_that_raises_is_reported(scene: Scene) -> None:
    """Two per cent of the events raise; each of them is committed without its work having been done."""
    scene.send(f"bad-{n}" if n % 50 == 25 else f"good-{n}" for n in range(100))
    scene.start_worker()
    scene.wait_until(lambda: "bad-25" in scene.report().lost)


@pytest.mark.parametrize("scene", ["take"], indirect=True)
def test_take_that_raises_is_reported(scene: Scene) -> None:
    """Two errors, and all that follows is committed with nobody at work."""
    scene.send(f"bad-{n}" if n in (60, 110) else f"good-{n}" for n in range(1_000))
    scene.start_worker()
    scene.wait_until(lambda: scene.committed()[0] == 1_000)
    assert len(scene.report().lost) >= 80


@pytest.mark.parametrize("scene", ["auto-ack"], indirect=True)
def test_auto_ack_on_sigterm_is_reported(scene: Scene) -> None:
    """A deploy stops the worker in the middle of an event, which is committed all the same."""
    scene.send(["good-0", "slow-1"])
    worker = scene.start_worker()
    scene.wait_until(lambda: scene.done() == ["good-0"])
    worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE_SECONDS)
    assert scene.report().lost == ("slow-1",)


@pytest.mark.parametrize("scene", ["auto-ack-2"], indirect=True)
def test_concurrency_with_a_kill_is_reported(scene: Scene) -> None:
    """One of two workers-in-one overtakes the other; the commit jumps past the event at work, and the kill loses it."""
    scene.send(["good-0", "good-1"])
    worker = scene.start_worker()
    scene.wait_until(lambda: scene.committed()[0] == 2)
    scene.send(["slow-2", "good-3"])
    scene.wait_until(lambda: scene.committed()[0] == 4)
    worker.kill()
    assert scene.report().lost == ("slow-2",)


@pytest.mark.parametrize("scene", ["recipe"], indirect=True)
def test_recipe_is_not_reported(scene: Scene) -> None:
    """The same errors, a SIGTERM and a kill in the middle of an event: nothing lost, and nothing said to be lost."""
    scene.send(f"good-{n}" for n in range(60))
    scene.send(["slow-60"])
    worker = scene.start_worker()
    scene.wait_until(lambda: len(scene.done()) == 60)
    worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE_SECONDS)
    assert (scene.report().lost, "slow-60" in scene.report().pending) == ((), True)
    killed = scene.start_worker()
    scene.wait_until(lambda: len(scene.done()) > 60)
    os.kill(killed.pid, signal.SIGKILL)
    assert (scene.report().lost, "slow-60" in scene.report().pending) == ((), True)


@pytest.mark.parametrize("scene", ["recipe"], indirect=True)
def test_recipe_dies_of_an_error_and_loses_nothing(scene: Scene) -> None:
    """An error ends the process with everything since the last ack still to come."""
    scene.send(f"bad-{n}" if n == 30 else f"good-{n}" for n in range(100))
    worker = scene.start_worker()
    assert worker.wait(PATIENCE_SECONDS) == EXIT_FAILED
    assert (scene.report().lost, "bad-30" in scene.report().pending) == ((), True)
