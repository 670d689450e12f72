"""Reconciliation against another system's file: every class of difference, proposals, and never the same one twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from ledger.adjustments import approve, propose, reject
from ledger.book import Resolution
from ledger.ids import IdBlocks
from ledger.programs import load_programs
from ledger.queries import balance, open_holds
from ledger.reconcile import Job, ReconcileError, Reported, Run, reconcile_balances, reconcile_events
from ledger.reconcile_rows import BalanceRow, EventRow, Problem
from tests.integration.ledger_writer import START_MS, earn, pool, redeem, transfer
from tests.integration.reports_town import Town

HOUR_MS = 3_600_000


@pytest.fixture
def town(database: str) -> Iterator[Town]:
    """An empty town."""
    with pool(database) as engine:
        yield Town(engine, expiry_days=30)


def at(hour: int, event: str, **rest: Any) -> dict[str, Any]:
    """Keywords of an event that happened so many hours into the town's history."""
    return {"event_id": event, "occurred_ms": START_MS + hour * HOUR_MS} | rest


def row(line: int, event: str, account: str, points: int, kind: str | None = "earn") -> EventRow:
    """A row of the till's file, an hour a line."""
    return EventRow(line, "till", event, account, points, kind, START_MS + line * HOUR_MS)


def job(**rest: Any) -> Job:
    """A day's reconciliation by ann."""
    return Job("north", "till.csv", b"d" * 32, "ann", **rest)


def compare(town: Town, rows: list[EventRow | Problem], **rest: Any) -> tuple[Run, list[Reported]]:
    """Reconcile events; the run and what was reported."""
    found: list[Reported] = []
    with town.engine.begin() as conn:
        run = reconcile_events(conn, job(**rest), rows, found.append)
    return run, found


def proposed(town: Town, run: Run) -> list[int]:
    """Propose a run's corrections; their ids."""
    with town.engine.begin() as conn:
        made = propose(conn, load_programs(conn), IdBlocks(), run.proposals, wait=True, create=True)
    assert {one.outcome for one in made} <= {"waiting"}
    return [one.adjustment_id for one in made if one.adjustment_id is not None]


def classes(found: list[Reported]) -> dict[str | None, tuple[str, str]]:
    """Class and reason by event."""
    return {one.event_id: (one.found, one.why) for one in found}


def posted(conn: Connection, name: str) -> int:
    """Posted points."""
    found = balance(conn, "north", name)
    return 0 if found is None else found.posted


def test_every_difference_is_found_and_named(town: Town) -> None:
    """Matched, missing on either side, differing in account, points or fate; each once, the rest only counted."""
    town.move(earn("m", 100) | at(1, "same"), earn("m", 100) | at(2, "points"), earn("m", 100) | at(3, "account"))
    town.move(earn("m", 100, verdict="hold") | at(4, "held"), earn("m", 7) | at(5, "only-here"))
    town.move(redeem("m", 10_000) | at(6, "refused"), redeem("m", 30) | at(7, "out"), earn("m", 1) | at(40, "later"))
    run, found = compare(
        town,
        [
            row(1, "same", "m", 100),
            row(2, "points", "m", 130),
            row(3, "account", "n", 100),
            row(4, "held", "m", 100),
            row(5, "only-there", "m", 55),
            row(6, "refused", "m", 10_000, "redeem"),
            row(7, "out", "m", -30, None),
            row(8, "same", "m", 100),
            Problem(9, "points is 'x', no whole number; write digits"),
        ],
    )
    assert classes(found) == {
        None: ("unreadable", "points is 'x', no whole number; write digits"),
        "points": ("differing", "points"),
        "account": ("differing", "account"),
        "held": ("differing", "held"),
        "only-there": ("missing_here", ""),
        "refused": ("differing", "rejected"),
        "same": ("repeated", ""),
        "only-here": ("missing_there", ""),
    }
    assert run.counts == {
        "matched": 2,
        "missing_here": 1,
        "missing_there": 1,
        "differing": 4,
        "corrected": 0,
        "repeated": 1,
        "unreadable": 1,
    }
    assert not run.agrees
    wanted = sorted((one.account, one.points) for one in run.proposals)
    assert wanted == [("m", -100), ("m", -7), ("m", 30), ("m", 55), ("n", 100)]


