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
    """A topic with `partitions`, filled in turn, and workers of one agent of tests.faults.naive.

    `work_seconds` is how long the work for an event takes, `session_seconds` how long a silent worker stays a member.
    """

    work_seconds = 0.0
    session_seconds = 6.0

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

    def start_worker(self, index: int | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker of this scene's agent, or one that has ended again."""
        index = len(self.workers) if index is None else index
        done = self._done_file(index)
        done.touch()
        command = [sys.executable, "-m", "tests.faults.naive", self.agent, self.broker, self.topic, str(done)]
        command += [str(self.work_seconds), str(self.session_seconds)]
        with self.log_file.open("ab") as log:
            worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.workers[index : index + 1] = [worker]
        return worker

    def _done_file(self, worker: int) -> Path:
        return self.directory / f"{self.topic}.done-{worker}"

    def end_worker(self, index: int) -> None:
        """End a worker as `kill -9` does."""
        self.workers[index].kill()
        self.workers[index].wait()

    def kill(self) -> None:
        """Kill whoever still runs."""
        for index in range(len(self.workers)):
            self.end_worker(index)

    def effects(self, worker: int) -> list[tuple[int, str]]:
        """When (by the monotonic clock, in nanoseconds) this worker had done the work of which id, in turn."""
        lines = self._done_file(worker).read_text().rpartition("\n")[0].splitlines()
        return [(int(done_ns), event_id) for done_ns, event_id in map(str.split, lines)]

    def done(self, worker: int | None = None) -> list[str]:
        """The ids whose work was done, by one worker or all of them in turn."""
        workers = range(len(self.workers)) if worker is None else [worker]
        return [event_id for one in workers for _, event_id in self.effects(one)]

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

    def look_after(self) -> None:
        """See to the workers while something is waited for: here they are left alone."""

    def wait_until(
        self, true: Callable[[], bool], seconds: float = PATIENCE_SECONDS, what: str = "it holds", /
    ) -> None:
        """Wait for a condition; AssertionError with the report and the workers' output when it does not come."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                log = self.log_file.read_text()[-4000:]
                raise AssertionError(f"{self.topic}, {what}: not within {seconds} s\n{self.report()}\n{log}")
            self.look_after()
            time.sleep(0.1)
