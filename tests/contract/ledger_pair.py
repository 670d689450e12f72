"""Drives a ledger and the model together: the same calls, the same results, the same state, the invariants.

A Pair writes down every call as it was made: a script that `replay` makes again, and `ledger_shortest` makes short.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ledger.book import Dump, Ledger, Merge, OrderRefund, Resolution
from ledger.movement import Movement
from ledger.terms import Terms
from tests.contract.ledger_invariants import Step, holds_after
from tests.contract.ledger_model import Ask, Model, Rules
from tests.contract.ledger_pictures import of_dump, of_model

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
SOURCE = "till"
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Different(AssertionError):
    """The ledger did not do what the model did, or an invariant broke; `script` is what led there."""

    def __init__(self, what: str, script: Sequence[Call]) -> None:
        super().__init__(f"{what}\n{told(script)}")
        self.what = what
        self.script = tuple(script)


def told(script: Sequence[Call]) -> str:
    """Return a script as lines that can be pasted into a test."""
    lines = ["pair = Pair(MemoryLedger())"]
    for call, given, named in script:
        arguments = [*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())]
        lines.append(f"pair.{call}({', '.join(arguments)})")
    return "\n".join(lines)


class Pair:
    """A ledger and a model of each of its programmes, in step. Programmes are named with a suffix on the ledger.

    In arguments times are hours, counted from now. Events that are given no name are called e1, e2, …; a hold is called
    by its event, with a + for each time that it was held again for the rest.
    """

    def __init__(self, ledger: Ledger, suffix: str = "") -> None:
        """Drive this ledger; programmes of other suffixes on it are left alone."""
        self.ledger = ledger
        self.suffix = suffix
        self.models: dict[str, Model] = {}
        self.script: list[Call] = []
        self.seen: Counter[str] = Counter()
        self.fingerprint = 0
        self._events = 0
        self._hold_ids: dict[tuple[str, str], int] = {}
        self._hold_names: dict[int, tuple[str, str]] = {}
        self._dump: Dump | None = None

    # The facade's calls

    def create(self, program: str, **rules: Any) -> None:
        """Create a programme with these terms."""
        self._note("create", program, **rules)
        self._call("create_program", program + self.suffix, "simulation", Terms(**rules))
        self.models[program] = Model(Rules(**rules))
        self._advance(program, START_MS)

    def advance(self, program: str, hours: int) -> None:
        """Let time pass."""
        self._note("advance", program, hours)
        self._advance(program, self.models[program].now + hours * HOUR_MS)
        self._compare()

    def _advance(self, program: str, now: int) -> None:
        self._call("advance", program + self.suffix, now)
        self.models[program].advance(now)

    def change(self, program: str, **rules: Any) -> None:
        """Give a programme other terms; what its stores pay is for life."""
        self._note("change", program, **rules)
        model = self.models[program]
        rules["funding"] = model.rules.funding
        self._call("create_program", program + self.suffix, "simulation", Terms(**rules))
        model.rules = Rules(**rules)
        self._compare()

    def post(self, program: str, *asked: Mapping[str, Any]) -> None:
        """Post movements as one batch; `ago` and `lasts` are hours from now to when it occurred and expires.

        A movement with `among` is of that programme instead.
        """
        named = zip(self.next_events(len(asked)), asked, strict=True)
        asked = tuple([{"event": name, **given} for name, given in named])
        self._events += len(asked)
        self._note("post", program, *asked)
        before = self._dump
        places = [given.get("among", program) for given in asked]
        ids = self._call("take_ids", len(asked))
        asks = [self._ask(*each) for each in zip(places, ids, asked, strict=True)]
        answers = {
            place: iter(self.models[place].post([ask for ask, its in zip(asks, places, strict=True) if its == place]))
            for place in set(places)
        }
        expected = [next(answers[place]) for place in places]
        movements = [self._movement(place, ask) for place, ask in zip(places, asks, strict=True)]
        self._same("results", [tuple(result) for result in self._call("post", movements)], expected)
        for place, ask, (code, _, _) in zip(places, asks, expected, strict=True):
            self.seen[f"{ask.kind} {code}"] += 1
            if code == "held":
                self._name_hold(ask.number, place, ask.event)
        self._compare()
        if not {code for code, _, _ in expected} & {"posted", "held"}:
            self._unchanged(before)
        for place in set(places):
            self._look(place, *{ask.account for ask, its in zip(asks, places, strict=True) if its == place})

    def resolve(self, program: str, *ends: tuple[str, str] | tuple[str, str, int]) -> None:
        """Decide holds, named by event: (hold, verdict) or (hold, "post", points)."""
        self._note("resolve", program, *ends)
        model, whole = self.models[program], [(*end, None)[:3] for end in ends]
        asked = [
            Resolution(self._hold_ids.get((program, hold), -1), verdict, "ann.alyst", "looked at", points)
            for hold, verdict, points in whole
        ]
        expected = model.resolve(whole)
        found = [resolved.outcome for resolved in self._call("resolve", asked)]
        self._same("outcomes", found, expected)
        self.seen.update(f"resolve {end[1]} {outcome}" for end, outcome in zip(ends, expected, strict=True))
        self._compare()
        self._look(program)

    def time_out(self, program: str) -> None:
        """Let the policy end what is due."""
        self._note("time_out", program)
        ended = self.models[program].time_out()
        expected = sorted((program, name, outcome) for name, outcome in ended)
        timed_out = self._call("time_out", program + self.suffix)
        found = sorted((*self._hold_names[one.hold_id], str(one.outcome)) for one in timed_out)
        self._same("timed out", found, expected)
        self.seen.update(f"time_out {outcome}" for _, outcome in ended)
        self._compare()

    def expire(self, program: str, most: int = 1000) -> None:
        """Run the expiry job."""
        self._note("expire", program, most)
        expected = self.models[program].expire(most)
        self._same("expired", self._call("expire", program + self.suffix, most), expected)
        self.seen["expire something"] += expected > 0
        self._compare()

    def refund(self, program: str, order: str, refund: str, amount: int, total: int) -> None:
        """Refund a part of an order's price."""
        self._note("refund", program, order, refund, amount, total)
        model, (number,) = self.models[program], self._call("take_ids", 1)
        asked = OrderRefund(
            id=number,
            program=program + self.suffix,
            order=order,
            refund=refund,
            amount=amount,
            order_total=total,
            occurred_ms=model.now,
        )
        expected = model.refund(order, refund, amount, total)
        self._same("refund", self._call("refund", asked).code, expected)
        self.seen[f"refund {expected}"] += 1
        self._compare()

    def merge(self, program: str, name: str, into: str) -> None:
        """Merge one account into another."""
        self._note("merge", program, name, into)
        (number,) = self._call("take_ids", 1)
        expected = self.models[program].merge(name, into)
        asked = Merge(
            id=number, program=program + self.suffix, account=name, into=into, actor="bob", reason="one person"
        )
        self._same("merge", self._call("merge", asked).code, expected)
        self.seen[f"merge {expected}"] += 1
        self._compare()

    def join(self, program: str, pool: str, name: str) -> None:
        """Let a member into a pool."""
        self._note("join", program, pool, name)
        expected = self.models[program].join(pool, name)
        self._same("joined", self._call("join_pool", program + self.suffix, pool, name), expected)
        self._compare()

    def leave(self, program: str, pool: str, name: str) -> None:
        """Let a member out of a pool."""
        self._note("leave", program, pool, name)
        expected = self.models[program].leave(pool, name)
        self._same("left", self._call("leave_pool", program + self.suffix, pool, name), expected)
        self._compare()

    # What there is to ask about

    def events_of(self, program: str) -> list[str]:
        """Every event that moved something in a programme, or waits to."""
        return list(self.models[program].originals)

    def next_events(self, count: int) -> list[str]:
        """What the next events will be called."""
        return [f"e{self._events + n}" for n in range(1, count + 1)]

    def account_of(self, program: str, event: str) -> str:
        """Whose event it is."""
        original = self.models[program].originals.get(event)
        return "ann" if original is None else original.ask.account

    def spent_several(self, program: str, event: str) -> bool:
        """Whether an event took points out of several lots."""
        original = self.models[program].originals.get(event)
        return original is not None and len(original.gave) > 1

    def hold_names(self, program: str, *, only_open: bool = False) -> list[str]:
        """What there are of holds."""
        model = self.models[program]
        return [model.hold_name(hold) for hold in model.holds if hold.open or not only_open]

    def something_due(self) -> bool:
        """Whether some hold's or lot's time has come."""
        models = self.models.values()
        holds = any(h.open and h.due_ms is not None and h.due_ms <= m.now for m in models for h in m.holds)
        return holds or any(model.due(lot) and lot.left for model in models for lot in model.lots)

    def what_happened(self) -> Counter[str]:
        """Count results by kind, and what reversals took from where."""
        parts: Counter[str] = Counter()
        for model in self.models.values():
            for _, _, sources in model.reversals:
                parts.update(f"part {part}" for part, points in sources.items() if points)
            for lot in model.lots:
                parts.update(f"lot used to {action}" for action in lot.uses)
        return self.seen + parts

    # What is compared

    def _ask(self, program: str, number: int, given: Mapping[str, Any]) -> Ask:
        now = self.models[program].now
        plain = {name: value for name, value in given.items() if name not in {"ago", "lasts", "among"}}
        lasts = given.get("lasts")
        return Ask(
            number=number,
            at=now - given.get("ago", 0) * HOUR_MS,
            expires=None if lasts is None else now + lasts * HOUR_MS,
            **plain,
        )

    def _movement(self, program: str, ask: Ask) -> Movement:
        return Movement(
            id=ask.number,
            kind=ask.kind,  # type: ignore[arg-type]  # one of the kinds
            program=program + self.suffix,
            account=ask.account,
            points=ask.points,
            verdict=ask.verdict,  # type: ignore[arg-type]  # one of the verdicts
            source=SOURCE,
            event_id=ask.event + self.suffix,
            occurred_ms=ask.at,
            to=ask.to,
            fact=ask.fact,
            due_seconds=ask.due_seconds,
            on_timeout=ask.on_timeout,  # type: ignore[arg-type]  # one of the three
            store=ask.store,
            order=ask.order,
            expires_ms=ask.expires,
            pool=ask.pool,
            reverses=None if ask.reverses is None else (SOURCE, ask.reverses + self.suffix),
        )

    def _compare(self) -> None:
        programs = {program + self.suffix: model for program, model in self.models.items()}
        dump = self._call("dump", list(programs))
        self._find_holds(dump)
        for program, model in self.models.items():
            for found in of_dump(dump, program + self.suffix, self.suffix).differences(of_model(model)):
                raise Different(f"{program}: {found}", self.script)
        now = {program: model.now for program, model in programs.items()}
        try:
            holds_after(Step(self._dump or dump, dump, now))
        except AssertionError as broken:
            raise Different(str(broken), self.script) from None
        self._dump = dump

    def _look(self, program: str, *names: str) -> None:
        """Compare what the queries say: of these accounts, and of the open holds."""
        model = self.models[program]
        for name in names:
            view = self._call("member", program + self.suffix, name)
            real = model.real(name)
            expected = (
                model.points(real), model.pending_in(real), model.pending_out(real), model.spendable(real),
                model.card(real).debt, len(model.open_holds(real)),
            )  # fmt: skip
            found = (0,) * 6 if view is None else (*view[:5], view.open_holds)
            self._same(f"views of {name}", found, expected)
            if view is not None:
                lots = [(lot.remaining, lot.reserved, lot.expires_ms) for lot in view.lots]
                expected_lots = [(lot.left, model.reserved(lot), lot.expires) for lot in model.lots_of(real)]
                self._same(f"lots of {name} in order of use", lots, expected_lots)
        holds = {model.hold_name(hold): (hold.amount, hold.due_ms) for hold in model.holds if hold.open}
        found_holds = {
            self._hold_names[hold.hold_id][1]: (abs(hold.amount), hold.due_ms)
            for hold in self._call("holds", program + self.suffix)
        }
        self._same("open holds", found_holds, holds)

    def _find_holds(self, dump: Dump) -> None:
        """Learn the ids of holds that were held again."""
        for hold in dump.holds:
            old = self._hold_names.get(hold.replaces or 0)
            if old is not None and hold.hold_id not in self._hold_names:
                self._name_hold(hold.hold_id, old[0], old[1] + "+")

    def _name_hold(self, hold_id: int, program: str, name: str) -> None:
        self._hold_names[hold_id] = (program, name)
        self._hold_ids[program, name] = hold_id

    def _unchanged(self, before: Dump | None) -> None:
        """I8: what is refused changes nothing; accounts may have been opened."""
        if before is not None and self._dump is not None:
            opened = tuple(one for one in self._dump.accounts if any(one[4:9]) or one in before.accounts)
            self._same("I8: accounts", opened, before.accounts)
            self._same("I8: lots", self._dump.lots, before.lots)
            self._same("I8: transactions", self._dump.txns, before.txns)

    def _call(self, name: str, *given: Any) -> Any:
        try:
            return getattr(self.ledger, name)(*given)
        except Exception as error:  # told with the script that led to it
            raise Different(f"{name} raised {error!r}", self.script) from error

    def _note(self, call: str, *given: Any, **named: Any) -> None:
        self.fingerprint = zlib.crc32(repr((call, given, named)).encode(), self.fingerprint)
        self.script.append((call, given, named))

    def _same(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise Different(f"{what} differ\n  ledger: {found}\n  model:  {expected}", self.script)


def replay(pair: Pair, script: Sequence[Call]) -> None:
    """Make the calls of a script again."""
    for call, given, named in script:
        getattr(pair, call)(*given, **named)
