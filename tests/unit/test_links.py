"""Clusters of accounts: those of a slow oracle, in any order and however cut into batches; and their features."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import detectors.links
from detectors.layout import LINKS
from detectors.links import (
    CLUSTER_MAX,
    DAY_MS,
    RISK_PRIOR,
    Changes,
    Entity,
    Graph,
    Link,
    Member,
    alone,
    features,
    hubs_to_come,
)
from detectors.policy import Sharing

TERMS = (Sharing(accounts=3, window_days=2, total=5), Sharing(accounts=50, window_days=90, total=100))


def terms_of(entity: int) -> Sharing:
    """Even entities are of a kind that is soon a hub, odd ones of a patient kind."""
    return TERMS[entity % 2]


def is_hub(times: Sequence[int], sharing: Sharing) -> bool:
    """Whether some window holds too many first sightings, or all together are too many; by looking at every window."""
    window = sharing.window_days * DAY_MS
    crowds = (sum(start <= time <= start + window for time in times) for start in times)
    return len(times) > sharing.total or max(crowds, default=0) > sharing.accounts


def oracle(links: Iterable[Link]) -> set[frozenset[int]]:
    """The clusters of several accounts, from nothing but all links: components, grown until nothing changes."""
    of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for link in links:
        of[link.entity].append((link.since_ms, link.account))
    joined: list[set[int]] = []
    for entity, sightings in of.items():
        sharing = terms_of(entity)
        if not is_hub([since for since, _ in sightings], sharing):
            near = pairwise(sorted(sightings))
            joined += [{a, b} for (s, a), (t, b) in near if t - s <= sharing.window_days * DAY_MS]
    clusters: list[set[int]] = []
    for pair in joined:
        touching = [cluster for cluster in clusters if cluster & pair]
        clusters = [cluster for cluster in clusters if not cluster & pair] + [pair.union(*touching)]
    return {frozenset(cluster) for cluster in clusters}


class Store:
    """What the database keeps between batches, as plain dictionaries; loads for a batch what the SQL would load."""

    def __init__(self) -> None:
        self.links: dict[tuple[int, int], int] = {}
        self.hubs: set[int] = set()
        self.cluster: dict[int, int] = {}

    def batch(self, links: Sequence[Link]) -> tuple[Graph, list[Link]]:
        """The graph for a batch, and those of its links that are new."""
        fresh = [one for one in links if one.entity not in self.hubs and (one.entity, one.account) not in self.links]
        for link in fresh:
            self.cluster.setdefault(link.account, link.account)
        entities = {one.entity: self.entity(one.entity) for one in fresh}
        meeting = {account for (entity, account) in self.links if entity in entities}
        meeting |= {link.account for link in fresh}
        wanted = {self.cluster[account] for account in meeting}
        clusters = {name: [a for a, cluster in self.cluster.items() if cluster == name] for name in wanted}
        others = {}
        if hubs_to_come(entities, fresh):
            inside = {account for members in clusters.values() for account in members}
            ids = {entity for entity, account in self.links if account in inside} - self.hubs - entities.keys()
            others = {entity: self.entity(entity) for entity in ids}
        return Graph(entities, clusters, others), fresh

    def entity(self, entity: int) -> Entity:
        """An entity with its links, as far as they are kept."""
        links = sorted((since, account) for (one, account), since in self.links.items() if one == entity)
        return Entity(terms_of(entity), entity in self.hubs, links)

    def keep(self, changes: Changes) -> None:
        """Write what a batch changed."""
        self.links |= {(link.entity, link.account): link.since_ms for link in changes.links}
        self.hubs |= changes.hubs.keys()
        self.cluster |= changes.moved
        counted: dict[int, int] = defaultdict(int)
        for name in self.cluster.values():
            counted[name] += 1
        assert {name: counted[name] for name in changes.sizes} == dict(changes.sizes)

    def run(self, links: Sequence[Link]) -> None:
        """Apply a batch."""
        graph, fresh = self.batch(links)
        for link in fresh:
            graph.see(link)
        self.keep(graph.changes())

    def clusters(self) -> set[frozenset[int]]:
        """The clusters of several accounts; each must be named by its lowest account."""
        found: dict[int, set[int]] = defaultdict(set)
        for account, name in self.cluster.items():
            found[name].add(account)
        assert all(name == min(members) for name, members in found.items())
        return {frozenset(members) for members in found.values() if len(members) > 1}


pairs = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(1, 14)), st.integers(0, 8 * DAY_MS // 3).map(lambda n: 3 * n), max_size=40
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Link], list[int]]:
    """Sightings in any order, some again, and places to cut them into batches."""
    seen = [Link(entity, account, since) for (entity, account), since in draw(pairs).items()]
    again = draw(st.lists(st.sampled_from(seen), max_size=10)) if seen else []
    order = draw(st.permutations(seen + again))
    return order, sorted(draw(st.lists(st.integers(0, len(order)), max_size=6)))


@given(histories())
@settings(max_examples=300, deadline=None)
def test_clusters_are_those_of_the_oracle(history: tuple[list[Link], list[int]]) -> None:
    """Whatever the order and the batches, and whatever came twice: the components of all links, hubs left out."""
    order, cuts = history
    store = Store()
    for start, end in pairwise((0, *cuts, len(order))):
        store.run(order[start:end])
    assert store.clusters() == oracle(set(order))


@given(histories())
@settings(max_examples=100, deadline=None)
def test_an_event_sees_the_past_and_nothing_else(history: tuple[list[Link], list[int]]) -> None:
    """Inside a batch, the cluster after each event is the one that batches of one would have made."""
    order, _ = history
    whole, single = Store(), Store()
    graph, fresh = whole.batch(order)
    for link in fresh:
        graph.see(link)
        single.run([link])
        name = single.cluster.setdefault(link.account, link.account)  # of one that only hubs know, nothing is kept
        mine = {account for account, other in single.cluster.items() if other == name}
        assert set(graph.members(link.account)) == mine


def test_a_hub_takes_its_joins_back() -> None:
    """An address with one account too many joins nobody; what a shared device joins stays."""
    store = Store()
    store.run([Link(0, 1, 0), Link(0, 2, 5), Link(0, 3, 9), Link(1, 1, 0), Link(1, 2, 1)])
    assert store.clusters() == {frozenset({1, 2, 3})}
    store.run([Link(0, 4, 10)])
    assert store.clusters() == {frozenset({1, 2})}
    store.run([Link(0, 5, 11)])
    assert (store.hubs, (0, 5) in store.links) == ({0}, False)


def test_many_over_a_long_time_are_a_hub_too() -> None:
    """Few at a time, but more in all than are ever linked: a café's address."""
    store = Store()
    for number in range(1, 6):
        store.run([Link(0, number, number * 10 * DAY_MS)])
    assert (store.hubs, store.clusters()) == (set(), set())
    store.run([Link(0, 6, 60 * DAY_MS)])
    assert store.hubs == {0}


