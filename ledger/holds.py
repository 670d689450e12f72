"""Ends holds, once: by a recorded decision and a new transaction that posts or voids what was pending.

The lock of a hold is its accounts' lock: whoever races for a hold waits for them; the first writes the resolution, the
others are told who did and why. Which accounts a hold is of never changes, so it may be read before they are locked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledger.arrays import bigints, fetch, run
from ledger.book import Outcome, Resolution, Resolved
from ledger.ids import IdBlocks
from ledger.movement import Accounts, OpenHold, Settlement, Timeout
from ledger.programs import ledger_now, load_programs, store_accounts
from ledger.settling import settle
from ledger.store import LockedAccount, lock_ids, write
from ledger.store_lots import read_lots, write_decisions


@dataclass(frozen=True, slots=True)
class DueHold:
    """A hold whose time has come, with what is to be done of it by itself."""

    hold_id: int
    program: str
    kind: str
    on_timeout: Timeout


class HoldRow(NamedTuple):
    """A hold as it stands under its accounts' locks."""

    hold: OpenHold
    account_id: int
    peer_id: int | None
    resolved: bool


_WHOSE = "SELECT account_id, peer_id FROM hold WHERE hold_id = ANY(%(ids)s)"

_HOLDS = """
SELECT h.hold_id, h.program, h.kind, h.amount, a.name, p.name, (date_part('epoch', t.occurred_at) * 1000)::bigint,
       (date_part('epoch', h.due_at) * 1000)::bigint, h.on_timeout, h.store, h.order_id,
       (date_part('epoch', h.expires_at) * 1000)::bigint, h.account_id, h.peer_id, h.resolved_at IS NOT NULL
  FROM hold h JOIN account a ON a.account_id = h.account_id JOIN txn t ON t.txn_id = h.hold_id
  LEFT JOIN account p ON p.account_id = h.peer_id
 WHERE h.hold_id = ANY(%(ids)s) ORDER BY h.hold_id"""

_HOLD_LOTS = """
SELECT hl.hold_id, hl.lot_id, hl.amount FROM hold_lot hl JOIN lot l ON l.lot_id = hl.lot_id
 WHERE hl.hold_id = ANY(%(ids)s) ORDER BY hl.hold_id, l.expires_at, l.earned_at, l.lot_id"""

_STOP_TIMER = "UPDATE hold SET due_at = NULL WHERE hold_id = ANY(%(holds)s)"

_STANDING = """
SELECT d.hold_id, d.decision_id, d.verdict, d.actor, d.reason, (date_part('epoch', d.effective_at) * 1000)::bigint,
       coalesce(r.posted, 0)
  FROM (SELECT unnest(%(ids)s) AS decision_id
         UNION SELECT decision_id FROM hold_resolution WHERE hold_id = ANY(%(holds)s)) w
  JOIN review_decision d ON d.decision_id = w.decision_id
  LEFT JOIN hold_resolution r ON r.hold_id = d.hold_id AND r.decision_id = d.decision_id"""

_DUE = text("""
SELECT h.hold_id, h.program, h.kind, h.on_timeout
  FROM hold h JOIN account a ON a.account_id = h.account_id
  JOIN account p ON p.account_id = coalesce(h.peer_id, h.account_id)
 WHERE h.program = :program AND h.resolved_at IS NULL
   AND h.due_at <= to_timestamp(CAST(:now AS bigint) / 1000.0)
 ORDER BY h.due_at, h.hold_id LIMIT :most FOR UPDATE OF a, p SKIP LOCKED""")


def due(conn: Connection, programs: Sequence[str], most: int) -> list[DueHold]:
    """Lock the accounts of up to `most` open holds that are due by their ledger's clock, and return the holds.

    Holds of accounts that someone else has locked are left out. Give each back to `resolve` in the same transaction,
    with its `on_timeout` as the verdict and the policy as actor: a timer never ends a hold without a recorded decision.
    """
    found: list[DueHold] = []
    for program, now in sorted(ledger_now(conn, programs).items()):
        rows = conn.execute(_DUE, {"program": program, "now": now, "most": most - len(found)})
        found += [DueHold(*row) for row in rows]
    return found


def resolve(conn: Connection, ids: IdBlocks, resolutions: Sequence[Resolution]) -> list[Resolved]:
    """Decide holds, each at most once in its life, in the order given; one Resolved for each Resolution.

    Locks the holds' accounts by id. A decision gets an id of its own, which is also the id of the transaction that
    posts or voids. Recorded at the ledger's time. Must run in a READ COMMITTED transaction, which the caller commits.
    """
    if not resolutions:
        return []
    asked = sorted({resolution.hold_id for resolution in resolutions})
    locked = lock_ids(conn, _accounts_of(conn, asked))
    holds = read_holds(conn, asked)
    outcomes = _judge(resolutions, holds)
    decided = [n for n, outcome in enumerate(outcomes) if outcome in {"resolved", "escalated"}]
    decision_ids = dict(zip(decided, ids.take(conn, len(decided)), strict=True))
    if decided:
        now = ledger_now(conn, {row.hold.program for row in holds.values()})
        _escalate(conn, [(decision_ids[n], resolutions[n]) for n in decided if outcomes[n] == "escalated"], holds, now)
        settlements = [
            _settlement(decision_ids[n], resolutions[n], holds) for n in decided if outcomes[n] == "resolved"
        ]
        if settlements:
            accounts = _accounts(conn, locked.values(), [settlement.hold for settlement in settlements])
            write(conn, settle(accounts, settlements, now, ids.stream(conn)), now)
    return _told(conn, resolutions, outcomes, decision_ids)


