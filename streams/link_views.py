"""What links say to people: the cluster of an account and what holds it together; totals for metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from detectors.links import KINDS

NAMED_BYTES = 6
"""Bytes of a pseudonym that name an entity to people; more tell no more, and all are no secret's business."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """An account of a cluster. `flagged` says why it counts as such: an open hold, or who rejected an event of it."""

    account: str
    signed_up_at: datetime | None
    linked_at: datetime | None
    links: int
    available: int
    at_stake: int
    open_holds: int
    flagged: str | None


@dataclass(frozen=True, slots=True)
class SharedView:
    """What accounts of a cluster share: `accounts` of the cluster among `seen_with` in all; a hub links nobody."""

    kind: str
    name: str
    accounts: tuple[str, ...]
    seen_with: int
    first_at: datetime
    last_at: datetime
    hub_since: datetime | None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster as it stands; `shared` links its members, `hubs` would if not too many others were seen with them."""

    members: tuple[MemberView, ...]
    shared: tuple[SharedView, ...]
    hubs: tuple[SharedView, ...]

    @property
    def at_stake(self) -> int:
        """Points of all members: posted ones, also those set aside, and those waiting to come in."""
        return sum(member.at_stake for member in self.members)


@dataclass(frozen=True, slots=True)
class Totals:
    """Clusters of two or more accounts, the size of the largest (0: none), and hubs by kind."""

    clusters: int
    largest: int
    hubs: Mapping[str, int]


_FIND = text("""
SELECT coalesce(a.merged_into, a.account_id) FROM account a
 WHERE a.program = :program AND a.kind = 'member' AND a.name = :name""")

_MEMBERS = text("""
SELECT m.account_id, a.name, a.signed_up_at, min(l.since) AS linked_at, count(l.entity_id) AS links,
       a.posted_cr - a.posted_dr - a.pending_dr AS available,
       a.posted_cr - a.posted_dr + a.pending_cr AS at_stake, a.open_holds, f.origin
  FROM (SELECT m.account_id FROM link_member o JOIN link_member m ON m.cluster_id = o.cluster_id
         WHERE o.account_id = :account_id
        UNION SELECT CAST(:account_id AS bigint)) m
  JOIN account a ON a.account_id = m.account_id
  LEFT JOIN link l ON l.account_id = m.account_id
  LEFT JOIN link_flag f ON f.account_id = m.account_id
 GROUP BY m.account_id, a.account_id, f.origin
 ORDER BY linked_at NULLS LAST, a.account_id""")

_SHARED = text("""
SELECT e.kind, e.value, e.hub_since, array_agg(a.name ORDER BY l.since, a.account_id) AS accounts,
       min(l.since) AS first_at, max(l.since) AS last_at,
       (SELECT count(*) FROM link o WHERE o.entity_id = e.entity_id) AS seen_with
  FROM link l JOIN link_entity e ON e.entity_id = l.entity_id JOIN account a ON a.account_id = l.account_id
 WHERE l.account_id = ANY(:ids)
 GROUP BY e.entity_id HAVING count(*) > 1 OR e.hub_since IS NOT NULL
 ORDER BY count(*) DESC, e.entity_id""")

_CLUSTERS = text("SELECT count(*), coalesce(max(size), 0) FROM link_cluster WHERE size > 1")
_HUBS = text("SELECT kind, count(*) FROM link_entity WHERE hub_since IS NOT NULL GROUP BY kind")


def cluster_of(conn: Connection, program: str, account: str) -> ClusterView | None:
    """The cluster an account is in, itself alone if it is linked with nobody; None if there is no such member.

    Several statements: ask in a REPEATABLE READ transaction.
    """
    account_id = conn.execute(_FIND, {"program": program, "name": account}).scalar_one_or_none()
    if account_id is None:
        return None
    rows = conn.execute(_MEMBERS, {"account_id": account_id}).all()
    members = tuple(
        MemberView(
            account=row.name,
            signed_up_at=row.signed_up_at,
            linked_at=row.linked_at,
            links=row.links,
            available=row.available,
            at_stake=row.at_stake,
            open_holds=row.open_holds,
            flagged="open hold" if row.open_holds else row.origin and f"rejected ({row.origin})",
        )
        for row in rows
    )
    found = _shared(conn, [row.account_id for row in rows])
    return ClusterView(
        members,
        tuple(one for one in found if one.hub_since is None),
        tuple(one for one in found if one.hub_since is not None),
    )


def _shared(conn: Connection, ids: Sequence[int]) -> list[SharedView]:
    return [
        SharedView(
            kind=row.kind,
            name=_named(row.kind, bytes(row.value)),
            accounts=tuple(row.accounts),
            seen_with=row.seen_with,
            first_at=row.first_at,
            last_at=row.last_at,
            hub_since=row.hub_since,
        )
        for row in conn.execute(_SHARED, {"ids": list(ids)})
    ]


def _named(kind: str, value: bytes) -> str:
    """A referrer is an account's name; a pseudonym shows its first bytes behind the version of its key."""
    return value.decode() if kind == "referrer" else f"{value[1 : 1 + NAMED_BYTES].hex()}…"


def totals(conn: Connection) -> Totals:
    """How much is linked at this moment; read from small indexes, whatever the number of accounts."""
    clusters, largest = conn.execute(_CLUSTERS).one()
    hubs: dict[str, int] = {kind: count for kind, count in conn.execute(_HUBS)}  # noqa: C416  # a Row is no pair for mypy
    return Totals(clusters, largest, {kind: hubs.get(kind, 0) for kind in KINDS})
