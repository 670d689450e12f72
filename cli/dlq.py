"""`pointguard dlq`: events that were refused by name, and their second chance."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaProducer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine, text

from cli.context import DataDir, database, engine_of, err, out, say, settings_of
from cli.errors import FOUND, UNREACHABLE, CommandError
from cli.holds import moment
from config.settings import Settings
from detectors.entity import Keys
from streams import acts, quarantine
from streams.deadletters import SealedPackError, unpack

app = typer.Typer(help="Dead letters: list, show, retry; and sources in quarantine.", no_args_is_help=True)

_LIST = text("""
SELECT id, topic, part, "offset", source, event_id, error, field, detail, first_seen, retried_at FROM dead_letter
 WHERE (retried_at IS NULL OR :retried) AND (CAST(:error AS text) IS NULL OR error = :error)
 ORDER BY id DESC LIMIT :limit""")
_COUNTS = text("""
SELECT error, coalesce(field, '') AS field, count(*) AS letters FROM dead_letter WHERE retried_at IS NULL
 GROUP BY 1, 2 ORDER BY letters DESC LIMIT 50""")
_ONE = text("SELECT * FROM dead_letter WHERE id = :id")
_TAKE = text("""
SELECT id, topic, key, raw FROM dead_letter
 WHERE retried_at IS NULL AND (id = ANY(CAST(:ids AS bigint[])) OR CAST(:ids AS bigint[]) IS NULL)
   AND (CAST(:error AS text) IS NULL OR error = :error) AND id > :after
 ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED""")
_RETRIED = text("UPDATE dead_letter SET retried_at = clock_timestamp() WHERE id = ANY(:ids)")
_QUARANTINED = text("SELECT source, since, reason FROM quarantine ORDER BY since")

ALL = "every one that was not retried yet"


@app.command("list")
def list_(
    error: Annotated[str | None, typer.Option(help="Only those refused with this error.")] = None,
    retried: Annotated[bool, typer.Option("--retried", help="Also those that were sent again.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")] = 20,
    data_dir: DataDir = None,
) -> None:
    """List refused events: where in the log they lie, which error and field, and what to do. Never their content."""
    with database(settings_of(data_dir)) as engine, engine.connect() as conn:
        counts = conn.execute(_COUNTS).all()
        rows = conn.execute(_LIST, {"error": error, "retried": retried, "limit": limit}).all()
        quarantined = conn.execute(_QUARANTINED).all()
    for row in quarantined:
        said = f"{row.source} is in quarantine since {moment(row.since)}: {row.reason}"
        say(f"[yellow]{escape(said)}[/]  lift it: pointguard dlq release SOURCE")
    if not rows:
        say("There are no such dead letters.")
        return
    said = ", ".join(f"{row.letters:,} {row.error} {row.field}".rstrip() for row in counts)
    table = Table(title=escape(f"not retried: {said}") if said else "all were retried")
    for title in ("id", "where", "source", "event", "error", "field", "what to do"):
        table.add_column(title)
    for row in rows:
        where = f"{row.topic}/{row.part}/{row.offset}"
        cells = (str(row.id), where, row.source, row.event_id, row.error, row.field, row.detail)
        table.add_row(*(escape(cell or "–") for cell in cells))
    out.print(table)


@app.command()
def show(
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="As `dlq list` shows it.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Also open headers and body; they may hold personal data.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Show one dead letter; with --raw what was received, which needs the secret it was sealed with."""
    settings = settings_of(data_dir)
    with database(settings) as engine, engine.connect() as conn:
        row = conn.execute(_ONE, {"id": letter_id}).mappings().one_or_none()
    if row is None:
        raise CommandError(f"there is no dead letter {letter_id}", "see `pointguard dlq list`")
    table = Table(title=f"dead letter {letter_id}", show_header=False)
    for name in ("topic", "part", "offset", "log_id", "source", "event_id", "error", "field", "detail"):
        table.add_row(name, escape(str(row[name] if row[name] not in (None, "") else "–")))
    table.add_row("first seen", moment(row["first_seen"]))
    table.add_row("retried", moment(row["retried_at"]))
    if raw:
        headers, body = _open(row["raw"], settings)
        for name, value in headers:
            table.add_row(f"header {escape(name)}", escape(value.decode(errors="replace")))
        table.add_row("body", escape(body.decode(errors="replace")) if body is not None else "none (a tombstone)")
    out.print(table)


