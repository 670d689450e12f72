"""Lists and snoozes in PostgreSQL: added and ended by people, read by workers, told to the audit chain.

Rows are only ever ended, never changed. Devices, addresses and payment tokens are stored as pseudonyms; what is shown
of them is the network, where it is wide enough to name nobody, or the first digits of the pseudonym.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import IntegrityError

from detectors.entity import Keys, canonical_ip
from detectors.event import Event
from detectors.register import (
    ALL_PROGRAMS,
    FOR_EVER,
    LIST_KINDS,
    RECEIVER,
    SNOOZE_KINDS,
    Entity,
    Entry,
    Place,
    Register,
    Snooze,
    Values,
    network_kind,
    register_of,
)
from ledger.chain_store import Act, record

SNOOZE_MOST = timedelta(days=180)
ENTRIES_MOST = 1_000_000
SHOWN_PREFIX_MOST = {4: 24, 6: 40}
"""A network of so many lines names nobody, and is shown as it is: a line has one address of IPv4, and a /48 of IPv6."""
_PSEUDONYMOUS = frozenset({"device", "ip", "payment"})
_SHOWN_DIGITS = 12

_LISTS = text("""
SELECT l.name, l.tier, l.note, l.made_by, count(e.entry_id) FILTER (WHERE e.until IS NULL OR e.until > now()) AS entries
  FROM list l LEFT JOIN list_entry e ON e.list = l.name AND e.removed_at IS NULL GROUP BY l.name ORDER BY l.name""")
_CREATE = text("INSERT INTO list (name, tier, note, made_by) VALUES (:name, :tier, :note, :actor)")
_ADD = text("""
INSERT INTO list_entry (list, program, kind, prefix, value, shown, until, reason, added_by)
SELECT :list, :program, t.kind, t.prefix, t.value, t.shown, :until, :reason, :actor
  FROM unnest(CAST(:kinds AS text[]), CAST(:prefixes AS smallint[]), CAST(:values AS bytea[]), CAST(:shown AS text[]))
    WITH ORDINALITY AS t(kind, prefix, value, shown, place) ORDER BY t.place
ON CONFLICT (list, program, kind, prefix, value) WHERE removed_at IS NULL DO NOTHING RETURNING entry_id""")
_LIFT_EXPIRED = text("""
UPDATE list_entry e SET removed_at = clock_timestamp(), removed_by = :actor, removed_reason = 'it had expired'
  FROM unnest(CAST(:kinds AS text[]), CAST(:prefixes AS smallint[]), CAST(:values AS bytea[])) AS t(kind, prefix, value)
 WHERE e.removed_at IS NULL AND e.until <= clock_timestamp() AND e.list = :list AND e.program = :program
   AND (e.kind, e.prefix, e.value) = (t.kind, t.prefix, t.value)""")
_REMOVE = text("""
UPDATE list_entry SET removed_at = clock_timestamp(), removed_by = :actor, removed_reason = :reason
 WHERE entry_id = :number AND removed_at IS NULL RETURNING list, kind""")
_ENTRIES = text("""
SELECT e.*, l.tier FROM list_entry e JOIN list l ON l.name = e.list
 WHERE (CAST(:list AS text) IS NULL OR e.list = :list) AND (:ended OR e.removed_at IS NULL)
   AND (CAST(:kind AS text) IS NULL
        OR (e.kind, e.prefix, e.value) = (:kind, CAST(:prefix AS smallint), CAST(:value AS bytea)))
   AND (CAST(:number AS bigint) IS NULL OR e.entry_id = :number)
 ORDER BY e.entry_id DESC LIMIT :limit""")
_SNOOZE = text("""
INSERT INTO rule_snooze (rule, program, kind, value, shown, until, reason, made_by, made_at)
VALUES (:rule, :program, :kind, :value, :shown, :until, :reason, :actor, now()) RETURNING snooze_id""")
_END_SNOOZE = text("""
UPDATE rule_snooze SET ended_at = clock_timestamp(), ended_by = :actor, ended_reason = :reason
 WHERE snooze_id = :number AND ended_at IS NULL RETURNING rule, kind""")
_SNOOZES = text("""
SELECT * FROM rule_snooze WHERE (:ended OR (ended_at IS NULL AND until > now()))
   AND (CAST(:rule AS text) IS NULL OR rule = :rule) ORDER BY snooze_id DESC LIMIT :limit""")
_OPEN = text("SELECT count(*) FROM list_entry WHERE removed_at IS NULL")
_PROGRAM = text("SELECT 1 FROM program WHERE program = :program")
_LIVE_ENTRIES = text("""
SELECT e.entry_id, e.list, l.tier, e.program, e.kind, e.prefix, e.value, e.shown,
       (date_part('epoch', e.until) * 1000)::bigint AS until_ms
  FROM list_entry e JOIN list l ON l.name = e.list WHERE e.removed_at IS NULL ORDER BY e.entry_id LIMIT :most""")
_LIVE_SNOOZES = text("""
SELECT snooze_id, rule, program, kind, value, (date_part('epoch', until) * 1000)::bigint AS until_ms
  FROM rule_snooze WHERE ended_at IS NULL ORDER BY snooze_id""")


class ListingError(ValueError):
    """The list, entry or snooze can't be made or ended; the message says why, and behind "; " what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """An entity as it is stored: `prefix` is the length of a network, 0 for an exact value; `shown` is for people."""

    kind: str
    prefix: int
    value: bytes
    shown: str