def read_holds(conn: Connection, ids: Collection[int]) -> dict[int, HoldRow]:
    """Read holds by id with what they reserve, in order of use; ask under the locks of their accounts."""
    if not ids:
        return {}
    wanted = {"ids": bigints(sorted(ids))}
    rows = fetch(conn, _HOLDS, wanted)
    reserved: dict[int, list[tuple[int, int]]] = {}
    for hold_id, lot_id, amount in fetch(conn, _HOLD_LOTS, wanted) if rows else ():
        reserved.setdefault(hold_id, []).append((lot_id, amount))
    return {
        row[0]: HoldRow(OpenHold._make((*row[:9], tuple(reserved.get(row[0], ())), *row[9:12])), *row[12:15])
        for row in rows
    }


def _accounts_of(conn: Connection, hold_ids: Sequence[int]) -> set[int]:
    rows = fetch(conn, _WHOSE, {"ids": bigints(hold_ids)})
    return {account_id for row in rows for account_id in row if account_id is not None}


def _judge(resolutions: Sequence[Resolution], holds: Mapping[int, HoldRow]) -> list[Outcome]:
    still_open = {hold_id for hold_id, row in holds.items() if not row.resolved}
    outcomes: list[Outcome] = []
    for resolution in resolutions:
        hold_id, points = resolution.hold_id, resolution.points
        if hold_id not in holds:
            outcomes.append("unknown_hold")
        elif hold_id not in still_open:
            outcomes.append("already_resolved")
        elif resolution.verdict == "escalate":
            outcomes.append("escalated")
        elif points is not None and not 1 <= points <= abs(holds[hold_id].hold.amount):
            outcomes.append("points_out_of_range")
        else:
            still_open.remove(hold_id)
            outcomes.append("resolved")
    return outcomes


def _settlement(decision_id: int, resolution: Resolution, holds: Mapping[int, HoldRow]) -> Settlement:
    return Settlement(
        decision_id,
        holds[resolution.hold_id].hold,
        "post" if resolution.verdict == "post" else "void",
        resolution.points if resolution.verdict == "post" else None,
        resolution.actor,
        resolution.reason,
    )


def _accounts(conn: Connection, locked: Collection[LockedAccount], holds: Sequence[OpenHold]) -> Accounts:
    """The accounts of holds that end, with the lots these reserve and the programmes' control and store accounts."""
    programs = load_programs(conn, {hold.program for hold in holds})
    stores = {
        (hold.program, hold.store)
        for hold in holds
        if hold.store is not None and programs[hold.program].terms.funding == "store"
    }
    lots = read_lots(conn, {lot_id for hold in holds for lot_id, _ in hold.lots})
    return Accounts(
        {one.key: one.state._replace(lots=lots.get(one.state.account_id, ())) for one in locked},
        {(name, control): n for name, program in programs.items() for control, n in program.controls.items()},
        store_accounts(conn, stores),
        terms={name: program.terms for name, program in programs.items()},
    )


def _escalate(
    conn: Connection,
    escalated: Sequence[tuple[int, Resolution]],
    holds: Mapping[int, HoldRow],
    now: Mapping[str, int],
) -> None:
    if not escalated:
        return
    rows = [
        (decision_id, asked.hold_id, asked.verdict, asked.actor, asked.reason, now[holds[asked.hold_id].hold.program])
        for decision_id, asked in escalated
    ]
    write_decisions(conn, rows)
    run(conn, _STOP_TIMER, {"holds": bigints([asked.hold_id for _, asked in escalated])})


def _told(
    conn: Connection, resolutions: Sequence[Resolution], outcomes: Sequence[Outcome], decision_ids: Mapping[int, int]
) -> list[Resolved]:
    asked = bigints(sorted({resolution.hold_id for resolution in resolutions}))
    rows = fetch(conn, _STANDING, {"ids": bigints(list(decision_ids.values())), "holds": asked})
    by_id = {row[1]: row for row in rows}
    final = {row[0]: row for row in rows if row[2] != "escalate"}
    told: list[Resolved] = []
    for n, (resolution, outcome) in enumerate(zip(resolutions, outcomes, strict=True)):
        hold_id = resolution.hold_id
        if outcome in {"unknown_hold", "points_out_of_range"}:
            told.append(Resolved(hold_id, outcome))
        else:
            row = by_id[decision_ids[n]] if outcome == "escalated" else final[hold_id]
            told.append(Resolved(hold_id, outcome, *row[1:]))
    return told
