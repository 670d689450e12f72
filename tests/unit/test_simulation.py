"""The simulated programme: the same seed the same stream, frauds shaped like real ones, labels beside the events."""

from __future__ import annotations

import ast
import itertools
import json
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from random import Random

import pytest

import cli.scenarios
import cli.simulation
from cli.scenarios import DAY, FRAUDS, HOUR, MINUTE, Dice, dormant_farm
from cli.simulation import EVENTS, REQUESTS, Scene, Simulated, stream
from detectors.event import Invalid, decode


def scene(**changes: object) -> Scene:
    """A small scene with fraud enough to see every kind of it."""
    given: dict[str, object] = {"seed": 7, "program": "demo", "events_per_hour": 2_000.0, "fraud_share": 0.1}
    return Scene(**{**given, **changes})  # type: ignore[arg-type]  # the test's own names


@cache
def sample(seed: int = 7) -> list[Simulated]:
    """The first 12,000 events of the small scene."""
    return list(itertools.islice(stream(scene(seed=seed)), 12_000))


def test_the_same_scene_gives_the_same_bytes() -> None:
    """A failure seen in one run can be had again by its seed."""
    again = list(itertools.islice(stream(scene()), 2_000))
    assert [json.dumps(one.event) for one in again] == [json.dumps(one.event) for one in sample()[:2_000]]


def test_every_event_keeps_the_contract() -> None:
    """Nothing the simulator makes is refused at the door."""
    assert [one for one in sample() if isinstance(decode(json.dumps(one.event).encode()), Invalid)] == []


def test_time_never_goes_back() -> None:
    """A simulation's clock only moves forward, so its events must come in order."""
    times = [one.at_ms for one in sample()]
    assert sorted(times) == times


def test_ids_are_unique_within_and_between_runs() -> None:
    """A second run, from where the clock stands, adds events and repeats none."""
    later = itertools.islice(stream(scene(start_ms=sample()[-1].at_ms)), 5_000)
    ids = [str(one.event["id"]) for one in [*sample(), *later]]
    assert len(ids) == len(set(ids))


def test_members_are_the_same_people_in_the_next_run() -> None:
    """Going on later means the same members with the same devices, not a new programme."""

    def devices(events: list[Simulated]) -> dict[object, object]:
        return {
            one.event["account"]: one.event["device"]
            for one in events
            if one.scenario == "member" and "device" in one.event
        }

    first = devices(sample())
    second = devices(list(itertools.islice(stream(scene(start_ms=sample()[-1].at_ms)), 12_000)))
    both = first.keys() & second.keys()
    assert len(both) > 50
    assert {account: first[account] for account in both} == {account: second[account] for account in both}


def test_outflow_requests_have_their_own_topic() -> None:
    """A customer at a till waits for a redemption, so it must not stand behind a backlog of earns."""
    wrong = [one for one in sample() if (one.topic == REQUESTS) != (one.event["type"] in ("redeem", "transfer"))]
    assert wrong == []
    assert Counter(one.topic for one in sample()).keys() == {EVENTS, REQUESTS}


def test_the_label_stays_beside_the_event() -> None:
    """What the event really is can be read neither from its fields nor from their values."""
    for one in sample():
        text = json.dumps(one.event)
        assert not [fraud for fraud in FRAUDS if fraud in text]
        assert "fraud" not in text


def test_the_rate_and_the_share_of_fraud_are_what_was_asked_for() -> None:
    """Over a day the mean holds, whatever the rhythm."""
    day = list(itertools.takewhile(lambda one: one.at_ms < cli.simulation.START_MS + 48 * HOUR, stream(scene())))
    assert len(day) / 48 == pytest.approx(2_000, rel=0.15)
    assert sum(one.fraud for one in day) / len(day) == pytest.approx(0.1, rel=0.3)


