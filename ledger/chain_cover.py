"""What a batch wrote, as the audit chain covers it, made of the plan in memory instead of being read back. Pure.

The canonical rows are those of `ledger.chain_rows`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ledger.chain import Row, covered_ids, leaves
from ledger.plan import Plan

_TABLES = 13  # the last two, adjustments and imports, no batch writes
_DECISION, _TXN, _ENTRY, _LOT, _LOT_USE, _HOLD, _HOLD_LOT, _REVIEW, _RESOLUTION, _REVERSAL, _MERGE = range(11)


class Cover:
    """Collects the rows of one transaction by the id that covers them."""

    def __init__(self) -> None:
        self._tables: list[dict[int, Any]] = [{} for _ in range(_TABLES)]

    def add_decisions(self, ids: Iterable[int], rows: Iterable[Row]) -> None:
        """Add decision rows in canonical form, beside their ids."""
        self._tables[_DECISION].update(zip(ids, rows, strict=True))

    def add_plan(self, plan: Plan, now_ms: Mapping[str, int]) -> None:
        """Add all that a plan wrote; `now_ms` is when it was recorded, by programme."""
        at = {program: now * 1000 for program, now in now_ms.items()}
        self._add_postings(plan, at)
        if plan.lots:
            self._tables[_LOT].update(
                {
                    one[0]: (one[1], one[2], one[3], one[4], one[5], one[8] * 1000, _micros(one[9]), one[10])
                    for one in plan.lots
                }
            )
        if plan.lot_uses:
            _gather(self._tables[_LOT_USE], ((one[0], one[1:]) for one in plan.lot_uses))
        if plan.holds or plan.hold_ends:
            self._add_holds(plan, at)
        if plan.reversals:
            self._tables[_REVERSAL].update({one[0]: (*one[1:], at[one.program]) for one in plan.reversals})
        if plan.merges:
            self._tables[_MERGE].update({one[0]: (*one[1:], at[one.program]) for one in plan.merges})

    def _add_postings(self, plan: Plan, at: Mapping[str, int]) -> None:
        self._tables[_TXN].update(
            {
                one[0]: (one[1], one[2], one[3], one[4], one[5], one[6], one[7], one[8] * 1000, at[one[1]], one[9])
                for one in plan.txns
            }
        )
        _gather(
            self._tables[_ENTRY],
            ((txn_id, (leg, account, amount, seq, layer)) for txn_id, account, amount, seq, leg, layer in plan.entries),
        )

    def _add_holds(self, plan: Plan, at: Mapping[str, int]) -> None:
        self._tables[_HOLD].update(
            {
                one.hold_id: (
                    *(one.program, one.account_id, one.peer_id, one.kind, one.amount, at[one.program], one.on_timeout),
                    *(one.replaces, _micros(one.expires_ms), one.store, one.order),
                )
                for one in plan.holds
            }
        )
        _gather(self._tables[_HOLD_LOT], ((one[0], one[1:]) for one in plan.hold_lots))
        for end in plan.hold_ends:
            now = at[end.program]
            self._tables[_REVIEW][end.decision_id] = (end.hold_id, end.verdict, end.actor, end.reason, now, now)
            self._tables[_RESOLUTION][end.decision_id] = (end.hold_id, end.verdict, end.posted, now)

    def leaves(self) -> tuple[list[int], list[bytes]]:
        """The covered ids, ascending, and their leaves."""
        for several in (_ENTRY, _LOT_USE, _HOLD_LOT):
            for rows in self._tables[several].values():
                if len(rows) > 1:
                    rows.sort()
        ids = covered_ids(self._tables)
        return ids, leaves(ids, self._tables)


def _micros(epoch_ms: int | None) -> int | None:
    return None if epoch_ms is None else epoch_ms * 1000


def _gather(found: dict[int, list[Row]], rows: Iterable[tuple[int, Row]]) -> None:
    for one, row in rows:
        if one in found:
            found[one].append(row)
        else:
            found[one] = [row]
