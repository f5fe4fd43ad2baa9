"""The simulated world: its catalogue, its people, and what only it knows of both. Same seed and sizes, same world.

What anybody may know is an `Item` or a `User`. What is hidden follows from the seed, the id and the public part, so that an
item or user which was made by an earlier run is known again when it is met. Row 0 of every taste stands for what the world has
no opinion about; logits are the unit of everything hidden (see `producers.behaviour`).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from zlib import crc32

import numpy as np

from feed.catalogue import Item, User
from feed.events import utc
from producers import names
from producers.names import CATEGORIES, DEVICE_NAMES, GENERAL_TAGS

KIND = "simulated world"
EPOCH = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
DAY = 86_400.0
HISTORY_DAYS = 28  # the generated log covers this much, from the epoch on
BEFORE_DAYS = 60  # items are created from this long before the epoch until the log's end
ITEMS_PER_CREATOR = 12
LIKED_CATEGORIES, DISLIKED_CATEGORIES = 3, 3
LIKED_TAGS, LIKED_CREATORS = 3, 3  # of each liked category
# How much more closely turned tastes follow the new fashion than tastes did the old one: a standard deviation of 1.4, as people
# differ. With 1 everybody turns to something else, and nothing can be learned of one person from another: in one world,
# forgetting at that instant whatever was known of those who turned, and only of them, was worth no more than 2 % of the best.
FASHION = 4.0
LATENT = 4  # dimensions of the part of taste that no attribute explains

CATEGORY_NAMES = tuple(CATEGORIES)
TAG_NAMES = (*(tag for tags in CATEGORIES.values() for tag in tags), *GENERAL_TAGS)
CATEGORY_ROW = {name: i for i, name in enumerate(CATEGORY_NAMES, 1)}
TAG_ROW = {name: i for i, name in enumerate(TAG_NAMES, 1)}
TAGS_READ = 4  # further tags of an item mean nothing to anybody


class World:
    """Columns over items (n rows) and users (m rows); rows keep their place, new ones are appended.

    Items: `created` float64 (n,) seconds since 1970; `category`, `creator` int64 (n,); `tags` int64 (n, 4), 0 = none;
    `quality` float64 (n,); `latent` float64 (n, 4). Users: `tastes`, m of them; `activity` (m,) visits relative to the average;
    `peak` (m,) local hour at which they are most likely to come; `offset` (m,) hours ahead of UTC; `joined` (m,) seconds since
    1970. `description` says which world it is.
    """

    def __init__(self, users: int = 1000, items: int = 5000, seed: int = 0) -> None:
        self.seed = seed
        self.description = {"kind": KIND, "seed": seed, "users": users, "items": items, "epoch": utc(EPOCH).isoformat()}
        self.items: list[Item] = []
        self.users: list[User] = []
        self.item_row: dict[str, int] = {}
        self.user_row: dict[str, int] = {}
        self._start_columns()
        draw = np.random.default_rng([seed, users, items])
        n, c = len(CATEGORY_NAMES), max(2 * len(CATEGORY_NAMES), items // ITEMS_PER_CREATOR)
        self.trend = draw.normal(0, 0.35, n)  # what is liked in general
        self._lean: dict[str, Mapping[str, np.ndarray]] = {
            field: {value: draw.normal(0, spread, n) for value in values}
            for field, values, spread in (
                ("age_group", names.AGE_GROUPS, 0.8),
                ("gender", names.GENDERS, 0.6),
                ("country", names.COUNTRIES, 0.5),
            )
        }
        self.creator_category = np.concatenate([[0], np.arange(2 * n) % n, draw.choice(n, c - 2 * n, p=softmax(self.trend))])
        self._creator_share = np.concatenate([[0.0], draw.lognormal(0, 0.7, c)])
        self._creator_share /= self._creator_share.sum()
        self.creator_quality = np.concatenate([[0.0], draw.normal(0, 0.2, c)])
        self.category_hour = np.concatenate([[0.0], draw.uniform(0, 24, n)])  # local hour at which it is liked most
        self.category_device = np.concatenate([np.zeros((len(DEVICE_NAMES), 1)), draw.normal(0, 0.2, (3, n))], axis=1)
        created = EPOCH + draw.uniform(-BEFORE_DAYS, HISTORY_DAYS, items) * DAY
        self.add_items([self._item(str(i), at, draw) for i, at in zip(draw.permutation(items), created, strict=True)])
        self.add_users([self._user(str(i), EPOCH - draw.uniform(0, 365) * DAY, draw) for i in range(users)])

    def _start_columns(self) -> None:
        self.created, self.quality = np.zeros(0), np.zeros(0)
        self.category, self.creator = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.tags, self.latent = np.zeros((0, TAGS_READ), np.int64), np.zeros((0, LATENT))
        self.tastes: list[Taste] = []
        self.activity, self.peak, self.offset, self.joined = np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)

    def new_item(self, at: float, draw: np.random.Generator) -> Item:
        """One more item, created at `at` (seconds since 1970)."""
        item = self._item(_next(self.item_row), at, draw)
        self.add_items([item])
        return item

    def new_user(self, at: float, draw: np.random.Generator) -> User:
        """One more user, signed up at `at` (seconds since 1970)."""
        user = self._user(_next(self.user_row), at, draw)
        self.add_users([user])
        return user

    def add_items(self, items: Sequence[Item]) -> None:
        """Let the world have these items; those it has already stay as they are. Unknown categories, tags and creators mean
        nothing to anybody."""
        items = [item for item in items if item.item_id not in self.item_row]
        hidden = [np.random.default_rng([self.seed, 1, crc32(item.item_id.encode())]) for item in items]
        creators = np.array([self._creator_row(item.creator_id) for item in items], np.int64)
        tags = [([TAG_ROW.get(tag, 0) for tag in item.tags] + [0] * TAGS_READ)[:TAGS_READ] for item in items]
        for row, item in enumerate(items, len(self.items)):
            self.item_row[item.item_id] = row
        self.items.extend(items)
        self.created = np.append(self.created, [-np.inf if item.created is None else item.created for item in items])
        self.category = np.append(self.category, [CATEGORY_ROW.get(item.category or "", 0) for item in items]).astype(np.int64)
        self.creator = np.append(self.creator, creators)
        self.tags = np.concatenate([self.tags, np.array(tags, np.int64).reshape(-1, TAGS_READ)])
        self.quality = np.append(self.quality, [d.normal(0, 0.5) for d in hidden] + self.creator_quality[creators])
        self.latent = np.concatenate([self.latent, np.array([d.normal(0, 1, LATENT) for d in hidden]).reshape(-1, LATENT)])

    def add_users(self, users: Sequence[User]) -> None:
        """Let the world have these users; those it has already stay as they are."""
        users = [user for user in users if user.user_id not in self.user_row]
        for row, user in enumerate(users, len(self.users)):
            self.user_row[user.user_id] = row
        self.users.extend(users)
        hidden = [np.random.default_rng([self.seed, 2, crc32(user.user_id.encode())]) for user in users]
        self.tastes.extend(self._taste(user, self.trend, draw) for user, draw in zip(users, hidden, strict=True))
        self.activity = np.append(self.activity, [d.lognormal(-0.18, 0.6) for d in hidden])
        self.peak = np.append(self.peak, [d.normal(20 if d.random() < 0.8 else 9, 2) % 24 for d in hidden])
        self.offset = np.append(self.offset, [names.UTC_OFFSET.get(user.country or "", 0) for user in users])
        joined = [-np.inf if user.signed_up_at is None else user.signed_up_at.timestamp() for user in users]
        self.joined = np.append(self.joined, joined)

    def drift(self, share: float, draw: np.random.Generator) -> np.ndarray:
        """A share of the users, drawn at random, turn to what is newly in fashion: other categories than were liked in general.

        Returns their rows.
        """
        moved = np.flatnonzero(draw.random(len(self.users)) < share)
        trend = FASHION * draw.permutation(self.trend)
        for row in moved:
            self.tastes[row] = self._taste(self.users[row], trend, draw)
        return moved

    def _taste(self, user: User, trend: np.ndarray, draw: np.random.Generator) -> "Taste":
        n = len(CATEGORY_NAMES)
        lean = trend + sum((self._lean[f].get(getattr(user, f) or "", np.zeros(n)) for f in self._lean), np.zeros(n))
        order = np.argsort(lean + draw.gumbel(size=n))  # Gumbel-top-k: without replacement, in proportion to exp(lean)
        category, tag, creator = np.zeros(n + 1), np.zeros(len(TAG_NAMES) + 1), np.zeros(len(self.creator_category))
        category[1:] = draw.normal(-0.4, 0.2, n)
        category[1 + order[:DISLIKED_CATEGORIES]] -= 0.8
        for liked in order[-LIKED_CATEGORIES:]:
            category[1 + liked] = draw.uniform(1.2, 2.0)
            own = [TAG_ROW[name] for name in CATEGORIES[CATEGORY_NAMES[liked]]]
            tag[draw.choice(own, LIKED_TAGS, replace=False)] = draw.uniform(0.5, 1.0, LIKED_TAGS)
            creators = np.flatnonzero(self.creator_category == liked)
            creators = creators[creators > 0]
            chosen = draw.choice(creators, min(LIKED_CREATORS, len(creators)), replace=False)
            creator[chosen] = draw.uniform(0.6, 1.2, len(chosen))
        general = [TAG_ROW[name] for name in GENERAL_TAGS]
        tag[draw.choice(general, 2, replace=False)] = draw.uniform(0.3, 0.7, 2)
        return Taste(category, tag, creator, draw.normal(0, 0.15, LATENT))

    def _item(self, item_id: str, at: float, draw: np.random.Generator) -> Item:
        creator = int(draw.choice(len(self._creator_share), p=self._creator_share))
        main = self.creator_category[creator] if draw.random() < 0.85 else draw.integers(len(CATEGORY_NAMES))
        category = CATEGORY_NAMES[main]
        own = draw.choice(CATEGORIES[category], draw.integers(1, 4), replace=False)
        tags = (*own, *draw.choice(GENERAL_TAGS, 1))
        return Item(
            item_id=item_id,
            title=f"{category.capitalize()} {draw.choice(names.NOUNS)} {item_id}",
            created_at=utc(round(at)),
            category=category,
            tags=tuple(map(str, tags)),
            creator_id=str(creator - 1),
        )

    def _user(self, user_id: str, at: float, draw: np.random.Generator) -> User:
        def one_of(shares: Mapping[str, float]) -> str:
            return str(draw.choice(list(shares), p=list(shares.values())))

        return User(
            user_id=user_id,
            signed_up_at=utc(round(at)),
            platform=one_of(names.PLATFORMS),
            country=one_of(names.COUNTRIES),
            age_group=one_of(names.AGE_GROUPS),
            gender=one_of(names.GENDERS),
        )

    def _creator_row(self, creator_id: str | None) -> int:
        known = creator_id is not None and creator_id.isdecimal() and int(creator_id) < len(self._creator_share) - 1
        return int(creator_id) + 1 if creator_id is not None and known else 0


class Taste:
    """What one person likes: logits by category (21,), tag (tags + 1,), creator (creators + 1,), and a direction (4,)."""

    __slots__ = ("category", "creator", "latent", "tag")

    def __init__(self, category: np.ndarray, tag: np.ndarray, creator: np.ndarray, latent: np.ndarray) -> None:
        self.category, self.tag, self.creator, self.latent = category, tag, creator, latent


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum exp(x)."""
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def _next(known: Iterable[str]) -> str:
    return str(1 + max((int(i) for i in known if i.isdecimal()), default=-1))
