"""Compares what another system says of points with what the ledger says. Pure: one pair at a time.

The other system's rows are events (source, event id, account, points) or balances (account, points). Points of a row
without a type are signed, as they change the account; with a type they are as in the event, where a redemption's are
positive.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["posted", "held", "rejected", "voided", "dead_letter"]
Class = Literal["matched", "missing_here", "missing_there", "differing", "repeated"]
CLASSES: tuple[Class, ...] = ("matched", "missing_here", "missing_there", "differing", "repeated")

_OUT = frozenset({"redeem", "transfer"})
_CORRECTABLE = frozenset({"earn", "redeem", "adjust"})


class Theirs(NamedTuple):
    """An event as the other system has it. `kind` is None where its rows have no type; then `points` are signed."""

    row: int
    source: str
    event_id: str
    account: str
    points: int
    kind: str | None = None


class Ours(NamedTuple):
    """An event as the ledger has it: what it asked for, and what was posted of it (without sign, for a part: less)."""

    source: str
    event_id: str
    account: str
    kind: str
    points: int
    state: State
    posted: int


class Correction(NamedTuple):
    """An adjustment that would make the ledger agree with the other system."""

    account: str
    points: int


class Finding(NamedTuple):
    """What was found of one event or account: its class, and `why` in words of a fixed list, comma-separated."""

    found: Class
    why: str
    corrections: tuple[Correction, ...] = ()


MATCHED = Finding("matched", "")


def change(kind: str | None, points: int) -> int:
    """What an event of that kind does to its account; without a kind, points are signed already."""
    return -points if kind in _OUT else points


def match_event(theirs: Theirs | None, ours: Ours | None) -> Finding:
    """Compare an event as both sides have it; None where a side has not. One side must have it.

    Corrections are proposed where the two sides simply differ: not where the event waits here for a decision or a
    retry, or was refused here, which is decided there and not by an adjustment; nor of transfers and reversals, which
    concern other accounts as well.
    """
    if theirs is None:
        if ours is None:
            raise ValueError("an event that nobody has cannot be compared")
        return _missing_there(ours)
    if ours is None:
        return _missing_here(theirs)
    if ours.state == "dead_letter":
        return Finding("missing_here", "dead_letter")
    return _differing(theirs, ours)


def _missing_there(ours: Ours) -> Finding:
    if ours.state != "posted":
        return Finding("missing_there", ours.state)
    if ours.kind not in _CORRECTABLE:
        return Finding("missing_there", ours.kind)
    return Finding("missing_there", "", (Correction(ours.account, -_effect(ours)),))


def _missing_here(theirs: Theirs) -> Finding:
    if theirs.kind is not None and theirs.kind not in _CORRECTABLE:
        return Finding("missing_here", theirs.kind)
    points = change(theirs.kind, theirs.points)
    return Finding("missing_here", "", (Correction(theirs.account, points),) if points else ())


def _differing(theirs: Theirs, ours: Ours) -> Finding:
    why = []
    if theirs.kind is not None and theirs.kind != ours.kind:
        why.append("type")
    if theirs.account != ours.account:
        why.append("account")
    if ours.state != "posted":
        why.append(ours.state)
    elif not _same_points(theirs, ours):
        why.append("points")
    if not why:
        return MATCHED
    kinds = {ours.kind, theirs.kind or ours.kind}
    if ours.state != "posted" or not kinds <= _CORRECTABLE:
        return Finding("differing", ", ".join(why))
    return Finding("differing", ", ".join(why), _corrections(theirs, ours))


def _same_points(theirs: Theirs, ours: Ours) -> bool:
    if ours.kind == "reverse":
        # How much a reversal takes is decided here, where the event may say "all that is left"; its sign depends on
        # what it takes back.
        return abs(theirs.points) in {0, ours.posted}
    return change(theirs.kind, theirs.points) == _effect(ours)


def _effect(ours: Ours) -> int:
    signed = change(ours.kind, ours.points)
    return ours.posted if signed > 0 else -ours.posted


def _corrections(theirs: Theirs, ours: Ours) -> tuple[Correction, ...]:
    here, there = _effect(ours), change(theirs.kind, theirs.points)
    if theirs.account == ours.account:
        wanted = [Correction(ours.account, there - here)]
    else:
        wanted = [Correction(ours.account, -here), Correction(theirs.account, there)]
    return tuple(one for one in wanted if one.points)


def match_balance(account: str, theirs: int | None, ours: int | None) -> Finding:
    """Compare an account's points as both sides have them; None where a side does not know the account.

    An account that one side does not know and the other has at zero is no difference. What only the ledger has is not
    corrected: a balance missing from a list says less than one that is there.
    """
    if (theirs or 0) == (ours or 0):
        return MATCHED
    if theirs is None:
        return Finding("missing_there", "")
    found: Class = "missing_here" if ours is None else "differing"
    return Finding(found, "points", (Correction(account, theirs - (ours or 0)),))
