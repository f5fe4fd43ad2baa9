"""Real servers for the tests: one broker and one Redis a session, on free ports of 127.0.0.1; and logging as it was."""

import logging
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
import structlog

from deploy import embedded
from feed import events

hypothesis.settings.register_profile("untimed", deadline=None)  # what else the machine does is no property
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of an empty embedded broker, shared by the session: use topics and groups of your own."""
    with embedded.start_broker(embedded.free_port(), tmp_path_factory.mktemp("broker")) as server:
        yield server.address


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[str]:
    """`host:port` of an empty broker of this test's own: for topics with fixed names, and to read whole topics."""
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as server:
        yield server.address


@pytest.fixture(scope="session")
def _redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.start_redis(embedded.free_port(), tmp_path_factory.mktemp("redis")) as server:
        yield f"redis://{server.address}/0"


@pytest.fixture
def redis_url(_redis_server: str) -> str:
    """URL of the session's embedded Redis, emptied for this test."""
    client = redis.Redis.from_url(_redis_server)
    client.flushall()
    client.close()
    return _redis_server


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On matrices this small further threads only wait for one another."""
    import torch  # most tests do without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For a test in which a command sets up the logging of its process: here it would be that of all tests after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _kinds_as_they_were() -> Iterator[None]:
    """Kinds of one's own are those of a process, and a test is a part of one."""
    yield
    events.adopt()
