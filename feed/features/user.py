"""The one list of user features: each is one object with both halves, event -> state and state -> value.

A user's state is one JSON value, `{"user_id": ..., feature name: that feature's own part, ...}`. Values are raw and
readable (counts, shares, hours); `feed.features.space` turns them into model inputs.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple, TypeGuard

import numpy as np

from feed.catalogue import Item, User
from feed.events import COMMON, NEGATIVES, POSITIVES, TRAITS, Engagement, Event, Hide, View, kind
from feed.features import bloom

UserState = dict[str, Any]

SEEN = 1000  # consumed items remembered: "unique items" is exact, and nothing is shown again, up to here
HIDDEN = 256  # hidden items remembered by their ids; older ones stay hidden by a Bloom filter
RECENT = 50
POSITIVE_ITEMS = 256  # items of positives that are remembered with times and time of the last
SAME_OCCASION = 1800.0  # seconds from one positive to the next with the same item that still count as one: clicked, then liked
EVENTS_KNOWN = 64  # ids of a user's newest events that are remembered: one that comes again within so many counts once
PROFILE = ("platform", "country", "age_group", "gender")
HOUR = 3600.0
DAY = 24 * HOUR


class UserFeature(ABC):
    """What is known of a user in one respect. `update` must depend on nothing but its arguments."""

    name: ClassVar[str]
    values: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def start(self) -> Any:
        """This feature's part of a new user's state (JSON)."""

    @abstractmethod
    def update(self, part: Any, event: Event, items: Mapping[str, Item]) -> Any:
        """The part after `event`; `items` are the known items by id."""

    def numeric(self, part: Any, now: float) -> Sequence[float]:
        """The values named in `values`, as of `now` (seconds since 1970)."""
        return ()

    def weights(self, part: Any, now: float) -> Sequence[tuple[str, float]]:
        """Weighted tokens (items, categories, ...), strongest first, for features that are bags."""
        return ()


class Counts(UserFeature):
    """Events by kind: total interactions (engagements) and the share of each common kind among them.

    Kinds of one's own are in the total alone, so that versions have the same columns whatever FEED_KINDS names.
    """

    name = "events"
    values = ("total_interactions", "requests", *(f"{k.name}_rate" for k in COMMON))

    def start(self) -> dict[str, int]:
        """No events."""
        return {}

    def update(self, part: dict[str, int], event: Event, items: Mapping[str, Item]) -> dict[str, int]:
        """One more of this kind."""
        part[kind(event)] = part.get(kind(event), 0) + 1
        return part

    def numeric(self, part: dict[str, int], now: float) -> Sequence[float]:
        """Total of engagements, number of requests, n_kind / total for each common kind (0 without any)."""
        requests = part.get("impression", 0)
        total = sum(part.values()) - requests
        return (total, requests, *(part.get(k.name, 0) / total if total else 0.0 for k in COMMON))


class EventIds(UserFeature):
    """The ids of the user's newest `EVENTS_KNOWN` events, oldest first, each as 48 bits of its hash in 8 characters.

    A new event is taken for one of them by chance with probability EVENTS_KNOWN / 2^48, about 2 in 10^13.
    """

    name = "event_ids"

    def start(self) -> list[str]:
        """No events."""
        return []

    def update(self, part: list[str], event: Event, items: Mapping[str, Item]) -> list[str]:
        """Remember the event."""
        part.append(self.token(event))
        del part[:-EVENTS_KNOWN]
        return part

    @staticmethod
    def token(event: Event) -> str:
        """What is remembered of the event's id."""
        return base64.b64encode(blake2b(event.event_id.encode(), digest_size=6).digest()).decode()


class Dwell(UserFeature):
    """Average dwell of the views that carry one, seconds."""

    name = "dwell"
    values = ("average_dwell_seconds",)

    def start(self) -> dict[str, int]:
        """Nothing viewed."""
        return {"views": 0, "ms": 0}

    def update(self, part: dict[str, int], event: Event, items: Mapping[str, Item]) -> dict[str, int]:
        """Integers, so that any grouping of events sums to the same."""
        if isinstance(event, View) and event.dwell_ms is not None:
            part["views"] += 1
            part["ms"] += event.dwell_ms
        return part

    def numeric(self, part: dict[str, int], now: float) -> Sequence[float]:
        """ms / views / 1000."""
        return (part["ms"] / part["views"] / 1000 if part["views"] else 0.0,)


