"""The bank test: 64 writers on ten hot members; every snapshot conserves points, and no deadlock reaches a caller."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine

from ledger.verify import verify
from tests.faults.bank import Bank

WRITERS = 64
# Not "expired": the job leaves accounts alone that somebody has locked, and here all are; spends expire their own lots.
WANTED = (
    *("earn posted", "redeem posted", "transfer posted", "earn held", "resolve resolved", "resolve already_resolved"),
    *("reverse posted", "refund posted", "timed out"),
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections for all who work at once."""
    made = create_engine(database, pool_size=WRITERS + 4, max_overflow=0)
    yield made
    made.dispose()


def conserves(engine: Engine, seed: int, seconds: float) -> None:
    """Run the bank for so long and check all that it told."""
    told = Bank(engine, seed).run(WRITERS, seconds)
    calls = sum(told.calls.values())
    print(f"{calls} calls, {told.snapshots} snapshots, done again inside: {dict(told.sacrificed)}")  # noqa: T201  # the figures of the run
    print(dict(sorted(told.codes.items())))  # noqa: T201  # shown with -s, and on failure
    assert told.raised == []
    assert told.anomalies == []
    assert told.snapshots >= seconds
    assert [what for what in WANTED if not told.codes[what]] == []
    found = verify(engine)
    assert found.ok, found.discrepancies


def test_conservation_holds_at_every_snapshot_under_64_writers(engine: Engine, rng: random.Random) -> None:
    """Eight seconds of it."""
    conserves(engine, rng.getrandbits(32), 8)


@pytest.mark.long
def test_conservation_holds_at_every_snapshot_for_a_minute(engine: Engine, rng: random.Random) -> None:
    """Sixty seconds of it."""
    conserves(engine, rng.getrandbits(32), 60)
