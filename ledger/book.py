"""A whole ledger behind one door: what PostgreSQL and the twin in memory both do, and the values that go in and out.

`ledger.book_postgres` is the real one, `ledger.memory` the twin; one contract suite holds both to this protocol. Each
call is one transaction: done wholly or not at all. Times are epoch milliseconds of the programme's ledger clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import msgspec

from ledger.movement import Key, LotState, Movement, OpenHold, Result, Timeout
from ledger.plan import Entry, HoldLot, LotUse, NewMerge, Reversal, Txn
from ledger.terms import DEFAULT_TERMS, Terms

Mode = Literal["live", "simulation"]
TIMEOUT_ACTOR = "policy:timeout"
TIMEOUT_REASON = "nobody decided before the hold was due"
Outcome = Literal["resolved", "escalated", "already_resolved", "unknown_hold", "points_out_of_range"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What somebody wants done with a hold. `escalate` records the decision, stops its timer and leaves it open.

    A post may be of part of the hold: `points` from 1 to what it holds (None: all); the rest is released.
    """

    hold_id: int
    verdict: Timeout
    actor: str
    reason: str
    points: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a Resolution.

    The last six fields tell the decision that stands: this one's if it was `resolved` or `escalated`, the earlier one's
    if the hold was `already_resolved`, and nothing for an `unknown_hold` or for `points_out_of_range`, which leave all
    as it was. `posted` points of the hold went through.
    """

    hold_id: int
    outcome: Outcome
    decision_id: int | None = None
    verdict: Timeout | None = None
    actor: str | None = None
    reason: str | None = None
    at_ms: int | None = None
    posted: int = 0


class OrderRefund(msgspec.Struct, frozen=True, kw_only=True):
    """Money given back on an order: of `order_total`, `amount` (both in minor units) under the id `refund`.

    `id` is the decision's id; what the refund moves takes it or ids of its own. Told twice, it is done once.
    """

    id: int
    program: str
    order: str
    refund: str
    amount: int
    order_total: int
    occurred_ms: int


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """One member turned out to be another: `account` becomes `into`. `id` becomes the id of the merge."""

    id: int
    program: str
    account: str
    into: str
    actor: str
    reason: str


class MemberView(NamedTuple):
    """What a member or pool has now.

    `posted` counts all points, `available` what may be spent: without what open holds took and without points that are
    due, whether or not anything has expired them yet. `lots` are open ones, in order of use.
    """

    posted: int
    pending_in: int
    pending_out: int
    available: int
    owed: int
    lots: tuple[LotState, ...]
    open_holds: int


class DumpAccount(NamedTuple):
    """An account of any kind as it stands; control and store accounts with their tail of deltas folded in."""

    account_id: int
    program: str
    kind: str
    name: str
    posted_dr: int
    posted_cr: int
    pending_dr: int
    pending_cr: int
    entry_count: int
    open_holds: int
    arrears_id: int | None
    merged_into: int | None


class DumpHold(NamedTuple):
    """A hold with how it ended: `decision_id`, `verdict` and `posted` are None while it is open."""

    hold_id: int
    program: str
    account_id: int
    peer_id: int | None
    kind: str
    amount: int
    replaces: int | None
    decision_id: int | None
    verdict: str | None
    posted: int | None


class DumpReview(NamedTuple):
    """A recorded decision on a hold, escalations included."""

    decision_id: int
    hold_id: int
    verdict: str
    actor: str


@dataclass(frozen=True, slots=True)
class Dump:
    """Everything in the ledger, each table in the order of its key: what invariants are checked on."""

    accounts: tuple[DumpAccount, ...]
    txns: tuple[Txn, ...]
    entries: tuple[Entry, ...]
    lots: tuple[LotState, ...]
    lot_uses: tuple[LotUse, ...]
    holds: tuple[DumpHold, ...]
    hold_lots: tuple[HoldLot, ...]
    reviews: tuple[DumpReview, ...]
    reversals: tuple[Reversal, ...]
    merges: tuple[NewMerge, ...]


class Ledger(Protocol):
    """A ledger of several programmes."""

    def create_program(self, name: str, mode: Mode = "simulation", terms: Terms = DEFAULT_TERMS) -> None:
        """Create a programme, or change the terms of one that exists (TermsError where they are for life)."""

    def advance(self, program: str, epoch_ms: int) -> None:
        """Move a simulation's clock up to `epoch_ms`; it never goes back."""

    def take_ids(self, count: int) -> list[int]:
        """Take new ids for decisions, ascending."""

    def post(self, movements: Sequence[Movement]) -> list[Result]:
        """Decide movements in order, as one batch; accounts named for the first time are opened."""

    def resolve(self, resolutions: Sequence[Resolution]) -> list[Resolved]:
        """End holds, each at most once in its life, in order."""

    def time_out(self, program: str) -> list[Resolved]:
        """Let the policy end the holds that are due, as each hold's own `on_timeout` says."""

    def expire(self, program: str, most: int = 1000) -> int:
        """Expire up to `most` due lots, the oldest first; how many were."""

    def refund(self, refund: OrderRefund) -> Result:
        """Take back, and give back, an order's points in proportion to the money refunded so far."""

    def merge(self, merge: Merge) -> Result:
        """Move all of one member's points, debts and movements to come to another member."""

    def join_pool(self, program: str, pool: str, member: str) -> bool:
        """Let a member spend from a pool, which is opened if it is new; False if it could already."""

    def leave_pool(self, program: str, pool: str, member: str) -> bool:
        """End a member's right to spend from a pool; False if it had none."""

    def member(self, program: str, name: str) -> MemberView | None:
        """What an account has now (`pool:…` for a pool's); None if there is none."""

    def holds(self, program: str) -> list[OpenHold]:
        """The open holds with what they freeze, by id."""

    def dump(self, programs: Collection[str] | None = None) -> Dump:
        """Everything there is of these programmes, or of all."""


def pool_key(program: str, pool: str) -> Key:
    """Return the key of a pool's account."""
    return program, f"pool:{pool}"
