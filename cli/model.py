"""`pointguard model`: which snapshot of the models is in use and why, and how a person puts another one into use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Row, text

from cli.context import DataDir, database, out, say, settings_of
from cli.errors import CommandError
from cli.holds import moment
from cli.options import maker_or_user
from cli.reporting import Json, print_json
from streams import model_store
from streams.model_store import Kind, Standing, Verdict

app = typer.Typer(help="Model snapshots: list, show, promote, roll back, verify.", no_args_is_help=True)

Version = Annotated[int | None, typer.Argument(help="The snapshot's version; without it the one in use.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
Actor = Annotated[str | None, typer.Option("--actor", help="Who decides (default: this computer's user).")]
DRIFTS_SHOWN = 8

_LIST = text("""
SELECT s.version, s.last_seq, s.created_at, (s.manifest ->> 'learned')::bigint AS learned,
       v.kind, v.actor, v.reason
  FROM model_snapshot s
  LEFT JOIN LATERAL (SELECT kind, actor, reason FROM model_verdict WHERE version = s.version
                      ORDER BY verdict_id DESC LIMIT 1) v ON true
 ORDER BY s.version DESC LIMIT :most""")
_VERDICTS = text(
    "SELECT kind, actor, reason, checks, at FROM model_verdict WHERE version = :version ORDER BY verdict_id"
)
_EARLIER = text("""
SELECT version FROM model_verdict WHERE kind <> 'refused' AND version <> :champion
   AND verdict_id < (SELECT coalesce(max(verdict_id) FILTER (WHERE kind = 'promoted'), min(verdict_id))
                       FROM model_verdict WHERE kind <> 'refused' AND version = :champion)
 ORDER BY verdict_id DESC LIMIT 1""")


@app.command("list")
def list_(
    most: Annotated[int, typer.Option("--limit", min=1, help="How many, the newest first.")] = 20,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the snapshots, the newest first: what each learned, and what the gate or a person decided of it."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        standing = model_store.standing(conn)
        rows = conn.execute(_LIST, {"most": most}).all()
    if as_json:
        print_json([{**row._mapping, "use": _use(row.version, standing)} for row in rows])  # noqa: SLF001  # SQLAlchemy's public name
        return
    if not rows:
        say("No snapshot yet: the trainer publishes the first when its models are past their grace period.")
        return
    table = Table()
    for title in ("version", "use", "made", "rows learned", "up to row", "last verdict"):
        table.add_column(title, justify="right" if title in {"version", "rows learned", "up to row"} else "left")
    for row in rows:
        verdict = f"{row.kind} by {row.actor}: {row.reason}" if row.kind else "none"
        table.add_row(
            str(row.version), _use(row.version, standing), moment(row.created_at), f"{row.learned:,}",
            f"{row.last_seq:,}", escape(verdict),
        )  # fmt: skip
    out.print(table)


@app.command()
def show(version: Version = None, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show one snapshot: what it learned, every check of the gate, how far inputs and scores have drifted."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        standing = model_store.standing(conn)
        wanted = _chosen(version, standing)
        sealed = model_store.read(conn, wanted)
        if sealed is None:
            raise CommandError(f"there is no snapshot {wanted}", "see `pointguard model list`")
        verdicts = conn.execute(_VERDICTS, {"version": wanted}).all()
    use = _use(wanted, standing)
    if as_json:
        print_json(
            {"use": use, "manifest": sealed.manifest, "verdicts": [dict(row._mapping) for row in verdicts]}  # noqa: SLF001  # as above
        )
        return
    manifest = sealed.manifest
    out.print(_facts(wanted, use, manifest))
    for row in verdicts:
        say(f"{moment(row.at)}  {row.kind} by {escape(row.actor)}: {escape(row.reason)}")
        if row.checks:
            out.print(_checks(row))
    drift = sorted(manifest.get("drift", {}).items(), key=lambda each: -each[1])
    if drift:
        table = Table(title="drift since the reference, largest first")
        table.add_column("input or model")
        table.add_column("PSI", justify="right")
        for series, moved in drift[:DRIFTS_SHOWN]:
            table.add_row(series, f"{moved:.3f}{' (another population)' if moved > 0.25 else ''}")  # noqa: PLR2004  # the usual reading of PSI
        out.print(table)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="The snapshot's version.")],
    reason: Why,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Put a snapshot into use, whatever the gate said of it; new ones come into use by themselves again.

    It becomes the reference that later ones are compared with.
    """
    _decide("promoted", version, reason, actor, data_dir)


@app.command()
def rollback(
    reason: Why,
    to: Annotated[int | None, typer.Option("--to", help="To this version; without it the one in use before.")] = None,
    actor: Actor = None,
    data_dir: DataDir = None,
) -> None:
    """Put an earlier snapshot back into use; nothing new comes into use until somebody promotes by hand."""
    _decide("rolled_back", to, reason, actor, data_dir)


