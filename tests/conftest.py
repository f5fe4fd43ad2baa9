"""Real servers on free loopback ports, one of each for the whole run."""

import pytest
import redis

from deploy import embedded


@pytest.fixture(scope="session")
def broker():
    """host:port of an embedded broker; it keeps its topics for the whole run, so tests name their own."""
    with embedded.broker(embedded.free_port()) as address:
        yield address


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    with embedded.redis_server(embedded.free_port(), tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server):
    """URL of an embedded Redis, empty at the start of each test."""
    redis.Redis.from_url(redis_server).flushall()
    return redis_server
