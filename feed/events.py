"""What happened: one frozen type per kind of event, validated when made from bytes (see `feed.wire`).

An `Impression` is one request's list of shown items: one event, so that the user's features are frozen once a request.
Everything a person does with one item is an `Engagement`: `View` (with dwell), `Click`, `Like`, `Share`, `Comment`, `Hide`,
and what the setting FEED_KINDS names (`feed.kinds`). What a kind says of its item stands in one table, `TRAITS`. Ids are text;
integers are accepted and become text. Times are UTC, propensities are probabilities in (0, 1]. An empty text is a missing one.

Every text, number and collection has a bound here, and every later reader bears whatever is within it. The data format
(`feed.dataset`) takes its bounds from here as well.
"""

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, cast

from msgspec import Meta, Struct, defstruct, field
from msgspec.structs import force_setattr

SCHEMA_VERSION: Literal[1] = 1

ID_LENGTH = 128  # characters of an id
TEXT_LENGTH = 256  # characters of any other text, if nothing else is said
LARGEST_WHOLE = 2**53  # of either sign: a double holds every whole number up to here exactly
LARGEST_NUMBER = 1e15  # of either sign: its square is far from where 32-bit floats end
LEAST_PROPENSITY = 1e-12  # one draw of a million million
LAST_POSITION = 2**31 - 1
LONGEST_DWELL_MS = 86_400_000  # a day
LONGEST_LIST = 500  # items of one impression
MOST_ATTRIBUTES = 64
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # of an event

if TYPE_CHECKING:
    Id = str
else:  # integers of 64 bits are accepted and become text in __post_init__
    Id = Annotated[str, Meta(min_length=1, max_length=ID_LENGTH)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=TEXT_LENGTH)]
Time = Annotated[datetime, Meta(tz=True)]
Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Whole = Annotated[int, Meta(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)]
Propensity = Annotated[float, Meta(ge=LEAST_PROPENSITY, le=1)]
Place = Annotated[int, Meta(ge=0, le=LAST_POSITION)]
Attribute = Text | Whole | Number
Attributes = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH)], Attribute], Meta(max_length=MOST_ATTRIBUTES)
]


def ids_to_text(struct: Struct, *names: str) -> None:
    """Turn these fields of a struct that is being made, ids that may be integers, into text; None stays."""
    for name in names:
        if (value := getattr(struct, name)) is not None:
            force_setattr(struct, name, str(value))


def empty_to_missing(struct: Struct, *names: str) -> None:
    """Make these fields of a struct that is being made None where they are an empty text."""
    for name in names:
        if getattr(struct, name) == "":
            force_setattr(struct, name, None)


def without_empty(struct: Struct) -> None:
    """Leave out the attributes of a struct that is being made that are an empty text."""
    attributes: dict[str, object] = struct.attributes  # type: ignore[attr-defined]
    if "" in attributes.values():
        force_setattr(struct, "attributes", {name: value for name, value in attributes.items() if value != ""})


def times_to_utc(struct: Struct, *names: str) -> None:
    """Bring these fields of a struct that is being made, times with any offset, to UTC; None stays.

    Raises `ValueError` for one that is before the year 1 or after 9999 there.
    """
    for name in names:
        value: datetime | None = getattr(struct, name)
        if value is not None and value.tzinfo is not UTC:
            try:
                force_setattr(struct, name, value.astimezone(UTC))
            except OverflowError:
                raise ValueError(f"{name} {value.isoformat()} is not in the years 1 to 9999 of UTC") from None


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
    attributes: Attributes = {}

    def __post_init__(self) -> None:
        empty_to_missing(self, "device", "country")
        without_empty(self)


class Shown(Struct, frozen=True, omit_defaults=True):
    """One item of an impression: its place (0 = top), the model's score if it has one, and how it came to be shown."""

    item_id: Id
    position: Place
    score: Number | None = None
    propensity: Propensity | None = None
    source: Text | None = None

    def __post_init__(self) -> None:
        ids_to_text(self, "item_id")
        empty_to_missing(self, "source")


class _Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    event_id: Id
    v: Literal[1] = field(default_factory=lambda: SCHEMA_VERSION)  # a factory, so that it is always written
    user_id: Id
    occurred_at: Time
    request_id: Id | None = None
    arm: Text | None = None
    model_version: Text | None = None
    context: Context = Context()

    def __post_init__(self) -> None:
        ids_to_text(self, "event_id", "user_id", "request_id")
        empty_to_missing(self, "arm", "model_version")
        times_to_utc(self, "occurred_at")
        if self.occurred_at < EARLIEST:
            raise ValueError(f"occurred_at {self.occurred_at.isoformat()} is before 1970")

    @property
    def at(self) -> float:
        """Event time, seconds since 1970 UTC."""
        return self.occurred_at.timestamp()


class Impression(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="impression"):
    """The items that one request showed, best place first."""

    items: Annotated[tuple[Shown, ...], Meta(min_length=1, max_length=LONGEST_LIST)]


