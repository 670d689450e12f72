"""The default policy on the simulator: a farm that slept is held before it redeems, and honest look-alikes are not."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cli.scenarios import DAY, Act, Dice, dormant_farm
from cli.simulation import START_MS, Scene, Simulated, rfc3339, stream
from config.policy import default_policy_text
from streams.links import Linker
from tests.integration.pipeline_desk import SIMULATION, Desk, open_desk
from tests.integration.test_pipeline_recompute import check_all

LINK_RULES = {"farm_redeems", "ring_flagged"}
BATCH = 400


@pytest.fixture
def desk(database: str, redis_url: str, tmp_path: Path) -> Iterator[Desk]:
    """A worker's stages under the default policy."""
    with open_desk(database, redis_url, tmp_path, default_policy_text()) as made:
        yield made


def farm(seed: int, start_ms: int) -> list[Simulated]:
    """The events of one dormant farm."""
    acts: list[Act] = sorted(dormant_farm(Dice(Random(seed), f"f{seed}"), start_ms, ()), key=lambda act: act.at_ms)
    return [
        Simulated(
            act.at_ms,
            "points.events",
            {
                "id": f"f{seed}-{n}",
                "source": "farm",
                "type": act.type,
                "program": SIMULATION,
                "account": act.account,
                "occurred_at": rfc3339(act.at_ms),
                **act.fields,
            },
            act.scenario,
            act.fraud,
        )
        for n, act in enumerate(acts)
    ]


def send(desk: Desk, events: Sequence[Mapping[str, Any]]) -> None:
    """Deliver events in batches."""
    for start in range(0, len(events), BATCH):
        desk.send(*events[start : start + BATCH])


def test_a_dormant_farm_is_held_before_it_redeems(desk: Desk) -> None:
    """Three farms wake among members, offices and families: no point of theirs gets out, nobody else is disturbed."""
    farms = [farm(seed, START_MS + seed * DAY) for seed in range(3)]
    end = max(one.at_ms for events in farms for one in events)
    scene = Scene(seed=11, program=SIMULATION, events_per_hour=15.0, fraud_share=0.0)
    honest = itertools.takewhile(lambda one: one.at_ms <= end, stream(scene))
    events = list(heapq.merge(honest, *farms, key=lambda one: one.at_ms))
    send(desk, [one.event for one in events])

    decided = {
        row.event_id: (row.outcome, {reason["code"] for reason in row.reasons})
        for row in desk.rows("SELECT event_id, outcome, reasons FROM decision")
    }
    spent = [decided[str(one.event["id"])] for one in events if one.fraud and one.event["type"] == "redeem"]
    assert len(spent) >= 30
    assert {outcome for outcome, _ in spent} == {"hold"}
    assert all("farm_redeems" in codes for _, codes in spent)
    earned = [decided[str(one.event["id"])] for one in events if one.fraud and one.event["type"] == "earn"]
    assert {outcome for outcome, _ in earned} == {"approve"}

    others = [(one, *decided[str(one.event["id"])]) for one in events if not one.fraud]
    assert {"office", "family"} <= {one.scenario for one, _, _ in others}
    assert [one.event for one, _, codes in others if codes & LINK_RULES] == []
    crowd = "SELECT count(*) FROM link_entity WHERE kind = 'ip' AND hub_since IS NOT NULL"
    assert desk.one(crowd) >= 4
    check_all(desk)
    desk.verified()


def act(account: str, kind: str, minute: int, **fields: Any) -> dict[str, Any]:
    """An event of the simulation programme, so many minutes after its start."""
    return {
        "id": f"s-{kind}-{account}-{minute}",
        "source": "app",
        "type": kind,
        "program": SIMULATION,
        "account": account,
        "occurred_at": rfc3339(START_MS + minute * 60_000),
        **fields,
    }


def test_an_office_and_a_family_that_joined_this_week_may_redeem(desk: Desk) -> None:
    """Thirty colleagues sign up at one address, four people on one phone; days later they spend, and may."""
    people = {f"c{n}": {"device": f"phone-{n}", "ip": "198.51.100.1"} for n in range(30)}
    people |= {f"f{n}": {"device": "tablet", "ip": "198.51.100.2"} for n in range(4)}
    days = 12 * 1_440
    events = [act(name, "account.created", n, **seen) for n, (name, seen) in enumerate(people.items())]
    events += [act(name, "earn", 2_000 + n, points=500) for n, name in enumerate(people)]
    events += [act(name, "redeem", days + 40 * n, points=100, **seen) for n, (name, seen) in enumerate(people.items())]
    send(desk, events)
    rows = desk.rows("SELECT account, outcome, reasons FROM decision WHERE type = 'redeem'")
    assert len(rows) == 34
    assert [row.account for row in rows if {reason["code"] for reason in row.reasons} & LINK_RULES] == []
    assert {row.outcome for row in rows} == {"approve"}


def test_redelivery_and_another_worker_see_the_same_links(desk: Desk) -> None:
    """The whole log once more, to a worker that knows nothing: no link, no cluster and no decision changes."""
    part = desk.part
    records = part.records(*[one.event for one in farm(5, START_MS)])
    desk.deliver(records)
    tables = ("link_entity", "link", "link_member", "link_cluster", "decision")
    query = "SELECT t::text FROM {} t ORDER BY 1"
    before = [desk.rows(query.format(table)) for table in tables]
    assert all(before)
    desk.deliver(records)
    desk.stages.pipeline._parts.poster._linker = Linker(desk.stages.pipeline._parts.keys)
    desk.deliver(records)
    assert [desk.rows(query.format(table)) for table in tables] == before


def test_one_rejection_marks_the_ring(desk: Desk) -> None:
    """A person rejected three members of a ring: the fourth is held for being one of them, on a phone of its own."""
    names = [f"r{n}" for n in range(4)]
    send(desk, [act(name, "login", n, device="shared", ip=f"203.0.113.{n}") for n, name in enumerate(names)])
    send(desk, [act(name, "adjust", 10, points=400, reason="opening", fulfilled=True) for name in names])
    accounts = desk.rows("SELECT name, account_id FROM account WHERE kind = 'member'")
    ids = {row.name: row.account_id for row in accounts}
    with desk.engine.begin() as conn:
        for name in names[:3]:
            conn.exec_driver_sql(
                "INSERT INTO link_flag (account_id, origin) VALUES (%(id)s, 'review')", {"id": ids[name]}
            )
    desk.send(act("r3", "redeem", 20_000, points=100, device="own", ip="192.0.2.200"))
    (row,) = desk.rows("SELECT outcome, reasons FROM decision WHERE type = 'redeem'")
    assert (row.outcome, [reason["code"] for reason in row.reasons]) == ("hold", ["ring_flagged"])
    check_all(desk)
