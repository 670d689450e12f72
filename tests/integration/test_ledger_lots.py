"""Lots on real PostgreSQL: partial approvals, time-outs with and without grace, expiry, stores that fund points."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from ledger.book import Resolution
from ledger.movement import Timeout
from ledger.programs import load_programs, set_terms
from ledger.queries import Balance, balance, open_holds
from ledger.roll import roll_up
from ledger.store_lots import FIRST_LOTS
from ledger.terms import DAY_MS, Terms, TermsError
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, Writer, adjust, earn, pool, redeem, run_together, transfer

RACERS = 100
LATER = START_MS + 10 * DAY_MS
"""When what expires after ten days is due."""


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool on a fresh database."""
    with pool(database) as lent:
        yield lent


@pytest.fixture
def writer(engine: Engine) -> Writer:
    """Make a writer on a programme whose points expire ten days after they were earned."""
    return Writer(engine, expiry_days=10)


def have(writer: Writer, name: str) -> Balance:
    """A member's balance now."""
    with writer.engine.connect() as conn:
        found = balance(conn, writer.program, name)
    assert found is not None
    return found


def lots(writer: Writer, name: str) -> list[tuple[int, int, int]]:
    """What a member's lots had, have and have set aside, in the order in which they were made."""
    with writer.engine.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT issued, remaining, reserved FROM lot JOIN account a USING (account_id)"
                " WHERE a.name = :name ORDER BY lot_id"
            ),
            {"name": name},
        )
        return [(row.issued, row.remaining, row.reserved) for row in rows]


def uses(writer: Writer) -> Counter[str]:
    """The points that lots gave or got back, by action."""
    with writer.engine.connect() as conn:
        rows = conn.execute(text("SELECT action, sum(amount)::bigint AS points FROM lot_use GROUP BY action"))
        return Counter({row.action: row.points for row in rows})


def hold_of(writer: Writer) -> int:
    """The only open hold."""
    with writer.engine.connect() as conn:
        [hold] = open_holds(conn)
    return hold.hold_id


