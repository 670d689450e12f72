"""The ledger's writes on real PostgreSQL: what is written, what is refused, what racing batches do."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from ledger import schema
from ledger.ids import BLOCK, IdBlocks
from ledger.posting import plan
from ledger.programs import ProgramError, advance_clock, create_program, ledger_now, load_programs
from ledger.queries import Balance, balance
from ledger.roll import control_balances, roll_up
from ledger.store import find_accounts, lock_accounts, lock_ids, write
from ledger.store_lots import LedgerConflictError
from ledger.verify import verify
from tests.integration.ledger_writer import (
    START_MS,
    Writer,
    adjust,
    earn,
    merge_in,
    pool,
    redeem,
    run_together,
    transfer,
)


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Lend a pool on a fresh database."""
    with pool(database) as lent:
        yield lent


@pytest.fixture
def writer(engine: Engine) -> Writer:
    """Make a writer on it."""
    return Writer(engine)


def have(engine: Engine, name: str, program: str = "north") -> Balance | None:
    """A member's balance now."""
    with engine.connect() as conn:
        return balance(conn, program, name)


def test_every_kind_of_movement_lands_in_the_balances(writer: Writer) -> None:
    """Earn, redeem, transfer and both signs of adjust, posted and held, give the balances a person would work out."""
    writer.move(earn("ann", 100), redeem("ann", 10), transfer("ann", "bob", 20), adjust("ann", 5), adjust("bob", -1))
    writer.move(
        earn("ann", 7, verdict="hold"),
        redeem("ann", 8, verdict="hold"),
        transfer("ann", "bob", 9, verdict="hold"),
        adjust("bob", 3, verdict="hold"),
        adjust("bob", -2, verdict="hold"),
    )
    assert have(writer.engine, "ann") == Balance(75, 7, 17, 58, 0)
    assert have(writer.engine, "bob") == Balance(19, 12, 2, 17, 0)
    assert have(writer.engine, "nobody") is None
    assert verify(writer.engine).ok


def test_state_comes_back_as_it_was_written(writer: Writer) -> None:
    """Counters, times and arrears read under the next lock are those the last batch left."""
    writer.move(redeem("ann", 30, fact=True))
    key = ("north", "ann")
    with writer.engine.begin() as conn:
        locked = lock_accounts(conn, load_programs(conn), {key: START_MS + 5})
        write(conn, plan(locked, [], {}, iter(()), signed_up={key: 1_001}, credential_changed={key: 2_002}), {})
    with writer.engine.begin() as conn:
        locked = lock_accounts(conn, load_programs(conn), {key: START_MS + 5})
        write(conn, plan(locked, [], {}, iter(()), signed_up={key: 9_999}, credential_changed={key: 1_999}), {})
    with writer.engine.begin() as conn:
        state = lock_accounts(conn, load_programs(conn), {key: START_MS + 5}).members[key]
    assert (state.opened_ms, state.signed_up_ms, state.credential_changed_ms) == (START_MS, 1_001, 2_002)
    assert state.arrears is not None
    assert (state.posted_dr, state.entry_count, state.arrears.posted_dr, state.arrears.entry_count) == (0, 0, 30, 1)


def test_arrears_are_created_once_and_repaid_first(writer: Writer) -> None:
    """Two shortfalls share one arrears account, and what comes in pays it back before it can be spent."""
    writer.move(redeem("ann", 30, fact=True), redeem("ann", 5, fact=True))
    writer.move(redeem("ann", 5, fact=True), earn("ann", 25))
    assert have(writer.engine, "ann") == Balance(0, 0, 0, 0, 15)
    writer.move(earn("ann", 25))
    assert have(writer.engine, "ann") == Balance(10, 0, 0, 10, 0)
    with writer.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM account WHERE kind = 'arrears'")).scalar_one() == 1
    assert verify(writer.engine).ok


