"""What people and processes do besides deciding events, each told to the audit chain in the transaction that does it.

Call these last, before the commit. Acts that write to the ledger (reviews, time-outs, expiry, adjustments, merges) tell
the chain where they are done, with the rows they wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sqlalchemy import Connection

from ledger.chain_store import Act, record
from ledger.programs import Program
from ledger.terms import Terms, terms_document


def policy_activated(conn: Connection, actor: str, version: int, document: str) -> None:
    """A policy, with all its rules and thresholds, is in force from here on."""
    said = {"version": version, "sha256": sha256(document.encode()).hexdigest()}
    record(conn, Act("policy", actor, "policy.activated", said))


def rule_paused(conn: Connection, actor: str, version: int, rule: str, why: str) -> None:
    """The circuit breaker took a rule's effect away."""
    record(conn, Act("policy", actor, "rule.paused", {"version": version, "rule": rule, "why": why}))


def model_published(conn: Connection, version: int, last_seq: int, signature: bytes) -> None:
    """A snapshot of the models is there; a verdict says whether workers take it into use."""
    said = {"version": version, "last_seq": last_seq, "signature": signature.hex()}
    record(conn, Act("model", "trainer", "model.published", said))


def model_judged(conn: Connection, actor: str, version: int, kind: str, reason: str) -> None:
    """A snapshot came into use, was refused, or an earlier one was put back."""
    record(conn, Act("model", actor, f"model.{kind}", {"version": version, "reason": reason}))


def program_created(conn: Connection, actor: str, program: Program) -> None:
    """A programme exists."""
    said = {"program": program.name, "mode": program.mode, "terms": _plain(program.terms)}
    record(conn, Act("program", actor, "program.created", said))


def terms_changed(conn: Connection, actor: str, name: str, before: Terms, after: Terms) -> None:
    """A programme promises something else from here on."""
    record(conn, Act("terms", actor, "terms.changed", {"program": name, "from": _plain(before), "to": _plain(after)}))


def letters_retried(conn: Connection, actor: str, letters: Sequence[int]) -> None:
    """Dead letters were sent again."""
    record(conn, Act("dlq", actor, "dlq.retried", {"letters": list(letters)}))


def source_released(conn: Connection, actor: str, source: str) -> None:
    """A source was let out of quarantine."""
    record(conn, Act("dlq", actor, "source.released", {"source": source}))


def _plain(terms: Terms) -> dict[str, object]:
    return terms_document(terms)
