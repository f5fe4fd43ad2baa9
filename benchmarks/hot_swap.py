"""Hot swap under load: readers, while promotions and roll-backs change the champion twice a second. JSON to stdout.

    registry ─► feeds agent ─► Redis ─► readers of feed:{id} with its meta     real Redis and broker; agent and server are
        └─────► model server ────────► readers of /feed/{id}                   processes of their own

Failed: no answer, or no feed in it. A mixture: a feed whose items' scores are not those that the version it names gives to
them, whose version is not that of its generation, or whose order in Redis is not that of its meta. Roll-backs are timed from
the call on: until the last HTTP reader had its first feed of that generation or a later one (`seen`), and until the last answer
with an older one came (`stale`). At the end, until everybody's feed in Redis is of it (`everybody`).

`python benchmarks/hot_swap.py`; status 1 if anything failed, was a mixture, or took a second.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import redis
import torch
import typer

from deploy import embedded
from feed import logs, settings, wire
from feed.catalogue import Item
from feed.events import Click, utc
from feed.features import BatchState, FeatureSpace
from feed.features.near import taken
from feed.io import kafka
from feed.io.feeds import FeedStore
from feed.io.redis import Change, FeatureStore, connect
from feed.models import snapshot as snapshots
from feed.models.two_tower import TwoTower, scores
from feed.ranking.types import Feed
from feed.registry import Registry
from feed.wire import Position

ROOT = Path(__file__).parents[1]
USERS, ITEMS, FEED_SIZE = 1000, 1000, 50
READERS = 4  # of HTTP; one more reads Redis
PAUSE_SECONDS = 0.5  # between two changes of the champion
PATIENCE = 60.0
START = 1.75e9  # event time

decode = msgspec.json.Decoder(Feed).decode


@dataclass(frozen=True)
class Read:
    """One read: by whom, of what (`http`, `redis`), when the answer was there, and the feed's generation; 0: it failed."""

    reader: int
    of: str
    ended: float
    generation: int
    whole: bool


class Truth:
    """The score of every user and item by version, computed from what Redis holds; versions serve in turn, by generation."""

    def __init__(self, registry: Registry, versions: list[str], features: FeatureStore) -> None:
        table, ids = features.load_items(), [str(u) for u in range(USERS)]
        states, now = [state for state in features.users(ids) if state is not None], features.now()
        near = [table.nearby(state, now) for state in states]
        self._versions, self._items, self._scores = versions, {i: k for k, i in enumerate(table.ids)}, {}
        for version in versions:
            loaded = snapshots.load(registry.folder(version))
            with torch.inference_mode():
                users = loaded.model.user_vectors(loaded.space.user_inputs(states, now))
                items = loaded.model.item_vectors(loaded.space.item_inputs(table, None, now))
                self._scores[version] = torch.sigmoid(scores(users, items, near).double()).numpy()

    def holds(self, feed: Feed, order: list[str] | None) -> bool:
        """Whether the feed is of one version, the one whose turn it is; `order`: the sorted set's, if it was read."""
        if feed.model_version != self._versions[(feed.generation - 1) % len(self._versions)]:
            return False
        if len(feed.items) != FEED_SIZE or (order is not None and order != [item.item_id for item in feed.items]):
            return False
        expected = self._scores[feed.model_version][int(feed.user_id), [self._items[item.item_id] for item in feed.items]]
        return bool(np.allclose(expected, np.array([item.score for item in feed.items]), atol=1e-5))


def over_http(port: int) -> Callable[[int], tuple[Feed, None]]:
    """Reads a user's feed from the model server, on one connection."""
    connection = http.client.HTTPConnection(embedded.HOST, port, timeout=10)

    def read(user: int) -> tuple[Feed, None]:
        connection.request("GET", f"/feed/{user}")
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}: {content[:200]!r}")
        return decode(content), None

    return read