class Seen(UserFeature):
    """The last `SEEN` distinct items consumed (by an engagement of a kind that consumes), oldest first."""

    name = "seen"
    values = ("unique_items",)

    def start(self) -> list[str]:
        """Nothing consumed."""
        return []

    def update(self, part: list[str], event: Event, items: Mapping[str, Item]) -> list[str]:
        """Remember an item consumed for the first time."""
        if isinstance(event, Engagement) and TRAITS[kind(event)].consumes and event.item_id not in part:
            part.append(event.item_id)
            del part[:-SEEN]
        return part

    def numeric(self, part: list[str], now: float) -> Sequence[float]:
        """How many; exact up to `SEEN`."""
        return (len(part),)


class Hidden(UserFeature):
    """The items hidden, for ever: `ids`, the last `HIDDEN`, oldest first; `older`, a Bloom filter (base64) of those before.

    What was hidden never comes back, whatever else is consumed or hidden. Bound: `HIDDEN` ids, and 21,848 bytes once there are
    more. At n older ones a share of (1 - exp(-7 n / 131,072))^7 of everything else is kept away as well: 0.2 % at 10,000
    (`feed.features.bloom`).
    """

    name = "hidden"

    def start(self) -> dict[str, Any]:
        """Nothing hidden."""
        return {"ids": []}

    def update(self, part: dict[str, Any], event: Event, items: Mapping[str, Item]) -> dict[str, Any]:
        """Remember an item that is hidden for the first time; the oldest id gives way to it."""
        if isinstance(event, Hide) and event.item_id not in part["ids"]:
            part["ids"].append(event.item_id)
            if len(part["ids"]) > HIDDEN:
                part["older"] = bloom.added(part.get("older", ""), part["ids"].pop(0))
        return part


def _moved(part: list[str], item_id: str) -> list[str]:
    if item_id in part:
        part.remove(item_id)
    part.append(item_id)
    del part[:-RECENT]
    return part


class Recent(UserFeature):
    """The last `RECENT` items of positives (clicked, liked, ...), oldest first; weighted 0.9^k at k steps back."""

    name = "recent"

    def start(self) -> list[str]:
        """No positives."""
        return []

    def update(self, part: list[str], event: Event, items: Mapping[str, Item]) -> list[str]:
        """A positive moves its item to the end."""
        return _moved(part, event.item_id) if isinstance(event, Engagement) and kind(event) in POSITIVES else part

    def weights(self, part: list[str], now: float) -> Sequence[tuple[str, float]]:
        """Sum 0.9^k e(item) / sqrt(sum 0.9^k), as weights."""
        decay = [0.9**k for k in range(len(part))]
        norm = sum(decay) ** 0.5
        return [(item, w / norm) for item, w in zip(reversed(part), decay, strict=True)]


def takes(event: Event) -> TypeGuard[Engagement]:
    """Whether the user chose the item: by a positive (click, like, ...), or without a feed that showed it."""
    if not isinstance(event, Engagement) or kind(event) in NEGATIVES:
        return False
    return kind(event) in POSITIVES or event.request_id is None


class Chosen(UserFeature):
    """The last `RECENT` items taken (see `takes`), oldest first: what `feed.features.near` reads."""

    name = "chosen"

    def start(self) -> list[str]:
        """Nothing taken."""
        return []

    def update(self, part: list[str], event: Event, items: Mapping[str, Item]) -> list[str]:
        """A take moves its item to the end."""
        return _moved(part, event.item_id) if takes(event) else part


class Positives(UserFeature):
    """Positives by item: {item id: [times, time of the last]}, in whole seconds since 1970.

    Positives that follow one another within `SAME_OCCASION` count once. Of more than `POSITIVE_ITEMS` items the one whose last
    positive is oldest goes first (ties: the smallest id), so at most 33 bytes and an id each.
    """

    name = "positives"

    def start(self) -> dict[str, list[int]]:
        """No positives."""
        return {}

    def update(self, part: dict[str, list[int]], event: Event, items: Mapping[str, Item]) -> dict[str, list[int]]:
        """Count a positive; one that comes late does not turn the time back."""
        if not isinstance(event, Engagement) or kind(event) not in POSITIVES:
            return part
        at, (times, last) = int(event.at), part.get(event.item_id, (0, 0))
        again = not times or abs(at - last) > SAME_OCCASION
        part[event.item_id] = [times + again, max(at, last) if times else at]
        if len(part) > POSITIVE_ITEMS:
            del part[min(part, key=lambda item_id: (part[item_id][1], item_id))]
        return part


