"""Bad input: each kind is one named dead letter that can be recovered, and harms nobody else in its batch."""

import pytest
from sqlalchemy import text

from alerts.metrics import DEAD_LETTERS
from ledger.programs import create_program
from streams.deadletters import SealedPackError, unpack
from streams.quarantine import QuarantineLimits, SourceHealth
from tests.integration.bad_records import HEADERS, bad_records
from tests.integration.pipeline_desk import LIVE, NOW_MS, Desk, encoded, event


def test_every_kind_is_one_named_dead_letter(desk: Desk) -> None:
    """Bad records between good ones: each is a letter with error, field and offset; the good ones are posted."""
    bad = bad_records(LIVE)
    records = []
    for one in bad:
        records += [desk.part.record(event(points=1)), desk.part.record(one.value, one.headers)]
    records.append(desk.part.record(event(points=1)))
    desk.deliver(records)

    expected = {2 * i + 1: (one.name, one.error, one.field) for i, one in enumerate(bad)}
    letters = {row.offset: row for row in desk.rows("SELECT * FROM dead_letter")}
    found = {offset: (bad[offset // 2].name, row.error, row.field) for offset, row in letters.items()}
    assert found == expected
    assert all(row.detail and row.part == 0 and row.topic == desk.log.topic for row in letters.values())
    assert set(desk.outcomes().values()) == {("approve", "posted")}
    assert desk.count("decision") == desk.count("event_inbox") == len(bad) + 1
    assert desk.balance("ann") == len(bad) + 1
    assert desk.progress() == 2 * len(bad)
    assert desk.rows("SELECT 1 FROM account WHERE kind = 'member' AND name <> 'ann'") == []
    desk.verified()


def test_every_dead_letter_is_told_and_can_be_recovered(desk: Desk) -> None:
    """Each refusal is one alert that names place and reason but no content; headers and body come back as they were."""
    bad = bad_records(LIVE)
    desk.deliver([desk.part.record(one.value, one.headers) for one in bad])
    alerts = {
        alert["offset"]: (alert["alert"], alert["error"], alert.get("field")) for alert in desk.said("points.alerts")
    }
    assert alerts == {i: ("dead_letter", one.error, one.field or None) for i, one in enumerate(bad)}
    for row in desk.rows("SELECT * FROM dead_letter"):
        one = bad[row.offset]
        headers, raw = unpack(bytes(row.raw), desk.keys.unseal)
        assert (headers, raw) == ([(name, value or b"") for name, value in one.headers], one.value)
        assert row.key == b"k"
        assert row.event_id in {None, one.event_id, "bad-cloud"}
    told = {letter.error for letter in bad}
    counted = {error for error in told if desk.metrics.counter(DEAD_LETTERS, desk.log.topic, error)._value.get() > 0}
    assert counted == told


def test_a_letter_names_the_event_where_it_can_be_read(desk: Desk) -> None:
    """Source and id of a refused event stand in the letter, so that whoever sent it can find it."""
    desk.send(event(id="bad-1", points=1.5), event(id="bad-2", program="nowhere"), b"{")
    rows = desk.rows('SELECT source, event_id FROM dead_letter ORDER BY "offset"')
    assert [tuple(row) for row in rows] == [("pos", "bad-1"), ("pos", "bad-2"), ("unknown", None)]


def test_what_is_sealed_opens_with_its_own_secret_only(desk: Desk) -> None:
    """The raw bytes, which may hold personal data, are not stored in clear, and another secret does not open them."""
    desk.send(event(id="bad-1", points="many", device="device-of-ann"))
    raw = bytes(desk.one("SELECT raw FROM dead_letter"))
    assert b"device-of-ann" not in raw
    with pytest.raises(SealedPackError, match="secret_file"):
        unpack(raw[:-1] + bytes((raw[-1] ^ 1,)), desk.keys.unseal)


def test_another_body_under_a_known_id_is_a_conflict(desk: Desk) -> None:
    """The first body stands, in the same batch as later; the others are letters, and an integrity alert each."""
    desk.send(event(id="e-1", points=10), event(id="e-1", points=20))
    desk.send(event(id="e-1", points=30), event(id="e-1", points=10, device="other"))
    rows = desk.rows('SELECT "offset", error, field, source, event_id FROM dead_letter ORDER BY "offset"')
    conflict = ("conflicting_duplicate", "id", "pos", "e-1")
    assert [tuple(row) for row in rows] == [(1, *conflict), (2, *conflict), (3, *conflict)]
    assert [alert["alert"] for alert in desk.said("points.alerts")] == ["integrity_conflict"] * 3
    assert (desk.balance("ann"), desk.count("event_duplicate")) == (10, 0)
    desk.verified()


def test_a_record_without_a_usable_time_is_refused(desk: Desk) -> None:
    """No record time, Kafka's -1, and times that no database holds: named letters, never a wrong time in the ledger."""
    times = (None, -1, 0, 2**62, 2**63 - 1)
    records = [desk.part.record(event(id=f"e-{i}"), time_ms=time) for i, time in enumerate(times)]  # type: ignore[arg-type]  # None is the case
    desk.deliver([*records, desk.part.record(event(id="good"))])
    rows = desk.rows("SELECT error, field, event_id FROM dead_letter ORDER BY id")
    assert [tuple(row) for row in rows] == [("bad_record_time", "timestamp", f"e-{i}") for i in range(len(times))]
    assert desk.outcomes() == {"good": ("approve", "posted")}


def test_a_broken_record_without_a_time_is_refused_for_what_it_is(desk: Desk) -> None:
    """What cannot be decoded keeps that name whatever the record's time."""
    desk.deliver([desk.part.record(b"{", time_ms=None)])  # type: ignore[arg-type]  # None is the case
    assert desk.one("SELECT error FROM dead_letter") == "not_json"


def test_points_over_the_bounds_of_the_policy_are_held(desk: Desk) -> None:
    """The contract takes up to 2**53 - 1 points; above the policy's own limit a person decides."""
    desk.send(event(id="most", points=99_999), event(id="more", points=1_000_001), event(id="all", points=2**53 - 1))
    assert desk.outcomes()["most"] == ("hold", "held")
    assert desk.outcomes()["more"] == desk.outcomes()["all"] == ("reject", "rejected")
    assert desk.balance("ann") == 0


def test_a_time_from_the_future_is_clamped_and_posted(desk: Desk) -> None:
    """A live programme takes a claim for at most 5 minutes after the record's time, and for at least 24 h before it."""
    desk.send(
        event(id="future", occurred_at="2026-03-09T02:00:00Z"), event(id="past", occurred_at="2020-01-01T00:00:00Z")
    )
    times = {row.event_id: row for row in desk.rows("SELECT * FROM decision")}
    observed = times["future"].observed_at
    assert observed.timestamp() * 1000 == NOW_MS
    assert (times["future"].occurred_at - observed).total_seconds() == 300
    assert (observed - times["past"].occurred_at).total_seconds() == 86_400
    assert desk.outcomes() == {"future": ("approve", "posted"), "past": ("approve", "posted")}
    assert [[reason["code"] for reason in row.reasons] for row in times.values()] == [["time_clamped"]] * 2


def test_a_programme_that_is_made_later_is_found_at_once(desk: Desk) -> None:
    """An unknown programme makes the worker look again before it refuses, so a new one needs no restart."""
    with desk.engine.begin() as conn:
        create_program(conn, "new", "live")
    desk.send(event(id="e-1", program="new"))
    assert desk.outcomes() == {"e-1": ("approve", "posted")}


def test_a_source_in_quarantine_goes_to_the_dead_letters_unread(desk: Desk) -> None:
    """Its events wait as letters, whatever is in them; everybody else's are posted; once released they are accepted."""
    desk.stages.pipeline._health = SourceHealth(QuarantineLimits(bad_min=2))
    desk.send(event(id="b-1", source="kiosk", points=-1), event(id="b-2", source="kiosk", points=-1))
    alerts = [alert["alert"] for alert in desk.said("points.alerts")]
    assert alerts == ["dead_letter", "dead_letter", "source_quarantined"]
    desk.stages.catalog.refresh()
    desk.send(event(id="b-3", source="kiosk"), event(id="g-1"))
    assert desk.outcomes() == {"g-1": ("approve", "posted")}
    assert desk.one("SELECT error FROM dead_letter WHERE event_id = 'b-3'") == "quarantined_source"
    with desk.engine.begin() as conn:
        conn.execute(text("DELETE FROM quarantine"))
    desk.stages.catalog.refresh()
    desk.send(event(id="b-3", source="kiosk"))
    assert desk.outcomes()["b-3"] == ("approve", "posted")


def test_a_batch_of_nothing_but_refusals_still_moves_on(desk: Desk) -> None:
    """Progress reaches its end, and nothing but letters and their alerts is written."""
    desk.send(b"{", None, b"[]")
    effects = {table: rows for table, rows in desk.effects().items() if rows}
    assert (effects, desk.progress()) == ({"dead_letter": 3, "outbox": 3}, 2)


def test_a_refused_cloud_event_keeps_its_headers(desk: Desk) -> None:
    """A binary-mode event is recovered with the attributes that stand in its headers, so that it can be sent again."""
    body = encoded({"program": "nowhere", "account": "ann", "points": 5})
    desk.deliver([desk.part.record(body, HEADERS)])
    row = desk.rows("SELECT * FROM dead_letter")[0]
    assert (row.error, row.event_id) == ("unknown_program", "bad-cloud")
    assert unpack(bytes(row.raw), desk.keys.unseal) == (list(HEADERS), body)
