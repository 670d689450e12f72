"""Clusters of accounts that share devices, addresses, payment tokens or referrers: the pure part.

A *link* is the first sighting of an account with an entity (a device, an address, …). Two accounts whose first
sightings of one entity lie within its kind's window are joined, unless the entity is a hub (`policy.Sharing`). A
cluster is a connected component of what is joined, named by its lowest account; a lone account is a cluster of its own.
Being a hub is for ever: an entity that becomes one takes its joins back, and the clusters it held together fall apart
into what their other links still join.

Clusters depend on the set of links only, not on the order of events or on where batches were cut (an account counts
from the first sighting that was observed), with one exception: a union that would make a cluster larger than
CLUSTER_MAX is left out. So the work of an event is bounded: two neighbours in time for a join, one cluster's
members and their links for a hub.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from detectors.layout import LINKS, Floats
from detectors.policy import Sharing

Kind = Literal["device", "ip", "payment", "referrer"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
CLUSTER_MAX: Final = 100
"""Accounts in a cluster at most. A larger ring is several clusters of about this size, each as plain to see."""
ACCOUNT_LINKS_MAX: Final = 200
"""Links of an account at most; later entities of one that roams that much tell nothing and are not kept."""
DAY_MS: Final = 86_400_000

RISK_PRIOR, RISK_WEIGHT = 0.02, 5.0
"""`links.risk` of an account alone, and for how many unflagged accounts that prior stands."""


class Link(NamedTuple):
    """The first sighting of an account with an entity, in Unix ms; entity and account are ids of the store."""

    entity: int
    account: int
    since_ms: int


@dataclass(slots=True)
class Entity:
    """What accounts may share: its kind's terms, whether it is a hub, and its links in order of time."""

    sharing: Sharing
    hub: bool = False
    links: list[tuple[int, int]] = field(default_factory=list)
    """(first sighting in Unix ms, account), sorted."""

    @property
    def window_ms(self) -> int:
        """How far apart two first sightings may lie and still join their accounts."""
        return self.sharing.window_days * DAY_MS

    def is_crowded(self, more: Sequence[tuple[int, int]] = ()) -> bool:
        """Whether its links, with `more` of them, make it a hub. More links never make a hub an ordinary entity."""
        limit, count = self.sharing.accounts, len(self.links) + len(more)
        if count <= limit:
            return count > self.sharing.total
        times = sorted(since for since, _ in (*self.links, *more))
        packed = any(late - early <= self.window_ms for early, late in zip(times, times[limit:], strict=False))
        return packed or count > self.sharing.total

    def groups(self, inside: Collection[int]) -> list[list[int]]:
        """The accounts it joins, of those `inside`: chains in which each was first seen soon after the one before."""
        found: list[list[int]] = []
        last = -math.inf
        for since, account in self.links:
            if account in inside:
                if since - last > self.window_ms:
                    found.append([])
                found[-1].append(account)
                last = since
        return found


@dataclass(frozen=True)
class Changes:
    """What a batch changed: new links, entities that became hubs (with the time), and where accounts now belong.

    `moved` gives the new cluster of each account that changed it, `sizes` the size of each cluster that changed, 0 for
    one that is no more.
    """

    links: tuple[Link, ...]
    hubs: Mapping[int, int]
    moved: Mapping[int, int]
    sizes: Mapping[int, int]


