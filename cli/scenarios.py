"""Who acts in the simulated programme, and what fraudsters do in it: a scenario is a function from dice to acts.

The figures (ring sizes, delays, shares) are those of published loyalty-fraud cases, not those of any rule or model
here: this module imports nothing of the detectors and shares no constant with them, so that what they catch is found,
not agreed upon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
QUICK_SHARE = 0.5  # of a farm's accounts act within a minute of their sign-up


@dataclass(frozen=True, slots=True)
class Person:
    """A member: the account, the phone and the connection they use. `kind` names their scenario."""

    account: str
    device: str
    ip: str
    kind: str = "member"


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens: `type` and `fields` of the event to be, by `account`, at `at_ms` (simulated epoch ms)."""

    at_ms: int
    type: str
    account: str
    fields: dict[str, object] = field(default_factory=dict)
    scenario: str = "member"
    fraud: bool = False


@dataclass(frozen=True, slots=True)
class Victim:
    """An account worth stealing: nobody looks at it, and `balance` points lie on it since `since_ms`."""

    person: Person
    balance: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Dice:
    """The random source of a scenario and the namer of what only this run has (`run` keeps names of two runs apart)."""

    rng: Random
    run: str

    def name(self, prefix: str) -> str:
        """A fresh account or device name; 48 random bits, so that two never meet."""
        return f"{prefix}-{self.run}-{self.rng.getrandbits(48):012x}"

    def address(self) -> str:
        """A rented IPv4 address, from the range set aside for benchmarks."""
        return f"198.{18 + self.rng.getrandbits(1)}.{self.rng.getrandbits(8)}.{self.rng.getrandbits(8)}"

    def stranger(self, kind: str) -> Person:
        """A person with a new account, a new phone and a new connection."""
        return Person(self.name("m"), self.name("d"), self.address(), kind)

    def geometric(self, low: int, high: int, stop: float) -> int:
        """`low` plus the number of failures before a success of chance `stop`, at most `high`."""
        size = low
        while size < high and self.rng.random() > stop:
            size += 1
        return size


def online(person: Person, channel: str = "app") -> dict[str, object]:
    """The fields an event carries when the person acts through their own device."""
    return {"device": person.device, "ip": person.ip, "channel": channel}


def signup_farm(dice: Dice, start_ms: int, _victims: Sequence[Victim]) -> list[Act]:
    """A bulk registration: 1-3 devices with 2-20 accounts each behind 1-3 addresses.

    Half of the accounts take the welcome points within the minute, the others hours later.
    """
    rng, acts, at = dice.rng, list[Act](), start_ms
    addresses = [dice.address() for _ in range(rng.randint(1, 3))]
    for device in [dice.name("d") for _ in range(rng.randint(1, 3))]:
        pause = rng.randint(20, 150) * SECOND
        for _ in range(dice.geometric(2, 20, 0.2)):
            person = Person(dice.name("m"), device, rng.choice(addresses), "signup_farm")
            quick = rng.random() < QUICK_SHARE
            wait = rng.randint(2, 50) * SECOND if quick else rng.randint(HOUR, 12 * HOUR)
            bonus = {**online(person), "points": rng.choice((200, 300, 500)), "campaign": "welcome"}
            acts.append(Act(at, "account.created", person.account, online(person), "signup_farm", True))
            acts.append(Act(at + wait, "earn", person.account, bonus, "signup_farm", True))
            at += pause
    return acts


def account_takeover(dice: Dice, start_ms: int, victims: Sequence[Victim]) -> list[Act]:
    """A stolen dormant account: login from a new device, a new password, most of the points gone in 3-30 minutes."""
    rng, victim = dice.rng, victims[0]
    thief = Person(victim.person.account, dice.name("d"), dice.address(), "account_takeover")
    changed = start_ms + rng.randint(20, 150) * SECOND
    at = start_ms + rng.randint(3, 30) * MINUTE
    left = int(victim.balance * rng.uniform(0.7, 1.0))
    acts = [
        Act(start_ms, "login", thief.account, online(thief), "account_takeover", True),
        Act(
            changed,
            "credential.changed",
            thief.account,
            {**online(thief), "credential": "password"},
            "account_takeover",
            True,
        ),
    ]
    parts = rng.randint(1, 3)
    for part in range(parts):
        points = left if part == parts - 1 else left // (parts - part)
        left -= points
        spend = {**online(thief), "points": max(points, 1), "order": dice.name("o")}
        acts.append(Act(at, "redeem", thief.account, spend, "account_takeover", True))
        at += rng.randint(30, 240) * SECOND
    return acts


