"""A seeded loyalty programme: honest members by the rhythm of the day, frauds among them, as a stream of events.

Pure: no clock, no I/O. The same `Scene` gives the same events to the byte. Each event comes with its hidden label,
beside it and never in it. Simulated time never goes back in the stream.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any, NamedTuple

from cli.scenarios import DAY, HOUR, MINUTE, SCENARIOS, SECOND, Act, Dice, Person, Scenario, Victim, online

EVENTS, REQUESTS = "points.events", "points.requests"
OUTFLOWS = frozenset({"redeem", "transfer"})
START_MS = 1_767_603_600_000  # 2026-01-05T09:00:00Z, a Monday: a new programme's first moment

# Share of a day's visits that fall into each hour, as shops and apps see them: quiet nights, two peaks.
RHYTHM = (4, 3, 2, 2, 2, 3, 5, 8, 9, 10, 11, 13, 14, 12, 11, 11, 12, 14, 16, 16, 14, 11, 8, 5)
MEAN_RHYTHM = sum(RHYTHM) / len(RHYTHM)
DORMANT = 0.45
VISITS_A_DAY = 2.0
# Shares by which honest people differ: of arrivals, of sign-ups, of visits (twice), of visits with savings, of what
# families spend, of members.
SIGN_UPS, EARN_SOON, AT_TILL, LOG_IN, SPEND, GIVE, AT_OFFICE = 0.03, 0.3, 0.55, 0.4, 0.3, 0.2, 0.1
OFFICE_HOURS = range(9, 18)
WORTH_SPENDING = 150
POOL = 60  # dormant accounts with a known balance kept in stock for the thieves


class Simulated(NamedTuple):
    """An event, and what only the simulator knows: its scenario and whether it is fraud. `at_ms` is `occurred_at`."""

    at_ms: int
    topic: str
    event: dict[str, object]
    scenario: str
    fraud: bool

    @property
    def key(self) -> bytes:
        """The record key: the account, so that one account's events stay in order."""
        return str(self.event["account"]).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything the stream depends on.

    `events_per_hour` is the day's mean in simulated hours; `fraud_share` lies between an ordinary day (0.005-0.01) and
    a week of promotion abuse (0.05-0.1). `start_ms` is the simulated epoch millisecond it begins at: to go on after an
    earlier run, start past the programme's clock; ids and new accounts of two different scenes never meet.
    """

    seed: int
    program: str
    start_ms: int = START_MS
    events_per_hour: float = 3_000.0
    fraud_share: float = 0.02

    def __post_init__(self) -> None:
        """Refuse parameters that make no stream."""
        if not (self.events_per_hour > 0 and math.isfinite(self.events_per_hour)):
            raise ValueError("events_per_hour must be above 0")
        if not 0 <= self.fraud_share < 1:
            raise ValueError("fraud_share must be at least 0 and below 1")

    @property
    def run(self) -> str:
        """The token in the ids of this scene's events: a digest of all its parameters."""
        return hashlib.blake2s(repr(astuple(self)).encode(), digest_size=5).hexdigest()

    @property
    def source(self) -> str:
        """The `source` of its events."""
        return f"simulate:{self.program}"


