"""When a process counts as hung."""

import threading

import pytest

from streams.exits import HANG
from streams.watchdog import Limits, Pulse, Watchdog, verdict

LIMITS = Limits(stall_seconds=60.0, loop_late_seconds=10.0, rss_mb=1000)


@pytest.mark.parametrize(
    ("pulse", "rss_mb", "expected"),
    [
        (Pulse(progress=0.0, loop=100.0, work=0, broker_lag=0), 10.0, None),
        (Pulse(progress=50.0, loop=100.0, work=5, broker_lag=0), 10.0, None),
        (Pulse(progress=0.0, loop=100.0, work=5, broker_lag=0), 10.0, "no progress for 100 s with work waiting"),
        (Pulse(progress=0.0, loop=100.0, work=0, broker_lag=3), 10.0, "no progress for 100 s with work waiting"),
        (Pulse(progress=0.0, loop=100.0, work=0, broker_lag=None), 10.0, "no progress for 100 s with work waiting"),
        (Pulse(progress=100.0, loop=80.0), 10.0, "event loop late by 20 s"),
        (Pulse(progress=100.0, loop=100.0, joining=50.0), 10.0, None),
        (Pulse(progress=100.0, loop=100.0, joining=10.0), 10.0, "no partitions assigned for 90 s"),
        (Pulse(progress=100.0, loop=100.0), 1001.0, "resident memory 1001 MB over the limit of 1000 MB"),
    ],
)
def test_verdict(pulse: Pulse, rss_mb: float, expected: str | None) -> None:
    """Idle is no hang; work without progress, an unknown lag, a late loop and too much memory are."""
    assert verdict(pulse, LIMITS, now=100.0, rss_mb=rss_mb) == expected


def test_the_thread_ends_the_process() -> None:
    """The watchdog calls the end with its exit code once the pulse is bad."""
    ended: list[int] = []
    done = threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        done.set()

    Watchdog(Pulse(loop=0.0), Limits(loop_late_seconds=0.001), end).start()
    assert done.wait(10)
    assert ended == [HANG]
