"""`make bench`: how fast events become features and states become feeds, each beside a limit measured in the same run.

Prints ratios first; writes everything to var/bench.json. The machine's noise is in the figures: compare ratios, not runs.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from deploy import embedded
from feed import wire
from feed.catalogue import Item
from feed.events import ENGAGEMENTS, Event, new_event_id, utc
from feed.features import BatchState, FeatureSpace, ItemTable
from feed.io.redis import FeatureStore, connect
from feed.models.snapshot import Snapshot
from feed.models.two_tower import WIDTH, TwoTower
from feed.ranking.arms import Policy
from feed.ranking.standard import Ranker
from feed.wire import Position
from stream_processors.folder import Folder

USERS, ITEMS, EVENTS, BATCH, ROUNDS = 1000, 5000, 20_000, 2_000, 3
OUT = Path(__file__).parents[1] / "var" / "bench.json"


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def some_events() -> Iterator[Event]:
    """Engagements of all kinds, five seconds apart."""
    draw = random.Random(0)
    for k in range(EVENTS):
        at = utc(1.7e9 + 5 * k)
        kind = draw.choice(list(ENGAGEMENTS.values()))
        made = kind(
            event_id=new_event_id(at, draw),
            user_id=str(draw.randrange(USERS)),
            item_id=str(draw.randrange(ITEMS)),
            occurred_at=at,
        )
        yield made


def features(redis_url: str, events: list[Event]) -> dict[str, float]:
    """Bytes to features in Redis, beside decoding the same bytes and nothing else."""
    client = connect(redis_url)
    records = [SimpleNamespace(offset=i, key=b"", value=wire.encode(event)) for i, event in enumerate(events)]

    def decode() -> None:
        for record in records:
            wire.decode_event(record.value)

    def fold() -> None:
        client.flushall()
        store, folder, table = FeatureStore(client), Folder(1, 300.0, 1800.0), ItemTable()
        for start in range(0, EVENTS, BATCH):
            part = records[start : start + BATCH]
            change = folder.fold(wire.INTERACTIONS, part, Position("I", 0, start + BATCH), store, table)
            if not store.apply(change, start, "U", 0).done:
                raise RuntimeError("not applied")

    limit, ours = EVENTS / best(decode), EVENTS / best(fold)

    def bytes_per(*keys: str) -> int:
        """Of all keys that a user or an item has, in Redis's memory."""
        sizes = [sum(client.memory_usage(f"{key}:{i}", samples=0) or 0 for key in keys) for i in range(200)]
        return int(np.mean(sizes))

    return {
        "ratio_to_decoding": ours / limit, "events_per_second": ours, "decoded_per_second": limit,
        "bytes_per_user": bytes_per("user"), "bytes_per_item": bytes_per("item", "near"),
    }  # fmt: skip


def ranking(events: list[Event]) -> dict[str, float]:
    """Feeds of all users, beside the one matrix product that they need at the least."""
    torch.set_num_threads(1)
    state = BatchState([Item(item_id=str(i), category=f"c{i % 20}", creator_id=str(i % 300)) for i in range(ITEMS)])
    for event in events:
        state.apply(event)
    states: list[Any] = list(state.users.values())
    space = FeatureSpace.fit(states, state.items, state.now, {})
    model = TwoTower(space.user_spec, space.item_spec, space.sizes).eval()
    ranker = Ranker(Snapshot(model, space, {}), "bench", 1, state.items, Policy(), state.now)
    users, items = torch.rand(len(states), WIDTH), torch.rand(WIDTH, ITEMS)
    product = best(lambda: users @ items)
    ours = best(lambda: ranker.rank(states, state.now))
    refresh = best(lambda: ranker.refresh(state.now))
    return {
        "ratio_to_matrix_product": product / ours, "users_per_second": len(states) / ours,
        "milliseconds_per_user": 1000 * ours / len(states), "refresh_milliseconds": 1000 * refresh,
    }  # fmt: skip


def main() -> None:
    """Run all."""
    events = list(some_events())
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.start_redis(embedded.free_port(), Path(folder)) as server,
    ):
        result = {"features": features(f"redis://{server.address}/0", events), "ranking": ranking(events)}
    for part, figures in result.items():
        for name, value in figures.items():
            print(f"{part:10} {name:26} {value:12,.4g}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
