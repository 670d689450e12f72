"""One broken producer must stop nobody else: a source that mostly sends bad events is put in quarantine.

Its events then go to the dead letters unread, with an alert, until a person releases it; nothing of it is lost. When
records fail that no source is to blame for, going on would turn everything into dead letters, so the worker stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from streams.intake import QUARANTINED, UNKNOWN_SOURCE

_ADD = text("""
INSERT INTO quarantine (source, reason) VALUES (:source, :reason) ON CONFLICT (source) DO NOTHING RETURNING source""")
_RELEASE = text("DELETE FROM quarantine WHERE source = :source RETURNING source")


class TooManyFailures(RuntimeError):
    """Record after record fails in processing, whatever its source: the fault is here, not in the events."""


@dataclass(frozen=True)
class QuarantineLimits:
    """When a source is bad: at least `bad_min` bad events and `bad_share` of its last `window`; failures in a row."""

    bad_min: int = 200
    bad_share: float = 0.5
    window: int = 1000
    failures_in_row: int = 100


@dataclass
class SourceHealth:
    """Counts good and bad events by source; the past fades by halves, so memory and time are bounded."""

    limits: QuarantineLimits = QuarantineLimits()
    sources_max: int = 10_000
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _failures: int = 0

    def note(self, good: Iterable[str], bad: Iterable[tuple[str, str]]) -> list[str]:
        """Count a batch: sources of good events, sources and errors of bad ones; the sources over the limit."""
        for source in good:
            self._count(source, 0)
        touched = set()
        for source, error in bad:
            if source != UNKNOWN_SOURCE and error != QUARANTINED:
                self._count(source, 1)
                touched.add(source)
        over = sorted(source for source in touched if self._is_over(source))
        for source in over:  # it starts anew once it is released
            del self._counts[source]
        return over

    def succeeded(self) -> None:
        """A batch was committed as a whole."""
        self._failures = 0

    def failed(self) -> None:
        """A well-formed record failed in processing. Raises TooManyFailures when too many did in a row."""
        self._failures += 1
        if self._failures >= self.limits.failures_in_row:
            raise TooManyFailures(f"{self._failures} records in a row failed in processing; see the last dead letters")

    def _count(self, source: str, bad: int) -> None:
        bad_before, total = self._counts.get(source, (0, 0))
        if total >= self.limits.window:
            bad_before, total = bad_before // 2, total // 2
        elif source not in self._counts and len(self._counts) >= self.sources_max:
            self._counts.clear()
        self._counts[source] = (bad_before + bad, total + 1)

    def _is_over(self, source: str) -> bool:
        bad, total = self._counts[source]
        return bad >= self.limits.bad_min and bad >= self.limits.bad_share * total


def put_in(conn: Connection, sources: Iterable[str]) -> list[str]:
    """Put sources in quarantine, in the caller's transaction; those that were not in it before."""
    reason = "too many bad events; see its dead letters"
    return [source for source in sources if conn.execute(_ADD, {"source": source, "reason": reason}).first()]


def release(conn: Connection, source: str) -> bool:
    """Let a source out of quarantine; False if it was not in it. Its dead letters can then be retried."""
    return conn.execute(_RELEASE, {"source": source}).first() is not None
