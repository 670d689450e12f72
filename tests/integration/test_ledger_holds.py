"""Holds on real PostgreSQL: ended once, whoever races; due by the ledger's clock; listed page by page."""

from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ledger.book import Resolution
from ledger.holds import due
from ledger.programs import advance_clock
from ledger.queries import Balance, HoldFilter, HoldView, balance, find_hold, open_holds
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, Writer, adjust, earn, pool, redeem, run_together, transfer

RACERS = 80


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool on a fresh database."""
    with pool(database) as lent:
        yield lent


@pytest.fixture
def writer(engine: Engine) -> Writer:
    """Make a writer on it."""
    return Writer(engine)


def have(engine: Engine, name: str) -> Balance | None:
    """A member's balance now."""
    with engine.connect() as conn:
        return balance(conn, "north", name)


def listed(engine: Engine, wanted: HoldFilter | None = None) -> list[HoldView]:
    """All open holds."""
    with engine.connect() as conn:
        return open_holds(conn, wanted)


def post(hold: HoldView, actor: str = "ann", reason: str = "known customer") -> Resolution:
    """Approve a hold."""
    return Resolution(hold.hold_id, "post", actor, reason)


def void(hold: HoldView, actor: str = "bob", reason: str = "sign-up farm") -> Resolution:
    """Reject a hold."""
    return Resolution(hold.hold_id, "void", actor, reason)


def test_each_kind_of_hold_posts_and_voids(writer: Writer) -> None:
    """Posting moves exactly what was pending, voiding gives it back, and the ledger stays proved."""
    for verdict in (post, void):
        writer.move(earn("ann", 100), earn("bob", 100))
        writer.move(
            earn("ann", 10, verdict="hold"),
            redeem("ann", 20, verdict="hold"),
            transfer("ann", "bob", 30, verdict="hold"),
            adjust("bob", 40, verdict="hold"),
            adjust("bob", -50, verdict="hold"),
        )
        outcomes = writer.end(*(verdict(hold) for hold in listed(writer.engine)))
        assert [resolved.outcome for resolved in outcomes] == ["resolved"] * 5
    assert have(writer.engine, "ann") == Balance(100 + 10 - 20 - 30 + 100, 0, 0, 160, 0)
    assert have(writer.engine, "bob") == Balance(100 + 30 + 40 - 50 + 100, 0, 0, 220, 0)
    assert listed(writer.engine) == []
    report = verify(writer.engine)
    assert report.ok, report.discrepancies
    assert report.checked["resolutions"] == 10


def test_of_many_racing_resolvers_exactly_one_wins(writer: Writer) -> None:
    """80 threads approve and reject one hold at once: one decision stands, and all the others are told whose."""
    writer.move(earn("ann", 100), redeem("ann", 60, verdict="hold"))
    [hold] = listed(writer.engine)
    answers = run_together(RACERS, lambda n: writer.end((post if n % 2 else void)(hold, f"racer-{n}"))[0])
    outcomes = Counter(answer.outcome for answer in answers)
    assert outcomes == {"resolved": 1, "already_resolved": RACERS - 1}
    assert (
        len({(answer.decision_id, answer.verdict, answer.actor, answer.reason, answer.at_ms) for answer in answers})
        == 1
    )
    winner = next(n for n, answer in enumerate(answers) if answer.outcome == "resolved")
    assert answers[0].actor == f"racer-{winner}"
    left = 40 if answers[0].verdict == "post" else 100
    assert have(writer.engine, "ann") == Balance(left, 0, 0, left, 0)
    with writer.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM review_decision")).scalar_one() == 1
    assert verify(writer.engine).ok


def test_racing_resolvers_of_many_holds_do_not_deadlock(writer: Writer) -> None:
    """Resolvers that take the same holds in different orders, beside batches on the same members, all get through."""
    names = [f"m{n}" for n in range(6)]
    writer.move(*(earn(name, 1000) for name in names))
    writer.move(*(transfer(a, b, 10, verdict="hold") for a in names for b in names if a != b))
    holds = listed(writer.engine)

    def work(number: int) -> int:
        if number % 4 == 3:
            writer.move(*(earn(name, 1) for name in (names if number % 8 == 3 else reversed(names))))
            return 0
        mine = holds[number:] + holds[:number]
        if number % 2:
            mine.reverse()
        answers = [one for n in range(0, 30, 10) for one in writer.end(*(post(hold) for hold in mine[n : n + 10]))]
        return sum(answer.outcome == "resolved" for answer in answers)

    assert sum(run_together(24, work)) == 30
    assert have(writer.engine, "m0") == Balance(1006, 0, 0, 1006, 0)
    assert verify(writer.engine).ok


def test_one_call_decides_in_order_and_answers_each(writer: Writer) -> None:
    """Twice the same hold, one nobody knows, one escalated and then ended: each gets its own answer."""
    writer.move(earn("ann", 5, verdict="hold"), earn("ann", 6, verdict="hold", due_seconds=0))
    first, second = listed(writer.engine)
    escalate = Resolution(second.hold_id, "escalate", "policy", "due")
    answers = writer.end(post(first), void(first), Resolution(77, "void", "bob", "?"), escalate, void(second), escalate)
    assert [answer.outcome for answer in answers] == [
        "resolved",
        "already_resolved",
        "unknown_hold",
        "escalated",
        "resolved",
        "already_resolved",
    ]
    assert answers[1].decision_id == answers[0].decision_id
    assert (answers[3].verdict, answers[3].actor) == ("escalate", "policy")
    assert (answers[5].verdict, answers[5].decision_id) == ("void", answers[4].decision_id)
    assert writer.end() == []
    assert verify(writer.engine).ok


