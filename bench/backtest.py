"""Speed of a backtest: `python -m bench.backtest`. Stored decisions of seeded traffic, the policy in force and a draft.

PostgreSQL is embedded; everything else happens in this process, as with the command. Reading, both policies' decisions
and counting are included.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from sqlalchemy import Connection, create_engine, make_url

from bench.measure import Spread, listener_pid, machine, markdown_table, publish, tree_cpu_seconds
from bench.rules import traffic
from config.policy import default_policy_text, load_policy, renumbered
from config.settings import Settings, ensure_secret
from detectors.decision import CompiledPolicy, decide
from detectors.event_types import Earn, Redeem
from embedded import postgres
from embedded.process import private_directory
from ledger.migrate import migrate
from streams.backtest import Asked, backtest
from streams.decisions import stored_event
from streams.layouts import LayoutBook
from streams.policies import Period
from streams.setup import seed

EVENTS: Final = 200_000
RUNS: Final = 3
SEED: Final = 20_261_130
CODES: Final = {"approve": "posted", "hold": "held", "reject": "rejected"}
START: Final = datetime(2026, 10, 1, tzinfo=UTC)
_COPY: Final = """
COPY decision (decision_id, source, event_id, program, account, type, points, outcome, code, suspicious, score,
  features, features_version, event, reasons, policy_version, model_version, device, ip, occurred_at, observed_at,
  decided_at, log_id, topic, part, "offset") FROM STDIN"""


def rows(policy: CompiledPolicy, count: int) -> Iterator[tuple[Any, ...]]:
    """Decision rows as a worker writes them: honest traffic of many accounts, decided by the policy."""
    rng = np.random.default_rng(SEED)
    number = 0
    while number < count:
        fields, features = traffic(policy, rng)
        for field, row, decision in zip(
            fields, features, decide(fields, features, policy, None, cold=False), strict=True
        ):
            number += 1
            at = START + timedelta(seconds=0.1 * number)
            make = Earn if field.type == "earn" else Redeem
            event = make(
                id=f"e-{number}", source="pos", program=field.program, account=field.account, occurred_at=at, points=50,
                store=field.store, channel=field.channel, campaign=field.campaign,
            )  # fmt: skip
            reasons = msgspec.json.encode(decision.reasons).decode()
            yield (
                number, "pos", event.id, field.program, field.account, event.type, 50, decision.outcome,
                CODES[decision.outcome], False, decision.score, row.astype("<f8").tobytes(), policy.layout.version,
                stored_event(event).decode(), reasons, 1, None, b"\x01" * 16, b"\x01" * 16, at, at, at, "log",
                "points.events", 0, number,
            )  # fmt: skip


def fill(conn: Connection, policy: CompiledPolicy, count: int) -> None:
    """Store so many decisions."""
    LayoutBook().keep(conn, policy.layout)
    driver: Any = conn.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(_COPY) as copy:
        for row in rows(policy, count):
            copy.write_row(row)


def main() -> None:
    """Fill a database, backtest it a few times, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, one run, nothing is kept")
    options = parser.parse_args()
    count, runs = (EVENTS // 10, 1) if options.quick else (EVENTS, RUNS)
    with tempfile.TemporaryDirectory(prefix="pointguard-bench-") as folder:
        data_dir = private_directory(Path(folder))
        service = postgres.start(data_dir)
        try:
            table = _measured(service.url, data_dir, count, runs)
        finally:
            service.process.stop()
    if options.quick:
        print(table)
    else:
        head = f"`python -m bench.backtest`: {count:,} stored decisions, median and range of {runs} runs. "
        head += f"Events/s is by the clock, with whatever else the machine did; CPU is the run's own. {machine()}"
        publish("backtest", f"# Backtest\n\n{head}\n\n{table}")


def _measured(url: str, data_dir: Path, count: int, runs: int) -> str:
    ensure_secret(data_dir)
    migrate(url)
    seed(Settings(database_url=url, data_dir=data_dir))
    engine = create_engine(url)
    in_force = load_policy(default_policy_text())
    changed = default_policy_text().replace("limit: 12", "limit: 6")
    draft = load_policy(renumbered(changed, 2))
    with engine.begin() as conn:
        fill(conn, in_force, count)
    period = Period(START, START + timedelta(days=30))
    server = listener_pid(make_url(url).port or 0)
    clock, cpu, served = [], [], []
    report = None
    for _ in range(runs):
        started, used, before = time.perf_counter(), time.process_time(), tree_cpu_seconds(server)
        with engine.connect() as conn:
            report = backtest(conn, Asked(draft, in_force, period), lambda _: None)
        clock.append(report.events / (time.perf_counter() - started))
        cpu.append((time.process_time() - used) / report.events * 1e6)
        served.append((tree_cpu_seconds(server) - before) / report.events * 1e6)
    engine.dispose()
    if report is None:
        raise ValueError("at least one run is needed")
    header = ("events", "events/s", "CPU here, µs an event", "CPU of PostgreSQL, µs an event", "verdicts that change")
    changed_events = sum(flip.events for flip in report.flips)
    figures = (Spread.of(clock).show(), Spread.of(cpu).show(1), Spread.of(served).show(1))
    return markdown_table(header, [(f"{report.events:,}", *figures, f"{changed_events:,}")])


if __name__ == "__main__":
    main()
