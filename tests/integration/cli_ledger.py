"""Decides events against a real database as a worker does, without Kafka and Redis: what the command line reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine

from config.policy import default_policy_text, load_policy
from config.settings import Settings
from detectors.entity import Keys
from detectors.event import Event, Invalid, decode, milliseconds
from ledger.chain_cover import Cover
from ledger.ids import IdBlocks
from ledger.programs import create_program, load_programs
from streams import decisions, inbox
from streams.layouts import LayoutBook
from streams.posting import Arrival, Arrivals, Judge, Poster
from streams.records import DeadLetter, Incoming, Log, Span
from streams.sealing import seal
from streams.setup import seed

SECRET = b"0" * 64
LOG = Log("log", "points.events")
PROGRAM = "trial"
SOURCE = "till"


class Desk:
    """A database with the default policy and one simulation programme; `decide` puts events through the ledger."""

    def __init__(self, engine: Engine, url: str) -> None:
        """Install policy and programme."""
        seed(Settings(database_url=url))
        self.engine, self.ids, self.keys, self.offset = engine, IdBlocks(), Keys(SECRET), 0
        self.judge = Judge(load_policy(default_policy_text()), None)
        with engine.begin() as conn:
            create_program(conn, PROGRAM, "simulation")

    def decide(self, *events: dict[str, object]) -> dict[str, str]:
        """Decide events in one transaction, with no velocity; the outcomes by event id."""
        records = [self._record(event) for event in events]
        arrivals = tuple(Arrival(one, _event(one), one.observed_ms, one.observed_ms) for one in records)
        layout = self.judge.policy.layout
        velocity = np.zeros((len(arrivals), len(layout.velocity)))
        with self.engine.begin() as conn:
            inbox.admit(conn, LOG, records, self.keys.payload_hash)
            poster = Poster(self.keys, self.ids)
            programs, noted = load_programs(conn), Cover()
            rows = poster.post(conn, Arrivals(arrivals, velocity, cold=False), self.judge, programs, noted).decided
            now = datetime.now(UTC)
            made = decisions.Made(self.judge.policy.policy.version, None, layout.version, now)
            LayoutBook().keep(conn, layout)
            noted.add_decisions([row.decision_id for row in rows], decisions.insert(conn, LOG, rows, made))
            spans = [Span(0, records[0].offset, records[-1].offset, 1)]
            seal(conn, LOG, spans, noted, (), now)
        return {row.event.id: row.outcome for row in rows}

    def bury(self, topic: str, raws: Sequence[bytes | None], error: str = "not_json") -> list[int]:
        """Keep records as dead letters; their offsets."""
        refused = Invalid(error, "body", "mend it", SOURCE, None)
        first = self.offset
        letters = []
        for raw in raws:
            record = Incoming(0, self.offset, b"k", raw, (("h", b"1"),), 0, SOURCE, None, refused)
            letters.append(DeadLetter(record, error, "body", "mend it"))
            self.offset += 1
        with self.engine.begin() as conn:
            inbox.bury(conn, Log(LOG.log_id, topic), letters, self.keys.seal)
        return list(range(first, self.offset))

    def _record(self, event: dict[str, object]) -> Incoming:
        read = decode(json.dumps(event).encode())
        assert not isinstance(read, Invalid), read
        self.offset += 1
        return Incoming(0, self.offset, None, b"", (), milliseconds(read.occurred_at), read.source, read, None)


def event(number: int, kind: str, account: str, **rest: Any) -> dict[str, object]:
    """An event of the trial programme, `number` seconds into 2026."""
    return {
        "id": f"e{number}",
        "source": SOURCE,
        "type": kind,
        "program": PROGRAM,
        "account": account,
        "occurred_at": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}Z",
        **rest,
    }


def _event(record: Incoming) -> Event:
    assert record.event is not None
    return record.event
