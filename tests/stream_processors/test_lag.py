"""That agents say when they lag, and only then."""

import asyncio
from types import SimpleNamespace

from structlog.testing import capture_logs

from stream_processors.lag import Lag

BEGAN = 1.7e9


class Agent:
    """One that has done its batches some seconds after they were sent."""

    def __init__(self):
        self.now = BEGAN
        self.lag = Lag("feeds lag", "send fewer events", lambda: self.now)

    def does(self, *waits, every=1.0):
        with capture_logs() as said:
            for wait in waits:
                self.now += every
                self.lag.done([SimpleNamespace(timestamp=1000 * (self.now - wait)), SimpleNamespace(timestamp=1000 * self.now)])
        return said


def test_an_agent_that_keeps_up_says_nothing():
    agent = Agent()
    assert agent.does(*[0.2] * 100, *[4.9] * 100) == []


def test_lag_is_said_at_once_and_then_every_ten_seconds_with_the_figures_of_these_seconds():
    agent = Agent()
    agent.now += 100
    assert len(agent.does(5.1)) == 1
    said = agent.does(*[2.0] * 4, *[6.0] * 16)
    assert len(said) == 2
    assert (said[0]["event"], said[0]["log_level"]) == ("feeds lag", "warning")
    assert (said[0]["p50_seconds"], said[0]["p95_seconds"], said[0]["share_of_batches"]) == (6.0, 6.0, "60%")
    assert said[1]["share_of_batches"] == "100%"
    assert said[0]["remedy"] == "send fewer events"


def test_what_was_said_long_ago_is_not_in_the_figures_of_now():
    agent = Agent()
    agent.now += 100
    agent.does(*[0.1] * 50)
    agent.now += 3600
    assert agent.does(8.0)[0]["share_of_batches"] == "100%"


def test_what_was_sent_before_the_process_began_is_no_lag_of_its_own():
    agent = Agent()
    assert agent.does(60.0, 3600.0, 1e9) == []  # an outage, and times of a log that is replayed
    agent.now += 100
    assert agent.does(60.0, 3600.0) != []


def test_it_is_measured_when_a_batch_is_done():
    agent = Agent()
    agent.now += 100
    batch = SimpleNamespace(records=[SimpleNamespace(timestamp=1000 * agent.now)], again=True, caught_up=False)

    async def apply(taken):
        assert taken is batch
        agent.now += 7

    with capture_logs() as said:
        asyncio.run(agent.lag.timed(apply)(batch))  # it was done before: that it is done again is said elsewhere
        assert said == []
        batch.again = False
        asyncio.run(agent.lag.timed(apply)(batch))
    assert said[0]["p50_seconds"] == 14.0
