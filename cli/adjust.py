"""`pointguard adjust`: points given or taken by hand; above the programme's limit a second person approves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.holds import HOLD_ID_MAX, moment
from cli.options import maker_or_user, taking, zone_of
from ledger import adjustments
from ledger.adjust_queries import AdjustmentFilter, AdjustmentView, list_adjustments
from ledger.adjustments import REASON_CODES, AdjustmentError, Checked, Proposal, Proposed
from ledger.ids import IdBlocks
from ledger.import_cells import CellError, Reading, moment_in, points_in
from ledger.import_posting import REASONS
from ledger.programs import ledger_now, load_programs

app = typer.Typer(help="Manual adjustments: propose, approve, reject, list.", no_args_is_help=True)

Ids = Annotated[
    list[int], typer.Argument(metavar="ADJUSTMENT…", min=1, max=HOLD_ID_MAX, help="Ids, as `adjust list` shows them.")
]
Checker = Annotated[str, typer.Option(help="Who checks: somebody else than the maker.")]
WAITS = {
    "above_limit": "above the programme's limit",
    "above_limit_of_a_day": "with what the same maker adjusted of this account within 24 hours, above the limit",
    "asked_to_wait": "as asked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `adjust propose` takes."""

    account: Annotated[str, typer.Argument(help="The member.")]
    points: Annotated[str, typer.Argument(help="How many: 500 gives, -500 takes away.")]
    program: Annotated[str, typer.Option(help="The programme.")]
    code: Annotated[str, typer.Option(help=f"Why, by name: {', '.join(REASON_CODES)}.")]
    reason: Annotated[str, typer.Option(help="Why, in words, for the record.")]
    maker: Annotated[str | None, typer.Option(help="Who proposes (default: this computer's user).")] = None
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day of given points (default: by the programme's terms).")
    ] = None
    timezone: Annotated[str, typer.Option(help="Where that day ends.")] = "UTC"
    reference: Annotated[
        str | None, typer.Option(help="Your own name of it: proposed again, nothing happens twice.")
    ] = None
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a checker, however small.")] = False
    create_member: Annotated[bool, typer.Option("--create-member", help="Open the account if it is new.")] = False
    data_dir: DataDir = None


# Numbers may be negative, so what looks like an unknown option is left to be read as points.
@app.command(context_settings={"ignore_unknown_options": True})
@taking(Options)
def propose(options: Options) -> None:
    """Propose an adjustment. Within the programme's limit it is posted at once, above it waits for a checker."""
    with database(settings_of(options.data_dir)) as engine, engine.begin() as conn:
        programs = load_programs(conn)
        now = ledger_now(conn, [options.program]).get(options.program, 0)
        proposal = _proposal(options, now)
        try:
            proposed = adjustments.propose(
                conn, programs, IdBlocks(), [proposal], wait=options.wait, create=options.create_member
            )[0]
        except AdjustmentError as error:
            raise _refused(error) from error
    _tell_proposed(proposal, proposed)


@app.command()
def approve(adjustment_ids: Ids, checker: Checker, data_dir: DataDir = None) -> None:
    """Approve waiting adjustments: they are posted, once."""
    with database(settings_of(data_dir)) as engine, engine.begin() as conn:
        try:
            checked = adjustments.approve(conn, load_programs(conn), IdBlocks(), adjustment_ids, checker)
        except AdjustmentError as error:
            raise _refused(error) from error
    _tell_checked(checked, checker)


@app.command()
def reject(
    adjustment_ids: Ids,
    checker: Checker,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    data_dir: DataDir = None,
) -> None:
    """Reject waiting adjustments: nothing is posted. Their maker may withdraw them so."""
    with database(settings_of(data_dir)) as engine, engine.begin() as conn:
        try:
            checked = adjustments.reject(conn, adjustment_ids, checker, reason)
        except AdjustmentError as error:
            raise _refused(error) from error
    _tell_checked(checked, checker)


