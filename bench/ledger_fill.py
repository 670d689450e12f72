"""Fills a ledger with a past, by a few statements: members, and for each of them lots, earns and redemptions.

The rows are those the ledger itself would have written (a test verifies them), only faster: 10⁷ entries one by one
would take most of the bench's time.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, text

from ledger.programs import Program, create_program
from ledger.terms import Terms

PROGRAM: Final = "bench"
LOT_POINTS: Final = 1_000_000
EXPIRY_DAYS: Final = 730
SPENT_POINTS: Final = 100
PER_PAIR: Final = 4
"""Entries of an earn and the redemption that spent it."""
_STEP: Final = 250_000

_MEMBERS = """
INSERT INTO account (program, kind, name, opened_at)
SELECT :program, 'member', 'm' || n, now() - interval '400 days' FROM generate_series(0, :members - 1) AS g(n)"""

# Every member has one open lot of many points; before it came `pairs` earns, each spent by a redemption.
_NUMBERED = """
WITH mine AS (
    SELECT account_id, row_number() OVER (ORDER BY account_id) - 1 AS n FROM account
     WHERE program = :program AND kind = 'member'),
work AS (
    SELECT account_id, n * :pairs + k AS i, k FROM mine CROSS JOIN generate_series(0, :pairs - 1) AS g(k)
     WHERE n >= :low AND n < :high)"""

_SPENT = (
    f"""{_NUMBERED}
INSERT INTO txn (txn_id, program, kind, source, event_id, amount, pending, occurred_at, recorded_at)
SELECT :first + 2 * i + t, :program, CASE t WHEN 0 THEN 'earn' ELSE 'redeem' END, 'fill', (2 * i + t)::text, :spent,
       false, now() - interval '1 year', now() - interval '1 year'
  FROM work CROSS JOIN generate_series(0, 1) AS h(t)""",  # noqa: S608 -- made of constants only
    f"""{_NUMBERED}
INSERT INTO entry (txn_id, account_id, amount, account_seq, leg, layer)
SELECT :first + 2 * i + t,
       CASE WHEN leg <> t THEN account_id WHEN t = 0 THEN CAST(:issued AS bigint) ELSE CAST(:redeemed AS bigint) END,
       CASE leg WHEN 0 THEN -:spent ELSE :spent END, CASE WHEN leg <> t THEN 2 * k + t + 1 END, leg, 0
  FROM work CROSS JOIN generate_series(0, 1) AS h(t) CROSS JOIN generate_series(0, 1) AS l(leg)""",  # noqa: S608 -- as above
    f"""{_NUMBERED}
INSERT INTO lot (lot_id, program, account_id, txn_id, issued, remaining, reserved, earned_at, expires_at)
SELECT :first + 2 * i, :program, account_id, :first + 2 * i, :spent, 0, 0, now() - interval '1 year',
       now() + interval '1 year' FROM work""",  # noqa: S608 -- as above
    f"""{_NUMBERED}
INSERT INTO lot_use (txn_id, lot_id, amount, action)
SELECT :first + 2 * i + 1, :first + 2 * i, :spent, 'debit' FROM work""",  # noqa: S608 -- as above
)

_LOTS = (
    f"""{_NUMBERED}
INSERT INTO txn (txn_id, program, kind, source, event_id, amount, pending, occurred_at, recorded_at)
SELECT :lots + n, :program, 'earn', 'fill', 'lot' || n, :points, false, now() - interval '1 day',
       now() - interval '1 day' FROM mine WHERE n >= :low AND n < :high""",  # noqa: S608 -- as above
    f"""{_NUMBERED}
INSERT INTO entry (txn_id, account_id, amount, account_seq, leg, layer)
SELECT :lots + n, CASE leg WHEN 0 THEN CAST(:issued AS bigint) ELSE account_id END,
       CASE leg WHEN 0 THEN -:points ELSE :points END, CASE leg WHEN 1 THEN 2 * :pairs + 1 END, leg, 0
  FROM mine CROSS JOIN generate_series(0, 1) AS l(leg) WHERE n >= :low AND n < :high""",  # noqa: S608 -- as above
    f"""{_NUMBERED}
INSERT INTO lot (lot_id, program, account_id, txn_id, issued, remaining, reserved, earned_at, expires_at)
SELECT :lots + n, :program, account_id, :lots + n, :points, :points, 0, now() - interval '1 day',
       now() + interval '2 years' FROM mine WHERE n >= :low AND n < :high""",  # noqa: S608 -- as above
)

_COUNTERS = (
    """
UPDATE account SET posted_cr = :points + :pairs * :spent, posted_dr = :pairs * :spent, entry_count = 2 * :pairs + 1
 WHERE program = :program AND kind = 'member'""",
    """
INSERT INTO control_delta (account_id, posted_dr, posted_cr, pending_dr, pending_cr)
VALUES (:issued, CAST(:members AS bigint) * (:points + :pairs * :spent), 0, 0, 0),
       (:redeemed, 0, CAST(:members AS bigint) * :pairs * :spent, 0, 0)""",
)

_GUARDED: Final = ("txn", "entry", "lot", "lot_use")


@dataclass(frozen=True, slots=True)
class Past:
    """How many members there are, and how many spent earns each of them has behind it."""

    members: int
    pairs: int = 0

    @property
    def entries(self) -> int:
        """Entries in the ledger after filling."""
        return self.members * (2 + PER_PAIR * self.pairs)


def fill(engine: Engine, past: Past) -> Program:
    """Make the programme with this past; the database must be migrated and empty."""
    with engine.begin() as conn:
        program = create_program(conn, PROGRAM, "live", Terms(expiry_days=EXPIRY_DAYS))
        place = {"program": PROGRAM, "members": past.members}
        conn.execute(text(_MEMBERS), place)
        values = {
            **place,
            "pairs": past.pairs,
            "spent": SPENT_POINTS,
            "points": LOT_POINTS,
            "issued": program.controls["issued"],
            "redeemed": program.controls["redeemed"],
            "first": 1,
            "lots": 1 + 2 * past.members * past.pairs,
        }
        for table in _GUARDED:
            conn.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        if past.pairs:
            _in_steps(conn, _SPENT, values, max(1, _STEP // past.pairs))
        _in_steps(conn, _LOTS, values, _STEP)
        for statement in _COUNTERS:
            conn.execute(text(statement), values)
        for table in _GUARDED:
            conn.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
        last = past.members * (1 + 2 * past.pairs)
        conn.execute(text("SELECT setval('decision_seq', :next)"), {"next": (last // 1000 + 2) * 1000 + 1})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM (ANALYZE)"))
        conn.execute(text("CHECKPOINT"))
    return program


def _in_steps(conn: Connection, statements: tuple[str, ...], values: dict[str, object], step: int) -> None:
    members = int(str(values["members"]))
    for low in range(0, members, step):
        for statement in statements:
            conn.execute(text(statement), {**values, "low": low, "high": min(members, low + step)})
