"""What is waited for and what is not."""

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from streams.errors import dependency_down


def wrapped(kind: type[DBAPIError], error: psycopg.Error) -> DBAPIError:
    """The error as SQLAlchemy raises it."""
    return kind("SELECT 1", {}, error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (wrapped(OperationalError, psycopg.errors.DeadlockDetected()), "postgresql"),
        (wrapped(OperationalError, psycopg.errors.SerializationFailure()), "postgresql"),
        (wrapped(OperationalError, psycopg.errors.LockNotAvailable()), "postgresql"),
        (wrapped(OperationalError, psycopg.errors.QueryCanceled()), "postgresql"),
        (wrapped(OperationalError, psycopg.errors.DiskFull()), "postgresql"),
        (wrapped(OperationalError, psycopg.errors.AdminShutdown()), "postgresql"),
        (wrapped(OperationalError, psycopg.OperationalError("connection refused")), "postgresql"),
        (wrapped(IntegrityError, psycopg.errors.CheckViolation()), None),
        (wrapped(DBAPIError, psycopg.errors.NumericValueOutOfRange()), None),
        (RedisConnectionError(), "redis"),
        (KeyError("a bug"), None),
    ],
)
def test_dependency_down(error: BaseException, expected: str | None) -> None:
    """The server's state and concurrency are waited for; data and bugs are not."""
    assert dependency_down(error) == expected
