"""Where a worker goes on reading after an assignment: behind what PostgreSQL has, whatever Kafka noted."""

import asyncio
import os
from collections.abc import Mapping
from typing import NoReturn

import pytest
from faust.types import TP

from streams import exits, kafka
from streams.batcher import Ownership
from streams.records import Span
from streams.worker import Partitions
from tests.integration.pipeline_desk import Desk, event


class Ended(BaseException):
    """Stands for the end of the process."""


def partitions(desk: Desk, ownership: Ownership, *, trust: bool = True) -> Partitions:
    """A worker's partitions over the desk's database."""
    settings = desk.settings.model_copy(
        update={"kafka_url": "nowhere:1", "trust_end_offsets": None if trust else False, "worker_id": "w-1"}
    )
    return Partitions(settings, desk.engine, desk.log, ownership)


def log_has(monkeypatch: pytest.MonkeyPatch, bounds: Mapping[int, tuple[int, int]]) -> None:
    """Let the broker answer questions for the bounds of the log."""

    async def answer(_url: str, _topic: str, parts: list[int]) -> Mapping[int, tuple[int, int]]:
        return {part: bounds[part] for part in parts}

    monkeypatch.setattr(kafka, "log_bounds", answer)


def test_reading_goes_on_behind_the_progress_row(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed with a new epoch; a partition seen before goes on behind its last offset, a new one at its start."""
    desk.send(event(), event(), event())
    log_has(monkeypatch, {0: (0, 10), 2: (100, 120)})
    ownership, topic = Ownership(), desk.log.topic
    found = desk.run(partitions(desk, ownership).positions({TP(topic, 0), TP(topic, 2), TP("other", 7)}))
    assert found == {TP(topic, 0): 3, TP(topic, 2): 100}
    assert (ownership.epochs, ownership.committed) == ({0: 2, 2: 1}, {0: 2, 2: 99})
    owner = desk.one("SELECT owner FROM partition_progress WHERE part = 2")
    assert owner.startswith("w-1/")


def test_a_spare_worker_has_nothing_to_claim(desk: Desk) -> None:
    """More workers than partitions: one without any asks no broker and writes nothing, and stays alive."""
    ownership = Ownership()
    assert desk.run(partitions(desk, ownership).positions(set())) == {}
    assert (ownership.epochs, desk.count("partition_progress")) == ({}, 1)


def test_no_partitions_no_question(kafka_broker: object) -> None:
    """Asking for the bounds of no partition answers at once."""
    del kafka_broker
    assert asyncio.run(kafka.log_bounds("nowhere:1", "any", [])) == {}


@pytest.mark.parametrize(("end", "trust", "stops"), [(2, True, True), (3, True, False), (1, False, False)])
def test_a_log_that_was_cut_stops_the_worker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, end: int, trust: bool, stops: bool
) -> None:
    """A log that ends before what is committed of it was made anew: the worker stays down, unless ends mean nothing."""
    desk.send(event(), event(), event())
    codes: list[int] = []

    def leave(code: int) -> NoReturn:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", leave)
    log_has(monkeypatch, {0: (0, end)})
    work = partitions(desk, Ownership(), trust=trust).positions({TP(desk.log.topic, 0)})
    if stops:
        with pytest.raises(Ended):
            desk.run(work)
    else:
        assert desk.run(work) == {TP(desk.log.topic, 0): 3}
    assert codes == [exits.LOG_CUT] * stops
    assert exits.LOG_CUT in exits.STAY_DOWN


def test_a_log_that_begins_too_late_stops_the_worker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention passed what is not committed yet: the worker stays down before it reads a record."""
    desk.send(event(), event(), event())
    codes: list[int] = []

    def leave(code: int) -> NoReturn:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(os, "_exit", leave)
    ownership, topic = Ownership(), TP(desk.log.topic, 0)
    log_has(monkeypatch, {0: (3, 9)})
    assert desk.run(partitions(desk, ownership).positions({topic})) == {topic: 3}
    log_has(monkeypatch, {0: (4, 9)})
    with pytest.raises(Ended):
        desk.run(partitions(desk, ownership).positions({topic}))
    assert codes == [exits.LOST]


def test_ownership_follows_claims_and_commits() -> None:
    """A span counts while its epoch is the one that was claimed; a commit under an old one changes nothing."""
    ownership = Ownership()
    ownership.take(0, 7, 41)
    mine, old = Span(0, 42, 50, 7), Span(0, 42, 60, 6)
    assert (ownership.holds([mine]), ownership.holds([mine, old]), ownership.holds([Span(1, 0, 1, 7)])) == (
        True,
        False,
        False,
    )
    ownership.reached([mine, old])
    ownership.reached([Span(0, 42, 45, 7)])
    assert ownership.committed == {0: 50}
    ownership.release()
    assert (ownership.holds([mine]), ownership.committed) == (False, {})
    ownership.reached([mine])
    assert ownership.committed == {}
