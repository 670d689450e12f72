"""The ids of accounts that a connection remembers: a short way to the row, which has the last word."""

from collections.abc import Iterator

import pytest

from ledger.programs import load_programs
from ledger.store import lock_accounts
from tests.integration.ledger_writer import Writer, earn, merge_in, pool


@pytest.fixture
def writer(database: str) -> Iterator[Writer]:
    """Make a writer on a fresh database."""
    with pool(database) as engine:
        yield Writer(engine)


def test_an_account_that_was_never_committed_is_made_again(writer: Writer) -> None:
    """A connection remembers which id a name has; one whose transaction came to nothing is looked up anew."""
    with writer.engine.connect() as conn:
        programs, key = load_programs(conn), ("north", "ann")
        lost = lock_accounts(conn, programs, {key: 0}).members[key].account_id
        conn.rollback()
        made = lock_accounts(conn, programs, {key: 0}).members[key].account_id
        conn.commit()
        assert made != lost
        assert lock_accounts(conn, programs, {key: 0}).members[key].account_id == made


@pytest.mark.parametrize("other", ["bob", "control", "nobody"])
def test_a_remembered_id_of_somebody_else_moves_nothing_of_theirs(writer: Writer, other: str) -> None:
    """Behind a proxy that failed over, an id may be another's by now: the row under the lock has the last word."""
    writer.move(earn("ann", 10), earn("bob", 5))
    with writer.engine.connect() as conn:
        programs, keys = load_programs(conn), [("north", "ann"), ("north", "bob")]
        true = {
            key: state.account_id
            for key, state in lock_accounts(conn, programs, dict.fromkeys(keys, 0)).members.items()
        }
        wrong = {"bob": true["north", "bob"], "control": programs["north"].controls["issued"], "nobody": 2**40}
        conn.info["ledger_accounts"]["north", "ann"] = wrong[other]
        again = lock_accounts(conn, programs, dict.fromkeys(keys, 0)).members
        assert {key: state.account_id for key, state in again.items()} == true
        assert conn.info["ledger_accounts"]["north", "ann"] == true["north", "ann"]


def test_a_remembered_account_that_was_merged_since_is_the_one_it_became(writer: Writer) -> None:
    """What a connection remembers from before a merge leads to where the points went."""
    writer.move(earn("ann", 10), earn("bob", 5))
    with writer.engine.connect() as conn:
        programs, keys = load_programs(conn), [("north", "ann"), ("north", "bob")]
        lock_accounts(conn, programs, dict.fromkeys(keys, 0))
        conn.commit()
        with writer.engine.begin() as other:
            merge_in(other, writer, "ann", "bob")
        members = lock_accounts(conn, programs, dict.fromkeys(keys, 0)).members
    assert members["north", "ann"].account_id == members["north", "bob"].account_id
    assert (members["north", "ann"].merged_into, members["north", "ann"].available) == ("bob", 15)
