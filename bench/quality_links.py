"""Clusters of accounts in memory, as the links stage keeps them in PostgreSQL: features for evaluations.

Only what the stream itself shows is known: no account is flagged and nothing is at stake, so rules on those are silent.
"""

from collections.abc import Sequence
from math import nan

import numpy as np

from detectors.entity import Keys
from detectors.event_types import Event
from detectors.layout import LINKS, Floats
from detectors.links import Entity, Graph, Kind, Link, Member, features
from detectors.policy import Links
from streams.link_store import EntityKey
from streams.links import shared


class Clusters:
    """Who belongs together after the events seen so far. Treats batches as a worker does, in order."""

    def __init__(self, keys: Keys, terms: Links) -> None:
        self._keys, self._terms = keys, terms
        self._accounts: dict[tuple[str, str], int] = {}
        self._signed_up_ms: list[float] = []
        self._known: dict[EntityKey, int] = {}
        self._entities: dict[int, Entity] = {}
        self._clusters: dict[int, set[int]] = {}
        self._cluster: list[int] = []

    def observe(self, events: Sequence[Event], occurred_ms: Sequence[int]) -> Floats:
        """The features of detectors.layout.LINKS of each event, float64[n, 5], after what it shows itself."""
        accounts = [self._account(event) for event in events]
        seen = [
            [Link(self._entity(event, kind, value), account, at) for kind, value in shared(event, self._keys)]
            for event, account, at in zip(events, accounts, occurred_ms, strict=True)
        ]
        graph = Graph(self._entities, self._clusters)  # all entities there are, so a hub finds whatever else links
        matrix = np.empty((len(events), len(LINKS)))
        for row, (event, account, at) in enumerate(zip(events, accounts, occurred_ms, strict=True)):
            if event.type == "account.created" and np.isnan(self._signed_up_ms[account]):
                self._signed_up_ms[account] = float(at)
            for link in seen[row]:
                graph.see(link)
            members = graph.members(account)
            facts = [Member(self._signed_up_ms[one], 0, flagged=False) for one in members]
            matrix[row] = features(facts, members.index(account), at, self._terms.fresh_days)
        self._move(graph)
        return matrix

    def _account(self, event: Event) -> int:
        known = len(self._accounts)
        number = self._accounts.setdefault((event.program, event.account), known)
        if number == known:
            self._signed_up_ms.append(nan)
            self._clusters[number] = {number}
            self._cluster.append(number)
        return number

    def _entity(self, event: Event, kind: Kind, value: bytes) -> int:
        known = len(self._known)
        number = self._known.setdefault((event.program, kind, value), known)
        if number == known:
            self._entities[number] = Entity(getattr(self._terms, kind))
        return number

    def _move(self, graph: Graph) -> None:
        moved = graph.changes().moved
        for account in moved:
            self._clusters[self._cluster[account]].discard(account)
        for account, cluster in moved.items():
            self._clusters.setdefault(cluster, set()).add(account)
            self._cluster[account] = cluster
        self._clusters = {name: members for name, members in self._clusters.items() if members}
