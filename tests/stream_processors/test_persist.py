"""A batch is tried until it is done or void, whatever is away meanwhile."""

import asyncio

import pytest
from faust.types import TP
from structlog.testing import capture_logs

from stream_processors import transport


class Batch:
    """What `persist` needs of a batch."""

    tp = TP("interactions", 3)
    records = ()

    def __init__(self, stale_after: int = 10) -> None:
        self._left, self.touched = stale_after, 0

    @property
    def stale(self) -> bool:
        self._left -= 1
        return self._left < 0

    def touch(self) -> None:
        self.touched += 1


def persist(batch: Batch, outcomes: list[object], monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Runs it with attempts that give or raise `outcomes`; returns how many there were, and what was said."""
    monkeypatch.setattr(transport, "RETRY_SECONDS", 0)
    attempts = iter(outcomes)

    async def attempt() -> bool:
        outcome = next(attempts)
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    with capture_logs() as said:
        asyncio.run(transport.persist(batch, attempt, (ConnectionError,)))
    return len(outcomes) - len(list(attempts)), [line["error"] for line in said]


def test_an_outage_is_waited_out_said_once_and_excused_to_the_watchdog(monkeypatch):
    batch = Batch()
    gone = [ConnectionError("redis is away")] * 3
    assert persist(batch, [*gone, ConnectionError("loading"), True, True], monkeypatch) == (5, ["redis is away", "loading"])
    assert batch.touched == 4


def test_who_came_second_looks_again_at_once(monkeypatch):
    batch = Batch()
    assert persist(batch, [False, False, True], monkeypatch) == (3, [])
    assert batch.touched == 0


def test_a_void_batch_is_given_up(monkeypatch):
    assert persist(Batch(stale_after=2), [ConnectionError("away")] * 5, monkeypatch) == (2, ["away"])


def test_an_error_of_another_kind_ends_the_agent(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        persist(Batch(), [ZeroDivisionError()], monkeypatch)
