"""The life of a policy in PostgreSQL: draft, validate, backtest, approve by another person, activate, roll back.

A version never changes once it is drafted; what happened to it is a list of steps, each with who, when and why, each
told to the audit chain. The database itself refuses an approval by the author, and a version in force without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from config.places import located
from config.policy import compose, load_policy, parse_policy, renumbered
from detectors.expression import parse
from detectors.policy import Policy, PolicyRefused, Problem
from ledger.chain_store import Act, record
from streams.acts import policy_activated

_LOCK = text("LOCK TABLE policy IN SHARE ROW EXCLUSIVE MODE")
_NEXT = text("SELECT coalesce(max(version), 0) + 1 FROM policy")
_DRAFT = text("INSERT INTO policy (version, document, author, note) VALUES (:version, :document, :actor, :reason)")
_STEP = text("INSERT INTO policy_step (version, step, actor, reason) VALUES (:version, :step, :actor, :reason)")
_STEPS = text("SELECT step, actor, at, reason FROM policy_step WHERE version = :version ORDER BY step_id")
_ONE = text("SELECT version, document, active, author, approved_by FROM policy WHERE version = :version")
_ACTIVE = text("SELECT version FROM policy WHERE active")
_APPROVE = text("UPDATE policy SET approved_by = :actor, approved_at = clock_timestamp() WHERE version = :version")
_RETIRE = text("UPDATE policy SET active = false WHERE active")
_ACTIVATE = text("UPDATE policy SET active = true, activated_at = clock_timestamp() WHERE version = :version")
_BEFORE = text("""
SELECT version FROM policy WHERE NOT active AND activated_at IS NOT NULL ORDER BY activated_at DESC LIMIT 1""")
_BACKTEST = text("""
INSERT INTO backtest (version, made_by, program, since, until, events, report)
VALUES (:version, :actor, :program, :since, :until, :events, CAST(:report AS json)) RETURNING backtest_id""")
_IN_VAIN = text("""
SELECT coalesce(max(events), 0) = 0 AND EXISTS (SELECT 1 FROM decision WHERE features IS NOT NULL)
  FROM backtest WHERE version = :version""")
_LATEST = text("""
SELECT backtest_id, made_by, made_at, program, since, until, events, report::text AS report
  FROM backtest WHERE version = :version ORDER BY backtest_id DESC LIMIT 1""")
_LIST = text("""
SELECT p.version, p.active, p.author, p.approved_by, p.drafted_at, p.activated_at, p.note,
       (SELECT s.step FROM policy_step s WHERE s.version = p.version ORDER BY s.step_id DESC LIMIT 1) AS step,
       (SELECT count(*) FROM policy_loaded l WHERE l.version = p.version AND l.at > now() - :fresh) AS loaded,
       (SELECT count(*) FROM policy_loaded l WHERE l.refused = p.version AND l.at > now() - :fresh) AS refusing
  FROM policy p ORDER BY p.version DESC LIMIT :limit""")
_LOADED = text("SELECT worker, version, refused, why, at FROM policy_loaded WHERE at > now() - :fresh ORDER BY worker")
_PAUSES = text("""
SELECT pause_id, version, rule, since, hits, events, expected, why, resumed_at, resumed_by, resumed_reason
  FROM rule_pause WHERE :ended OR resumed_at IS NULL ORDER BY pause_id DESC LIMIT 100""")
_RESUME = text("""
UPDATE rule_pause SET resumed_at = clock_timestamp(), resumed_by = :actor, resumed_reason = :reason
 WHERE rule = :rule AND resumed_at IS NULL RETURNING version""")
_LISTS = text("SELECT name FROM list")
_USE = text("""
SELECT rule, sum(events) AS events, sum(hits) AS hits, sum(shadow) AS shadow, sum(snoozed) AS snoozed,
       sum(points) AS points FROM rule_use WHERE version = :version GROUP BY rule ORDER BY rule""")

FRESH = timedelta(minutes=2)
"""A worker that has not reported for so long counts as gone."""
NAME_MAX = 128
_MAKE_LIST = "there is no such list, see `pointguard lists show`; make it with `pointguard lists create`"


class PolicyStepError(ValueError):
    """The step can't be taken; the message says why, and behind "; " what to do."""


@dataclass(frozen=True, slots=True)
class Period:
    """The events that a backtest looked at: from `since` to before `until`, of one programme or of all."""

    since: datetime
    until: datetime
    program: str | None = None