def test_an_account_written_around_its_lock_is_a_conflict(writer: Writer) -> None:
    """A plan made on a state that is no longer true is refused, and nothing of it stays."""
    writer.move(earn("ann", 100))
    with writer.engine.begin() as conn:
        locked = lock_accounts(conn, load_programs(conn), {("north", "ann"): 0})
        stale = replace(locked, members={("north", "ann"): locked.members["north", "ann"]._replace(entry_count=0)})
        planned = plan(stale, [], {}, iter(()), credential_changed={("north", "ann"): 5})
        with pytest.raises(LedgerConflictError):
            write(conn, planned, {})
        conn.rollback()
    assert have(writer.engine, "ann") == Balance(100, 0, 0, 100, 0)
    assert verify(writer.engine).ok


def test_programmes_do_not_mix(engine: Engine) -> None:
    """The same name in two programmes is two accounts, and each programme's controls see only its own."""
    north, south = Writer(engine), Writer(engine, "south")
    north.move(earn("ann", 10))
    south.move(earn("ann", 3), redeem("ann", 1))
    assert have(engine, "ann") == Balance(10, 0, 0, 10, 0)
    assert have(engine, "ann", "south") == Balance(2, 0, 0, 2, 0)
    with engine.connect() as conn:
        assert {c.name: c.posted_dr for c in control_balances(conn, "south")}["issued"] == 3
    assert verify(engine).ok


HISTORY = [
    "txn",
    "entry",
    "decision",
    "review_decision",
    "hold_resolution",
    "lot_use",
    "hold_lot",
    "reversal",
    "order_refund",
    "account_merge",
]


@pytest.mark.parametrize("table", HISTORY)
@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
def test_history_cannot_be_changed(engine: Engine, table: str, change: str) -> None:
    """UPDATE, DELETE and TRUNCATE are refused by the database itself on everything that is history."""
    column = schema.metadata.tables[table].columns.keys()[0]
    with pytest.raises(DBAPIError, match="refused"), engine.begin() as conn:
        conn.execute(text(change.format(table, column)))


ENTRIES = "INSERT INTO entry (txn_id, leg, account_id, amount, layer) "


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE program SET mode = 'live'",
        "UPDATE account SET name = 'eve'",
        "UPDATE account SET kind = 'control'",
        "DELETE FROM account",
        "UPDATE hold SET amount = 1",
        "UPDATE hold SET replaces = 1",
        "DELETE FROM hold",
        "UPDATE lot SET issued = 11",
        "UPDATE lot SET expires_at = now()",
        "UPDATE lot SET remaining = issued + 1",
        "UPDATE lot SET reserved = remaining + 1",
        "UPDATE lot SET remaining = -1",
        "DELETE FROM lot",
        "UPDATE account SET open_holds = -1",
        "UPDATE account SET posted_dr = posted_cr + 1 WHERE kind = 'member'",
        "UPDATE account SET pending_dr = posted_cr + 1 WHERE kind = 'member'",
        "UPDATE account SET posted_cr = 9007199254740992 WHERE kind = 'member'",
        "UPDATE account SET pending_cr = -1",
        ENTRIES + "VALUES (1, 0, 1, 5, 0)",
        ENTRIES + "VALUES (1, 0, 1, 5, 0), (1, 1, 2, -5, 1)",
        ENTRIES + "VALUES (1, 0, 1, 0, 0)",
        ENTRIES + "SELECT txn_id, 2 + n, 1, 9 - 18 * n, 0 FROM txn, generate_series(0, 1) n",  # noqa: S608 -- constants
    ],
)
def test_the_database_refuses_what_must_never_be(writer: Writer, statement: str) -> None:
    """Identity changes, overdrafts, overflows, unbalanced entries and entries added to an old transaction all fail."""
    writer.move(earn("ann", 10), earn("ann", 10, verdict="hold"))
    with pytest.raises(DBAPIError), writer.engine.begin() as conn:
        conn.execute(text(statement))
    assert verify(writer.engine).ok


def test_id_blocks_never_give_an_id_twice(engine: Engine) -> None:
    """Allocators of several threads and processes share no id, across block ends and rollbacks."""
    shared, other = IdBlocks(), IdBlocks()

    def take(blocks: IdBlocks) -> list[int]:
        with engine.connect() as conn:
            taken = [blocks.take(conn, count) for count in (1, 700, 700, 2 * BLOCK + 1)]
            conn.rollback()
        assert all(ids == sorted(ids) for ids in taken)
        return [number for ids in taken for number in ids]

    with ThreadPoolExecutor(8) as threads:
        every = [number for ids in threads.map(take, [shared, other] * 4) for number in ids]
    assert len(every) == len(set(every)) == 8 * (1401 + 2 * BLOCK + 1)