def from_redis(client: redis.Redis) -> Callable[[int], tuple[Feed, list[str]]]:
    """Reads a user's feed from Redis: meta and sorted set in one transaction."""

    def read(user: int) -> tuple[Feed, list[str]]:
        time.sleep(0.005)  # else it would take most reads from those of HTTP
        both = client.pipeline()
        both.get(f"feed:{user}:meta")
        both.zrevrange(f"feed:{user}", 0, -1)
        meta, order = both.execute()
        return decode(meta), [member.decode() for member in order]

    return read


def keep_reading(
    reader: int, of: str, read: Callable[[int], tuple[Feed, list[str] | None]], truth: Truth, reads: list[Read], wanted: int
) -> None:
    """Read random users' feeds until all readers together have `wanted` reads."""
    draw = np.random.default_rng(reader)
    while len(reads) < wanted:
        try:
            feed, order = read(int(draw.integers(USERS)))
            reads.append(Read(reader, of, time.monotonic(), feed.generation, truth.holds(feed, order)))
        except (http.client.HTTPException, redis.RedisError, OSError, msgspec.DecodeError, TypeError) as error:
            print(f"failed: {error!r}", file=sys.stderr)
            reads.append(Read(reader, of, time.monotonic(), 0, False))


def change_until(done: Callable[[], bool], registry: Registry, versions: list[str]) -> list[tuple[int, float]]:
    """Promote the second version and roll it back, in turn; returns generation and time of each roll-back."""
    roll_backs = []
    while not done():
        registry.promote(versions[1])
        time.sleep(PAUSE_SECONDS)
        began = time.monotonic()
        roll_backs.append((registry.roll_back(evidence={"why": "benchmark"}).generation, began))
        time.sleep(PAUSE_SECONDS)
    return roll_backs


def seen_after(reads: list[Read], roll_backs: list[tuple[int, float]]) -> dict[str, list[float]]:
    """Seconds from each roll-back until the last HTTP reader had seen it, and until the last stale answer."""
    served = [read for read in reads if read.of == "http" and read.generation]
    readers, end = {read.reader for read in served}, max(read.ended for read in served)
    seen, stale = [], []
    for generation, at in roll_backs:
        later = [read for read in served if read.ended > at]
        first = {r: min((x.ended for x in later if x.reader == r and x.generation >= generation), default=0) for r in readers}
        if at + 2 > end or not all(first.values()):
            continue  # the readers stopped too soon after it
        seen.append(max(first.values()) - at)
        stale.append(max((read.ended - at for read in later if read.generation < generation), default=0.0))
    return {"seen": seen, "stale": stale}


def quantiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and the largest."""
    return {name: round(float(np.quantile(seconds, q)), 3) for name, q in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}


def until(condition: Callable[[], bool]) -> float:
    """Wait for it; returns the seconds that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + PATIENCE:
            raise TimeoutError("the system did not get there")
        time.sleep(0.01)
    return time.monotonic() - began


