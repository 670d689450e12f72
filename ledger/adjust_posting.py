"""Posts adjustments through the ledger's core, inside the transaction that approves them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.ids import IdBlocks
from ledger.movement import Accounts, Key, Movement
from ledger.plan import Plan
from ledger.posting import plan
from ledger.programs import Program, ledger_now
from ledger.store import lock_accounts, write
from ledger.store_lots import load

SOURCE = "pointguard:adjustment"


class Asked(NamedTuple):
    """An adjustment to be posted: signed points, and when given ones expire (None: as the terms say)."""

    adjustment_id: int
    program: str
    account: str
    points: int
    expires_ms: int | None


class Decided(NamedTuple):
    """The ledger's word on it, and the transaction that posts it (None: refused)."""

    code: str
    txn_id: int | None


class Posting:
    """Posts adjustments through the ledger's core: lock, decide, then write what was decided."""

    def __init__(self, conn: Connection, programs: Mapping[str, Program], ids: IdBlocks) -> None:
        self._conn, self._programs, self._ids = conn, programs, ids
        self._now: dict[str, int] = {}
        self._accounts = Accounts({}, {})
        self._plan = Plan()

    def lock(self, asked: Sequence[Asked], names: Collection[str]) -> dict[str, int]:
        """Lock the accounts that will be adjusted; the ledger's time by programme."""
        opened = ledger_now(self._conn, names)
        if asked:
            named = {(one.program, one.account): opened[one.program] for one in asked}
            self._accounts = lock_accounts(self._conn, self._programs, named)
        self._now = ledger_now(self._conn, names)
        return self._now

    @property
    def account_ids(self) -> dict[Key, int]:
        """The ids of the locked accounts by the names they were asked for: one id for those of a merged account."""
        return {key: state.account_id for key, state in self._accounts.members.items()}

    def decide(self, asked: Sequence[Asked]) -> list[Decided]:
        """What becomes of each; nothing is written yet."""
        if not asked:
            return []
        txn_ids = self._ids.take(self._conn, len(asked))
        movements = [
            Movement(
                id=txn_id,
                kind="adjust",
                program=one.program,
                account=one.account,
                points=one.points,
                verdict="post",
                source=SOURCE,
                event_id=str(one.adjustment_id),
                occurred_ms=self._now[one.program],
                expires_ms=one.expires_ms,
            )
            for txn_id, one in zip(txn_ids, asked, strict=True)
        ]
        accounts = load(self._conn, self._accounts, movements, self._now)
        self._plan = plan(accounts, movements, self._now, self._ids.stream(self._conn))
        return [
            Decided(result.code, txn_id if result.code == "posted" else None)
            for txn_id, result in zip(txn_ids, self._plan.results, strict=True)
        ]

    def write(self) -> None:
        """Write it; the database asks for the approved adjustments here."""
        if self._plan.txns:
            write(self._conn, self._plan, self._now)
