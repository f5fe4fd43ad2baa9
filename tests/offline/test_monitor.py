import json
from pathlib import Path

import pytest

from feed import wire
from feed.events import utc
from feed.examples import RaiseRate
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import FeatureStore, connect
from feed.ranking.types import Feed
from feed.settings import Settings
from offline import monitor
from tests import small
from tests.monitoring.streams import STEP, stream

A_DAY = int(86_400 / STEP)  # requests


@pytest.fixture
def configuration(redis_url, own_broker, tmp_path):
    """Settings of a broker of this test's own and of an empty Redis."""
    kafka.ensure_topics(own_broker, 1, wire.TOPICS)
    return Settings(kafka=own_broker, redis=redis_url, registry=tmp_path / "registry")


def test_a_bad_day_is_degraded_in_the_file_and_in_words(configuration, tmp_path: Path, capsys):
    world = small.world()
    small.fill(configuration.redis, world)
    with kafka.Sender(configuration.kafka) as sender:
        for example in stream(2 * A_DAY, lambda k, example: 0.3 if k < A_DAY else 0.15):
            sender.send(wire.TRAINING_EXAMPLES, example.user.user_id, example)
        sender.send(wire.TRAINING_EXAMPLES, "1", RaiseRate(3.0, 10, "no example"))
        sender.send_raw(wire.TRAINING_EXAMPLES.name, 0, b"", b"not an example")
    why = monitor.run(configuration, tmp_path / "monitor.json")
    found = json.loads((tmp_path / "monitor.json").read_text())
    assert found["degraded"] is True
    assert found["why"] == why
    assert f"degraded: {why}" in capsys.readouterr().out
    totals = [day for day in found["days"] if day["version"] == "all"]
    assert [day["day"] for day in totals] == ["2025-06-15", "2025-06-16", "2025-06-17"]
    assert sum(day["click_through"][arm]["requests"] for day in totals for arm in ("learned", "popular")) == 2 * A_DAY
    assert found["feeds"]["with_feeds"] == 0.0


def test_without_anything_served_nothing_is_degraded(configuration, tmp_path: Path):
    assert monitor.run(configuration, tmp_path / "monitor.json") is None
    assert json.loads((tmp_path / "monitor.json").read_text())["days"] == []


def test_freshness_is_the_age_of_the_feeds_that_are_there(redis_url):
    small.fill(redis_url, small.world(users=4))
    client = connect(redis_url)
    made = [
        Feed(
            generation=1, position=None, user_id=str(user), request_id="r", arm="learned", model_version="v", items=(),
            made_at=utc(small.NOW - age),
        )
        for user, age in enumerate((10, 20, 60))
    ]  # fmt: skip
    FeedStore(client).write(made)
    found = monitor.standing(FeatureStore(client), FeedStore(client), small.NOW)
    assert (found.users, found.with_feeds, found.age_median) == (4, 0.75, 20.0)
