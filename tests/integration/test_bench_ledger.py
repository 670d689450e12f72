"""The past that the ledger benchmark fills in is one the ledger could have written."""

from sqlalchemy import create_engine

from bench.ledger_fill import Past, fill
from ledger.verify import verify


def test_filled_past_is_sound(database: str) -> None:
    """`verify` misses only the events: what decided these transactions, and their place in the audit chain."""
    engine = create_engine(database)
    try:
        past = Past(members=7, pairs=3)
        fill(engine, past)
        found = verify(engine)
    finally:
        engine.dispose()
    assert set(found.totals) <= {"transaction_without_decision", "not_in_chain"}
    assert found.checked["entries"] == past.entries
