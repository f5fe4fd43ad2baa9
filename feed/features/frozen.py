"""Features as of one moment, as they travel in an example: raw, so that any feature space can read them later.

Ranking reads states through the same `freeze_user`, so what a model learns from is what it will be served.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from feed.events import Attribute, Id, Number, Text
from feed.features import items as item_features
from feed.features import user as user_features
from feed.features.items import ItemTable
from feed.features.near import SAID, TAKEN_BESIDE, Nearby
from feed.features.user import UserState, consumed

# bags and how many of their tokens are read, strongest first
BAGS = {"categories": 16, "creators": 16, "tags": 24, "recent": 50, "lately_categories": 8, "lately_tags": 12}
NEAREST = 64  # items of which a history says most
STRATUM, DRAWN = 64, (5, 5, 8, 8)  # items beside an organic engagement: taken before, near ones, popular ones, others
POPULARITY = item_features.NUMERIC.index("engagement_1d")
UNSAID = (0.0, 0.0, 0.0, 0.0)  # the one object that an encoder leaves out
Said = Annotated[float, Meta(ge=0, le=1e9)]  # by a history, see `feed.features.near`
Told = tuple[Said, Said, Said, Said]  # x, y, n, t
Weight = Annotated[float, Meta(ge=-100, le=100)]  # of a token in a bag
NearItem = tuple[str, Said, Said]  # its id, x and y
_BAG_FEATURES = {feature.name: feature for feature in user_features.USER_FEATURES if feature.name in BAGS}


class UserFeatures(Struct, frozen=True):
    """A user at one moment: `numeric` in the order of `feed.features.user.NUMERIC`; `bags`: weighted tokens, strongest first.

    `recent` among the bags: the newest positive first. `near`: the `NEAREST` items of which the user's history says most, with
    x and y of `feed.features.near`; of all others it counts as saying nothing. That does for drawn items and for
    rankings of the catalogue, not for what an example shows: learned from these alone, also with twice as many, a tenth of the
    quality is lost. So an example's rows have their own values.
    """

    user_id: Id
    profile: dict[str, Attribute]
    context: dict[str, Attribute]
    numeric: tuple[Number, ...]
    bags: dict[str, tuple[tuple[str, Weight], ...]]
    near: tuple[NearItem, ...] = ()


class ItemFeatures(Struct, frozen=True, omit_defaults=True):
    """An item at one moment: its content, and `numeric` in the order of `feed.features.items.NUMERIC`."""

    item_id: Id
    numeric: tuple[Number, ...]
    category: Text | None = None
    creator_id: Id | None = None
    tags: tuple[Text, ...] = ()
    attributes: dict[str, Attribute] = {}


def freeze_user(state: UserState, now: float) -> UserFeatures:
    """The user as of `now` (seconds since 1970), without `near`; shares nothing with `state` that an update would change."""
    return UserFeatures(
        user_id=state["user_id"],
        profile=dict(state["profile"]),
        context=dict(state["context"]),
        numeric=tuple(round(value, 5) for value in user_features.numeric_values(state, now)),
        bags={
            name: tuple((token, round(weight, 5)) for token, weight in _BAG_FEATURES[name].weights(state[name], now)[:length])
            for name, length in BAGS.items()
        },
    )


def nearby(near: Sequence[NearItem], row: Mapping[str, int]) -> Nearby:
    """A user's `near` by rows: of the items that have a `row`."""
    said = sorted((row[item_id], together, after, 0.0, 0.0) for item_id, together, after in near if item_id in row)
    values = np.array(said, np.float64).reshape(len(said), 1 + len(SAID))
    return Nearby(values[:, 0].astype(np.int64), values[:, 1:].astype(np.float32))


