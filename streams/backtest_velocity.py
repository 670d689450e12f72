"""Velocity that stored decisions lack, counted again from their history in a store of this process.

The events are taken in the order they were decided, from the widest window before the period on, through the very
counting that workers use. What a worker's store had already forgotten, or had not yet seen of another worker's events,
may differ by an event. Redis is never asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, text

from detectors.entity import Keys
from detectors.layout import Floats, Layout, by_name
from detectors.velocity import HistoryRow, history
from detectors.velocity_names import APPROXIMATE, LATE_MS, demand_of
from streams.backtest import Asked, Recomputed
from streams.layouts import LayoutBook, UnknownLayout
from streams.policies import Period
from streams.velocity_store import MemoryVelocityStore

BATCH: Final = 1_000

_LAYOUTS = text("""
SELECT DISTINCT features_version FROM decision
 WHERE features IS NOT NULL AND occurred_at >= :since AND occurred_at < :until
   AND (CAST(:program AS text) IS NULL OR program = :program)""")
_HISTORY = text("""
SELECT d.decision_id, d.program, d.source, d.event_id, d.account, d.device, d.ip, d.ip_prefix, d.payment,
       d.event ->> 'store' AS store, d.event ->> 'staff' AS staff, d.event ->> 'campaign' AS campaign,
       d.event ->> 'referrer' AS referrer,
       CASE WHEN d.type <> 'reverse' THEN d.points END AS points,
       CASE WHEN d.type = 'transfer' THEN d.event ->> 'to' END AS receiver,
       (date_part('epoch', d.occurred_at) * 1000)::bigint AS time_ms,
       d.features IS NOT NULL AND d.occurred_at >= :since AS wanted
  FROM decision d
 WHERE d.occurred_at >= :begin AND d.occurred_at < :until AND (CAST(:program AS text) IS NULL OR d.program = :program)
 ORDER BY d.decided_at, d.decision_id""")


def missing(conn: Connection, asked: Asked) -> tuple[str, ...]:
    """The velocity names of the draft that some decision of the period was stored without."""
    book, period = LayoutBook(), asked.period
    lacking: set[str] = set()
    for version in conn.execute(_LAYOUTS, _said(period)).scalars().all():
        try:
            lacking.update(set(asked.draft.layout.velocity).difference(book.layout(conn, version).names))
        except UnknownLayout:
            continue  # the backtest leaves these rows out, and says so
    return tuple(name for name in asked.draft.layout.velocity if name in lacking and name != APPROXIMATE)


def recompute(conn: Connection, keys: Keys, period: Period, names: tuple[str, ...]) -> Recomputed:
    """These velocity values of all decisions of the period."""
    return asyncio.run(_recompute(conn, keys, period, names))


async def _recompute(conn: Connection, keys: Keys, period: Period, names: tuple[str, ...]) -> Recomputed:
    store, demand = MemoryVelocityStore(None), demand_of(names)
    reach = timedelta(milliseconds=demand.coverage.longest_ms + LATE_MS)
    row_of: dict[int, int] = {}
    parts: list[Floats] = [np.empty((0, len(names)))]
    for rows in _batches(conn, period, period.since - reach):
        velocity = await store.observe(history(map(_row, rows), keys, demand.coverage.kinds), demand)
        wanted = [place for place, row in enumerate(rows) if row.wanted]
        for place in wanted:
            row_of[rows[place].decision_id] = len(row_of)
        parts.append(by_name(velocity.values[wanted], Layout(demand.names), names))
    return Recomputed(names, row_of, np.concatenate(parts))


def _batches(conn: Connection, period: Period, begin: datetime) -> Iterator[list[Any]]:
    rows = conn.execution_options(yield_per=BATCH).execute(_HISTORY, {**_said(period), "begin": begin})
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        yield batch


def _said(period: Period) -> dict[str, Any]:
    return {"since": period.since, "until": period.until, "program": period.program}


def _row(row: Any) -> HistoryRow:
    return HistoryRow(
        program=row.program,
        source=row.source,
        event_id=row.event_id,
        account=row.account,
        time_ms=row.time_ms,
        points=abs(row.points or 0),
        device=_bytes(row.device),
        ip=_bytes(row.ip),
        ip_prefix=_bytes(row.ip_prefix),
        store=row.store,
        staff=row.staff,
        campaign=row.campaign,
        payment=_bytes(row.payment),
        referrer=row.referrer,
        to=row.receiver,
    )


def _bytes(stored: Any) -> bytes | None:
    return None if stored is None else bytes(stored)