def test_ids_are_given_one_by_one_without_gaps(engine: Engine) -> None:
    """A stream takes ids as they are asked for, so what is not asked for stays for the next."""
    ids = IdBlocks()
    with engine.connect() as conn:
        stream = ids.stream(conn)
        assert [next(stream), next(stream), *ids.take(conn, 1), next(stream)] == [1, 2, 3, 4]


def test_programmes_are_created_once_and_keep_their_mode(engine: Engine) -> None:
    """Creating again returns the same programme; in the other mode it is refused by name."""
    with engine.begin() as conn:
        first = create_program(conn, "north", "live")
        assert create_program(conn, "north", "live") == first
        assert set(first.controls) == {"issued", "redeemed", "expired", "clawback", "adjust"}
        with pytest.raises(ProgramError, match="exists as live"):
            create_program(conn, "north", "simulation")


def test_the_clocks_of_live_and_simulated_programmes(engine: Engine) -> None:
    """A simulation's clock is the highest time it was told; a live one is the database's and cannot be set."""
    with engine.begin() as conn:
        create_program(conn, "live", "live")
        create_program(conn, "old", "simulation")
        assert ledger_now(conn, ["old"]) == {"old": 0}
        assert [advance_clock(conn, "old", at) for at in (5_123, 4_000, 5_124)] == [True, False, True]
        assert not advance_clock(conn, "live", 2**41)
        clock = conn.execute(text("SELECT extract(epoch FROM clock_timestamp()) * 1000")).scalar_one()
        now = ledger_now(conn, ["live", "old"])
    assert now["old"] == 5_124
    assert abs(now["live"] - float(clock)) < 5_000


def test_control_accounts_read_the_same_before_and_after_folding(writer: Writer) -> None:
    """The roller moves deltas into the row; a read, row and tail together, never changes by it."""
    for _ in range(3):
        writer.move(earn("ann", 10), earn("ann", 5, verdict="hold"), redeem("ann", 4))
    with writer.engine.begin() as conn:
        before = control_balances(conn, "north")
        assert sum(control.deltas for control in before) == 6
        assert roll_up(conn) == 6
        after = control_balances(conn, "north")
        assert roll_up(conn) == 0
    assert [replace(control, deltas=0) for control in before] == after
    issued = {control.name: control for control in after}["issued"]
    assert (issued.posted_dr, issued.pending_dr) == (30, 15)
    assert verify(writer.engine).ok


def test_rollers_skip_what_another_roller_holds(writer: Writer) -> None:
    """Two rollers at once neither wait for each other nor fold a delta twice."""
    writer.move(earn("ann", 10))
    with writer.engine.begin() as first, writer.engine.begin() as second:
        assert roll_up(first) == 1
        assert roll_up(second) == 0
    assert verify(writer.engine).ok


def test_totals_beyond_a_bigint_stay_in_the_tail(writer: Writer) -> None:
    """A control account never fails to fold: what would not fit stays as deltas, and reads still add it up."""
    with writer.engine.begin() as conn:
        conn.execute(
            text("INSERT INTO control_delta (account_id, posted_dr, posted_cr, pending_dr, pending_cr) "
                 "SELECT account_id, 4611686018427387904, 0, 0, 0 FROM account, generate_series(1, 3) "
                 "WHERE kind = 'control' AND name = 'issued'")
        )  # fmt: skip
        assert roll_up(conn) == 0
        assert control_balances(conn, "north")[0].posted_dr == 3 * 2**62


def test_concurrent_batches_on_the_same_members_neither_deadlock_nor_lose_points(writer: Writer) -> None:
    """16 writers transfer in a ring among few members, new ones too, in opposite orders; all is conserved."""
    writer.move(*(earn(f"m{n}", 1000) for n in range(6)))

    def work(number: int) -> None:
        for turn in range(8):
            names = [f"m{(number + turn + k) % 9}" for k in range(5)]
            if number % 2:
                names.reverse()
            writer.move(*(transfer(a, b, 3 + number) for a, b in itertools.pairwise(names)))

    run_together(16, work)
    with writer.engine.connect() as conn:
        total = sum((balance(conn, "north", f"m{n}") or Balance(0, 0, 0, 0, 0)).posted for n in range(9))
    assert total == 6000
    report = verify(writer.engine)
    assert report.ok, report.discrepancies


