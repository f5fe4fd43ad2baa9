"""Every process that creates topics creates the same ones, so that it does not matter which one starts first."""

import signal
from pathlib import Path

import pytest

from feed import dataset, logs, settings, wire
from feed.io import kafka
from offline import gatekeeper, schedule, seed
from producers import replay
from stream_processors import features, feeds, learner, monitor

CREATORS = {
    "features": features.main,
    "feeds": feeds.main,
    "learner": learner.main,
    "monitor": monitor.main,
    "gatekeeper": gatekeeper.main,
    "schedule": schedule.main,
    "seed": lambda: seed.seed(settings.load(), Path()),
    "replay": lambda: replay.replay(settings.load(), Path(), 1.0, (), lambda *_: None),
}


class Asked(Exception):
    """What topics it wanted."""


@pytest.mark.parametrize("name", CREATORS)
def test_whoever_creates_the_topics_keeps_training_examples_as_long_as_is_set(name, monkeypatch, tmp_path):
    def ensure_topics(_servers, _partitions, topics):
        raise Asked(topics)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEED_EXAMPLES_DAYS", "3")
    monkeypatch.setattr(kafka, "ensure_topics", ensure_topics)
    monkeypatch.setattr(dataset, "read", lambda *_, **__: None)
    for module, attribute in ((logs, "setup"), (signal, "signal")):  # what would outlive the test
        monkeypatch.setattr(module, attribute, lambda *_: None)
    with pytest.raises(Asked) as asked:
        CREATORS[name]()
    assert asked.value.args == (wire.topics(3),)
