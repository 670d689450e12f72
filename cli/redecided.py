"""What would have been decided with a rule off: a source's decisions made again, from what is stored with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, text

from cli.errors import CommandError
from config.policy import load_policy
from config.settings import Settings
from detectors.decision import CompiledPolicy, Reason, compile_policy, decide, was_cold
from detectors.features import unpack
from detectors.layout import Layout
from detectors.models_snapshot import Sealed, Snapshot, unseal
from streams.decisions import stored_fields
from streams.keys import model_key
from streams.layouts import LayoutBook

BATCH = 2_000

_ACTIVE = text("SELECT document FROM policy WHERE active")
_DOCUMENT = text("SELECT document FROM policy WHERE version = :version")
_SNAPSHOT = text("SELECT manifest, arrays, signature FROM model_snapshot WHERE version = :version")
_ROWS = text("""
SELECT event_id, outcome, code, event::text AS event, reasons::text AS reasons, device, ip, features, policy_version,
       model_version, features_version
  FROM decision WHERE source = :source AND features IS NOT NULL
 ORDER BY policy_version, features_version, model_version NULLS FIRST""")

_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode

Snapshots = Callable[[Connection, int], Snapshot]


def stored_snapshots(settings: Settings) -> Snapshots:
    """The snapshots in the database, verified with the key of the settings' secret."""
    key = model_key(settings.secret())

    def read(conn: Connection, version: int) -> Snapshot:
        row = conn.execute(_SNAPSHOT, {"version": version}).one()
        return unseal(Sealed(row.manifest, bytes(row.arrays), bytes(row.signature)), key)

    return read


def check_rules(engine: Engine, rules: Sequence[str]) -> None:
    """Refuse a rule that the active policy does not have, before anything is sent."""
    if not rules:
        return
    with engine.connect() as conn:
        known = [rule.id for rule in load_policy(conn.execute(_ACTIVE).scalar_one()).policy.rules]
    for rule in rules:
        if rule not in known:
            raise CommandError(f"the policy has no rule {rule!r}", f"name one of {', '.join(known)}")


def redecided(engine: Engine, source: str, rules: Sequence[str], snapshots: Snapshots) -> dict[str, dict[str, str]]:
    """For each rule the outcome per event id with that rule off, under each decision's own policy and models.

    What the ledger refused stays refused: that was not the rule's doing. Balances are taken as they were.
    """
    found: dict[str, dict[str, str]] = {rule: {} for rule in rules}
    if not rules:
        return found
    layouts = LayoutBook()
    with engine.connect() as conn, engine.connect() as other:
        rows = conn.execution_options(yield_per=BATCH).execute(_ROWS, {"source": source})
        for (policy, version, model), made_alike in groupby(rows, key=_made_under):
            compiled = load_policy(other.execute(_DOCUMENT, {"version": policy}).scalar_one())
            snapshot = snapshots(other, model) if model is not None else None
            stored = layouts.layout(other, version)
            variants = {rule: _without(compiled, rule) for rule in rules}
            for batch in _batches(made_alike):
                for rule, variant in variants.items():
                    found[rule].update(_again(batch, stored, variant, snapshot))
    return found


def _made_under(row: Any) -> tuple[int, str, int | None]:
    return row.policy_version, row.features_version, row.model_version


def _without(compiled: CompiledPolicy, rule: str) -> CompiledPolicy:
    """The policy without the rule; itself if that version did not have it."""
    known = {one.id for one in compiled.policy.rules}
    return compile_policy(compiled.policy.without(rule)) if rule in known else compiled


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        yield batch


def _again(
    rows: Sequence[Any], stored: Layout, policy: CompiledPolicy, snapshot: Snapshot | None
) -> Iterator[tuple[str, str]]:
    by_cold: dict[bool, list[Any]] = defaultdict(list)
    for row in rows:
        by_cold[was_cold(_reasons(row.reasons))].append(row)
    for cold, alike in by_cold.items():
        fields = [stored_fields(row.event, row.device, row.ip) for row in alike]
        features = unpack([bytes(row.features) for row in alike], stored, policy.layout.names)
        for row, decision in zip(alike, decide(fields, features, policy, snapshot, cold=cold), strict=True):
            refused = row.outcome == "reject" and row.code != "rejected"
            yield row.event_id, row.outcome if refused or row.outcome == "expired" else decision.outcome
