"""The models that can be evaluated, by name, each with the grid it is tuned on."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from feed.evaluation.baselines.ease import Ease, ItemKnn
from feed.evaluation.baselines.factors import Als, Bpr
from feed.evaluation.baselines.naive import NaiveTwoTower
from feed.evaluation.baselines.own import OwnFavourites
from feed.evaluation.baselines.popular import Popular
from feed.evaluation.baselines.sasrec import SasRec
from feed.evaluation.baselines.weighted import prior, prior_covisitation
from feed.evaluation.protocol import Recommender

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """`build` makes one from parameters; `grid` has the values of each, the first one the starting point.

    `online`: its weights can learn as events come.
    """

    build: Callable[..., Recommender]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    online: bool = False

    def parameters(self) -> dict[str, Any]:
        """The type of each parameter that `build` takes, by name."""
        return {one.name: one.annotation for one in inspect.signature(self.build).parameters.values()}


HALF_LIVES = (7.0, 0.05, 0.25, 1.0, 2.0, 4.0, 14.0, 30.0, 90.0)
DECAYS = (0.95, 0.6, 0.7, 0.8, 0.9, 0.98, 0.99, 1.0)

MODELS: Mapping[str, Model] = {
    "popular": Model(Popular),
    "decayed-popular": Model(Popular, {"half_life_days": HALF_LIVES}),
    "own-favourites": Model(OwnFavourites, {"half_life_days": HALF_LIVES}),
    "item-knn": Model(
        ItemKnn,
        {
            "decay": DECAYS,
            "balance": (0.5, 0.3, 0.4, 0.6, 0.7, 0.8),
            "shrink": (10.0, 0.0, 3.0, 30.0, 100.0),
            "neighbours": (200, 20, 50, 100, 500, 2000),
        },
    ),
    "ease": Model(Ease, {"decay": DECAYS, "ridge": (100.0, 10.0, 30.0, 300.0, 1000.0)}),
    "ease-prior": Model(
        Ease,
        {
            "prior": (0.05, 0.002, 0.005, 0.01, 0.02, 0.1, 0.2),
            "decay": DECAYS,
            "ridge": (100.0, 10.0, 30.0, 300.0, 1000.0),
            "half_life_days": HALF_LIVES,
        },
    ),
    "als": Model(
        Als,
        {
            "confidence": (5.0, 1.0, 2.0, 10.0, 20.0),
            "ridge": (1.0, 0.01, 0.1, 10.0, 50.0),
            "factors": (64, 16, 32, 128),
            "decay": DECAYS,
        },
    ),
    "bpr": Model(
        Bpr,
        {
            "epochs": (100, 30, 300),
            "rate": (0.05, 0.01, 0.1),
            "ridge": (0.01, 0.001, 0.05),
            "factors": (64, 16, 32, 128),
            "fold_rate": (0.5, 0.0, 0.1, 2.0, 5.0, 10.0),
        },
    ),
    "sasrec": Model(SasRec, {"epochs": (30, 10, 60), "dropout": (0.5, 0.2), "width": (64, 128), "layers": (2, 1)}),
    "naive-two-tower": Model(
        NaiveTwoTower,
        {"epochs": (10, 2, 5, 20), "rate": (1e-3, 3e-4, 3e-3), "width": (32, 8), "online_rate": (1e-3, 1e-4, 3e-3)},
        online=True,
    ),
    "prior": Model(prior, online=True),
    "prior-covisitation": Model(prior_covisitation, online=True),
}

# least and most of each parameter, whichever model has it
BOUNDS: Mapping[str, tuple[float, float]] = {
    "balance": (0, 1),
    "confidence": (1e-3, 1_000_000),
    "decay": (0, 1),
    "dropout": (0, 0.99),
    "epochs": (1, 10_000),
    "factors": (1, 2048),
    "fold_rate": (0, 1000),
    "half_life_days": (1e-4, 1_000_000),
    "layers": (1, 16),
    "neighbours": (1, 1_000_000),
    "online_rate": (0, 1),
    "prior": (0, 1000),
    "rate": (0, 1),
    "ridge": (0, 1_000_000_000),
    "seed": (0, 2**32 - 1),
    "shrink": (0, 1_000_000_000),
    "width": (1, 2048),
}
