"""Settlement between stores: who funded what others redeemed, in points and money, and every period settled once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.adjustments import propose
from ledger.clearing import PROGRAM, Flow, Payment, Settlement, StorePeriod
from ledger.clearing_store import Run, SettlementError, find_run, runs, settle, settlement
from ledger.reconcile import Job, reconcile_events
from ledger.reconcile_rows import EventRow
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, earn, pool, redeem, run_together, transfer
from tests.integration.reports_town import Town

DAY_MS = 86_400_000


@pytest.fixture
def town(database: str) -> Iterator[Town]:
    """An empty town whose points are worth 1.5 fen."""
    with pool(database) as engine:
        yield Town(engine, expiry_days=30)


def told(town: Town, since_ms: int = 0, until_ms: int = START_MS + DAY_MS) -> Settlement:
    """A period's settlement, not recorded."""
    with town.engine.connect() as conn:
        terms = town.programs(conn)[town.program].terms
        return settlement(conn, town.program, terms, since_ms, until_ms)


def settled(town: Town, until_ms: int) -> tuple[Run, Settlement]:
    """Settle up to a moment."""
    with town.engine.begin() as conn:
        return settle(conn, town.program, until_ms, "ann")


def test_points_are_paid_by_who_funded_them(town: Town) -> None:
    """Earned at s1 and s2, spent at s3 in the order of expiry: s1 and s2 pay s3, each its own points' worth."""
    town.move(earn("m", 100, store="s1"), earn("m", 50, store="s2", expires_ms=START_MS + DAY_MS), earn("m", 9))
    town.move(redeem("m", 120, store="s3"))
    found = told(town)
    assert found.flows == (Flow("s1", "s3", "redeemed", 70), Flow("s2", "s3", "redeemed", 50))
    assert found.payments == (Payment("s1", "s3", 70, 105), Payment("s2", "s3", 50, 75))
    assert [store.balance for store in found.stores] == [-100, -50, 120]
    assert found.sums_to_zero
    assert found.is_traced


def test_pairs_are_netted_and_the_programme_is_a_party(town: Town) -> None:
    """What s1 and s2 redeem for each other is netted; points nobody's store funded are paid for by the programme."""
    town.move(earn("a", 100, store="s1"), earn("b", 60, store="s2"), earn("c", 10))
    town.move(redeem("a", 100, store="s2"), redeem("b", 60, store="s1"), redeem("c", 10, store="s1"))
    town.move(earn("d", 7, store="s1"), redeem("d", 7))
    found = told(town)
    assert found.payments == (Payment(PROGRAM, "s1", 3, 5), Payment("s1", "s2", 40, 60))


def test_origin_survives_transfers_and_pools(town: Town) -> None:
    """Points funded by s1 are s1's to pay for, whoever spends them and from which purse."""
    town.move(earn("ann", 100, store="s1"), transfer("ann", "bob", 40, store="s2"), transfer("ann", "pool:home", 60))
    town.move(redeem("bob", 40, store="s3"), redeem("bob", 60, pool="home", store="s2"))
    assert told(town).payments == (Payment("s1", "s2", 60, 90), Payment("s1", "s3", 40, 60))


def test_a_redemption_taken_back_takes_its_payment_back(town: Town) -> None:
    """Reversed in the same period nothing is paid; in a later one the money goes back."""
    town.move(earn("m", 100, store="s1"), redeem("m", 100, store="s2", event_id="r1"))
    later = START_MS + DAY_MS
    town.move({"kind": "reverse", "account": "m", "points": 30, "reverses": ("till", "r1")}, now_ms=later)
    assert told(town).payments == (Payment("s1", "s2", 100, 150),)
    assert told(town, later, later + 1).payments == (Payment("s2", "s1", 30, 45),)
    assert told(town, 0, later + 1).payments == (Payment("s1", "s2", 70, 105),)


def test_what_a_clawback_takes_of_others_is_owed_to_them_no_more(town: Town) -> None:
    """s1's earn is taken back out of points that s2 funded: s2 need not pay for these any more, and pays s1 instead."""
    town.move(earn("m", 100, store="s1", event_id="e1"), redeem("m", 100, store="s3"), earn("m", 100, store="s2"))
    town.move({"kind": "reverse", "account": "m", "points": 0, "reverses": ("till", "e1")})
    found = told(town)
    assert found.flows == (Flow("s1", "s3", "redeemed", 100), Flow("s2", "s1", "clawed_back", 100))
    assert found.payments == (Payment("s1", "s3", 100, 150), Payment("s2", "s1", 100, 150))


def test_a_debt_is_lent_by_the_programme_and_repaid_to_it(town: Town) -> None:
    """An offline till gave more than there was: the programme pays for it until a later earn does."""
    town.move(redeem("m", 100, store="s1", fact=True))
    assert told(town).payments == (Payment(PROGRAM, "s1", 100, 150),)
    later = START_MS + DAY_MS
    town.move(earn("m", 130, store="s2"), now_ms=later)
    assert told(town, later, later + 1).payments == (Payment("s2", PROGRAM, 100, 150),)


def test_breakage_stays_with_who_funded_it(town: Town) -> None:
    """Expired points are in the store's figures, and nobody's payment."""
    town.move(earn("m", 100, store="s1", expires_ms=START_MS + 1000))
    town.tick(START_MS + 2000)
    town.expire()
    found = told(town)
    assert found.stores == (StorePeriod("s1", 100, 0, 100, 0, -100),)
    assert (found.flows, found.payments) == ((), ())


