"""A ledger as a Hypothesis state machine: each rule is one call of the facade, driven by a Pair.

Hypothesis chooses which calls and in what order, and a seed for each; `ledger_asks` makes the arguments of that seed.
It need not make scripts short: `ledger_shortest` does, on the calls themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ledger.book import Ledger
from tests.contract import ledger_asks as asks
from tests.contract.ledger_pair import Pair

ORDER_TOTAL = 700
MERGE_FROM = 12  # calls, so that there is something to merge

seeds = st.integers(0, 2**32)
programs = st.sampled_from((*["north"] * 7, "south"))


class LedgerMachine(RuleBasedStateMachine):
    """Any calls in any order, on two programmes of which each has its own model."""

    pair: Pair

    def open_ledger(self) -> tuple[Ledger, str]:
        """Return a ledger, and a suffix for programmes that nobody used on it."""
        raise NotImplementedError

    def chance(self, seed: int) -> Random:
        """Return random numbers of a seed and of all calls so far: Hypothesis likes to repeat small seeds."""
        return Random(f"{seed} {self.pair.fingerprint if hasattr(self, 'pair') else 0}")

    def where(self, program: str, there: Callable[[str], list[str]]) -> str:
        """Return the programme, or the other one if only that has what is wanted."""
        return program if there(program) or not there("north") else "north"

    @initialize(seed=seeds)
    def create(self, seed: int) -> None:
        """Open the books, with some members in a pool."""
        chance = self.chance(seed)
        self.pair = Pair(*self.open_ledger())
        for program in ("north", "south"):
            self.pair.create(program, **asks.terms(chance))
            for name in chance.sample(asks.MEMBERS, chance.randint(0, 3)):
                self.pair.join(program, "x", name)

    @rule(program=programs, seed=seeds)
    def bring_in(self, program: str, seed: int) -> None:
        """Earn or be given points, up to five times: lots are small, so that most that is spent takes several."""
        chance = self.chance(seed)
        self.pair.post(program, *[asks.inflow(chance) for _ in range(chance.randint(1, 5))])

    @rule(program=programs, seed=seeds)
    def take_out(self, program: str, seed: int) -> None:
        """Spend points."""
        chance = self.chance(seed)
        self.pair.post(program, asks.outflow(chance))

    @rule(program=programs, seed=seeds)
    def transfer(self, program: str, seed: int) -> None:
        """Give points away."""
        chance = self.chance(seed)
        self.pair.post(program, asks.transfer(chance))

    @rule(program=programs, seed=seeds)
    def batch(self, program: str, seed: int) -> None:
        """Several movements at once, of two programmes now and then."""
        chance = self.chance(seed)
        asked = [asks.any_of(chance) for _ in range(chance.randint(2, 5))]
        if chance.random() < 0.3:
            asked = [one | {"among": chance.choice(("north", "south"))} for one in asked]
        self.pair.post(program, *asked)

    @precondition(lambda self: self.pair.events_of("north"))
    @rule(program=programs, seed=seeds)
    def reverse(self, program: str, seed: int) -> None:
        """Take back an event, or a part of it, some of them twice."""
        chance = self.chance(seed)
        program = self.where(program, self.pair.events_of)
        asked = asks.reverse(chance, self.pair, program)
        again = [asked] if chance.random() < 0.3 else []
        self.pair.post(program, asked, *again)

    @rule(program=programs, seed=seeds)
    def reverse_in_a_batch(self, program: str, seed: int) -> None:
        """Take back among other movements: even what comes earlier in the same batch."""
        chance = self.chance(seed)
        count = chance.randint(0, 3)
        asked = [asks.any_of(chance) for _ in range(count)]
        for _ in range(chance.randint(1, 2)):
            asked.insert(chance.randint(0, len(asked)), asks.reverse(chance, self.pair, program, count))
        self.pair.post(program, *asked)

    @precondition(lambda self: self.pair.hold_names("north"))
    @rule(program=programs, seed=seeds)
    def resolve(self, program: str, seed: int) -> None:
        """Decide holds, some for the second time or twice at once; a post may be of a part."""
        chance = self.chance(seed)
        program = self.where(program, self.pair.hold_names)
        ends: list[tuple[str, str] | tuple[str, str, int]] = []
        for _ in range(chance.choice((1, 1, 2))):
            every = self.pair.hold_names(program)
            still_open = self.pair.hold_names(program, only_open=True)
            name = chance.choice([*every, "e0"] if chance.random() < 0.2 else still_open or every or ["e0"])
            verdict = chance.choice(("post", "post", "void", "void", "escalate"))
            part = chance.choice((0, 1, *range(5, 60, 5)))
            partly = verdict == "post" and chance.random() < 0.5
            ends.append((name, verdict, part) if partly else (name, verdict))
        self.pair.resolve(program, *ends)

    @rule(program=programs, hours=st.sampled_from((12, 24, 36, 72)))
    def advance(self, program: str, hours: int) -> None:
        """Let time pass."""
        self.pair.advance(program, hours)

    @precondition(lambda self: self.pair.something_due())
    @rule(program=programs)
    def time_out(self, program: str) -> None:
        """Let the policy decide."""
        self.pair.time_out(program)

    @precondition(lambda self: self.pair.something_due())
    @rule(program=programs, most=st.sampled_from((1000, 1000, 1)))
    def expire(self, program: str, most: int) -> None:
        """Run the expiry job."""
        self.pair.expire(program, most)

    @precondition(lambda self: self.pair.events_of("north"))
    @rule(program=programs, seed=seeds)
    def refund(self, program: str, seed: int) -> None:
        """Give an order's money back, or a part of it."""
        chance = self.chance(seed)
        program = self.where(program, self.pair.events_of)
        amount = chance.choice((100, 233, 350, ORDER_TOTAL, ORDER_TOTAL + 1, 0))
        order, refund = chance.choice(asks.ORDERS), f"r{chance.randint(1, 5)}"
        self.pair.refund(program, order, refund, amount, ORDER_TOTAL)

    @precondition(lambda self: len(self.pair.script) > MERGE_FROM)
    @rule(program=programs, seed=seeds)
    def merge(self, program: str, seed: int) -> None:
        """Make two accounts one, now and then."""
        chance = self.chance(seed)
        if chance.random() < 0.3:
            self.pair.merge(program, chance.choice(asks.MEMBERS), chance.choice((*asks.MEMBERS, "nobody")))

    @rule(program=programs, seed=seeds)
    def change_terms(self, program: str, seed: int) -> None:
        """Promise something else from now on, now and then."""
        chance = self.chance(seed)
        if chance.random() < 0.2:
            terms = asks.terms(chance)
            terms.pop("funding", None)
            self.pair.change(program, **terms)

    @rule(program=programs, seed=seeds)
    def pool(self, program: str, seed: int) -> None:
        """Let a member into a pool, or out of it."""
        chance = self.chance(seed)
        call = self.pair.join if chance.random() < 0.8 else self.pair.leave
        call(program, chance.choice(asks.POOLS), chance.choice(asks.MEMBERS))
