"""Posts a batch of movements in one transaction, so that a reverse sees what came before it.

Ordinary movements are decided together, in memory. A reverse needs to know what became of the points it takes back,
also of those that the same batch moved on; so a batch with reverses is cut into levels, each read, decided and written
before the next. Accounts that the batch connects (a transfer does, and a reverse with all whom it may touch) belong
together: of these, a reverse comes a level after all that stands before it, and what stands behind it a level later.
Most batches have one level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from ledger.movement import POOL, Accounts, Key, Movement, Result
from ledger.originals import Event, Found, Named, find_events, read_origins
from ledger.plan import Plan
from ledger.posting import plan
from ledger.programs import Program
from ledger.reach import completed, lock_reach
from ledger.store import lock_accounts, write
from ledger.store_lots import load


@dataclass(frozen=True, slots=True)
class Locked:
    """The accounts of a batch under their locks, and the programmes they are of."""

    programs: Mapping[str, Program]
    accounts: Accounts


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts to keep on accounts besides what moved: first sign-ups and latest changes of a credential (epoch ms)."""

    signed_up: Mapping[Key, int]
    credential_changed: Mapping[Key, int]


NO_FACTS = Facts({}, {})


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of each movement, in order, and what was written for it, level by level."""

    results: tuple[Result, ...]
    plans: tuple[Plan, ...]


def lock_batch(
    conn: Connection,
    programs: Mapping[str, Program],
    opened: Mapping[Key, int],
    reversed_events: Collection[Event] = (),
) -> Locked:
    """Lock the accounts of a batch as `lock_accounts` does, and with them all that its reverses may touch.

    `reversed_events` are the events (source, id) that reverses of the batch name.
    """
    if not reversed_events:
        return Locked(programs, lock_accounts(conn, programs, opened))

    # What a reverse names by mistake in a programme that the batch is not about is no business of its.
    about = {program for program, _ in opened}

    def read() -> Collection[Found]:
        named = find_events(conn, reversed_events).values()
        return read_origins(conn, [one for one in named if one.program in about]).values()

    return Locked(programs, lock_reach(conn, programs, opened, read))


def post_batch(
    conn: Connection,
    locked: Locked,
    movements: Sequence[Movement],
    now: Mapping[str, int],
    ids: Iterator[int],
    facts: Facts = NO_FACTS,
) -> Posted:
    """Decide movements in order and write what came of it; `now` is the ledger's time, read under the locks.

    Every account that a movement names must be among those locked, and every event that a reverse names must have been
    told to `lock_batch`, or it counts as unknown.
    """
    batch = _Batch(conn, locked, movements, now)
    results: dict[int, Result] = {}
    plans: list[Plan] = []
    for level, part in enumerate(batch.levels()):
        told = facts if not level else NO_FACTS
        asked = [movements[n] for n in part]
        planned = plan(batch.loaded(level, part), asked, now, ids, told.signed_up, told.credential_changed)
        plans.append(write(conn, planned, now))
        results |= zip(part, planned.results, strict=True)
    return Posted(tuple(results[n] for n in range(len(movements))), tuple(plans))


def keys_of(movement: Movement) -> list[Key]:
    """Return the keys of the accounts a movement names: the member, the receiver, the pool."""
    names = [movement.account, movement.to, None if movement.pool is None else POOL + movement.pool]
    return [(movement.program, name) for name in names if name is not None]


class _Batch:
    """A batch on its way through its levels. Movements are known by their places in it.

    `_before` is what each reverse takes back, as far as there is something.
    """

    def __init__(self, conn: Connection, locked: Locked, movements: Sequence[Movement], now: Mapping[str, int]) -> None:
        self._conn = conn
        self._locked = locked
        self._movements = movements
        self._now = now
        self._before: dict[int, Named] = {}

    def levels(self) -> list[list[int]]:
        """Cut the batch; each level is the places of its movements, in order."""
        events = {one.reverses for one in self._movements if one.kind == "reverse" and one.reverses is not None}
        if not events:
            return [list(range(len(self._movements)))]
        decided = find_events(self._conn, events)
        found = read_origins(self._conn, decided.values())
        reaches = {event: (named, found[named.root].keys) for event, named in decided.items()}
        groups = _Groups()
        earlier: dict[Event, Movement] = {}
        for n, movement in enumerate(self._movements):
            keys = keys_of(movement)
            if movement.kind == "reverse" and movement.reverses is not None:
                keys += self._taken_back(n, earlier.get(movement.reverses), reaches.get(movement.reverses))
            groups.join([self._id(key) for key in keys])
            earlier[movement.source, movement.event_id] = movement
        return self._cut(groups)

    def _taken_back(
        self, n: int, just_before: Movement | None, decided: tuple[Named, frozenset[Key]] | None
    ) -> list[Key]:
        """Note what a reverse takes back, of this batch or decided long ago; return whom that may touch."""
        program = self._movements[n].program
        if just_before is not None:
            if just_before.program != program:
                return []
            self._before[n] = Named(just_before.id, just_before.program, just_before.account)
            return keys_of(just_before)
        if decided is None:
            return []
        named, keys = decided
        # What was decided after the locks were taken counts as unknown: it is nothing of an account of this batch.
        if named.program != program or not keys <= self._locked.accounts.members.keys():
            return []
        self._before[n] = named
        return list(keys)

    def _id(self, key: Key) -> int:
        state = self._locked.accounts.members.get(key)
        return 0 if state is None else state.account_id

    def _cut(self, groups: _Groups) -> list[list[int]]:
        levels: list[list[int]] = []
        last: dict[int, tuple[int, bool]] = {}
        for n, movement in enumerate(self._movements):
            group = groups.of(self._id((movement.program, movement.account)))
            level, after_reverse = last.get(group, (-1, True))
            reverse = movement.kind == "reverse"
            if reverse or after_reverse:
                level += 1
            last[group] = (level, reverse)
            levels += [[] for _ in range(level + 1 - len(levels))]
            levels[level].append(n)
        return levels

    def loaded(self, level: int, part: Sequence[int]) -> Accounts:
        """Return the accounts of a level with their lots, and what its reverses take back, as it stands by then."""
        movements = [self._movements[n] for n in part]
        named = {n: self._before[n] for n in part if n in self._before}
        found = read_origins(self._conn, named.values())
        accounts = self._locked.accounts if not level else self._again(movements, found.values())
        accounts = load(self._conn, accounts, movements, self._now)
        if not named:
            return accounts
        origins = {event: found[one.root].origin for n, one in named.items() if (event := self._movements[n].reverses)}
        return completed(self._conn, replace(accounts, origins=origins), found.values(), self._now)

    def _again(self, movements: Sequence[Movement], found: Collection[Found]) -> Accounts:
        """The accounts that a later level touches, as they stand now; all of them are locked already."""
        keys = {key for movement in movements for key in keys_of(movement)} | {key for one in found for key in one.keys}
        return lock_accounts(self._conn, self._locked.programs, dict.fromkeys(sorted(keys), 0))


class _Groups:
    """Accounts that belong together, by their ids."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def of(self, account_id: int) -> int:
        """Return the account that stands for the group."""
        above = self._above.setdefault(account_id, account_id)
        while above != self._above[above]:
            self._above[account_id] = above = self._above[above]
        return above

    def join(self, ids: Sequence[int]) -> None:
        """Make one group of accounts and their groups."""
        first = self.of(ids[0])
        for account_id in ids[1:]:
            self._above[self.of(account_id)] = first
