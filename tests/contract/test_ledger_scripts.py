"""Scripts that once found the ledger and the model apart: each stays."""

import pytest
from sqlalchemy import create_engine

from ledger import store_lots
from ledger.book_postgres import PostgresLedger
from tests.contract.ledger_pair import Pair


def test_what_one_earn_of_an_order_gives_back_the_next_cannot_fall_back_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refund of two earns takes the first one's points out of a lot that the second would have been paid from."""
    monkeypatch.setattr(store_lots, "FIRST_LOTS", 1)
    engine = create_engine(database)
    try:
        pair = Pair(PostgresLedger(engine), "")
        pair.create("north")
        pair.join("north", "x", "bob")
        pair.post("north", {"event": "e4", "kind": "earn", "account": "ann", "points": 9, "order": "o2"})
        pair.post(
            "north", {"event": "e5", "kind": "transfer", "account": "ann", "points": 10, "to": "bob", "fact": True}
        )
        pair.post("north", {"event": "e8", "kind": "earn", "account": "bob", "points": 7, "order": "o2", "ago": 15})
        pair.post("north", {"event": "e12", "kind": "transfer", "account": "bob", "points": 14, "to": "pool:x"})
        pair.post(
            "north",
            {"event": "e16", "kind": "earn", "account": "bob", "points": 40, "ago": 25},
            {"event": "e19", "kind": "transfer", "account": "bob", "points": 16, "to": "ann"},
            {"event": "e20", "kind": "earn", "account": "bob", "points": 8},
        )
        pair.post(
            "north",
            {"event": "e21", "kind": "adjust", "account": "bob", "points": -13},
            {"event": "e22", "kind": "transfer", "account": "bob", "points": 4, "to": "ann"},
        )
        pair.post(
            "north",
            {
                "event": "e26",
                "kind": "redeem",
                "account": "bob",
                "points": 14,
                "pool": "x",
                "verdict": "post",
                "ago": 6,
                "due_seconds": 100000,
            },
        )
        pair.post(
            "north",
            {
                "event": "e28",
                "kind": "transfer",
                "account": "bob",
                "points": 3,
                "to": "ann",
                "verdict": "hold",
                "ago": 0,
            },
        )
        pair.refund("north", "o2", "r5", 701, 700)
    finally:
        engine.dispose()
