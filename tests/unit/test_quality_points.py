"""Default policy over whole streams: what is at stake, what is held, and that honest members are left alone."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from bench.quality_points import Judged, decided, observed, others, simulated, tally
from config.policy import default_policy_text, load_policy
from detectors.decision import CompiledPolicy, Decision
from detectors.event import Invalid, decode
from detectors.event_types import Event

START = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def policy() -> CompiledPolicy:
    """The default policy."""
    return load_policy(default_policy_text())


def event(minutes: float, kind: str, account: str, **fields: object) -> Event:
    """An event so many minutes after noon."""
    body: Mapping[str, object] = {
        "id": f"{kind}{minutes}{account}", "source": "t", "program": "p", "type": kind, "account": account,
        "occurred_at": (START + timedelta(minutes=minutes)).isoformat(), **fields,
    }  # fmt: skip
    read = decode(json.dumps(body).encode())
    assert not isinstance(read, Invalid), read
    return read


def outcomes(events: list[Event], policy: CompiledPolicy) -> list[tuple[str, tuple[str, ...]]]:
    """What becomes of each event that moves points, with the codes of its reasons."""
    decisions = decided(events, asyncio.run(observed(events, policy)), policy)
    return [
        (decision.outcome, tuple(reason.code for reason in decision.reasons))
        for each, decision in zip(events, decisions, strict=True)
        if getattr(each, "points", None)
    ]


APPROVED, DAY = ("approve", ()), 24 * 60


def test_a_woken_account_is_held_and_a_member_with_a_new_phone_is_not(policy: CompiledPolicy) -> None:
    """After a balance brought over, a login and rewards from one new phone; a member who earned at tills passes."""
    opening = {"points": 5_000, "reason": "opening balance", "fulfilled": True}
    drip = [event(60 + day * DAY, "redeem", "a", points=100, device="thief") for day in range(4)]
    sleeping = [event(0, "adjust", "a", **opening), event(30, "login", "a", device="thief"), *drip]
    assert outcomes(sleeping, policy)[1:] == [("hold", ("woken_account",))] * 4
    tills = [event(day * DAY, "earn", "b", points=40 + day, store="s") for day in range(3)]
    member = [
        *tills,
        event(3 * DAY, "login", "b", device="new"),
        event(3 * DAY + 9, "redeem", "b", points=90, device="new"),
    ]
    assert outcomes(member, policy) == [APPROVED] * 4
    joined = [event(0, "account.created", "c", device="own"), event(DAY, "earn", "c", points=300, device="own")]
    assert outcomes([*joined, event(2 * DAY, "redeem", "c", points=90, device="own")], policy) == [APPROVED] * 2


def test_who_borrows_a_new_phone_has_not_woken(policy: CompiledPolicy) -> None:
    """Somebody else's device has more events than the member: all that happened on it was not the member's doing."""
    borrower = [event(day * DAY, "earn", "b", points=40 + day, store="s") for day in range(3)]
    owner = [event(4 * DAY + hour * 60, "login", "a", device="new") for hour in range(4)]
    redeem = event(5 * DAY, "redeem", "b", points=60, device="new")
    assert outcomes([*borrower, *owner, redeem], policy) == [APPROVED] * 4


def test_points_passed_on_are_held_away_from_a_till(policy: CompiledPolicy) -> None:
    """950 of 1,000 points that came ten minutes ago: held; at a till, later, or of another size: not."""
    came = event(0, "earn", "a", points=1_000, device="d")
    for minutes, points, where, expected in (
        (10, 950, {}, ("hold", ("passed_on",))),
        (10, 950, {"store": "s"}, APPROVED),
        (25, 950, {}, APPROVED),
        (10, 500, {}, APPROVED),
    ):
        left = event(minutes, "redeem", "a", points=points, device="d", **where)
        assert outcomes([came, left], policy)[1] == expected


def test_what_was_spent_and_comes_back_is_held(policy: CompiledPolicy) -> None:
    """A credit of what was spent two hours ago: held; at a till or after five hours: not."""
    spent = event(0, "redeem", "a", points=600)
    held = ("hold", ("given_back",))
    assert outcomes([spent, event(120, "earn", "a", points=590)], policy)[1] == held
    assert outcomes([spent, event(120, "earn", "a", points=590, store="s")], policy)[1] == APPROVED
    assert outcomes([spent, event(300, "earn", "a", points=590)], policy)[1] == APPROVED


def test_a_run_of_outflows_at_night_is_held_where_nothing_vouches(policy: CompiledPolicy) -> None:
    """The second outflow within an hour at 23 o'clock: held; by day, or with a device: not."""
    night = 11 * 60
    for start, fields, expected in (
        (night, {}, ("hold", ("night_run",))),
        (0, {}, APPROVED),
        (night, {"device": "d"}, APPROVED),
    ):
        known = event(-9 * DAY, "earn", "a", points=2_000, device="d")
        first = event(start, "redeem", "a", points=300, **fields)
        second = event(start + 20, "redeem", "a", points=420, **fields)
        assert outcomes([known, first, second], policy)[1:] == [APPROVED, expected]


def test_the_scenarios_are_caught_and_honest_members_left_alone(policy: CompiledPolicy) -> None:
    """On a stream of one seed: nine tenths of the points at stake are held, half a per cent of honest ones delayed."""
    judged = simulated(5, 12_000)
    points = tally(judged, decided(judged.events, asyncio.run(observed(judged.events, policy)), policy))
    assert {"signup_farm", "account_takeover", "points_mule", "earn_script", "slow_drip"} <= set(points.stake)
    assert points.held_share >= 0.9
    assert points.delayed_share <= 0.01
    assert points.honest > 100_000


def decision(outcome: str) -> Decision:
    """A verdict."""
    return Decision(
        outcome=outcome, score=0.5, reasons=(), suspicious=False, policy_version=1, model_version=None  # type: ignore[arg-type]  # the test's own words
    )  # fmt: skip


def test_what_is_at_stake_is_what_leaves() -> None:
    """Redemptions count where a scenario has any, else what it collects; of refunds the credit; honest points apart."""
    events = [
        event(0, "earn", "a", points=10), event(1, "redeem", "a", points=8), event(2, "earn", "b", points=5),
        event(3, "redeem", "c", points=4), event(4, "earn", "c", points=3), event(5, "earn", "d", points=100),
        event(6, "transfer", "a", points=2, to="x"), event(7, "earn", "d", points=60),
    ]  # fmt: skip
    judged = Judged(events, ["mule", "mule", "farm", "refund_abuse", "refund_abuse", "", "mule", ""])
    words = ("hold", "hold", "approve", "hold", "reject", "approve", "hold", "hold")
    points = tally(judged, [decision(word) for word in words])
    assert dict(points.stake) == {"mule": 8.0, "farm": 5.0, "refund_abuse": 3.0}
    assert dict(points.held) == {"mule": 8.0, "farm": 0.0, "refund_abuse": 3.0}
    assert points.held_share == pytest.approx(11 / 16)
    assert points.delayed_share == pytest.approx(60 / 160)


def test_others_are_counted_before_the_event_and_within_90_days() -> None:
    """The account itself does not count, nor what came later, nor what is too long ago."""
    events = [
        event(0, "login", "a", device="d"), event(DAY, "login", "b", device="d"),
        event(2 * DAY, "login", "a", device="d"), event(92 * DAY, "login", "c", device="d"),
        event(92 * DAY, "login", "a", device="e"),
    ]  # fmt: skip
    assert others(events, "device").tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
