"""Reads what a reverse, or the refund of an order, takes back: the movement, what became of its points, who holds them.

Asked twice: without locks to learn which accounts must be locked, then under their locks, when nothing of it can change
any more. How far points are followed is bounded, so that nobody can make a reversal endless by moving them about; what
lies beyond is taken from the member instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection

from ledger.arrays import bigints, fetch, texts
from ledger.holds import read_holds
from ledger.lots import order_of_use
from ledger.movement import Accounts, Key, LotState, OpenHold
from ledger.origin import Given, Origin, Traced
from ledger.store_lots import LOT, read_lots

LOTS_MOST = 5_000
"""So many lots at most are followed from each lot that a movement gave."""
MOVES_MOST = 200
"""So many moves at most are followed."""

Event = tuple[str, str]
"""Source and id of an event."""


class Named(NamedTuple):
    """A decided event: the id of its decision, and the account it named."""

    root: int
    program: str
    actor: str


class Found(NamedTuple):
    """A movement to be taken back, and what that may touch: accounts, lots there, stores that were charged."""

    origin: Origin
    keys: frozenset[Key]
    lots: tuple[LotState, ...]
    stores: frozenset[Key]


_EVENTS = """
SELECT d.source, d.event_id, d.decision_id, d.program, d.account
  FROM unnest(%(sources)s, %(ids)s) AS w(source, event_id)
  JOIN decision d ON d.source = w.source AND d.event_id = w.event_id"""

_ORDER = """
SELECT t.txn_id FROM txn t
 WHERE t.program = %(program)s AND t.order_id = %(order)s AND t.kind IN ('earn', 'redeem', 'adjust')
   AND NOT EXISTS (SELECT FROM hold h WHERE h.hold_id = t.txn_id AND h.replaces IS NOT NULL)"""

_TXNS = """
SELECT txn_id, program, kind, amount, pending FROM txn
 WHERE txn_id = ANY(%(ids)s) AND kind IN ('earn', 'redeem', 'transfer', 'adjust')"""

# Whose points a transaction moved, and for which store: a member and the member's arrears have one name.
_PARTIES = """
SELECT e.txn_id, a.kind, a.name, e.amount FROM entry e JOIN account a USING (account_id)
 WHERE e.txn_id = ANY(%(ids)s) AND a.kind <> 'control' ORDER BY e.txn_id, e.leg"""

# A hold and those that took its place one after another; the last of them tells how it stands.
_ENDS = """
WITH RECURSIVE chain AS (
    SELECT hold_id AS root, hold_id FROM hold WHERE hold_id = ANY(%(ids)s)
    UNION ALL
    SELECT c.root, h.hold_id FROM chain c JOIN hold h ON h.replaces = c.hold_id)
SELECT c.root, c.hold_id, r.decision_id, r.posted
  FROM chain c LEFT JOIN hold_resolution r USING (hold_id)
 WHERE NOT EXISTS (SELECT FROM hold h WHERE h.replaces = c.hold_id)"""

_REVERSED = """
SELECT original_txn, sum(from_hold)::bigint, sum(points - from_hold)::bigint FROM reversal
 WHERE original_txn = ANY(%(ids)s) GROUP BY original_txn"""

_USED = """
SELECT txn_id, lot_id, amount FROM lot_use WHERE txn_id = ANY(%(ids)s) AND action = 'debit'"""

_RESTORED = """
SELECT r.original_txn, u.lot_id, sum(u.amount)::bigint
  FROM reversal r JOIN lot_use u ON u.txn_id = r.reversal_id AND u.action = 'restore'
 WHERE r.original_txn = ANY(%(ids)s) GROUP BY r.original_txn, u.lot_id"""

# The lots a transfer gave: parts of the sender's, in another account than these, and one of no lot for a shortfall.
_GAVE = """
SELECT u.txn_id, c.lot_id, c.parent
  FROM lot_use u
  JOIN lot p ON p.lot_id = u.lot_id
  JOIN lot c ON c.parent = u.lot_id AND c.txn_id = u.txn_id AND c.account_id <> p.account_id
 WHERE u.txn_id = ANY(%(ids)s) AND u.action = 'transfer'
 UNION ALL