@dataclass(frozen=True, slots=True)
class Why:
    """Who does something, and why."""

    actor: str
    reason: str


def target_of(kind: str, value: str, keys: Keys) -> Target:
    """What is stored for an entity that a person names. Raises ListingError."""
    if kind not in LIST_KINDS:
        raise ListingError(f"{kind!r} is no kind of entity; take one of {', '.join(LIST_KINDS)}")
    value = value.strip()
    if not 1 <= len(value) <= 128 or "\0" in value:  # noqa: PLR2004  # as long as any name in an event
        raise ListingError(f"{kind}: a value has 1 to 128 characters, none of them NUL; give it as events carry it")
    if kind == "device":
        return _pseudonymous(kind, keys.device(value))
    if kind == "payment":
        return _pseudonymous(kind, keys.payment(value))
    if kind != "ip":
        return Target(kind, 0, value.encode(), value)
    if "/" in value:
        return _network(value, keys)
    if canonical_ip(value) is None:
        raise ListingError(f"{value!r} is no IP address; write 203.0.113.7, 2001:db8::1 or a network, 203.0.113.0/24")
    return _pseudonymous(kind, keys.ip(value))


def _network(value: str, keys: Keys) -> Target:
    try:
        network: IPv4Network | IPv6Network = ip_network(value)
    except ValueError as error:
        raise ListingError(f"{value!r} is no network ({error}); write it as 203.0.113.0/24") from None
    if network.prefixlen == 0:
        raise ListingError("a network of all addresses would list everybody; give a longer prefix")
    if network.prefixlen == network.max_prefixlen:
        return _pseudonymous("ip", keys.ip(str(network.network_address)))
    pseudonym = keys.network(str(network.network_address), network.prefixlen)
    if pseudonym is None:
        raise ListingError(f"{value!r} is a network of IPv4 in the notation of IPv6; write it as 203.0.113.0/24")
    wide = network.prefixlen <= SHOWN_PREFIX_MOST[network.version]
    shown = str(network) if wide else f"{_hidden(pseudonym)} /{network.prefixlen}"
    return Target("ip", network.prefixlen, pseudonym, shown)


def _pseudonymous(kind: str, pseudonym: bytes) -> Target:
    return Target(kind, 0, pseudonym, _hidden(pseudonym))


def _hidden(pseudonym: bytes) -> str:
    return f"…{pseudonym[1:].hex()[:_SHOWN_DIGITS]}"


def create_list(conn: Connection, name: str, tier: str, why: Why) -> None:
    """Make a list. Raises ListingError if there is one of that name, or name or tier can't be."""
    _check(why)
    said = {"name": name, "tier": tier, "note": why.reason, "actor": why.actor}
    try:
        with conn.begin_nested():
            conn.execute(_CREATE, said)
    except IntegrityError as error:
        raise ListingError(_refusal(error, f"a list {name!r} of tier {tier!r}")) from error
    record(conn, Act("lists", why.actor, "list.created", {"list": name, "tier": tier}))


def lists(conn: Connection) -> Sequence[Row[Any]]:
    """All lists, with the number of entries that count now."""
    return conn.execute(_LISTS).all()


