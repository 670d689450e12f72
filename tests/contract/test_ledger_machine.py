"""Both ledgers against the model: any calls in any order give the same results and state, and break no invariant.

A failure prints the shortest script that still fails, as lines to paste into a test; the seed is in pytest's header.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import create_engine

from ledger import store_lots
from ledger.book import Ledger
from ledger.book_postgres import PostgresLedger
from ledger.memory import MemoryLedger
from ledger.verify import verify
from tests.contract.ledger_machine import LedgerMachine
from tests.contract.ledger_pair import Different, Pair
from tests.contract.ledger_shortest import Shortening

KINDS = ("earn", "redeem", "transfer", "adjust")
# What has to have happened in a long run, or it proves little.
OFTEN = (
    *(f"{kind} {code}" for kind in KINDS for code in ("posted", "held", "rejected", "points_out_of_range")),
    *(f"{kind} insufficient_balance" for kind in KINDS[1:]),
    *(f"{kind} not_in_pool" for kind in KINDS[1:]),
    *("earn balance_out_of_range", "earn too_many_holds", "transfer same_account"),
    *("reverse posted", "reverse nothing_to_reverse", "reverse unknown_original", "reverse rejected"),
    *("resolve post resolved", "resolve void resolved", "resolve escalate escalated", "resolve void already_resolved"),
    *("resolve post points_out_of_range", "time_out resolved", "time_out escalated", "expire something"),
    *("refund posted", "refund duplicate", "refund unknown_original", "merge posted", "merge open_holds"),
    *(f"lot used to {action}" for action in ("debit", "transfer", "expire", "clawback", "repay", "restore")),
    *(f"part {part}" for part in ("from_hold", "from_lot", "from_reserved", "from_traced", "from_other")),
    *(f"part {part}" for part in ("to_arrears", "forgiven", "restored", "repaid")),
)
Opener = Callable[[], tuple[Ledger, str]]


def run(open_ledger: Opener, depth: tuple[int, int], start: int) -> Counter[str]:
    """Let Hypothesis drive ledgers of this kind, so many scripts of so many calls; return what happened how often."""
    seen: Counter[str] = Counter()

    class Machine(LedgerMachine):
        def open_ledger(self) -> tuple[Ledger, str]:
            return open_ledger()

        def teardown(self) -> None:
            if hasattr(self, "pair"):
                seen.update(self.pair.what_happened())

    wanted = settings(
        max_examples=depth[0],
        stateful_step_count=depth[1],
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    try:
        run_state_machine_as_test(seed(start)(Machine), settings=wanted)
    except Different as failure:
        raise Shortening(failure, lambda: Pair(*open_ledger())).run() from None
    print({what: seen[what] for what in sorted(seen)})  # noqa: T201  # what the run covered, shown with -s
    return seen


def test_the_ledger_in_memory_does_what_the_model_does(rng: random.Random) -> None:
    """500 scripts of up to 50 calls, in which everything may happen, and did."""
    seen = run(lambda: (MemoryLedger(), ""), (500, 50), rng.getrandbits(64))
    assert [what for what in OFTEN if not seen[what]] == []


@pytest.mark.long
def test_the_ledger_in_memory_does_what_the_model_does_at_length(rng: random.Random) -> None:
    """20,000 scripts of up to 100 calls."""
    run(lambda: (MemoryLedger(), ""), (20_000, 100), rng.getrandbits(64))


@pytest.fixture
def on_postgresql(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Open a ledger on PostgreSQL, each time with programmes of its own; in the end all of it verifies.

    Commits need not reach the disk here: nobody pulls the plug. Lots are read one first, then eight, so that accounts
    with more than are read at once are common.
    """
    monkeypatch.setattr(store_lots, "FIRST_LOTS", 1)
    engine = create_engine(database, connect_args={"options": "-c synchronous_commit=off"})
    ledger, suffixes = PostgresLedger(engine), (f"-{n}" for n in itertools.count())
    yield lambda: (ledger, next(suffixes))
    found = verify(engine)
    engine.dispose()
    assert found.ok, found.discrepancies


def test_the_ledger_on_postgresql_does_what_the_model_does(on_postgresql: Opener, rng: random.Random) -> None:
    """200 scripts of up to 30 calls on a real database; `verify` agrees with all of them."""
    seen = run(on_postgresql, (200, 30), rng.getrandbits(64))
    assert seen["reverse posted"] > 0


@pytest.mark.long
def test_the_ledger_on_postgresql_does_what_the_model_does_at_length(on_postgresql: Opener, rng: random.Random) -> None:
    """1,000 scripts of up to 60 calls."""
    run(on_postgresql, (1_000, 60), rng.getrandbits(64))


def test_a_failing_script_is_made_short() -> None:
    """Of a ledger that forgets a member's name, three calls remain, and they can be pasted into a test."""

    class Forgetful(MemoryLedger):
        def member(self, program: str, name: str) -> None:
            """Know nobody called Bob."""
            return None if name == "bob" else super().member(program, name)  # type: ignore[return-value]  # broken on purpose

    with pytest.raises(Different) as raised:
        run(lambda: (Forgetful(), ""), (200, 50), 1)
    lines = str(raised.value).splitlines()
    assert [line.partition("(")[0] for line in lines[-4:]] == [
        "pair = Pair",
        "pair.create",
        "pair.create",
        "pair.post",
    ]
