"""An independent model of what the events of one topic must come to: a dict and a loop, no code of the product.

It takes the policy of these tests, under which nothing is ever suspicious, so every outcome follows from the events
alone: an earn is posted, a redemption is posted if the balance suffices and refused if not.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass
class ModelLedger:
    """Balances by account, and the outcome of every event by id."""

    balances: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def apply(self, event: Mapping[str, object]) -> None:
        """Take one event; one that came before changes nothing."""
        event_id, account, kind = str(event["id"]), str(event["account"]), event["type"]
        if event_id in self.outcomes:
            return
        balance = self.balances.setdefault(account, 0)
        points = int(str(event.get("points", 0)))
        if kind == "account.created":
            self.outcomes[event_id] = ("noted", "noted")
        elif kind == "earn":
            self.balances[account] = balance + points
            self.outcomes[event_id] = ("approve", "posted")
        elif balance >= points:
            self.balances[account] = balance - points
            self.outcomes[event_id] = ("approve", "posted")
        else:
            self.outcomes[event_id] = ("reject", "insufficient_balance")


def expected(values: Iterable[bytes]) -> ModelLedger:
    """The model after all records of a topic; each account's records must come in its partition's order."""
    model = ModelLedger()
    for value in values:
        model.apply(json.loads(value))
    return model
