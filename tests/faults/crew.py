"""Two workers of a naive agent, killed and started again by the drive that PointGuard's own workers are put to."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.drive import PARTITIONS, WORKERS
from tests.faults.scene import Scene

BAD_SHARE = 0.0005  # each costs up to 5 s, until Faust starts the agent again
HANG_SECONDS = 30.0
SESSION_SECONDS = 3.0  # the group waits that long for a worker that was killed
WORK_SECONDS = 0.001  # without any, a burst is over before a commit shows that it began


class Crew(Scene):
    """A scene for `tests.faults.drive`: named workers; what is handled is what the group has committed."""

    work_seconds = WORK_SECONDS
    session_seconds = SESSION_SECONDS

    def __init__(self, broker: str, agent: str, directory: Path) -> None:
        super().__init__(broker, agent, directory, PARTITIONS)
        self.bad: set[str] = set()
        self.restarts = 0
        self._burst_began_ns = 0
        self._seen, self._seen_at = 0, time.monotonic()

    def produce(self, rng: random.Random, count: int) -> None:
        """Send so many events, a seeded few of which raise wherever they are worked on."""
        bad = set(rng.sample(range(count), round(count * BAD_SHARE)))
        first = len(self.sent)
        ids = [f"{'bad' if n in bad else 'good'}-{first + n}" for n in range(count)]
        self._burst_began_ns = time.monotonic_ns()
        self.send(ids)
        self.bad.update(ids[n] for n in bad)

    def produced(self) -> int:
        """Events the broker has acknowledged."""
        return len(self.sent)

    def handled(self) -> int:
        """Events the group has committed, whether anybody did their work or not."""
        return sum(self.committed().values())

    def in_flight(self) -> dict[str, int]:
        """Events not committed, by the worker that was last to do one of their partition in the burst at hand.

        A partition in which nothing of the burst is done yet counts for nobody: who reads it is not known.
        """
        last: dict[int, tuple[int, str]] = {}
        for index, name in enumerate(WORKERS):
            for done_ns, event_id in self.effects(index):
                if done_ns >= self._burst_began_ns:
                    part = self.sent[event_id].part
                    last[part] = max(last.get(part, (0, "")), (done_ns, name))
        committed = self.committed()
        waiting = dict.fromkeys(WORKERS, 0)
        for place in self.sent.values():
            if place.part in last and place.offset >= committed[place.part]:
                waiting[last[place.part][1]] += 1
        return waiting

    def kill_worker(self, name: str) -> None:
        """End a worker as `kill -9` does."""
        self.end_worker(WORKERS.index(name))

    def look_after(self) -> None:
        """Start again who has ended. Stock Faust has no watchdog and may join for ever: then all are started again."""
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.start_worker(index)
        handled, now = self.handled(), time.monotonic()
        if handled != self._seen or handled >= self.produced():
            self._seen, self._seen_at = handled, now
        elif now - self._seen_at > HANG_SECONDS:
            self.kill()
            self.restarts += 1
            self._seen_at = now


@contextmanager
def crew(broker: str, agent: str, directory: Path) -> Iterator[Crew]:
    """A crew at work; everybody is stopped at the end."""
    made = Crew(broker, agent, directory)
    try:
        for _ in WORKERS:
            made.start_worker()
        yield made
    finally:
        made.kill()
