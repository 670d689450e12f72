"""`verify` sees what was tampered with: each named discrepancy is made by hand and found by name."""

from collections.abc import Iterator
from string import Template

import pytest
from sqlalchemy import Engine, text

from ledger.checks import CHECKS
from ledger.holds import Resolution
from ledger.queries import open_holds
from ledger.verify import verify
from tests.integration.ledger_writer import START_MS, Writer, earn, pool, redeem, transfer
from tests.services import Databases


@pytest.fixture(scope="module")
def written(databases: Databases, template: str) -> str:
    """Make a ledger with everything in it, to be copied: programmes, arrears, open and ended holds, control tails."""
    name = databases.create(template)
    with pool(databases.url(name)) as engine:
        writer = Writer(engine)
        writer.move(earn("ann", 100), redeem("ann", 10), transfer("ann", "bob", 20), redeem("cid", 7, fact=True))
        writer.move(
            earn("ann", 5, verdict="hold"), redeem("ann", 6, verdict="hold"), transfer("ann", "bob", 8, verdict="hold")
        )
        with engine.connect() as conn:
            holds = open_holds(conn)
        writer.end(Resolution(holds[0].hold_id, "post", "ann", "ok"), Resolution(holds[1].hold_id, "void", "bob", "no"))
        writer.move(redeem("ann", 10_000))
        Writer(engine, "south").move(earn("dan", 9))
    return name


@pytest.fixture
def engine(databases: Databases, written: str) -> Iterator[Engine]:
    """Lend a pool on a copy of that ledger."""
    with databases.fresh(written) as url, pool(url) as lent:
        yield lent


def tamper(engine: Engine, statements: str) -> None:
    """Change history behind the ledger's back: with triggers and foreign keys off, as only a superuser can."""
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in Template(statements).substitute(PLACES).split(";"):
            assert conn.execute(text(statement)).rowcount != 0, statement


PLACES = {
    "first": "(SELECT min(txn_id) FROM txn)",
    "open": "(SELECT hold_id FROM hold WHERE resolved_at IS NULL)",
    "ann": "(SELECT account_id FROM account WHERE name = 'ann')",
    "dan": "(SELECT account_id FROM account WHERE name = 'dan')",
}
CASES = {
    "counters_differ": "UPDATE account SET posted_cr = posted_cr + 1 WHERE name = 'ann'",
    "entry_count_differs": "UPDATE account SET entry_count = entry_count + 1 WHERE name = 'ann'",
    "negative_available": """
        ALTER TABLE account DROP CONSTRAINT account_available_check;
        UPDATE entry e SET amount = e.amount * 100 FROM txn t
         WHERE t.txn_id = e.txn_id AND t.kind = 'redeem' AND NOT t.pending AND t.amount = 10;
        UPDATE account SET posted_dr = posted_dr + 990 WHERE account_id = $ann""",
    "negative_arrears": """
        ALTER TABLE account DROP CONSTRAINT account_arrears_check;
        UPDATE entry SET amount = -amount FROM account a WHERE a.account_id = entry.account_id AND a.kind = 'arrears';
        UPDATE account SET posted_dr = 0, posted_cr = 7 WHERE kind = 'arrears'""",
    "wrong_arrears_link": "UPDATE account SET arrears_id = NULL WHERE name = 'cid' AND kind = 'member'",
    "unbalanced_transaction": "UPDATE entry SET amount = amount + 1 WHERE txn_id = $first AND leg = 1",
    "transaction_without_entries": "DELETE FROM entry WHERE txn_id = $first",
    "entries_without_transaction": "DELETE FROM txn WHERE txn_id = $first",
    "wrong_layers": "UPDATE entry SET layer = 1 WHERE txn_id = $first",
    "wrong_amount": "UPDATE txn SET amount = amount + 1 WHERE txn_id = $first",
    "entry_without_account": "UPDATE entry SET account_id = 999999 WHERE txn_id = $first AND leg = 1",
    "foreign_account": "UPDATE entry SET account_seq = 9, account_id = $dan WHERE txn_id = $first AND leg = 1",
    "wrong_numbering": "UPDATE entry SET account_seq = NULL WHERE txn_id = $first",
    "pending_without_hold": "DELETE FROM hold WHERE hold_id = $open",
    "hold_without_pending": "UPDATE hold SET hold_id = 999999 WHERE hold_id = $open",
    "hold_differs": "UPDATE hold SET account_id = account_id + 1000 WHERE hold_id = $open",
    "ended_without_resolution": "UPDATE hold SET resolved_at = now() WHERE hold_id = $open",
    "resolved_but_open": "UPDATE hold SET resolved_at = NULL WHERE kind = 'earn'",
    "resolution_without_decision": "DELETE FROM review_decision WHERE verdict = 'post'",
    "resolution_without_transaction": """
        DELETE FROM entry WHERE txn_id IN (SELECT txn_id FROM txn WHERE kind = 'void');
        DELETE FROM txn WHERE kind = 'void'""",
    "transaction_without_resolution": "DELETE FROM hold_resolution WHERE verdict = 'void'",
    "review_without_resolution": """
        INSERT INTO review_decision VALUES (999999, $open, 'post', 'eve', 'mine', now(), now())""",
    "release_differs": """
        UPDATE entry e SET amount = e.amount * 2 FROM txn t WHERE t.txn_id = e.txn_id AND t.kind = 'void';
        UPDATE txn SET amount = amount * 2 WHERE kind = 'void'""",
    "posting_differs": """
        UPDATE entry e SET amount = e.amount * 2 FROM txn t
         WHERE t.txn_id = e.txn_id AND t.kind = 'post' AND e.layer = 0;
        UPDATE account SET posted_cr = posted_cr + 5 WHERE name = 'ann';
        UPDATE txn SET amount = amount * 2 WHERE kind = 'post'""",
    "transaction_without_decision": "DELETE FROM decision WHERE decision_id = $first",
    "decision_without_transaction": "UPDATE decision SET outcome = 'approve' WHERE outcome = 'reject'",
    "decision_differs": "UPDATE decision SET account = 'eve' WHERE decision_id = $first",
    "control_differs": "DELETE FROM control_delta",
    "not_conserved": "UPDATE account SET pending_dr = pending_dr + 1 WHERE name = 'issued' AND program = 'south'",
    "event_without_outcome": """
        INSERT INTO event_inbox VALUES ('till', 'lost', 'log', 'points.events', 3, 17, now(), '')""",
    "event_with_two_outcomes": """
        INSERT INTO dead_letter (log_id, topic, part, "offset", error, first_seen)
        SELECT log_id, topic, part, "offset", 'x', now() FROM event_inbox ORDER BY "offset" LIMIT 1""",
}


