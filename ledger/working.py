"""Working copies of accounts, and what a batch changed of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ledger.lots import Purse
from ledger.movement import Key
from ledger.plan import AccountChange, ControlChange

Counters = tuple[int, int, int, int, int]
"""Posted debits and credits, pending debits and credits, and the number of entries."""

NOTHING: Counters = (0, 0, 0, 0, 0)
_MAX_DELTA = 2**62


class Working:
    """A working copy of an account; control and store accounts start at zero and only collect what the batch adds."""

    __slots__ = (
        "account_id", "arrears", "before", "entry_count", "holds_before", "key", "kind", "numbered", "open_holds",
        "pending_cr", "pending_dr", "posted_cr", "posted_dr", "purse",
    )  # fmt: skip

    def __init__(self, account_id: int, key: Key, counters: Counters, kind: str, purse: Purse | None = None) -> None:
        self.account_id = account_id
        self.key = key
        self.kind = kind
        self.posted_dr, self.posted_cr, self.pending_dr, self.pending_cr, self.entry_count = counters
        self.before = counters
        self.numbered = kind != "control"
        self.open_holds = self.holds_before = 0
        self.arrears: Working | None = None
        self.purse = purse or Purse((), {})

    @property
    def available(self) -> int:
        """Points not set aside, due ones included."""
        return self.posted_cr - self.posted_dr - self.pending_dr

    @property
    def owed(self) -> int:
        """What it owes, positive."""
        return self.arrears.posted_dr - self.arrears.posted_cr if self.arrears is not None else 0

    def changes(self) -> Counters:
        """Return what the batch added to each counter."""
        before = self.before
        return (
            self.posted_dr - before[0],
            self.posted_cr - before[1],
            self.pending_dr - before[2],
            self.pending_cr - before[3],
            self.entry_count - before[4],
        )


def account_changes(
    accounts: Iterable[Working], signed_up: Mapping[int, int], credential_changed: Mapping[int, int]
) -> list[AccountChange]:
    """Return what changed of accounts and of their arrears, with the facts told of them by account id."""
    changes: list[AccountChange] = []
    for account in accounts:
        account_id, arrears = account.account_id, account.arrears
        created = arrears.account_id if arrears is not None and arrears.account_id < 0 else 0
        signed = signed_up.get(account_id, 0) if signed_up else 0
        changed = credential_changed.get(account_id, 0) if credential_changed else 0
        if account.entry_count != account.before[4] or created or signed or changed:
            told = (created, signed, changed, account.open_holds - account.holds_before)
            changes.append(AccountChange._make((account_id, account.before[4], *account.changes(), *told)))
        if arrears is not None and arrears.entry_count != arrears.before[4]:
            changes.append(AccountChange(arrears.account_id, arrears.before[4], *arrears.changes()))
    return changes


def control_changes(control: Working) -> Iterator[ControlChange]:
    """Yield what changed of a control or store account.

    A batch of the largest points there are may add up to more than a bigint holds; then it takes several rows.
    """
    left = list(control.changes()[:4])
    while any(left):
        part = [max(-_MAX_DELTA, min(_MAX_DELTA, value)) for value in left]
        yield ControlChange(control.account_id, *part)
        left = [value - taken for value, taken in zip(left, part, strict=True)]
