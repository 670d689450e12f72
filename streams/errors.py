"""What an exception of a dependency means: wait and try again, or something this batch causes."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Literal

import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from streams.quarantine import TooManyFailures
from streams.velocity_store import VelocityUnavailableError

Dependency = Literal["postgresql", "redis"]

# Classes of SQLSTATE that speak of the server's state or of concurrency, not of the data: connection, transaction
# rollback, insufficient resources, operator intervention, system error; and lock_not_available.
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
# Classes that no event can cause: missing tables or rights, a pooler that lost statements, unsupported features, bugs.
FAULT_CLASSES = ("0A", "26", "28", "42", "XX")
READ_ONLY = "25006"


def dependency_down(error: BaseException) -> Dependency | None:
    """The dependency to wait for before the same batch is tried again, or None when waiting would not help."""
    if isinstance(error, (VelocityUnavailableError, RedisError)):
        return "redis"
    if isinstance(error, (DisconnectionError, PoolTimeout)):
        return "postgresql"
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return "postgresql"
        return "postgresql" if _transient(error.orig) else None
    return "postgresql" if isinstance(error, psycopg.Error) and _transient(error) else None


def is_fault(error: BaseException) -> bool:
    """Whether the fault is ours or the installation's: to go on would turn good events into dead letters."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_fault(inner) for inner in error.exceptions)
    return isinstance(error, TooManyFailures) or _state(error)[:2] in FAULT_CLASSES


def ran_out_of_time(error: BaseException) -> bool:
    """Whether PostgreSQL ended a statement because it took too long."""
    return _state(error) == QUERY_CANCELED


def _state(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def _transient(error: BaseException | None) -> bool:
    state = getattr(error, "sqlstate", None)
    if state is None:  # no answer at all: the connection could not be made, or broke
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state[:2] in TRANSIENT_CLASSES or state in (LOCK_NOT_AVAILABLE, READ_ONLY)


def described(error: BaseException) -> str:
    """What went wrong and where, without the data it went wrong with: dead letters and logs are read in clear.

    A message of Python's may quote a value, and PostgreSQL's DETAIL quotes the whole row; PostgreSQL's first line names
    only tables, columns and constraints.
    """
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    name = type(cause).__name__
    if isinstance(cause, psycopg.Error):
        return f"{name}: {cause.diag.message_primary}" if cause.diag.message_primary else name
    frames = traceback.extract_tb(error.__traceback__)
    return f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else name