def fill(features: FeatureStore) -> BatchState:
    """Put a world into Redis in which user u has clicked on items u, u + 1 and u + 2, a second apart."""
    state = BatchState([Item(item_id=str(k), category=f"c{k % 20}", created_at=utc(START - 86400)) for k in range(ITEMS)])
    change = Change(Position("L", 0, 1), users=state.users, items=dict(state.items.by_id))
    for k in range(3 * USERS):
        user, item = str(k // 3), str((k // 3 + k % 3) % ITEMS)
        click = Click(event_id=str(k), user_id=user, item_id=item, occurred_at=utc(START + k))
        if (of_item := taken(state.user(click.user_id), click)) is not None:
            change.taken.append(of_item)
        state.apply(click)
    change.newest = state.now
    if not features.apply(change, 0, "U", 0).done:
        raise RuntimeError("not applied")
    return state


def two_versions(registry: Registry, state: BatchState) -> list[str]:
    """Publish two versions with random weights: every score differs between them."""
    versions = []
    space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = TwoTower(space.user_spec, space.item_spec, space.sizes)
        model.mix.data.normal_()
        versions.append(registry.publish(partial(snapshots.save, model=model, space=space, manifest={})))
    return versions


@contextmanager
def running(program: str, environment: dict[str, str]) -> Iterator[None]:
    """A service's process."""
    process = subprocess.Popen([sys.executable, program], cwd=ROOT, env={**os.environ, **environment}, stdout=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    """Whether the server is ready."""
    try:
        connection = http.client.HTTPConnection(embedded.HOST, port, timeout=5)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def measure(wanted: int) -> dict[str, object]:
    """Start the system, read under load, stop it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedloop-swap-")))
        server = stack.enter_context(embedded.start_redis(embedded.free_port(), folder))
        broker = stack.enter_context(embedded.start_broker(embedded.free_port(), folder))
        kafka.ensure_topics(broker.address, 4, wire.TOPICS)
        url, port, registry = f"redis://{server.address}/0", embedded.free_port(), Registry(folder / "registry")
        client = connect(url)
        versions = two_versions(registry, fill(FeatureStore(client)))
        registry.promote(versions[0])
        environment = {
            "FEED_KAFKA": broker.address, "FEED_REDIS": url, "FEED_REGISTRY": str(folder / "registry"), "TMPDIR": str(folder),
            "FEED_PARTITIONS": "4", "FEED_SERVER_PORT": str(port), "FEED_FEED_SIZE": str(FEED_SIZE),
            "FEED_LOG_LEVEL": "warning",
        }  # fmt: skip
        stack.enter_context(running("stream_processors/feeds.py", environment))
        stack.enter_context(running("model_server/main.py", environment))
        feeds, users = FeedStore(client), [str(u) for u in range(USERS)]
        until(lambda: answers(port) and min(feeds.generations(users)) == 1)

        truth, reads, began = Truth(registry, versions, FeatureStore(client)), list[Read](), time.monotonic()
        ways = [("http", over_http(port)) for _ in range(READERS)] + [("redis", from_redis(client))]
        threads = [
            threading.Thread(target=keep_reading, args=(k, of, read, truth, reads, wanted)) for k, (of, read) in enumerate(ways)
        ]
        for thread in threads:
            thread.start()
        roll_backs = change_until(lambda: len(reads) >= wanted, registry, versions)
        for thread in threads:
            thread.join()
        ended = max(read.ended for read in reads)
        last = registry.generation()
        registry.promote(versions[1])
        until(lambda: min(feeds.generations(users)) == last + 1)
        registry.roll_back()
        everybody = until(lambda: min(feeds.generations(users)) == last + 2)
    after = seen_after(reads, roll_backs)
    return {
        "reads": {of: sum(read.of == of for read in reads) for of in ("http", "redis")},
        "failed": sum(not read.generation for read in reads),
        "mixtures": sum(read.generation > 0 and not read.whole for read in reads),
        "changes_of_champion": last,
        "roll_backs_timed": len(after["seen"]),
        "seconds": round(ended - began, 1),
        "roll_back_to_seen_seconds": quantiles(after["seen"]),
        "roll_back_to_last_stale_answer_seconds": quantiles(after["stale"]),
        "roll_back_to_everybody_ranked_seconds": round(everybody, 3),
        "users": USERS,
    }


def main(reads: Annotated[int, typer.Option(min=100, help="reads by all readers together")] = 10_000) -> None:
    """Read under load and say what came."""
    logs.setup(settings.load(), "hot_swap")
    torch.set_num_threads(1)
    result = measure(reads)
    print(json.dumps(result, indent=2))
    slowest = max(result["roll_back_to_seen_seconds"]["max"], result["roll_back_to_last_stale_answer_seconds"]["max"])  # type: ignore[index]
    if result["failed"] or result["mixtures"] or slowest >= 1:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
