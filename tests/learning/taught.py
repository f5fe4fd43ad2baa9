"""Examples of an audience whose preferences are known: user u likes items of category u % 2 (checker-board)."""

import functools

import numpy as np
import torch

from feed.catalogue import Item, User
from feed.events import utc
from feed.examples import Example, Row
from feed.features import BatchState, FeatureSpace, FrozenItems
from feed.features.frozen import freeze_user
from feed.learning.learner import Learner
from feed.models.snapshot import Snapshot
from feed.models.two_tower import TwoTower, scores

NOW = 1.75e9
USERS, ITEMS = 40, 60
EARLIER = NOW - 1000.0  # until then the first weights know everything


@functools.cache
def world() -> tuple[BatchState, Snapshot]:
    """The audience and the first, untrained weights."""
    items = [
        Item(item_id=k, category=f"c{k % 2}", creator_id=f"k{k % 6}", created_at=utc(NOW - 9e5 + k), title=str(k))
        for k in range(ITEMS)
    ]
    state = BatchState(items, [User(user_id=u, platform=("ios", "web")[u % 2]) for u in range(USERS)])
    torch.manual_seed(7)
    space = FeatureSpace.fit(list(state.users.values()), state.items, NOW, {})
    model = TwoTower(space.user_spec, space.item_spec, space.sizes).eval()
    return state, Snapshot(model, space, {"learned_until": EARLIER})


def example(
    n: int, *, rows: int = 6, flipped: bool = False, organic: bool = False, at: float | None = None, source: int = 0
) -> Example:
    """The nth example: its user takes what is of their category (flipped: of the other), looks at the first four."""
    state, _ = world()
    rng = np.random.default_rng(n)
    user = int(rng.integers(USERS))
    frozen = FrozenItems(state.items, NOW)
    labels = []
    shown = rng.choice(ITEMS, rows, replace=False).tolist()
    for place, k in enumerate(shown):
        liked = (k % 2 == user % 2) != flipped
        looked = place < 4
        labels.append({"view": 1, "click": 1} if liked and looked else {"view": 1} if looked else {})
    made = tuple(Row(frozen[str(k)], p, 0.1, 0.5, "model", of) for p, (k, of) in enumerate(zip(shown, labels, strict=True)))
    return Example(
        source=source, sequence=n, example_id=f"e{n}", at=NOW + n if at is None else at,
        user=freeze_user(state.user(str(user)), NOW), rows=made, organic=organic,
    )  # fmt: skip


def learner(seed: int = 0) -> Learner:
    """Before its first record."""
    _, start = world()
    return Learner.begin("v000001", start, no_restart, seed)


def no_restart(version: str) -> tuple[str, Snapshot]:
    raise AssertionError(f"nobody asked for {version}")


def right(of: Learner, flipped: bool = False) -> float:
    """The share of (user, item of their category, item of the other) that the published weights put right."""
    state, _ = world()
    space, model = of.space, of.weights.average
    with torch.no_grad():
        u = model.user_vectors(space.user_inputs([state.user(str(u)) for u in range(USERS)], NOW))
        v = model.item_vectors(space.item_inputs(state.items, None, NOW))
        logits = scores(u, v, [state.items.nearby(state.user(str(u)), NOW) for u in range(USERS)]).numpy()
    shares = []
    for user in range(USERS):
        mine = [k for k in range(ITEMS) if (int(state.items.ids[k]) % 2 == user % 2) != flipped]
        others = [k for k in range(ITEMS) if k not in mine]
        shares.append((logits[user, mine][:, None] > logits[user, others]).mean())
    return float(np.mean(shares))


def bits(of: Learner) -> list[bytes]:
    """Everything that is learned, as bytes."""
    weights = [w for model in (of.weights.live, of.weights.average) for w in model.state_dict().values()]
    return [t.numpy().tobytes() for t in (*weights, *of.weights.optimiser.tensors().values())]
