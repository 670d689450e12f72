"""What the last clean verification had reached, so that the next can go on from there.

A mark is no proof: whoever can change the ledger can change a mark. Chains are compared with theirs again each time,
and a whole verification uses none and makes all anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from ledger.chain import Head

Sums = list[int]
"""Posted debits and credits, pending debits and credits."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the last clean run had come: when, each chain's link, control accounts' sums, and what it had counted.

    No id above `highest` was there then.
    """

    at: datetime | None = None
    highest: int = 0
    heads: Mapping[str, Head] = field(default_factory=dict)
    controls: Mapping[int, Sums] = field(default_factory=dict)
    checked: Mapping[str, int] = field(default_factory=dict)


_LAST = text("SELECT at, highest, checked FROM verify_run ORDER BY run_id DESC LIMIT 1")
_HEADS = text("SELECT chain, seq, hash FROM verified_chain")
_CONTROLS = text("""
SELECT account_id, m.posted_dr, m.posted_cr, m.pending_dr, m.pending_cr
  FROM account a JOIN verified_account m USING (account_id) WHERE a.kind IN ('control', 'store')""")

_MAY = text("""
SELECT NOT pg_is_in_recovery() AND has_table_privilege('verified_account', 'INSERT, UPDATE')
       AND has_table_privilege('verified_chain', 'INSERT, UPDATE') AND has_table_privilege('verify_run', 'INSERT')
       AND pg_try_advisory_xact_lock(hashtextextended('pointguard verify', 7236))""")

_FORGET = text("DELETE FROM verified_chain WHERE chain <> ALL(CAST(:chains AS text[]))")
_MARK_CHAINS = text("""
INSERT INTO verified_chain (chain, seq, hash)
SELECT * FROM unnest(CAST(:chains AS text[]), CAST(:seqs AS bigint[]), CAST(:hashes AS bytea[]))
ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash
 WHERE (verified_chain.seq, verified_chain.hash) <> (excluded.seq, excluded.hash)""")

# What was replayed and found equal is what the rows say.
_MARK_ACCOUNTS = """
INSERT INTO verified_account AS m (account_id, posted_dr, posted_cr, pending_dr, pending_cr, entry_count)
SELECT account_id, posted_dr, posted_cr, pending_dr, pending_cr, entry_count
  FROM account WHERE kind NOT IN ('control', 'store') {which}
ON CONFLICT (account_id) DO UPDATE
   SET posted_dr = excluded.posted_dr, posted_cr = excluded.posted_cr, pending_dr = excluded.pending_dr,
       pending_cr = excluded.pending_cr, entry_count = excluded.entry_count
 WHERE (m.posted_dr, m.posted_cr, m.pending_dr, m.pending_cr, m.entry_count)
    <> (excluded.posted_dr, excluded.posted_cr, excluded.pending_dr, excluded.pending_cr, excluded.entry_count)"""
_MARK_ALL = text(_MARK_ACCOUNTS.format(which=""))
_MARK_SOME = text(_MARK_ACCOUNTS.format(which="AND account_id = ANY(CAST(:these AS bigint[]))"))

_MARK_CONTROLS = text("""
INSERT INTO verified_account (account_id, posted_dr, posted_cr, pending_dr, pending_cr, entry_count)
SELECT *, 0 FROM unnest(CAST(:ids AS bigint[]), CAST(:posted_dr AS numeric[]), CAST(:posted_cr AS numeric[]),
                        CAST(:pending_dr AS numeric[]), CAST(:pending_cr AS numeric[]))
ON CONFLICT (account_id) DO UPDATE
   SET posted_dr = excluded.posted_dr, posted_cr = excluded.posted_cr, pending_dr = excluded.pending_dr,
       pending_cr = excluded.pending_cr, entry_count = 0""")
_RUN = text("INSERT INTO verify_run (whole, highest, checked) VALUES (:whole, :highest, CAST(:checked AS json))")


def last(conn: Connection) -> Marks:
    """The marks of the last clean run; empty ones when there was none."""
    run = conn.execute(_LAST).one_or_none()
    if run is None:
        return Marks()
    heads = {row.chain: Head(row.chain, row.seq, bytes(row.hash)) for row in conn.execute(_HEADS)}
    controls = {row[0]: [int(value) for value in row[1:]] for row in conn.execute(_CONTROLS)}
    return Marks(run.at, run.highest, heads, controls, run.checked)


def may_mark(conn: Connection) -> bool:
    """Whether marks can be made: this is no standby, the role has the right, and no other run is at it."""
    return bool(conn.execute(_MAY).scalar_one())


def mark(conn: Connection, marks: Marks, checked: str, accounts: Sequence[int] | None) -> None:
    """Keep the marks of a clean run in its own transaction.

    Of `accounts`, or of all with None, the counters now in their rows were replayed; `checked` is JSON.
    """
    heads = list(marks.heads.values())
    chains = [head.chain for head in heads]
    if accounts is None:
        conn.execute(_FORGET, {"chains": chains})
        conn.execute(_MARK_ALL)
    else:
        conn.execute(_MARK_SOME, {"these": list(accounts)})
    conn.execute(
        _MARK_CHAINS,
        {"chains": chains, "seqs": [head.seq for head in heads], "hashes": [head.hash for head in heads]},
    )
    sums = list(marks.controls.values())
    conn.execute(
        _MARK_CONTROLS,
        {
            "ids": list(marks.controls),
            "posted_dr": [one[0] for one in sums],
            "posted_cr": [one[1] for one in sums],
            "pending_dr": [one[2] for one in sums],
            "pending_cr": [one[3] for one in sums],
        },
    )
    conn.execute(_RUN, {"whole": accounts is None, "highest": marks.highest, "checked": checked})