class FrozenItems:
    """Items of `table` as of `now` (seconds since 1970), on demand; the table must not change meanwhile."""

    def __init__(self, table: ItemTable, now: float) -> None:
        self._table, self._now = table, now
        self._numeric: np.ndarray | None = None
        self._by_popularity: np.ndarray | None = None  # rows, the most popular one first
        self._frozen: dict[str, ItemFeatures] = {}

    def __getitem__(self, item_id: str) -> ItemFeatures:
        """The item; one that the table does not have is known by its id only."""
        frozen = self._frozen.get(item_id)
        if frozen is None:
            frozen = self._frozen[item_id] = self._freeze(item_id)
        return frozen

    def nearby(self, state: UserState, at: float) -> Nearby:
        """What the user's history says at `at` (seconds since 1970)."""
        return self._table.nearby(state, at)

    def near(self, said: Nearby, item_ids: Sequence[str]) -> tuple[tuple[NearItem, ...], list[Told]]:
        """What the history has `said` of the `NEAREST` items of which it says most (ties by id), and of the given ones."""
        rows = [self._table.row(item_id) for item_id in item_ids]
        own = _rounded(said.at(np.array([-1 if row is None else row for row in rows], np.int64)))
        most, strongest = said.said[:, 0], said.rows[said.said[:, 0] > 0]
        if len(most) > NEAREST:
            least = np.partition(most, -NEAREST)[-NEAREST] - 1e-5  # with all that may be as much, rounded
            strongest = said.rows[(most >= least) & (most > 0)]
        named = zip(strongest.tolist(), _rounded(said.at(strongest)), strict=True)
        entries = [(self._table.ids[row], together, after) for row, (together, after, *_) in named]
        return tuple(sorted(entries, key=lambda entry: (-entry[1], entry[0]))[:NEAREST]), own

    def draw(self, state: UserState, said: Nearby, item_id: str, seed: int) -> list[tuple[ItemFeatures, float]]:
        """Different items that the user could be shown now in place of `item_id`, each with how many it stands for.

        `said`: by the user's history, at the time of the engagement.

        By chance, from four strata as in `DRAWN`: of what the user took before (for versions that show it again), of the
        `STRATUM` others of which the history says most, of the `STRATUM` that are then most popular, and of the rest. Drawn
        from all alike, the items that compete with what is taken are hardly ever among so few, and weights that are learned
        from them lose a tenth of the quality on some logs.
        """
        table = self._table
        if self._by_popularity is None:
            self._by_popularity = np.argsort(-self._numbers()[:, POPULARITY], kind="stable")
        showable = table.showable(self._now)
        possible = showable.copy()
        possible[[row for other in (item_id, *consumed(state)) if (row := table.row(other)) is not None]] = False
        there = showable[said.rows] & (said.rows != table.row(item_id))
        own = said.rows[(said.said[:, TAKEN_BESIDE] > 0) & there]
        possible[own] = False
        own = np.setdiff1d(own, [row for other in state["hidden"]["ids"] if (row := table.row(other)) is not None])
        near = said.among(possible)
        nearest = near.rows[np.argsort(-near.said[:, 0], kind="stable")[:STRATUM]]
        possible[nearest] = False
        popular = self._by_popularity[possible[self._by_popularity]][:STRATUM]
        possible[popular] = False
        rng, found = np.random.default_rng(seed), []
        for stratum, n in zip((own, nearest, popular, np.flatnonzero(possible)), DRAWN, strict=True):
            drawn = rng.permutation(stratum)[:n].tolist()
            found += [(self[table.ids[row]], round(len(stratum) / len(drawn), 3)) for row in drawn]
        return found

    def _freeze(self, item_id: str) -> ItemFeatures:
        row = self._table.row(item_id)
        if row is None:
            return ItemFeatures(item_id, _UNSEEN)
        item = self._table.item(row)
        numeric = tuple(self._numbers()[row].tolist())
        return ItemFeatures(item_id, numeric, item.category, item.creator_id, item.tags, dict(item.attributes))

    def _numbers(self) -> np.ndarray:
        if self._numeric is None:
            self._numeric = np.round(self._table.numeric(self._now), 5)
        return self._numeric


def _rounded(values: np.ndarray) -> list[Told]:
    found = np.round(values.astype(np.float64), 5).tolist()
    return [(x, y, n, t) if x or y or n else UNSAID for x, y, n, t in found]


_UNSEEN = (-1.0,) + (0.0,) * (len(item_features.NUMERIC) - 1)  # the age is unknown
