"""Expires lots that are due. Pure. Nothing has to wait for it: an outflow first expires what is due of the spender's.

Each lot goes by a transaction of its own, member to the programme's `expired`, and only what no hold reserves of it: so
a second run finds nothing, and the reserved rest expires or is graced when its hold ends (`ledger.settling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ledger.desk import Desk
from ledger.movement import Accounts
from ledger.plan import Plan


def expire(accounts: Accounts, now: Mapping[str, int], ids: Iterator[int]) -> Plan:
    """Expire every lot of `accounts` that is due; load those lots only that shall be looked at.

    The plan has one transaction for each lot of which something expired.
    """
    desk = Desk(accounts, now, ids)
    for key in accounts.members:
        desk.expire_due(desk.account(key))
    return desk.close()
