"""The values the ledger's pure core takes and gives. Times are milliseconds since 1970 (UTC), and always arguments.

Points are integers. An account is known by its key `(program, name)`; a member's arrears hang on the member's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

Key = tuple[str, str]
Kind = Literal["earn", "redeem", "transfer", "adjust"]
Verdict = Literal["post", "hold", "reject"]
Timeout = Literal["void", "post", "escalate"]
Code = Literal[
    "posted",
    "held",
    "rejected",
    "points_out_of_range",
    "same_account",
    "balance_out_of_range",
    "insufficient_balance",
]

POSTED, PENDING, RELEASE = 0, 1, 2
MAX_POINTS = 2**53 - 1


class Movement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event that wants to move points, with what was decided of it.

    `id` is the decision's id and becomes the id of the transaction, and of the hold. `points` are positive, except that
    an adjust takes points away with negative ones. `to` is the other member of a transfer. A `fact` has happened
    already: an outflow of it is posted whatever the verdict, and what the balance lacks becomes arrears. A hold falls
    due `due_seconds` after it is recorded, by the ledger's clock (None: never), and is then resolved as `on_timeout`
    says.
    """

    id: int
    kind: Kind
    program: str
    account: str
    points: int
    verdict: Verdict
    source: str
    event_id: str
    occurred_ms: int
    to: str | None = None
    fact: bool = False
    due_seconds: int | None = None
    on_timeout: Timeout = "escalate"


class ArrearsState(NamedTuple):
    """What a member owes: `posted_dr - posted_cr`, never negative."""

    account_id: int
    posted_dr: int
    posted_cr: int
    entry_count: int


class AccountState(NamedTuple):
    """A member's account as it stands under its lock. Times are epoch milliseconds; None where never told."""

    account_id: int
    posted_dr: int
    posted_cr: int
    pending_dr: int
    pending_cr: int
    entry_count: int
    opened_ms: int
    signed_up_ms: int | None = None
    credential_changed_ms: int | None = None
    arrears: ArrearsState | None = None

    @property
    def available(self) -> int:
        """Points that may be spent now: posted, less what open holds have set aside."""
        return self.posted_cr - self.posted_dr - self.pending_dr


@dataclass(frozen=True, slots=True)
class Accounts:
    """Locked members by key, and the ids of the programmes' control accounts by (program, control name)."""

    members: Mapping[Key, AccountState]
    controls: Mapping[Key, int]


class Result(NamedTuple):
    """What became of a movement; `available` and `owed` are its account's after it (unchanged unless it moved)."""

    code: Code
    available: int
    owed: int


class Txn(NamedTuple):
    """An immutable transaction header; `resolves` names the hold that a post or void ends."""

    txn_id: int
    program: str
    kind: str
    source: str | None
    event_id: str | None
    resolves: int | None
    amount: int
    pending: bool
    occurred_ms: int


class Entry(NamedTuple):
    """One leg: credit positive, debit negative. `account_seq` counts the account's entries (0: a control account)."""

    txn_id: int
    account_id: int
    amount: int
    account_seq: int
    leg: int
    layer: int


class NewHold(NamedTuple):
    """A hold to be opened by the transaction of the same id."""

    hold_id: int
    program: str
    account_id: int
    peer_id: int | None
    kind: str
    amount: int
    due_seconds: int | None
    on_timeout: str


class AccountChange(NamedTuple):
    """What a batch adds to an account's counters; `expected_count` is its entry count before.

    Facts about the account ride along: 0 for `arrears_id`, `signed_up_ms` and `credential_changed_ms` changes nothing.
    """

    account_id: int
    expected_count: int
    posted_dr: int
    posted_cr: int
    pending_dr: int
    pending_cr: int
    entries: int
    arrears_id: int = 0
    signed_up_ms: int = 0
    credential_changed_ms: int = 0


class ControlChange(NamedTuple):
    """What a batch adds to a control account's counters; a released hold takes from the pending ones."""

    account_id: int
    posted_dr: int
    posted_cr: int
    pending_dr: int
    pending_cr: int


class NewArrears(NamedTuple):
    """An arrears account to be created; its negative `placeholder` stands for the id in entries and changes."""

    placeholder: int
    program: str
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch does to the ledger, decided and ready to be written; `results` are in the order of the movements."""

    results: tuple[Result, ...] = ()
    txns: tuple[Txn, ...] = ()
    entries: tuple[Entry, ...] = ()
    holds: tuple[NewHold, ...] = ()
    changes: tuple[AccountChange, ...] = ()
    controls: tuple[ControlChange, ...] = ()
    new_arrears: tuple[NewArrears, ...] = ()