def test_an_escalated_hold_stays_open_and_is_no_longer_due(writer: Writer) -> None:
    """Escalation is recorded, stops the timer and leaves the points where they are."""
    writer.move(earn("ann", 5, verdict="hold", due_seconds=0))
    [hold] = listed(writer.engine)
    [answer] = writer.end(Resolution(hold.hold_id, "escalate", "policy", "due"))
    assert answer.outcome == "escalated"
    [still] = listed(writer.engine)
    assert (still.due_at, still.decided) == (None, None)
    assert writer.end(post(still))[0].outcome == "resolved"
    assert verify(writer.engine).ok


def test_a_resolution_without_a_decision_is_refused_by_the_database(writer: Writer) -> None:
    """No hold is resolved without a recorded decision, not even by hand."""
    writer.move(earn("ann", 5, verdict="hold"))
    with pytest.raises(DBAPIError, match="review_decision"), writer.engine.begin() as conn:
        conn.execute(text("INSERT INTO hold_resolution SELECT hold_id, 'post', 12345, now(), 5 FROM hold"))


def test_holds_fall_due_by_the_clock_of_their_programme(writer: Writer) -> None:
    """A simulation's hold is due when its own clock says so, and then decided by policy, as recorded."""
    writer.move(earn("ann", 5, verdict="hold", due_seconds=60, on_timeout="post"), earn("bob", 5, verdict="hold"))
    with writer.engine.begin() as conn:
        advance_clock(conn, "north", START_MS + 59_999)
        assert due(conn, ["north"], 10) == []
    writer.tick(START_MS + 60_000)
    [answer] = writer.time_out()
    assert (answer.outcome, answer.verdict, answer.actor) == ("resolved", "post", "policy")
    assert answer.at_ms == START_MS + 60_000
    assert have(writer.engine, "ann") == Balance(5, 0, 0, 5, 0)
    assert verify(writer.engine).ok


def test_due_holds_are_shared_out_between_relays(writer: Writer) -> None:
    """Two that ask at once get different holds, the oldest first, and no one waits."""
    writer.move(*(earn(f"m{n}", n, verdict="hold", due_seconds=n) for n in range(1, 5)))
    with writer.engine.begin() as conn:
        advance_clock(conn, "north", START_MS + 60_000)
    with writer.engine.begin() as first, writer.engine.begin() as second:
        one, other = due(first, ["north"], 2), due(second, ["north"], 10)
    ids = [hold.hold_id for hold in one + other]
    assert len(one) == len(other) == 2
    assert ids == sorted(set(ids))


def test_a_due_hold_that_an_analyst_ends_meanwhile_is_ended_once(writer: Writer) -> None:
    """The timer and people race for the same holds: every hold has one decision."""
    writer.move(*(earn("ann", n, verdict="hold", due_seconds=0, on_timeout="void") for n in range(1, 21)))
    holds = listed(writer.engine)

    def work(number: int) -> int:
        if number % 2:
            return sum(answer.outcome == "resolved" for answer in writer.end(*(post(hold) for hold in holds)))
        return sum(answer.outcome == "resolved" for answer in writer.time_out(5))

    assert sum(run_together(12, work)) == 20
    assert verify(writer.engine).ok


def test_open_holds_are_listed_page_by_page(writer: Writer) -> None:
    """Keyset pages put together are the whole list, oldest first, whatever ends or opens in between."""
    for n in range(7):
        writer.move(*(earn(f"m{k}", 10 * n + k + 1, verdict="hold") for k in range(3)), now_ms=START_MS + n * 1000)
    every = listed(writer.engine)
    assert [hold.amount for hold in every] == [10 * n + k + 1 for n in range(7) for k in range(3)]
    pages: list[HoldView] = []
    with writer.engine.connect() as conn:
        while page := open_holds(conn, after=pages[-1] if pages else None, limit=4):
            pages += page
            writer.end(void(page[-1]))
            conn.rollback()
    assert pages == every


def test_open_holds_are_filtered(writer: Writer) -> None:
    """By programme, account and kind; an unknown one gives an empty list."""
    writer.move(earn("ann", 50))
    writer.move(earn("ann", 1, verdict="hold"), redeem("ann", 2, verdict="hold"), earn("bob", 3, verdict="hold"))
    Writer(writer.engine, "south").move(earn("ann", 4, verdict="hold"))
    for wanted, amounts in (
        (HoldFilter(program="north"), [1, 2, 3]),
        (HoldFilter(account="ann"), [1, 2, 4]),
        (HoldFilter(kind="redeem"), [2]),
        (HoldFilter("south", "ann", "earn"), [4]),
        (HoldFilter(program="west"), []),
    ):
        assert [hold.amount for hold in listed(writer.engine, wanted)] == amounts


def test_one_hold_shows_what_it_freezes_and_how_it_ended(writer: Writer) -> None:
    """A transfer's hold names both members, its event and times; once ended, the decision too."""
    writer.move(earn("ann", 50), transfer("ann", "bob", 20, verdict="hold", event_id="t-1", due_seconds=3600))
    [hold] = listed(writer.engine)
    assert (hold.program, hold.account, hold.to, hold.kind, hold.amount) == ("north", "ann", "bob", "transfer", 20)
    assert (hold.source, hold.event_id, hold.on_timeout, hold.decided) == ("till", "t-1", "escalate", None)
    assert hold.due_at is not None
    assert (hold.due_at - hold.opened_at).total_seconds() == 3600
    writer.end(void(hold))
    with writer.engine.connect() as conn:
        ended = find_hold(conn, hold.hold_id)
        assert find_hold(conn, 10**15) is None
    assert ended is not None
    assert ended.decided is not None
    assert (ended.decided.verdict, ended.decided.actor, ended.decided.reason) == ("void", "bob", "sign-up farm")
