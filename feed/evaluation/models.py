"""The models that can be evaluated, by name, each with the grid it is tuned on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from feed.evaluation.baselines.ease import Ease, ItemKnn
from feed.evaluation.baselines.popular import Popular
from feed.evaluation.protocol import Recommender
from feed.models.mixture import Mixture

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """`build` makes one from parameters; `grid` has the values of each, the first one the starting point.

    `online`: its weights can learn as events come.
    """

    build: Callable[..., Recommender]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    online: bool = False


def _mixture(**options: Any) -> Recommender:
    return cast("Recommender", Mixture(**options))  # it reads the columns it needs of rows and catalogue


HALF_LIVES = (7.0, 0.05, 0.25, 1.0, 2.0, 4.0, 14.0, 30.0, 90.0)
DECAYS = (0.95, 0.8, 0.9, 0.98, 0.99, 1.0)

MODELS: Mapping[str, Model] = {
    "popular": Model(Popular),
    "decayed-popular": Model(Popular, {"half_life_days": HALF_LIVES}),
    "item-knn": Model(
        ItemKnn, {"decay": DECAYS, "shrink": (10.0, 0.0, 3.0, 30.0, 100.0), "neighbours": (200, 20, 50, 100, 500)}
    ),
    "ease": Model(Ease, {"decay": DECAYS, "ridge": (100.0, 10.0, 30.0, 300.0, 1000.0)}),
    "ease-prior": Model(
        Ease,
        {
            "prior": (0.05, 0.01, 0.02, 0.1, 0.2),
            "decay": DECAYS,
            "ridge": (100.0, 10.0, 30.0, 300.0, 1000.0),
            "half_life_days": HALF_LIVES,
        },
    ),
    "prior": Model(lambda: _mixture(covisitation=False), online=True),
    "prior-covisitation": Model(lambda: _mixture(), online=True),
}
