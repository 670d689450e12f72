"""The decision rows: what was decided of each event, with everything needed to decide it again.

A row holds the event without device, IP and payment token (their pseudonyms stand beside it), the features as scored,
the reasons, and the versions of policy and model. Nothing of it is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection

from detectors.decision import CompiledPolicy, Decision, Reason, fields_of, redecide, was_cold
from detectors.event import Event
from detectors.layout import Floats, Layout
from detectors.models_snapshot import Snapshot
from detectors.rules import EventFields
from ledger.arrays import bigints, booleans, byteas, doubles, integers, run, texts, timestamps
from streams.records import Incoming, Log


@dataclass(frozen=True, slots=True)
class Decided:
    """One event with its decision: `code` is what the ledger did, `features` its row (None for a notice)."""

    decision_id: int
    incoming: Incoming
    event: Event
    device: bytes | None
    ip: bytes | None
    ip_prefix: bytes | None
    payment: bytes | None
    occurred_ms: int
    observed_ms: int
    outcome: str
    code: str
    decision: Decision | None
    features: Floats | None


_INSERT = """
INSERT INTO decision (decision_id, source, event_id, program, account, type, points, outcome, code, suspicious, score,
  features, features_version, event, reasons, policy_version, model_version, device, ip, ip_prefix, payment,
  occurred_at, observed_at,
  decided_at, log_id, topic, part, "offset")
