"""`pointguard holds`: what waits for a person, why, and the person's decision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Row, text

from cli.context import DataDir, database, err, out, say, settings_of
from cli.errors import FOUND, CommandError
from cli.options import maker_or_user
from config.policy import load_policy
from detectors.decision import Decision, Reason
from detectors.event_types import POINTS_MAX
from detectors.explain import describe, explain
from detectors.features import unpack
from detectors.policy import Policy
from ledger.book import Resolution, Resolved
from ledger.ids import IdBlocks
from ledger.queries import HoldFilter, HoldView, balance, find_hold, open_holds
from streams.endings import roots_of
from streams.layouts import LayoutBook
from streams.review import decide

HOLD_ID_MAX = 2**63 - 1
Lang = Annotated[Literal["en", "zh"], typer.Option(help="Language of the reasons.")]
HoldIds = Annotated[
    list[int], typer.Argument(metavar="HOLD…", min=1, max=HOLD_ID_MAX, help="Hold ids, as `holds list` shows them.")
]
Why = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
Points = Annotated[
    int | None,
    typer.Option(min=1, max=POINTS_MAX, help="Approve only so many of the held points; the rest is released."),
]
Actor = Annotated[str | None, typer.Option(help="Who decides (default: this computer's user).")]

app = typer.Typer(help="Held points: list, explain, approve, reject.", no_args_is_help=True)

_DECISIONS = text("""
SELECT decision_id, type, outcome, code, score, suspicious, features, features_version, reasons::text AS reasons,
       event::text AS event, policy_version, model_version, occurred_at, decided_at
  FROM decision WHERE decision_id = ANY(:ids)""")
_POLICY = text("SELECT document FROM policy WHERE version = :version")
_COUNT = text("""
SELECT count(*) FROM hold h JOIN account a USING (account_id)
 WHERE h.resolved_at IS NULL AND (CAST(:program AS text) IS NULL OR h.program = :program)
   AND (CAST(:account AS text) IS NULL OR a.name = :account) AND (CAST(:kind AS text) IS NULL OR h.kind = :kind)""")
_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode


@app.command("list")
def list_(
    program: Annotated[str | None, typer.Option(help="Only of this programme.")] = None,
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    kind: Annotated[Literal["earn", "redeem", "transfer", "adjust"] | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the oldest first.")] = 20,
    lang: Lang = "en",
    data_dir: DataDir = None,
) -> None:
    """List open holds, the oldest first, with the weightiest reason of each."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        holds = open_holds(conn, HoldFilter(program, account, kind), limit=limit)
        if not holds:
            say("Nothing is held.")
            return
        decided = _decisions(conn, [hold.hold_id for hold in holds])
        policies = _Policies(conn)
        count = conn.execute(_COUNT, {"program": program, "account": account, "kind": kind}).scalar_one()
        say(f"{len(holds)} of {count:,} open holds, the oldest first")
        for hold in holds:
            reasons = policies.texts(decided.get(hold.hold_id), lang)
            more = f" [dim](and {len(reasons) - 1} more)[/]" if len(reasons) > 1 else ""
            until = f", due {moment(hold.due_at)}" if hold.due_at else ""
            where = escape(f"{hold.account} in {hold.program}, since {moment(hold.opened_at)}{until}")
            say(f"[bold]{hold.hold_id:>8}[/]  [bold]{hold.kind} {hold.amount:,}[/] by {where}")
            say(f"          {escape(reasons[0][1])}{more}" if reasons else "          no reason is stored")