class Graph:
    """Entities and clusters as they stand while a batch goes by, event by event.

    `entities` are all that the batch adds links to. `clusters` gives the members of every cluster that these entities'
    accounts, and the batch's own, belong to. `others` are further entities that link members of these clusters; they
    are needed only if one of `entities` is about to become a hub (`hubs_to_come`).
    """

    def __init__(
        self,
        entities: Mapping[int, Entity],
        clusters: Mapping[int, Collection[int]],
        others: Mapping[int, Entity] | None = None,
    ) -> None:
        self._entities, self._others = entities, others or {}
        self._members = {cluster: set(members) for cluster, members in clusters.items()}
        self._cluster = {account: cluster for cluster, members in clusters.items() for account in members}
        self._before = dict(self._cluster)
        self._linked = {entity: {account for _, account in one.links} for entity, one in entities.items()}
        self._links: list[Link] = []
        self._hubs: dict[int, int] = {}
        self._sorted: dict[int, tuple[int, ...]] = {}

    def see(self, link: Link) -> None:
        """Take note of an account with an entity; nothing happens if they met before or the entity is a hub.

        KeyError for an entity or account that is none of those given.
        """
        entity = self._entities[link.entity]
        if entity.hub or link.account in self._linked[link.entity]:
            return
        self._linked[link.entity].add(link.account)
        self._links.append(link)
        entry = (link.since_ms, link.account)
        insort(entity.links, entry)
        if entity.is_crowded():
            entity.hub = True
            self._hubs[link.entity] = link.since_ms
            for cluster in sorted({self._cluster[account] for _, account in entity.links}):
                self._split(cluster)
            return
        place = bisect_left(entity.links, entry)
        for since, other in (*entity.links[max(place - 1, 0) : place], *entity.links[place + 1 : place + 2]):
            if abs(since - link.since_ms) <= entity.window_ms:
                self._join(link.account, other)

    def members(self, account: int) -> tuple[int, ...]:
        """The cluster an account is in at this point of the batch, in order of ids; itself alone if it is in none."""
        cluster = self._cluster.get(account)
        if cluster is None:
            return (account,)
        found = self._sorted.get(cluster)
        if found is None:
            found = self._sorted[cluster] = tuple(sorted(self._members[cluster]))
        return found

    def changes(self) -> Changes:
        """All that has changed since the graph was made."""
        moved = {account: to for account, to in self._cluster.items() if self._before[account] != to}
        touched = {cluster for account, to in moved.items() for cluster in (to, self._before[account])}
        sizes = {cluster: len(self._members.get(cluster, ())) for cluster in touched}
        return Changes(tuple(self._links), dict(self._hubs), moved, sizes)

    def _join(self, one: int, other: int) -> None:
        into, gone = sorted((self._cluster[one], self._cluster[other]))
        if into == gone or len(self._members[into]) + len(self._members[gone]) > CLUSTER_MAX:
            return
        self._enter(into, self._members.pop(gone) | self._members[into])
        self._sorted.pop(gone, None)

    def _split(self, cluster: int) -> None:
        """Take a cluster apart into what its members' links still join."""
        members = self._members.pop(cluster)
        self._sorted.pop(cluster, None)
        above = {account: account for account in members}

        def top(account: int) -> int:
            while above[account] != account:
                above[account] = account = above[above[account]]
            return account

        for entity in (*self._entities.values(), *self._others.values()):
            if entity.hub:
                continue
            for group in entity.groups(members):
                for account in group[1:]:
                    low, high = sorted((top(group[0]), top(account)))
                    above[high] = low
        parts: dict[int, set[int]] = {}
        for account in members:
            parts.setdefault(top(account), set()).add(account)
        for name, part in parts.items():
            self._enter(name, part)

    def _enter(self, cluster: int, members: set[int]) -> None:
        self._members[cluster] = members
        self._sorted.pop(cluster, None)
        self._cluster.update(dict.fromkeys(members, cluster))


def hubs_to_come(entities: Mapping[int, Entity], links: Sequence[Link]) -> set[int]:
    """Which of `entities` will be hubs once `links` are seen that are not hubs yet."""
    fresh: dict[int, dict[int, int]] = {}
    for link in links:
        entity = entities[link.entity]
        if not entity.hub and all(account != link.account for _, account in entity.links):
            fresh.setdefault(link.entity, {}).setdefault(link.account, link.since_ms)
    return {
        entity
        for entity, sightings in fresh.items()
        if entities[entity].is_crowded([(since, account) for account, since in sightings.items()])
    }


class Member(NamedTuple):
    """What counts of an account in a cluster: its sign-up (Unix ms, NaN unknown), points at stake, whether flagged.

    Points at stake are posted ones, also those that holds have set aside, and those waiting to come in. An account is
    flagged while a hold of it is open, and for ever once an event of it was rejected, by the policy or by a person.
    """

    signed_up_ms: float
    points: int
    flagged: bool


def features(members: Sequence[Member], own: int, occurred_ms: int, fresh_days: int) -> tuple[float, ...]:
    """LINKS of an event of the account `members[own]`, whose cluster they are, at `occurred_ms`.

    `links.accounts`, `links.fresh_accounts` (signed up within `fresh_days`; later than the event counts as just now)
    and `links.points` are of the whole cluster; `links.held_accounts` counts the others that are flagged, and
    `links.risk` is their share, smoothed: (flagged + RISK_PRIOR · RISK_WEIGHT) / (others + RISK_WEIGHT), the mean of a
    Beta posterior, so that one flagged account of two weighs less than ten of twenty.
    """
    from_ms = occurred_ms - fresh_days * DAY_MS
    fresh = sum(member.signed_up_ms >= from_ms for member in members)
    flagged = sum(member.flagged for n, member in enumerate(members) if n != own)
    points = sum(member.points for member in members)
    return (float(len(members)), float(fresh), float(flagged), float(points), risk(flagged, len(members) - 1))


def risk(flagged: int, others: int) -> float:
    """The smoothed share of flagged accounts among `others`."""
    return (flagged + RISK_PRIOR * RISK_WEIGHT) / (others + RISK_WEIGHT)


def alone(signed_up_ms: Floats, points: Floats, occurred_ms: Floats, fresh_days: int) -> Floats:
    """LINKS float64[n, 5] of events whose accounts are linked with nobody; as `features` gives them."""
    matrix = np.empty((len(points), len(LINKS)))
    matrix[:, 0] = 1.0
    matrix[:, 1] = signed_up_ms >= occurred_ms - fresh_days * DAY_MS  # a comparison with NaN is false
    matrix[:, 2] = 0.0
    matrix[:, 3] = points
    matrix[:, 4] = risk(0, 0)
    return matrix