SELECT t.id, t.source, t.event_id, t.program, t.account, t.type, nullif(t.points, 0), t.outcome, t.code, t.suspicious,
       t.score, t.features, CASE WHEN t.features IS NULL THEN NULL ELSE %(features_version)s END,
       convert_from(t.event, 'UTF8')::json, convert_from(t.reasons, 'UTF8')::json, %(policy_version)s,
       %(model_version)s::bigint, t.device, t.ip, t.ip_prefix, t.payment, t.occurred, t.observed,
       %(decided)s, %(log_id)s, %(topic)s, t.part, t."offset"
  FROM unnest(%(ids)s, %(sources)s, %(event_ids)s, %(programs)s, %(accounts)s, %(types)s, %(points)s, %(outcomes)s,
       %(codes)s, %(suspicious)s, %(scores)s, %(features)s, %(events)s, %(reasons)s, %(devices)s, %(ips)s,
       %(ip_prefixes)s, %(payments)s, %(occurred)s, %(observed)s, %(parts)s, %(offsets)s)
    AS t(id, source, event_id, program, account, type, points, outcome, code, suspicious, score, features, event,
         reasons, device, ip, ip_prefix, payment, occurred, observed, part, "offset")"""

_LAYOUT: Mapping[str, Callable[[Sequence[Any]], object]] = {
    "sources": texts,
    "event_ids": texts,
    "programs": texts,
    "accounts": texts,
    "types": texts,
    "points": bigints,
    "outcomes": texts,
    "codes": texts,
    "suspicious": booleans,
    "scores": doubles,
    "features": byteas,
    "events": byteas,
    "reasons": byteas,
    "devices": byteas,
    "ips": byteas,
    "ip_prefixes": byteas,
    "payments": byteas,
    "occurred": timestamps,
    "observed": timestamps,
    "parts": integers,
    "offsets": bigints,
}

# In the order of `ledger.chain_rows`.
_COVERED = (
    *("sources", "event_ids", "programs", "accounts", "types", "points", "outcomes", "codes", "suspicious", "scores"),
    *("features", "features_version", "events", "reasons", "policy_version", "model_version", "devices", "ips"),
    *("occurred", "observed", "decided", "log_id", "topic", "parts", "offsets"),
)

_encoder = msgspec.json.Encoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decode_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode
_decode_event = msgspec.json.Decoder(Event).decode


def stored_event(event: Event) -> bytes:
    """The event as it is kept with its decision: JSON without device, IP address and payment token."""
    if event.device is None and event.ip is None and event.payment is None:
        return _encoder.encode(event)
    return _encoder.encode(msgspec.structs.replace(event, device=None, ip=None, payment=None))


@dataclass(frozen=True, slots=True)
class Made:
    """Under what a batch was decided: the versions of policy, model and features, and when."""

    policy_version: int
    model_version: int | None
    features_version: str
    at: datetime


def insert(conn: Connection, log: Log, rows: Sequence[Decided], made: Made) -> list[tuple[Any, ...]]:
    """Write the decisions of a batch; returns the rows as the audit chain covers them (`ledger.chain_rows`)."""
    if not rows:
        return []
    columns = _columns(rows)
    run(
        conn,
        _INSERT,
        {
            "features_version": made.features_version,
            "policy_version": made.policy_version,
            "model_version": made.model_version,
            "decided": made.at,
            "log_id": log.log_id,
            "topic": log.topic,
            "ids": bigints([row.decision_id for row in rows]),
            **{name: pack(columns[name]) for name, pack in _LAYOUT.items()},
        },
    )
    features = [None if packed is None else made.features_version for packed in columns["features"]]
    covered = {
        **columns,
        "points": [points or None for points in columns["points"]],
        "occurred": [1000 * at for at in columns["occurred"]],
        "observed": [1000 * at for at in columns["observed"]],
        "features_version": features,
        "policy_version": repeat(made.policy_version),
        "model_version": repeat(made.model_version),
        "decided": repeat(micros(made.at)),
        "log_id": repeat(log.log_id),
        "topic": repeat(log.topic),
    }
    return list(zip(*[covered[name] for name in _COVERED], strict=False))  # what is repeated has no end


def _columns(rows: Sequence[Decided]) -> dict[str, list[Any]]:
    events = [row.event for row in rows]
    return {
        "sources": [event.source for event in events],
        "event_ids": [event.id for event in events],
        "programs": [event.program for event in events],
        "accounts": [event.account for event in events],
        "types": [event.type for event in events],
        "points": [getattr(event, "points", None) or 0 for event in events],
        "outcomes": [row.outcome for row in rows],
        "codes": [row.code for row in rows],
        "suspicious": [row.decision is not None and row.decision.suspicious for row in rows],
        "scores": [None if row.decision is None else row.decision.score for row in rows],
        "features": [None if row.features is None else _packed(row.features) for row in rows],
        "events": [stored_event(event) for event in events],
        "reasons": [_encoder.encode(row.decision.reasons if row.decision else ()) for row in rows],
        "devices": [row.device for row in rows],
        "ips": [row.ip for row in rows],
        "ip_prefixes": [row.ip_prefix for row in rows],
        "payments": [row.payment for row in rows],
        "occurred": [row.occurred_ms for row in rows],
        "observed": [row.observed_ms for row in rows],
        "parts": [row.incoming.part for row in rows],
        "offsets": [row.incoming.offset for row in rows],
    }


def stored_fields(event: bytes | str, device: bytes | None, ip: bytes | None) -> EventFields:
    """What a decision reads of an event, from its stored row."""
    fields = fields_of(_decode_event(event))
    return msgspec.structs.replace(fields, has_device=device is not None, has_ip=ip is not None)


def decide_again(
    fields: EventFields,
    features: bytes,
    stored: Layout,
    reasons: bytes | str,
    policy: CompiledPolicy,
    models: Snapshot | None,
) -> Decision:
    """The decision that `policy` and `models` make of a stored row; with those it was made under, the same again.

    `stored` is the layout that the row names.
    """
    return redecide(fields, features, stored, policy, models, cold=was_cold(_decode_reasons(reasons)))


def micros(at: datetime) -> int:
    """A time as microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def _packed(row: Floats) -> bytes:
    return row.astype("<f8", copy=False).tobytes() if row.dtype != np.dtype("<f8") else row.tobytes()