def points_mule(dice: Dice, start_ms: int, victims: Sequence[Victim]) -> list[Act]:
    """Fan-in: a fresh account collects the points of stolen ones, then redeems 92-98 % of them within 15 minutes."""
    rng, mule, at, total = dice.rng, dice.stranger("points_mule"), start_ms, 0
    acts = [Act(at, "account.created", mule.account, online(mule), "points_mule", True)]
    devices = [dice.name("d") for _ in range(rng.randint(1, 3))]
    at += rng.randint(5, 30) * MINUTE
    for victim in victims:
        thief = Person(victim.person.account, rng.choice(devices), dice.address(), "points_mule")
        points = max(int(victim.balance * rng.uniform(0.6, 0.95)), 1)
        total += points
        acts.append(Act(at, "login", thief.account, online(thief), "points_mule", True))
        at += rng.randint(10, 60) * SECOND
        acts.append(
            Act(
                at,
                "transfer",
                thief.account,
                {**online(thief), "points": points, "to": mule.account},
                "points_mule",
                True,
            )
        )
        at += rng.randint(10, 90) * SECOND
    at += rng.randint(1, 14) * MINUTE
    swept = {**online(mule), "points": max(int(total * rng.uniform(0.92, 0.98)), 1), "order": dice.name("o")}
    return [*acts, Act(at, "redeem", mule.account, swept, "points_mule", True)]


def earn_script(dice: Dice, start_ms: int, _victims: Sequence[Victim]) -> list[Act]:
    """A script that repeats one small earn to the second, 25-70 times, on one or two accounts of one device."""
    rng, acts = dice.rng, list[Act]()
    device, address = dice.name("d"), dice.address()
    period, points = rng.randint(5, 25) * SECOND, rng.randint(5, 30)
    for number in range(rng.randint(1, 2)):
        person = Person(dice.name("m"), device, address, "earn_script")
        at = start_ms + number * SECOND
        acts.append(Act(at - 20 * MINUTE, "account.created", person.account, online(person), "earn_script", True))
        for step in range(rng.randint(25, 70)):
            fields = {**online(person), "points": points, "campaign": "daily-check-in"}
            acts.append(Act(at + step * period, "earn", person.account, fields, "earn_script", True))
    return acts


def dormant_farm(dice: Dice, start_ms: int, _victims: Sequence[Victim]) -> list[Act]:
    """Accounts bred for later: 2-4 devices with 5-20 accounts each, signed up over 2-5 days.

    The shop's own server credits the welcome points, so nothing but the sign-up shows the device. After 8-20 quiet days
    all are spent within some hours, each account from a clean device and address of its own.
    """
    rng, acts = dice.rng, list[Act]()
    addresses = [dice.address() for _ in range(rng.randint(2, 4))]
    spread, quiet, rush = rng.randint(2, 5) * DAY, rng.randint(8, 20) * DAY, rng.randint(2, 8) * HOUR
    wait = 0
    for device in [dice.name("d") for _ in range(rng.randint(2, 4))]:
        for _ in range(dice.geometric(5, 20, 0.15)):
            bred = Person(dice.name("m"), device, rng.choice(addresses), "dormant_farm")
            spender = Person(bred.account, dice.name("d"), dice.address(), "dormant_farm")
            at, points = start_ms + wait, rng.choice((200, 300, 500))
            bonus: dict[str, object] = {"points": points, "campaign": "welcome", "channel": "server"}
            spend = {**online(spender), "points": int(points * rng.uniform(0.8, 1.0)), "order": dice.name("o")}
            spent = start_ms + spread + quiet + rng.randint(0, rush)
            acts.append(Act(at, "account.created", bred.account, online(bred), "dormant_farm", True))
            acts.append(Act(at + rng.randint(HOUR, 12 * HOUR), "earn", bred.account, bonus, "dormant_farm", True))
            acts.append(Act(spent, "redeem", bred.account, spend, "dormant_farm", True))
            wait = rng.randint(0, spread)
    return acts


def slow_drip(dice: Dice, start_ms: int, victims: Sequence[Victim]) -> list[Act]:
    """A stolen dormant account emptied so slowly that no daily limit notices: 1-3 small rewards a day for 8-14 days.

    The thief changes nothing on the account. Each reward is 2-4 % of what lay on it, from one new phone.
    """
    rng, victim = dice.rng, victims[0]
    thief = Person(victim.person.account, dice.name("d"), dice.address(), "slow_drip")
    acts = [Act(start_ms, "login", thief.account, online(thief), "slow_drip", True)]
    for day in range(rng.randint(8, 14)):
        for _ in range(rng.randint(1, 3)):
            at = start_ms + day * DAY + rng.randint(10 * MINUTE, 12 * HOUR)
            points = max(int(victim.balance * rng.uniform(0.02, 0.04)), 1)
            spend = {**online(thief), "points": points, "order": dice.name("o")}
            acts.append(Act(at, "redeem", thief.account, spend, "slow_drip", True))
    return acts


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fraud the world plays in turn: `plan` its acts, after `lead_ms`, with between `fewest` and `most` victims.

    It is played in the first round of all scenarios, and in one of `every` rounds.
    """

    name: str
    plan: Callable[[Dice, int, Sequence[Victim]], list[Act]]
    fewest: int = 0
    most: int = 0
    lead_ms: int = 0
    every: int = 1


SCENARIOS = (
    Scenario("signup_farm", signup_farm),
    Scenario("account_takeover", account_takeover, fewest=1, most=1),
    Scenario("points_mule", points_mule, fewest=5, most=25),
    Scenario("earn_script", earn_script, lead_ms=20 * MINUTE),
    Scenario("dormant_farm", dormant_farm, every=4),
    Scenario("slow_drip", slow_drip, fewest=1, most=1),
)
FRAUDS = tuple(scenario.name for scenario in SCENARIOS)