def test_nothing_is_posted_by_itself(town: Town) -> None:
    """A reconciliation, and a proposal, leave every balance as it was; an approval by somebody else makes it agree."""
    town.move(earn("m", 100) | at(1, "e1"))
    run, _ = compare(town, [row(1, "e1", "m", 140)])
    ids = proposed(town, run)
    with town.engine.begin() as conn:
        assert posted(conn, "m") == 100
        own = approve(conn, load_programs(conn), IdBlocks(), ids, "ann")
        assert [one.outcome for one in own] == ["own"]
    with town.engine.begin() as conn:
        approve(conn, load_programs(conn), IdBlocks(), ids, "bob")
        assert posted(conn, "m") == 140


def test_the_same_difference_is_never_proposed_twice(town: Town) -> None:
    """Found again, it is known as proposed, then as corrected; what was rejected stays rejected."""
    town.move(earn("m", 100) | at(1, "e1"), earn("m", 100) | at(2, "e2"))
    rows: list[EventRow | Problem] = [row(1, "e1", "m", 140), row(2, "e2", "m", 90)]
    first, _ = compare(town, rows)
    up, down = proposed(town, first)
    again, found = compare(town, rows)
    assert classes(found) == {
        "e1": ("differing", "points, proposed before"),
        "e2": ("differing", "points, proposed before"),
    }
    assert again.proposals == ()
    with town.engine.begin() as conn:
        approve(conn, load_programs(conn), IdBlocks(), [up], "bob")
        reject(conn, [down], "bob", "the till is wrong")
    after, found = compare(town, rows)
    assert classes(found) == {"e1": ("corrected", "differing, points"), "e2": ("differing", "points, rejected before")}
    assert (after.counts["corrected"], after.counts["differing"], after.proposals) == (1, 1, ())


def test_both_halves_of_a_wrong_account_are_corrected(town: Town) -> None:
    """Points on the wrong account are taken from it and given to the right one, in two adjustments."""
    town.move(earn("m", 100) | at(1, "e1"))
    rows: list[EventRow | Problem] = [row(1, "e1", "n", 100)]
    ids = proposed(town, compare(town, rows)[0])
    with town.engine.begin() as conn:
        approve(conn, load_programs(conn), IdBlocks(), ids, "bob")
    with town.engine.connect() as conn:
        assert (posted(conn, "m"), posted(conn, "n")) == (0, 100)
    run, found = compare(town, rows)
    assert classes(found) == {"e1": ("corrected", "differing, account")}
    assert run.agrees


def test_holds_are_compared_by_what_became_of_them(town: Town) -> None:
    """Approved: matched. In part: other points. Voided: not posted. Reversed while held: the reversal's own matter."""
    town.move(
        *(
            earn("m", 100, verdict="hold") | at(hour, event)
            for hour, event in enumerate(("whole", "part", "void", "gone"), 1)
        )
    )
    with town.engine.connect() as conn:
        holds = {hold.event_id: hold.hold_id for hold in open_holds(conn)}
    town.end(Resolution(holds["whole"], "post", "bob", "fine"), Resolution(holds["part"], "post", "bob", "half", 50))
    town.end(Resolution(holds["void"], "void", "bob", "fraud"))
    back = {"kind": "reverse", "account": "m", "points": 0}
    town.move(back | at(5, "r1", reverses=("till", "gone")))
    rows = [row(hour, event, "m", 100) for hour, event in enumerate(("whole", "part", "void", "gone"), 1)]
    run, found = compare(town, [*rows, row(5, "r1", "m", 100, "reverse")])
    assert classes(found) == {"part": ("differing", "points"), "void": ("differing", "voided")}
    assert [(one.account, one.points) for one in run.proposals] == [("m", 50)]


