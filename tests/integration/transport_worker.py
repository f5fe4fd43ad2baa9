"""A stream processor for the tests: keeps what it got, with the position, in Redis. Arguments: broker, Redis, topics."""

import asyncio
import sys
import time

import redis

from feed import logs
from feed.settings import Settings
from feed.wire import Topic
from stream_processors import transport, watchdog

SESSION_SECONDS = 2.0  # the embedded broker lets a join wait for half of it


def main(broker, redis_url, *topics):
    """Values of `topic`/`partition` go to the list `got:{topic}/{partition}`, the position to `position:...`."""
    store = redis.Redis.from_url(redis_url)
    settings = Settings(kafka=broker, redis=redis_url, session_seconds=SESSION_SECONDS)
    logs.setup(settings, "test")
    watchdog.STALL_SECONDS = watchdog.LOOK_SECONDS = 1
    app = transport.make_app(f"test-{topics[0]}", settings)

    async def apply(batch):
        if any(record.value == b"hang" for record in batch.records):
            await asyncio.sleep(60)
        if any(record.value == b"block" for record in batch.records):
            time.sleep(60)
        if any(record.value == b"fail" for record in batch.records):
            raise RuntimeError("this agent fails")
        place = f"{batch.tp.topic}/{batch.tp.partition}"
        position = int(store.get(f"position:{place}") or 0)
        if position < batch.start:
            await batch.rewind(position)
            return
        if values := [record.value for record in batch.records if record.offset >= position]:
            with store.pipeline(transaction=True) as both:
                both.rpush(f"got:{place}", *values)
                both.set(f"position:{place}", batch.end)
                both.execute()
        batch.ack()

    async def report():
        store.set(f"assigned:{sys.argv[-1]}", " ".join(f"{tp.topic}/{tp.partition}" for tp in transport.assigned(app)))

    for name in topics[:-1]:
        transport.consume(app, Topic(name), apply)
    transport.every(app, 0.2, report)
    transport.run(app)


if __name__ == "__main__":
    main(*sys.argv[1:])
