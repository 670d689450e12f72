"""`pointguard liability`: what a programme's points are worth, and how that moved in a period."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.markup import escape

from cli.context import DataDir, out, say
from cli.errors import FOUND, CommandError
from cli.holds import moment
from cli.member_tables import table_of
from cli.options import taking, zone_of
from cli.reporting import Json, ProgramName, Zone, instant, ledger_view, money, print_json, program_of
from ledger.liability import Liability, Roll
from ledger.liability_store import liability as read_liability
from ledger.liability_store import roll as read_roll
from ledger.programs import Program, ledger_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `liability` takes."""

    program: ProgramName
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As of the end of this day, or this time.")] = None
    since: Annotated[str | None, typer.Option(metavar="TIME", help="How it moved from this day or time on …")] = None
    until: Annotated[str | None, typer.Option(metavar="TIME", help="… up to this day (its end) or time.")] = None
    timezone: Zone = "UTC"
    json: Json = False
    data_dir: DataDir = None


@taking(Options)
def liability(options: Options) -> None:
    """Show what is owed to members, in points and money: face, expected and held; or with --since how it moved.

    Valued by the programme's terms as they are now: value of a point, rates of redemption by age of the points.
    """
    zone = zone_of(options.timezone)
    at_ms = instant(options.at, zone, "--at", end_of_day=True)
    since_ms = instant(options.since, zone, "--since")
    until_ms = instant(options.until, zone, "--until", end_of_day=True)
    if since_ms is None and until_ms is not None:
        raise CommandError("a period needs its beginning", "give --since, or --at for one moment")
    with ledger_view(options.data_dir) as conn:
        program = program_of(conn, options.program)
        now_ms = ledger_now(conn, [program.name])[program.name]
        if since_ms is None:
            found = read_liability(conn, program.name, program.terms, now_ms if at_ms is None else at_ms - 1)
            _tell(found, program, json=options.json)
            return
        end_ms = now_ms + 1 if until_ms is None else until_ms
        if end_ms <= since_ms:
            raise CommandError("the period ends before it begins", "give an --until after --since")
        _tell_roll(read_roll(conn, program.name, program.terms, since_ms, end_ms), json=options.json)


def _tell(found: Liability, program: Program, *, json: bool) -> None:
    value = found.value
    if json:
        print_json(
            asdict(found)
            | {
                "face": found.face,
                "outstanding": found.outstanding,
                "face_value": value.of(found.face),
                "expected_value": found.expected_value,
            }
        )
        return
    table = table_of(f"liability of {escape(found.program)}, {moment(found.at)}", "", "points", "value")
    for name, points in (
        ("face: may be spent, or is set aside to be", found.face),
        ("  of which set aside by holds", found.held_out),
        ("due, expiry not posted yet", found.lapsed),
        ("posted in all", found.outstanding),
        ("waiting for approval, not posted", found.held_in),
        ("owed by members (an asset)", found.owed),
    ):
        table.add_row(name, f"{points:,}", money(value.of(points), value.money))
    table.add_row("expected to be redeemed, of face", "", money(found.expected_value, value.money))
    out.print(table)
    ages = table_of("face by age", "from month", "points", "value", "redeemed", "expected")
    for one in found.cohorts:
        expected = money(value.expected([one]), value.money)
        rate = f"{one.rate_ppm / 10_000:.4f} %"
        ages.add_row(str(one.from_months), f"{one.points:,}", money(value.of(one.points), value.money), rate, expected)
    out.print(ages)
    _tell_value(program)


def _tell_roll(found: Roll, *, json: bool) -> None:
    value = found.value
    if json:
        told = {"breakage": found.breakage, "breakage_value": value.of(found.breakage), "adds_up": found.adds_up}
        print_json(asdict(found) | told)
    else:
        period = f"{moment(found.since)} to {moment(found.until)}"
        table = table_of(f"liability of {escape(found.program)}, {period}", "", "points", "value", "owed")
        rows = [("opening", *found.opening)]
        rows += [(change.cause.replace("_", " "), change.points, change.owed) for change in found.changes]
        rows.append(("closing", *found.closing))
        for name, points, owed in rows:
            signed = "," if name in {"opening", "closing"} else "+,"
            table.add_row(name, format(points, signed), money(value.of(points), value.money), format(owed, signed))
        out.print(table)
        say(f"Breakage: {found.breakage:,} points expired, {money(value.of(found.breakage), value.money)}.")
    if not found.adds_up:
        raise CommandError(
            "opening and changes do not make the closing figures: lots and entries differ",
            "run `pointguard verify`, which says where",
            FOUND,
        )


def _tell_value(program: Program) -> None:
    if not program.terms.unit_value_micros:
        say("Its terms give points no value yet: set unit_value_micros (millionths of a minor unit of money a point).")
