"""What people ask of a ledger: random movements, weighted so that most go through and every refusal has its chance."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.contract.ledger_pair import Pair

Asked = dict[str, Any]
MEMBERS = ("ann", "bob", "cem")
SOMEBODY = ("ann", "ann", "ann", "bob", "bob", "cem")
POOLS = ("x",) * 7 + ("y",)
ORDERS = ("o1", "o2")
HUGE = 2**53 - 1
ODD = (0, -1, 300, HUGE, HUGE + 1, HUGE // 2)


def terms(chance: Random) -> Asked:
    """Terms of a programme, most of them such that lots expire within a script."""
    every: Asked = {
        "expiry_days": chance.randint(1, 4),
        "expiry_from": chance.choice(("earned", "approved")),
        "grace_days": chance.randint(0, 2),
        "shortfall": chance.choice(("arrears", "clamp")),
        "max_open_holds": chance.randint(1, 4),
        "max_posting": 100,
        "max_balance": chance.choice((150, 400)),
        "funding": chance.choice(("program", "store")),
        "refund_restores": chance.random() < 0.5,
    }
    seldom = {"max_open_holds", "max_posting", "max_balance"}
    return {name: value for name, value in every.items() if chance.random() < (0.15 if name in seldom else 0.7)}


def any_of(chance: Random) -> Asked:
    """Any movement that is not a reversal."""
    return chance.choice((inflow, inflow, outflow, transfer))(chance)


def inflow(chance: Random) -> Asked:
    """An earn, or an adjustment that gives."""
    lasts = {"lasts": chance.randint(-1, 100)} if chance.random() < 0.2 else {}
    kind = chance.choice(("earn", "earn", "earn", "adjust"))
    return {
        "kind": kind,
        "account": chance.choice(SOMEBODY),
        "points": _points(chance, 45),
        **lasts,
        **_extras(chance, 20),
    }


def outflow(chance: Random) -> Asked:
    """A redemption, or an adjustment that takes; a fact or of a pool now and then."""
    kind = chance.choice(("redeem", "redeem", "adjust"))
    points = _points(chance, 40)
    asked: Asked = {"kind": kind, "account": chance.choice(SOMEBODY), "points": points if kind == "redeem" else -points}
    if chance.random() < (0.2 if kind == "redeem" else 0.02):
        asked["pool"] = chance.choice(POOLS)
    return asked | _fact(chance) | _extras(chance, 40)


def transfer(chance: Random) -> Asked:
    """A transfer between members, into a pool or out of it."""
    member = chance.choice(SOMEBODY)
    other = chance.choice([name for name in MEMBERS if name != member or chance.random() < 0.05])
    asked: Asked = {"kind": "transfer", "account": member, "points": _points(chance, 40), "to": other}
    if chance.random() < 0.35:
        asked["to"] = f"pool:{chance.choice(POOLS)}"
    if chance.random() < 0.15:
        asked["pool"] = chance.choice(POOLS)
    return asked | _fact(chance) | _extras(chance, 40)


def reverse(chance: Random, pair: Pair, program: str, coming: int = 0) -> Asked:
    """A reversal of an event there was, or seldom of one that comes, never was, or is another's."""
    events = [*pair.events_of(program), *(pair.next_events(coming) if chance.random() < 0.3 else ())] or ["e0"]
    if chance.random() < 0.03:
        events = ["e0", *pair.events_of("south" if program == "north" else "north")]
    spent = [one for one in events if pair.spent_several(program, one)]
    events = spent if spent and chance.random() < 0.3 else events
    event = chance.choice(events[-12:] if chance.random() < 0.5 else events)
    account = chance.choice(MEMBERS) if chance.random() < 0.05 else pair.account_of(program, event)
    points = 0 if chance.random() < 0.3 else _points(chance, 25)
    verdict = "reject" if chance.random() < 0.03 else chance.choice(("post", "hold"))
    return {"kind": "reverse", "account": account, "points": points, "verdict": verdict, "reverses": event}


def _points(chance: Random, usual: int) -> int:
    return chance.choice(ODD) if chance.random() < 0.04 else chance.randint(1, usual)


def _fact(chance: Random) -> Asked:
    return {"fact": True} if chance.random() < 0.2 else {}


def _extras(chance: Random, holds: int) -> Asked:
    every: Asked = {
        "store": chance.choice(("s1", "s2")),
        "order": chance.choice(ORDERS),
        "ago": chance.randint(0, 30),
        "due_seconds": chance.choice((0, 3600, 100_000)),
        "on_timeout": chance.choice(("void", "post", "escalate")),
    }
    verdict = chance.choices(("post", "hold", "reject"), (96 - holds, holds, 4))[0]
    return {"verdict": verdict} | {name: value for name, value in every.items() if chance.random() < 0.4}
