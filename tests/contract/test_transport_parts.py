"""Private parts of Faust and aiokafka that streams/transport.py leans on: all named here, all still there."""

from __future__ import annotations

import ast
import asyncio
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiokafka
import faust
import pytest
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as stock

from streams import transport
from tests.contract.transport_harness import app_of

# What the transport reads, writes or overrides, by the object that has it.
CONSUMER = {
    "_committed_offset": "where acks of a reading begin, cleared with it",
    "_stopped": "ends the drain loop",
    "_thread": "the consumer thread",
    "_unacked_messages": "Faust's own list of what is at work",
    "_drain_messages": "overridden: the hand-over",
    "_filter_tps_with_pending_acks": "overridden: which partitions to commit",
    "_new_consumer_thread": "overridden: makes our thread",
    "_new_offset": "overridden: the commit point",
}
THREAD = {
    "_create_worker_consumer": "overridden: read_committed, and no jump to the earliest record",
    "_ensure_consumer": "the aiokafka consumer",
}
KAFKA = {"_isolation_level": "set before the start", "_auto_offset_reset": "set before the start"}
OTHERS = {"_exit": "os._exit"}


def consumer_of(driver: str) -> Any:
    """A consumer of either driver, in a loop that is gone."""

    async def build() -> Any:
        consumer: Any = app_of(driver).consumer
        consumer._thread.thread_loop.close()
        return consumer

    return asyncio.run(build())


def test_the_lists_above_name_every_private_part() -> None:
    """A private attribute in the module is either its own or named here."""
    tree = ast.parse(Path(transport.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    own = (
        {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        - CONSUMER.keys()
        - THREAD.keys()
    )
    own |= {"_turns", "_expected", "_unfinished", "_committable", "_reading", "_newest_seek"}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    overridden = {"_drain_messages", "_filter_tps_with_pending_acks", "_new_consumer_thread", "_new_offset"}
    assert private - own | overridden == (CONSUMER | THREAD | KAFKA | OTHERS).keys()


@pytest.mark.parametrize("name", sorted(CONSUMER))
def test_faust_still_has_it_in_its_consumer(name: str) -> None:
    """The stock consumer has it."""
    assert hasattr(consumer_of("stock"), name)


@pytest.mark.parametrize("name", sorted(THREAD))
def test_faust_still_has_it_in_its_thread(name: str) -> None:
    """The stock consumer thread has it."""
    assert hasattr(stock.AIOKafkaConsumerThread, name)


@pytest.mark.parametrize("ours", [transport.Consumer, transport.ConsumerThread, transport.RecordBatches])
def test_what_is_overridden_is_there_to_be_overridden(ours: type[Any]) -> None:
    """Each method of ours is new on purpose, or has one of the same kind and parameters above it."""
    new = {
        "__init__", "unacked_records", "_advance", "_forget", "_hand_over", "_message",
        "fetch", "_fetch", "start_reading", "_start_reading", "_committed", "next_offsets", "_next_offsets",
    }  # fmt: skip
    for name, method in vars(ours).items():
        if inspect.isfunction(method) and name not in new:
            base = getattr(ours.__mro__[1], name)
            assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(base), name
            if ours is not transport.RecordBatches:  # compile takes options that we have no use for
                assert list(inspect.signature(method).parameters) == list(inspect.signature(base).parameters), name


def test_faust_has_none_of_our_names() -> None:
    """What we add collides with nothing of Faust's."""
    assert not any(
        hasattr(faust.App, name)
        for name in ("positions", "is_current", "unacked", "give_up", "next_offsets", "pause_seconds")
    )
    consumer = consumer_of("stock")
    assert not any(
        hasattr(consumer, name)
        for name in ("reading", "unacked_records", "_turns", "_expected", "_unfinished", "_committable", "_forget")
    )
    thread = stock.AIOKafkaConsumerThread
    assert not any(hasattr(thread, name) for name in ("fetch", "start_reading", "next_offsets", "_reading"))


def test_aiokafka_is_told_what_stock_faust_would_not_tell_it() -> None:
    """Ours reads committed records only and never jumps; stock does otherwise; both settings reach the fetcher."""

    async def settings(driver: str) -> tuple[str, str]:
        consumer: Any = app_of(driver, consumer_auto_offset_reset="earliest").consumer
        thread = consumer._thread
        thread.thread_loop.close()
        kafka = thread._create_worker_consumer(thread.transport)
        kafka._closed = True  # never started, so there is nothing to stop
        return kafka._isolation_level, kafka._auto_offset_reset

    assert asyncio.run(settings("stock")) == ("read_uncommitted", "earliest")
    assert asyncio.run(settings("ours")) == ("read_committed", "none")
    start = inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    assert all(f"{name}," in start for name in KAFKA)


def test_the_driver_is_found_by_its_scheme() -> None:
    """`pointguard://` is our transport, and `kafka://` stays Faust's."""
    transport.register()
    assert TRANSPORTS.by_name("pointguard") is transport.Transport
    assert TRANSPORTS.by_name("kafka") is stock.Transport


@pytest.mark.parametrize(
    ("value", "versions"), [("faust-streaming", "0.15.3"), ("aiokafka", "0.14.0"), ("mode-streaming", "0.7.1")]
)
def test_versions_are_those_that_were_read(value: str, versions: str) -> None:
    """The sources behind this module were read at these versions; another one wants the same reading."""
    assert version(value) == versions
