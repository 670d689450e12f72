"""How `pointguard member` shows balances, statements, lots and what expires."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo

import msgspec
from rich.markup import escape
from rich.table import Table

from cli.context import out, say
from cli.holds import moment
from ledger.history import LotView
from ledger.lines import Standing
from ledger.queries import Balance, Expiring, HoldView, Reminder
from ledger.statements import Cause, LotTouch, Statement, StatementLine

_RIGHT = frozenset(
    (
        *(
            "lot",
            "remaining",
            "reserved",
            "issued",
            "points",
            "lots",
            "posted",
            "owed",
            "hold",
            "value",
            "amount",
            "rows",
        ),
        *("redeemed", "expected", "breakage", "cancelled", "balance", "run", "from month"),
    )
)


def table_of(title: str | None, *columns: str) -> Table:
    """An empty table; columns of numbers are aligned to the right."""
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    return table


def print_balance(found: Balance, title: str) -> None:
    """What may be spent, and what may not and why."""
    table = Table(title=escape(title), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, points in (
        ("available", found.available),
        ("set aside by holds", found.pending_out),
        ("due, expiry not posted yet", found.lapsed),
        ("posted", found.posted),
        ("waiting for approval", found.pending_in),
        ("owed", found.owed),
    ):
        table.add_row(name, f"{points:,}")
    out.print(table)


def print_days(days: Sequence[Expiring]) -> None:
    """What expires on which day."""
    if not days:
        return
    table = table_of("expires", "day", "points", "reserved", "lots")
    for one in days:
        table.add_row(one.on.isoformat(), f"{one.points:,}", f"{one.reserved:,}", f"{one.lots:,}")
    out.print(table)


def print_reminders(found: Iterable[Reminder], *, json: bool) -> None:
    """Who is to be reminded of how much, a line each, as they are read."""
    for one in found:
        if json:
            out.print(msgspec.json.encode(one).decode(), soft_wrap=True, markup=False)
        else:
            say(f"{escape(one.account)}  {one.expiring.points:,} on {one.expiring.on.isoformat()}")


def print_holds(holds: Sequence[HoldView], name: str) -> None:
    """Open holds with what they freeze."""
    if not holds:
        return
    table = table_of("open holds", "hold", "kind", "points", "since", "due", "freezes")
    for one in holds:
        kind = (
            one.kind
            if one.to is None
            else f"transfer from {one.account}"
            if one.to == name
            else f"transfer to {one.to}"
        )
        due = "–" if one.due_at is None else f"{moment(one.due_at)}, {one.on_timeout}"
        frozen = ", ".join(
            f"{part.points:,} of lot {part.lot_id}" + (f" (until {moment(part.expires_at)})" if part.expires_at else "")
            for part in one.frozen
        )
        table.add_row(
            str(one.hold_id), escape(kind), f"{one.amount:,}", moment(one.opened_at), due, frozen or "nothing"
        )
    out.print(table)


def print_lots(found: Sequence[LotView], name: str, at_ms: int) -> None:
    """Lots in the order of use."""
    columns = ("lot", "remaining", "reserved", "issued", "earned", "expires", "store", "from lot")
    table = table_of(f"lots of {escape(name)}, in the order of use", *columns)
    for one in found:
        expires = "never" if one.lasting else moment(one.expires_at) + (" (due)" if one.due(at_ms) else "")
        table.add_row(
            str(one.lot_id),
            f"{one.remaining:,}",
            f"{one.reserved:,}",
            f"{one.issued:,}",
            moment(one.earned_at),
            expires,
            escape(one.store or "–"),
            "–" if one.parent is None else str(one.parent),
        )
    out.print(table)


def print_statement(found: Statement, zone: tzinfo) -> None:
    """A page, the newest line first, and how to come to the next ones."""
    if found.merged_into is not None:
        say(f"{escape(found.account)} was merged into {escape(found.merged_into)}: what came after is told there.")
    if not found.lines:
        say("No line here.")
    else:
        table = table_of(f"statement of {escape(found.account)}", "when", "what", "points", "posted", "owed", "why")
        for line in found.lines:
            table.add_row(
                f"{line.recorded_at.astimezone(zone):%Y-%m-%d %H:%M:%S}",
                escape(_what(line)),
                _points(line.change),
                f"{line.standing.posted:,}",
                f"{line.standing.owed:,}" if line.standing.owed else "",
                escape(_why(line.cause)),
            )
        out.print(table)
    if found.older is not None:
        say(f"older: --before {found.older}")
    if found.newer is not None:
        say(f"newer: --after {found.newer}")


def _what(line: StatementLine) -> str:
    step = {"posted": "", "held": " held", "approved": " approved", "released": " released"}[line.step]
    peers = line.cause.peers
    way = "to" if line.change.posted < 0 or line.change.pending_out else "from"
    return f"{line.kind}{step}" + (f" {way} {', '.join(peers)}" if line.kind == "transfer" and peers else "")


def _points(change: Standing) -> str:
    """What changed: posted points with their sign; in brackets what waits or is set aside."""
    parts = [f"{change.posted:+,}"] if change.posted else []
    if change.pending_in:
        parts.append(f"({change.pending_in:+,} coming)")
    if change.pending_out:
        parts.append(f"({change.pending_out:+,} set aside)")
    if change.owed:
        parts.append(f"({change.owed:+,} owed)")
    return " ".join(parts) or "0"


def _why(cause: Cause) -> str:
    """The event, where it was, who decided with which words, and the lots."""
    parts = [f"{cause.source} {cause.event_id}"]
    if cause.order is not None:
        parts.append(f"order {cause.order}")
    if cause.store is not None:
        parts.append(f"at {cause.store}")
    if cause.hold_id is not None:
        parts.append(f"hold {cause.hold_id}")
    if cause.actor is not None:
        checked = f", checked by {cause.checker}" if cause.checker else ""
        parts.append(f"by {cause.actor}{checked}: {cause.reason}")
    if cause.codes:
        parts.append(", ".join(cause.codes))
    parts += [f"{name.replace('_', ' ')} {points:,}" for name, points in cause.parts.items()]
    if cause.lots:
        parts.append("lots " + ", ".join(_touch(one) for one in cause.lots))
    return "; ".join(parts)


def _touch(one: LotTouch) -> str:
    return f"{one.lot_id} {'+' if one.action in {'give', 'restore'} else '-'}{one.points:,} {one.action}"
