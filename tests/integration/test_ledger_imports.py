"""Bulk imports on a real ledger: every row once, with its result, whatever stops them; approved as the rules say."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ledger.adjust_queries import RowView, result_counts, row_results
from ledger.book import Merge
from ledger.chain_store import Act, NotedIds, record
from ledger.import_cells import NEVER_MS
from ledger.import_forecast import Forecast
from ledger.import_parse import ImportRow
from ledger.import_posting import post_next
from ledger.imports import ImportJobError, approve_job, find_job, limit_left, list_jobs, reject_job
from ledger.merge_store import merge
from ledger.movement import MAX_POINTS
from ledger.programs import load_programs
from ledger.roll import control_balances
from ledger.terms import Terms
from ledger.verify import verify
from tests.integration.adjust_office import CHECKER, MAKER, NORTH, Office, job_spec, proposal, rows_of
from tests.integration.ledger_writer import START_MS, earn, pool, redeem, run_together

DAY = 86_400_000
LIMIT = 10_000


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


def results(office: Office, job_id: int) -> list[tuple[int, str, str]]:
    """Line, account and code of every row."""
    with office.engine.connect() as conn:
        return [(row.line, row.account, row.code) for row in row_results(conn, office.job(job_id))]


def view(office: Office, job_id: int, line: int) -> RowView:
    """What became of one row."""
    with office.engine.connect() as conn:
        return next(row for row in row_results(conn, office.job(job_id)) if row.line == line)


def opening(line: int, account: str, points: int, external_id: str, **rest: Any) -> ImportRow:
    """A row of opening balances."""
    return ImportRow(line, account, points, external_id=external_id, **rest)


def test_opening_balances_come_with_their_lots(engine: Engine) -> None:
    """Several lots a member, each with its expiry and when it was earned; members count as known since they joined."""
    office = Office(engine, terms=Terms(expiry_days=365))
    joined, earned, expires = START_MS - 900 * DAY, START_MS - 100 * DAY, START_MS + 40 * DAY
    job = office.stage(
        [
            opening(2, "王小明", 70, "L1", earned_ms=earned, expires_ms=expires, since_ms=joined, store="S1"),
            opening(3, "王小明", 30, "L2", expires_ms=expires - DAY),
            opening(4, "王小明", 20, "L3", expires_ms=NEVER_MS),
            opening(5, "李雷", 5, "L4", earned_ms=earned),
        ],
        kind="opening",
        system="old-crm",
        reason_code="migration",
    )
    assert (job.lines, job.points, job.state) == (4, 125, "waiting")
    (batch,) = office.post(job)
    assert (batch.rows, batch.points) == (Counter(posted=4), Counter(posted=125))
    assert office.lots("王小明") == [(30, expires - DAY), (70, expires), (20, NEVER_MS)]
    assert office.lots("李雷") == [(5, earned + 365 * DAY)]
    with engine.connect() as conn:
        row = conn.execute(
            text("""SELECT date_part('epoch', opened_at) * 1000, date_part('epoch', signed_up_at) * 1000
                      FROM account WHERE name = '王小明'""")
        ).one()
        adjust = next(one for one in control_balances(conn, NORTH) if one.name == "adjust")
        store = conn.execute(text("SELECT store FROM lot WHERE issued = 70")).scalar_one()
    assert (tuple(row), store) == ((joined, joined), "S1")
    assert adjust.posted_dr == 125
    office.assert_proven()


def test_rows_are_posted_once_however_often_they_come(office: Office) -> None:
    """By the other system's id, in whatever file; another body under a known id is told, not posted."""
    named = {"kind": "opening", "system": "old", "reason_code": "migration"}
    first = office.stage([opening(2, "ann", 5, "A"), opening(3, "bob", 6, "B")], **named)
    office.post(first)
    rows = [opening(2, "bob", 6, "B"), opening(3, "ann", 9, "A"), opening(4, "cid", 7, "C")]
    second = office.stage(rows, digest=b"2" * 32, **named)
    office.post(second)
    assert results(office, second.job_id) == [
        (2, "bob", "imported_before"),
        (3, "ann", "imported_differently"),
        (4, "cid", "posted"),
    ]
    assert view(office, second.job_id, 3).reason.endswith(f"import {first.job_id}, row 2")
    other = office.stage([opening(2, "ann", 5, "A")], digest=b"3" * 32, **(named | {"system": "older"}))
    office.post(other)
    assert (office.posted("ann"), office.posted("bob"), office.posted("cid")) == (110, 6, 7)
    office.assert_proven()