def test_a_batch_reads_what_the_batch_before_it_committed(writer: Writer) -> None:
    """A lock that was waited for shows the counters and the arrears that the other transaction left, not older ones."""
    writer.move(earn("ann", 10))
    locked, seen = threading.Event(), []

    def second() -> None:
        locked.wait()
        with writer.engine.begin() as conn:
            seen.append(lock_accounts(conn, load_programs(conn), {("north", "ann"): 0}).members["north", "ann"])

    waiting = threading.Thread(target=second)
    waiting.start()
    with writer.engine.begin() as conn:
        writer.move_in(conn, [redeem("ann", 25, fact=True)])
        locked.set()
        _wait_for_a_waiter(conn)
    waiting.join()
    state = seen[0]
    assert (state.available, state.entry_count) == (0, 2)
    assert state.arrears is not None
    assert state.arrears.posted_dr == 15


def test_a_merged_name_stands_for_the_account_it_became(writer: Writer) -> None:
    """Through several merges, by name and by id; nothing is created, and the last account alone is locked."""
    writer.move(earn("ann", 1), earn("bob", 2), earn("cat", 4))
    keys = [("north", name) for name in ("ann", "bob", "cat")]
    with writer.engine.begin() as conn:
        before = find_accounts(conn, keys)
        merge_in(conn, writer, "ann", "bob")
        merge_in(conn, writer, "bob", "cat")
    with writer.engine.begin() as conn:
        states = lock_accounts(conn, load_programs(conn), dict.fromkeys(keys, 0)).members
        by_id = lock_ids(conn, before.values())
    assert {key[1]: (state.available, state.merged_into) for key, state in states.items()} == {
        "ann": (7, "cat"),
        "bob": (7, "cat"),
        "cat": (7, None),
    }
    last = before["north", "cat"]
    assert {state.account_id for state in states.values()} == {last}
    assert {(one.key, one.state.account_id) for one in by_id.values()} == {(("north", "cat"), last)}
    assert writer.move(redeem("ann", 7))[0].code == "posted"


def test_a_batch_that_waits_for_a_merge_acts_on_the_account_it_became(writer: Writer) -> None:
    """Who named the old account and waited for its lock gets, and locks, the new one; so do two at once."""
    writer.move(earn("bob", 10), earn("ann", 5))
    done: list[int] = []

    def late() -> None:
        done.append(writer.move(redeem("ann", 7), redeem("bob", 8))[0].available)

    waiting = [threading.Thread(target=late) for _ in range(2)]
    with writer.engine.begin() as conn:
        merge_in(conn, writer, "ann", "bob")
        for thread in waiting:
            thread.start()
        _wait_for_a_waiter(conn)
    for thread in waiting:
        thread.join()
    assert sorted(done) == [0, 8]
    assert have(writer.engine, "ann") == have(writer.engine, "bob") == Balance(0, 0, 0, 0, 0)


def _wait_for_a_waiter(conn: Connection) -> None:
    for _ in range(1000):
        if conn.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
            return
        conn.execute(text("SELECT pg_sleep(0.005)"))
    raise AssertionError("nobody waits for the lock")


def test_entries_of_an_account_are_recorded_in_the_order_of_their_sequence(engine: Engine) -> None:
    """In a live programme, what writers race to record has a later time wherever it has a later number."""
    writer = Writer(engine, "live", "live")
    run_together(8, lambda _: [writer.move(earn("ann", 1)) for _ in range(5)])
    with engine.connect() as conn:
        times = conn.execute(
            select(schema.txn.c.recorded_at)
            .join(schema.entry, schema.entry.c.txn_id == schema.txn.c.txn_id)
            .where(schema.entry.c.account_seq.is_not(None))
            .order_by(schema.entry.c.account_seq)
        ).scalars().all()  # fmt: skip
    assert len(times) == 40
    assert times == sorted(times)
