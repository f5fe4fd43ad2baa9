"""Items and users as they are known at creation: what the topics `items` and `users` carry, keyed by id.

`attributes` holds a log's further columns: text and whole numbers are categorical features, floats are numeric ones.
"""

from math import inf
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from feed.events import Attributes, Id, Text, Time, empty_to_missing, ids_to_text, times_to_utc, without_empty

TITLE_LENGTH = 1024  # characters
MOST_TAGS = 64


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item: `title` is for display only, `available` and the times say when it may be shown, all else is a feature.

    Repeated tags count once.
    """

    item_id: Id
    title: Annotated[str, Meta(max_length=TITLE_LENGTH)] | None = None
    created_at: Time | None = None
    category: Text | None = None
    tags: Annotated[tuple[Text, ...], Meta(max_length=MOST_TAGS)] = ()
    creator_id: Id | None = None
    attributes: Attributes = {}
    available: bool | None = None
    expires_at: Time | None = None

    def __post_init__(self) -> None:
        ids_to_text(self, "item_id", "creator_id")
        empty_to_missing(self, "title", "category")
        without_empty(self)
        if "" in self.tags or len(set(self.tags)) < len(self.tags):
            force_setattr(self, "tags", tuple(dict.fromkeys(tag for tag in self.tags if tag)))
        times_to_utc(self, "created_at", "expires_at")

    @property
    def created(self) -> float | None:
        """Creation time, seconds since 1970 UTC; None if unknown (then the item always exists)."""
        return None if self.created_at is None else self.created_at.timestamp()

    @property
    def until(self) -> float:
        """From here on it may not be shown, seconds since 1970 UTC: inf if it never expires, -inf if it is not available."""
        if self.available is False:
            return -inf
        return inf if self.expires_at is None else self.expires_at.timestamp()

    def showable(self, now: float) -> bool:
        """Whether it may be shown at `now` (event time, seconds since 1970 UTC)."""
        return (-inf if self.created is None else self.created) <= now < self.until


class User(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One user's profile."""

    user_id: Id
    signed_up_at: Time | None = None
    platform: Text | None = None
    country: Text | None = None
    age_group: Text | None = None
    gender: Text | None = None
    attributes: Attributes = {}

    def __post_init__(self) -> None:
        ids_to_text(self, "user_id")
        empty_to_missing(self, "platform", "country", "age_group", "gender")
        without_empty(self)
        times_to_utc(self, "signed_up_at")