def test_each_row_has_its_result(engine: Engine) -> None:
    """Refusals of the ledger cost their row and nothing else."""
    office = Office(engine, terms=Terms(max_posting=5_000, max_balance=6_000))
    office.move(earn("ann", 100))
    rows = [
        *rows_of([("ann", 50), ("ann", 5_001), ("ann", 5_000), ("ann", 900), ("nob", 5)]),
        ImportRow(7, "x", problem="points: is 'x'; y"),
    ]
    job = office.stage(rows, options={})
    office.post(job, most=2)
    assert results(office, job.job_id) == [
        (2, "ann", "posted"),
        (3, "ann", "points_out_of_range"),
        (4, "ann", "posted"),
        (5, "ann", "balance_out_of_range"),
        (6, "nob", "unknown_account"),
        (7, "x", "invalid"),
    ]
    assert view(office, job.job_id, 7).reason == "points: is 'x'; y"
    assert office.posted("ann") == 5_150
    assert office.posted("nob") is None
    with engine.connect() as conn:
        assert ("posted", 2, 5_050) in result_counts(conn, job.job_id)
    office.assert_proven()


def test_points_are_taken_where_there_are_enough(office: Office) -> None:
    """Row by row, in the file's order, out of lots; arrears are paid back by what comes in."""
    office.move(redeem("deb", 30, fact=True))
    job = office.stage(rows_of([("ann", 60), ("ann", 50), ("ann", 40), ("new", 1)]), kind="debit")
    office.post(job)
    assert [code for _, _, code in results(office, job.job_id)] == [
        "posted",
        "insufficient_balance",
        "posted",
        "insufficient_balance",
    ]
    office.post(office.stage(rows_of([("deb", 50)]), digest=b"2" * 32))
    assert (office.posted("ann"), office.posted("deb")) == (0, 20)
    office.assert_proven()


def test_the_sum_of_a_job_decides_whether_it_needs_a_checker(office: Office) -> None:
    """Counted in the database; many small jobs within 24 hours count together, and a checker is somebody else."""
    small = office.stage(rows_of([("ann", 6_000)]))
    big = office.stage(rows_of([("ann", 6_000), ("bob", 4_001)]), digest=b"2" * 32)
    again = office.stage(rows_of([("ann", 4_001)]), digest=b"3" * 32)
    with office.engine.begin() as conn:
        assert limit_left(conn, job_spec()) == LIMIT
        assert not approve_job(conn, big.job_id, None)
        assert approve_job(conn, small.job_id, None)
        assert limit_left(conn, job_spec(maker="ＭＩＡ")) == 4_000
        assert not approve_job(conn, again.job_id, None)
    for maker in (MAKER, "Mia"):
        with office.engine.begin() as conn, pytest.raises(ImportJobError, match="somebody else"):
            approve_job(conn, big.job_id, maker)
    with office.engine.begin() as conn:
        assert approve_job(conn, big.job_id, CHECKER)
        assert approve_job(conn, big.job_id, "eve")  # it is approved already: nothing changes
        reject_job(conn, again.job_id, CHECKER, "no")
        with pytest.raises(ImportJobError, match="rejected already"):
            approve_job(conn, again.job_id, CHECKER)
    assert office.job(big.job_id).checker == CHECKER
    assert [job.state for job in (office.job(one.job_id) for one in (small, big, again))] == [
        "posting",
        "posting",
        "rejected",
    ]
    list(office.batches(small))
    list(office.batches(big))
    assert office.posted("ann") == 12_100
    office.assert_proven()


def test_the_same_file_is_the_same_job(office: Office) -> None:
    """Unless it has another label; with other options it is refused."""
    job = office.stage(rows_of([("ann", 5)]))
    with pytest.raises(IntegrityError):
        office.stage(rows_of([("ann", 5)]))
    office.stage(rows_of([("ann", 5)]), label="2026-11")
    with office.engine.connect() as conn:
        found = find_job(conn, job_spec())
        assert found is not None
        assert found.job_id == job.job_id
        assert find_job(conn, job_spec(label="2026-12")) is None
        with pytest.raises(ImportJobError, match="other options"):
            find_job(conn, job_spec(options={"create_members": False}))
        assert [one.spec.label for one in list_jobs(conn, NORTH)] == ["2026-11", ""]
        assert list_jobs(conn, before=job.job_id) == []


def test_a_job_that_was_stopped_goes_on_behind_its_last_result(office: Office) -> None:
    """A batch that did not commit left nothing; a finished job has nothing left."""
    job = office.stage(rows_of([(f"m{number % 7}", 10) for number in range(25)]))
    with office.engine.begin() as conn:
        approve_job(conn, job.job_id, CHECKER)
    programs = load_programs(office.engine.connect())
    with office.engine.begin() as conn:
        post_next(conn, programs, office.ids, job, 10)
    with office.engine.connect() as conn, conn.begin() as stopped:
        post_next(conn, programs, office.ids, job, 10)
        stopped.rollback()
    assert [batch.lines for batch in office.batches(job, 10)] == [10, 5]
    assert list(office.batches(job, 10)) == []
    assert sum(office.posted(f"m{number}") or 0 for number in range(7)) == 250
    assert office.job(job.job_id).state == "finished"
    office.assert_proven()