def test_a_held_event_reversed_in_part_matches_when_approved(town: Town) -> None:
    """What the reversal took out of the hold and what was posted of the rest are together what the event asked for."""
    town.move(earn("m", 100, verdict="hold") | at(1, "e1"))
    town.move({"kind": "reverse", "account": "m", "points": 30} | at(2, "r1", reverses=("till", "e1")))
    rows: list[EventRow | Problem] = [row(1, "e1", "m", 100), row(2, "r1", "m", 30, "reverse")]
    assert classes(compare(town, rows)[1]) == {"e1": ("differing", "held")}
    with town.engine.connect() as conn:
        (hold,) = open_holds(conn)
    town.end(Resolution(hold.hold_id, "post", "bob", "fine"))
    assert compare(town, rows)[0].agrees


def test_transfers_and_refusals_are_reported_not_corrected(town: Town) -> None:
    """What concerns two accounts, or was refused by a rule, is somebody's decision and no adjustment's."""
    town.move(earn("m", 100) | at(1, "e1"), transfer("m", "n", 10) | at(2, "t1"))
    run, found = compare(town, [row(1, "e1", "m", 100), row(2, "t2", "m", 10, "transfer")])
    assert classes(found) == {"t1": ("missing_there", "transfer"), "t2": ("missing_here", "transfer")}
    assert run.proposals == ()


def test_a_dead_letter_is_missing_here_and_not_corrected(town: Town) -> None:
    """An event that lies among the dead letters is sent again from there, which an adjustment would double."""
    with town.engine.begin() as conn:
        conn.execute(
            text("""
            INSERT INTO dead_letter (log_id, topic, part, "offset", source, event_id, error, first_seen)
            VALUES ('log', 'points.events', 0, 1, 'till', 'e1', 'unknown_program', now())""")
        )
    run, found = compare(town, [row(1, "e1", "m", 100)])
    assert classes(found) == {"e1": ("missing_here", "dead_letter")}
    assert run.proposals == ()


def test_the_period_bounds_what_the_file_may_lack(town: Town) -> None:
    """Events of other times, other sources or other programmes are not missing from this file."""
    town.move(earn("m", 1) | at(1, "e1"), earn("m", 2) | at(2, "e2"), earn("m", 3) | at(30, "e3"))
    town.move(earn("m", 4, source="web") | at(2, "w1"))
    assert classes(compare(town, [row(1, "e1", "m", 1), row(3, "x", "m", 9)])[1]) == {
        "x": ("missing_here", ""),
        "e2": ("missing_there", ""),
    }
    day = {"since_ms": START_MS, "until_ms": START_MS + 24 * HOUR_MS}
    found = compare(town, [row(1, "e1", "m", 1), row(2, "e2", "m", 2)], **day, sources=("till", "web"))[1]
    assert classes(found) == {"w1": ("missing_there", "")}


def test_a_file_without_times_needs_its_period(town: Town) -> None:
    """Nobody can say what is missing from a file of nobody knows when."""
    with pytest.raises(ReconcileError, match="--since and --until"):
        compare(town, [EventRow(1, "till", "e1", "m", 1, "earn", None)])


def test_balances_are_compared_as_of_a_moment(town: Town) -> None:
    """The evening's balances match the evening's file, whatever has happened since; differences are corrected to it."""
    town.move(earn("m", 100), earn("n", 50), earn("o", 8), now_ms=START_MS)
    evening = START_MS + HOUR_MS
    town.move(redeem("m", 30), earn("n", 1), now_ms=evening + HOUR_MS)
    found: list[Reported] = []
    rows = [BalanceRow(2, "m", 100), BalanceRow(3, "n", 45), BalanceRow(4, "p", 9), BalanceRow(5, "q", 0)]
    with town.engine.begin() as conn:
        run = reconcile_balances(conn, job(), [*rows, BalanceRow(6, "m", 100)], evening, found.append)
    told = {
        (one.their_account or one.our_account, one.line): (one.found, one.their_points, one.our_points) for one in found
    }
    assert told == {
        ("n", 3): ("differing", 45, 50),
        ("p", 4): ("missing_here", 9, None),
        ("m", 6): ("repeated", 100, None),
        ("o", None): ("missing_there", None, 8),
    }
    assert run.counts["matched"] == 2
    assert [(one.account, one.points) for one in run.proposals] == [("n", -5), ("p", 9)]


