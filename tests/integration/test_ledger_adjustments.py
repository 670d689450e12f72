"""Manual adjustments: a maker, above the limit another checker, and a database that lets nobody around them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ledger.adjust_queries import AdjustmentFilter, list_adjustments
from ledger.adjustments import AdjustmentError, Checked, Proposed
from ledger.import_cells import NEVER_MS
from ledger.movement import MAX_POINTS
from ledger.terms import DEFAULT_TERMS, Terms
from ledger.verify import verify
from tests.integration.adjust_office import CHECKER, MAKER, NORTH, Office, proposal
from tests.integration.ledger_writer import START_MS, earn, merge_in, pool, redeem, run_together

DAY = 86_400_000
LIMIT = DEFAULT_TERMS.adjust_limit


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool of connections to the test's own database."""
    with pool(database) as made:
        yield made


@pytest.fixture
def office(engine: Engine) -> Office:
    """An office with one member, ann, of 100 points."""
    made = Office(engine)
    made.move(earn("ann", 100))
    return made


def refused(engine: Engine, *statements: str, **values: Any) -> str:
    """What the database says when it refuses statements that go around the product: the constraint's name or so."""

    def run() -> None:
        with engine.begin() as conn:
            for statement in statements:
                conn.execute(text(statement), values)

    with pytest.raises(DBAPIError) as error:
        run()
    diagnosis = error.value.orig.diag  # type: ignore[union-attr]  # psycopg's errors have one
    return diagnosis.constraint_name or diagnosis.message_primary or ""


def test_within_the_limit_an_adjustment_is_posted_at_once(office: Office) -> None:
    """Given points are a lot by the terms, taken ones come out of lots; both are on record, and proven."""
    given, taken = office.propose(proposal("ann", LIMIT), proposal("ann", -40, maker=MAKER))
    assert (given.outcome, taken.outcome) == ("posted", "waiting")
    office.approve(taken.adjustment_id)
    assert office.posted("ann") == 100 + LIMIT - 40
    assert sorted(points for points, _ in office.lots("ann")) == [60, LIMIT]
    with office.engine.connect() as conn:
        one, two = list_adjustments(conn)
    assert (one.points, one.state, one.checker, one.txn_id) == (LIMIT, "approved", None, given.txn_id)
    assert (two.points, two.state, two.checker) == (-40, "approved", CHECKER)
    office.assert_proven()


def test_a_merged_account_has_one_limit_under_all_its_names(office: Office) -> None:
    """What a maker adjusts counts together, by its own name and by those that were merged into it, before or after."""
    office.move(earn("bob", 5), earn("cid", 1))
    assert [one.outcome for one in office.propose(proposal(points=LIMIT - 10, account="cid"))] == ["posted"]
    with office.engine.begin() as conn:
        merge_in(conn, office, "cid", "bob")
        merge_in(conn, office, "bob", "ann")
    told = [office.propose(proposal(points=6, account=name))[0] for name in ("bob", "ann", "cid")]
    assert [(one.outcome, one.code) for one in told] == [("posted", "")] + 2 * [("waiting", "above_limit_of_a_day")]
    both = office.propose(proposal(points=3, account="cid"), proposal(points=3, account="ann"))
    assert [one.outcome for one in both] == ["posted", "waiting"]


def test_above_the_limit_somebody_else_approves(office: Office) -> None:
    """Nothing moves before; the maker, under whatever spelling, is not somebody else."""
    (big,) = office.propose(proposal("ann", LIMIT + 1))
    assert (big.outcome, big.code, office.posted("ann")) == ("waiting", "above_limit", 100)
    for maker in (MAKER, "MIA", "Ｍｉａ"):
        assert office.approve(big.adjustment_id, checker=maker)[0].outcome == "own"
    (checked,) = office.approve(big.adjustment_id)
    assert (checked.outcome, office.posted("ann")) == ("posted", 100 + LIMIT + 1)
    again = office.approve(big.adjustment_id, checker="eve")
    assert again == [Checked(big.adjustment_id or 0, "checked_before", "approved")]
    assert office.posted("ann") == 100 + LIMIT + 1
    office.assert_proven()


def test_a_large_adjustment_cannot_be_made_of_small_ones(office: Office) -> None:
    """Of one account, one maker adjusts within 24 hours no more than the limit without a checker."""
    results = office.propose(*[proposal("ann", 4_000)] * 3, proposal("bob", 4_000))
    assert [one.outcome for one in results] == ["posted", "posted", "waiting", "posted"]
    assert results[2].code == "above_limit_of_a_day"
    assert office.propose(proposal("ann", 4_000, maker="eve"))[0].outcome == "posted"
    assert office.propose(proposal("ann", -3_000))[0].outcome == "waiting"
    office.move(earn("zoe", 1), now_ms=START_MS + DAY + 1)
    assert office.propose(proposal("ann", LIMIT))[0].outcome == "posted"
    office.assert_proven()