def test_money_is_rounded_once_a_pair(town: Town) -> None:
    """A hundred redemptions of one point of 1.5 fen are 150 fen, not a hundred times 2."""
    town.move(earn("m", 100, store="s1"), *(redeem("m", 1, store="s2") for _ in range(99)))
    assert told(town).payments == (Payment("s1", "s2", 99, 149),)


def test_a_period_is_settled_once(town: Town) -> None:
    """A run begins where the last one ended, is kept as it was, and cannot be made again or changed."""
    town.move(earn("m", 100, store="s1"), redeem("m", 40, store="s2"))
    town.tick(START_MS + 3 * DAY_MS)
    first, made = settled(town, START_MS + DAY_MS)
    town.move(redeem("m", 60, store="s2"), now_ms=START_MS + 3 * DAY_MS)
    with pytest.raises(SettlementError, match="settled already"):
        settled(town, START_MS + DAY_MS)
    with pytest.raises(SettlementError, match="not over"):
        settled(town, START_MS + 4 * DAY_MS)
    second, rest = settled(town, START_MS + 3 * DAY_MS)
    assert (first.until, rest.payments) == (second.since, ())
    with town.engine.connect() as conn:
        assert find_run(conn, first.run_id) == made
        assert [one.run_id for one in runs(conn, town.program)] == [second.run_id, first.run_id]
        assert find_run(conn, 10**9) is None
    assert made.payments == (Payment("s1", "s2", 40, 60),)
    with town.engine.connect() as conn, pytest.raises(DBAPIError, match="refused"):
        conn.execute(text("DELETE FROM settlement_payment"))


def test_of_many_who_settle_one_does(town: Town) -> None:
    """Eight settle the same period at once: one run, seven refusals."""
    town.move(earn("m", 100, store="s1"), redeem("m", 40, store="s2"))
    town.tick(START_MS + 2 * DAY_MS)

    def one(_: int) -> str:
        try:
            settled(town, START_MS + DAY_MS)
        except SettlementError:
            return "refused"
        return "settled"

    assert sorted(run_together(8, one)) == ["refused"] * 7 + ["settled"]
    with town.engine.connect() as conn:
        assert len(runs(conn, town.program)) == 1


def test_runs_leave_no_gap_whoever_writes_them(town: Town) -> None:
    """The database itself refuses a period that overlaps, leaves something out, or follows a run that was followed."""
    town.tick(START_MS + 9 * DAY_MS)
    settled(town, START_MS + DAY_MS)
    settled(town, START_MS + 2 * DAY_MS)
    wrong = text("""
        INSERT INTO settlement_run (program, since, until, follows, money, unit_value_micros, made_by)
        SELECT program, since + CAST(:since AS interval), until + CAST(:until AS interval),
               CASE WHEN :first THEN NULL ELSE since + CAST(:follows AS interval) END, money, 1, 'ann'
          FROM settlement_run ORDER BY until DESC LIMIT 1""")
    day = {"since": "1 day", "until": "1 day", "follows": "1 day", "first": False}
    for change in (
        {"first": True},
        {"since": "2 days", "until": "2 days"},
        {"follows": "0"},
        {"since": "0", "follows": "0"},
    ):
        with town.engine.connect() as conn, pytest.raises(DBAPIError):
            conn.execute(wrong, day | change)
    with town.engine.begin() as conn:
        conn.execute(wrong, day)


def test_a_run_waits_for_who_is_writing(town: Town) -> None:
    """A batch that was recorded before the period's end and commits after it belongs to the period all the same."""
    town.move(earn("m", 100, store="s1"))
    wrote, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        with town.engine.begin() as conn:
            # As a live batch does: recorded now, while the clock goes on for everybody else.
            town.move_in(conn, [redeem("m", 40, store="s2")], 0)
            wrote.set()
            go_on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(slowly)
        assert wrote.wait(30)
        town.tick(START_MS + DAY_MS)
        settling = threads.submit(settled, town, START_MS + DAY_MS)
        time.sleep(0.5)
        waited = not settling.done()
        go_on.set()
        writing.result(30)
        made = settling.result(30)[1]
    assert waited
    assert made.payments == (Payment("s1", "s2", 40, 60),)


def test_the_ledger_stays_clean_behind_reports(town: Town, rng: random.Random) -> None:
    """After a life with merges, a settlement and a reconciliation, a full replay and the audit chain find nothing."""
    town.live(60, rng)
    town.merge("dan", "cat")
    settled(town, town.now - 1)
    with town.engine.begin() as conn:
        rows = [EventRow(1, "till", "never-came", "ann", 5, "earn", town.now)]
        run = reconcile_events(conn, Job("north", "till.csv", b"d" * 32, "ann"), rows, lambda _: None)
        propose(conn, town.programs(conn), town.ids, run.proposals, wait=True, create=True)
    report = verify(town.engine)
    assert report.ok, report.discrepancies


def test_a_programme_that_funds_itself_has_nothing_to_settle(database: str) -> None:
    """Without funding by store, stores owe each other nothing, and that is said."""
    with pool(database) as engine:
        town = Town(engine, funding="program")
        with pytest.raises(SettlementError, match="funds its points itself"):
            told(town)