def draft(conn: Connection, document: str, actor: str, reason: str) -> int:
    """Keep a document as the next version, not in force; its `version` line is set to that number, nothing else.

    Rules need not compile yet. Raises PolicyRefused if it is no YAML mapping with a `version`.
    """
    _said(actor, reason)
    conn.execute(_LOCK)
    version: int = conn.execute(_NEXT).scalar_one()
    kept = renumbered(document, version)
    try:
        with conn.begin_nested():
            conn.execute(_DRAFT, {"version": version, "document": kept, "actor": actor, "reason": reason})
    except IntegrityError as error:
        raise PolicyStepError("a draft has an author of 1 to 128 characters; say who writes it") from error
    _step(conn, version, "drafted", actor, reason)
    return version


def validate(conn: Connection, version: int, actor: str) -> Sequence[Problem]:
    """Check a version as workers would at loading; what is wrong, with line and column, or nothing."""
    row = _found(conn, version)
    try:
        policy = load_policy(row.document).policy
    except PolicyRefused as refused:
        _step(conn, version, "refused", actor, "; ".join(map(str, refused.problems))[:2000])
        return refused.problems
    if policy.version != version:
        _step(conn, version, "refused", actor, f"the document says version {policy.version}")
        return [Problem("version", "wrong_version", f"the document says {policy.version}: draft it again")]
    if missing := _missing_lists(conn, policy):
        missing = located(compose(row.document), row.document, missing)
        _step(conn, version, "refused", actor, "; ".join(map(str, missing))[:2000])
        return missing
    _step(conn, version, "validated", actor, "")
    return ()


def _missing_lists(conn: Connection, policy: Policy) -> list[Problem]:
    """Lists that rules read and nobody made: nothing would ever stand on them. TIERS are lists, too."""
    known = {f"lists.{name}" for name in conn.execute(_LISTS).scalars()}
    return [
        Problem(f"rules[{place}].expression", "unknown_list", f"{token.text!r}: {_MAKE_LIST}", rule.id, token.at)
        for place, rule in enumerate(policy.rules)
        for token in parse(rule.expression, rule.limit).tokens
        if token.kind == "name" and token.text.startswith("lists.") and token.text not in known
    ]


def keep_backtest(conn: Connection, version: int, actor: str, period: Period, report: msgspec.Struct) -> int:
    """Store a backtest's report with the version; the backtest's id. `report` has a field `events`."""
    _found(conn, version)
    said = {
        "version": version, "actor": actor, "program": period.program, "since": period.since, "until": period.until,
        "events": getattr(report, "events", 0), "report": msgspec.json.encode(report).decode(),
    }  # fmt: skip
    number: int = conn.execute(_BACKTEST, said).scalar_one()
    _step(conn, version, "backtested", actor, f"backtest {number}: {said['events']:,} events")
    return number


def latest_backtest(conn: Connection, version: int) -> Row[Any] | None:
    """The latest backtest of a version, its report as JSON text."""
    return conn.execute(_LATEST, {"version": version}).one_or_none()


def approve(conn: Connection, version: int, actor: str, reason: str) -> None:
    """Let a version go into force. Raises PolicyStepError unless validated, backtested, and `actor` is another."""
    _said(actor, reason)
    conn.execute(_LOCK)
    row = _found(conn, version)
    if row.author is None:
        raise PolicyStepError(f"version {version} came with the installation; it needs no approval")
    if row.approved_by is not None:
        raise PolicyStepError(f"version {version} was approved by {row.approved_by}; activate it")
    done = {step.step for step in steps(conn, version)}
    if problems := _problems(row.document):
        raise PolicyStepError(f"version {version} does not compile: {problems[0]}; draft a corrected one")
    if not done & {"validated"}:
        raise PolicyStepError(f"version {version} was not validated; run `pointguard policy validate {version}`")
    if not done & {"backtested"}:
        raise PolicyStepError(f"version {version} was not backtested; run `pointguard policy backtest {version}`")
    if conn.execute(_IN_VAIN, {"version": version}).scalar_one():
        raise PolicyStepError(f"version {version} was backtested over no events; run it over a period that has some")
    try:
        with conn.begin_nested():
            conn.execute(_APPROVE, {"version": version, "actor": actor})
    except IntegrityError as error:
        raise PolicyStepError(
            f"version {version} was written by {row.author}, who cannot approve it; let somebody else do it"
        ) from error
    _step(conn, version, "approved", actor, reason)