def add(
    conn: Connection, name: str, program: str, targets: Sequence[Target], until: datetime | None, why: Why
) -> list[int]:
    """Put entities on a list, for one programme or `detectors.register.ALL_PROGRAMS`; the numbers of the new entries.

    What stands there already stays as it is and gets no number, so the same file may be imported again.
    """
    _known(conn, program)
    # Beyond this no worker would read the lists again, nor start.
    if conn.execute(_OPEN).scalar_one() + len(targets) > ENTRIES_MOST:
        raise ListingError(f"lists hold at most {ENTRIES_MOST:,} entries, expired ones too; remove some")
    said = {
        "list": name, "program": program, "until": until, "reason": why.reason, "actor": why.actor,
        "kinds": [target.kind for target in targets], "prefixes": [target.prefix for target in targets],
        "values": [target.value for target in targets], "shown": [target.shown for target in targets],
    }  # fmt: skip
    try:
        with conn.begin_nested():
            conn.execute(_LIFT_EXPIRED, said)
            made = sorted(conn.execute(_ADD, said).scalars())
    except IntegrityError as error:
        raise ListingError(_refusal(error, f"an entry of list {name!r}")) from error
    if made:
        told = {"list": name, "entries": len(made), "first": made[0], "last": made[-1], "reason": why.reason}
        record(conn, Act("lists", why.actor, "list.added", told))
    return made


def remove(conn: Connection, number: int, why: Why) -> None:
    """End an entry. Raises ListingError if there is none, or it has ended."""
    _check(why)
    row = conn.execute(_REMOVE, {"number": number, "actor": why.actor, "reason": why.reason}).one_or_none()
    if row is None:
        raise ListingError(f"there is no entry {number} that still counts; see `pointguard lists show`")
    said = {"list": row.list, "entry": number, "reason": why.reason}
    record(conn, Act("lists", why.actor, "list.removed", said))


@dataclass(frozen=True, slots=True)
class Asked:
    """Which entries to show: of a list, of an entity, or one by its number; also those that have ended."""

    list: str | None = None
    target: Target | None = None
    number: int | None = None
    ended: bool = False
    limit: int = 100


def entries(conn: Connection, asked: Asked) -> Sequence[Row[Any]]:
    """Entries, the latest first."""
    target = asked.target
    return conn.execute(
        _ENTRIES,
        {
            "list": asked.list,
            "ended": asked.ended,
            "kind": target and target.kind,
            "prefix": target and target.prefix,
            "value": target and target.value,
            "number": asked.number,
            "limit": asked.limit,
        },
    ).all()


def snooze(conn: Connection, rule: str, program: str, target: Target, until: datetime, why: Why) -> int:
    """Silence one rule for one entity until a time, at most 180 days away; the snooze's number. Raises ListingError."""
    if target.kind not in SNOOZE_KINDS or target.prefix:
        raise ListingError(f"a rule is snoozed for one {', '.join(SNOOZE_KINDS)}; a network goes on a list")
    _known(conn, program)
    said = {
        "rule": rule, "program": program, "kind": target.kind, "value": target.value, "shown": target.shown,
        "until": until, "reason": why.reason, "actor": why.actor,
    }  # fmt: skip
    try:
        with conn.begin_nested():
            number: int = conn.execute(_SNOOZE, said).scalar_one()
    except IntegrityError as error:
        raise ListingError(_refusal(error, "a snooze")) from error
    told = {"snooze": number, "rule": rule, "kind": target.kind, "until": until.isoformat(), "reason": why.reason}
    record(conn, Act("lists", why.actor, "rule.snoozed", told))
    return number


def end_snooze(conn: Connection, number: int, why: Why) -> None:
    """End a snooze before its time. Raises ListingError if there is none."""
    _check(why)
    row = conn.execute(_END_SNOOZE, {"number": number, "actor": why.actor, "reason": why.reason}).one_or_none()
    if row is None:
        raise ListingError(f"there is no snooze {number} that still counts; see `pointguard snooze list`")
    record(conn, Act("lists", why.actor, "rule.unsnoozed", {"snooze": number, "rule": row.rule, "reason": why.reason}))


def snoozes(conn: Connection, rule: str | None, *, ended: bool, limit: int) -> Sequence[Row[Any]]:
    """Snoozes, the latest first; also those that are over if `ended`."""
    return conn.execute(_SNOOZES, {"rule": rule, "ended": ended, "limit": limit}).all()


