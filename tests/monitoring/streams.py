"""Examples as a served world would leave them, with rates that are known."""

from collections.abc import Callable, Iterator

import numpy as np

from feed.examples import Example, Row
from feed.features.frozen import BAGS, ItemFeatures, UserFeatures
from feed.features.items import NUMERIC as ITEM_NUMERIC
from feed.features.user import NUMERIC as USER_NUMERIC

START = 1.75e9
STEP = 30.0  # seconds between two requests
LOOKED = 5  # the first places; a click needs a look
COUNTRIES = ("DE", "US", "IN", "DE", "US", "IN", "DE", "US", "IN", "BR")


def stream(
    n: int,
    rate: Callable[[int, Example], float],
    *,
    seed: int = 0,
    popular: Callable[[int], float] = lambda k: 0.15,
    popular_every: int = 10,
    version: Callable[[int], str] = lambda k: "v000001",
    dwell: Callable[[int], float] = lambda k: 2.0,
    user_dwell: Callable[[int], float] = lambda k: 5.0,
) -> Iterator[Example]:
    """n requests, one in `popular_every` popular; `rate(k, example)`: P(click | look) of request k in the learned arm."""
    draw = np.random.default_rng(seed)
    for k in range(n):
        user = int(draw.integers(200))
        arm = "popular" if k % popular_every == 0 else "learned"
        bare = Example(
            source=0, sequence=k, example_id=str(k), at=START + STEP * k, user=_user(user, user_dwell(k), draw), rows=(),
            arm=arm, model_version=version(k),
        )  # fmt: skip
        p = popular(k) if arm == "popular" else rate(k, bare)
        yield Example(
            **{name: getattr(bare, name) for name in bare.__struct_fields__} | {"rows": _rows(arm, p, dwell(k), draw)}
        )


def _user(user: int, dwell: float, draw: np.random.Generator) -> UserFeatures:
    values = dict.fromkeys(USER_NUMERIC, 0.0) | {
        "total_interactions": 3.0 if user % 7 == 0 else 80.0,
        "click_rate": 0.2 + 0.05 * draw.normal(),
        "like_rate": 0.05 + 0.01 * draw.normal(),
        "average_dwell_seconds": dwell + draw.normal(),
    }
    profile = {"platform": ("ios", "web")[user % 2], "country": COUNTRIES[user % 10]}
    return UserFeatures(str(user), profile, {}, tuple(values.values()), dict.fromkeys(BAGS, ()))


def _rows(arm: str, p: float, dwell: float, draw: np.random.Generator) -> tuple[Row, ...]:
    chance, quality, seconds = draw.random((3, 10)).tolist(), draw.normal(0.1, 0.02, 10).tolist(), draw.exponential(dwell, 10)
    items, rows = draw.integers(1000, size=10).tolist(), []
    for place in range(10):
        numeric = tuple(quality[place] if name == "click_rate" else 0.0 for name in ITEM_NUMERIC)
        item = ItemFeatures(str(items[place]), numeric, category=f"c{int(4 * chance[1][place])}")
        labels = {} if place >= LOOKED else {"view": 1, "click": 1} if chance[0][place] < p else {"view": 1}
        score = 0.5 + 0.4 * chance[2][place]
        source = "model" if arm == "learned" else arm
        rows.append(Row(item, place, score, 1.0, source, labels, round(1000 * seconds[place]) if labels else 0))
    return tuple(rows)