def test_an_untouched_ledger_is_proved(engine: Engine) -> None:
    """Nothing is found, and what was looked at is counted."""
    report = verify(engine)
    assert report.ok, report.discrepancies
    assert dict(report.checked) == {
        "transactions": 10,
        "entries": 22,
        "accounts": 15,
        "holds": 3,
        "resolutions": 2,
        "decisions": 9,
        "events": 9,
    }


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_of_tampering_is_found_by_name(engine: Engine, kind: str) -> None:
    """History changed behind the triggers shows under the name of what is wrong, with the subject named."""
    tamper(engine, CASES[kind])
    report = verify(engine)
    assert not report.ok
    found = [item for item in report.discrepancies if item.kind == kind]
    assert found, report.totals
    assert all(item.subject and item.detail for item in found)


def test_every_discrepancy_there_is_has_its_tampering() -> None:
    """No check goes untested: each name in the statements is among the cases."""
    named = {kind for check in CHECKS for kind in check.kinds} | {"control_differs"}
    assert named == set(CASES)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decision SET points = 99 WHERE decision_id = $first",
        "UPDATE decision SET outcome = 'hold' WHERE decision_id = $first",
        "UPDATE decision SET program = 'south' WHERE decision_id = $first",
        "UPDATE decision SET event_id = 'other' WHERE decision_id = $first",
        "UPDATE decision SET type = 'redeem' WHERE decision_id = $first",
    ],
)
def test_a_decision_must_say_what_was_posted(engine: Engine, change: str) -> None:
    """Points, outcome, programme, event and type of a decision are compared with its transaction."""
    tamper(engine, change)
    assert verify(engine).totals["decision_differs"] == 1


def test_only_the_first_discrepancies_are_told_but_all_are_counted(engine: Engine) -> None:
    """A ledger that lost all its decisions says how many, and shows a few."""
    tamper(engine, "DELETE FROM decision")
    report = verify(engine, limit=3)
    assert report.totals == {"transaction_without_decision": 8, "event_without_outcome": 9}
    assert len(report.discrepancies) == 6


def test_progress_is_told_from_start_to_end(engine: Engine) -> None:
    """Each stage counts up to its total."""
    seen: list[tuple[str, int, int]] = []
    verify(engine, lambda stage, done, total: seen.append((stage, done, total)))
    last = {stage: (done, total) for stage, done, total in seen}
    assert set(last) == {"ids", "accounts", "offsets", "once"}
    assert all(done == total > 0 for done, total in last.values())


def test_an_empty_ledger_is_proved(database: str) -> None:
    """A database that was only migrated has nothing wrong with it."""
    with pool(database) as engine:
        assert verify(engine).ok


def test_verifying_beside_writers_judges_one_moment(engine: Engine) -> None:
    """A batch that commits while the verification reads is not seen in halves."""
    writer, turns = Writer(engine), iter(range(100))

    def write(_stage: str, _done: int, _total: int) -> None:
        writer.move(earn("ann", 3), transfer("ann", "bob", 1), now_ms=START_MS + next(turns))

    assert verify(engine, write).ok
    assert next(turns) > 3
