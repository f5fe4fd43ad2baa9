"""Examples of an audience in a world that is never the same for long: creators come with their items and go again.

User u likes what creator k makes if u + k is even; nothing else of an item or a user tells what is liked.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch

from feed.catalogue import Item, User
from feed.events import Click, utc
from feed.examples import Example, Row
from feed.features import BatchState, FeatureSpace, FrozenItems
from feed.features.frozen import freeze_user
from feed.learning.learner import Learner
from feed.models.snapshot import Snapshot
from feed.models.two_tower import TwoTower
from tests.learning.taught import no_restart

NOW = 1.75e9
USERS, ALIVE, ITEMS_OF = 40, 8, 5
LIFE = 640  # examples from a creator's coming until its going
SHOWN = 6
EXAMPLES = 1600


class Churn(NamedTuple):
    """The world after all examples, what was known before the first, and the examples."""

    state: BatchState
    start: Snapshot
    log: list[Example]


def creators(n: int) -> range:
    """Who is alive at the nth example."""
    gone = n * ALIVE // LIFE
    return range(gone, gone + ALIVE)


@functools.cache
def churn(seed: int = 0) -> Churn:
    """Everything, made once."""
    rng = np.random.default_rng(seed)
    state = BatchState([_item(k, i, 0) for k in creators(0) for i in range(ITEMS_OF)], [User(user_id=u) for u in range(USERS)])
    space = FeatureSpace.fit(list(state.users.values()), state.items, NOW, {})
    torch.manual_seed(seed)
    model = TwoTower(space.user_spec, space.item_spec, space.sizes).eval()
    return Churn(state, Snapshot(model, space, {"learned_until": NOW}), [_example(n, state, rng) for n in range(EXAMPLES)])


def learner() -> Learner:
    """Before its first record."""
    return Learner.begin("v000001", churn().start, no_restart)


def right(of: Learner) -> float:
    """The share of (user, item they like, item they do not) that the published weights put right, of living creators that
    the first weights did not know."""
    state, start, _ = churn()
    new = [k for k in creators(EXAMPLES - 1) if not start.space.row("creator", f"k{k}")]
    rows = np.array([state.items.row(_id(k, i)) for k in new for i in range(ITEMS_OF)])
    with torch.no_grad():
        v = of.weights.average.item_vectors(of.space.item_inputs(state.items, rows, state.now))
        u = of.weights.average.user_vectors(of.space.user_inputs([state.user(str(u)) for u in range(USERS)], state.now))
    logits = (u @ v.T).numpy()
    liked = (np.arange(USERS)[:, None] + np.repeat(new, ITEMS_OF)) % 2 == 0
    return float(np.mean([(of[mine][:, None] > of[~mine]).mean() for of, mine in zip(logits, liked, strict=True)]))


def _id(creator: int, i: int) -> str:
    return f"{creator}-{i}"


def _item(creator: int, i: int, n: int) -> Item:
    return Item(item_id=_id(creator, i), category="c", creator_id=f"k{creator}", created_at=utc(_at(n)), title="")


def _at(n: int) -> float:
    return NOW + 60.0 * (n + 1)


def _example(n: int, state: BatchState, rng: np.random.Generator) -> Example:
    alive = creators(n)
    if n and alive != creators(n - 1):
        for i in range(ITEMS_OF):
            state.items.upsert(_item(alive[-1], i, n))
    user = int(rng.integers(USERS))
    frozen, shown = FrozenItems(state.items, _at(n)), rng.choice(ALIVE * ITEMS_OF, SHOWN, replace=False)
    of, rows = freeze_user(state.user(str(user)), _at(n)), []
    for place, (k, i) in enumerate((alive[int(j) // ITEMS_OF], int(j) % ITEMS_OF) for j in shown):
        liked = (user + k) % 2 == 0
        rows.append(Row(frozen[_id(k, i)], place, 0.1, 0.15, "random", {"view": 1, "click": 1} if liked else {"view": 1}))
        if liked:
            state.apply(Click(event_id=f"e{n}-{place}", user_id=str(user), occurred_at=utc(_at(n)), item_id=_id(k, i)))
    return Example(source=0, sequence=n, example_id=f"e{n}", at=_at(n), user=of, rows=tuple(rows))
