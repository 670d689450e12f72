"""Which parts of the ledger a verification looks at: all of it, or what is new since the last clean one.

What is new is what new links of the audit chain cover, and what these rows touch: the accounts they post to, the holds
they end, the lots they use, the transactions they take back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from ledger.chain_verify import LogSpan, Span
from ledger.checks import Domain

Where = Mapping[str, Any]
"""The parameters that say which part a statement is to look at."""

STEPS: Mapping[Domain, int] = {
    "ids": 100_000,
    "holds": 100_000,
    "lots": 100_000,
    "originals": 100_000,
    "accounts": 50_000,
    "offsets": 100_000,
    "once": 1,
}

_ACCOUNTS = text("SELECT coalesce(min(account_id), 0) - 1, coalesce(max(account_id), -1) FROM account")
_PARTITIONS = text("""
SELECT log_id, topic, part, min("offset") - 1, max("offset") FROM event_inbox GROUP BY log_id, topic, part
 ORDER BY log_id, topic, part""")

_TOUCHED: Mapping[Domain, str] = {
    "accounts": """
        SELECT account_id FROM entry WHERE txn_id > :low AND txn_id <= :high AND account_seq IS NOT NULL
        UNION SELECT account_id FROM lot WHERE lot_id > :low AND lot_id <= :high
        UNION SELECT account_id FROM hold WHERE hold_id > :low AND hold_id <= :high
        UNION SELECT l.account_id FROM lot_use u JOIN lot l USING (lot_id) WHERE u.txn_id > :low AND u.txn_id <= :high
        UNION SELECT unnest(ARRAY[from_id, into_id]) FROM account_merge WHERE merge_id > :low AND merge_id <= :high""",
    "holds": """
        SELECT hold_id FROM hold WHERE hold_id > :low AND hold_id <= :high
        UNION SELECT replaces FROM hold WHERE hold_id > :low AND hold_id <= :high AND replaces IS NOT NULL
        UNION SELECT hold_id FROM hold_lot WHERE hold_id > :low AND hold_id <= :high
        UNION SELECT resolves FROM txn WHERE txn_id > :low AND txn_id <= :high AND resolves IS NOT NULL
        UNION SELECT hold_id FROM review_decision WHERE decision_id > :low AND decision_id <= :high
        UNION SELECT hold_id FROM hold_resolution WHERE decision_id > :low AND decision_id <= :high""",
    "lots": """
        SELECT lot_id FROM lot WHERE lot_id > :low AND lot_id <= :high
        UNION SELECT lot_id FROM lot_use WHERE txn_id > :low AND txn_id <= :high
        UNION SELECT lot_id FROM hold_lot WHERE hold_id > :low AND hold_id <= :high
        UNION SELECT x.lot_id FROM txn t JOIN hold_lot x ON x.hold_id = t.resolves
               WHERE t.txn_id > :low AND t.txn_id <= :high""",
    "originals": """
        SELECT original_txn FROM reversal WHERE reversal_id > :low AND reversal_id <= :high
        UNION SELECT t.txn_id FROM reversal r JOIN txn t ON (t.program, t.order_id) = (r.program, r.order_id)
               WHERE r.reversal_id > :low AND r.reversal_id <= :high AND r.refund_id IS NOT NULL""",
}


@dataclass(frozen=True)
class Part:
    """One part of a domain: its parameters, whether they list ids rather than bound them, and how much it is."""

    where: Where
    listed: bool
    size: int


class Scope:
    """The parts to be looked at, domain by domain; `accounts` are those whose counters are verified, None for all."""

    def __init__(self, conn: Connection, spans: Sequence[Span], logs: Sequence[LogSpan], *, whole: bool) -> None:
        self._conn, self._spans, self._logs, self.whole = conn, spans, logs, whole
        self._touched: dict[Domain, list[int]] = {}

    @property
    def accounts(self) -> list[int] | None:
        """The ids of the accounts whose counters are verified; None for all."""
        return None if self.whole else self._touched_of("accounts")

    def parts(self, domain: Domain) -> Iterator[Part]:
        """The parts of one domain, in order."""
        if domain == "once":
            if self.whole:
                yield Part({}, listed=False, size=1)
        elif domain == "offsets":
            yield from self._offsets()
        elif domain == "ids":
            yield from self._ranges(domain, self._spans)
        elif not self.whole:
            ids = self._touched_of(domain)
            for n in range(0, len(ids), STEPS[domain]):
                some = ids[n : n + STEPS[domain]]
                yield Part({"these": some}, listed=True, size=len(some))
        elif domain == "accounts":
            low, high = self._conn.execute(_ACCOUNTS).one()
            yield from self._ranges(domain, [(low, high)])
        else:
            yield from self._ranges(domain, self._spans)

    def _ranges(self, domain: Domain, spans: Sequence[Span], place: Where | None = None) -> Iterator[Part]:
        for low, high in spans:
            for start in range(low, high, STEPS[domain]):
                end = min(start + STEPS[domain], high)
                yield Part({**(place or {}), "low": start, "high": end}, listed=False, size=end - start)

    def _offsets(self) -> Iterator[Part]:
        logs = [LogSpan(*row) for row in self._conn.execute(_PARTITIONS)] if self.whole else self._logs
        for log_id, topic, part, low, high in logs:
            yield from self._ranges("offsets", [(low, high)], {"log_id": log_id, "topic": topic, "part": part})

    def _touched_of(self, domain: Domain) -> list[int]:
        if domain not in self._touched:
            found: set[int] = set()
            for low, high in self._spans:
                found.update(self._conn.execute(text(_TOUCHED[domain]), {"low": low, "high": high}).scalars())
            self._touched[domain] = sorted(found)
        return self._touched[domain]
