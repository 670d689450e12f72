"""With which code a worker ends itself, and what the supervisor makes of it (docs/delivery.md)."""

from __future__ import annotations

UNEXPECTED = 70
"""Something unforeseen; the log says what. A new process starts from what is committed."""
FENCED = 71
"""Another process claimed a partition this one thought its own."""
LOST = 72
"""Records it needs are gone from Kafka: going on would skip them in silence."""
LOG_CUT = 73
"""The log is shorter than what is committed of it: cut, or made anew under the same name."""
FAULT = 74
"""Record after record failed, or the database lacks what the code needs: the fault is here, not in the events."""
HANG = 75
"""The watchdog gave up on the process: EX_TEMPFAIL of sysexits.h."""

STAY_DOWN = frozenset({LOST, LOG_CUT, FAULT})
"""After these a person decides, not a restart."""
