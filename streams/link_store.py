"""Links between accounts in PostgreSQL: what a batch's new pairs of entity and account touch, locked, read and written.

Order of locks, after the batch's member accounts and programme clocks: entities by id, then clusters by id. New
entities are inserted in the order of their values before any existing one is locked; whoever waits for one there holds
no lock that its inserter could still want. A cluster's lock is its row in `link_cluster`. Which clusters accounts are
in is only known for sure once these are locked, so it is read again then; if a union or a split by another worker came
first, the locks are given back (a savepoint) and taken anew, again in order. Rows of `link_member` are changed under
their cluster's lock only, and inserted under their account's. So workers wait for each other and never deadlock, and
what they come to is what they would one after the other. A split sees every link of its cluster: one that is not yet
committed is held by somebody who needs this cluster's lock next, and reads the clusters again then.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from detectors.links import (
    ACCOUNT_LINKS_MAX,
    Changes,
    Entity,
    Graph,
    Kind,
    Link,
    Member,
    hubs_to_come,
)
from detectors.policy import Links
from ledger.arrays import bigints, byteas, columns, fetch, integers, run, texts, timestamps

EntityKey = tuple[str, Kind, bytes]
"""Programme, kind, pseudonym."""


class Sighting(NamedTuple):
    """The account of the batch's event number `place` with an entity."""

    place: int
    entity: EntityKey
    account: int
    at_ms: int


# Only what is new, or leads to a hub, comes back.
_UNKNOWN = """
SELECT w.n, e.entity_id IS NOT NULL, e.hub_since IS NOT NULL
  FROM unnest(%(programs)s, %(kinds)s, %(values)s, %(accounts)s)
       WITH ORDINALITY AS w(program, kind, value, account_id, n)
  LEFT JOIN link_entity e ON e.program = w.program AND e.kind = w.kind AND e.value = w.value
  LEFT JOIN link l ON l.entity_id = e.entity_id AND l.account_id = w.account_id
 WHERE l.account_id IS NULL OR e.hub_since IS NOT NULL"""

_COUNTS = "SELECT account_id, count(*) FROM link WHERE account_id = ANY(%(ids)s) GROUP BY account_id"

_NEW_ENTITIES = """
INSERT INTO link_entity (program, kind, value)
SELECT program, kind, value
  FROM unnest(%(programs)s, %(kinds)s, %(values)s) WITH ORDINALITY AS w(program, kind, value, n) ORDER BY n
ON CONFLICT (program, kind, value) DO NOTHING"""

_LOCK_ENTITIES = """
SELECT w.n, e.entity_id, e.hub_since IS NOT NULL
  FROM unnest(%(programs)s, %(kinds)s, %(values)s) WITH ORDINALITY AS w(program, kind, value, n)
  JOIN link_entity e ON e.program = w.program AND e.kind = w.kind AND e.value = w.value
 ORDER BY e.entity_id FOR UPDATE OF e"""

_LINKS = """
SELECT entity_id, account_id, (date_part('epoch', since) * 1000)::bigint FROM link WHERE entity_id = ANY(%(ids)s)"""

_NEW_MEMBERS = """
WITH entered AS (
    INSERT INTO link_member (account_id, cluster_id) SELECT id, id FROM unnest(%(ids)s) AS w(id)
    ON CONFLICT (account_id) DO NOTHING RETURNING account_id)
INSERT INTO link_cluster (cluster_id, size) SELECT account_id, 1 FROM entered"""

_CLUSTERS = "SELECT DISTINCT cluster_id FROM link_member WHERE account_id = ANY(%(ids)s)"

_LOCK_CLUSTERS = """
SELECT cluster_id FROM link_cluster WHERE cluster_id = ANY(%(ids)s) ORDER BY cluster_id FOR UPDATE"""

# Clusters of several, and all that are about to change, with what counts of each member.
_MEMBERS = """
SELECT m.cluster_id, m.account_id, (date_part('epoch', a.signed_up_at) * 1000)::bigint,
       a.posted_cr - a.posted_dr + a.pending_cr, a.open_holds > 0 OR f.account_id IS NOT NULL
  FROM (SELECT o.cluster_id FROM link_member o JOIN link_cluster c ON c.cluster_id = o.cluster_id AND c.size > 1
         WHERE o.account_id = ANY(%(moving)s)
        UNION SELECT cluster_id FROM link_member WHERE account_id = ANY(%(joining)s)) w
  JOIN link_member m ON m.cluster_id = w.cluster_id
  JOIN account a ON a.account_id = m.account_id
  LEFT JOIN link_flag f ON f.account_id = m.account_id"""

