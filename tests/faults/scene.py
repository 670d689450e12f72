"""A topic, what was sent to it, and the worker processes that read it: the stage on which agents are watched."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.faults.audit import Place, Report, audit

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


class Scene:
    """A topic with `partitions`, filled in turn, and workers of one agent of tests.faults.naive."""

    def __init__(self, broker: str, agent: str, directory: Path, partitions: int = 1) -> None:
        self.broker, self.agent, self.partitions = broker, agent, partitions
        self.topic = f"naive-{agent}-{uuid.uuid4().hex[:8]}"
        self.directory = directory
        self.log_file = directory / f"{self.topic}.log"
        self.sent: dict[str, Place] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        asyncio.run(self._create())

    async def _create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.topic, self.partitions, 1)])
        finally:
            await admin.close()

    def send(self, ids: Iterable[str]) -> None:
        """Send events and note where the broker put them."""
        asyncio.run(self._send(list(ids)))

    async def _send(self, ids: list[str]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.broker, acks="all", linger_ms=5) as producer:
            results = [
                await producer.send(self.topic, event_id.encode(), partition=n % self.partitions)
                for n, event_id in enumerate(ids)
            ]
            for event_id, result in zip(ids, await asyncio.gather(*results), strict=True):
                self.sent[event_id] = Place(result.partition, result.offset)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of this scene's agent."""
        done = self._done_file(len(self.workers))
        done.touch()
        command = [sys.executable, "-m", "tests.faults.naive", self.agent, self.broker, self.topic, str(done)]
        with self.log_file.open("ab") as log:
            worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def _done_file(self, worker: int) -> Path:
        return self.directory / f"{self.topic}.done-{worker}"

    def kill(self) -> None:
        """Kill whoever still runs."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def done(self, worker: int | None = None) -> list[str]:
        """The ids whose work was done, by one worker or all of them in turn."""
        workers = range(len(self.workers)) if worker is None else [worker]
        return [event_id for one in workers for event_id in self._done_file(one).read_text().split()]

    def committed(self) -> Mapping[int, int]:
        """What the group has committed, by partition."""
        return asyncio.run(self._committed())

    async def _committed(self) -> Mapping[int, int]:
        async with AIOKafkaConsumer(bootstrap_servers=self.broker, group_id=self.topic) as consumer:
            parts = range(self.partitions)
            return {part: await consumer.committed(TopicPartition(self.topic, part)) or 0 for part in parts}

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