def test_many_that_post_one_job_take_turns(office: Office) -> None:
    """Eight at once: every row once."""
    job = office.stage(rows_of([(f"m{number % 50}", 1) for number in range(400)]))
    with office.engine.begin() as conn:
        approve_job(conn, job.job_id, CHECKER)
    done = run_together(8, lambda _: [batch.lines for batch in office.batches(job, 20)])
    assert sum(map(sum, done)) == 400
    assert sum(office.posted(f"m{number}") or 0 for number in range(50)) == 400
    office.assert_proven()


def test_points_beyond_what_can_be_counted_are_refused_before_anything_overflows(office: Office) -> None:
    """The ledger refuses the row; a job's sum has its bound in the database."""
    job = office.stage(rows_of([("ann", MAX_POINTS)]))
    office.post(job)
    assert results(office, job.job_id) == [(2, "ann", "balance_out_of_range")]
    with pytest.raises(IntegrityError, match="more than can be counted"):
        office.stage(rows_of([("ann", MAX_POINTS), ("bob", 1)]), digest=b"2" * 32)
    with pytest.raises(IntegrityError, match="more than can be counted"):
        office.stage(rows_of([(f"m{number}", MAX_POINTS) for number in range(3_000)]), digest=b"3" * 32)
    office.assert_proven()


@pytest.mark.parametrize("kind", ["credit", "debit", "opening"])
def test_a_forecast_is_what_happens(office: Office, kind: str, rng: random.Random) -> None:
    """Row by row the same codes, on members with due lots, reservations, arrears and merges; and nothing is written."""
    terms = Terms(max_posting=900, max_balance=1_500)
    with office.engine.begin() as conn:
        conn.execute(text('UPDATE program SET terms = \'{"max_posting": 900, "max_balance": 1500}\''))
    names = [f"m{number}" for number in range(12)]
    for name in names[:8]:
        office.move(earn(name, rng.randrange(1, 400), expires_ms=START_MS + DAY), earn(name, rng.randrange(1, 400)))
        office.move(redeem(name, 5, verdict="hold"))
    office.move(redeem("m8", 77, fact=True), now_ms=START_MS + 2 * DAY)
    before = [opening(line, "m1", 1, f"x{line}") for line in range(2, 40, 3)]
    office.post(office.stage(before, kind="opening", system="old", digest=b"2" * 32))
    rows = [
        opening(line, rng.choice(names), rng.randrange(1, 300), f"x{line}")
        if kind == "opening"
        else ImportRow(line, rng.choice(names), rng.randrange(1, 950 if kind == "credit" else 300))
        for line in range(2, 302)
    ]
    spec = job_spec(kind=kind, system="old", options={"create_members": kind != "debit"})
    reading = office.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with reading.connect() as conn:
        program = load_programs(conn)[NORTH]
        assert program.terms == terms
        forecast = Forecast(conn, program, spec)
        told = [(one.row.line, one.row.account, one.code) for one in forecast.rows(rows)]
        members = conn.execute(text("SELECT count(*) FROM account WHERE kind = 'member'")).scalar_one()
    job = office.stage(rows, kind=kind, system="old", options=spec.options)
    office.post(job, most=70)
    assert results(office, job.job_id) == told
    assert len({code for _, _, code in told}) >= 2
    with office.engine.connect() as conn:
        after = conn.execute(text("SELECT count(*) FROM account WHERE kind = 'member'")).scalar_one()
        owed = conn.execute(text("SELECT sum(posted_cr) FROM account WHERE kind = 'arrears'")).scalar_one()
    assert (forecast.opened, forecast.repaid) == (after - members, owed)
    office.assert_proven()


def test_a_member_that_became_another_gets_its_points_there(office: Office) -> None:
    """By import and by hand, forecast and proven."""
    office.move(earn("bob", 5))
    with office.engine.begin() as conn:
        programs, noted = load_programs(conn), NotedIds(office.ids)
        asked = Merge(id=noted.take(conn, 1)[0], program=NORTH, account="bob", into="ann", actor="joe", reason="same")
        merge(conn, programs, noted, asked)
        record(conn, Act("merge", "joe", "merge.done"), noted.taken)
    rows = rows_of([("bob", 105), ("ann", 5), ("bob", 1)])
    spec = job_spec(kind="debit", options={})
    with office.engine.connect() as conn:
        told = [one.code for one in Forecast(conn, programs[NORTH], spec).rows(rows)]
    job = office.stage(rows, kind="debit", options={})
    office.post(job)
    assert [code for _, _, code in results(office, job.job_id)] == told == ["posted", *["insufficient_balance"] * 2]
    assert office.propose(proposal("bob", 7), create=False)[0].outcome == "posted"
    assert office.posted("ann") == 7
    office.assert_proven()


