"""Says what an import would do, row by row, through the ledger's own core, and writes nothing.

Accounts are read without locks, so it holds for the moment at which it is read: give it a REPEATABLE READ, READ ONLY
transaction. What earlier rows of the file would do to an account is kept here for the later ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from sqlalchemy import Connection

from ledger.arrays import bigints, fetch, timestamps
from ledger.import_parse import ImportRow
from ledger.import_posting import BATCH, Settled, movements_of, set_apart
from ledger.imports import JobSpec
from ledger.movement import Accounts, AccountState, ArrearsState, Key, LotState
from ledger.plan import AccountChange, Plan
from ledger.posting import plan
from ledger.programs import Program, ledger_now
from ledger.store import find_accounts

_VIRTUAL = 2**62
"""Where the ids of members begin that the import would open; those of real ones are far below."""

_STATES = """
SELECT a.account_id, a.posted_dr, a.posted_cr, a.pending_dr, a.pending_cr, a.entry_count, o.account_id, o.posted_dr,
       o.posted_cr, o.entry_count,
       coalesce((SELECT sum(l.remaining - l.reserved) FROM lot l
                  WHERE l.account_id = a.account_id AND l.open AND l.expires_at <= n.now), 0)::bigint
  FROM account a LEFT JOIN account o ON o.account_id = a.arrears_id CROSS JOIN unnest(%(now)s) AS n(now)
 WHERE a.account_id = ANY(%(ids)s)"""


class Forecast:
    """What would become of rows, in order. `opened` counts members that would be new, `repaid` arrears paid back."""

    def __init__(self, conn: Connection, program: Program, spec: JobSpec) -> None:
        self.opened = 0
        self.repaid = 0
        self._conn, self._program, self._spec = conn, program, spec
        self._now = ledger_now(conn, [program.name])
        self._ids = count(1)
        self._new: dict[Key, int] = {}
        self._states: dict[int, AccountState] = {}
        self._due: dict[int, int] = {}
        self._debtors: dict[int, int] = {}

    def rows(self, rows: Iterable[ImportRow]) -> Iterator[Settled]:
        """What becomes of each row; transactions have no ids yet, so those given are only counted."""
        remaining = iter(rows)
        while some := list(islice(remaining, BATCH)):
            yield from self._settle(some)

    def _settle(self, rows: Sequence[ImportRow]) -> list[Settled]:
        apart = set_apart(self._conn, self._spec, rows)
        left = [row for row in rows if row.line not in apart]
        movements = movements_of(
            self._spec, 0, left, list(islice(self._ids, len(left))), self._now[self._program.name], self._program
        )
        planned = plan(self._accounts(left), movements, self._now, self._ids)
        self._apply(planned)
        for row, movement, result in zip(left, movements, planned.results, strict=True):
            apart[row.line] = Settled(row, result.code, movement.id if result.code == "posted" else None)
        return [apart[row.line] for row in rows]

    def _accounts(self, rows: Sequence[ImportRow]) -> Accounts:
        name = self._program.name
        keys = list({(name, row.account): None for row in rows})
        found = find_accounts(self._conn, keys)
        self._load([account_id for account_id in found.values() if account_id not in self._states])
        for key in keys:
            if key not in found:
                found[key] = self._new.get(key) or self._open(key)
        return Accounts(
            {key: self._with_lots(self._states[found[key]]) for key in keys},
            {(name, control): account_id for control, account_id in self._program.controls.items()},
            terms={name: self._program.terms},
        )

    def _open(self, key: Key) -> int:
        account_id = self._new[key] = _VIRTUAL + len(self._new)
        self._states[account_id] = AccountState(account_id, 0, 0, 0, 0, 0, self._now[self._program.name])
        self.opened += 1
        return account_id

    def _load(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        now = timestamps([self._now[self._program.name]])
        for row in fetch(self._conn, _STATES, {"ids": bigints(ids), "now": now}):
            arrears = None if row[6] is None else ArrearsState(row[6], row[7], row[8], row[9])
            self._states[row[0]] = AccountState(row[0], row[1], row[2], row[3], row[4], row[5], 0, arrears=arrears)
            self._due[row[0]] = row[10]
            if arrears is not None:
                self._debtors[arrears.account_id] = row[0]

    def _with_lots(self, state: AccountState) -> AccountState:
        """Stand two lots for all that an account has: what is due, and the rest with all that is reserved."""
        if self._spec.kind != "debit":
            return state
        due = self._due.get(state.account_id, 0)
        rest = state.posted_cr - state.posted_dr - due
        lots = (
            self._lot(state, 0, due, 0, self._now[self._program.name]),
            self._lot(state, 1, rest, state.pending_dr, None),
        )
        return state._replace(lots=tuple(lot for lot in lots if lot.remaining))

    def _lot(self, state: AccountState, place: int, points: int, reserved: int, expires_ms: int | None) -> LotState:
        lot_id = -2 * state.account_id - place
        return LotState(
            lot_id, self._program.name, state.account_id, 0, None, points, points, reserved, 0, expires_ms, None
        )

    def _apply(self, planned: Plan) -> None:
        for change in planned.changes:
            debtor = self._debtors.get(change.account_id)
            if debtor is not None:
                self._repay(debtor, change)
                continue
            state = self._states[change.account_id]
            self._states[change.account_id] = state._replace(
                posted_dr=state.posted_dr + change.posted_dr,
                posted_cr=state.posted_cr + change.posted_cr,
                entry_count=state.entry_count + change.entries,
            )
        for lot_id, remaining, _ in planned.lot_changes:
            account_id, place = divmod(-lot_id, 2)
            if place == 0:
                self._due[account_id] += remaining

    def _repay(self, debtor: int, change: AccountChange) -> None:
        state = self._states[debtor]
        if state.arrears is not None:
            self.repaid += change.posted_cr
            arrears = state.arrears
            self._states[debtor] = state._replace(
                arrears=arrears._replace(
                    posted_cr=arrears.posted_cr + change.posted_cr, entry_count=arrears.entry_count + change.entries
                )
            )
