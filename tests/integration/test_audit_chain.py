"""The audit chain on PostgreSQL: whatever a covered row or a link says cannot be changed unseen."""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import errors, sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ledger import batch, chain_rows, chain_store, chain_verify, expire, holds, merge_store, refund_store, store
from ledger.anchors import Told, make_anchor, public_of, read, sign
from ledger.chain import GENESIS, Fault, leaves, link_hash, parse
from ledger.chain_cover import Cover
from ledger.chain_store import Act, record
from ledger.migrate import migrate
from ledger.plan import Plan
from ledger.verify import verify
from tests.integration.ledger_tampering import loosen, tamper
from tests.integration.ledger_world import fill
from tests.integration.ledger_writer import Writer, earn, pool, redeem, run_together
from tests.services import Databases

KEY = bytes(range(32))

# A change that no test of the rules may notice: the least one of each type. A value that is not there gets one.
FLIPS = {
    "text": "coalesce({0}, '') || 'x'",
    "bigint": "coalesce({0}, 0) + 1000003",
    "integer": "coalesce({0}, 0) + 1000003",
    "smallint": "{0} + 100",
    "boolean": "NOT {0}",
    "double precision": "coalesce({0} + 1e-12, 0)",
    "timestamp with time zone": "coalesce({0} + interval '1 microsecond', now())",
    "bytea": "coalesce(set_byte({0}, 0, get_byte({0}, 0) # 1), '\\x01')",
    "json": "(' ' || {0}::text)::json",
}
NOT_COVERED = {
    # Velocity is rebuilt from them; what was decided on stands in the features, which are covered.
    "decision": {"ip_prefix", "payment"},
    "lot": {"remaining", "reserved", "open"},
    "hold": {"due_at", "resolved_at"},
    "adjustment": {"verdict", "checker", "checked_at", "check_reason", "txn_id"},
    "import_job": {
        "staged_at",
        "line_count",
        "points",
        "verdict",
        "checker",
        "checked_at",
        "check_reason",
        "finished_at",
    },
}
"""Columns that change in the life of a row; `verify` replays them, or acts in the chain tell of them."""


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


@contextmanager
def unguarded(loose: Engine) -> Iterator[Connection]:
    """Lend a transaction in which no trigger and no check stands in the way; what it did is undone."""
    with loose.connect() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        yield conn
        conn.rollback()


def row_faults(conn: Connection) -> list[Fault]:
    """Compare all covered rows with their links."""
    found: list[Fault] = []
    chain_verify.check_rows(conn, found.append, chain_verify.all_ids(conn), {}, lambda _: None)
    return found


def faults(conn: Connection) -> list[Fault]:
    """Walk all chains, too."""
    found: list[Fault] = []
    chain_verify.walk(conn, found.append, {}, {})
    return found + row_faults(conn)


def columns_of(conn: Connection, table: str) -> dict[str, str]:
    """The columns of a table with their types."""
    asked = text("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = :table")
    return {row[0]: row[1] for row in conn.execute(asked, {"table": table})}


@pytest.mark.parametrize("covered", chain_rows.COVERED, ids=lambda covered: covered.table)
def test_the_least_change_of_any_covered_column_is_found(loose: Engine, covered: chain_rows.Covered) -> None:
    """Every immutable column of every covered table, one after the other: one row changed, that row's id named."""
    with unguarded(loose) as conn:
        assert faults(conn) == []
        columns = columns_of(conn, covered.table)
        for column, kind in columns.items():
            if column in NOT_COVERED.get(covered.table, ()):
                continue
            point = conn.begin_nested()
            flip = FLIPS[kind].format(f'"{column}"')
            ordered = f"SELECT ctid FROM {covered.table} ORDER BY {covered.key} DESC, ctid LIMIT 1"  # noqa: S608 -- the code's own names
            changed = conn.execute(
                text(f'UPDATE {covered.table} SET "{column}" = {flip} WHERE ctid = ({ordered}) RETURNING {covered.key}')  # noqa: S608 -- likewise
            ).scalar_one()
            found = row_faults(conn)
            assert found, (covered.table, column)
            if column != covered.key:
                assert {(fault.kind, fault.subject) for fault in found} == {("covered_row_differs", f"id {changed}")}
            point.rollback()


