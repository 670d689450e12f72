"""Bounded influence: how much of what the models learn any one party may supply.

One account, device or address supplies at most a fixed part of the rows learned lately; what comes beyond is passed
over. Whoever feeds the models from very many of all three is bounded by the gate instead (models_gate.py): a snapshot
that finds known fraud less remarkable than the reference did never comes into use.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from detectors.models import Arrays

Party = tuple[str | None, ...]
"""Who stands behind a row, as keys that differ by kind: account, device, address; None where the event has none."""


@dataclass(frozen=True)
class InfluenceShape:
    """Of the last `rows` admitted one party may have supplied `most`."""

    rows: int = 5_000
    most: int = 25


class Influence:
    """The rows admitted lately, by who supplied them."""

    def __init__(self, shape: InfluenceShape) -> None:
        self.shape = shape
        self._recent: deque[Party] = deque()
        self._supplied: Counter[str] = Counter()

    def admit(self, party: Party) -> bool:
        """Whether a row may teach; counts it if so."""
        keys = [key for key in party if key is not None]
        if any(self._supplied[key] >= self.shape.most for key in keys):
            return False
        self._recent.append(party)
        self._supplied.update(keys)
        if len(self._recent) > self.shape.rows:
            for key in self._recent.popleft():
                if key is not None:
                    self._supplied[key] -= 1
                    if not self._supplied[key]:
                        del self._supplied[key]
        return True

    def export(self) -> Arrays:
        """The state as arrays; see `Learned.export`."""
        text = json.dumps(list(self._recent), separators=(",", ":"))
        return {"recent": np.frombuffer(text.encode(), dtype=np.uint8)}

    def restore(self, arrays: Arrays) -> None:
        """Take over an exported state. ValueError if it is none."""
        self._recent = deque(tuple(party) for party in json.loads(arrays["recent"].tobytes()))
        self._supplied = Counter(key for party in self._recent for key in party if key is not None)