def refused(engine: Engine, statement: str, **values: Any) -> str:
    """What the database says when it refuses a statement that goes around the product."""
    with pytest.raises(DBAPIError) as error, engine.begin() as conn:
        conn.execute(text(statement), values)
    diagnosis = error.value.orig.diag  # type: ignore[union-attr]  # psycopg's errors have one
    return diagnosis.constraint_name or diagnosis.message_primary or ""


_TXN = """
INSERT INTO txn (txn_id, program, kind, source, event_id, amount, pending, occurred_at, recorded_at)
VALUES (900001, 'north', 'adjust', 'pointguard:import', :event_id, :points, false, now(), now())"""


def test_a_transaction_that_is_no_row_of_an_approved_import_is_refused_by_the_database(office: Office) -> None:
    """One of a waiting job, one of no job, one of a row that was posted already, one of other points."""
    waiting = office.stage(rows_of([("ann", 20_000)]))
    done = office.stage(rows_of([("ann", 5)]), digest=b"2" * 32)
    office.post(done)
    engine = office.engine
    for event_id, points in ((f"{waiting.job_id}/2", 20_000), ("7/7", 5), (f"{done.job_id}/2", 5)):
        assert refused(engine, _TXN, event_id=event_id, points=points) == "txn_import_check"
    with engine.begin() as conn:
        approve_job(conn, waiting.job_id, CHECKER)
        conn.execute(text("INSERT INTO import_result VALUES (:job, 2, 'posted', 900001)"), {"job": waiting.job_id})
        with pytest.raises(DBAPIError, match="no row of an import"):
            conn.execute(text(_TXN), {"event_id": f"{waiting.job_id}/2", "points": 20_001})


def test_who_may_approve_an_import_is_the_databases_rule(office: Office) -> None:
    """No checker above the limit, the maker as checker, a sum or a limit of one's own, rows put in afterwards."""
    job = office.stage(rows_of([("ann", 20_000)]))
    engine = office.engine
    approve = f"UPDATE import_job SET verdict = 'approved', checked_at = now(), checker = CAST(:checker AS text) WHERE job_id = {job.job_id}"  # noqa: E501,S608 -- a number of ours  # fmt: skip
    assert refused(engine, approve, checker=None) == "import_job_limit_check"
    assert refused(engine, approve, checker=" Mia") == "import_job_checker_check"
    assert "sealed" in refused(engine, "UPDATE import_job SET points = 5")
    assert "sealed" in refused(engine, "UPDATE import_job SET points = NULL, line_count = NULL, staged_at = NULL")
    assert "import_job" in refused(engine, "UPDATE import_job SET limit_points = 1000000")
    insert = "INSERT INTO import_row (job_id, line, account, points) VALUES (:job, 9, 'eve', 5)"
    assert "takes no rows" in refused(engine, insert, job=job.job_id)
    assert "takes no rows" in refused(engine, insert, job=12345)
    office.post(job)
    assert "approved already" in refused(engine, "UPDATE import_job SET verdict = 'rejected', checked_at = now()")
    assert "approved already" in refused(engine, "UPDATE import_job SET checker = 'eve'")


@pytest.mark.parametrize("table", ["import_job", "import_row", "import_result", "import_external"])
def test_an_import_is_history(office: Office, table: str) -> None:
    """Neither rows nor results go away, nor change."""
    office.post(office.stage([opening(2, "ann", 5, "A")], kind="opening", system="old"))
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET job_id = 1"):  # noqa: S608 -- names of ours
        assert f"on {table} refused" in refused(office.engine, statement)


TAMPERED = {
    "import_differs": "UPDATE import_row SET points = points + 1; UPDATE import_job SET points = points + 2",
    "import_unchecked": "ALTER TABLE import_job DROP CONSTRAINT import_job_limit_check;"
    "UPDATE import_job SET checker = NULL, limit_points = 1",
    "import_rows_differ": "UPDATE import_job SET line_count = 9",
    "import_incomplete": "DELETE FROM import_result WHERE line = 3",
    "import_without_row": "INSERT INTO import_result VALUES (1, 1, 'invalid', NULL)",
    "import_without_transaction": "UPDATE import_result SET txn_id = 77 WHERE line = 2",
    "external_id_differs": "DELETE FROM import_external WHERE line = 2",
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_verify_finds_imports_that_were_tampered_with(office: Office, kind: str) -> None:
    """Behind the triggers' back, as only a superuser can."""
    office.post(office.stage([opening(2, "ann", 5, "A"), opening(3, "bob", 6, "B")], kind="opening", system="old"))
    with office.engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in TAMPERED[kind].split(";"):
            assert conn.execute(text(statement)).rowcount
    assert kind in verify(office.engine).totals
