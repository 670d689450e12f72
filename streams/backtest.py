"""Replays stored decisions under another policy: features as they were, whole batches through the same `decide`.

Nothing live is touched: rows are read through a cursor of one read-only transaction, and a velocity name that a row was
not stored with is recomputed in a store of this process (`streams.backtest_velocity`). Rows decided under a model are
scored with that model again. Both sides respect the snoozes that were in force, and no pause.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import Connection, text

from detectors.aside import Aside
from detectors.backtest import FRAUD, HONEST, UNKNOWN, VERDICTS, Codes, Example, Frame, Report, Tally, codes, report_of
from detectors.decision import VELOCITY_COLD, CompiledPolicy, Decision, Reason, decide, was_cold
from detectors.explain import describe
from detectors.features import unpack
from detectors.layout import Floats, Layout
from detectors.models_snapshot import Snapshot
from streams.decisions import stored_fields
from streams.layouts import LayoutBook, UnknownLayout
from streams.policies import Period

BATCH: Final = 4_000
EXAMPLES: Final = 20
REFUSED, EXPIRED, NO_LAYOUT, NO_MODEL = (
    "refused by the ledger", "expired unanswered", "feature layout is gone", "model snapshot is gone",
)  # fmt: skip

_ROWS = """
WITH labels AS (
    SELECT DISTINCT ON (decision_id) decision_id, label FROM (
        SELECT decision_id, label, seq FROM label_log
         UNION ALL SELECT decision_id, label, 9223372036854775807 FROM label_pending WHERE origin = 'review') l
     ORDER BY decision_id, seq DESC)