# What else links members of clusters that may fall apart: only what links two of them matters.
_OTHERS = """
SELECT e.entity_id, e.kind, array_agg(l.account_id), array_agg((date_part('epoch', l.since) * 1000)::bigint)
  FROM link l JOIN link_entity e ON e.entity_id = l.entity_id
 WHERE l.account_id = ANY(%(ids)s) AND e.hub_since IS NULL
 GROUP BY e.entity_id, e.kind HAVING count(*) > 1"""

_ADD_LINKS = """
INSERT INTO link (entity_id, account_id, since)
SELECT * FROM unnest(%(entities)s, %(accounts)s, %(since)s)
ON CONFLICT (entity_id, account_id) DO NOTHING"""

_HUBS = """
UPDATE link_entity AS e SET hub_since = w.since FROM unnest(%(ids)s, %(since)s) AS w(entity_id, since)
 WHERE e.entity_id = w.entity_id"""

_MOVE = """
UPDATE link_member AS m SET cluster_id = w.cluster_id
  FROM unnest(%(accounts)s, %(clusters)s) AS w(account_id, cluster_id)
 WHERE m.account_id = w.account_id"""

_GONE = "DELETE FROM link_cluster WHERE cluster_id = ANY(%(ids)s)"

_SIZES = """
INSERT INTO link_cluster (cluster_id, size) SELECT * FROM unnest(%(ids)s, %(sizes)s)
ON CONFLICT (cluster_id) DO UPDATE SET size = excluded.size"""

_FLAG = """
INSERT INTO link_flag (account_id, origin) SELECT DISTINCT id, %(origin)s FROM unnest(%(ids)s) AS w(id)
ON CONFLICT (account_id) DO NOTHING"""

_FLAG_HOLDERS = """
INSERT INTO link_flag (account_id, origin) SELECT DISTINCT account_id, 'review' FROM hold WHERE hold_id = ANY(%(ids)s)
ON CONFLICT (account_id) DO NOTHING"""


def flag(conn: Connection, accounts: Collection[int]) -> None:
    """Note that the policy rejected events of these accounts, which the caller has locked."""
    if accounts:
        run(conn, _FLAG, {"ids": bigints(sorted(accounts)), "origin": "policy"})


def flag_holders(conn: Connection, hold_ids: Sequence[int]) -> None:
    """Note that a person rejected these holds, the accounts of which the caller has locked."""
    if hold_ids:
        run(conn, _FLAG_HOLDERS, {"ids": bigints(hold_ids)})


def unknown(conn: Connection, sightings: Sequence[Sighting]) -> list[tuple[int, bool, bool]]:
    """Those of `sightings` that are no link: their place, whether the entity is known, and whether it is a hub."""
    accounts = bigints([one.account for one in sightings])
    rows = fetch(conn, _UNKNOWN, {**_values([one.entity for one in sightings]), "accounts": accounts})
    return sorted((n - 1, exists, hub) for n, exists, hub in rows)


