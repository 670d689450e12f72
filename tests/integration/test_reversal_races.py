"""Reversals, refunds and merges in races with all that moves points: no deadlock, nothing taken twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.book import Resolution
from ledger.originals import find_events, read_origins
from ledger.programs import load_programs
from ledger.reach import lock_reach
from ledger.verify import verify
from tests.integration.ledger_writer import earn, pool, redeem, run_together, transfer
from tests.integration.reversal_books import Books, reverse


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    """Books of one programme; at the end the ledger proves itself."""
    with pool(database) as engine:
        made = Books(engine)
        yield made
        report = verify(engine)
        assert report.ok, report.discrepancies


def test_64_resolvers_and_reversers_of_the_same_holds(books: Books, rng: random.Random) -> None:
    """They wait for each other's accounts, never in a circle: no deadlock, each hold ends once, all adds up."""
    names = [f"m{n}" for n in range(6)]
    for name in names:
        books.move(earn(name, 1_000, event_id=f"e-{name}"))
    for number in range(40):
        sender, receiver = rng.sample(names, 2)
        asked = [transfer(sender, receiver, 20, verdict="hold"), redeem(sender, 10, verdict="hold")]
        books.move(asked[number % 2])
    holds = [row.hold_id for row in books.rows("SELECT hold_id FROM hold")]
    choices = [(rng.sample(holds, 4), rng.sample(names, 2), rng.randrange(1, 200)) for _ in range(64)]
    seen: Counter[str] = Counter()

    def one(number: int) -> None:
        chosen, reversed_of, points = choices[number]
        if number % 2:
            ends = [Resolution(hold_id, "post" if points % 2 else "void", "ann.alyst", "raced") for hold_id in chosen]
            seen.update(resolved.outcome for resolved in books.end(*ends))
        else:
            asked = [reverse(f"e-{name}", points, name, event_id=f"b-{number}-{name}") for name in reversed_of]
            seen.update(result.code for result in books.move(*asked))

    run_together(64, one)
    assert seen["posted"] > 20
    assert seen["resolved"] > 20
    assert seen["already_resolved"] > 20
    policy = "SELECT count(*) FROM review_decision WHERE actor = 'policy:reversal'"
    assert books.rows(policy)[0][0] > 0


def test_transfers_that_run_away_from_a_reversal(books: Books, rng: random.Random) -> None:
    """While points pass from hand to hand, reversals find whoever has them, under locks, and take each point once."""
    names = [f"m{n}" for n in range(8)]
    books.move(*(earn(name, 100, event_id=f"e-{name}") for name in names))
    plans = [(rng.sample(names, 3), rng.randrange(1, 40)) for _ in range(32)]

    def one(number: int) -> str:
        (first, second, third), points = plans[number]
        if number % 4:
            moves = [transfer(first, second, points), transfer(second, third, points)]
            return books.move(*moves)[0].code
        return books.back(f"e-{names[number // 4]}", account=names[number // 4])

    codes = run_together(32, one)
    assert [codes[number] for number in range(0, 32, 4)] == ["posted"] * 8
    taken = books.rows("SELECT sum(points), sum(to_arrears) FROM reversal")[0]
    assert taken[0] == 800
    left = sum(books.money(name)[0] - books.money(name)[2] for name in names)
    assert left == 0


def test_the_same_event_taken_back_by_many_at_once(books: Books) -> None:
    """Sixteen reversals of 30 of one earn of 100: together they take 100."""
    books.move(earn("ann", 100, event_id="e-1"))
    codes = run_together(16, lambda number: books.back("e-1", 30, event_id=f"b-{number}"))
    assert Counter(codes) == {"posted": 4, "nothing_to_reverse": 12}
    assert sorted(sum(parts.values()) for parts in books.parts("e-1")) == [10, 30, 30, 30]


def test_the_same_refund_told_by_many_at_once(books: Books) -> None:
    """One of them does it, the others learn that it is done; others of the same order add up."""
    books.move(earn("ann", 1_000, order="o-1", event_id="e-1"))
    codes = run_together(16, lambda number: books.refund(f"f-{number % 4}", 100))
    assert Counter(codes) == {"posted": 4, "duplicate": 12}
    assert books.money("ann") == (600, 0, 0)


def test_merges_that_race_with_everything(books: Books) -> None:
    """One account is merged while it earns, spends and is reversed: nothing is lost, whatever comes first."""
    books.move(earn("ann", 500, event_id="e-1"), earn("eve", 100))

    def one(number: int) -> str:
        if number == 7:
            return books.merge("ann", "eve")
        if number % 3 == 0:
            return books.back("e-1", 10, event_id=f"b-{number}")
        return books.move(earn("ann", 5, event_id=f"x-{number}"), redeem("eve", 1))[0].code

    codes = run_together(16, one)
    assert set(codes) == {"posted"}
    assert codes[7] == "posted"
    back = len([number for number in range(16) if number % 3 == 0])
    assert books.money("eve")[0] == 600 - 10 * back + 4 * (15 - back)
    assert books.money("ann")[0] == 0


def test_points_that_move_between_reading_and_locking(books: Books) -> None:
    """If points went on to others before the locks were there, the locks are taken anew with these among them."""
    books.move(earn("ann", 100, event_id="e-1"), earn("bob", 1))
    runaway = iter([("ann", "bob"), ("bob", "cid")])
    with books.engine.begin() as conn:

        def read() -> Any:
            found = read_origins(conn, find_events(conn, {("till", "e-1")}).values()).values()
            move = next(runaway, None)
            if move is not None:
                Books(books.engine).move(transfer(*move, 100))
            return found

        # At the second reading ann is locked, but bob is not yet.
        accounts = lock_reach(conn, load_programs(conn), {}, read)
        assert {name for _, name in accounts.members} == {"ann", "bob", "cid"}
