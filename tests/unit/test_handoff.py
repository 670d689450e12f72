"""Gathering record batches into one transaction."""

import asyncio
from types import SimpleNamespace

from streams.handoff import BatchParams, Handoff


def batch(records: int) -> SimpleNamespace:
    """Something with the shape of Faust's event around a record batch."""
    return SimpleNamespace(value=SimpleNamespace(records=[None] * records))


def sizes(events: list[SimpleNamespace]) -> list[int]:
    """Records of each batch."""
    return [len(event.value.records) for event in events]


def test_takes_what_waits_up_to_the_limit() -> None:
    """Batches that wait already are taken together, without lingering, until there are enough records."""

    async def scenario() -> tuple[list[int], list[int]]:
        handoff = Handoff(BatchParams(max_records=500, linger_seconds=60.0))
        for records in (200, 200, 200):
            await handoff.put(batch(records))
        first = await handoff.gather()
        await handoff.put(batch(500))
        return sizes(first), sizes(await handoff.gather())

    assert asyncio.run(scenario()) == ([200, 200, 200], [500])


def test_linger_ends_a_small_batch() -> None:
    """A batch that stays small goes after the linger, and what comes later is not lost with the wait that ran out."""

    async def scenario() -> tuple[list[int], list[int]]:
        handoff = Handoff(BatchParams(max_records=500, linger_seconds=0.001))
        await handoff.put(batch(1))
        first = await handoff.gather()
        await handoff.put(batch(2))
        return sizes(first), sizes(await handoff.gather())

    assert asyncio.run(scenario()) == ([1], [2])


def test_put_waits_while_the_batcher_is_behind() -> None:
    """The handoff is bounded: the pump waits when its depth is reached."""

    async def scenario() -> bool:
        handoff = Handoff(BatchParams(), depth=1)
        await handoff.put(batch(1))
        second = asyncio.ensure_future(handoff.put(batch(1)))
        await asyncio.sleep(0)
        waiting = not second.done()
        await handoff.gather()
        await second
        return waiting

    assert asyncio.run(scenario())
