"""Proves the ledger: replays every entry and compares it with every counter, hold, resolution and decision.

Nothing is repaired. All of it is read in one REPEATABLE READ, READ ONLY transaction, so it may run beside live workers:
it judges one moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from ledger.checks import CHECKS, CONTROL_SUMS, Check, Domain

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One thing that is not as it must be; `kind` is its name in `ledger.checks`."""

    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found: `totals` counts every discrepancy, of which the first of each kind are told.

    `checked` counts transactions, entries, accounts, holds, resolutions, decisions and events.
    """

    checked: Mapping[str, int]
    totals: Mapping[str, int]
    discrepancies: tuple[Discrepancy, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found."""
        return not self.totals


@dataclass(frozen=True, slots=True)
class _Range:
    low: int
    high: int
    place: Mapping[str, str | int]


_STEP: Mapping[Domain, int] = {"ids": 100_000, "accounts": 50_000, "offsets": 100_000, "once": 1}

# The first rows of each kind, with how many there are in all.
_FIRST = """
SELECT kind, subject, detail, total FROM (
    SELECT found.*, count(*) OVER (PARTITION BY kind) AS total,
           row_number() OVER (PARTITION BY kind ORDER BY subject) AS n FROM ({check}) found) numbered
 WHERE n <= :most ORDER BY kind, n"""

_IDS = text("""
SELECT coalesce(min(low), 0) - 1, coalesce(max(high), -1)
  FROM (SELECT min(txn_id) AS low, max(txn_id) AS high FROM txn UNION ALL SELECT min(txn_id), max(txn_id) FROM entry
        UNION ALL SELECT min(hold_id), max(hold_id) FROM hold
        UNION ALL SELECT min(decision_id), max(decision_id) FROM decision
        UNION ALL SELECT min(decision_id), max(decision_id) FROM review_decision) spans""")

_CONTROL_SUMS = text(CONTROL_SUMS)

_ACCOUNTS = text("SELECT coalesce(min(account_id), 0) - 1, coalesce(max(account_id), -1) FROM account")

_PARTITIONS = text("""
SELECT log_id, topic, part, min("offset") - 1, max("offset") FROM event_inbox GROUP BY log_id, topic, part
 ORDER BY log_id, topic, part""")

_COUNTS = text("""
SELECT (SELECT count(*) FROM txn) AS transactions, (SELECT count(*) FROM entry) AS entries,
       (SELECT count(*) FROM account) AS accounts, (SELECT count(*) FROM hold) AS holds,
       (SELECT count(*) FROM hold_resolution) AS resolutions, (SELECT count(*) FROM decision) AS decisions,
       (SELECT count(*) FROM event_inbox) AS events""")

_CONTROLS = text("""
SELECT a.account_id, a.program, a.name, a.posted_dr + coalesce(sum(d.posted_dr), 0),
       a.posted_cr + coalesce(sum(d.posted_cr), 0), a.pending_dr + coalesce(sum(d.pending_dr), 0),
       a.pending_cr + coalesce(sum(d.pending_cr), 0)
  FROM account a LEFT JOIN control_delta d USING (account_id)
 WHERE a.kind = 'control' GROUP BY a.account_id ORDER BY a.account_id""")


def verify(engine: Engine, progress: Progress | None = None, limit: int = 20) -> Report:
    """Check the whole ledger and report; `limit` discrepancies of each kind are told, all are counted.

    `progress(stage, done, total)` is called as it goes on, stage being ids, accounts, offsets or once.
    """
    one_moment = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with one_moment.begin() as conn:
        conn.execute(text("SET LOCAL statement_timeout = 0"))
        conn.execute(text("SET LOCAL work_mem = '64MB'"))
        return _Verification(conn, progress or (lambda _stage, _done, _total: None), limit).run()


class _Verification:
    def __init__(self, conn: Connection, progress: Progress, limit: int) -> None:
        self._conn = conn
        self._progress = progress
        self._limit = limit
        self._totals: Counter[str] = Counter()
        self._found: dict[str, list[Discrepancy]] = {}
        self._controls: dict[int, list[int]] = {}

    def run(self) -> Report:
        checked = dict(self._conn.execute(_COUNTS).mappings().one())
        for domain in _STEP:
            self._check_domain(domain)
        self._check_controls()
        told = tuple(item for kind in sorted(self._found) for item in self._found[kind])
        return Report({str(what): int(count) for what, count in checked.items()}, dict(self._totals), told)

    def _check_domain(self, domain: Domain) -> None:
        checks = [check for check in CHECKS if check.domain == domain]
        spans = list(self._spans(domain))
        total, done = sum(span.high - span.low for span in spans), 0
        for span in spans:
            low = span.low
            while low < span.high:
                high = min(low + _STEP[domain], span.high)
                for check in checks:
                    self._run(check, {**span.place, "low": low, "high": high})
                if domain == "ids":
                    self._add_controls(low, high)
                done += high - low
                low = high
                self._progress(domain, done, total)

    def _spans(self, domain: Domain) -> Iterator[_Range]:
        if domain == "offsets":
            for log_id, topic, part, low, high in self._conn.execute(_PARTITIONS):
                yield _Range(low, high, {"log_id": log_id, "topic": topic, "part": part})
        elif domain == "once":
            yield _Range(0, 1, {})
        else:
            low, high = self._conn.execute(_IDS if domain == "ids" else _ACCOUNTS).one()
            yield _Range(low, high, {})

    def _run(self, check: Check, where: Mapping[str, str | int]) -> None:
        statement = text(_FIRST.format(check=check.sql))
        rows = self._conn.execute(statement, {**where, "most": self._limit}).all()
        for kind, total in {row.kind: row.total for row in rows}.items():
            self._totals[kind] += total
        for row in rows:
            self._tell(Discrepancy(row.kind, row.subject, row.detail))

    def _tell(self, discrepancy: Discrepancy) -> None:
        told = self._found.setdefault(discrepancy.kind, [])
        if len(told) < self._limit:
            told.append(discrepancy)

    def _add_controls(self, low: int, high: int) -> None:
        for account_id, *counters in self._conn.execute(_CONTROL_SUMS, {"low": low, "high": high}):
            sums = self._controls.setdefault(account_id, [0, 0, 0, 0])
            self._controls[account_id] = [have + int(more) for have, more in zip(sums, counters, strict=True)]

    def _check_controls(self) -> None:
        known = {row[0]: (row[1], row[2], [int(value) for value in row[3:]]) for row in self._conn.execute(_CONTROLS)}
        for account_id, (program, name, counters) in known.items():
            replayed = self._controls.get(account_id, [0, 0, 0, 0])
            if counters != replayed:
                self._totals["control_differs"] += 1
                subject = f"account {account_id} (control {name} of {program})"
                detail = f"row and deltas say {counters}, the entries {replayed} (posted dr, cr, pending dr, cr)"
                self._tell(Discrepancy("control_differs", subject, detail))
