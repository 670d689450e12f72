"""Fixtures of this tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.pipeline_desk import Desk, open_desk


@pytest.fixture
def desk(database: str, redis_url: str, tmp_path: Path) -> Iterator[Desk]:
    """A worker's stages over fresh services."""
    with open_desk(database, redis_url, tmp_path) as made:
        yield made