def controls(writer: Writer, kind: str = "control") -> dict[str, int]:
    """What was credited less what was debited, by control or store account, tail included."""
    with writer.engine.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT name, (posted_cr - posted_dr + coalesce((SELECT sum(d.posted_cr - d.posted_dr)"
                " FROM control_delta d WHERE d.account_id = a.account_id), 0))::bigint"
                " FROM account a WHERE kind = :kind"
            ),
            {"kind": kind},
        )
        return {name: points for name, points in rows if points}


def proved(writer: Writer) -> None:
    """The whole ledger agrees with itself."""
    report = verify(writer.engine)
    assert report.ok, report.discrepancies


# Partial approvals


def test_a_part_of_each_kind_of_hold_is_posted_and_the_rest_released(writer: Writer) -> None:
    """Whatever was held, `points` of it go through, once, and nothing else stays pending."""
    writer.move(earn("ann", 100))
    kinds: list[dict[str, Any]] = [
        earn("ann", 30, verdict="hold"),
        redeem("ann", 30, verdict="hold"),
        transfer("ann", "bob", 30, verdict="hold"),
        adjust("ann", 30, verdict="hold"),
        adjust("ann", -30, verdict="hold"),
    ]
    for kind in kinds:
        writer.move(kind)
        [answer] = writer.end(Resolution(hold_of(writer), "post", "eve", "a part", 7))
        assert (answer.outcome, answer.posted) == ("resolved", 7)
    assert have(writer, "ann") == Balance(100 + 7 - 7 - 7 + 7 - 7, 0, 0, 93, 0)
    assert have(writer, "bob") == Balance(7, 0, 0, 7, 0)
    assert lots(writer, "ann") == [(100, 79, 0), (7, 7, 0), (7, 7, 0)]
    assert uses(writer) == {"debit": 14, "transfer": 7}
    proved(writer)


@pytest.mark.parametrize("points", [0, -1, 31, 2**63])
def test_more_than_is_held_or_nothing_is_refused_and_changes_nothing(writer: Writer, points: int) -> None:
    """The hold stays open, no decision is recorded, and it can be approved rightly afterwards."""
    writer.move(earn("ann", 100), redeem("ann", 30, verdict="hold"))
    hold_id = hold_of(writer)
    [answer] = writer.end(Resolution(hold_id, "post", "eve", "too much", points))
    assert (answer.outcome, answer.decision_id, answer.posted) == ("points_out_of_range", None, 0)
    with writer.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM review_decision")).scalar_one() == 0
    [answer] = writer.end(Resolution(hold_id, "post", "eve", "all", 30))
    assert answer.posted == 30
    proved(writer)


def test_of_racing_resolvers_with_parts_exactly_one_wins(writer: Writer) -> None:
    """A hundred that approve all, approve parts, and reject: one decision stands, and its points are posted."""
    writer.move(earn("ann", 500), redeem("ann", 200, verdict="hold"))
    hold_id = hold_of(writer)

    def work(number: int) -> tuple[str, int]:
        verdict: Timeout = "void" if number % 3 == 0 else "post"
        part = number + 1 if number % 3 == 1 else None
        [answer] = writer.end(Resolution(hold_id, verdict, f"racer-{number}", "mine", part))
        return answer.outcome, answer.posted

    answers = run_together(RACERS, work)
    assert Counter(outcome for outcome, _ in answers) == {"resolved": 1, "already_resolved": RACERS - 1}
    [posted] = {points for _, points in answers}
    winner = next(n for n, (outcome, _) in enumerate(answers) if outcome == "resolved")
    assert posted == (0, winner + 1, 200)[winner % 3]
    assert have(writer, "ann") == Balance(500 - posted, 0, 0, 500 - posted, 0)
    assert lots(writer, "ann") == [(500, 500 - posted, 0)]
    proved(writer)


# Time-outs and grace


def test_a_voided_time_out_gives_grace_to_what_fell_due_meanwhile(engine: Engine) -> None:
    """Points that were frozen when they fell due are not burnt by a time-out of ours: they last for the grace."""
    writer = Writer(engine, expiry_days=10, grace_days=3)
    writer.move(earn("ann", 50), earn("ann", 50, occurred_ms=START_MS + DAY_MS))
    writer.move(redeem("ann", 80, verdict="hold", due_seconds=10 * 86_400, on_timeout="void"))
    writer.tick(LATER)
    assert writer.expire() == 0
    [answer] = writer.time_out()
    assert (answer.verdict, answer.posted) == ("void", 0)
    assert lots(writer, "ann") == [(50, 0, 0), (50, 50, 0), (50, 50, 0)]
    assert have(writer, "ann") == Balance(100, 0, 0, 100, 0)
    writer.tick(LATER + 3 * DAY_MS - 1)
    assert have(writer, "ann").available == 50
    writer.tick(LATER + 3 * DAY_MS)
    assert have(writer, "ann").available == 0
    assert writer.expire() == 2
    assert controls(writer)["expired"] == 100
    proved(writer)


def test_a_voided_time_out_without_grace_expires_what_fell_due_meanwhile(writer: Writer) -> None:
    """What was frozen and is due expires at once when it is freed; what is not yet due stays."""
    writer.move(earn("ann", 50), earn("ann", 50, occurred_ms=START_MS + DAY_MS))
    writer.move(redeem("ann", 80, verdict="hold", due_seconds=10 * 86_400, on_timeout="void"))
    writer.tick(LATER)
    writer.time_out()
    assert have(writer, "ann") == Balance(50, 0, 0, 50, 0)
    assert lots(writer, "ann") == [(50, 0, 0), (50, 50, 0)]
    assert controls(writer)["expired"] == 50
    assert writer.expire() == 0
    proved(writer)


def test_a_hold_that_posts_at_its_time_out_spends_its_lots_though_due(writer: Writer) -> None:
    """Reserved points never expire: the redemption that froze them gets them."""
    writer.move(earn("ann", 50))
    writer.move(redeem("ann", 50, verdict="hold", due_seconds=10 * 86_400, on_timeout="post"))
    writer.tick(LATER)
    assert writer.expire() == 0
    writer.time_out()
    assert have(writer, "ann") == Balance(0, 0, 0, 0, 0)
    assert (uses(writer), controls(writer)["redeemed"]) == ({"debit": 50}, 50)
    proved(writer)


# Expiry


def test_expiry_runs_in_batches_and_twice_does_nothing(writer: Writer) -> None:
    """The oldest lots go first, `most` at a time, each by one posting; a second run finds nothing."""
    writer.move(*(earn(f"m{n}", 10 + n, occurred_ms=START_MS + n) for n in range(5)))
    writer.tick(LATER + 3)
    assert [writer.expire(3), writer.expire(3), writer.expire(3)] == [3, 1, 0]
    assert [have(writer, f"m{n}").posted for n in range(5)] == [0, 0, 0, 0, 14]
    with writer.engine.connect() as conn:
        rows = conn.execute(text("SELECT event_id, amount FROM txn WHERE kind = 'expire' ORDER BY occurred_at")).all()
    assert [amount for _, amount in rows] == [10, 11, 12, 13]
    proved(writer)


def test_what_may_be_spent_is_right_before_the_job_runs(writer: Writer) -> None:
    """Due points are not available nor spent, and expire when a spend goes through; a refused one changes nothing."""
    writer.move(earn("ann", 60), earn("ann", 40, occurred_ms=START_MS + DAY_MS))
    writer.tick(LATER)
    assert have(writer, "ann") == Balance(100, 0, 0, 40, 0, 60)
    [refused] = writer.move(redeem("ann", 41), now_ms=LATER)
    assert refused.code == "insufficient_balance"
    assert lots(writer, "ann") == [(60, 60, 0), (40, 40, 0)]
    [done] = writer.move(redeem("ann", 15), now_ms=LATER)
    assert (done.code, done.available) == ("posted", 25)
    assert lots(writer, "ann") == [(60, 0, 0), (40, 25, 0)]
    assert have(writer, "ann") == Balance(25, 0, 0, 25, 0)
    assert writer.expire() == 0
    proved(writer)


def test_the_reserved_part_of_a_due_lot_stays(writer: Writer) -> None:
    """The job takes what no hold reserves of a lot, and the rest when the hold has let it go."""
    writer.move(earn("ann", 100), redeem("ann", 30, verdict="hold"))
    writer.tick(LATER)
    assert (writer.expire(), writer.expire()) == (1, 0)
    assert have(writer, "ann") == Balance(30, 0, 30, 0, 0)
    assert lots(writer, "ann") == [(100, 30, 30)]
    writer.end(Resolution(hold_of(writer), "post", "eve", "a part", 20))
    assert have(writer, "ann") == Balance(0, 0, 0, 0, 0)
    assert uses(writer) == {"expire": 80, "debit": 20}
    proved(writer)


def test_expiry_racing_spends_and_itself_loses_no_point(writer: Writer) -> None:
    """Jobs beside each other and beside spends on the same members: each lot expires once, nothing due is spent."""
    names = [f"m{n}" for n in range(8)]
    writer.move(*(earn(name, 100) for name in names), *(earn(name, 50, occurred_ms=LATER) for name in names))
    writer.tick(LATER)

    def work(number: int) -> tuple[int, int]:
        if number % 2:
            return sum(writer.expire(3) for _ in range(6)), 0
        results = writer.move(*(redeem(name, 5) for name in names[number % 5 :]), now_ms=LATER)
        return 0, sum(5 for result in results if result.code == "posted")

    done = run_together(16, work)
    while writer.expire():
        pass
    spent = sum(points for _, points in done)
    assert spent == sum(5 * len(names[number % 5 :]) for number in range(0, 16, 2))
    assert controls(writer) == {"issued": -1200, "expired": 800, "redeemed": spent}
    assert sum(have(writer, name).posted for name in names) == 400 - spent
    with writer.engine.connect() as conn:
        twice = "SELECT count(*) FROM (SELECT event_id FROM txn WHERE kind = 'expire' GROUP BY 1 HAVING count(*) > 1) x"
        assert conn.execute(text(twice)).scalar_one() == 0
    proved(writer)


def test_the_job_leaves_alone_whoever_is_locked(writer: Writer) -> None:
    """It waits for nobody: a member in the midst of a batch is expired by the next run."""
    writer.move(earn("ann", 10), earn("bob", 10))
    writer.tick(LATER)
    with writer.engine.begin() as conn:
        conn.execute(text("SELECT 1 FROM account WHERE name = 'ann' AND kind = 'member' FOR UPDATE"))
        assert writer.expire() == 1
    assert (have(writer, "ann").posted, have(writer, "bob").posted) == (10, 0)
    assert writer.expire() == 1


# Lots in use


def test_what_expires_first_is_used_first_however_many_lots_there_are(engine: Engine) -> None:
    """Lots are used by expiry, those without one last, also beyond those that a batch reads at first."""
    writer = Writer(engine)
    many = 3 * FIRST_LOTS
    moves = [earn("ann", 2, expires_ms=START_MS + (1 + (7 * n) % many) * DAY_MS) for n in range(many)]
    writer.move(*moves, earn("ann", 1000))
    writer.move(redeem("ann", 2 * FIRST_LOTS - 1), redeem("ann", 1))
    writer.move(redeem("ann", 2 * FIRST_LOTS + 1))
    left = lots(writer, "ann")[:many]
    order = sorted(range(many), key=lambda n: (7 * n) % many)
    assert [left[n][1] for n in order] == [0] * (2 * FIRST_LOTS) + [1] + [2] * (FIRST_LOTS - 1)
    proved(writer)


def test_due_lots_beyond_those_read_at_first_are_seen(writer: Writer) -> None:
    """However many lots are due, none of them is spent, and a spend expires them all."""
    many = 2 * FIRST_LOTS + 1
    writer.move(*(earn("ann", 3) for _ in range(many)), earn("ann", 5, occurred_ms=LATER))
    writer.tick(LATER)
    assert writer.move(redeem("ann", 6), now_ms=LATER)[0].code == "insufficient_balance"
    assert writer.move(redeem("ann", 5), now_ms=LATER)[0].code == "posted"
    assert controls(writer)["expired"] == 3 * many
    proved(writer)


def test_more_is_asked_than_any_number_holds(writer: Writer) -> None:
    """Demands of one member that add up beyond 64 bits are refused one by one, and what fits is done."""
    writer.move(*(earn("ann", 3) for _ in range(2 * FIRST_LOTS)))
    results = writer.move(*(redeem("ann", 2**53 - 1) for _ in range(1100)), redeem("ann", 5))
    assert {result.code for result in results[:-1]} == {"insufficient_balance"}
    assert results[-1].code == "posted"
    proved(writer)


def test_transferred_lots_keep_their_expiry_and_name_where_they_came_from(writer: Writer) -> None:
    """The receiver gets a lot for each lot that gave, with its times, and repays what is owed out of it."""
    writer.move(redeem("bob", 15, fact=True))
    writer.move(earn("ann", 20), earn("ann", 20, occurred_ms=START_MS + DAY_MS), transfer("ann", "bob", 30))
    assert lots(writer, "bob") == [(20, 5, 0), (10, 10, 0)]
    with writer.engine.connect() as conn:
        same = conn.execute(
            text(
                "SELECT count(*) FROM lot c JOIN lot p ON p.lot_id = c.parent"
                " WHERE (c.earned_at, c.expires_at) = (p.earned_at, p.expires_at)"
            )
        ).scalar_one()
    assert same == 2
    assert uses(writer) == {"transfer": 30, "repay": 15}
    proved(writer)


def test_no_more_holds_than_the_terms_allow(engine: Engine) -> None:
    """A member can have so many open holds; one more is refused by name, until one of them has ended."""
    writer = Writer(engine, max_open_holds=2)
    writer.move(earn("ann", 100))
    held = [redeem("ann", 1, verdict="hold"), earn("ann", 1, verdict="hold")]
    assert [result.code for result in writer.move(*held, *held)] == ["held", "held", "too_many_holds", "too_many_holds"]
    with engine.connect() as conn:
        holds = open_holds(conn)
        assert conn.execute(text("SELECT open_holds FROM account WHERE name = 'ann'")).scalar_one() == 2
    writer.end(Resolution(holds[0].hold_id, "void", "eve", "done"))
    assert writer.move(held[0])[0].code == "held"
    proved(writer)


# Stores


def test_stores_fund_what_is_earned_there_and_are_paid_for_what_is_redeemed(engine: Engine) -> None:
    """With funding by store, its account is debited for earns and credited for redemptions, held ones at their end."""
    writer = Writer(engine, funding="store")
    writer.move(earn("ann", 100, store="s1"), earn("ann", 10), earn("bob", 40, store="s2"))
    writer.move(redeem("ann", 30, store="s2"), earn("ann", 5, store="s1", verdict="hold"))
    writer.end(Resolution(hold_of(writer), "post", "eve", "fine", 4))
    writer.move(redeem("ann", 20, store="s3", verdict="hold"))
    writer.end(Resolution(hold_of(writer), "post", "eve", "fine"))
    assert controls(writer, "store") == {"s1": -104, "s2": -10, "s3": 20}
    assert controls(writer) == {"issued": -10}
    with engine.begin() as conn:
        assert roll_up(conn) > 0
        assert conn.execute(text("SELECT count(*) FROM control_delta")).scalar_one() == 0
    assert controls(writer, "store") == {"s1": -104, "s2": -10, "s3": 20}
    proved(writer)


def test_batches_that_open_the_same_stores_do_not_deadlock(engine: Engine) -> None:
    """Writers that name new stores in opposite orders open each once."""
    writer = Writer(engine, funding="store")

    def work(number: int) -> None:
        stores = [f"s{n}" for n in range(8)]
        for store in reversed(stores) if number % 2 else stores:
            writer.move(earn(f"m{number}", 1, store=store))

    run_together(8, work)
    assert controls(writer, "store") == {f"s{n}": -8 for n in range(8)}
    proved(writer)


# Terms


def test_terms_may_change_but_not_what_is_for_life(writer: Writer) -> None:
    """New terms count for what comes after; unit and funding stay."""
    writer.move(earn("ann", 1))
    with writer.engine.begin() as conn:
        assert set_terms(conn, "north", Terms(expiry_days=20)).expiry_days == 10
        assert load_programs(conn)["north"].terms == Terms(expiry_days=20)
        with pytest.raises(TermsError, match="for life"):
            set_terms(conn, "north", Terms(unit="stars"))
    writer.move(earn("ann", 2))
    writer.tick(LATER)
    assert have(writer, "ann").available == 2