def test_the_same_difference_of_a_balance_is_never_proposed_twice(town: Town) -> None:
    """Tomorrow's file shows it again: while a correction waits, and as of a moment before its approval."""
    town.move(earn("m", 100), now_ms=START_MS)

    def compare_at(hour: int, points: int) -> tuple[Run, list[Reported]]:
        found: list[Reported] = []
        with town.engine.begin() as conn:
            at_ms = START_MS + hour * HOUR_MS
            return reconcile_balances(conn, job(), [BalanceRow(2, "m", points)], at_ms, found.append), found

    ids = proposed(town, compare_at(1, 140)[0])
    again, found = compare_at(2, 140)
    assert again.proposals == ()
    assert [(one.found, one.why) for one in found] == [("differing", "points, proposed before")]
    town.tick(START_MS + 3 * HOUR_MS)
    with town.engine.begin() as conn:
        approve(conn, load_programs(conn), IdBlocks(), ids, "bob")
        assert posted(conn, "m") == 140
    late, found = compare_at(2, 140)
    assert (late.proposals, [one.found for one in found], late.agrees) == ((), ["corrected"], True)
    assert compare_at(3, 140)[0].counts["matched"] == 1
    assert [one.points for one in compare_at(2, 150)[0].proposals] == [10]


def test_a_run_is_kept_with_its_findings(town: Town) -> None:
    """Who compared what, when, with which result, and every finding; none of it can be changed."""
    town.move(earn("m", 100) | at(1, "e1"))
    run, found = compare(town, [row(1, "e1", "m", 140)])
    with town.engine.connect() as conn:
        kept = conn.execute(text("SELECT made_by, file_name, differing, matched FROM reconciliation_run")).one()
        assert tuple(kept) == ("ann", "till.csv", 1, 0)
        rows = conn.execute(text("SELECT found, their_points, our_points FROM reconciliation_finding")).all()
        assert [tuple(one) for one in rows] == [(one.found, one.their_points, one.our_points) for one in found]
    assert run.run_id > 0
    with town.engine.connect() as conn, pytest.raises(Exception, match="refused"):
        conn.execute(text("UPDATE reconciliation_run SET matched = 99"))


def test_a_town_reconciles_with_its_own_decisions(town: Town, rng: random.Random) -> None:
    """A file made of what was decided agrees; each row changed, left out or added is found, and nothing else."""
    town.live(80, rng, holds=0)
    with town.engine.connect() as conn:
        rows = [
            EventRow(n, one.source, one.event_id, one.account, one.points, one.type, START_MS)
            for n, one in enumerate(conn.execute(_POSTED), 1)
        ]
    period = {"since_ms": START_MS, "until_ms": town.now + 1}
    run, found = compare(town, list(rows), **period)
    assert run.agrees, found
    changed, lost, *kept = rng.sample(rows, len(rows))
    wrong = changed._replace(account="nobody")
    extra = EventRow(9999, "till", "added", "ann", 5, "earn", START_MS)
    found = compare(town, [wrong, extra, *kept], **period)[1]
    assert {one.event_id: one.found for one in found} == {
        changed.event_id: "differing",
        lost.event_id: "missing_there",
        "added": "missing_here",
    }


# Of a reversal, how much it took is decided here.
_POSTED = text("""
SELECT d.source, d.event_id, d.account, coalesce(v.points, d.points) AS points, d.type
  FROM decision d LEFT JOIN reversal v ON v.reversal_id = d.decision_id WHERE d.outcome = 'approve'""")
