import pytest

from tests.small import fill, promote, snapshot, world


@pytest.fixture
def filled(redis_url, tmp_path):
    """URL of a Redis with five users and sixty items, and a registry with a champion."""
    fill(redis_url, world(users=5, items=60))
    promote(tmp_path, snapshot(world(users=5, items=60)))
    return redis_url, tmp_path
