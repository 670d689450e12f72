"""From a Kafka record to an event the pipeline can act on, or to a named refusal.

What the event contract refuses is refused by `detectors.event`; here is added what only a running system knows: whether
the programme exists, whether the source is in quarantine, and which time counts as observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from detectors.event import PROGRAM, Event, Invalid, decode, milliseconds, observe_time
from detectors.event_types import YEAR_MAX, YEAR_MIN
from ledger.movement import OWN, POOL
from streams.records import Incoming

UNKNOWN_PROGRAM = "unknown_program"
UNSUPPORTED_TYPE = "unsupported_type"
QUARANTINED = "quarantined_source"
RESERVED_SOURCE = "reserved_source"
RESERVED_ACCOUNT = "reserved_account"
BAD_RECORD_TIME = "bad_record_time"
UNKNOWN_SOURCE = "unknown"

# Types of the contract that no code turns into postings yet: kept as dead letters, to be retried once it does.
UNSUPPORTED = PROGRAM

# The years of the event contract. Kafka says -1 for "no time", and a topic without LogAppendTime lets a producer say
# anything, up to what no database can hold.
RECORD_MS_MIN = milliseconds(datetime(YEAR_MIN, 1, 1, tzinfo=UTC))
RECORD_MS_MAX = milliseconds(datetime(YEAR_MAX + 1, 1, 1, tzinfo=UTC)) - 1


@dataclass(frozen=True)
class Circumstances:
    """What intake must know besides the record: programmes by name (True: simulation) and quarantined sources."""

    programs: Mapping[str, bool]
    quarantined: AbstractSet[str] = frozenset()


def read(record: Any, circumstances: Circumstances) -> Incoming:
    """Decode one `aiokafka.ConsumerRecord` (or anything with its fields)."""
    headers = record.headers or ()
    answer = decode(record.value, headers)
    if isinstance(answer, Invalid):
        return _incoming(record, headers, answer.source or UNKNOWN_SOURCE, None, answer)
    refusal = _refusal(answer, circumstances) or _time_refusal(record.timestamp, answer)
    return _incoming(record, headers, answer.source, answer, refusal)


def unreadable(record: Any, error: str, detail: str) -> Incoming:
    """Make a refusal of a record that our own code cannot deal with."""
    return _incoming(record, record.headers or (), UNKNOWN_SOURCE, None, Invalid(error, "", detail))


def times(incoming: Incoming, event: Event, *, simulation: bool) -> tuple[int, int]:
    """When the event is taken to have happened, and when it was observed (Unix ms).

    A simulation programme takes both from the event; a live one clamps the producer's claim around the record's time.
    """
    occurred = milliseconds(event.occurred_at)
    if simulation:
        return occurred, occurred
    return observe_time(occurred, incoming.observed_ms)[0], incoming.observed_ms


def _refusal(event: Event, circumstances: Circumstances) -> Invalid | None:
    if event.source in circumstances.quarantined:
        detail = "this source is in quarantine after too many bad events; `pointguard dlq release` lifts it"
        return Invalid(QUARANTINED, "source", detail, event.source, event.id)
    if event.source.startswith(OWN):
        detail = f"sources beginning with {OWN} are the ledger's own; give the system that emits this another name"
        return Invalid(RESERVED_SOURCE, "source", detail, event.source, event.id)
    if event.account.startswith(POOL):
        detail = f"accounts beginning with {POOL} are pools; name the member who acts, and the pool in `pool` or `to`"
        return Invalid(RESERVED_ACCOUNT, "account", detail, event.source, event.id)
    if event.program not in circumstances.programs:
        detail = "there is no such programme; create it with `pointguard program create`, then `pointguard dlq retry`"
        return Invalid(UNKNOWN_PROGRAM, "program", detail, event.source, event.id)
    if event.type in UNSUPPORTED:
        detail = "events of this type are not posted by this version; `pointguard dlq retry` after an upgrade"
        return Invalid(UNSUPPORTED_TYPE, "type", detail, event.source, event.id)
    return None


def _time_refusal(timestamp: int | None, event: Event) -> Invalid | None:
    if _is_time(timestamp):
        return None
    detail = (
        f"the record has no time of the years {YEAR_MIN} to {YEAR_MAX}: set the topic's message.timestamp.type to"
        " LogAppendTime, or mend the producer; then `pointguard dlq retry`"
    )
    return Invalid(BAD_RECORD_TIME, "timestamp", detail, event.source, event.id)


def _is_time(timestamp: int | None) -> bool:
    return timestamp is not None and RECORD_MS_MIN <= timestamp <= RECORD_MS_MAX


def _incoming(record: Any, headers: Any, source: str, event: Event | None, invalid: Invalid | None) -> Incoming:
    return Incoming(
        part=record.partition,
        offset=record.offset,
        key=record.key,
        raw=record.value,
        headers=tuple(headers),
        observed_ms=record.timestamp if _is_time(record.timestamp) else 0,
        source=source,
        event=event,
        invalid=invalid,
    )
