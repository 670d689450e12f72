"""Commands with many options: a frozen value holds them, each field an option, and the command takes that value."""

from __future__ import annotations

import getpass
import inspect
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from typer.core import TyperGroup

from cli.errors import CommandError

NAME_MAX = 128
OURS = ("policy:", "pointguard:")
"""So begin the names under which the product itself decides, when a hold is due for instance."""

T = TypeVar("T")


def taking(options: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a command of a function that takes one value: its fields, annotated as Typer wants, become the options."""

    def decorate(command: Callable[[T], None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)
        given = inspect.signature(options).parameters.values()

        def run(**values: Any) -> None:
            command(options(**values))

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {parameter.name: hints[parameter.name] for parameter in given}
        signature = inspect.Signature([parameter.replace(annotation=hints[parameter.name]) for parameter in given])
        run.__signature__ = signature  # type: ignore[attr-defined]  # what Typer reads instead of **values
        return run

    return decorate


class FileFirst(TyperGroup):
    """A group of commands whose first argument may be a file instead: then the command `file` is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `file` in front of what is neither a command nor a call for help."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["file", *args]
        return super().parse_args(ctx, args)


def maker_or_user(name: str | None) -> str:
    """The name given, else this computer's user.

    CommandError for what is no person's name: one that cannot be seen or told from another, or the product's own.
    """
    who = unicodedata.normalize("NFKC", name or getpass.getuser()).strip()
    if not (who.isprintable() and 1 <= len(who) <= NAME_MAX):
        raise CommandError(f"{name!r} is no name", f"give 1 to {NAME_MAX} characters, all of which can be seen")
    if who.lower().startswith(OURS):
        raise CommandError(f"{who!r} is a name of the product's own", "give the name of the person who does it")
    return who


def version_of(given: str) -> int | None:
    """The number of a version, where not a file is given."""
    return int(given) if given.isascii() and given.isdigit() else None


def document_of(path: Path) -> str:
    """The text of a file that a person names. CommandError if it can't be read."""
    if not path.is_file():
        raise CommandError(f"there is no file {path}", "give a policy file, or the number of a version")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} can't be read: {error}", "save it as text in UTF-8, readable for you") from error


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name. CommandError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise CommandError(f"there is no time zone {name!r}", "take a name such as UTC or Asia/Shanghai") from error
