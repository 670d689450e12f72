"""From a record to an event or a named refusal: what a running system knows besides the contract."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from detectors.event import INFORM, MOVES, PROGRAM, Event
from streams.intake import RECORD_MS_MAX, RECORD_MS_MIN, Circumstances, read, times, unreadable
from streams.records import Incoming
from tests.unit.event_samples import least, raw

NOW_MS = 1_772_330_400_000
KNOWN = Circumstances({"demo": False, "lab": True}, frozenset({"broken-till"}))


class Record(NamedTuple):
    """What intake reads of a Kafka record."""

    value: bytes | None
    timestamp: Any = NOW_MS
    headers: tuple[tuple[str, Any], ...] = ()
    partition: int = 3
    offset: int = 41
    key: bytes | None = b"member-1"


def incoming(fields: dict[str, object], **record: Any) -> Incoming:
    """Read an event given as fields."""
    return read(Record(raw(fields), **record), KNOWN)


def refusal(fields: dict[str, object], **record: Any) -> tuple[str, str]:
    """Error and field of a refused event."""
    invalid = incoming(fields, **record).invalid
    assert invalid is not None
    assert invalid.detail
    assert (invalid.source, invalid.event_id) == (fields["source"], fields["id"])
    return invalid.error, invalid.field


def event_of(fields: dict[str, object], **record: Any) -> tuple[Incoming, Event]:
    """An accepted record and its event."""
    found = incoming(fields, **record)
    assert found.invalid is None
    assert found.event is not None
    return found, found.event


@pytest.mark.parametrize("kind", sorted(MOVES | INFORM))
def test_what_can_be_decided_passes(kind: str) -> None:
    """Every type that moves points or informs goes on with the place, key and time of its record."""
    found, event = event_of(least(kind))
    assert (found.part, found.offset, found.key, found.observed_ms) == (3, 41, b"member-1", NOW_MS)
    assert (event.type, found.source, found.event_id) == (kind, "pos/shop-17", "e-1")


@pytest.mark.parametrize("kind", sorted(PROGRAM))
def test_what_nothing_posts_yet_is_refused(kind: str) -> None:
    """Types of the contract without code behind them wait as dead letters instead of being lost."""
    assert refusal(least(kind)) == ("unsupported_type", "type")


def test_an_unknown_programme() -> None:
    """Only programmes of the ledger have accounts."""
    assert refusal(least(program="nowhere")) == ("unknown_program", "program")


def test_a_source_of_the_ledgers_own() -> None:
    """No event from outside can pass for a transaction that the ledger makes by itself."""
    assert refusal(least(source="pointguard:adjustment")) == ("reserved_source", "source")
    assert incoming(least(source="pointguard")).invalid is None


def test_an_account_that_would_be_a_pool() -> None:
    """A pool acts by none of its own: no event may name one as its member, though a transfer may go to one."""
    assert refusal(least(account="pool:smiths")) == ("reserved_account", "account")
    assert incoming(least("transfer", to="pool:smiths")).invalid is None
    assert incoming(least(account="pool")).invalid is None


def test_a_source_in_quarantine() -> None:
    """Its valid events are kept back whatever they say; an invalid one keeps its own name."""
    assert refusal(least(source="broken-till")) == ("quarantined_source", "source")
    assert refusal(least("reverse", source="broken-till", program="nowhere")) == ("quarantined_source", "source")
    assert refusal(least(source="broken-till", points=0)) == ("out_of_range", "points")


@pytest.mark.parametrize("timestamp", [None, -1, 0, RECORD_MS_MIN - 1, RECORD_MS_MAX + 1, 2**62, 2**63 - 1])
def test_a_record_without_a_time_that_can_be_kept(timestamp: int | None) -> None:
    """None, Kafka's -1 and times beyond the contract's years are refused, never kept as a wrong time."""
    assert refusal(least(), timestamp=timestamp) == ("bad_record_time", "timestamp")
    assert incoming(least(), timestamp=timestamp).observed_ms == 0


@pytest.mark.parametrize("timestamp", [RECORD_MS_MIN, RECORD_MS_MAX])
def test_record_times_up_to_the_bounds(timestamp: int) -> None:
    """The first and last millisecond of the contract's years are times."""
    found, event = event_of(least(), timestamp=timestamp)
    assert times(found, event, simulation=False)[1] == timestamp


def test_a_record_that_cannot_be_decoded() -> None:
    """The contract's refusal stands, with what could be read of the identity; nothing is known of a broken record."""
    broken = read(Record(b"{", timestamp=None), KNOWN)
    assert broken.invalid is not None
    assert (broken.invalid.error, broken.source, broken.event_id, broken.event) == ("not_json", "unknown", None, None)
    half = incoming(least(points="many"))
    assert half.invalid is not None
    assert (half.invalid.error, half.source, half.event_id) == ("wrong_type", "pos/shop-17", "e-1")


def test_headers_and_body_are_kept_as_they_came() -> None:
    """Also those of a refused record, so that it can be sent again; a record may have none."""
    body = json.dumps({"program": "demo"}).encode()
    found = read(Record(body, headers=(("ce_id", None), ("other", b"1"))), KNOWN)
    assert list(found.headers) == [("ce_id", None), ("other", b"1")]
    assert found.raw == body
    assert read(Record(body)._replace(headers=None), KNOWN).headers == ()  # type: ignore[arg-type]  # some brokers give None


def test_a_live_programme_clamps_the_claim() -> None:
    """The producer's time counts from 24 h before to 5 min after the record's; observed is the record's time."""
    day, five = 86_400_000, 300_000
    cases = {
        "2026-03-01T02:00:00Z": NOW_MS,
        "2026-03-01T10:04:59.999+08:00": NOW_MS + five - 1,
        "2026-03-01T02:05:00.001Z": NOW_MS + five,
        "2199-01-01T00:00:00Z": NOW_MS + five,
        "2026-02-28T02:00:00Z": NOW_MS - day,
        "1971-01-01T00:00:00Z": NOW_MS - day,
    }
    for claim, expected in cases.items():
        assert times(*event_of(least(occurred_at=claim)), simulation=False) == (expected, NOW_MS), claim


def test_a_simulation_believes_the_event() -> None:
    """Both times are the event's, however old the file."""
    found, event = event_of(least(program="lab", occurred_at="1999-12-31T23:59:59.500Z"))
    expected = round(datetime(1999, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC).timestamp() * 1000)
    assert times(found, event, simulation=True) == (expected, expected)


def test_what_our_code_cannot_deal_with() -> None:
    """A record that breaks the code itself is kept whole, under the name it is given."""
    found = unreadable(Record(b"raw", timestamp=None, headers=(("h", b"v"),)), "processing_failed", "RecursionError")
    assert found.invalid is not None
    assert (found.invalid.error, found.invalid.detail, found.raw) == ("processing_failed", "RecursionError", b"raw")
    assert (found.source, found.event_id, found.headers, found.observed_ms) == ("unknown", None, (("h", b"v"),), 0)