class OwnItems(NamedTuple):
    """k items of a user's positives: `ids`; `times` int64 (k,), how often; `since` float64 (k,), seconds since the last."""

    ids: tuple[str, ...]
    times: np.ndarray
    since: np.ndarray


class Affinity(UserFeature):
    """Decayed affinities to an attribute of the items: {token: [weight, time of that weight]}.

    weight = sum over engagements of the kind's `weight` (`feed.events.Kind`) * 2^(-age / HALF_LIFE); at most `bound` tokens,
    the weakest goes first.
    """

    HALF_LIFE = 14 * DAY

    def __init__(self, name: str, bound: int) -> None:
        self.name, self.bound = name, bound  # type: ignore[misc]  # one class, three instances

    def start(self) -> dict[str, list[float]]:
        """No evidence."""
        return {}

    def update(self, part: dict[str, list[float]], event: Event, items: Mapping[str, Item]) -> dict[str, list[float]]:
        """Add the event's evidence to each of the item's tokens; an unknown item has none."""
        item = items.get(event.item_id) if isinstance(event, Engagement) else None
        if item is None:
            return part
        now, evidence = event.at, TRAITS[kind(event)].weight
        for token in _tokens(self.name, item):
            weight, since = part.get(token, (0.0, now))
            at = max(since, now)
            part[token] = [round(weight * self._decay(at - since) + evidence * self._decay(at - now), 6), round(at, 3)]
        if len(part) > self.bound:
            _keep_strongest(part, {token: abs(w) * self._decay(now - t) for token, (w, t) in part.items()}, self.bound)
        return part

    def weights(self, part: dict[str, list[float]], now: float) -> Sequence[tuple[str, float]]:
        """weight / (2 + sum of |weights|): a direction that grows longer with evidence, up to 1."""
        return _scaled([(token, w * self._decay(now - t)) for token, (w, t) in part.items()])

    def _decay(self, age: float) -> float:
        return 2.0 ** (-age / self.HALF_LIFE) if age > 0.0 else 1.0


class Lately(UserFeature):
    """What the newest engagements say of an attribute: {"n": engagements, "weights": {token: [weight, n at that weight]}}.

    weight = sum over engagements of the kind's `lately` * KEPT^(engagements since); half of it is gone after 17, however long
    that took. Unlike `Affinity` it counts a look without a click against the token: a person whose taste has changed looks and
    leaves long before a memory of weeks has faded. At most `bound` tokens, the weakest goes first.
    """

    KEPT = 0.96

    def __init__(self, name: str, attribute: str, bound: int) -> None:
        self.name, self._attribute, self.bound = name, attribute, bound  # type: ignore[misc]  # one class, two instances

    def start(self) -> dict[str, Any]:
        """No evidence."""
        return {"n": 0, "weights": {}}

    def update(self, part: dict[str, Any], event: Event, items: Mapping[str, Item]) -> dict[str, Any]:
        """Add the event's evidence to each of the item's tokens; an unknown item has none."""
        item = items.get(event.item_id) if isinstance(event, Engagement) else None
        if item is None:
            return part
        part["n"] += 1
        n, weights = part["n"], part["weights"]
        for token in _tokens(self._attribute, item):
            weight, since = weights.get(token, (0.0, n))
            weights[token] = [round(weight * self.KEPT ** (n - since) + TRAITS[kind(event)].lately, 6), n]
        if len(weights) > self.bound:
            _keep_strongest(weights, {t: abs(w) * self.KEPT ** (n - since) for t, (w, since) in weights.items()}, self.bound)
        return part

    def weights(self, part: dict[str, Any], now: float) -> Sequence[tuple[str, float]]:
        """weight / (2 + sum of |weights|), as `Affinity`."""
        return _scaled([(token, w * self.KEPT ** (part["n"] - since)) for token, (w, since) in part["weights"].items()])


