"""The links stage: who shares devices and addresses with whom, noted in the batch transaction and read as features.

In a steady state a batch costs one statement, the clusters of its accounts: pairs of entity and account that the
database was seen to know are remembered by the worker (links are never deleted, hubs are for ever). A batch with pairs
that nobody saw before takes up to fifteen more, however many pairs there are; what these lock and in which order is in
`streams.link_store`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from detectors.entity import Keys
from detectors.event import Event
from detectors.layout import Floats
from detectors.links import Graph, Kind, Link, Member, alone, features
from detectors.policy import Links
from ledger.movement import AccountState
from streams.link_store import Linking, Sighting, unknown, write

REMEMBERED_MAX = 1 << 18
"""Pairs and hubs a worker remembers to be known, in each of two generations: some 35 MB when both are full."""


class Visit(NamedTuple):
    """An event as links see it: its account under its lock, and what was known of the account's sign-up before it."""

    event: Event
    account: AccountState
    occurred_ms: int
    signed_up_ms: float


def shared(event: Event, keys: Keys) -> Iterator[tuple[Kind, bytes]]:
    """What an event shows that accounts may share, as (kind, pseudonym)."""
    if event.device is not None:
        yield "device", keys.device(event.device)
    if event.ip is not None:
        yield "ip", keys.ip(event.ip)
    if event.payment is not None:
        yield "payment", keys.payment(event.payment)
    if event.referrer is not None:
        yield "referrer", event.referrer.encode()  # an account's name, as it stands in the ledger


class _Memory:
    """What was seen to be known, by its hash; the oldest is forgotten, and is then just looked up again.

    Two things of one hash would lose a link: with half a million of 2^64 known, once in 10^13 sightings.
    """

    def __init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def __contains__(self, key: int) -> bool:
        return key in self._young or key in self._old

    def update(self, keys: Collection[int]) -> None:
        """Remember these, too."""
        if len(self._young) >= REMEMBERED_MAX:
            self._old, self._young = self._young, set()
        self._young.update(keys)


class Linker:
    """The links stage of one worker; `observe` runs inside the batch transaction."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known = _Memory()

    def observe(self, conn: Connection, visits: Sequence[Visit], terms: Links) -> Floats:
        """Link the accounts of a batch; the features of detectors.layout.LINKS, float64[n, 5], beside `visits`.

        An event sees the clusters and sign-ups as the events up to and with it have made them, whatever batch they came
        in; points and flags of other accounts are those before the batch. The accounts must be locked.
        """
        sightings = self._unknown(conn, self._sightings(visits))
        work = Linking(conn, terms, sightings)
        moving = sorted({visit.account.account_id for visit in visits if visit.event.moves})
        graph, facts = work.graph(moving)
        matrix = _alone(visits, terms)
        if facts or work.links:
            _apply(graph, visits, work.links, facts, matrix, terms)
            write(conn, graph.changes())
        return matrix

    def _sightings(self, visits: Sequence[Visit]) -> dict[int, Sighting]:
        """The pairs of the batch that this worker does not know to be known, by hash, each at its first event."""
        found: dict[int, Sighting] = {}
        known = self._known
        for place, visit in enumerate(visits):
            account, program = visit.account.account_id, visit.event.program
            for kind, value in shared(visit.event, self._keys):
                pair = hash((program, kind, value, account))
                if pair not in known and pair not in found and hash((program, kind, value)) not in known:
                    found[pair] = Sighting(place, (program, kind, value), account, visit.occurred_ms)
        return found

    def _unknown(self, conn: Connection, sightings: Mapping[int, Sighting]) -> list[tuple[Sighting, bool]]:
        """Those the database does not know either, with whether it knows the entity; what it knows is remembered.

        Remembered is only what was there before this transaction wrote: that will not be rolled back.
        """
        if not sightings:
            return []
        asked, pairs = list(sightings.values()), list(sightings)
        known = set(pairs)
        new: list[tuple[Sighting, bool]] = []
        for place, exists, hub in unknown(conn, asked):
            known.discard(pairs[place])
            if hub:
                known.add(hash(asked[place].entity))
            else:
                new.append((asked[place], exists))
        self._known.update(known)
        return new


def _alone(visits: Sequence[Visit], terms: Links) -> Floats:
    """The features of accounts that are linked with nobody, an event a row."""
    states = [visit.account for visit in visits]
    return alone(
        np.array([visit.signed_up_ms for visit in visits], dtype=np.float64),
        np.array([one.posted_cr - one.posted_dr + one.pending_cr for one in states], dtype=np.float64),
        np.array([visit.occurred_ms for visit in visits], dtype=np.float64),
        terms.fresh_days,
    )


def _apply(
    graph: Graph,
    visits: Sequence[Visit],
    links: Mapping[int, Iterable[Link]],
    facts: dict[int, Member],
    matrix: Floats,
    terms: Links,
) -> None:
    """Let the graph see the batch event by event, and fill in the rows of accounts that are linked by then.

    The loop is needed for what order means: an event must see what stands before it and nothing that comes after.
    """
    for place, visit in enumerate(visits):
        for link in links.get(place, ()):
            graph.see(link)
        account = visit.account.account_id
        fact = facts.get(account)
        if fact is None:
            continue
        if visit.event.type == "account.created" and math.isnan(fact.signed_up_ms):
            facts[account] = fact._replace(signed_up_ms=visit.occurred_ms)
        if visit.event.moves:
            members = graph.members(account)
            if len(members) > 1:
                found = [facts[member] for member in members]
                matrix[place] = features(found, members.index(account), visit.occurred_ms, terms.fresh_days)