def test_nights_are_quieter_than_afternoons() -> None:
    """Honest traffic has a rhythm, against which machines at night stand out."""
    day = itertools.takewhile(lambda one: one.at_ms < cli.simulation.START_MS + 24 * HOUR, stream(scene(fraud_share=0)))
    hours = Counter(one.at_ms // HOUR % 24 for one in day if one.event["type"] == "earn")
    assert hours[3] * 3 < hours[18]


def test_all_frauds_show_within_the_first_cycle() -> None:
    """A demo must not wait for its frauds: each kind comes early, the first one within two minutes."""
    first = {kind: min(one.at_ms for one in sample() if one.scenario == kind) for kind in FRAUDS}
    assert min(first.values()) - cli.simulation.START_MS <= 2 * MINUTE
    assert max(first.values()) - cli.simulation.START_MS < 3 * HOUR


def test_a_farm_shares_devices_and_half_of_it_acts_within_the_minute() -> None:
    """Bulk registration: 2 to 20 accounts a device, 1 to 3 addresses, about half of them in a hurry."""
    accounts, signed_up, quick = defaultdict(set), dict[object, int](), list[bool]()
    for one in itertools.chain(sample(), sample(8), sample(9)):
        if one.scenario != "signup_farm":
            continue
        accounts[one.event["device"]].add(one.event["account"])
        if one.event["type"] == "account.created":
            signed_up[one.event["account"]] = one.at_ms
        else:
            quick.append(one.at_ms - signed_up[one.event["account"]] < MINUTE)
    assert all(len(members) <= 20 for members in accounts.values())
    assert max(len(members) for members in accounts.values()) >= 4
    assert 0.3 < sum(quick) / len(signed_up) < 0.7


def test_a_takeover_ends_in_a_redemption_of_most_of_the_balance() -> None:
    """Login from a device the account never had, a new password, 70-100 % redeemed 3 to 45 minutes after the login."""
    balance = {one.event["account"]: one.event["points"] for one in sample() if one.scenario == "dormant"}
    redeemed, login = Counter[object](), dict[object, int]()
    for one in sample():
        if one.scenario == "account_takeover" and one.event["type"] == "login":
            login[one.event["account"]] = one.at_ms
        if one.scenario == "account_takeover" and one.event["type"] == "redeem":
            redeemed[one.event["account"]] += int(str(one.event["points"]))
            assert 3 * MINUTE <= one.at_ms - login[one.event["account"]] <= 45 * MINUTE
    shares = [redeemed[account] / int(str(balance[account])) for account in list(redeemed)[:-1]]
    assert shares
    assert all(0.69 <= share <= 1.0 for share in shares)


def test_a_mule_collects_from_many_and_sweeps_out() -> None:
    """Five or more stolen accounts pay in, then 92-98 % goes out within 15 minutes, by one redemption."""
    senders, total, swept = defaultdict(set), Counter[object](), dict[object, int]()
    for one in sample():
        if one.scenario == "points_mule" and one.event["type"] == "transfer":
            senders[one.event["to"]].add(one.event["account"])
            total[one.event["to"]] += int(str(one.event["points"]))
        elif one.scenario == "points_mule" and one.event["type"] == "redeem":
            swept[one.event["account"]] = int(str(one.event["points"]))
    assert swept
    for mule, points in swept.items():
        assert 5 <= len(senders[mule]) <= 50
        assert 0.919 <= points / total[mule] <= 0.981


def test_a_slow_drip_stays_small_every_day() -> None:
    """One login from a device the account never had, then 1-3 rewards a day of 2-4 % of what lay on it."""
    quiet = scene(events_per_hour=20.0, fraud_share=0.2)
    acts = [one for one in itertools.islice(stream(quiet), 6_000) if one.scenario in ("dormant", "slow_drip")]
    balance = {one.event["account"]: int(str(one.event["points"])) for one in acts if one.scenario == "dormant"}
    redeemed, daily, logins = Counter[object](), Counter[object](), dict[object, int]()
    for one in acts:
        account = one.event["account"]
        if one.event["type"] == "login":
            assert account not in logins
            logins[account] = one.at_ms
        elif one.event["type"] == "redeem":
            daily[account, (one.at_ms - logins[account]) // DAY] += 1
            redeemed[account] += int(str(one.event["points"]))
            assert 0.019 <= int(str(one.event["points"])) / balance[account] <= 0.04
    assert max(daily.values()) == 3
    assert max(
        (one.at_ms - logins[one.event["account"]]) // DAY for one in acts if one.event["type"] == "redeem"
    ) in range(7, 14)
    assert 0.16 <= max(redeemed[account] / balance[account] for account in redeemed) <= 1.0


def test_innocent_look_alikes_are_there() -> None:
    """An office address with many members and a family phone with a few are honest, and there to be left alone."""
    at_office, on_phone = defaultdict(set), defaultdict(set)
    for one in sample():
        if one.scenario == "office" and str(one.event.get("ip", "")).startswith("192.0.2."):
            at_office[one.event["ip"]].add(one.event["account"])
        if one.scenario == "family" and "device" in one.event:
            on_phone[one.event["device"]].add(one.event["account"])
    assert max(len(members) for members in at_office.values()) >= 5
    assert 2 <= max(len(members) for members in on_phone.values()) <= 4
    assert not any(one.fraud for one in sample() if one.scenario in ("office", "family", "member", "new_member"))


def test_the_simulator_knows_nothing_of_the_detectors() -> None:
    """What is caught must be found, not agreed upon: no import of theirs, directly or by name."""
    for module in (cli.simulation, cli.scenarios):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name for name in imported if name.split(".")[0] in ("detectors", "config", "streams", "ledger")}


@pytest.mark.parametrize("changes", [{"events_per_hour": 0}, {"fraud_share": 1.0}, {"events_per_hour": float("inf")}])
def test_a_scene_without_a_stream_is_refused(changes: dict[str, float]) -> None:
    """No rate, or nothing but fraud, is no programme."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        scene(**changes)


def test_a_dormant_farm_sleeps_and_redeems_from_clean_devices() -> None:
    """Sign-ups on a few devices over days, a week or more of quiet, then one redemption each from a new device."""
    for seed in range(20):
        acts = dormant_farm(Dice(Random(seed), "t"), 0, ())
        signed_up = {act.account: act for act in acts if act.type == "account.created"}
        redeemed = [act for act in acts if act.type == "redeem"]
        bred = Counter(act.fields["device"] for act in signed_up.values())
        assert 2 <= len(bred) <= 4
        assert all(5 <= size <= 20 for size in bred.values())
        assert min(act.at_ms for act in redeemed) - max(act.at_ms for act in signed_up.values()) >= 8 * DAY
        assert max(act.at_ms for act in redeemed) - min(act.at_ms for act in redeemed) <= 8 * HOUR
        assert {act.account for act in redeemed} == signed_up.keys()
        assert len({act.fields["device"] for act in redeemed} - bred.keys()) == len(redeemed)
        earned = {act.account: int(str(act.fields["points"])) for act in acts if act.type == "earn"}
        assert all(int(str(act.fields["points"])) <= earned[act.account] for act in redeemed)
        assert not [act for act in acts if act.type == "earn" and "device" in act.fields]