class Linking:
    """New pairs of one batch: locks what they touch and reads it. `links` are those that count, by place."""

    def __init__(self, conn: Connection, terms: Links, sightings: Sequence[tuple[Sighting, bool]]) -> None:
        self._conn, self._terms = conn, terms
        self.links: dict[int, list[Link]] = {}
        self._entities: dict[int, Entity] = {}
        self._joining: set[int] = set()
        kept = self._within_limits(sightings)
        if kept:
            ids = self._lock_entities(kept)
            self._read_links()
            for one, _ in kept:
                entity = ids[one.entity]
                if not self._entities[entity].hub:
                    self.links.setdefault(one.place, []).append(Link(entity, one.account, one.at_ms))
            self._joining = self._accounts_that_meet()

    def graph(self, moving: Sequence[int]) -> tuple[Graph, dict[int, Member]]:
        """The graph to apply the links to, and the members of its clusters, those of `moving` accounts among them."""
        if self._joining:
            _lock_clusters(self._conn, sorted(self._joining))
        found = {"moving": bigints(moving), "joining": bigints(sorted(self._joining))}
        rows = fetch(self._conn, _MEMBERS, found) if moving or self._joining else ()
        clusters: dict[int, list[int]] = {}
        facts: dict[int, Member] = {}
        for cluster, account, signed_up_ms, points, flagged in rows:
            clusters.setdefault(cluster, []).append(account)
            facts[account] = Member(math.nan if signed_up_ms is None else signed_up_ms, points, flagged)
        others: dict[int, Entity] = {}
        if hubs_to_come(self._entities, [link for links in self.links.values() for link in links]):
            others = self._others(list(facts))
        return Graph(self._entities, clusters, others), facts

    def _within_limits(self, sightings: Sequence[tuple[Sighting, bool]]) -> list[tuple[Sighting, bool]]:
        """Without what would give an account more than ACCOUNT_LINKS_MAX links; first links make their accounts known.

        The counts hold, for links of an account are added under its lock only.
        """
        if not sightings:
            return []
        ids = sorted({one.account for one, _ in sightings})
        counts: dict[int, int] = dict(fetch(self._conn, _COUNTS, {"ids": bigints(ids)}))
        if new := [account for account in ids if account not in counts]:
            run(self._conn, _NEW_MEMBERS, {"ids": bigints(new)})
        kept = []
        for one, exists in sightings:
            counts[one.account] = counts.get(one.account, 0) + 1
            if counts[one.account] <= ACCOUNT_LINKS_MAX:
                kept.append((one, exists))
        return kept

    def _lock_entities(self, sightings: Sequence[tuple[Sighting, bool]]) -> dict[EntityKey, int]:
        if new := sorted({one.entity for one, exists in sightings if not exists}):
            run(self._conn, _NEW_ENTITIES, _values(new))
        wanted = sorted({one.entity for one, _ in sightings})
        ids: dict[EntityKey, int] = {}
        for n, entity, hub in fetch(self._conn, _LOCK_ENTITIES, _values(wanted)):
            key = wanted[n - 1]
            ids[key] = entity
            self._entities[entity] = Entity(getattr(self._terms, key[1]), hub)
        return ids

    def _read_links(self) -> None:
        ids = [entity for entity, one in self._entities.items() if not one.hub]
        for entity, account, since_ms in fetch(self._conn, _LINKS, {"ids": bigints(ids)}):
            self._entities[entity].links.append((since_ms, account))
        for one in self._entities.values():
            one.links.sort()

    def _accounts_that_meet(self) -> set[int]:
        """The accounts of every entity that will have more than one."""
        found = {entity: {account for _, account in one.links} for entity, one in self._entities.items()}
        for links in self.links.values():
            for link in links:
                found[link.entity].add(link.account)
        return {account for accounts in found.values() if len(accounts) > 1 for account in accounts}

    def _others(self, members: Sequence[int]) -> dict[int, Entity]:
        rows = fetch(self._conn, _OTHERS, {"ids": bigints(members)})
        return {
            entity: Entity(getattr(self._terms, kind), links=sorted(zip(since, accounts, strict=True)))
            for entity, kind, accounts, since in rows
            if entity not in self._entities
        }


def _values(entities: Sequence[EntityKey]) -> dict[str, object]:
    programs, kinds, values = columns(entities)
    return {"programs": texts(programs), "kinds": texts(kinds), "values": byteas(values)}


def _lock_clusters(conn: Connection, accounts: Sequence[int]) -> None:
    """Lock the clusters that accounts are in, by id; try again where somebody else changed them first."""
    ids = {"ids": bigints(accounts)}
    while True:
        wanted = [row[0] for row in fetch(conn, _CLUSTERS, ids)]
        with conn.begin_nested() as attempt:
            locked = {row[0] for row in fetch(conn, _LOCK_CLUSTERS, {"ids": bigints(wanted)})}
            if locked.issuperset(row[0] for row in fetch(conn, _CLUSTERS, ids)):
                return
            attempt.rollback()


def write(conn: Connection, changes: Changes) -> None:
    """Write what a batch changed; the clusters of `Linking.graph` must still be locked."""
    if changes.links:
        entities, accounts, since = columns(changes.links)
        run(
            conn,
            _ADD_LINKS,
            {"entities": bigints(entities), "accounts": bigints(accounts), "since": timestamps(since)},
        )
    if changes.hubs:
        ids, times = list(changes.hubs), list(changes.hubs.values())
        run(conn, _HUBS, {"ids": bigints(ids), "since": timestamps(times)})
    if changes.moved:
        moved = {"accounts": bigints(list(changes.moved)), "clusters": bigints(list(changes.moved.values()))}
        run(conn, _MOVE, moved)
        sizes = {cluster: size for cluster, size in changes.sizes.items() if size}
        run(conn, _GONE, {"ids": bigints([cluster for cluster, size in changes.sizes.items() if not size])})
        run(conn, _SIZES, {"ids": bigints(list(sizes)), "sizes": integers(list(sizes.values()))})
