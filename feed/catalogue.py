"""Items and users as they are known at creation: what the topics `items` and `users` carry, keyed by id.

`attributes` holds a log's further columns: text and whole numbers are categorical features, floats are numeric ones.
"""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from feed.events import Id, Text, Time

Attribute = Text | int | float
Attributes = Annotated[dict[Text, Attribute], Meta(max_length=64)]


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item: `title` is for display only, everything else is a feature."""

    item_id: Id
    title: Annotated[str, Meta(max_length=1024)] | None = None
    created_at: Time | None = None
    category: Text | None = None
    tags: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    creator_id: Id | None = None
    attributes: Attributes = {}

    def __post_init__(self) -> None:
        force_setattr(self, "item_id", str(self.item_id))
        if self.creator_id is not None:
            force_setattr(self, "creator_id", str(self.creator_id))

    @property
    def created(self) -> float | None:
        """Creation time, seconds since 1970 UTC; None if unknown (then the item always exists)."""
        return None if self.created_at is None else self.created_at.timestamp()


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
        force_setattr(self, "user_id", str(self.user_id))
