"""A batcher over a desk, fed with record batches by hand; nothing waits longer than the work itself takes."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from streams import batcher
from streams.batcher import Batcher, Outside, Ownership
from streams.handoff import BatchParams
from streams.records import Hole
from streams.transport import RecordBatch
from streams.watchdog import Pulse
from tests.integration.pipeline_desk import Desk

SECONDS_MAX = 60.0


class Exited(BaseException):
    """Stands for the end of the process with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Handed:
    """What Faust's event is to the batcher: a record batch, and an ack, here noted with what was committed by then."""

    value: RecordBatch
    rig: "Rig"

    def ack(self) -> None:
        """Note the ack and how far the database was."""
        self.rig.acks.append((self.value.last_offset, self.rig.desk.progress(self.value.part)))
        self.rig.changed.set()


@dataclass
class Rig:
    """The batcher of a desk, what it acked, and where its process would have ended."""

    desk: Desk
    ownership: Ownership = field(default_factory=Ownership)
    pulse: Pulse = field(default_factory=Pulse)
    acks: list[tuple[int, int]] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    asked: list[Hole] = field(default_factory=list)
    current: Callable[[RecordBatch], bool] = lambda _: True
    read_hole: Callable[[Hole], Awaitable[list[Any]]] | None = None
    stopping: bool = False
    max_records: int = 500
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.take(0)

    def take(self, part: int) -> None:
        """Own a partition under the desk's epoch."""
        self.ownership.take(part, self.desk.epochs[part], self.desk.progress(part))

    def batch(self, records: Sequence[Any], covers_from: int | None = None) -> RecordBatch:
        """A fetch of one partition."""
        first, last = records[0], records[-1]
        start = first.offset if covers_from is None else covers_from
        return RecordBatch(first.topic, first.partition, records, start, last.offset, 1)

    def run(self, *batches: RecordBatch, until: Callable[[], bool] | None = None, orderly: bool = True) -> None:
        """Hand batches over and run the batcher until all are acked (or `until` says so, or the process would end).

        Then it is cancelled, as at a shutdown if `orderly`.
        """
        self.stopping = False
        self.desk.run(self._run(batches, until or (lambda: len(self.acks) >= len(batches)), orderly))

    async def _run(self, batches: Sequence[RecordBatch], until: Callable[[], bool], orderly: bool) -> None:
        made = Batcher(
            self.desk.stages.pipeline,
            self.ownership,
            BatchParams(self.max_records, 0.0),
            self.pulse,
            Outside(self.current, self._hole),
        )
        running = asyncio.create_task(made.run(lambda: self.stopping))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                for batch in batches:
                    await made.handoff.put(Handed(batch, self))
                while not until() and not self.exits:
                    with contextlib.suppress(TimeoutError):  # for conditions that nobody announces
                        await asyncio.wait_for(self.changed.wait(), 0.02)
                    self.changed.clear()
        finally:
            self.stopping = orderly
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _hole(self, hole: Hole) -> list[Any]:
        self.asked.append(hole)
        return await self.read_hole(hole) if self.read_hole else []

    def exit(self, code: int) -> NoReturn:
        """Take the place of os._exit."""
        self.exits.append(code)
        self.changed.set()
        raise Exited(code)


def make_rig(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose exits are caught and whose backing off is short."""
    rig = Rig(desk)
    monkeypatch.setattr(os, "_exit", rig.exit)
    monkeypatch.setattr(batcher, "BACKOFF_SECONDS_MAX", 0.01)
    return rig