def test_a_rejected_adjustment_moves_nothing(office: Office) -> None:
    """It names who rejected it and why; its maker may withdraw it, and is then no checker."""
    first, second = office.propose(proposal("ann", 500), proposal("ann", -50), wait=True)
    assert [first.code, second.code] == ["asked_to_wait"] * 2
    assert office.reject(first.adjustment_id, reason="no such order")[0].outcome == "rejected"
    assert office.reject(second.adjustment_id, checker=MAKER)[0].outcome == "rejected"
    assert office.approve(first.adjustment_id)[0] == Checked(first.adjustment_id or 0, "checked_before", "rejected")
    assert office.reject(7)[0] == Checked(7, "unknown")
    with office.engine.connect() as conn:
        views = list_adjustments(conn, AdjustmentFilter(NORTH, "ann", "rejected"))
        assert list_adjustments(conn, AdjustmentFilter(state="waiting")) == []
    assert [(view.checker, view.check_reason) for view in views] == [(CHECKER, "no such order"), (None, "no")]
    assert office.posted("ann") == 100
    office.assert_proven()


def test_what_the_ledger_refuses_is_not_recorded_or_stays_as_it_was(office: Office) -> None:
    """A balance that lacks the points, points out of range, members nobody knows."""
    short = office.propose(proposal("ann", -101), proposal("nob", 5), create=False)
    assert short == [Proposed("refused", None, "insufficient_balance"), Proposed("refused", None, "unknown_account")]
    assert office.posted("nob") is None
    (waiting,) = office.propose(proposal("ann", -90), wait=True)
    office.move(redeem("ann", 60))
    (checked,) = office.approve(waiting.adjustment_id)
    assert (checked.outcome, checked.code) == ("refused", "insufficient_balance")
    office.move(earn("ann", 50))
    assert office.approve(waiting.adjustment_id)[0].outcome == "posted"
    assert office.posted("ann") == 0
    office.assert_proven()


def test_given_points_expire_when_they_are_told_to(engine: Engine) -> None:
    """Explicitly, or by the terms; never is a day beyond all days."""
    office = Office(engine, terms=Terms(expiry_days=30, max_balance=5_000))
    at = START_MS + 7 * DAY
    office.propose(proposal("ann", 5, expires_ms=at), proposal("ann", 6), proposal("ann", 7, expires_ms=NEVER_MS))
    assert office.lots("ann") == [(5, at), (6, START_MS + 30 * DAY), (7, NEVER_MS)]
    assert office.propose(proposal("ann", 5_000))[0].code == "balance_out_of_range"
    office.assert_proven()


def test_a_reference_is_proposed_once(office: Office) -> None:
    """Whoever proposes corrections again, after a crash say, finds what there is."""
    (first,) = office.propose(proposal("ann", 5, reference="run-1/7"), wait=True)
    (again,) = office.propose(proposal("ann", 5, reference="run-1/7"))
    assert again == Proposed("known", first.adjustment_id)
    with pytest.raises(AdjustmentError, match="twice"):
        office.propose(*[proposal("ann", 5, reference="run-1/8")] * 2)
    assert office.posted("ann") == 100


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"points": 0}, "cannot be adjusted"),
        ({"points": MAX_POINTS + 1}, "cannot be adjusted"),
        ({"points": -5, "expires_ms": START_MS}, "do not expire"),
        ({"reason_code": "mood"}, "unknown"),
        ({"reason": "  "}, "needs a reason"),
        ({"maker": ""}, "maker is empty"),
        ({"account": "pool:x"}, "is a pool"),
        ({"account": " ann"}, "blanks"),
        ({"program": "south"}, "no programme"),
    ],
)
def test_what_no_adjustment_can_be_is_refused_with_the_remedy(office: Office, wrong: dict[str, Any], word: str) -> None:
    """Before anything is locked or written."""
    with pytest.raises(AdjustmentError, match=word) as error:
        office.propose(proposal("ann", 5), replace(proposal("ann", 5), **wrong))
    assert "; " in str(error.value)
    assert office.posted("ann") == 100


def test_a_hundred_checkers_post_it_once(office: Office) -> None:
    """However many approve and reject at one moment, one of them does."""
    (waiting,) = office.propose(proposal("ann", 20_000))

    def check(number: int) -> str:
        ending = office.reject if number % 3 == 0 else office.approve
        return ending(waiting.adjustment_id, checker=f"joe{number}")[0].outcome

    outcomes = run_together(30, check)
    assert sum(one in {"posted", "rejected"} for one in outcomes) == 1
    assert set(outcomes) <= {"posted", "rejected", "checked_before"}
    assert office.posted("ann") == (20_100 if "posted" in outcomes else 100)
    office.assert_proven()


