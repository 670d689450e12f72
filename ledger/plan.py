"""What the ledger's pure core gives: the rows of a plan, decided and ready to be written. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ledger.movement import LotState, Result, Timeout

Action = Literal["debit", "transfer", "expire", "clawback", "repay", "restore"]
"""What a transaction did to a lot; all but `restore` take from it."""


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
    order: str | None = None


class Entry(NamedTuple):
    """One leg: credit positive, debit negative. `account_seq` counts the account's entries (0: control or store)."""

    txn_id: int
    account_id: int
    amount: int
    account_seq: int
    leg: int
    layer: int


class NewHold(NamedTuple):
    """A hold opened by the transaction of the same id; `replaces` is the hold whose rest it is."""

    hold_id: int
    program: str
    account_id: int
    peer_id: int | None
    kind: str
    amount: int
    due_ms: int | None
    on_timeout: Timeout
    replaces: int | None = None
    store: str | None = None
    order: str | None = None
    expires_ms: int | None = None


class HoldLot(NamedTuple):
    """What a hold reserves of a lot."""

    hold_id: int
    lot_id: int
    amount: int


class HoldEnd(NamedTuple):
    """The decision that ends a hold, and so its resolution; `posted` points of it went through (0: void)."""

    decision_id: int
    hold_id: int
    program: str
    verdict: Literal["post", "void"]
    posted: int
    actor: str
    reason: str


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
    open_holds: int = 0


class ControlChange(NamedTuple):
    """What a batch adds to a control or store account's counters; a released hold takes from the pending ones."""

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


class LotChange(NamedTuple):
    """What a batch adds to a lot that was there before: to `remaining` and `reserved`."""

    lot_id: int
    remaining: int
    reserved: int


class LotUse(NamedTuple):
    """What a transaction took from a lot or gave back to it, once an action."""

    txn_id: int
    lot_id: int
    action: Action
    amount: int


class Reversal(NamedTuple):
    """What a reverse took back of `original` (the id of its transaction or hold) and whence; the parts sum to `points`.

    Taken from the held original, its own lot, holds that reserve that lot, lots traced into other accounts, other lots;
    what was missing went to arrears or was forgiven. Given back, points were restored to lots or repaid arrears.
    """

    reversal_id: int
    program: str
    original: int
    points: int
    from_hold: int = 0
    from_lot: int = 0
    from_reserved: int = 0
    from_traced: int = 0
    from_other: int = 0
    to_arrears: int = 0
    forgiven: int = 0
    restored: int = 0
    repaid: int = 0
    order: str | None = None
    refund: str | None = None


class NewMerge(NamedTuple):
    """An account that from now on is another."""

    merge_id: int
    program: str
    from_id: int
    into_id: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch does to the ledger, decided and ready to be written; `results` are in the order of the movements.

    `lots` are new ones, with what the batch itself already took from them or reserved.
    """

    results: tuple[Result, ...] = ()
    txns: tuple[Txn, ...] = ()
    entries: tuple[Entry, ...] = ()
    holds: tuple[NewHold, ...] = ()
    changes: tuple[AccountChange, ...] = ()
    controls: tuple[ControlChange, ...] = ()
    new_arrears: tuple[NewArrears, ...] = ()
    lots: tuple[LotState, ...] = ()
    lot_changes: tuple[LotChange, ...] = ()
    lot_uses: tuple[LotUse, ...] = ()
    hold_lots: tuple[HoldLot, ...] = ()
    hold_ends: tuple[HoldEnd, ...] = ()
    reversals: tuple[Reversal, ...] = ()
    merges: tuple[NewMerge, ...] = ()