def activate(conn: Connection, version: int, actor: str, reason: str) -> None:
    """Put a version into force: workers take it over within seconds. Raises PolicyStepError."""
    _said(actor, reason)
    conn.execute(_LOCK)
    row = _found(conn, version)
    if row.active:
        raise PolicyStepError(f"version {version} is in force already; nothing is to do")
    if row.author is not None and row.approved_by is None:
        raise PolicyStepError(
            f"version {version} was not approved; let somebody else run `pointguard policy approve {version}`"
        )
    _put_in_force(conn, row, "activated", actor, reason)


def roll_back(conn: Connection, actor: str, reason: str) -> int:
    """Put the version that was in force before back into force; its number. Raises PolicyStepError."""
    _said(actor, reason)
    conn.execute(_LOCK)
    version = conn.execute(_BEFORE).scalar_one_or_none()
    if version is None:
        raise PolicyStepError("no other version was ever in force; activate one that is approved")
    _put_in_force(conn, _found(conn, version), "rolled_back", actor, reason)
    return int(version)


def _put_in_force(conn: Connection, row: Row[Any], step: str, actor: str, reason: str) -> None:
    if problems := _problems(row.document):
        raise PolicyStepError(f"version {row.version} does not compile in this release: {problems[0]}; draft another")
    conn.execute(_RETIRE)
    conn.execute(_ACTIVATE, {"version": row.version})
    conn.execute(_STEP, {"version": row.version, "step": step, "actor": actor, "reason": reason})
    policy_activated(conn, actor, row.version, row.document)


def export(conn: Connection, version: int | None = None) -> str:
    """The document of a version (None: the one in force), to the byte as it is stored. Raises PolicyStepError."""
    number = conn.execute(_ACTIVE).scalar_one_or_none() if version is None else version
    if number is None:
        raise PolicyStepError("no policy is in force; run `pointguard migrate`")
    document: str = _found(conn, number).document
    return document


def in_force(conn: Connection) -> Policy:
    """The policy in force, rules not compiled."""
    return parse_policy(export(conn))


def versions(conn: Connection, limit: int) -> Sequence[Row[Any]]:
    """The latest versions with their last step and how many workers use or refuse them."""
    return conn.execute(_LIST, {"limit": limit, "fresh": FRESH}).all()


def loaded(conn: Connection) -> Sequence[Row[Any]]:
    """What each worker that reports uses, and which version it refuses and why."""
    return conn.execute(_LOADED, {"fresh": FRESH}).all()


def steps(conn: Connection, version: int) -> Sequence[Row[Any]]:
    """What happened to a version, in order."""
    return conn.execute(_STEPS, {"version": version}).all()


def use(conn: Connection, version: int) -> Sequence[Row[Any]]:
    """How often each rule of a version spoke while it was in force: with effect, on trial, and snoozed."""
    return conn.execute(_USE, {"version": version}).all()


def pauses(conn: Connection, *, ended: bool = False) -> Sequence[Row[Any]]:
    """Rules that the breaker paused, the latest first."""
    return conn.execute(_PAUSES, {"ended": ended}).all()


def resume(conn: Connection, rule: str, actor: str, reason: str) -> None:
    """Let a paused rule have its effect again. Raises PolicyStepError if it is not paused."""
    _said(actor, reason)
    found = conn.execute(_RESUME, {"rule": rule, "actor": actor, "reason": reason}).scalars().all()
    if not found:
        raise PolicyStepError(f"rule {rule} is not paused; see `pointguard policy list`")
    said = {"rule": rule, "versions": list(found), "reason": reason}
    record(conn, Act("policy", actor, "rule.resumed", said))


def _found(conn: Connection, version: int) -> Row[Any]:
    row = conn.execute(_ONE, {"version": version}).one_or_none()
    if row is None:
        raise PolicyStepError(f"there is no version {version}; see `pointguard policy list`")
    return row


def _problems(document: str) -> Sequence[Problem]:
    try:
        load_policy(document)
    except PolicyRefused as refused:
        return refused.problems
    return ()


def _said(actor: str, reason: str) -> None:
    if not 1 <= len(actor.strip()) <= NAME_MAX:
        raise PolicyStepError(f"who does it has 1 to {NAME_MAX} characters; give a name")
    if not reason.strip():
        raise PolicyStepError("a reason is needed; say why, for the record")


def _step(conn: Connection, version: int, step: str, actor: str, reason: str) -> None:
    conn.execute(_STEP, {"version": version, "step": step, "actor": actor, "reason": reason})
    record(conn, Act("policy", actor, f"policy.{step}", {"version": version, "reason": reason}))