def test_strangers_in_time_are_not_joined() -> None:
    """An address that was somebody else's last week tells nothing, unless somebody was there in between."""
    store = Store()
    store.run([Link(0, 1, 0), Link(0, 2, 4 * DAY_MS)])
    assert store.clusters() == set()
    store.run([Link(0, 3, 2 * DAY_MS)])
    assert store.clusters() == {frozenset({1, 2, 3})}


def test_a_cluster_stays_within_its_bound() -> None:
    """A ring beyond the bound becomes several clusters; no account is lost and none is in two."""
    store = Store()
    for account in range(1, 2 * CLUSTER_MAX + 30):  # a chain of patient entities, two accounts each
        store.run([Link(2 * account + 1, account, 0), Link(2 * account + 1, account + 1, 0)])
    sizes = sorted(map(len, store.clusters()))
    assert max(sizes) == CLUSTER_MAX
    assert sum(sizes) >= 2 * CLUSTER_MAX


def test_a_split_reads_no_account_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A union of what is one already, or beyond the bound, changes nothing and is not told as a change."""
    monkeypatch.setattr(detectors.links, "CLUSTER_MAX", 2)
    store = Store()
    store.run([Link(1, 1, 0), Link(1, 2, 0)])
    graph, fresh = store.batch([Link(3, 1, 0), Link(3, 2, 0), Link(3, 3, 0)])
    for link in fresh:
        graph.see(link)
    changes = graph.changes()
    assert (len(changes.links), changes.moved, changes.sizes) == (3, {}, {})


def test_features_of_a_cluster() -> None:
    """Size, fresh sign-ups, others that are flagged, points of all; each as the glossary has it."""
    day = 100 * DAY_MS
    cluster = [
        Member(day - 89.0 * DAY_MS, 500, flagged=True),
        Member(day - 91.0 * DAY_MS, 40, flagged=True),
        Member(math.nan, 2, flagged=False),
        Member(day + 1.0, 0, flagged=False),
    ]
    names = dict(zip(LINKS, features(cluster, 0, day, 90), strict=True))
    assert names == {
        "links.accounts": 4.0,
        "links.fresh_accounts": 2.0,
        "links.held_accounts": 1.0,
        "links.points": 542.0,
        "links.risk": pytest.approx((1 + 0.1) / (3 + 5)),
    }


@given(
    st.one_of(st.just(math.nan), st.integers(0, 10**13).map(float)),
    st.integers(0, 2**52),
    st.integers(0, 10**13),
    st.integers(1, 366),
)
def test_alone_is_a_cluster_of_one(signed_up: float, points: int, occurred: int, fresh_days: int) -> None:
    """What is worked out for a whole batch of lone accounts is what one at a time would give."""
    one = features([Member(signed_up, points, flagged=True)], 0, occurred, fresh_days)
    many = alone(np.array([signed_up]), np.array([float(points)]), np.array([float(occurred)]), fresh_days)
    assert tuple(many[0]) == one
    assert one[4] == pytest.approx(RISK_PRIOR)


@given(st.integers(0, 40), st.integers(0, 40))
def test_risk_grows_with_what_is_flagged_and_with_evidence(flagged: int, others: int) -> None:
    """Between 0 and 1; more flagged is more, and the same share of more accounts is further from the prior."""
    flagged = min(flagged, others)
    risk = detectors.links.risk(flagged, others)
    assert 0.0 < risk < 1.0
    assert detectors.links.risk(flagged + 1, others + 1) > risk
    if flagged:
        assert detectors.links.risk(2 * flagged, 2 * others) > risk or flagged <= RISK_PRIOR * others
