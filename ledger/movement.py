"""The values the ledger's pure core takes: movements, and accounts as they stand under their locks.

Times are milliseconds since 1970 (UTC), and always arguments. Points are integers. An account is known by its key
`(program, name)`; a member's arrears hang on the member's state. What the core gives is in `ledger.plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from ledger.terms import MOST, Terms

if TYPE_CHECKING:
    from ledger.origin import Origin

Key = tuple[str, str]
Kind = Literal["earn", "redeem", "transfer", "adjust", "reverse"]
Verdict = Literal["post", "hold", "reject"]
Timeout = Literal["void", "post", "escalate"]
AccountKind = Literal["member", "pool"]
Code = Literal[
    "posted",
    "held",
    "rejected",
    "points_out_of_range",
    "same_account",
    "not_in_pool",
    "balance_out_of_range",
    "insufficient_balance",
    "too_many_holds",
    "unknown_original",
    "nothing_to_reverse",
    "unknown_account",
    "open_holds",
    "account_merged",
    "duplicate",
]

POSTED, PENDING, RELEASE = 0, 1, 2
MAX_POINTS = MOST
POOL = "pool:"
"""What the name of a pool's account begins with; no member's may."""
OWN = "pointguard:"
"""What the sources of the ledger's own transactions begin with; no event's may."""


class Movement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event that wants to move points, with what was decided of it.

    `id` is the decision's id and becomes the id of the transaction, and of the hold. `points` are positive, except that
    an adjust takes points away with negative ones. `to` is the other member of a transfer, or a pool's account
    (`pool:…`). A `fact` has happened already: an outflow of it is posted whatever the verdict, and what the balance
    lacks becomes arrears. A hold falls due `due_seconds` after it is recorded, by the ledger's clock (None: never), and
    is then resolved as `on_timeout` says.

    `store` is where it happened, `order` the order it belongs to. Points earned expire at `expires_ms`, or as the
    terms say. With `pool`, points come out of the account `pool:{pool}` and `account` is the member who acts for it.
    A reverse takes back what the event `reverses` (source, event id) moved: `points` of it, or with 0 all that is left.
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
    store: str | None = None
    order: str | None = None
    expires_ms: int | None = None
    pool: str | None = None
    reverses: tuple[str, str] | None = None


class LotState(NamedTuple):
    """Points that came in together, as they stand: `remaining` of `issued` are left, `reserved` of these by open holds.

    `txn_id` is the transaction that gave them, `parent` the lot they were moved out of. They fall due at `expires_ms`
    (None: never) and were earned at `store` (None: not told).
    """

    lot_id: int
    program: str
    account_id: int
    txn_id: int
    parent: int | None
    issued: int
    remaining: int
    reserved: int
    earned_ms: int
    expires_ms: int | None
    store: str | None


class ArrearsState(NamedTuple):
    """What a member owes: `posted_dr - posted_cr`, never negative."""

    account_id: int
    posted_dr: int
    posted_cr: int
    entry_count: int


class AccountState(NamedTuple):
    """A member's or pool's account as it stands under its lock. Times are epoch milliseconds; None where never told.

    `lots` are in order of use; they are needed only of accounts that something may be taken from, and of these only so
    many as that takes, due ones first. `merged_into` is the name of the account this state is of, if the account of the
    key it was found by was merged into it.
    """

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
    kind: AccountKind = "member"
    open_holds: int = 0
    lots: tuple[LotState, ...] = ()
    merged_into: str | None = None

    @property
    def available(self) -> int:
        """Points not set aside: posted, less what open holds took. Due lots that nothing has expired yet count."""
        return self.posted_cr - self.posted_dr - self.pending_dr


@dataclass(frozen=True, slots=True)
class Accounts:
    """Locked accounts by key, and what else a batch must know of the programmes it touches.

    Keys of one account, as merges leave them, have the same state. `controls` are the ids of control accounts by
    (program, control name), `stores` those of stores' accounts by (program, store), `pools` the members by the key of
    the pool's account, `terms` by programme (none: the defaults), `origins` what reverses name, by (source, event id).
    """

    members: Mapping[Key, AccountState]
    controls: Mapping[Key, int]
    stores: Mapping[Key, int] = field(default_factory=dict)
    pools: Mapping[Key, frozenset[str]] = field(default_factory=dict)
    terms: Mapping[str, Terms] = field(default_factory=dict)
    origins: Mapping[tuple[str, str], Origin] = field(default_factory=dict)


class OpenHold(NamedTuple):
    """An open hold as it stands under its lock; `peer` is the receiver of a transfer, `lots` what is reserved of which.

    `amount` is negative for an adjust that takes away. `occurred_ms` is when the held event happened, `expires_ms` when
    its points shall expire if the event said so. `due_ms` is when its time is over (None: never).
    """

    hold_id: int
    program: str
    kind: str
    amount: int
    account: str
    peer: str | None = None
    occurred_ms: int = 0
    due_ms: int | None = None
    on_timeout: Timeout = "escalate"
    lots: tuple[tuple[int, int], ...] = ()
    store: str | None = None
    order: str | None = None
    expires_ms: int | None = None

    @property
    def takes(self) -> bool:
        """Whether its account gives points (and so reserves lots), rather than gets them."""
        return self.kind in {"redeem", "transfer"} or self.amount < 0


class Settlement(NamedTuple):
    """How a hold is to end: `txn_id` is the id of the decision that ends it. Of a post, `points` None means all."""

    txn_id: int
    hold: OpenHold
    verdict: Literal["post", "void"]
    points: int | None = None
    actor: str = ""
    reason: str = ""


class Result(NamedTuple):
    """What became of a movement.

    `available` and `owed` are of the account whose points it was about (a pool's, where a member acted for it), by its
    counters after the movement: due lots that nothing has expired yet still count.
    """

    code: Code
    available: int
    owed: int