@pytest.mark.parametrize("covered", chain_rows.COVERED, ids=lambda covered: covered.table)
def test_a_deleted_row_is_found_whichever_table_it_was_in(loose: Engine, covered: chain_rows.Covered) -> None:
    """Each row of each covered table, one after the other, up to thirty of a table."""
    with unguarded(loose) as conn:
        places = conn.execute(text(f"SELECT ctid::text, {covered.key} FROM {covered.table} LIMIT 30")).all()  # noqa: S608 -- the code's own names
        assert places
        for place, one in places:
            point = conn.begin_nested()
            conn.execute(text(f"DELETE FROM {covered.table} WHERE ctid = CAST(:place AS tid)"), {"place": place})  # noqa: S608 -- likewise
            assert {fault.subject for fault in row_faults(conn)} == {f"id {one}"}
            point.rollback()


def test_a_row_that_no_transaction_of_ours_wrote_is_found(loose: Engine) -> None:
    """An entry more in a transaction that is covered, and a transaction that none covers."""
    with unguarded(loose) as conn:
        conn.execute(text("INSERT INTO lot_use VALUES (1, 1, 5, 'restore')"))
        conn.execute(
            text(
                "INSERT INTO txn SELECT 999999, program, kind, source, 'forged', resolves, amount, pending,"
                " occurred_at, recorded_at, order_id FROM txn WHERE txn_id = 1"
            )
        )
        assert {(fault.kind, fault.subject) for fault in faults(conn)} == {
            ("covered_row_differs", "id 1"),
            ("not_in_chain", "id 999999"),
        }


def test_links_that_were_removed_or_reordered_are_found(loose: Engine) -> None:
    """Two links of a chain that changed places, and a chain without its first link."""
    with unguarded(loose) as conn:
        swap = "UPDATE audit_link SET seq = 1005 - seq WHERE chain = 'act:test' AND seq IN (2, 3)"
        conn.execute(text(swap))
        conn.execute(text("UPDATE audit_link SET seq = seq - 1000 WHERE seq > 1000"))
        assert [fault.kind for fault in faults(conn)] == ["link_differs"] * 3
    with unguarded(loose) as conn:
        conn.execute(text("DELETE FROM audit_link WHERE chain = 'act:test' AND seq = 1"))
        assert "link_missing" in {fault.kind for fault in faults(conn)}