_TXN = """
INSERT INTO txn (txn_id, program, kind, source, event_id, amount, pending, occurred_at, recorded_at)
VALUES (:id, 'north', 'adjust', 'pointguard:adjustment', :event_id, :points, false, now(), now())"""
_MADE = """
INSERT INTO adjustment (adjustment_id, program, account, points, reason_code, reason, maker, made_at, limit_points)
VALUES (900000, 'north', 'ann', 20000, 'goodwill', 'x', 'mia', now(), 99999999)"""
_MADE_APPROVED = _MADE.replace("limit_points)", "limit_points, verdict, checked_at)").replace(
    "99999999)", "99999999, 'approved', now())"
)
_APPROVE = """
UPDATE adjustment SET verdict = 'approved', checked_at = now(), checker = CAST(:checker AS text), txn_id = 900001
 WHERE adjustment_id = :named"""


def test_a_transaction_without_an_approved_adjustment_is_refused_by_the_database(office: Office) -> None:
    """A direct INSERT that skips the check; also one that names somebody else's adjustment, or other points of it."""
    (waiting,) = office.propose(proposal("ann", 20_000))
    (posted,) = office.propose(proposal("bob", 50))
    named = str(waiting.adjustment_id)
    engine = office.engine
    assert refused(engine, _TXN, id=900_001, event_id=named, points=20_000) == "txn_adjustment_check"
    assert refused(engine, _TXN, id=900_001, event_id="1000000", points=5) == "txn_adjustment_check"
    assert refused(engine, _TXN, id=900_001, event_id=str(posted.adjustment_id), points=50) == "txn_adjustment_check"
    approved = {"checker": CHECKER, "named": waiting.adjustment_id, "id": 900_001, "event_id": named}
    assert refused(engine, _APPROVE, _TXN, points=20_001, **approved) == "txn_adjustment_check"
    assert refused(engine, _APPROVE, **approved) == "adjustment_txn_id_fkey"


def test_who_may_approve_is_the_databases_rule(office: Office) -> None:
    """No checker above the limit, the maker as checker, a limit of one's own, a check done twice: all refused."""
    (waiting,) = office.propose(proposal("ann", 20_000))
    (small,) = office.propose(proposal("ann", LIMIT))
    engine, named = office.engine, waiting.adjustment_id

    def approval(checker: str | None, number: int | None = named) -> str:
        return refused(engine, _APPROVE, checker=checker, named=number)

    assert approval(None) == "adjustment_limit_check"
    assert {approval(checker) for checker in ("mia", " MIA ", "ｍｉａ", "")} == {"adjustment_checker_check"}
    assert "approved already" in approval("joe", small.adjustment_id)
    assert refused(engine, _MADE_APPROVED) == "adjustment_made_check"
    with engine.begin() as conn:
        conn.execute(text(_MADE))
    assert approval(None, 900_000) == "adjustment_limit_check"
    with engine.connect() as conn:
        limit = conn.execute(text("SELECT limit_points FROM adjustment WHERE adjustment_id = 900000")).scalar_one()
    assert limit == LIMIT


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE adjustment SET points = 5",
        "UPDATE adjustment SET limit_points = 10 ^ 15",
        "UPDATE adjustment SET maker = 'eve'",
        "UPDATE adjustment SET verdict = NULL, checked_at = NULL, txn_id = NULL",
        "DELETE FROM adjustment",
        "TRUNCATE adjustment",
    ],
)
def test_an_adjustment_is_history(office: Office, statement: str) -> None:
    """What was proposed, by whom, under which limit, and how it ended never changes."""
    office.propose(proposal("ann", 50))
    assert "adjustment" in refused(office.engine, statement)


def test_the_limit_is_the_programmes(engine: Engine) -> None:
    """With a limit of 0, everything needs a checker."""
    office = Office(engine, terms=Terms(adjust_limit=0))
    (one,) = office.propose(proposal("ann", 1))
    assert one.outcome == "waiting"
    assert office.approve(one.adjustment_id)[0].outcome == "posted"
    office.assert_proven()


TAMPERED = {
    "adjustment_without_transaction": "DELETE FROM entry WHERE txn_id = :txn; DELETE FROM txn WHERE txn_id = :txn",
    "adjustment_differs": "UPDATE adjustment SET account = 'bob' WHERE txn_id = :txn",
    "adjustment_unchecked": "UPDATE adjustment SET limit_points = 1, checker = NULL WHERE txn_id = :txn",
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_verify_finds_adjustments_that_were_tampered_with(office: Office, kind: str) -> None:
    """Behind the triggers' back, as only a superuser can."""
    (one,) = office.propose(proposal("ann", 50))
    office.move(earn("bob", 1))
    with office.engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        if kind == "adjustment_unchecked":
            conn.execute(text("ALTER TABLE adjustment DROP CONSTRAINT adjustment_limit_check"))
        for statement in TAMPERED[kind].split(";"):
            assert conn.execute(text(statement), {"txn": one.txn_id}).rowcount
    assert kind in verify(office.engine).totals
