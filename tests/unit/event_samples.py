"""Valid events of every type as plain fields, for tests that change one thing at a time."""

import json

COMMON: dict[str, object] = {
    "id": "e-1",
    "source": "pos/shop-17",
    "program": "demo",
    "account": "member-1",
    "occurred_at": "2026-03-01T10:00:00.123+08:00",
}
OPTIONAL: dict[str, object] = {
    "store": "店-17",
    "channel": "app",
    "campaign": "spring",
    "order": "o-7",
    "device": "d-9",
    "ip": "203.0.113.77",
    "staff": "clerk-3",
    "payment": "tok-1",
    "referrer": "member-9",
}
OUTFLOW: dict[str, object] = {"fulfilled": True, "decide_by": "2026-03-01T02:00:05Z"}
REQUIRED: dict[str, dict[str, object]] = {
    "earn": {"points": 1200},
    "redeem": {"points": 800},
    "transfer": {"points": 50, "to": "member-2"},
    "adjust": {"points": -7, "reason": "counted twice"},
    "reverse": {"reverses": "e-0"},
    "account.created": {},
    "login": {},
    "credential.changed": {"credential": "password"},
    "device.bound": {"device": "d-9"},
    "verification.passed": {"challenge": "c-1"},
    "order.paid": {"order": "o-7", "amount": 12900},
    "order.refunded": {"order": "o-7", "amount": 0},
    "member.joined": {},
    "member.updated": {},
    "activity.done": {"activity": "check-in"},
}
EXTRA: dict[str, dict[str, object]] = {
    "redeem": OUTFLOW | {"pool": "family-3"},
    "transfer": OUTFLOW | {"pool": "family-3"},
    "adjust": OUTFLOW,
    "reverse": {"points": 5},
    "order.paid": {"currency": "CNY"},
    "order.refunded": {"currency": "CNY", "refund": "r-1"},
    "member.joined": {"tier": "gold"},
    "member.updated": {"tier": "gold", "status": "closed"},
    "activity.done": {"quantity": 2},
}


def least(kind: str = "earn", **changes: object) -> dict[str, object]:
    """Give an event with its required fields only, some changed."""
    return {"type": kind, **COMMON, **REQUIRED[kind], **changes}


def full(kind: str = "earn", **changes: object) -> dict[str, object]:
    """Give an event with every field it may have, some changed."""
    return {"type": kind, **COMMON, **OPTIONAL, **REQUIRED[kind], **EXTRA.get(kind, {}), **changes}


def raw(fields: dict[str, object]) -> bytes:
    """Write fields as compact JSON, as producers do."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