@app.command()
def retry(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID…]", help="As `dlq list` shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help=f"Instead of ids: {ALL}.")] = False,
    error: Annotated[str | None, typer.Option(help="With --all: only those refused with this error.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters again, to the topic they came from, byte for byte; for when their cause is gone.

    They keep their identity: what was decided meanwhile stays decided, and what is refused again is a new dead letter.
    """
    if bool(ids) == every:
        raise CommandError("say which dead letters", "give ids, or --all, not both")
    settings = settings_of(data_dir)
    engine = engine_of(settings.required("database_url"))
    sent, unopened = asyncio.run(_retry(engine, settings, ids, error))
    engine.dispose()
    say(f"{sent:,} dead letters were sent again; `pointguard dlq list` shows those that are refused again.")
    missing = len(set(ids)) - sent - unopened if ids else 0
    if missing:
        err.print(f"[yellow]{missing} of these ids are unknown or were retried before.[/]")
    if unopened:
        err.print(f"[yellow]{unopened} could not be opened: is the secret the one they were sealed with?[/]")
    if missing or unopened:
        raise typer.Exit(FOUND)


@app.command()
def release(
    source: Annotated[str, typer.Argument(help="The source, as `dlq list` names it.")],
    data_dir: DataDir = None,
) -> None:
    """Lift a source's quarantine: its next events are processed. Those kept as dead letters wait for `dlq retry`."""
    with database(settings_of(data_dir)) as engine, engine.begin() as conn:
        if not quarantine.release(conn, source):
            raise CommandError(f"{source} is not in quarantine", "see `pointguard dlq list`")
        acts.source_released(conn, getpass.getuser(), source)
    say(escape(f"{source} is released; then: pointguard dlq retry --all --error quarantined_source"))


async def _retry(engine: Engine, settings: Settings, ids: list[int] | None, error: str | None) -> tuple[int, int]:
    """Send the chosen letters in their order, a few hundred in a transaction; how many were sent, and could not be."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.required("kafka_url"), acks="all")
    await producer.start()
    sent = unopened = after = 0
    try:
        while True:
            # A crash between sending and the commit sends them twice: the inbox absorbs the second.
            with engine.begin() as conn:
                rows = conn.execute(_TAKE, {"ids": ids, "error": error, "after": after}).all()
                if not rows:
                    return sent, unopened
                done = await _send(producer, rows, settings)
                conn.execute(_RETRIED, {"ids": done})
                if done:
                    acts.letters_retried(conn, getpass.getuser(), done)
            sent, unopened, after = sent + len(done), unopened + len(rows) - len(done), rows[-1].id
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, rows: Sequence[Any], settings: Settings) -> list[int]:
    """The ids of the letters that could be opened, once the broker has them all."""
    waiting, done = [], []
    for row in rows:
        try:
            headers, body = _open(row.raw, settings)
        except CommandError:
            continue
        if body is None and row.key is None:
            continue  # a record of nothing, which no producer can send
        waiting.append(await producer.send(row.topic, key=row.key, value=body, headers=headers))
        done.append(row.id)
    for sent in waiting:
        await sent
    return done


def _open(sealed: bytes, settings: Settings) -> tuple[list[tuple[str, bytes]], bytes | None]:
    """Headers and body of a dead letter. Raises `CommandError` when the secret does not fit."""
    try:
        return unpack(bytes(sealed), Keys(settings.secret()).unseal)
    except SealedPackError as error:
        raise CommandError(
            str(error), "give the secret it was sealed with (POINTGUARD_SECRET_FILE)", UNREACHABLE
        ) from error
