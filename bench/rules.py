"""Cost of rules: `python -m bench.rules`. Seeded; nothing but one process, batches of 500, median of several runs.

The rules are what analysts write: mostly comparisons of counts and sums with limits, some arithmetic (caps), some tests
of store, channel and campaign, some on partial rollout or for a few stores; about one event in a hundred fires one.
"""

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from bench.measure import Spread, machine, markdown_table, publish
from config.policy import default_policy_text, parse_policy
from detectors.decision import CompiledPolicy, compile_policy, decide
from detectors.layout import Floats
from detectors.policy import Policy, Rule, Text
from detectors.rules import EventFields

BATCH: Final = 500
BATCHES: Final = 40
RUNS: Final = 5
SEED: Final = 20_261_130
KINDS: Final = 10
ASKED, FOR_STORES, ROLLED_OUT = 6, 7, 9
"""Places in the mixture: strings alone (CEL is asked for every event), narrowed to stores, on partial rollout."""
CASES: Final = (
    (20, None, "20"),
    (100, None, "100"),
    (200, None, "200"),
    (100, ASKED, "100, of strings alone"),
)
TEXT: Final = Text(en="{value} (limit {limit})", zh="{value}（上限 {limit}）")
TYPES: Final = ("earn", "redeem", "transfer")
STORES: Final = tuple(f"s-{number}" for number in range(40))
CHANNELS: Final = ("pos", "app", "web", "partner")

_COUNTS: Final = (
    "account.count_1h", "account.count_24h", "account.devices_7d", "account.ips_24h", "account.peers_24h",
    "device.count_1h", "device.accounts_24h", "device.accounts_7d", "ip.accounts_24h", "ip.count_1h",
)  # fmt: skip
_SUMS: Final = ("account.sum_24h", "account.sum_7d", "device.sum_24h", "ip.sum_24h")


def rules(count: int, rng: np.random.Generator, kind: int | None = None) -> tuple[Rule, ...]:
    """Rules in the mixture of the module's docstring, or all of one kind, by its place in the mixture."""
    return tuple(_rule(number, number % KINDS if kind is None else kind, rng) for number in range(count))


def _rule(number: int, kind: int, rng: np.random.Generator) -> Rule:
    counted, summed = str(rng.choice(_COUNTS)), str(rng.choice(_SUMS))
    limit = float(rng.integers(20, 26))
    expression = (
        f"velocity.{counted} >= limit && account.seconds_since_signup <= 604800.0",
        f"velocity.{counted} >= limit",
        f"velocity.{counted} >= limit || (velocity.{summed} >= 150000.0 && event.outflow == 1.0)",
        f"velocity.{summed} + event.points > 160000.0 && velocity.{counted} >= 3.0",
        f"event.outflow == 1.0 && account.seconds_since_credential_change <= 900.0 && velocity.{counted} >= 9.0",
        f'event.store == "s-{number % 40}" && velocity.{counted} >= limit',
        f'event.channel == "partner" && event.campaign == "c-{number % 7}" && event.has_device',
        f"velocity.{counted} >= limit && event.hour < 5.0",
        f"velocity.{counted} >= limit && velocity.{summed} >= 500.0 * event.hour",
        f"velocity.{counted} >= limit",
    )[kind]
    return Rule(
        id=f"rule_{number}",
        expression=expression,
        limit=limit,
        weight=float(rng.uniform(0.2, 1.0)),
        reason=TEXT,
        shows=(f"velocity.{counted}",),
        stores=STORES[:5] if kind == FOR_STORES else (),
        rollout=25.0 if kind == ROLLED_OUT else 100.0,
    )


def policy(count: int, rng: np.random.Generator, kind: int | None = None) -> CompiledPolicy:
    """The default policy with these rules instead of its own."""
    plain: Policy = parse_policy(default_policy_text())
    values = {name: getattr(plain, name) for name in plain.__struct_fields__} | {"rules": rules(count, rng, kind)}
    return compile_policy(Policy(**values))


