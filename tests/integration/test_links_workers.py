"""Whole batches of two workers at once, for the same accounts, devices and clusters: decided, posted and linked."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streams.records import Log
from tests.integration.pipeline_desk import Desk, event

BATCHES, SIZE, ACCOUNTS, DEVICES = 12, 30, 60, 40


def traffic(rng: random.Random) -> list[dict[str, Any]]:
    """Earns and redemptions of few members on fewer devices, most of them always on the same one."""
    made = []
    for _ in range(2 * BATCHES * SIZE):
        number = rng.randrange(ACCOUNTS)
        device = number * DEVICES // ACCOUNTS if rng.random() < 0.95 else rng.randrange(DEVICES)
        kind = rng.choice(("earn", "earn", "redeem", "login"))
        fields = {} if kind == "login" else {"points": rng.randint(1, 9)}
        made.append(event(kind, account=f"m{number:02d}", device=f"d{device}", **fields))
    return made


def clusters(desk: Desk) -> set[frozenset[str]]:
    """The clusters of several accounts, by name."""
    found: dict[int, set[str]] = defaultdict(set)
    for row in desk.rows("SELECT m.cluster_id, a.name FROM link_member m JOIN account a USING (account_id)"):
        found[row.cluster_id].add(row.name)
    sizes = {row.cluster_id: row.size for row in desk.rows("SELECT cluster_id, size FROM link_cluster")}
    assert sizes == {cluster: len(names) for cluster, names in found.items()}
    return {frozenset(names) for names in found.values() if len(names) > 1}


def components(events: list[dict[str, Any]]) -> set[frozenset[str]]:
    """Who is connected through devices, by growing sets until they stand still."""
    groups: list[set[str]] = []
    for device in {one["device"] for one in events}:
        sharing = {one["account"] for one in events if one["device"] == device}
        touched = [group for group in groups if group & sharing]
        groups = [group for group in groups if not group & sharing] + [sharing.union(*touched)]
    return {frozenset(group) for group in groups if len(group) > 1}


def test_two_workers_commit_what_one_would(desk: Desk, rng: random.Random) -> None:
    """No batch fails or comes again, the clusters are those of all events, and the ledger verifies."""
    other = desk.beside(Log(desk.log.log_id, "points.requests"))
    events = traffic(rng)
    prepared: dict[int, list[Any]] = {0: [], 1: []}
    for n in range(2 * BATCHES):
        worker = (desk, other)[n % 2]
        prepared[n % 2].append(worker.prepare(worker.part.records(*events[n * SIZE : (n + 1) * SIZE])))

    def work(worker: Desk, batches: list[Any]) -> None:
        for batch in batches:
            worker.stages.pipeline.commit(batch)

    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(work, worker, prepared[n]) for n, worker in enumerate((desk, other))]
        for job in jobs:
            job.result(120)
    assert desk.count("decision") == len(events)
    assert clusters(desk) == components(events)
    desk.verified()
