"""The progress row: who may write a partition, from where on, and what a gap in it means."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from streams import inbox
from streams.records import Fenced, Hole, Log, Span
from tests.integration.pipeline_desk import Desk, event

_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def test_an_old_epoch_writes_nothing(desk: Desk) -> None:
    """Once another worker has claimed the partition, the batch of the first is rolled back whole."""
    prepared = desk.prepare(desk.part.records(event(), b"{"))
    mine = desk.epochs[0]
    desk.claim(0)
    with pytest.raises(Fenced) as fenced:
        desk.stages.pipeline.commit(prepared)
    assert (fenced.value.part, fenced.value.mine, fenced.value.current) == (0, mine, mine + 1)
    assert (set(desk.effects().values()), desk.progress()) == ({0}, -1)


def test_an_old_epoch_buries_nothing(desk: Desk) -> None:
    """Nor can a fenced worker write a dead letter and so move the partition on."""
    prepared = desk.prepare(desk.part.records(event()))
    desk.claim(0)
    with pytest.raises(Fenced):
        desk.stages.pipeline.bury(prepared, RuntimeError("spoiled"))
    assert (desk.count("dead_letter"), desk.progress()) == (0, -1)


def test_what_is_committed_is_not_buried(desk: Desk) -> None:
    """A commit whose reply was lost may be followed by the attempt to bury: the record has its outcome already."""
    prepared = desk.prepare(desk.part.records(event(id="e-0")))
    desk.stages.pipeline.commit(prepared)
    before = desk.effects()
    assert desk.stages.pipeline.bury(prepared, RuntimeError("spoiled")).letters == ()
    assert (desk.effects(), desk.progress()) == (before, 0)


def test_a_partition_that_nobody_claimed_is_fenced(desk: Desk) -> None:
    """Without a progress row there is no epoch under which to write."""
    desk.part.number, desk.epochs[3] = 3, 1
    with pytest.raises(Fenced):
        desk.send(event())


def test_a_zombie_that_waits_for_the_row_is_fenced(desk: Desk) -> None:
    """A claim that holds the row while the old owner commits: the old owner waits, then sees the new epoch."""
    prepared = desk.prepare(desk.part.records(event()))
    with ThreadPoolExecutor(1) as threads:
        with desk.engine.begin() as conn:
            inbox.claim(conn, desk.log, {0: 0}, "new owner")
            committing = threads.submit(desk.stages.pipeline.commit, prepared)
            while not (committing.done() or conn.execute(_WAITING).scalar_one()):
                pass  # each turn asks the database
        with pytest.raises(Fenced):
            committing.result()
    assert desk.count("decision") == 0


def test_one_lost_partition_fences_the_whole_batch(desk: Desk) -> None:
    """A batch of two partitions is one transaction: when one is lost, the other one's records come again, too."""
    desk.claim(1)
    mine = desk.part.records(event(id="e-0"))
    desk.part.number, desk.part.next_offset = 1, 0
    lost = desk.part.records(event(id="e-1"))
    prepared = desk.prepare([*mine, *lost], desk.span(mine), desk.span(lost))
    desk.claim(1)
    with pytest.raises(Fenced):
        desk.stages.pipeline.commit(prepared)
    assert (desk.count("decision"), desk.progress(0), desk.progress(1)) == (0, -1, -1)
    desk.deliver(mine)
    assert desk.outcomes() == {"e-0": ("approve", "posted")}


def test_a_batch_that_does_not_join_on_is_a_hole(desk: Desk) -> None:
    """Records that were never handed over show as a gap between the progress row and where the batch begins."""
    desk.send(event())
    desk.part.next_offset = 4
    before = desk.effects()
    with pytest.raises(Hole) as hole:
        desk.send(event())
    assert (hole.value.part, hole.value.first, hole.value.last) == (0, 1, 3)
    assert (desk.effects(), desk.progress()) == (before, 0)


def test_offsets_without_records_are_no_hole(desk: Desk) -> None:
    """Control records and compaction leave gaps that the batch covers, before its first record and behind its last."""
    records = desk.part.records(event(id="e-0"))
    desk.deliver(records)
    desk.part.next_offset = 3
    records = desk.part.records(event(id="e-3"))
    desk.deliver(records, Span(0, 1, 5, desk.epochs[0]))
    assert (desk.progress(), len(desk.outcomes())) == (5, 2)
    desk.part.next_offset = 6
    desk.send(event(id="e-6"))
    assert (desk.progress(), len(desk.outcomes())) == (6, 3)


def test_a_batch_without_records_moves_on(desk: Desk) -> None:
    """A span that only holds control records is committed like any other."""
    desk.stages.pipeline.commit(desk.run(desk.stages.pipeline.prepare([], (Span(0, 0, 7, desk.epochs[0]),), {})))
    assert desk.progress() == 7


def test_several_fetches_of_a_partition_join_within_a_batch(desk: Desk) -> None:
    """Two fetches of one partition in one batch are judged one after the other; a gap between them is a hole."""
    records = desk.part.records(*(event() for _ in range(6)))
    epoch = desk.epochs[0]
    with pytest.raises(Hole) as hole:
        desk.deliver([*records[:2], *records[3:]], Span(0, 0, 1, epoch), Span(0, 3, 5, epoch))
    assert (hole.value.first, hole.value.last) == (2, 2)
    desk.deliver(records, Span(0, 0, 1, epoch), Span(0, 2, 5, epoch))
    assert (desk.progress(), desk.count("decision")) == (5, 6)


def test_progress_never_goes_back(desk: Desk) -> None:
    """A batch that lies wholly behind the progress row changes it no more."""
    records = desk.part.records(*(event() for _ in range(5)))
    desk.deliver(records)
    desk.deliver(records[:2])
    assert desk.progress() == 4


def test_a_claim_begins_where_the_log_begins(desk: Desk) -> None:
    """A partition never seen starts before its first record, so a first batch that begins later shows as a hole."""
    with desk.engine.begin() as conn:
        claims = inbox.claim(conn, desk.log, {5: 100}, "desk")
        again = inbox.claim(conn, desk.log, {5: 200}, "other")
    assert (claims[5].last_offset, claims[5].epoch) == (99, 1)
    assert (again[5].last_offset, again[5].epoch) == (99, 2)


def test_another_life_of_the_log_counts_from_the_start(desk: Desk) -> None:
    """Offsets that begin again at 0 under another log id are no redelivery; the events' identities still are."""
    desk.send(event(id="e-1"))
    other = desk.beside(Log("life-2", desk.log.topic))
    committed = other.send(event(id="e-1"), event(id="e-2"))
    assert ([row.event.id for row in committed.decided], committed.duplicates) == (["e-2"], 1)


def test_pieces_of_a_batch_cover_exactly_its_offsets(desk: Desk) -> None:
    """Taken record by record, the spans join without gap or overlap, also around offsets that have no record."""
    records = [desk.part.record(event()) for _ in range(3)]
    desk.part.next_offset = 5
    records += [desk.part.record(event())]
    epoch = desk.epochs[0]
    spans = (Span(0, 0, 3, epoch), Span(0, 4, 7, epoch), Span(0, 8, 9, epoch))
    prepared = desk.prepare(records, *spans)
    pieces = [
        (piece.spans[0].covers_from, piece.spans[0].last_offset, len(piece.records)) for piece in prepared.singles()
    ]
    assert pieces == [(0, 0, 1), (1, 1, 1), (2, 3, 1), (4, 7, 1), (8, 9, 0)]
    for piece in prepared.singles():
        desk.stages.pipeline.commit(piece)
    assert (desk.progress(), desk.count("decision")) == (9, 4)
