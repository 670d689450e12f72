"""`verify` sees what was tampered with: each named discrepancy is made by hand and found by name."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from ledger.book import Resolution
from ledger.queries import open_holds
from ledger.verify import KINDS, Report, examine, verify
from tests.integration.ledger_tampering import CHAIN, LEDGER, loosen, tamper
from tests.integration.ledger_world import DAY_MS, World, fill
from tests.integration.ledger_writer import START_MS, Writer, earn, pool, redeem, transfer
from tests.services import Databases

LATE_MS = START_MS + 41 * DAY_MS
ELSEWHERE = {"chain_cut", "chain_rewritten", "anchor_not_signed", "anchor_missing", "letters_differ"}
"""Discrepancies that need anchors or a batch of the pipeline: tests/integration/test_audit_chain.py makes them."""


@pytest.fixture(scope="module")
def written(databases: Databases, template: str) -> str:
    """Make a ledger with everything in it, to be copied."""
    name = databases.create(template)
    with pool(databases.url(name)) as engine:
        fill(engine)
    return name


@pytest.fixture
def engine(databases: Databases, written: str) -> Iterator[Engine]:
    """Lend a pool on a copy of that ledger."""
    with databases.fresh(written) as url, pool(url) as lent:
        yield lent


@pytest.fixture(scope="module")
def loose(databases: Databases, written: str) -> Iterator[Engine]:
    """Lend a pool on a copy without checks, to be changed only in transactions that are rolled back."""
    with databases.fresh(written) as url, pool(url) as lent:
        with lent.begin() as conn:
            loosen(conn)
        yield lent


def broken(loose: Engine, statements: str, limit: int = 20) -> Report:
    """Tamper, verify, and undo it."""
    with loose.connect() as conn:
        tamper(conn, statements)
        report = examine(conn, limit=limit)
        conn.rollback()
        return report


def test_an_untouched_ledger_is_proved(engine: Engine) -> None:
    """Nothing is found, and what was looked at is counted."""
    report = verify(engine)
    assert report.ok, report.discrepancies
    assert report.whole
    assert report.marked
    tables = {
        "transactions": "txn",
        "entries": "entry",
        "lots": "lot",
        "holds": "hold",
        "resolutions": "hold_resolution",
        "reversals": "reversal",
        "decisions": "decision",
        "accounts": "account",
        "events": "event_inbox",
        "links": "audit_link",
    }
    with engine.connect() as conn:
        counts = {
            name: conn.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608 -- names from above
            for name, table in tables.items()
        }
    assert dict(report.checked) == counts
    assert all(counts.values())


@pytest.mark.parametrize("kind", [*LEDGER, *CHAIN])
def test_each_kind_of_tampering_is_found_by_name(loose: Engine, kind: str) -> None:
    """History changed behind the triggers shows under the name of what is wrong, with the subject named."""
    report = broken(loose, (LEDGER | CHAIN)[kind])
    assert not report.ok
    assert not report.marked
    found = [item for item in report.discrepancies if item.kind == kind]
    assert found, report.totals
    assert all(item.subject and item.detail for item in found)


def test_every_discrepancy_there_is_has_its_tampering() -> None:
    """No check goes untested: each name in the statements is among the cases."""
    assert {*LEDGER, *CHAIN, *ELSEWHERE} == KINDS


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
def test_a_decision_must_say_what_was_posted(loose: Engine, change: str) -> None:
    """Points, outcome, programme, event and type of a decision are compared with its transaction."""
    assert broken(loose, change).totals["decision_differs"] == 1


def test_only_the_first_discrepancies_are_told_but_all_are_counted(loose: Engine) -> None:
    """A ledger that lost its inbox says how many events, and shows a few."""
    with loose.connect() as conn:
        events = conn.execute(text("SELECT count(*) FROM event_inbox")).scalar_one()
    report = broken(loose, "UPDATE event_inbox SET event_id = event_id || 'x'", limit=3)
    assert report.totals == {"event_without_outcome": events}
    assert len(report.discrepancies) == 3


def test_what_a_merged_account_earns_for_its_heir_s_debts_is_decided_for_it(database: str) -> None:
    """The entries name neither the account of the event nor the one it became, but what that owes."""
    with pool(database) as engine:
        world = World(engine)
        world.move(earn("ann", 5), redeem("bob", 50, fact=True), earn("cid", 1))
        assert world.merge("ann", "bob") == world.merge("bob", "cid") == "posted"
        world.move(earn("ann", 5), earn("bob", 7))
        assert verify(engine).ok, verify(engine).discrepancies


def test_progress_is_told_from_start_to_end(engine: Engine) -> None:
    """Each stage counts up to its total."""
    seen: list[tuple[str, int, int]] = []
    verify(engine, lambda stage, done, total: seen.append((stage, done, total)))
    last = {stage: (done, total) for stage, done, total in seen}
    assert set(last) == {"chain", "ids", "holds", "lots", "originals", "accounts", "offsets", "once"}
    assert all(done == total > 0 for done, total in last.values())


def test_an_empty_ledger_is_proved(database: str) -> None:
    """A database that was only migrated has nothing wrong with it."""
    with pool(database) as engine:
        assert verify(engine).ok


def test_verifying_beside_writers_judges_one_moment(engine: Engine) -> None:
    """A batch that commits while the verification reads is not seen in halves."""
    writer, turns = Writer(engine), iter(range(100))

    def write(_stage: str, _done: int, _total: int) -> None:
        writer.move(earn("ann", 3), transfer("ann", "bob", 1), now_ms=LATE_MS + next(turns))

    assert verify(engine, write).ok
    assert next(turns) > 3


def test_an_incremental_run_looks_at_what_is_new_and_says_what_it_left(engine: Engine) -> None:
    """Without a clean run before it, it looks at all; behind one, at the new links and what they touch."""
    first = verify(engine, incremental=True)
    assert first.whole
    assert first.ok
    writer = Writer(engine)
    writer.move(earn("ann", 3), earn("bob", 1), now_ms=LATE_MS)
    report = verify(engine, incremental=True)
    assert report.ok, report.discrepancies
    assert not report.whole
    assert report.since is not None
    assert (report.checked["transactions"], report.checked["links"], report.checked["accounts"]) == (2, 1, 2)
    assert dict(report.unseen) == dict(first.checked)
    again = verify(engine, incremental=True)
    assert (again.checked["transactions"], again.checked["links"]) == (0, 0)
    assert again.unseen["transactions"] == first.checked["transactions"] + 2
    assert verify(engine).checked["transactions"] == first.checked["transactions"] + 2


NEW = {
    "counters_differ": "UPDATE account SET posted_cr = posted_cr + 1 WHERE name = 'zoe' AND kind = 'member'",
    "entry_count_differs": "UPDATE account SET entry_count = entry_count + 1 WHERE name = 'zoe' AND kind = 'member'",
    "lot_differs": """
        UPDATE lot l SET remaining = remaining - 1 FROM account a WHERE a.account_id = l.account_id AND a.name = 'zoe'
           AND l.remaining > 0""",
    "lots_differ_from_entries": """
        UPDATE lot_use u SET amount = u.amount + 1 FROM lot l JOIN account a USING (account_id)
         WHERE l.lot_id = u.lot_id AND a.name = 'zoe'""",
    "unbalanced_transaction": """
        UPDATE entry SET amount = amount + 1 WHERE txn_id = (SELECT max(txn_id) FROM txn) AND leg = 1""",
    "transaction_without_decision": "DELETE FROM decision WHERE account = 'zoe'",
    "covered_row_missing": """
        DELETE FROM decision WHERE account = 'zoe' AND outcome = 'reject'""",
    "not_in_chain": """
        INSERT INTO review_decision SELECT max(txn_id) + 1, $open, 'escalate', 'eve', 'mine', now(), now() FROM txn""",
    "control_differs": "UPDATE account SET posted_dr = posted_dr + 1 WHERE name = 'issued' AND program = 'north'",
    "link_missing": "DELETE FROM audit_link WHERE chain = 'act:test' AND seq = (SELECT max(seq) FROM audit_link) - 1",
    "posted_beyond_hold": """
        UPDATE hold_resolution r SET posted = 99 FROM hold h JOIN account a USING (account_id)
         WHERE h.hold_id = r.hold_id AND a.name = 'zoe'""",
}


@pytest.fixture(scope="module")
def going_on(databases: Databases, written: str) -> Iterator[Engine]:
    """Lend a pool on a copy without checks, verified once and written to since; changes of it are rolled back."""
    with databases.fresh(written) as url, pool(url) as lent:
        with lent.begin() as conn:
            loosen(conn)
        assert verify(lent).marked
        writer = Writer(lent)
        writer.move(earn("zoe", 30, event_id="zoe-earns"), redeem("zoe", 4, verdict="hold"), now_ms=LATE_MS)
        with lent.connect() as conn:
            (hold,) = (hold for hold in open_holds(conn) if hold.account == "zoe")
        writer.end(Resolution(hold.hold_id, "post", "ann", "half of it", points=2))
        writer.move(redeem("zoe", 5), redeem("zoe", 5000), now_ms=LATE_MS)
        writer.move(earn("yve", 3), now_ms=LATE_MS)
        yield lent


@pytest.mark.parametrize("kind", NEW)
def test_an_incremental_run_finds_in_the_new_part_what_a_whole_run_finds(going_on: Engine, kind: str) -> None:
    """Tampering with what came after the last clean run; until it is mended, no run goes on beyond it."""
    with going_on.connect() as conn:
        tamper(conn, NEW[kind])
        for _ in range(2):
            report = examine(conn, incremental=True)
            assert not report.whole
            assert kind in report.totals, report.totals
            assert not report.marked
        assert kind in examine(conn).totals
        conn.rollback()
