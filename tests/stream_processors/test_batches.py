"""What the consumer knows of its partitions, whoever asks meanwhile."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from faust.types import TP

from stream_processors.batches import Batch, Consumer

TOPIC = TP("interactions", 4)


class Thread:
    """Answers where the group has committed, one question after the other, when it is let."""

    def __init__(self) -> None:
        self.answers = asyncio.Queue()

    def _ensure_consumer(self):
        return SimpleNamespace(committed=None)

    async def call_thread(self, act, *arguments):
        return await self.answers.get()


async def sought(tp, offset):
    """A seek that nobody waits for."""


def consumer() -> Consumer:
    made = Consumer.__new__(Consumer)  # without the client, which nobody needs here
    made._rebalances, made._epoch, made.progress = 0, Counter(), Counter()
    made._next, made._done, made._once, made._hole, made.held = {}, {}, {}, {}, set()
    made._thread, made.flow_active, made._blocked_by = Thread(), True, None
    made._stopped, made.assigned, made.seek = SimpleNamespace(is_set=lambda: False), frozenset({TOPIC}), sought
    made.queued = asyncio.Queue()
    made.app = SimpleNamespace(topics=SimpleNamespace(_tp_index={TOPIC: [SimpleNamespace(queue=made.queued)]}))
    return made


def records(first: int, n: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(offset=first + k) for k in range(n)]


def test_who_asks_for_the_committed_offset_while_the_first_batch_is_delivered_turns_nothing_back():
    async def scenario():
        made = consumer()
        delivering = asyncio.create_task(made._deliver(TOPIC, records(7795, 5), lambda: False))
        asking = asyncio.create_task(made.acknowledged(TOPIC))
        await asyncio.sleep(0)
        made._thread.answers.put_nowait(7795)
        await delivering
        first: Batch = made.queued.get_nowait()
        assert first.ack()
        made._thread.answers.put_nowait(7795)  # the keeper's answer, which is older by now
        assert await asking == 7800
        await made._deliver(TOPIC, records(7800, 5), lambda: False)
        assert made.queued.get_nowait().ack()
        assert made.view().done[TOPIC] == 7805

    asyncio.run(scenario())


def test_what_was_acknowledged_once_and_what_was_not_are_never_in_one_batch():
    async def scenario():
        made = consumer()
        made._next[TOPIC] = made._once[TOPIC] = 0
        await made._deliver(TOPIC, records(0, 5), lambda: False)
        assert made.queued.get_nowait().ack()
        await made.rewind(TOPIC, 0)
        await made._deliver(TOPIC, records(0, 8), lambda: False)
        await made._deliver(TOPIC, records(8, 2), lambda: False)
        batches = [made.queued.get_nowait() for _ in range(made.queued.qsize())]
        assert [(batch.start, batch.end, batch.again, batch.caught_up) for batch in batches] == [
            (0, 5, True, True), (5, 8, False, False), (8, 10, False, False),
        ]  # fmt: skip
        assert [batch.ack() for batch in batches] == [True, True, True]

    asyncio.run(scenario())