SELECT txn_id, lot_id, NULL FROM lot WHERE lot_id = ANY(%(ids)s) AND txn_id = lot_id AND parent IS NULL"""

_TREES = f"""
SELECT w.lot_id, l.depth, {LOT}
  FROM unnest(%(starts)s) AS w(lot_id)
 CROSS JOIN LATERAL (
    WITH RECURSIVE tree AS (
        SELECT lot.*, 0 AS depth FROM lot WHERE lot.lot_id = w.lot_id
        UNION ALL
        SELECT lot.*, tree.depth + 1 FROM tree JOIN lot ON lot.parent = tree.lot_id WHERE tree.depth < {MOVES_MOST})
    SELECT * FROM tree LIMIT {LOTS_MOST}) l"""  # noqa: S608 -- made of constants only

_HOLDERS = """
SELECT DISTINCT p.hold_id FROM hold_lot p JOIN hold h USING (hold_id)
 WHERE p.lot_id = ANY(%(lots)s) AND h.resolved_at IS NULL"""

_NAMES = "SELECT account_id, program, name FROM account WHERE account_id = ANY(%(ids)s)"


def find_events(conn: Connection, events: Collection[Event]) -> dict[Event, Named]:
    """Look up decided events; what was never decided is left out."""
    if not events:
        return {}
    sources, ids = texts([source for source, _ in events]), texts([event_id for _, event_id in events])
    rows = fetch(conn, _EVENTS, {"sources": sources, "ids": ids})
    return {(row[0], row[1]): Named(*row[2:]) for row in rows}


def find_order(conn: Connection, program: str, order: str) -> list[Named]:
    """Look up the movements of an order that refunds undo."""
    rows = fetch(conn, _ORDER, {"program": program, "order": order})
    return [Named(row[0], program, "") for row in rows]


def read_origins(conn: Connection, named: Iterable[Named]) -> dict[int, Found]:
    """Read movements as they stand now, by the ids of their decisions, each with all that taking it back may touch."""
    asked = {one.root: one for one in named}
    return _Reading(conn, asked).found() if asked else {}


def placed(accounts: Accounts, found: Iterable[Found]) -> Accounts:
    """Add to accounts the lots that taking these movements back may touch, where the accounts have not read them."""
    more: dict[int, dict[int, LotState]] = {}
    for one in found:
        for lot in one.lots:
            more.setdefault(lot.account_id, {})[lot.lot_id] = lot
    members = dict(accounts.members)
    for key, state in members.items():
        lots = more.get(state.account_id)
        if lots:
            read = {lot.lot_id: lot for lot in state.lots}
            members[key] = state._replace(lots=tuple(sorted((lots | read).values(), key=order_of_use)))
    return replace(accounts, members=members)


class _Reading:
    """The steps of reading a set of movements, each one statement for all of them."""

    def __init__(self, conn: Connection, asked: Mapping[int, Named]) -> None:
        self._conn = conn
        self._asked = asked
        self._lots: dict[int, LotState] = {}
        self._holds: dict[int, OpenHold] = {}
        self._holders: dict[int, list[int]] = {}
        self._open: dict[int, int] = {}
        self._posted: dict[int, tuple[int, int]] = {}
        self._trees: dict[int, list[Traced]] = {}
        self._used: dict[int, dict[int, int]] = {}
        self._restored: dict[tuple[int, int], int] = {}

    def found(self) -> dict[int, Found]:
        origins = self._stems()
        self._read_ends(origins)
        self._read_trees([one for one in origins.values() if one.inflow or one.kind == "transfer"])
        self._read_uses([one for one in origins.values() if not one.inflow and one.kind != "transfer"])
        self._read_holds()
        self._read_other_lots(origins)
        whole = {root: self._whole(origin) for root, origin in origins.items()}
        names = self._names(lot.account_id for lot in self._lots.values() if lot.remaining)
        for root, one in self._asked.items():
            if root not in whole:
                whole[root] = Origin(root, one.program, "", 0, one.actor, one.actor)
        return {root: self._with_reach(origin, names) for root, origin in whole.items()}

    def _stems(self) -> dict[int, Origin]:
        """The movements by themselves; events that moved nothing are left out."""
        ids = bigints(list(self._asked))
        rows = {row[0]: row for row in fetch(self._conn, _TXNS, {"ids": ids})}
        moved = bigints(list(rows))
        parties: dict[int, dict[str, str]] = {root: {} for root in rows}
        for root, kind, name, amount in fetch(self._conn, _PARTIES, {"ids": moved}) if rows else ():
            role = "store" if kind == "store" else "gives" if amount < 0 else "gets"
            parties[root].setdefault(role, name)
        taken = {row[0]: row[1:] for row in fetch(self._conn, _REVERSED, {"ids": moved})} if rows else {}
        origins: dict[int, Origin] = {}
        for root, program, kind, amount, pending in rows.values():
            roles = parties[root]
            account = roles["gets"] if kind == "earn" or (kind == "adjust" and amount > 0) else roles["gives"]
            peer = roles["gets"] if kind == "transfer" else None
            unheld, returned = taken.get(root, (0, 0))
            origins[root] = Origin(
                root,
                program,
                kind,
                amount,
                account,
                self._asked[root].actor or account,
                peer,
                roles.get("store"),
                unheld=unheld,
                returned=returned,
            )
            if pending:
                self._open[root] = root
            else:
                self._posted[root] = (root, abs(amount))
        return origins

    def _read_ends(self, origins: Mapping[int, Origin]) -> None:
        held = [root for root in origins if root in self._open]
        self._open.clear()
        for root, hold_id, decision_id, posted in fetch(self._conn, _ENDS, {"ids": bigints(held)}) if held else ():
            if decision_id is None:
                self._open[root] = hold_id
            elif posted:
                self._posted[root] = (decision_id, posted)

    def _read_trees(self, origins: Sequence[Origin]) -> None:
        roots = {self._posted[one.root][0]: one for one in origins if one.root in self._posted}
        starts: dict[int, tuple[int, int | None]] = {
            txn_id: (one.root, None) for txn_id, one in roots.items() if one.inflow
        }
        sent = [txn_id for txn_id, one in roots.items() if one.kind == "transfer"]
        for txn_id, lot_id, parent in fetch(self._conn, _GAVE, {"ids": bigints(sent)}) if sent else ():
            starts[lot_id] = (roots[txn_id].root, parent)
        rows = fetch(self._conn, _TREES, {"starts": bigints(list(starts))}) if starts else ()
        for start, depth, *columns in rows:
            root, source = starts[start]
            lot = LotState._make(columns)
            self._lots[lot.lot_id] = lot
            self._trees.setdefault(root, []).append(Traced(lot.lot_id, depth, source, lot.remaining == 0))
        for tree in self._trees.values():
            tree.sort(key=lambda traced: (traced.depth, traced.lot_id))

    def _read_uses(self, origins: Sequence[Origin]) -> None:
        roots = {self._posted[one.root][0]: one.root for one in origins if one.root in self._posted}
        if not roots:
            return
        for txn_id, lot_id, amount in fetch(self._conn, _USED, {"ids": bigints(list(roots))}):
            self._used.setdefault(roots[txn_id], {})[lot_id] = amount
        for root, lot_id, amount in fetch(self._conn, _RESTORED, {"ids": bigints(list(roots.values()))}):
            self._restored[root, lot_id] = amount

    def _read_holds(self) -> None:
        reserved = [lot.lot_id for lot in self._lots.values() if lot.reserved]
        holders = [row[0] for row in fetch(self._conn, _HOLDERS, {"lots": bigints(reserved)})] if reserved else []
        ids = [*holders, *self._open.values()]
        self._holds = {hold_id: row.hold for hold_id, row in read_holds(self._conn, ids).items()}
        for hold_id in holders:
            for lot_id, _ in self._holds[hold_id].lots:
                self._holders.setdefault(lot_id, []).append(hold_id)

    def _read_other_lots(self, origins: Mapping[int, Origin]) -> None:
        wanted = {lot_id for hold in self._holds.values() for lot_id, _ in hold.lots}
        wanted |= {lot_id for used in self._used.values() for lot_id in used}
        wanted |= {
            traced.source for root in origins for traced in self._trees.get(root, ()) if traced.source is not None
        }
        for lots in read_lots(self._conn, wanted - self._lots.keys()).values():
            self._lots |= {lot.lot_id: lot for lot in lots}

    def _whole(self, origin: Origin) -> Origin:
        root = origin.root
        tree = self._trees.get(root, [])
        holders = {hold_id for traced in tree for hold_id in self._holders.get(traced.lot_id, ())}
        used = sorted(
            (Given(self._lots[lot_id], amount - self._restored.get((root, lot_id), 0))
             for lot_id, amount in self._used.get(root, {}).items()),
            key=lambda given: order_of_use(given.lot),
        )  # fmt: skip
        sources = {traced.source for traced in tree if traced.source is not None}
        return origin._replace(
            hold=self._holds.get(self._open.get(root, 0)),
            posted=self._posted.get(root, (0, 0))[1],
            tree=tuple(tree),
            holders=tuple(self._holds[hold_id] for hold_id in sorted(holders)),
            used=tuple(used),
            sources=tuple(self._lots[lot_id] for lot_id in sorted(sources)),
        )

    def _names(self, ids: Iterable[int]) -> dict[int, Key]:
        asked = sorted(set(ids))
        rows = fetch(self._conn, _NAMES, {"ids": bigints(asked)}) if asked else ()
        return {row[0]: (row[1], row[2]) for row in rows}

    def _with_reach(self, origin: Origin, names: Mapping[int, Key]) -> Found:
        holds = [*origin.holders, *([] if origin.hold is None else [origin.hold])]
        ids = {traced.lot_id for traced in origin.tree} | {lot_id for hold in holds for lot_id, _ in hold.lots}
        ids |= {given.lot.lot_id for given in origin.used} | {lot.lot_id for lot in origin.sources}
        lots = [self._lots[lot_id] for lot_id in sorted(ids)]
        people = {origin.account, origin.actor, *(hold.account for hold in holds), *(hold.peer for hold in holds)}
        keys = {(origin.program, name) for name in people if name is not None}
        keys |= {names[lot.account_id] for lot in lots if lot.remaining}
        stores = {
            (origin.program, name) for name in (origin.store, *(hold.store for hold in holds)) if name is not None
        }
        return Found(origin, frozenset(keys), tuple(lots), frozenset(stores))
