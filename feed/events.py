"""What happened: one frozen type per kind of event, validated when made from bytes (see `feed.wire`).

An `Impression` is one request's list of shown items: one event, so that the user's features are frozen once a request.
Everything a person does with one item is an `Engagement`: `View` (with dwell), `Click`, `Like`, `Share`, `Comment`, `Hide`.
Ids are text; integers are accepted and become text. Times are UTC, propensities are probabilities in (0, 1].
"""

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

SCHEMA_VERSION: Literal[1] = 1

if TYPE_CHECKING:
    Id = str
else:  # integers are accepted and become text in __post_init__
    Id = Annotated[str, Meta(min_length=1, max_length=128)] | int
Text = Annotated[str, Meta(max_length=256)]
Time = Annotated[datetime, Meta(tz=True)]
Propensity = Annotated[float, Meta(gt=0, le=1)]


def new_event_id(at: datetime, draw: random.Random) -> str:
    """A UUID of version 7 (RFC 9562): 48 bits of `at` in milliseconds, then chance; sorts by time."""
    bits = (int(at.timestamp() * 1000) << 80) | draw.getrandbits(80)
    bits = bits & ~(0xF << 76) | (7 << 76)
    bits = bits & ~(0x3 << 62) | (2 << 62)
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Context(Struct, frozen=True, omit_defaults=True):
    """The circumstances of a request: device and country as text, local hour of the day 0-23, and what else is known of it."""

    device: Text | None = None
    country: Text | None = None
    hour: Annotated[int, Meta(ge=0, le=23)] | None = None
    attributes: dict[str, str | int | float] = {}


class Shown(Struct, frozen=True, omit_defaults=True):
    """One item of an impression: its place (0 = top), the model's score if it has one, and how it came to be shown."""

    item_id: Id
    position: Annotated[int, Meta(ge=0)]
    score: float | None = None
    propensity: Propensity | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "item_id", str(self.item_id))


class _Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    event_id: Id
    v: Literal[1] = field(default_factory=lambda: SCHEMA_VERSION)  # a factory, so that it is always written
    user_id: Id
    occurred_at: Time
    request_id: Id | None = None
    arm: str | None = None
    model_version: str | None = None
    context: Context = Context()

    def __post_init__(self) -> None:
        force_setattr(self, "user_id", str(self.user_id))

    @property
    def at(self) -> float:
        """Event time, seconds since 1970 UTC."""
        return self.occurred_at.timestamp()


class Impression(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="impression"):
    """The items that one request showed, best place first."""

    items: Annotated[tuple[Shown, ...], Meta(min_length=1, max_length=500)]


class Engagement(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """What a person did with one item; with the impression's position, score and propensity if it was shown by a feed."""

    item_id: Id
    position: Annotated[int, Meta(ge=0)] | None = None
    propensity: Propensity | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        force_setattr(self, "item_id", str(self.item_id))


class View(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="view"):
    """Looked at it, for `dwell_ms` milliseconds if known (at most a day)."""

    dwell_ms: Annotated[int, Meta(ge=0, le=86_400_000)] | None = None


class Click(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="click"):
    """Opened it."""


class Like(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="like"):
    """Said that they like it."""


class Share(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="share"):
    """Passed it on."""


class Comment(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="comment"):
    """Wrote about it."""


class Hide(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="hide"):
    """Asked not to see it."""


Engaged = View | Click | Like | Share | Comment | Hide
Event = Impression | Engaged

ENGAGEMENTS: dict[str, type[Engagement]] = {
    "view": View, "click": Click, "like": Like, "share": Share, "comment": Comment, "hide": Hide,
}  # fmt: skip
KINDS = ("impression", *ENGAGEMENTS)
POSITIVES = frozenset({"click", "like", "share", "comment"})
BY_CHANCE = ("random", "explore")  # sources of shown items whose place was drawn; see docs/event-schema.md


def kind(event: Event) -> str:
    """The event's name on the wire: `impression`, `view`, `click`, ..."""
    return str(type(event).__struct_config__.tag)


def utc(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC time, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC)
