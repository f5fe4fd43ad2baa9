"""What a feed is: the ordered items after every rule, and how each came to be there."""

import hashlib

from msgspec import Struct

from feed.events import Id, Time
from feed.wire import Position

LEARNED, POPULAR, RANDOM = "learned", "popular", "random"  # arms
MODEL, EXPLORE = "model", "explore"  # sources of an item; in the arms popular and random the source is the arm's name


class FeedItem(Struct, frozen=True):
    """One place of a feed.

    `score`: the model's, sigmoid(logit), in every arm; None where no model scored the item. `propensity`: the
    probability, in (0, 1], that this item stands at this place, given which places are drawn; 1 where nothing is drawn.
    `source`: `model`, `explore`, `popular` or `random`.
    """

    item_id: Id
    score: float | None
    propensity: float
    source: str


class Feed(Struct, frozen=True, kw_only=True):
    """One user's feed, best place first.

    `generation` grows at every change of the champion and `position` is the place in the log up to which the user's state is
    known (None: of a user without events): together they order the feeds of a user. They come first, because the script that
    writes feeds reads them from the beginning of the JSON. `ranked_by`: what orders the items of source `model`, `logit` or a
    table of weights (see `feed.objective`). `made_at` is wall clock, everything else a function of the inputs.
    """

    generation: int
    position: Position | None
    user_id: Id
    request_id: str
    arm: str
    model_version: str
    ranked_by: str = "logit"
    made_at: Time
    items: tuple[FeedItem, ...]


def request_id(user_id: str, generation: int, position: Position | None) -> str:
    """32 hex digits: the same user, generation and position give the same id."""
    return digest("request", user_id, generation, position).hex()[:32]


def digest(*parts: object) -> bytes:
    """32 bytes that depend on every part: sha256 of their text, which no other process, machine or run changes."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
