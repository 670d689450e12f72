"""The `pointguard` console script: runs a command, turns expected failures into two lines and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape

from cli.errors import INTERRUPTED, UNREACHABLE, USAGE, CommandError

COMMANDS = (
    "up",
    "replay",
    "simulate",
    "holds",
    "verify",
    "lag",
    "dlq",
    "program",
    "policy",
    "backtest",
    "lists",
    "snooze",
    "adjust",
    "import",
    "member",
    "links",
    "pool",
    "liability",
    "clearing",
    "reconcile",
    "migrate",
    "worker",
    "relay",
    "trainer",
    "model",
)
"""Each is a module `cli.<name>` with a typer app called `app`, or a function of its own name."""

MODULES = {"import": "import_points"}
"""Where a command's name is none that a module can have."""


def build(wanted: str | None = None) -> typer.Typer:
    """The command line: the command `wanted` alone, or all when there is none of that name (for help and suggestions).

    A command's imports take up to seconds, so that starting one must not load the others.
    """
    app = typer.Typer(
        name="pointguard",
        help="Decides, event by event, whether loyalty points may move, and keeps the ledger they move on.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_nothing)
    for name in (wanted,) if wanted in COMMANDS else COMMANDS:
        module = importlib.import_module(f"cli.{MODULES.get(name, name)}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _nothing() -> None:
    """Decides, event by event, whether loyalty points may move, and keeps the ledger they move on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pointguard ARGUMENTS` (the process's own without) and end the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build(given[0] if given else None)(given, prog_name="pointguard")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # what is not explained below is raised again
        failure = explained(error)
        if failure is None:
            raise
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]error[/]  {escape(failure.what)}")
        console.print(f"[bold]do[/]     {escape(failure.remedy)}")
        sys.exit(failure.code)


def explained(error: BaseException) -> CommandError | None:
    """The failure in words, if it is one that users meet; None for a defect of ours, which keeps its traceback.

    Told apart by name, so that a command that needs no database does not load the database's driver to say so.
    """
    if isinstance(error, CommandError):
        return error
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    if kinds & {"cli.MapError", "cli.FileError"}:
        what, _, remedy = text.rpartition("; ")
        return CommandError(what or text, remedy if what else "correct it and run the command again", USAGE)
    if "config.SettingsError" in kinds:
        what, _, remedy = text.partition(": ")
        return CommandError(what, remedy or "correct the setting", UNREACHABLE)
    if "embedded.ServiceError" in kinds:
        return CommandError(
            text, "see the log under .pointguard/logs, or give the service's URL (docs/howto-ops.md)", UNREACHABLE
        )
    if "sqlalchemy.OperationalError" in kinds:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        return CommandError(
            f"PostgreSQL: {reason}",
            "is it running, and is POINTGUARD_DATABASE_URL right? `pointguard up` starts one",
            UNREACHABLE,
        )
    if "sqlalchemy.ProgrammingError" in kinds and "does not exist" in text:
        return CommandError("the database has not this version's tables", "run `pointguard migrate`", UNREACHABLE)
    if "aiokafka.KafkaError" in kinds:
        reason = text or type(error).__name__
        return CommandError(
            f"Kafka: {reason}",
            "is it running, and is POINTGUARD_KAFKA_URL right? `pointguard up` starts one",
            UNREACHABLE,
        )
    return None


if __name__ == "__main__":
    main()
