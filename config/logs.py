"""Logging of every process: structlog to standard error, with an allow-list of fields.

Only fields named in `ALLOWED` are written (security.md D8): an account, a device or an event body that a careless call
passes along never reaches a log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from config.settings import Settings

ALLOWED = frozenset(
    {
        *(
            "event",
            "level",
            "timestamp",
            "logger",
            "process",
            "pid",
            "version",
            "state",
            "stage",
            "service",
            "dependency",
        ),
        *("topic", "partition", "offset", "first", "last", "records", "epoch", "owner", "generation", "seq", "program"),
        *("error", "detail", "remedy", "reason", "code", "signal", "attempt", "count", "seconds", "rss_mb"),
        *("url", "port", "path", "exc_info", "exception"),
    }
)


def configure(settings: Settings, process: str) -> None:
    """Set up logging for this process; `process` names it on every line (worker, relay, trainer, …)."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _allowed_only,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s %(message)s"
    )


def _allowed_only(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in [name for name in fields if name not in ALLOWED]:
        del fields[name]
    return fields
