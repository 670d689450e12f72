"""How well the default policy does on labelled sign-ups and first purchases, with and without its same-minute rule.

    python -m bench.policy_quality FOLDER

FOLDER holds ecom_visible.csv.gz (bring your own copy; it is not part of this project). Every purchase is decided on
what was seen before it, in the order of time, by the code the workers run. Velocity is worked out here in the most
straightforward way, so the figures do not rest on the store.
"""

import argparse
import csv
import gzip
import ipaddress
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config.policy import default_policy_text, load_policy
from detectors.decision import CompiledPolicy, compile_policy, decide, fields_of
from detectors.event import milliseconds, points_of
from detectors.event_types import AccountCreated, Earn, Event
from detectors.features import account_times, assemble, moments
from detectors.layout import Floats, Layout, by_name
from detectors.velocity_names import KINDS, SUMS, spec_of

FILE = "ecom_visible.csv.gz"
SAME_MINUTE = "same_minute_signup"


class Labelled(NamedTuple):
    """Events in the order of time, and whether each is a purchase and labelled as fraud."""

    events: list[Event]
    purchase: list[bool]
    fraud: list[bool]


class Figures(NamedTuple):
    """Of the purchases labelled fraud the share that was stopped, and of those stopped the share that was fraud."""

    stopped: int
    precision: float
    recall: float


def read(path: Path) -> Labelled:
    """The file as events: a sign-up is `account.created`, a purchase `earn`; of equal times the sign-up comes first."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [entry for number, row in enumerate(csv.DictReader(file)) for entry in _entries(number, row)]
    rows.sort(key=lambda entry: entry[0])
    return Labelled([row[1] for row in rows], [row[1].type == "earn" for row in rows], [row[2] for row in rows])


def _entries(number: int, row: dict[str, str]) -> Iterable[tuple[tuple[datetime, int, int], Event, bool]]:
    common = {
        "source": "ecom", "program": "ecom", "account": row["user_id"], "device": row["device_id"],
        "ip": str(ipaddress.ip_address(int(float(row["ip_address"])))),
    }  # fmt: skip
    signed_up, bought = (
        datetime.fromisoformat(row[name]).replace(tzinfo=UTC) for name in ("signup_time", "purchase_time")
    )
    fraud = float(row["class"]) == 1.0
    points = round(float(row["purchase_value"]))
    yield (signed_up, number, 0), AccountCreated(**common, id=f"s{number}", occurred_at=signed_up), fraud
    yield (bought, number, 1), Earn(**common, id=f"p{number}", occurred_at=bought, points=points), fraud


def velocity(events: Sequence[Event], names: Sequence[str]) -> Floats:
    """Counts, sums and others by looking through each entity's events: float64[n, names] by the contract."""
    seen: dict[tuple[str, str | None], list[tuple[int, Event]]] = defaultdict(list)
    kinds, values = ("account", "device", "ip"), np.zeros((len(events), len(names)))
    for row, event in enumerate(events):
        now = milliseconds(event.occurred_at)
        for column, name in enumerate(names):
            spec = spec_of(name)
            if spec is None:  # nothing here is approximate
                continue
            before = seen[KINDS[spec.kind], getattr(event, KINDS[spec.kind])]
            inside = [other for time, other in before if now - spec.window_ms <= time <= now]
            values[row, column] = _value(inside, spec.aggregate)
        for kind in kinds:
            if getattr(event, kind) is not None:
                seen[kind, getattr(event, kind)].append((now, event))
    return values


def _value(events: Sequence[Event], aggregate: str) -> int:
    if aggregate in SUMS[:2]:
        return len(events) if aggregate == "count" else sum(map(points_of, events))
    # Nothing is transferred in this file, so nobody has peers.
    field = {"devices": "device", "ips": "ip", "accounts": "account", "peers": None}[aggregate]
    return len({getattr(event, field) for event in events} - {None}) if field else 0


def measure(labelled: Labelled, features: Floats, stored: Layout, policy: CompiledPolicy) -> Figures:
    """Decide every event and compare the purchases that were stopped with the labels; `stored` names the features."""
    features = by_name(features, stored, policy.layout.names)
    fields = [fields_of(event) for event in labelled.events]
    outcomes = [decision.outcome for decision in decide(fields, features, policy, None, cold=False)]
    stopped = np.array([outcome in ("hold", "reject") for outcome in outcomes])[labelled.purchase]
    fraud = np.array(labelled.fraud)[labelled.purchase]
    caught = int((stopped & fraud).sum())
    return Figures(int(stopped.sum()), caught / max(1, int(stopped.sum())), caught / int(fraud.sum()))


def main(folder: Path) -> int:
    """Print both figures; 1 if the file is missing."""
    path = folder / FILE
    if not path.is_file():
        print(f"{path} is missing: give the folder that holds {FILE}", file=sys.stderr)
        return 1
    labelled = read(path)
    times = [milliseconds(event.occurred_at) for event in labelled.events]
    before, _ = account_times(labelled.events, times, {})
    policy = load_policy(default_policy_text())
    layout = policy.layout
    features = assemble(layout, velocity(labelled.events, layout.velocity), moments(labelled.events, times, before))
    print(f"{sum(labelled.purchase)} purchases, {sum(np.array(labelled.fraud)[labelled.purchase])} labelled fraud")
    for name, each in (("default policy", policy), (f"without {SAME_MINUTE}", _without(policy))):
        figures = measure(labelled, features, layout, each)
        print(f"{name:28} stopped {figures.stopped:5}  precision {figures.precision:.3f}  recall {figures.recall:.3f}")
    return 0


def _without(policy: CompiledPolicy) -> CompiledPolicy:
    return compile_policy(policy.policy.without(SAME_MINUTE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"folder with {FILE}")
    sys.exit(main(parser.parse_args().folder))