@app.command()
def show(
    hold_id: Annotated[int, typer.Argument(metavar="HOLD", min=1, max=HOLD_ID_MAX, help="The hold's id.")],
    lang: Lang = "en",
    data_dir: DataDir = None,
) -> None:
    """Show one hold: the event, the score, every reason with what it added, the balance, and what was decided of it."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        hold = find_hold(conn, hold_id)
        if hold is None:
            raise CommandError(f"there is no hold {hold_id}", "see `pointguard holds list`")
        row = _decisions(conn, [hold_id]).get(hold_id)
        table = Table(title=f"hold {hold_id}", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in _facts(conn, hold, row):
            table.add_row(name, escape(value))
        out.print(table)
        for line in _Policies(conn).told(row, lang):
            say(escape(line))


@app.command()
def approve(
    hold_ids: HoldIds, reason: Why, points: Points = None, actor: Actor = None, data_dir: DataDir = None
) -> None:
    """Approve holds: their points are posted, once, with this decision on record; or a part, the rest is released."""
    if points is not None and len(hold_ids) > 1:
        raise CommandError("--points is for one hold at a time", "approve the others without it, or each by itself")
    who = maker_or_user(actor)
    _resolve([Resolution(hold_id, "post", who, reason, points) for hold_id in hold_ids], data_dir)


@app.command()
def reject(hold_ids: HoldIds, reason: Why, actor: Actor = None, data_dir: DataDir = None) -> None:
    """Reject holds: their points are released and nothing is posted, with this decision on record."""
    who = maker_or_user(actor)
    _resolve([Resolution(hold_id, "void", who, reason) for hold_id in hold_ids], data_dir)


def moment(at: datetime | None) -> str:
    """A time for people, in UTC as it is stored; a dash for none."""
    return f"{at:%Y-%m-%d %H:%M}" if at else "–"


def _resolve(resolutions: Sequence[Resolution], data_dir: DataDir) -> None:
    if not all(resolution.reason.strip() for resolution in resolutions):
        raise CommandError("a decision needs a reason", 'write it, as in --reason "customer called, order confirmed"')
    settings = settings_of(data_dir)
    with database(settings) as engine, engine.begin() as conn:
        resolved = decide(conn, IdBlocks(), resolutions, settings.decisions_topic)
    done = [_say_what_became_of(asked, one) for asked, one in zip(resolutions, resolved, strict=True)]
    if not all(done):
        raise typer.Exit(FOUND)


def _say_what_became_of(asked: Resolution, one: Resolved) -> bool:
    """Tell about one hold; whether it was decided as asked."""
    if one.outcome == "resolved":
        verdict = "rejected"
        if asked.verdict == "post":
            verdict = "approved" if asked.points is None else f"{one.posted:,} points approved, the rest released"
        say(f"hold {one.hold_id}: {verdict}, decision {one.decision_id}")
        return True
    if one.outcome == "unknown_hold":
        said = "there is none of this id; see `pointguard holds list`"
    elif one.outcome == "points_out_of_range":
        said = f"holds fewer than {asked.points:,} points; see `pointguard holds show {one.hold_id}`"
    else:
        was = "approved" if one.verdict == "post" else "rejected"
        at = None if one.at_ms is None else datetime.fromtimestamp(one.at_ms / 1000, UTC)
        said = f"was {was} already by {one.actor}, {moment(at)}: {one.reason}"
    err.print(f"[yellow]{escape(f'hold {one.hold_id}: {said}')}[/]")
    return False


def _decisions(conn: Connection, ids: Sequence[int]) -> dict[int, Row[tuple[object, ...]]]:
    """The decisions that opened holds; one held again after a reversal stands for the event of the first."""
    roots = roots_of(conn, ids)
    rows = {row.decision_id: row for row in conn.execute(_DECISIONS, {"ids": list(set(roots.values()))})}
    return {hold_id: rows[root] for hold_id, root in roots.items() if root in rows}


def _facts(conn: Connection, hold: HoldView, row: Row[tuple[object, ...]] | None) -> list[tuple[str, str]]:
    """What there is to say about a hold, name by name."""
    standing = balance(conn, hold.program, hold.account)
    facts = [
        ("programme", hold.program),
        ("account", hold.account),
        ("kind", f"{hold.kind}{f' to {hold.to}' if hold.to else ''}"),
        ("points", f"{hold.amount:,}"),
        ("event", f"{hold.source} {hold.event_id}"),
        *([("holds again", f"what a reversal left of hold {hold.replaces}")] if hold.replaces else []),
        ("happened", moment(hold.occurred_at)),
        ("held since", moment(hold.opened_at)),
        ("due", f"{moment(hold.due_at)}, then {hold.on_timeout}" if hold.due_at else "never by itself"),
    ]
    if standing:
        facts.append(
            (
                "balance",
                f"{standing.available:,} available, {standing.pending_in:,} coming, {standing.pending_out:,} set aside",
            )
        )
    if row:
        facts.append(("score", f"{row.score:.4f}"))
        facts.append(("decided under", f"policy {row.policy_version}, model {row.model_version or 'none yet'}"))
        facts.append(("event as stored", str(row.event)))
    if hold.decided:
        verdict = "approved" if hold.decided.verdict == "post" else "rejected"
        if 0 < hold.decided.posted < abs(hold.amount):
            verdict = f"{hold.decided.posted:,} points {verdict}"
        facts.append(
            ("decision", f"{verdict} by {hold.decided.actor}, {moment(hold.decided.at)}: {hold.decided.reason}")
        )
    return facts


class _Policies:
    """Policies by version, each read once: a reason is told in the words of the policy it was given under."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._known: dict[int, Policy] = {}
        self._layouts = LayoutBook()

    def texts(self, row: Row[tuple[object, ...]] | None, lang: Literal["en", "zh"]) -> list[tuple[Reason, str]]:
        """A decision's reasons with their sentences, the weightiest first."""
        if row is None:
            return []
        version = row.policy_version
        if version not in self._known:
            document = self._conn.execute(_POLICY, {"version": version}).scalar_one()
            self._known[version] = load_policy(document).policy
        return [(reason, explain(reason, self._known[version], lang)) for reason in _reasons(row.reasons)]

    def told(self, row: Row[tuple[object, ...]] | None, lang: Literal["en", "zh"]) -> tuple[str, ...]:
        """A decision in words: verdict, reasons with what each added, what had no effect, the account's own norm."""
        if row is None:
            return ("no decision is stored",)
        reasons = tuple(reason for reason, _ in self.texts(row, lang))
        decision = Decision(
            outcome=row.outcome,
            score=row.score,
            reasons=reasons,
            suspicious=row.suspicious,
            policy_version=row.policy_version,
            model_version=row.model_version,
        )
        return describe(decision, self._known[row.policy_version], lang, self._features(row))

    def _features(self, row: Row[tuple[object, ...]]) -> dict[str, float]:
        layout = self._layouts.layout(self._conn, row.features_version)
        return dict(zip(layout.names, unpack([bytes(row.features)], layout, layout.names)[0].tolist(), strict=True))