def traffic(of: CompiledPolicy, rng: np.random.Generator) -> tuple[list[EventFields], Floats]:
    """One batch: fields, and features as honest traffic has them (counts are geometric, sums log-normal)."""
    names = of.layout.names
    matrix = np.zeros((BATCH, len(names)))
    for column, name in enumerate(names):
        if ".sum_" in name or name == "event.points":
            matrix[:, column] = np.floor(rng.lognormal(5.0, 1.2, BATCH))
        elif name.startswith("velocity."):
            matrix[:, column] = rng.geometric(0.35, BATCH) - 1.0
        elif name.startswith("account."):
            matrix[:, column] = np.where(rng.random(BATCH) < 0.7, np.nan, rng.exponential(3e7, BATCH))
    matrix[:, of.layout.index["event.hour"]] = rng.integers(0, 24, BATCH)
    kinds = rng.choice(TYPES, BATCH, p=(0.75, 0.2, 0.05)).tolist()
    matrix[:, of.layout.index["event.outflow"]] = [float(kind != "earn") for kind in kinds]
    stores, channels = rng.choice(STORES, BATCH).tolist(), rng.choice(CHANNELS, BATCH).tolist()
    accounts = rng.integers(0, 50_000, BATCH).tolist()
    campaigns = [f"c-{number}" for number in rng.integers(0, 200, BATCH).tolist()]
    fields = [
        EventFields(type=kind, program="shop", account=f"m-{account}", points=50, outflow=kind != "earn",
                    has_device=True, has_ip=True, store=store, channel=channel, campaign=campaign)
        for kind, store, channel, account, campaign in zip(kinds, stores, channels, accounts, campaigns, strict=True)
    ]  # fmt: skip
    return fields, matrix


def measure(of: CompiledPolicy, batches: Sequence[tuple[list[EventFields], Floats]]) -> tuple[float, float, float]:
    """CPU microseconds an event of the rules alone, of the whole decision, and the share of events that fire."""
    shares = [np.concatenate((features, np.full((BATCH, 2), np.nan)), axis=1) for _, features in batches]
    started = time.process_time()
    fired = 0
    for (fields, _), numbers in zip(batches, shares, strict=True):
        fired += sum(bool(one.rules) for one in of.rules.evaluate(fields, numbers))
    middle = time.process_time()
    for fields, features in batches:
        decide(fields, features, of, None, cold=False)
    events = BATCH * len(batches)
    return (middle - started) / events * 1e6, (time.process_time() - middle) / events * 1e6, fired / events


def main() -> None:
    """Measure, print the table, keep it under bench/results, and show the profile of 100 rules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer batches, nothing is kept")
    options = parser.parse_args()
    rows = []
    for count, kind, name in CASES:
        rng = np.random.default_rng(SEED)
        of = policy(count, rng, kind)
        batches = [traffic(of, rng) for _ in range(4 if options.quick else BATCHES)]
        runs = [measure(of, batches) for _ in range(RUNS)]
        alone, whole = (Spread.of([run[place] for run in runs]) for place in (0, 1))
        rows.append((name, alone.show(1), whole.show(1), f"{runs[0][2]:.1%}"))
    table = markdown_table(
        ("live rules", "rules, µs an event", "whole decision, µs an event", "events that fire"), rows
    )
    if options.quick:
        print(table)
    else:
        publish("rules", _document(table))
    profile = cProfile.Profile()
    rng = np.random.default_rng(SEED)
    of = policy(100, rng)
    profile.runcall(measure, of, [traffic(of, rng) for _ in range(4)])
    stats = pstats.Stats(profile, stream=sys.stdout)
    stats.strip_dirs().sort_stats("tottime").print_stats(12)


def _document(table: str) -> str:
    return (
        "# Rules\n\n"
        f"`python -m bench.rules`: batches of {BATCH}, {BATCHES} batches, median and range of {RUNS} runs, "
        f"one process, CPU time. {machine()}\n\n{table}"
    )


if __name__ == "__main__":
    main()
