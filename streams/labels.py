"""The sequencer of the label log: what has matured gets the next number, in one order for all who learn from it.

A serial column would skip rows whose transaction commits late; here one session at a time (an advisory lock) moves rows
that are due, oldest first, and numbers them without a gap.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

# Any constant does, as long as nobody else in this database takes the same advisory lock.
_SEQUENCER_LOCK = 0x6C61_6265

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
# A programme's clock decides: its own in simulation, else the database's. Rows are locked, for a review may be
# replacing a label at this moment: it then finds the row gone, and enters its label anew.
_MOVE = text("""
WITH due AS (
    SELECT p.decision_id FROM label_pending p JOIN program USING (program)
     WHERE p.due_at <= coalesce(program.clock, now())
     ORDER BY p.due_at, p.decision_id LIMIT :most FOR UPDATE OF p
), moved AS (
    DELETE FROM label_pending p USING due WHERE p.decision_id = due.decision_id
    RETURNING p.decision_id, p.label, p.origin, p.due_at
)
INSERT INTO label_log (seq, decision_id, label, origin, recorded_at)
SELECT (SELECT coalesce(max(seq), 0) FROM label_log) + row_number() OVER (ORDER BY due_at, decision_id),
       decision_id, label, origin, now()
  FROM moved""")


def sequence(conn: Connection, most: int = 5_000) -> int:
    """Move up to `most` labels that are due into the label log, in the caller's transaction; how many.

    0 also if another session is at it.
    """
    if not conn.execute(_TRY_LOCK, {"key": _SEQUENCER_LOCK}).scalar_one():
        return 0
    return conn.execute(_MOVE, {"most": most}).rowcount