class Engagement(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """What a person did with one item; with the impression's position, score and propensity if it was shown by a feed."""

    item_id: Id
    position: Place | None = None
    propensity: Propensity | None = None
    score: Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ids_to_text(self, "item_id")


class View(Engagement, frozen=True, kw_only=True, omit_defaults=True, tag="view"):
    """Looked at it, for `dwell_ms` milliseconds if known (at most a day)."""

    dwell_ms: Annotated[int, Meta(ge=0, le=LONGEST_DWELL_MS)] | None = None


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


Event = Impression | Engagement


@dataclass(frozen=True)
class Kind:
    """What an engagement of one kind says of its item; every part asks this table, and none knows kinds of its own.

    `positive`: the person took it: what models learn to foresee, and what histories, popularity and co-visitation count.
    `negative`: the person turned it down: beside it no positive counts. `weight`: its evidence, with sign, for and against the
    item's category, creator and tags; `lately`: the same in what somebody likes lately (`feed.features.user`). `consumes`: the
    item is not shown to that person again. `meaning`: for who has other kinds.
    """

    name: str
    positive: bool = False
    negative: bool = False
    weight: float = 0.0
    lately: float = 0.0
    consumes: bool = True
    meaning: str = ""

    def __str__(self) -> str:
        """As FEED_KINDS names it."""
        sign = "positive" if self.positive else "negative" if self.negative else "neutral"
        weight = f",weight={abs(self.weight):g}" if self.weight else ""
        return f"{self.name}={sign}{weight}{',consumes' if self.consumes else ''}"


COMMON = (
    Kind("view", weight=0.1, lately=-0.2, meaning="looked at"),
    Kind("click", positive=True, weight=1.0, lately=1.2, meaning="opened, played"),
    Kind("like", positive=True, weight=2.0, lately=1.0, meaning="rated well, saved, followed, bought"),
    Kind("share", positive=True, weight=3.0, lately=1.0, meaning="passed on"),
    Kind("comment", positive=True, weight=2.0, lately=1.0, meaning="wrote about"),
    Kind("hide", negative=True, weight=-3.0, lately=-1.5, meaning="does not want to see it again"),
)
KINDS_OF_ALL = ("impression", *(one.name for one in COMMON))

# The kinds of this process. They change in `adopt` only, so nothing may keep what it has derived from them at import.
_engagements: dict[str, type[Engagement]] = {}
_traits: dict[str, Kind] = {}
_names: list[str] = []
_positives: set[str] = set()
_negatives: set[str] = set()
ENGAGEMENTS: Mapping[str, type[Engagement]] = _engagements
TRAITS: Mapping[str, Kind] = _traits
KINDS: Sequence[str] = _names  # the place of one is that of its counts
POSITIVES: AbstractSet[str] = _positives
NEGATIVES: AbstractSet[str] = _negatives
BY_CHANCE = ("random", "explore")  # sources of shown items whose place was drawn; see docs/event-schema.md


def adopt(own: Sequence[Kind] = ()) -> None:
    """Make these the kinds of this process, beside the six that everybody has.

    `feed.settings.load` does so, once in each process, before anything is read: kinds decide what an event may be, how many
    columns counts have, and what is positive.
    """
    for held in (_engagements, _traits, _names, _positives, _negatives):
        held.clear()
    made: list[type[Engagement]] = [View, Click, Like, Share, Comment, Hide, *(_engagement(one.name) for one in own)]
    kinds = (*COMMON, *own)
    _traits.update({one.name: one for one in kinds})
    _engagements.update(zip(_traits, made, strict=True))
    _names.extend(("impression", *_traits))
    _positives.update(one.name for one in kinds if one.positive)
    _negatives.update(one.name for one in kinds if one.negative)


@cache
def _engagement(name: str) -> type[Engagement]:
    """The type of an engagement of one's own, which differs by its name only: one type a name, so that events compare."""
    made = defstruct(
        name.title().replace("_", ""), [], bases=(Engagement,), frozen=True, kw_only=True, omit_defaults=True, tag=name
    )  # fmt: skip
    return cast("type[Engagement]", made)


adopt()


def own_kinds() -> str:
    """The kinds that this process has beside the six of everybody, as FEED_KINDS could name them, by name."""
    return ";".join(sorted(str(one) for one in TRAITS.values() if one not in COMMON))


def kind(event: Event) -> str:
    """The event's name on the wire: `impression`, `view`, `click`, ..."""
    return str(type(event).__struct_config__.tag)


def unknown_kind(name: str) -> str:
    """What is wrong with an event of this kind, which there is not, and what to do about it."""
    if near := get_close_matches(name.strip().lower(), KINDS, 1, 0.8):  # a save is no share
        remedy = f"did you mean {near[0]!r}?"
    else:
        meanings = "; ".join(f"{one.name} ({one.meaning})" for one in TRAITS.values() if one.meaning)
        remedy = f"name it in FEED_KINDS (docs/settings.md), or write the kind that comes closest: {meanings}"
    return f"is none of {', '.join(KINDS)}: {remedy}"


def utc(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC time, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC)