SELECT d.decision_id, d.source, d.event_id, d.account, d.type, coalesce(abs(d.points), 0), d.outcome, d.code,
       d.event::text, d.device, d.ip, d.features, d.features_version, d.reasons::text, d.model_version, l.label
  FROM decision d LEFT JOIN labels l USING (decision_id)
 WHERE d.features IS NOT NULL AND d.occurred_at >= %(since)s AND d.occurred_at < %(until)s
   AND (%(program)s::text IS NULL OR d.program = %(program)s)
 ORDER BY d.decision_id"""
_READ_ONLY = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode
_SNOOZED = '"snoozed"'

Snapshots = Callable[[int], Snapshot | None]
"""The model snapshot of a version, None if it is gone."""


class Recomputed(NamedTuple):
    """Velocity values float64[n, len(names)] of some decisions, by their ids."""

    names: tuple[str, ...]
    row_of: dict[int, int]
    values: Floats


class Row(NamedTuple):
    """A stored decision as the cursor gives it; `label` is 1 for fraud, 0 for honest, None where nobody knows."""

    decision_id: int
    source: str
    event_id: str
    account: str
    type: str
    points: int
    outcome: str
    code: str
    event: str
    device: bytes | None
    ip: bytes | None
    features: bytes
    version: str
    reasons: str
    model: int | None
    label: int | None


@dataclass(frozen=True)
class Asked:
    """What to compare, over which events, and how long a case takes the desk."""

    draft: CompiledPolicy
    in_force: CompiledPolicy
    period: Period
    minutes_per_case: float = 5.0
    examples: int = EXAMPLES


@dataclass
class _Run:
    """The state of one backtest."""

    asked: Asked
    snapshots: Snapshots
    recomputed: Recomputed | None
    tally: Tally = field(default_factory=Tally)
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    layouts: LayoutBook = field(default_factory=LayoutBook)


def backtest(conn: Connection, asked: Asked, snapshots: Snapshots, recomputed: Recomputed | None = None) -> Report:
    """Compare the draft with the policy in force over the stored decisions of the period.

    `conn` is at the beginning of a transaction, which becomes read-only. `recomputed` holds velocity that rows may have
    been stored without; what is in neither is unknown, and the report counts the events by name.
    """
    conn.execute(_READ_ONLY)
    run = _Run(asked, snapshots, recomputed)
    for batch in _batches(conn, asked.period):
        for (version, model, cold), rows in _grouped(run, batch).items():
            _compare(conn, run, rows, _Alike(version, model, cold))
    days = (asked.period.until - asked.period.since).total_seconds() / 86_400.0
    frame = Frame(
        asked.draft.policy,
        asked.in_force.policy.version,
        days,
        asked.minutes_per_case,
        run.skipped,
        run.examples,
        recomputed.names if recomputed else (),
        run.unknown,
    )
    return report_of(run.tally, frame)


class _Alike(NamedTuple):
    """Rows of one layout and model, all decided on cold velocity or none."""

    version: str
    model: int | None
    cold: bool


def _batches(conn: Connection, period: Period) -> Iterator[list[Row]]:
    """The stored decisions in order, in binary form through a cursor on the server: memory stays bounded."""
    driver: Any = conn.connection.driver_connection
    with driver.cursor(name="backtest", binary=True) as cursor:
        cursor.itersize = BATCH
        cursor.execute(_ROWS, {"since": period.since, "until": period.until, "program": period.program})
        while rows := cursor.fetchmany(BATCH):
            yield list(map(Row._make, rows))


def _grouped(run: _Run, rows: Sequence[Row]) -> dict[tuple[str, int | None, bool], list[Row]]:
    """Rows that are decided together; what did not come to a verdict of the policy is left out and counted."""
    groups: dict[tuple[str, int | None, bool], list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome == "reject" and row.code != "rejected":
            run.skipped[REFUSED] += 1
        elif row.outcome == "expired":
            run.skipped[EXPIRED] += 1
        else:
            groups[row.version, row.model, _was_cold(row)].append(row)
    return groups


def _was_cold(row: Row) -> bool:
    """Whether velocity was cold; reasons are decoded only where their text allows it: a rule may have such a name."""
    return VELOCITY_COLD in row.reasons and was_cold(_reasons(row.reasons))


def _compare(conn: Connection, run: _Run, rows: Sequence[Row], alike: _Alike) -> None:
    try:
        stored = run.layouts.layout(conn, alike.version)
    except UnknownLayout:
        run.skipped[NO_LAYOUT] += len(rows)
        return
    snapshot = None if alike.model is None else run.snapshots(alike.model)
    if alike.model is not None and snapshot is None:
        run.skipped[NO_MODEL] += len(rows)
        return
    fields = [stored_fields(row.event, row.device, row.ip) for row in rows]
    aside = _aside(rows)
    numbers: list[Floats] = []
    verdicts: list[list[Decision]] = []
    for policy in (run.asked.in_force, run.asked.draft):
        layout = policy.layout
        features = _features(run, rows, stored, layout)
        numbers.append(features)
        verdicts.append(decide(fields, features, policy, snapshot, alike.cold, aside))
    _count_unknown(run, rows, stored)
    _tally(run, rows, (verdicts[0], verdicts[1]), numbers[1])


def _features(run: _Run, rows: Sequence[Row], stored: Layout, layout: Layout) -> Floats:
    """The rows' features in a policy's layout, with recomputed velocity where they were stored without."""
    features = unpack([row.features for row in rows], stored, layout.names)
    extra = run.recomputed
    if extra is None:
        return features
    for place, name in enumerate(extra.names):
        if name in layout.index and name not in stored.index:
            at = [extra.row_of.get(row.decision_id, -1) for row in rows]
            features[:, layout.index[name]] = np.where(np.array(at) >= 0, extra.values[at, place], np.nan)
    return features


def _count_unknown(run: _Run, rows: Sequence[Row], stored: Layout) -> None:
    known = set(stored.index) | set(run.recomputed.names if run.recomputed else ())
    for name in run.asked.draft.layout.velocity:
        if name not in known:
            run.unknown[name] += len(rows)


def _aside(rows: Sequence[Row]) -> Aside:
    snoozed = {}
    for place, row in enumerate(rows):
        if _SNOOZED in row.reasons:
            snoozed[place] = frozenset(one.code for one in _reasons(row.reasons) if one.kind == "snoozed")
    return Aside(snoozed=snoozed)


_SAID: Final[dict[int | None, Literal["fraud", "honest"] | None]] = {None: None, 0: "honest", 1: "fraud"}
_LABEL: Final = {None: UNKNOWN, 0: HONEST, 1: FRAUD}


def _tally(run: _Run, rows: Sequence[Row], verdicts: tuple[list[Decision], list[Decision]], features: Floats) -> None:
    was, becomes = codes(verdicts[0]), codes(verdicts[1])
    labels: Codes = np.fromiter((_LABEL[row.label] for row in rows), dtype=np.intp, count=len(rows))
    points = np.fromiter((row.points for row in rows), dtype=np.int64, count=len(rows))
    run.tally.add(was, becomes, labels, points)
    run.tally.add_rules(verdicts[1], labels, points)
    for place in np.flatnonzero(was != becomes).tolist():
        if len(run.examples) >= run.asked.examples:
            return
        shift = (int(was[place]), int(becomes[place]))
        run.examples.append(_example(run, rows[place], verdicts[1][place], shift, features[place]))


def _example(run: _Run, row: Row, decision: Decision, shift: tuple[int, int], features: Floats) -> Example:
    draft = run.asked.draft
    values = {name: float(features[place]) for name, place in draft.layout.index.items()}
    return Example(
        decision_id=row.decision_id,
        source=row.source,
        event_id=row.event_id,
        account=row.account,
        type=row.type,
        points=row.points,
        was=VERDICTS[shift[0]],
        becomes=VERDICTS[shift[1]],
        label=_SAID[row.label],
        en=describe(decision, draft.policy, "en", values),
        zh=describe(decision, draft.policy, "zh", values),
    )