def _tokens(attribute: str, item: Item) -> Collection[str]:
    if attribute == "tags":
        return item.tags
    token = item.category if attribute == "categories" else item.creator_id
    return () if token is None else (token,)


def _keep_strongest(part: dict[str, list[float]], strength: Mapping[str, float], bound: int) -> None:
    for token in sorted(strength, key=lambda token: (strength[token], token))[: len(part) - bound]:
        del part[token]


def _scaled(decayed: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    scale = 2.0 + sum(abs(w) for _, w in decayed)
    return sorted(((token, w / scale) for token, w in decayed), key=lambda pair: (-abs(pair[1]), pair[0]))


class Last(UserFeature):
    """Time of the newest event, seconds since 1970; hours since then (-1 if there was none)."""

    name = "last"
    values = ("hours_since_last_event",)

    def start(self) -> None:
        """Never."""
        return

    def update(self, part: float | None, event: Event, items: Mapping[str, Item]) -> float:
        """Late events do not turn it back."""
        return event.at if part is None else max(part, event.at)

    def numeric(self, part: float | None, now: float) -> Sequence[float]:
        """Hours."""
        return (-1.0 if part is None else max(now - part, 0.0) / HOUR,)


class LastContext(UserFeature):
    """Device, country and hour of the newest event that carried them."""

    name = "context"

    def start(self) -> dict[str, Any]:
        """Unknown."""
        return {}

    def update(self, part: dict[str, Any], event: Event, items: Mapping[str, Item]) -> dict[str, Any]:
        """Each field by itself: an event without a device does not erase the known one."""
        context = event.context
        for field in ("device", "country", "hour"):
            if (value := getattr(context, field)) is not None:
                part[field] = value
        return part


CHOSEN = Chosen()
CATEGORIES = Affinity("categories", 24)
AFFINITIES = (CATEGORIES, Affinity("creators", 24), Affinity("tags", 32))
LATELY = (Lately("lately_categories", "categories", 24), Lately("lately_tags", "tags", 32))
USER_FEATURES: tuple[UserFeature, ...] = (
    Counts(), Dwell(), Last(), LastContext(), *AFFINITIES, *LATELY, Recent(), CHOSEN, Positives(), Seen(), Hidden(), EventIds(),
)  # fmt: skip
NUMERIC = tuple(name for feature in USER_FEATURES for name in feature.values)


def new_user(user_id: str) -> UserState:
    """The state of a user of whom nothing is known."""
    return {"user_id": user_id, "profile": {}, **{feature.name: feature.start() for feature in USER_FEATURES}}


def is_repeat(state: UserState, event: Event) -> bool:
    """Whether the user's newest events have this one already: then it counts nowhere a second time."""
    return EventIds.token(event) in state[EventIds.name]


def update_user(state: UserState, event: Event, items: Mapping[str, Item]) -> None:
    """Fold one event of this user, which is no repeat, into `state`, in place."""
    for feature in USER_FEATURES:
        state[feature.name] = feature.update(state[feature.name], event, items)


def update_profile(state: UserState, user: User) -> None:
    """Take over what is known of the user at creation, in place."""
    known = {name: getattr(user, name) for name in PROFILE}
    state["profile"] = user.attributes | {name: value for name, value in known.items() if value is not None}


def numeric_values(state: UserState, now: float) -> list[float]:
    """The numeric values, in the order of `NUMERIC`."""
    return [value for feature in USER_FEATURES for value in feature.numeric(state[feature.name], now)]


def consumed(state: UserState) -> Collection[str]:
    """The items this user has consumed or hidden, as far back as ids are remembered."""
    seen, hidden = state["seen"], state["hidden"]["ids"]
    return {*seen, *hidden} if hidden else seen


def own_items(state: UserState, now: float) -> OwnItems:
    """The items of this user's positives as of `now` (seconds since 1970), in no particular order; changes nothing."""
    positives: Mapping[str, Sequence[int]] = state["positives"]
    counted = np.array(list(positives.values()), np.float64).reshape(-1, 2)
    return OwnItems(tuple(positives), counted[:, 0].astype(np.int64), np.maximum(now - counted[:, 1], 0.0))


def hidden_before(state: UserState) -> str | None:
    """What this user had hidden before the ids in `consumed`: a filter of `feed.features.bloom`; None if there is no more."""
    older: str | None = state["hidden"].get("older")
    return older
