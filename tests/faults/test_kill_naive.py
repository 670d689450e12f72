"""The meta-test: agents known to lose events go through the very drive of test_kill_worker, and must be reported."""

import random
from pathlib import Path

from tests.faults.crew import Crew, crew
from tests.faults.drive import EVENTS, KILLS, rounds, settle


def lost(made: Crew, in_flight: int) -> set[str]:
    """The ids that the checker reports as lost; prints the figures of the run, shown with -s and in CI."""
    report = made.report()
    counts = {"agent": made.agent, "events": len(made.sent), "kills": KILLS, "in_flight": in_flight}
    counts |= {"restarts": made.restarts, "raised": len(made.bad), "lost": len(report.lost)}
    counts |= {"lost_unraised": len(set(report.lost) - made.bad), "doubled": len(report.doubled)}
    print(counts)  # noqa: T201  # as in test_kill_worker
    assert len(made.sent) >= EVENTS
    assert (report.pending, report.foreign) == ((), ())
    return set(report.lost)


def test_auto_ack_under_kill_minus_9_is_reported(kafka: str, tmp_path: Path, rng: random.Random) -> None:
    """20,000 events over 4 partitions, 2 workers, 10 kill -9 with events in flight: what raised is lost."""
    with crew(kafka, "auto-ack", tmp_path) as made:
        settle(made)
        in_flight = rounds(made, rng)
        assert lost(made, in_flight) >= made.bad


def test_take_under_kill_minus_9_is_reported(kafka: str, tmp_path: Path, rng: random.Random) -> None:
    """The same drive: what raised is lost, and events that never raised are lost with it."""
    with crew(kafka, "take", tmp_path) as made:
        settle(made)
        in_flight = rounds(made, rng)
        assert lost(made, in_flight) > made.bad