def rfc3339(at_ms: int) -> str:
    """An epoch millisecond as the contract writes times, in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class World:
    """The programme's people and what is planned for them: a heap of acts and of callbacks that plan more."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rng = Random(f"{scene.seed}:{scene.run}")
        self.dice = Dice(self.rng, scene.run)
        self.balance: dict[str, int] = {}
        self.members = max(200, int(scene.events_per_hour * 24 / VISITS_A_DAY / (1 - DORMANT)))
        self.stock: deque[Victim] = deque()
        self._order = count()
        self._heap: list[tuple[int, int, Act | Callable[[int], None]]] = []
        self._turn = 0
        self._asleep = count()

    def start(self) -> None:
        """Plan the first visit, the stock of dormant accounts and, a minute in, the first fraud."""
        begin = self.scene.start_ms
        self._later(begin, self._arrive)
        self._wake_stock(begin, POOL)
        if self.scene.fraud_share > 0:
            self._later(begin + MINUTE, self._attack)

    def acts(self) -> Iterator[Act]:
        """All that happens, in the order of simulated time, without end."""
        while True:
            at_ms, _, what = heapq.heappop(self._heap)
            if isinstance(what, Act):
                yield what
            else:
                what(at_ms)

    def _later(self, at_ms: int, what: Act | Callable[[int], None]) -> None:
        heapq.heappush(self._heap, (at_ms, next(self._order), what))

    def _plan(self, acts: list[Act]) -> None:
        for act in acts:
            self._later(act.at_ms, act)

    def _arrive(self, at_ms: int) -> None:
        """Plan one honest visit and the next arrival; after a visit with more events it comes later: the mean holds."""
        acts = self._sign_up(at_ms) if self.rng.random() < SIGN_UPS else self._visit(at_ms)
        self._plan(acts)
        rate = self.scene.events_per_hour * (1 - self.scene.fraud_share) / HOUR
        now = RHYTHM[at_ms % DAY // HOUR] / MEAN_RHYTHM
        gap = sum(self.rng.expovariate(rate * now) for _ in acts)
        self._later(at_ms + max(1, round(gap)), self._arrive)

    def _attack(self, at_ms: int) -> None:
        """Play the next fraud; the one after waits until the share of fraud is back to what the scene wants."""
        scenario = self._whose_turn()
        wanted = self.dice.geometric(scenario.fewest, scenario.most, 0.15) if scenario.most else 0
        ready = [victim for victim in self.stock if victim.since_ms + 10 * MINUTE <= at_ms][:wanted]
        if len(ready) < scenario.fewest:
            self._later(at_ms + 5 * MINUTE, self._attack)
            return
        for victim in ready:
            self.stock.remove(victim)
        acts = scenario.plan(self.dice, at_ms + scenario.lead_ms, ready)
        self._plan(acts)
        self._wake_stock(at_ms, len(ready))
        self._turn += 1
        rate = self.scene.events_per_hour * self.scene.fraud_share / HOUR
        self._later(at_ms + max(MINUTE, round(len(acts) / rate)), self._attack)

    def _whose_turn(self) -> Scenario:
        """The scenario to play next; one that sits out this round is passed over."""
        while True:
            rounds, turn = divmod(self._turn, len(SCENARIOS))
            if rounds % SCENARIOS[turn].every == 0:
                return SCENARIOS[turn]
            self._turn += 1

    def _wake_stock(self, at_ms: int, size: int) -> None:
        """Bring the balances of `size` more dormant accounts over from the programme that ran before."""
        for _ in range(size):
            person = Person(
                f"m-{self.scene.run}-z{next(self._asleep):05d}", self.dice.name("d"), self.dice.address(), "dormant"
            )
            points = min(max(round(self.rng.lognormvariate(8.5, 0.9)), 500), 90_000)
            since = at_ms + self.rng.randint(0, 5 * MINUTE)
            fields: dict[str, object] = {
                "points": points,
                "reason": "opening balance",
                "fulfilled": True,
                "channel": "migration",
            }
            self._later(since, Act(since, "adjust", person.account, fields, "dormant"))
            self.stock.append(Victim(person, points, since))

    def _sign_up(self, at_ms: int) -> list[Act]:
        """A new honest member: signs up on their own phone, and earns for the first time minutes or days later."""
        rng, person = self.rng, self.dice.stranger("new_member")
        soon = rng.random() < EARN_SOON
        first = at_ms + (rng.randint(90, 1_200) * SECOND if soon else rng.randint(HOUR, 3 * DAY))
        return [
            Act(at_ms, "account.created", person.account, online(person), "new_member"),
            Act(
                first,
                "earn",
                person.account,
                {**online(person), "points": self._receipt(), "store": self._store()},
                "new_member",
            ),
        ]

    def _visit(self, at_ms: int) -> list[Act]:
        """A known member buys, at a till or online, and now and then spends points or gives some to their family."""
        rng, number = self.rng, self._awake()
        person = member(self.scene.seed, number, at_ms)
        at_till = rng.random() < AT_TILL
        where: dict[str, object] = {"store": self._store(), "channel": "pos"} if at_till else online(person)
        acts = list[Act]()
        if not at_till and rng.random() < LOG_IN:
            acts.append(Act(at_ms, "login", person.account, where, person.kind))
            at_ms += rng.randint(20, 400) * SECOND
        points, saved = self._receipt(), self.balance.get(person.account, 0)
        acts.append(
            Act(at_ms, "earn", person.account, {**where, "points": points, "order": self.dice.name("o")}, person.kind)
        )
        self.balance[person.account] = saved + points
        if saved >= WORTH_SPENDING and rng.random() < SPEND:
            acts.append(self._spend(person, where, at_ms + rng.randint(30, 300) * SECOND, saved))
        return acts

    def _spend(self, person: Person, where: dict[str, object], at_ms: int, saved: int) -> Act:
        """Part of what was saved before this visit, as a reward or, rarely, as a present to somebody of the family."""
        points = max(50, int(saved * self.rng.uniform(0.2, 0.6)) // 10 * 10)
        self.balance[person.account] -= points
        if person.kind == "family" and self.rng.random() < GIVE:
            relative = sibling(person.account)
            return Act(at_ms, "transfer", person.account, {**where, "points": points, "to": relative}, person.kind)
        return Act(
            at_ms, "redeem", person.account, {**where, "points": points, "order": self.dice.name("o")}, person.kind
        )

    def _awake(self) -> int:
        """The number of a member who is not dormant."""
        while True:
            number = self.rng.randrange(self.members)
            if Random(f"{self.scene.seed}:asleep:{number}").random() >= DORMANT:
                return number

    def _receipt(self) -> int:
        return min(max(round(self.rng.lognormvariate(4.1, 0.8)), 1), 2_000)

    def _store(self) -> str:
        return f"s-{self.rng.randrange(1, 41):03d}"


def member(seed: int, number: int, at_ms: int) -> Person:
    """Member `number` of the programme at that hour: the same person in every run of one seed.

    Of each twelfth family of four seats, 2-4 share one phone; a tenth of all others sits behind one of eight office
    addresses in office hours.
    """
    family, seat = divmod(number, 4)
    home = Random(f"{seed}:home:{family}")
    is_family, size, block = home.random() < 1 / 12, home.randint(2, 4), home.getrandbits(16)
    own = Random(f"{seed}:member:{number}")
    device, desk, office, line = own.getrandbits(48), own.random(), own.randrange(8), own.getrandbits(16)
    account = f"m-{number:06d}"
    if is_family and seat < size:
        return Person(account, f"d-home-{family:05d}", f"10.{block >> 8}.{block & 255}.{family % 250 + 1}", "family")
    if desk < AT_OFFICE and at_ms % DAY // HOUR in OFFICE_HOURS:
        return Person(account, f"d-{device:012x}", f"192.0.2.{office + 1}", "office")
    kind = "office" if desk < AT_OFFICE else "member"
    address = (
        f"2001:db8:{line:x}:{number % 65_536:x}::1"
        if line % 5 == 0
        else f"10.{line >> 8}.{line & 255}.{number % 250 + 1}"
    )
    return Person(account, f"d-{device:012x}", address, kind)


def sibling(account: str) -> str:
    """The account in the next seat of the same family."""
    number = int(account.removeprefix("m-"))
    return f"m-{number // 4 * 4 + (number + 1) % 2:06d}"


def stream(scene: Scene) -> Iterator[Simulated]:
    """The scene's events, in order of time, without end; take as many as wanted (`itertools.islice`)."""
    world = World(scene)
    world.start()
    for serial, act in enumerate(world.acts(), start=1):
        event: dict[str, Any] = {
            "id": f"{scene.run}-{serial}",
            "source": scene.source,
            "type": act.type,
            "program": scene.program,
            "account": act.account,
            "occurred_at": rfc3339(act.at_ms),
            **act.fields,
        }
        topic = REQUESTS if act.type in OUTFLOWS else EVENTS
        yield Simulated(act.at_ms, topic, event, act.scenario, act.fraud)
