"""Requests of people whose clicks follow a known model: what is better is known beforehand."""

import msgspec
import numpy as np

from feed.examples import Example, Row
from feed.features import FrozenItems, freeze_user
from feed.models.two_tower import scores
from tests.small import NOW, snapshot, world

STATE = world(users=120, items=60)
ITEMS = FrozenItems(STATE.items, NOW)
ALL_ITEMS = [ITEMS[str(k)] for k in range(60)]
IDS = [str(k) for k in range(60)]
USERS, NEAR = [], []  # of each user what the history says of all items
for _u in range(120):
    _nearest, _near = ITEMS.near(ITEMS.nearby(STATE.user(str(_u)), NOW), IDS)
    USERS.append(msgspec.structs.replace(freeze_user(STATE.user(str(_u)), NOW), near=_nearest))
    NEAR.append(_near)
TRUTH = snapshot(STATE, seed=0)  # whom the clicks follow
TRUTH.model.mix.data.fill_(0.2)
OTHER = snapshot(STATE, seed=3)  # knows nothing of them

_users = TRUTH.model.user_vectors(TRUTH.space.frozen_users(USERS)).detach()
_items = TRUTH.model.item_vectors(TRUTH.space.frozen_items(ALL_ITEMS)).detach()
_scores = scores(_users, _items, [STATE.items.nearby(STATE.user(str(u)), NOW) for u in range(120)]).numpy()
CHANCE = 1 / (1 + np.exp(2.5 - 1.5 * (_scores - _scores.mean()) / _scores.std()))  # (120, 60): of a click


def requests(n, seed=0, rows=4, source="random", start=0, at=NOW, organic=False, chance=CHANCE):
    """`n` examples, a second apart from `at` on, numbered from `start`; their items are drawn uniformly."""
    rng = np.random.default_rng([seed, start])
    return [_request(rng, start + k, rows, source, at + k, organic, chance) for k in range(n)]


def _request(rng, number, rows, source, at, organic, chance):
    u = int(rng.integers(120))
    items = rng.choice(60, rows, replace=False)
    clicked = rng.random(rows) < chance[u, items]
    if organic:
        items[0] = rng.choice(60, p=chance[u] ** 3 / (chance[u] ** 3).sum())
        clicked = np.arange(rows) == 0
    told = {} if organic else {"propensity": 1 / 60, "source": source}
    return Example(
        source=0, sequence=number, example_id=str(number), at=at, user=USERS[u], organic=organic, arm="learned",
        rows=tuple(
            Row(ALL_ITEMS[k], position=place, labels={"click": 1} if click else {}, near=NEAR[u][k], **told)
            for place, (k, click) in enumerate(zip(items, clicked, strict=True))
        ),
    )  # fmt: skip