def test_rows_are_covered_from_memory_as_they_are_read_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever any plan writes has the same leaves made of the plan and made of the tables, kind by kind."""
    seen: Counter[str] = Counter()

    def write(conn: Connection, plan: Plan, now: Mapping[str, int]) -> Plan:
        written = store.write(conn, plan, now)
        cover = Cover()
        cover.add_plan(written, now)
        ids, hashes = cover.leaves()
        for one, leaf in zip(ids, hashes, strict=True):
            assert leaves([one], chain_rows.read(conn, one - 1, one)) == [leaf]
        seen.update(name for name in Plan.__slots__ if getattr(written, name))
        return written

    for module in (batch, expire, holds, merge_store, refund_store):
        monkeypatch.setattr(module, "write", write)
    with pool(database) as engine:
        fill(engine)
    assert set(seen) == {*Plan.__slots__} - {"new_arrears"}


def anchored(engine: Engine, number: int = 1) -> Told:
    """Anchor all heads as the relay does, and read the anchor back."""
    with engine.connect() as conn:
        line = sign(make_anchor(number, 1, chain_store.heads(conn)), KEY)
    return read([line], [public_of(KEY)])


def cut(conn: Connection) -> None:
    """Cut the tail of a chain with all that its last link covers, as if it had never happened."""
    entry = conn.execute(
        text("SELECT entry FROM audit_link WHERE chain = 'act:test' ORDER BY seq DESC LIMIT 1")
    ).scalar_one()
    conn.execute(text("SET LOCAL session_replication_role = replica"))
    for low, high in parse(entry.encode()).ids:
        for covered in chain_rows.COVERED:
            statement = f"DELETE FROM {covered.table} WHERE {covered.key} BETWEEN :low AND :high"  # noqa: S608 -- the code's own names
            conn.execute(text(statement), {"low": low, "high": high})
    conn.execute(text("DELETE FROM audit_link WHERE (chain, seq) = ('act:test', (SELECT max(seq) FROM audit_link))"))


def rewrite(conn: Connection) -> None:
    """Rewrite a chain to its end so that it agrees with itself: somebody else did what the writer did."""
    conn.execute(text("SET LOCAL session_replication_role = replica"))
    previous = GENESIS
    for seq, entry in conn.execute(
        text("SELECT seq, entry FROM audit_link WHERE chain = 'act:merge' ORDER BY seq")
    ).all():
        forged = entry.replace('"ann"', '"eve"')
        previous = link_hash(previous, seq, forged.encode())
        update = text("UPDATE audit_link SET entry = :entry, hash = :hash WHERE chain = 'act:merge' AND seq = :seq")
        conn.execute(update, {"entry": forged, "hash": previous, "seq": seq})


def test_a_cut_tail_is_found_by_the_anchors_alone(engine: Engine) -> None:
    """Without anchors the shorter chain is as good as the whole one."""
    writer = Writer(engine, "cut")
    writer.move(earn("zoe", 5))
    anchors = anchored(engine)
    with engine.begin() as conn:
        cut(conn)
    within = verify(engine)
    assert not {kind for kind in within.totals if kind.startswith(("link", "chain", "covered", "not_in"))}
    assert verify(engine, anchors=anchors).totals["chain_cut"] == 1


def test_a_chain_rewritten_to_its_end_is_found_by_the_anchors_alone(engine: Engine) -> None:
    """It verifies by itself; the signed heads say that it was another."""
    anchors = anchored(engine)
    assert verify(engine, anchors=anchors).ok
    with engine.begin() as conn:
        rewrite(conn)
    assert verify(engine).ok
    assert verify(engine, anchors=anchors).totals == {"chain_rewritten": 1}


def test_an_incremental_run_sees_that_a_verified_chain_was_cut_or_rewritten(engine: Engine) -> None:
    """Its mark of each chain is an anchor of a kind: good against accidents, not against who can change marks."""
    assert verify(engine).marked
    with engine.begin() as conn:
        rewrite(conn)
    assert verify(engine, incremental=True).totals == {"chain_rewritten": 1}


def test_anchors_that_are_not_believed_are_told(engine: Engine) -> None:
    """One of a foreign key, and one that is missing between two."""
    with engine.connect() as conn:
        heads = chain_store.heads(conn)
    lines = [sign(make_anchor(number, 1, heads), KEY) for number in (1, 3)] + [
        sign(make_anchor(4, 1, heads), KEY[::-1])
    ]
    report = verify(engine, anchors=read(lines, [public_of(KEY)]))
    assert report.totals == {"anchor_missing": 1, "anchor_not_signed": 1}


@pytest.mark.parametrize("table", ["audit_link", "audit_anchor"])
@pytest.mark.parametrize("change", ["UPDATE {} SET {}", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_chain_is_only_ever_added_to_whoever_asks(
    engine: Engine, databases: Databases, table: str, change: str
) -> None:
    """The owner is stopped by the trigger, a role that may write by its missing right; it cannot alter the table."""
    statement = change.format(table, "entry = ''" if table == "audit_link" else "signed = ''")
    with engine.begin() as conn:
        if table == "audit_anchor":
            conn.execute(text("INSERT INTO audit_anchor VALUES (1, now(), 'x')"))
    with engine.connect() as conn, pytest.raises(DBAPIError, match="only ever added to"):
        conn.execute(text(statement))
    role = sql.Identifier("pointguard_test_worker")
    databases.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
    databases.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        with engine.connect() as conn:
            conn.execute(text(f"GRANT SELECT, INSERT ON {table} TO pointguard_test_worker"))
            conn.execute(text("SET ROLE pointguard_test_worker"))
            for asked in (statement, f"ALTER TABLE {table} DISABLE TRIGGER ALL", f"DROP TABLE {table}"):
                with pytest.raises(DBAPIError) as caught, conn.begin_nested():
                    conn.execute(text(asked))
                assert isinstance(caught.value.orig, errors.InsufficientPrivilege)
            conn.rollback()
    finally:
        databases.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_owner_gave_up_the_rights_too(engine: Engine) -> None:
    """No grant to change the chain is left, not to its owner either."""
    with engine.connect() as conn:
        rights = conn.execute(
            text(
                "SELECT DISTINCT privilege_type FROM information_schema.table_privileges"
                " WHERE table_name IN ('audit_link', 'audit_anchor')"
            )
        ).scalars()
        assert not {"UPDATE", "DELETE", "TRUNCATE"} & set(rights)


def test_acts_of_one_chain_at_once_wait_for_each_other_and_other_chains_do_not(database: str) -> None:
    """Sixteen acts on one chain at once make sixteen links without a fork; one under way stops no other chain."""
    with pool(database) as engine:

        def act(number: int) -> None:
            with engine.begin() as conn:
                record(conn, Act("policy", f"person {number}", "policy.activated", {"version": number}))

        run_together(16, act)
        with engine.connect() as conn:
            assert chain_store.heads(conn)[-1].seq == 16
            assert faults(conn) == []
        with engine.begin() as slow:
            record(slow, Act("policy", "slow", "policy.activated"))
            with ThreadPoolExecutor(1) as threads, engine.begin() as conn:
                threads.submit(record, conn, Act("terms", "quick", "terms.changed")).result(timeout=10)


def test_what_was_there_before_the_chain_is_covered_by_its_first_link(databases: Databases, written: str) -> None:
    """A ledger from before the chain: migrating covers it, so that later changes of it show; once is enough."""
    with databases.fresh(written) as url, pool(url) as engine:
        with engine.begin() as conn:
            conn.execute(text("SET LOCAL session_replication_role = replica"))
            conn.execute(text("DELETE FROM audit_link"))
        assert "not_in_chain" in verify(engine).totals
        for _ in range(2):
            migrate(url)
            assert verify(engine).ok
        with engine.begin() as conn:
            assert [head[:2] for head in chain_store.heads(conn)] == [("act:chain", 1)]
            tamper(conn, "UPDATE entry SET amount = amount + 1 WHERE txn_id = $first")
        assert "covered_row_differs" in verify(engine).totals


def test_a_link_covers_only_what_its_transaction_wrote(database: str) -> None:
    """An act without rows, one over ids of which nothing came, and one whose transaction was rolled back."""
    with pool(database) as engine:
        writer = Writer(engine)
        with engine.begin() as conn:
            record(conn, Act("policy", "ann", "policy.activated"), [])
            record(conn, Act("review", "ann", "holds.decided"), [5_000_001, 5_000_002])
        with engine.connect() as conn:
            writer.move_in(conn, [earn("ann", 5)])
            conn.rollback()
        writer.move(earn("ann", 5), redeem("ann", 2))
        with engine.connect() as conn:
            entries = {head.chain: head.seq for head in chain_store.heads(conn)}
            assert entries == {"act:chain": 1, "act:policy": 1, "act:review": 1, "act:test": 1}
            assert faults(conn) == []


def test_anchors_of_a_file_may_be_cut_short(tmp_path: Path) -> None:
    """A relay killed while it appended leaves half a line, which is told and harms no other."""
    line = sign(make_anchor(1, 1, []), KEY)
    path = tmp_path / "anchors.jsonl"
    path.write_bytes(line + b"\n" + line[: len(line) // 2])
    told = read(path.read_bytes().splitlines(), [public_of(KEY)])
    assert ([anchor.number for anchor in told.anchors], [fault.kind for fault in told.faults]) == (
        [1],
        ["anchor_not_signed"],
    )
