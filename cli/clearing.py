"""`pointguard clearing`: what stores owe each other for points that one funded and another redeemed (店间结算)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.markup import escape

from cli.context import DataDir, database, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.holds import HOLD_ID_MAX, moment
from cli.member_tables import table_of
from cli.options import maker_or_user, taking, zone_of
from cli.reporting import Json, ProgramName, Zone, instant, ledger_view, money, print_json, program_of
from ledger.clearing import PROGRAM, Settlement
from ledger.clearing_store import SettlementError, find_run, settle, settlement
from ledger.clearing_store import runs as read_runs
from ledger.programs import ledger_now

app = typer.Typer(
    help="Settlement between stores: look at a period, settle it once, look at what was settled.", no_args_is_help=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodOptions:
    """What `clearing show` takes."""

    program: ProgramName
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From this day or time (default: the start).")] = (
        None
    )
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to this day (its end) or time.")] = None
    timezone: Zone = "UTC"
    json: Json = False
    data_dir: DataDir = None


@app.command()
@taking(PeriodOptions)
def show(options: PeriodOptions) -> None:
    """Show a period: what each store issued and redeemed, who funded what others redeemed, and who would pay whom."""
    zone = zone_of(options.timezone)
    since_ms = instant(options.since, zone, "--since") or 0
    until_ms = instant(options.until, zone, "--until", end_of_day=True)
    with ledger_view(options.data_dir) as conn, _explained():
        program = program_of(conn, options.program)
        end_ms = ledger_now(conn, [program.name])[program.name] + 1 if until_ms is None else until_ms
        found = settlement(conn, program.name, program.terms, since_ms, end_ms)
    _tell(found, json=options.json)


@app.command("settle")
def settle_(
    program: ProgramName,
    until: Annotated[str, typer.Option(metavar="TIME", help="Up to this day (its end) or time, which must be over.")],
    timezone: Zone = "UTC",
    actor: Annotated[str | None, typer.Option(help="Who settles (default: this computer's user).")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Settle all that is not settled yet, up to a moment, once: the run is recorded and cannot be changed."""
    until_ms = instant(until, zone_of(timezone), "--until", end_of_day=True)
    with database(settings_of(data_dir)) as engine, engine.begin() as conn, _explained():
        run, found = settle(conn, program, until_ms or 0, maker_or_user(actor))
    if not json:
        say(f"Settled as run {run.run_id}.")
    _tell(found, json=json)


@app.command()
def runs(program: ProgramName, json: Json = False, data_dir: DataDir = None) -> None:
    """List the runs of a programme, the latest first."""
    with ledger_view(data_dir) as conn:
        found = read_runs(conn, program_of(conn, program).name)
    if json:
        print_json(found)
        return
    if not found:
        say("Nothing was settled yet.")
        return
    table = table_of(None, "run", "from", "until", "by", "made")
    for one in found:
        table.add_row(str(one.run_id), moment(one.since), moment(one.until), escape(one.made_by), moment(one.made_at))
    out.print(table)


@app.command()
def run(
    run_id: Annotated[
        int, typer.Argument(metavar="RUN", min=1, max=HOLD_ID_MAX, help="As `clearing runs` lists them.")
    ],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show a run as it was settled."""
    with ledger_view(data_dir) as conn:
        found = find_run(conn, run_id)
    if found is None:
        raise CommandError(f"there is no run {run_id}", "see `pointguard clearing runs`")
    _tell(found, json=json)


def _tell(found: Settlement, *, json: bool) -> None:
    if json:
        print_json(asdict(found) | {"positions": found.positions, "proven": _proven(found)})
    else:
        _print(found)
    if not _proven(found):
        raise CommandError("the settlement does not add up", "run `pointguard verify`, and report this", FOUND)


def _proven(found: Settlement) -> bool:
    return found.sums_to_zero and found.is_traced


def _print(found: Settlement) -> None:
    period = f"{moment(found.since)} to {moment(found.until)}"
    stores = table_of(f"stores of {escape(found.program)}, {period}", "store", *_STORE_COLUMNS)
    for one in found.stores:
        stores.add_row(_party(one.store), *(f"{getattr(one, name):,}" for name in _STORE_COLUMNS))
    out.print(stores)
    flows = table_of("funded by one, redeemed at another", "funded by", "redeemed at", "what", "points")
    # What a party claws back of points it funded itself is between nobody.
    for flow in (one for one in found.flows if one.funder != one.redeemer or one.kind == "redeemed"):
        flows.add_row(_party(flow.funder), _party(flow.redeemer), flow.kind.replace("_", " "), f"{flow.points:,}")
    out.print(flows)
    payments = table_of("netted", "pays", "to", "points", "amount")
    for payment in found.payments:
        amount = money(payment.amount, found.value.money)
        payments.add_row(_party(payment.payer), _party(payment.payee), f"{payment.points:,}", amount)
    out.print(payments)
    if _proven(found):
        say("Proven: payments sum to zero, and all that was redeemed is traced to who funded it.")


_STORE_COLUMNS = ("issued", "redeemed", "breakage", "cancelled", "balance")


def _party(name: str) -> str:
    return "[dim](the programme)[/]" if name == PROGRAM else escape(name)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SettlementError as error:
        what, _, remedy = str(error).partition("; ")
        raise CommandError(what, remedy) from error
