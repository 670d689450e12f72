"""The audit chain of the pipeline: one link a batch, in the chain of its first partition, over all that it wrote."""

import pytest
from sqlalchemy import text

from ledger import chain_verify
from ledger.chain import Fault, parse
from ledger.verify import verify
from tests.integration.pipeline_desk import LIVE, SIMULATION, Desk, Partition, event


def links(desk: Desk) -> list[tuple[str, int, str, int]]:
    """Chain, seq, act and number of covered ids of every link of the log."""
    rows = desk.rows("SELECT chain, seq, entry FROM audit_link WHERE chain LIKE 'log:%' ORDER BY chain, seq")
    return [(row.chain, row.seq, parse(row.entry.encode()).act, parse(row.entry.encode()).count) for row in rows]


def hurt(desk: Desk, statement: str) -> None:
    """Change history behind the triggers."""
    with desk.engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        assert conn.execute(text(statement)).rowcount == 1, statement


def test_a_batch_makes_one_link_over_all_its_events(desk: Desk) -> None:
    """Posted, held, rejected, noted and expired events, told from memory exactly as they are read back."""
    desk.send(
        event("account.created", account="ann"),
        event(points=500, order="o-1", store="s-1", device="phone-1", ip="10.0.0.1"),
        event("redeem", points=50, fulfilled=True),
        event("redeem", points=999_999),
        event(points=2000),
        event("transfer", points=20, to="bob"),
        event("adjust", points=-5, staff="mia", reason="late parcel"),
        event("redeem", account="new", points=30, fulfilled=True),
        event("redeem", points=1, decide_by="2020-01-01T00:00:00Z"),
        event(program=SIMULATION, points=7),
    )
    assert desk.rows("SELECT error, detail FROM dead_letter") == []
    assert links(desk) == [("log:life-1:points.events:0", 1, "batch", 10)]
    desk.send(event(points=40))
    assert [link[1:] for link in links(desk)] == [(1, "batch", 10), (2, "batch", 1)]
    desk.verified()


def test_each_decision_is_covered_with_the_versions_it_was_made_under(desk: Desk) -> None:
    """Another policy version, model version or feature in a stored decision is found."""
    desk.send(event(points=500))
    for change in (
        "policy_version = 7",
        "model_version = 7",
        "features_version = 'v0'",
        "features = set_byte(features, 9, 7)",
        "reasons = '[ ]'",
        "score = score + 1e-12",
    ):
        with desk.engine.connect() as conn:
            conn.execute(text("SET LOCAL session_replication_role = replica"))
            conn.execute(text(f"UPDATE decision SET {change}"))  # noqa: S608 -- written above
            found: list[Fault] = []
            chain_verify.check_rows(conn, found.append, chain_verify.all_ids(conn), {}, lambda _: None)
            assert [fault.kind for fault in found] == ["covered_row_differs"], change
            conn.rollback()
    desk.verified()


def test_partitions_have_chains_of_their_own(desk: Desk) -> None:
    """A batch of two partitions goes to the chain of the first, which its locked progress row keeps in order."""
    desk.claim(1)
    zero, one = Partition(0), Partition(1)
    desk.deliver(zero.records(event(points=1)))
    desk.deliver(one.records(event(account="bob", points=2)))
    both = [zero.records(event(points=3)), one.records(event(account="bob", points=4))]
    desk.deliver([record for records in both for record in records], *(desk.span(records) for records in both))
    assert [link[:2] for link in links(desk)] == [
        ("log:life-1:points.events:0", 1),
        ("log:life-1:points.events:0", 2),
        ("log:life-1:points.events:1", 1),
    ]
    desk.verified()


def test_what_came_before_makes_no_link_again(desk: Desk) -> None:
    """A batch delivered twice, and one of duplicates only, write nothing that a link could cover."""
    sent = event(points=5)
    records = desk.part.records(sent)
    prepared = desk.prepare(records)
    desk.stages.pipeline.commit(prepared)
    desk.stages.pipeline.commit(prepared)
    desk.send(sent)
    assert [link[1] for link in links(desk)] == [1]
    desk.verified()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM dead_letter WHERE error = 'unknown_program'",
        "UPDATE dead_letter SET error = 'other' WHERE error = 'unknown_program'",
        """INSERT INTO dead_letter (log_id, topic, part, "offset", error, first_seen)
           VALUES ('life-1', 'points.events', 0, 0, 'forged', now())""",
    ],
)
def test_dead_letters_that_were_removed_changed_or_added_are_found(desk: Desk, change: str) -> None:
    """A link counts and digests what its batch refused, also where nothing else came of the batch."""
    desk.send(event(points=5), b"not json", event(program="nowhere"))
    desk.send(b"neither")
    assert [link[1:] for link in links(desk)] == [(1, "batch", 1), (2, "batch", 0)]
    desk.verified()
    hurt(desk, change)
    assert verify(desk.engine).totals["letters_differ"] == 1


def test_retried_dead_letters_are_no_change(desk: Desk) -> None:
    """What happens to a letter later is told by an act of its own; raw bytes may go when their time is over."""
    desk.send(b"not json")
    hurt(desk, "UPDATE dead_letter SET retried_at = now(), raw = NULL, key = NULL")
    desk.verified()


def test_an_incremental_run_looks_at_the_offsets_of_new_batches(desk: Desk) -> None:
    """An event of a new batch that lost its outcome is found; one from before the last clean run is not looked at."""
    desk.send(event(id="old", points=5))
    assert verify(desk.engine).marked
    desk.send(event(id="new", points=6))
    report = verify(desk.engine, incremental=True)
    assert report.ok
    assert (report.checked["events"], report.checked["decisions"]) == (1, 1)
    desk.send(event(id="newer", points=7))
    hurt(desk, "UPDATE event_inbox SET event_id = 'gone' WHERE event_id = 'newer'")
    assert verify(desk.engine, incremental=True).totals == {"event_without_outcome": 1}
    hurt(desk, "UPDATE event_inbox SET event_id = 'newer' WHERE event_id = 'gone'")
    hurt(desk, "UPDATE event_inbox SET event_id = 'gone' WHERE event_id = 'old'")
    assert verify(desk.engine, incremental=True).ok
    assert verify(desk.engine).totals == {"event_without_outcome": 1}


def test_a_batch_rolled_back_leaves_no_link(desk: Desk) -> None:
    """The link is in the batch's transaction: without the one there is not the other."""
    hurt(desk, "UPDATE partition_progress SET epoch = epoch + 1")
    with pytest.raises(Exception, match="epoch"):
        desk.send(event(points=5))
    assert links(desk) == []
    assert desk.balance("ann", LIVE) == 0