@app.command()
def verify(version: Version = None, data_dir: DataDir = None) -> None:
    """Learn the whole label log again and compare with a snapshot's signed digest; exit code 1 if it differs."""
    from detectors.models_snapshot import SnapshotRefused
    from streams.keys import model_key
    from streams.trainer import TrainerParams, refold

    settings = settings_of(data_dir)
    with database(settings) as engine, engine.connect() as conn:
        wanted = _chosen(version, model_store.standing(conn))
        try:
            same = refold(conn, model_key(settings.secret()), TrainerParams().learner, wanted)
        except (LookupError, SnapshotRefused) as error:
            raise CommandError(str(error), "see `pointguard model list`") from error
    if not same:
        say(f"The label log does not lead to snapshot {wanted}: rows of it were changed or are missing.")
        raise typer.Exit(1)
    say(f"The label log leads to snapshot {wanted}, to the last bit.")


def _decide(kind: Kind, version: int | None, reason: str, actor: str | None, data_dir: Path | None) -> None:
    """Record a person's verdict, once the snapshot is known to be one that workers can load."""
    from detectors.models_snapshot import SnapshotRefused
    from streams.acts import model_judged
    from streams.keys import model_key

    if not reason.strip():
        raise CommandError("a verdict needs a reason", 'write it, as in --reason "finds nothing since Monday"')
    settings, who = settings_of(data_dir), _person(actor)
    with database(settings) as engine, engine.begin() as conn:
        standing = model_store.lock(conn)
        wanted = version if version is not None else _earlier(conn, standing)
        if kind == "rolled_back" and wanted == standing.champion:
            raise CommandError(f"snapshot {wanted} is in use already", "name another with --to")
        try:
            found = model_store.load(conn, model_key(settings.secret()), wanted)
        except SnapshotRefused as refused:
            raise CommandError(f"snapshot {wanted} cannot be used: {refused}", "choose another one") from refused
        if found is None:
            raise CommandError(f"there is no snapshot {wanted}", "see `pointguard model list`")
        if not found.ready:
            raise CommandError(f"snapshot {wanted} is in its grace period and says nothing", "choose a later one")
        model_store.give(conn, Verdict(wanted, kind, who, reason.strip()))
        model_judged(conn, who, wanted, kind, reason.strip())
    done = "in use" if kind == "promoted" else "back in use, and stays until somebody promotes another"
    say(f"Snapshot {wanted} is {done}; workers take it within a few seconds.")


def _person(actor: str | None) -> str:
    """Who decides: never the gate, by whose name its own verdicts are told from those of people."""
    who, most = maker_or_user(actor).strip(), model_store.ACTOR_LENGTH_MAX
    if not 1 <= len(who) <= most:
        raise CommandError(f"who decides has 1 to {most} characters", "give a name with --actor")
    if who == model_store.TRAINER:
        raise CommandError(f"{who!r} is the name of the gate", "give your own with --actor")
    return who


def _earlier(conn: Connection, standing: Standing) -> int:
    """The snapshot that was in use before the present one came up: two roll-backs go back two steps."""
    if standing.champion is None:
        raise CommandError("no snapshot is in use", "see `pointguard model list`")
    earlier: int | None = conn.execute(_EARLIER, {"champion": standing.champion}).scalar_one_or_none()
    if earlier is None:
        raise CommandError("no other snapshot was in use before it", "name one with --to, see `pointguard model list`")
    return earlier


def _chosen(version: int | None, standing: Standing) -> int:
    wanted = version if version is not None else standing.champion
    if wanted is None:
        raise CommandError("no snapshot is in use yet", "see `pointguard model list`")
    return wanted


def _use(version: int, standing: Standing) -> str:
    """champion, reference, both, or nothing."""
    uses = [name for name, of in (("champion", standing.champion), ("reference", standing.reference)) if of == version]
    return ", ".join(uses) + (" (rolled back to)" if "champion" in uses and standing.frozen else "")


def _facts(version: int, use: str, manifest: Mapping[str, Any]) -> Table:
    table = Table(title=f"snapshot {version}", show_header=False)
    facts = {
        "use": use or "not in use",
        "rows learned": f"{manifest.get('learned', 0):,}, up to row {manifest.get('last_seq', 0):,} of the label log",
        "programmes of their own": ", ".join(name for name in manifest.get("programs", []) if name) or "none",
        "state": manifest.get("state", "unknown"),
        "River": manifest.get("river", "unknown"),
        "parameters": manifest.get("params", "unknown"),
    }
    for name, value in facts.items():
        table.add_row(name, escape(str(value)))
    return table


def _checks(row: Row[Any]) -> Table:
    table = Table()
    for title in ("check", "value", "limit", "passed"):
        table.add_column(title, justify="left" if title in {"check", "passed"} else "right")
    for check in row.checks:
        value, limit = ("" if check[name] is None else f"{check[name]:.3f}" for name in ("value", "limit"))
        table.add_row(check["name"], value, limit, "yes" if check["passed"] else "[bold red]no[/]")
    return table