@app.command("list")
def list_(
    program: Annotated[str | None, typer.Option(help="Only of this programme.")] = None,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    state: Annotated[Literal["waiting", "approved", "rejected", "all"], typer.Option(help="Only these.")] = "waiting",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the oldest first.")] = 50,
    after: Annotated[int, typer.Option(min=0, max=HOLD_ID_MAX, help="Only ids above this: the next page.")] = 0,
    data_dir: DataDir = None,
) -> None:
    """List adjustments, those that wait for a checker unless told otherwise."""
    wanted = AdjustmentFilter(program, account, None if state == "all" else state)
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        found = list_adjustments(conn, wanted, after, limit)
    if not found:
        say("There is none." if state == "all" else f"None is {state}.")
        return
    table = Table()
    for title in ("id", "programme", "account", "points", "why", "maker", "made", "state"):
        table.add_column(title, justify="right" if title in {"id", "points"} else "left", overflow="fold")
    for one in found:
        table.add_row(*(escape(cell) for cell in _cells(one)))
    out.print(table)
    if len(found) == limit:
        say(f"There may be more: --after {found[-1].adjustment_id}")


def _cells(one: AdjustmentView) -> tuple[str, ...]:
    state: str = one.state
    if one.checked_at is not None:
        by = f" by {one.checker}" if one.checker else ""
        why = f": {one.check_reason}" if one.check_reason else ""
        state = f"{one.state}{by}, {moment(one.checked_at)}{why}"
    expires = f", until {moment(one.expires_at)}" if one.expires_at else ""
    why = f"{one.reason_code}: {one.reason}"
    made = moment(one.made_at)
    return str(one.adjustment_id), one.program, one.account, f"{one.points:+,}{expires}", why, one.maker, made, state


def _proposal(options: Options, now_ms: int) -> Proposal:
    sign, digits = (-1, options.points[1:]) if options.points[:1] in {"-", "－", "−"} else (1, options.points)
    zone = zone_of(options.timezone)
    try:
        points = points_in(digits, Reading("credit", zone, now_ms))
    except CellError as error:
        raise _refused(error, "POINTS ") from error
    expires_ms = None
    if options.expires is not None:
        try:
            expires_ms = moment_in(options.expires, zone, end_of_day=True)
        except CellError as error:
            raise _refused(error, "--expires ") from error
        if expires_ms <= now_ms:
            raise CommandError(f"--expires is {options.expires}, which is over", "give a later day, or leave it out")
    maker = maker_or_user(options.maker)
    return Proposal(
        options.program,
        options.account,
        sign * points,
        options.code,
        options.reason,
        maker,
        expires_ms,
        options.reference,
    )


def _refused(error: Exception, where: str = "") -> CommandError:
    what, _, remedy = str(error).partition("; ")
    return CommandError(where + what, remedy or "correct it and run the command again")


def _tell_proposed(proposal: Proposal, proposed: Proposed) -> None:
    named = escape(f"{proposal.points:+,} for {proposal.account}")
    if proposed.outcome == "posted":
        say(f"adjustment {proposed.adjustment_id}: {named}, posted as transaction {proposed.txn_id}")
    elif proposed.outcome == "waiting":
        say(
            f"adjustment {proposed.adjustment_id}: {named}, waits for a checker ({WAITS[proposed.code]}): "
            f"pointguard adjust approve {proposed.adjustment_id} --checker NAME"
        )
    elif proposed.outcome == "known":
        say(f"adjustment {proposed.adjustment_id}: proposed before under this reference; nothing changed")
    else:
        remedy = (
            "name a member, or give --create-member" if proposed.code == "unknown_account" else "correct the points"
        )
        raise CommandError(f"refused, {proposed.code}: {REASONS.get(proposed.code, 'nothing changed')}", remedy, FOUND)


def _tell_checked(checked: Sequence[Checked], checker: str) -> None:
    said = {
        "own": f"{checker} made it; somebody else has to check it",
        "unknown": "there is none of this id; see `pointguard adjust list`",
    }
    late = 0
    for one in checked:
        if one.outcome == "posted":
            say(f"adjustment {one.adjustment_id}: approved, posted as transaction {one.txn_id}")
        elif one.outcome == "rejected":
            say(f"adjustment {one.adjustment_id}: rejected")
        else:
            late += 1
            why = said.get(one.outcome)
            if one.outcome == "checked_before":
                why = f"was {one.code} already"
            elif one.outcome == "refused":
                why = f"refused by the ledger, still waiting: {REASONS.get(one.code, one.code)}"
            err.print(f"[yellow]adjustment {one.adjustment_id}: {escape(str(why))}[/]")
    if late:
        raise typer.Exit(FOUND)
