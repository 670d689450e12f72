"""Takes back, and gives back, an order's points in proportion to the money refunded. Pure.

All is counted from the beginning: after each refund, of what the order's movements moved in all, the share
`floor(points * refunded so far / order total)` shall be taken back. So many small refunds come to the same as one, and
what a reversal took by itself is not taken twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ledger.book import OrderRefund
from ledger.desk import Desk
from ledger.movement import OWN, Accounts, Result
from ledger.origin import Origin
from ledger.plan import Plan
from ledger.reversal import Cause, take_back

REFUND_SOURCE = OWN + "refund"


def owing(origins: Sequence[Origin], refunded: int, total: int) -> int:
    """Return how many points of these movements must still be taken back, once `refunded` of `total` money was."""
    moved = sum(origin.left + origin.reversed for origin in origins)
    return max(0, moved * min(refunded, total) // total - sum(origin.reversed for origin in origins))


def plan_refund(
    accounts: Accounts, refund: OrderRefund, refunded: int, now: Mapping[str, int], ids: Iterator[int]
) -> Plan:
    """Plan a refund that makes `refunded` in all of the order's total; `accounts.origins` are the order's movements.

    The oldest give first. What was spent on the order goes back before what was earned with it is taken, so that no
    debt is made, or forgiven, that the refund itself repays.
    """
    desk = Desk(accounts, now, ids)
    terms = desk.terms(refund.program)
    origins = sorted(accounts.origins.values(), key=lambda origin: origin.root)
    spent = [one for one in origins if not one.inflow and one.kind != "transfer"] if terms.refund_restores else []
    for group in (spent, [one for one in origins if one.inflow]):
        wanted = owing(group, refunded, refund.order_total)
        for origin in group:
            points = min(wanted, origin.left)
            if points and take_back(desk, origin, _cause(desk, refund, origin), points) == "posted":
                wanted -= points
    results = tuple([_result(desk, origin) for origin in origins[:1]])
    return desk.close(results)


def _cause(desk: Desk, refund: OrderRefund, origin: Origin) -> Cause:
    event_id = f"{refund.order}/{refund.refund}/{origin.root}"
    return Cause(desk.new_id(), REFUND_SOURCE, event_id, refund.occurred_ms, refund.order, refund.refund)


def _result(desk: Desk, origin: Origin) -> Result:
    account = desk.account((origin.program, origin.account))
    return Result("posted", account.available, account.owed)
