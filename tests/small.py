"""A small catalogue, its audience and an untrained model: enough for everything that does not judge the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import redis
import torch

from feed.catalogue import Item, User
from feed.events import Click, utc
from feed.features import BatchState, FeatureSpace, UserState
from feed.features.near import columns
from feed.io.recovery import Recovery
from feed.io.redis import CATALOGUE, WIPING, Change, FeatureStore, connect
from feed.models import snapshot as snapshots
from feed.models.snapshot import Snapshot
from feed.models.two_tower import NEAR, TwoTower
from feed.registry import Champion, Registry
from feed.wire import Position

NOW = 1.75e9
DAY = 86400.0


def item(k: int, created: float = NOW - DAY) -> Item:
    return Item(
        item_id=k,
        title=f"Title {k}",
        category=f"c{k % 5}",
        creator_id=f"k{k % 7}",
        tags=(f"t{k % 3}",),
        created_at=utc(created),
    )


def click(user: object, item_id: object, at: float = NOW - 60) -> Click:
    return Click(event_id=f"{user}-{item_id}", user_id=str(user), item_id=str(item_id), occurred_at=utc(at))


def world(users: int = 20, items: int = 120, clicks: int = 3) -> BatchState:
    """User u has clicked items u, u + 1, ...; every user stands at offset u of partition 0 of log "L"."""
    state = BatchState([item(k) for k in range(items)], [User(user_id=u, platform="web") for u in range(users)])
    for u in range(users):
        for k in range(clicks):
            state.apply(click(u, (u + k) % items))
        state.user(str(u))["position"] = {"topic_id": "L", "partition": 0, "offset": u}
    return state


def snapshot(state: BatchState, seed: int = 0, positives: Mapping[str, int] | None = None) -> Snapshot:
    """Random weights, spread enough that items and users differ; items with enough `positives` have a row of their own."""
    torch.manual_seed(seed)
    space = FeatureSpace.fit(list(state.users.values()), state.items, NOW, positives or {})
    model = TwoTower(space.user_spec, space.item_spec, space.sizes)
    torch.nn.init.normal_(model.mix, std=0.3)
    return Snapshot(model.eval(), space, {})


def logits(trained: Snapshot, state: BatchState, users: Sequence[UserState]) -> np.ndarray:
    """The model's logits at `NOW`, float64 (users, items), one pair at a time."""
    with torch.inference_mode():
        u = trained.model.user_vectors(trained.space.user_inputs(users, NOW)).double()
        v = trained.model.item_vectors(trained.space.item_inputs(state.items, None, NOW)).double()
    rows, found = np.arange(len(state.items)), np.zeros((len(u), len(v)))
    for k, user in enumerate(users):
        said = columns(state.items.nearby(user, NOW).at(rows))
        found[k] = [float(u[k] @ v[i]) + float(u[k, -NEAR:] @ torch.from_numpy(said[i]).double()) for i in rows]
    return found


def promote(path: Path, trained: Snapshot) -> Champion:
    """Make this model the champion of the registry in folder `path`."""
    registry = Registry(path)
    return registry.promote(
        registry.publish(lambda folder: snapshots.save(folder, trained.model, trained.space, {}, heads=trained.heads))
    )


def fill(url: str, state: BatchState) -> None:
    """Put an empty Redis into this state."""
    change = Change(position(1), users=state.users, items=state.items.by_id, newest=NOW)
    assert FeatureStore(connect(url)).apply(change, 0, "U", 0).done


def emptied(client: redis.Redis) -> str:
    """Empty Redis as the keeper does, so that the catalogue comes next; returns the new epoch."""
    recovery, store = Recovery(client), FeatureStore(client)
    assert recovery.begin(store.standing().epoch)
    epoch = store.standing().epoch
    assert recovery.wipe(epoch, 10.0)
    assert recovery.go_on(epoch, WIPING, CATALOGUE)
    return epoch


def position(offset: int, topic_id: str = "L") -> Position:
    return Position(topic_id, 0, offset)
