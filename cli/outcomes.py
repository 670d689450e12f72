"""What became of events: each has a decision row in PostgreSQL, or a dead letter where its record lies in the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine, text

from cli.produce import Place

DEAD = "dead_letter"
OUTCOMES = ("approve", "hold", "reject", "noted", "expired", DEAD)
TITLES = {
    "approve": "approved",
    "hold": "held",
    "reject": "rejected",
    "noted": "noted",
    "expired": "expired",
    DEAD: "dead-lettered",
}
"""How outcomes are called in tables."""

_DECIDED = text("SELECT event_id, outcome FROM decision WHERE source = :source AND event_id = ANY(:ids)")

_DEAD_AT = text("""
SELECT d.topic, d.part, d."offset"
  FROM unnest(CAST(:topics AS text[]), CAST(:parts AS int[]), CAST(:offsets AS bigint[])) AS t(topic, part, "offset")
  JOIN dead_letter AS d ON d.log_id = :log_id AND d.topic = t.topic AND d.part = t.part AND d."offset" = t."offset" """)

_WHY_DEAD = text("""
SELECT error, coalesce(field, '') AS field, coalesce(max(detail), '') AS detail, count(*) AS events FROM dead_letter
JOIN unnest(CAST(:topics AS text[]), CAST(:parts AS int[]), CAST(:offsets AS bigint[])) AS t(topic, part, "offset")
USING (topic, part, "offset") WHERE log_id = :log_id
 GROUP BY error, field ORDER BY events DESC LIMIT 10""")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of one source's events; `log_id` names the life of the log that its records are in."""

    engine: Engine
    source: str
    log_id: str

    def settled(self, asked: Mapping[str, Place | None]) -> dict[str, str]:
        """The outcomes there are, of `OUTCOMES`, by event id. That of an earlier run counts for a duplicate."""
        with self.engine.connect() as conn:
            found = {
                row.event_id: row.outcome for row in conn.execute(_DECIDED, {"source": self.source, "ids": list(asked)})
            }
            at = {place: event_id for event_id, place in asked.items() if place and event_id not in found}
            if at:
                dead = conn.execute(_DEAD_AT, {"log_id": self.log_id, **_arrays(at)})
                found |= {at[Place(row.topic, row.part, row.offset)]: DEAD for row in dead}
        return found

    def decided_before(self) -> int:
        """How many events of the source have a decision now."""
        with self.engine.connect() as conn:
            return int(
                conn.execute(
                    text("SELECT count(*) FROM decision WHERE source = :source"), {"source": self.source}
                ).scalar_one()
            )

    def why_dead(self, places: list[Place]) -> Iterator[str]:
        """The reasons of the dead letters at these places, the most frequent first, a line each."""
        with self.engine.connect() as conn:
            for row in conn.execute(_WHY_DEAD, {"log_id": self.log_id, **_arrays(places)}):
                where = f" {row.field}" if row.field else ""
                yield f"{row.events} × {row.error}{where}: {row.detail}"


def _arrays(places: Mapping[Place, str] | list[Place]) -> dict[str, list[object]]:
    return {
        "topics": [place.topic for place in places],
        "parts": [place.part for place in places],
        "offsets": [place.offset for place in places],
    }