def _known(conn: Connection, program: str) -> None:
    """Refuse a programme that does not exist: what is said of it would count nowhere."""
    if program != ALL_PROGRAMS and conn.execute(_PROGRAM, {"program": program}).one_or_none() is None:
        raise ListingError(f"there is no programme {program!r}; see `pointguard program list`, or leave it out for all")


def _check(why: Why) -> None:
    """Refuse what ends without a reason: rows are ended by an update, of which the tables check nothing."""
    if not why.actor.strip() or not why.reason.strip():
        raise ListingError("an actor and a reason are needed; say who does it, and why")


_REMEDIES: Mapping[str, str] = {
    "list_pkey": "there is one of that name; take another name",
    "list_name_check": "a name is lower-case letters, digits and _; begin with a letter, at most 41",
    "list_tier_check": "there is no such tier; take allow, block, final, watch or plain",
    "list_entry_list_fkey": "there is no such list; see `pointguard lists show`",
    "list_entry_reason_check": "a reason is needed; say why in up to 500 characters",
    "list_entry_added_by_check": "an actor is needed; say who does it",
    "list_entry_until_check": "its end lies in the past; give a later one",
    "rule_snooze_until_check": "a snooze ends within 180 days; give an end between now and then",
    "rule_snooze_reason_check": "a reason is needed; say why in up to 500 characters",
    "rule_snooze_made_by_check": "an actor is needed; say who does it",
}


def _refusal(error: IntegrityError, what: str) -> str:
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return f"{what}: {_REMEDIES.get(str(name), f'the database refuses it ({name}); check what was given')}"


# --- what workers keep ------------------------------------------------------------------------------------------------


def load_entries(conn: Connection) -> Register[Entry]:
    """All entries that may still count, as workers look them up. Raises ListingError beyond ENTRIES_MOST."""
    rows = conn.execute(_LIVE_ENTRIES, {"most": ENTRIES_MOST + 1}).all()
    if len(rows) > ENTRIES_MOST:
        raise ListingError(f"lists hold more than {ENTRIES_MOST:,} entries; remove some")
    return register_of(placed for row in rows for placed in _placed(row))


def _placed(row: Row[Any]) -> Iterator[tuple[Place, Entry]]:
    """Where an entry stands; one of an account also counts for the receiver of a transfer, unless it allows."""
    value: Entity = bytes(row.value) if row.kind in _PSEUDONYMOUS else bytes(row.value).decode()
    entry = Entry(row.entry_id, row.list, row.tier, FOR_EVER if row.until_ms is None else row.until_ms)
    if row.prefix:
        # A wide network's version shows; a pseudonym fits addresses of its own version only, so both may be tried.
        for version in (4, 6):
            yield (network_kind(version, row.prefix), row.program, value), entry
        return
    yield (row.kind, row.program, value), entry
    if row.kind == "account" and row.tier != "allow":
        yield (RECEIVER, row.program, value), entry


def load_snoozes(conn: Connection) -> Register[Snooze]:
    """All snoozes that may still count."""
    return register_of(
        (
            (row.kind, row.program, bytes(row.value) if row.kind in _PSEUDONYMOUS else bytes(row.value).decode()),
            Snooze(row.snooze_id, row.rule, row.until_ms),
        )
        for row in conn.execute(_LIVE_SNOOZES)
    )


def entities(events: Sequence[Event], keys: Keys) -> Values:
    """The entities of a batch by kind, as registers look them up."""
    return partial(_entities, events, keys)


def _entities(events: Sequence[Event], keys: Keys, kind: str) -> Sequence[Entity | None]:
    if kind == "device":
        return [None if event.device is None else keys.device(event.device) for event in events]
    if kind == "payment":
        return [None if event.payment is None else keys.payment(event.payment) for event in events]
    if kind == "ip":
        return [None if event.ip is None else keys.ip(event.ip) for event in events]
    if kind.startswith("ip"):
        version, prefix = kind.removeprefix("ip").split("/")
        return [_network_of(event.ip, int(version), int(prefix), keys) for event in events]
    return [getattr(event, kind, None) for event in events]


def _network_of(ip: str | None, version: int, prefix: int, keys: Keys) -> bytes | None:
    canonical = None if ip is None else canonical_ip(ip)
    if canonical is None or (":" in canonical) != (version == 6):  # noqa: PLR2004  # the version of an address
        return None
    return keys.network(canonical, prefix)
