"""The meta-test: agents that are known to lose events on the stock driver, and a checker that must report them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.naive import EXIT_FAILED
from tests.faults.scene import PATIENCE_SECONDS, Scene


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


@pytest.mark.parametrize("scene", ["take-full"], indirect=True)
def test_take_that_raises_is_reported(scene: Scene) -> None:
    """Two errors, each of which loses what stands behind it in its batch.

    Wherever batches of 50 begin, one of two that are 75 apart is not the last of its batch.
    """
    bad = {"bad-60", "bad-135"}
    scene.send(f"bad-{n}" if n in (60, 135) else f"good-{n}" for n in range(1_000))
    scene.start_worker()
    scene.wait_until(lambda: bad <= set(scene.report().lost))
    assert bad < set(scene.report().lost)


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
