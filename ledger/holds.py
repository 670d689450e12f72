"""Ends holds, once: by a recorded decision and a new transaction that posts or voids what was pending.

Whoever races for a hold waits for its row; the first writes the resolution, the others are told who did and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from ledger.arrays import bigints, fetch, run, texts, timestamps
from ledger.ids import IdBlocks
from ledger.movement import Accounts, Key, Timeout
from ledger.posting import OpenHold, Settlement, settle
from ledger.programs import ledger_now
from ledger.store import STATE, read_states, write

Outcome = Literal["resolved", "escalated", "already_resolved", "unknown_hold"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What somebody wants done with a hold. `escalate` records the decision, stops its timer and leaves it open."""

    hold_id: int
    verdict: Timeout
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a Resolution.

    The last five fields tell the decision that stands: this one's if it was `resolved` or `escalated`, the earlier
    one's if the hold was `already_resolved`, and nothing for an `unknown_hold`.
    """

    hold_id: int
    outcome: Outcome
    decision_id: int | None = None
    verdict: Timeout | None = None
    actor: str | None = None
    reason: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DueHold:
    """A hold whose time has come, with what is to be done of it by itself."""

    hold_id: int
    program: str
    kind: str
    on_timeout: Timeout


_LOCK_HOLDS = """
SELECT hold_id, program, kind, amount, account_id, peer_id, resolved_at IS NOT NULL
  FROM hold WHERE hold_id = ANY(%(ids)s) ORDER BY hold_id FOR UPDATE"""

_LOCK_ACCOUNTS = f"""
SELECT 0, {STATE}, a.program, a.name FROM account a
 WHERE a.account_id = ANY(%(ids)s) ORDER BY a.account_id FOR UPDATE"""  # noqa: S608 -- made of constants only

_CONTROLS = """
SELECT program, name, account_id FROM account WHERE program = ANY(%(programs)s) AND kind = 'control'"""

_DECIDE = """
INSERT INTO review_decision (decision_id, hold_id, verdict, actor, reason, decided_at, effective_at)
SELECT decision_id, hold_id, verdict, actor, reason, at, at
  FROM unnest(%(ids)s, %(holds)s, %(verdicts)s, %(actors)s, %(reasons)s, %(at)s)
       AS w(decision_id, hold_id, verdict, actor, reason, at)"""

# The hold's row is locked, so nothing is in the way here unless the row said "open" wrongly; then the key refuses.
_RESOLVE = """
INSERT INTO hold_resolution (hold_id, verdict, decision_id, resolved_at)
SELECT hold_id, verdict, decision_id, at
  FROM unnest(%(holds)s, %(verdicts)s, %(ids)s, %(at)s) AS w(hold_id, verdict, decision_id, at)"""

_CLOSE = """
UPDATE hold SET resolved_at = w.at FROM unnest(%(holds)s, %(at)s) AS w(hold_id, at) WHERE hold.hold_id = w.hold_id"""

_STOP_TIMER = "UPDATE hold SET due_at = NULL WHERE hold_id = ANY(%(holds)s)"

_STANDING = """
SELECT hold_id, decision_id, verdict, actor, reason, effective_at FROM review_decision
 WHERE decision_id = ANY(%(ids)s)
    OR decision_id IN (SELECT decision_id FROM hold_resolution WHERE hold_id = ANY(%(holds)s))"""

_DUE = text("""
SELECT hold_id, program, kind, on_timeout FROM hold
 WHERE program = :program AND resolved_at IS NULL AND due_at <= to_timestamp(CAST(:now AS bigint) / 1000.0)
 ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED""")


def due(conn: Connection, programs: Sequence[str], most: int) -> list[DueHold]:
    """Lock and return up to `most` open holds that are due by their programme's ledger clock, skipping locked ones.

    Give each back to `resolve` in the same transaction, with its `on_timeout` as the verdict and the policy as actor: a
    timer never ends a hold without a recorded decision.
    """
    found: list[DueHold] = []
    for program, now in sorted(ledger_now(conn, programs).items()):
        rows = conn.execute(_DUE, {"program": program, "now": now, "most": most - len(found)})
        found += [DueHold(*row) for row in rows]
    return found


def resolve(conn: Connection, ids: IdBlocks, resolutions: Sequence[Resolution]) -> list[Resolved]:
    """Decide holds, each at most once in its life, in the order given; one Resolved for each Resolution.

    Locks the hold rows, then the accounts, both by id. A decision gets an id of its own, which is also the id of the
    transaction that posts or voids. Recorded at the ledger's time. Must run in a READ COMMITTED transaction, which the
    caller commits.
    """
    if not resolutions:
        return []
    asked = bigints(sorted({resolution.hold_id for resolution in resolutions}))
    holds: dict[int, _Hold] = {row[0]: _Hold._make(row) for row in fetch(conn, _LOCK_HOLDS, {"ids": asked})}
    outcomes = _judge(resolutions, holds)
    decided = [n for n, outcome in enumerate(outcomes) if outcome in {"resolved", "escalated"}]
    decision_ids = dict(zip(decided, ids.take(conn, len(decided)), strict=True))
    _record(conn, [(decision_ids[n], resolutions[n], holds[resolutions[n].hold_id]) for n in decided])
    rows = fetch(conn, _STANDING, {"ids": bigints(list(decision_ids.values())), "holds": asked})
    by_id = {row[1]: row for row in rows}
    final = {row[0]: row for row in rows if row[2] != "escalate"}
    return [
        Resolved(resolution.hold_id, "unknown_hold")
        if outcome == "unknown_hold"
        else Resolved(
            resolution.hold_id,
            outcome,
            *(by_id[decision_ids[n]] if outcome == "escalated" else final[resolution.hold_id])[1:],
        )
        for n, (resolution, outcome) in enumerate(zip(resolutions, outcomes, strict=True))
    ]


class _Hold(NamedTuple):
    hold_id: int
    program: str
    kind: str
    amount: int
    account_id: int
    peer_id: int | None
    resolved: bool


def _judge(resolutions: Sequence[Resolution], holds: Mapping[int, _Hold]) -> list[Outcome]:
    still_open = {hold.hold_id for hold in holds.values() if not hold.resolved}
    outcomes: list[Outcome] = []
    for resolution in resolutions:
        if resolution.hold_id not in holds:
            outcomes.append("unknown_hold")
        elif resolution.hold_id not in still_open:
            outcomes.append("already_resolved")
        elif resolution.verdict == "escalate":
            outcomes.append("escalated")
        else:
            still_open.remove(resolution.hold_id)
            outcomes.append("resolved")
    return outcomes


def _record(conn: Connection, decided: Sequence[tuple[int, Resolution, _Hold]]) -> None:
    if not decided:
        return
    ending = [item for item in decided if item[1].verdict != "escalate"]
    accounts, keys = _lock(conn, [hold for _, _, hold in ending])
    now = ledger_now(conn, {hold.program for _, _, hold in decided})
    _insert_decisions(conn, decided, now)
    settlements = [
        Settlement(
            decision_id,
            OpenHold(
                hold.hold_id,
                hold.program,
                hold.kind,
                hold.amount,
                keys[hold.account_id][1],
                None if hold.peer_id is None else keys[hold.peer_id][1],
            ),
            "post" if resolution.verdict == "post" else "void",
            now[hold.program],
        )
        for decision_id, resolution, hold in ending
    ]
    write(conn, settle(accounts, settlements), now)
    _insert_ends(conn, ending, now)
    stopped = [hold.hold_id for _, resolution, hold in decided if resolution.verdict == "escalate"]
    if stopped:
        run(conn, _STOP_TIMER, {"holds": bigints(stopped)})


def _lock(conn: Connection, holds: Sequence[_Hold]) -> tuple[Accounts, dict[int, Key]]:
    if not holds:
        return Accounts({}, {}), {}
    wanted = {hold.account_id for hold in holds} | {hold.peer_id for hold in holds if hold.peer_id is not None}
    rows = fetch(conn, _LOCK_ACCOUNTS, {"ids": bigints(sorted(wanted))})
    keys = {row[1]: (row[11], row[12]) for row in rows}
    programs = texts(sorted({hold.program for hold in holds}))
    controls = {(row[0], row[1]): row[2] for row in fetch(conn, _CONTROLS, {"programs": programs})}
    return Accounts(dict(zip(keys.values(), read_states(conn, rows), strict=True)), controls), keys


def _insert_decisions(
    conn: Connection, decided: Sequence[tuple[int, Resolution, _Hold]], now: Mapping[str, int]
) -> None:
    run(
        conn,
        _DECIDE,
        {
            "ids": bigints([decision_id for decision_id, _, _ in decided]),
            "holds": bigints([hold.hold_id for _, _, hold in decided]),
            "verdicts": texts([resolution.verdict for _, resolution, _ in decided]),
            "actors": texts([resolution.actor for _, resolution, _ in decided]),
            "reasons": texts([resolution.reason for _, resolution, _ in decided]),
            "at": timestamps([now[hold.program] for _, _, hold in decided]),
        },
    )


def _insert_ends(conn: Connection, ending: Sequence[tuple[int, Resolution, _Hold]], now: Mapping[str, int]) -> None:
    if not ending:
        return
    holds = bigints([hold.hold_id for _, _, hold in ending])
    at = timestamps([now[hold.program] for _, _, hold in ending])
    run(
        conn,
        _RESOLVE,
        {
            "holds": holds,
            "verdicts": texts([resolution.verdict for _, resolution, _ in ending]),
            "ids": bigints([decision_id for decision_id, _, _ in ending]),
            "at": at,
        },
    )
    run(conn, _CLOSE, {"holds": holds, "at": at})
