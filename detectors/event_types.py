"""The event contract: every type of event, its fields and their bounds (docs/events.md says it for upstream people).

One frozen msgspec struct a type, told apart by the field `type`. Unknown fields are refused. What a struct can't say by
itself (control characters, addresses, adjust by zero, the span of years) is checked by `detectors.event.decode`.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Final

from msgspec import Meta, Struct

BODY_BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 8
ID_LENGTH_MAX: Final = 128
TEXT_LENGTH_MAX: Final = 256
POINTS_MAX: Final = 2**53 - 1
"""The largest integer every JSON implementation keeps exactly."""
YEAR_MIN: Final = 1971
YEAR_MAX: Final = 2199

Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH_MAX)]
Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
Points = Annotated[int, Meta(gt=0, le=POINTS_MAX)]
SignedPoints = Annotated[int, Meta(ge=-POINTS_MAX, le=POINTS_MAX)]
Amount = Annotated[int, Meta(ge=0, le=POINTS_MAX)]
Quantity = Annotated[int, Meta(gt=0, le=POINTS_MAX)]
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
Time = Annotated[datetime, Meta(tz=True)]


class Common(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type"):
    """What every event carries. `id` and `source` together are its identity, `account` the member it is about."""

    type: ClassVar[str]
    moves: ClassVar[bool] = False
    """Whether the event moves points by itself."""

    id: Id
    source: Id
    program: Id
    account: Id
    occurred_at: Time
    store: Id | None = None
    channel: Id | None = None
    campaign: Id | None = None
    order: Id | None = None
    device: Id | None = None
    ip: Id | None = None
    staff: Id | None = None
    payment: Id | None = None
    referrer: Id | None = None


class Earn(Common, frozen=True, kw_only=True, tag="earn"):
    """Points come in. A fact that may be held."""

    type: ClassVar[str] = "earn"
    moves: ClassVar[bool] = True

    points: Points


class Redeem(Common, frozen=True, kw_only=True, tag="redeem"):
    """Points go out for goods: a request, or a fact once `fulfilled`. Expires unanswered at `decide_by`.

    With `pool` they come out of that pool, of which the account must be a member.
    """

    type: ClassVar[str] = "redeem"
    moves: ClassVar[bool] = True

    points: Points
    pool: Id | None = None
    fulfilled: bool = False
    decide_by: Time | None = None


class Transfer(Common, frozen=True, kw_only=True, tag="transfer"):
    """Points go from `account`, or from its `pool`, to the account `to` of the same programme (`pool:…`: a pool)."""

    type: ClassVar[str] = "transfer"
    moves: ClassVar[bool] = True

    points: Points
    to: Id
    pool: Id | None = None
    fulfilled: bool = False
    decide_by: Time | None = None


class Adjust(Common, frozen=True, kw_only=True, tag="adjust"):
    """A correction by hand, signed and never zero; `reason` says why."""

    type: ClassVar[str] = "adjust"
    moves: ClassVar[bool] = True

    points: SignedPoints
    reason: Text
    fulfilled: bool = False
    decide_by: Time | None = None


class Reverse(Common, frozen=True, kw_only=True, tag="reverse"):
    """Takes back the event with the id `reverses` of the same source, in full or by `points` of it."""

    type: ClassVar[str] = "reverse"
    moves: ClassVar[bool] = True

    reverses: Id
    points: Points | None = None


class AccountCreated(Common, frozen=True, kw_only=True, tag="account.created"):
    """A member signed up."""

    type: ClassVar[str] = "account.created"


class Login(Common, frozen=True, kw_only=True, tag="login"):
    """A member logged in."""

    type: ClassVar[str] = "login"


class CredentialChanged(Common, frozen=True, kw_only=True, tag="credential.changed"):
    """A password, phone, e-mail or other `credential` (its kind, never its value) was changed."""

    type: ClassVar[str] = "credential.changed"

    credential: Id


class DeviceBound(Common, frozen=True, kw_only=True, tag="device.bound"):
    """`device` was bound to the account."""

    type: ClassVar[str] = "device.bound"

    device: Id


class VerificationPassed(Common, frozen=True, kw_only=True, tag="verification.passed"):
    """The member passed the `challenge` of that id."""

    type: ClassVar[str] = "verification.passed"

    challenge: Id


class OrderPaid(Common, frozen=True, kw_only=True, tag="order.paid"):
    """An order was paid: `amount` in minor units of `currency`. The programme decides what it earns."""

    type: ClassVar[str] = "order.paid"

    order: Id
    amount: Amount
    currency: Currency | None = None


class OrderRefunded(Common, frozen=True, kw_only=True, tag="order.refunded"):
    """`amount` (minor units) of an order went back; `refund` tells several refunds of one order apart."""

    type: ClassVar[str] = "order.refunded"

    order: Id
    amount: Amount
    currency: Currency | None = None
    refund: Id | None = None


class MemberJoined(Common, frozen=True, kw_only=True, tag="member.joined"):
    """A member joined the programme."""

    type: ClassVar[str] = "member.joined"

    tier: Id | None = None


class MemberUpdated(Common, frozen=True, kw_only=True, tag="member.updated"):
    """A member's tier or status changed upstream."""

    type: ClassVar[str] = "member.updated"

    tier: Id | None = None
    status: Id | None = None


class ActivityDone(Common, frozen=True, kw_only=True, tag="activity.done"):
    """A member did something that may be rewarded: a check-in, a survey, a game."""

    type: ClassVar[str] = "activity.done"

    activity: Id
    quantity: Quantity = 1


Event = (
    Earn
    | Redeem
    | Transfer
    | Adjust
    | Reverse
    | AccountCreated
    | Login
    | CredentialChanged
    | DeviceBound
    | VerificationPassed
    | OrderPaid
    | OrderRefunded
    | MemberJoined
    | MemberUpdated
    | ActivityDone
)
"""One event of any type."""

EVENT_CLASSES: Final[tuple[type[Common], ...]] = (
    Earn,
    Redeem,
    Transfer,
    Adjust,
    Reverse,
    AccountCreated,
    Login,
    CredentialChanged,
    DeviceBound,
    VerificationPassed,
    OrderPaid,
    OrderRefunded,
    MemberJoined,
    MemberUpdated,
    ActivityDone,
)
EVENT_TYPES: Final = {cls.type: cls for cls in EVENT_CLASSES}
MOVES: Final = frozenset(cls.type for cls in EVENT_CLASSES if cls.moves)
"""The types that move points by themselves."""
PROGRAM: Final = frozenset({"order.paid", "order.refunded", "member.joined", "member.updated", "activity.done"})
"""The types a programme turns into postings."""
INFORM: Final = frozenset(EVENT_TYPES) - MOVES - PROGRAM
"""The types that only inform."""
