"""Makes a failing script short: leaves out what can be left out, as long as it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.contract.ledger_pair import Call, Different, Pair, replay

NEEDED = {"event", "kind", "account", "points", "reverses", "to"}
TRIES = 2000


class Shortening:
    """Tries shorter scripts, each on a new pair, and keeps the last that failed."""

    def __init__(self, failure: Different, new_pair: Callable[[], Pair]) -> None:
        """Begin with the script of a failure."""
        self.failure = failure
        self._new_pair = new_pair
        self._tries = 0

    def run(self) -> Different:
        """Leave out calls, then parts of calls, until nothing is left that can go, or 2,000 scripts were tried."""
        size = len(self.failure.script)
        while size:
            if not self._leave_out(size):
                size //= 2
        while any(self._try(script) for script in _simpler_scripts(self.failure.script)):
            while self._leave_out(1):
                pass
        return self.failure

    def _leave_out(self, size: int) -> bool:
        """Leave out parts of so many calls wherever that is possible; whether it was anywhere."""
        start, shorter = 0, False
        while start < len(self.failure.script):
            script = self.failure.script
            kept = [call for call in script[start : start + size] if call[0] == "create"]
            if len(kept) < len(script[start : start + size]) and self._try(
                [*script[:start], *kept, *script[start + size :]]
            ):
                shorter = True
            else:
                start += size
        return shorter

    def _try(self, script: Sequence[Call]) -> bool:
        self._tries += 1
        if self._tries > TRIES:
            return False
        pair = self._new_pair()
        try:
            replay(pair, script)
        except Different as failure:
            self.failure = failure
            return True
        return False


def _simpler_scripts(script: Sequence[Call]) -> Iterator[list[Call]]:
    for place, call in enumerate(script):
        for simpler in _simpler(call):
            yield [*script[:place], simpler, *script[place + 1 :]]


def _simpler(call: Call) -> Iterator[Call]:
    name, given, named = call
    for option in named:
        yield name, given, {key: value for key, value in named.items() if key != option}
    if name == "post" and len(given) > 2:
        for place in range(1, len(given)):
            yield name, (*given[:place], *given[place + 1 :]), named
    for place, value in enumerate(given):
        for less in _less(value):
            yield name, (*given[:place], less, *given[place + 1 :]), named


def _less(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from ({key: kept for key, kept in value.items() if key != name} for name in value if name not in NEEDED)
        points = value["points"]
        if abs(points) > 10:
            yield value | {"points": points // 2}
            yield value | {"points": points - points % 10}
