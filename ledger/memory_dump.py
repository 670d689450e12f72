"""Everything in the ledger in memory, table by table: what tests compare and check invariants on."""

from __future__ import annotations

from collections.abc import Collection

from ledger.book import Dump, DumpAccount, DumpHold, DumpReview
from ledger.memory_tables import AccountRow, HoldRow, Tables


def dump(tables: Tables, programs: Collection[str] | None) -> Dump:
    """Return the rows of these programmes, or of all, each table in the order of its key."""
    names = set(tables.programs) if programs is None else set(programs)
    txns = {txn_id: txn for txn_id, txn in sorted(tables.txns.items()) if txn.program in names}
    lots = {lot_id: lot for lot_id, lot in sorted(tables.lots.items()) if lot.program in names}
    holds = {hold_id: row for hold_id, row in sorted(tables.holds.items()) if row.hold.program in names}
    entries = [entry for entry in tables.entries if entry.txn_id in txns]
    reviews = [review for review in tables.reviews if review.hold_id in holds]
    return Dump(
        tuple(_account(row) for row in tables.accounts.values() if row.program in names),
        tuple(txns.values()),
        tuple(sorted(entries, key=lambda entry: (entry.txn_id, entry.leg))),
        tuple(lots.values()),
        tuple(sorted(use for use in tables.uses if use.lot_id in lots)),
        tuple(_dumped(row) for row in holds.values()),
        tuple(sorted(part for hold_id in holds for part in tables.hold_lots.get(hold_id, ()))),
        tuple(
            DumpReview(review.decision_id, review.hold_id, review.verdict, review.actor)
            for review in sorted(reviews, key=lambda review: review.decision_id)
        ),
        tuple(sorted(reversal for reversal in tables.reversals if reversal.program in names)),
        tuple(sorted(merge for merge in tables.merges if merge.program in names)),
    )


def _account(row: AccountRow) -> DumpAccount:
    about = (row.account_id, row.program, row.kind, row.name)
    return DumpAccount(*about, *row.counters, row.open_holds, row.arrears_id, row.merged_into)


def _dumped(row: HoldRow) -> DumpHold:
    hold, end = row.hold, row.end
    about = (hold.hold_id, hold.program, hold.account_id, hold.peer_id, hold.kind, hold.amount, hold.replaces)
    return DumpHold(*about, *((None, None, None) if end is None else (end.decision_id, end.verdict, end.posted)))
