"""The fixtures: what a test gets is its own."""

import pytest
import redis
from sqlalchemy import create_engine, text


@pytest.mark.parametrize("turn", [1, 2])
def test_a_database_is_ones_own(empty_database: str, turn: int) -> None:
    """Each test gets an empty database, whatever the one before left in its."""
    engine = create_engine(empty_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (turn int)"))
        assert connection.scalar(text("SELECT count(*) FROM mine")) == 0, turn
    engine.dispose()


def test_a_database_has_the_schema(database: str) -> None:
    """The database of a test is migrated."""
    engine = create_engine(database)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM entry")) == 0
    engine.dispose()


@pytest.mark.parametrize("turn", [1, 2])
def test_redis_is_empty(redis_url: str, turn: int) -> None:
    """Each test gets an empty store, whatever the one before left in it."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("turn", turn)
