"""What a model learns from: what was shown, frozen at that moment, with what followed it.

An `Example` is one impression whose attribution window has closed, or one *organic* engagement with an item that no feed
showed, beside items drawn at random. `feed.attribution` makes them; each impression becomes exactly one. The log
`training-examples` holds them one a record, in the order in which windows closed, and between them the commands to the
learner, so that what it learns is a function of that log alone.
"""

from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Struct

from feed.errors import Unreadable, last_line
from feed.events import LARGEST_WHOLE, LONGEST_LIST, NEGATIVES, POSITIVES, Context, Id, Number, Place, Propensity, Text
from feed.features.frozen import BAGS, NEAREST, UNSAID, ItemFeatures, Told, UserFeatures
from feed.features.items import NUMERIC as ITEM_NUMERIC
from feed.features.user import NUMERIC as USER_NUMERIC

log = structlog.get_logger()

LAST = 253_402_300_800.0  # the end of the year 9999: later times have no date
Count = Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]


class Row(Struct, frozen=True, omit_defaults=True):
    """One item of an example.

    `item` as it was when shown; `position` (0 = top), `score`, `propensity` and `source` as the impression told them (None in
    an organic example); `labels`: how often each kind of engagement followed; `dwell_ms`: of all its views together; `near`:
    what the user's history said of the item (see `feed.features.near`), which `UserFeatures.near` has of few items only;
    `stands_for`: of an item drawn by chance beside an organic engagement, how many could have been drawn in its place.
    """

    item: ItemFeatures
    position: Place | None = None
    score: Number | None = None
    propensity: Propensity | None = None
    source: Text | None = None
    labels: dict[str, Count] = {}
    dwell_ms: Count = 0
    near: Told = UNSAID
    stands_for: Annotated[float, Meta(ge=0, le=LARGEST_WHOLE)] = 0.0

    @property
    def positive(self) -> bool:
        """Taken (clicked, liked, ...) and not turned down (hidden, ...)."""
        return NEGATIVES.isdisjoint(self.labels) and not POSITIVES.isdisjoint(self.labels)

    @property
    def clicked(self) -> bool:
        """Clicked."""
        return "click" in self.labels


class Example(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="record", tag="example"):
    """One request's items with what followed.

    `source` is the partition of `interactions` it came from, `sequence` the offset there of the impression (or organic
    engagement). `cut_at`: the offset of the record that closed its window early, because its user had too many. By these three
    a reader drops copies (`is_new`). `at`: when it was shown, seconds since 1970. Organic: `rows[0]` is the item engaged with,
    the others were drawn by chance (see `FrozenItems.draw`); nothing is known of whether they were seen. `again`: organic, of
    an item that the user had taken before, on another occasion.
    """

    source: Count
    sequence: Count
    cut_at: Count | None = None
    example_id: Id
    at: Annotated[float, Meta(ge=0, lt=LAST)]
    user: UserFeatures
    rows: Annotated[tuple[Row, ...], Meta(min_length=1, max_length=LONGEST_LIST)]
    arm: Text | None = None
    model_version: Text | None = None
    context: Context = Context()
    organic: bool = False
    again: bool = False


class Restart(Struct, frozen=True, tag_field="record", tag="restart"):
    """Command to the learner: go on from this version's weights, with a fresh optimiser."""

    version: Text
    why: str


class RaiseRate(Struct, frozen=True, tag_field="record", tag="raise_rate"):
    """Command to the learner: multiply the learning rate by `factor` for the next `examples` examples."""

    factor: Annotated[float, Meta(gt=0, le=1000)]
    examples: Count
    why: str


Command = Restart | RaiseRate
Record = Example | Restart | RaiseRate

_record = msgspec.json.Decoder(Record)


def decode_record(value: bytes | None) -> Record:
    """The record of `training-examples` in `value`. Raises `Unreadable`, also for an example that no model could read."""
    try:
        record: Record = _record.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not a valid record of training-examples{_named(value)}: {error}") from error
    if isinstance(record, Example) and (why := _unfit(record)):
        raise Unreadable(f"example {record.example_id!r} of source {record.source} is of no use: {why}")
    return record


class SetAside:
    """Records of the log that a follower could not use; `count` of them so far. Each is said once, and the follower goes on."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, offset: int, value: bytes | None) -> Record | None:
        """As `decode_record`; None for bytes that are of no use."""
        try:
            return decode_record(value)
        except Unreadable as error:
            self.count += 1
            log.error("unreadable record of training-examples", offset=offset, reason=str(error), set_aside=self.count)
            return None

    def example(self, example: Example, error: Exception) -> None:
        """This one could not be used, for whatever reason."""
        self.count += 1
        log.error(
            "an example that this code cannot use is set aside: a programming error, please report it",
            example=example.example_id, source=example.source, sequence=example.sequence, reason=last_line(error),
            set_aside=self.count, exc_info=error,
        )  # fmt: skip


class _Name(Struct):
    example_id: Any
    source: Any = None


_name = msgspec.json.Decoder(_Name)


def _named(value: bytes | None) -> str:
    """Which example a record that is none was meant to be, where it says so."""
    try:
        name = _name.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return f", example {name.example_id!r} of source {name.source!r}"


def _unfit(example: Example) -> str | None:
    """What of this example is not as the features agent of this code writes it; None if nothing is."""
    user, rows, hour = example.user, example.rows, example.user.context.get("hour")
    if len(user.numeric) != len(USER_NUMERIC):
        return f"its user has {len(user.numeric)} numbers, not {len(USER_NUMERIC)}"
    if not all(name in user.bags and len(user.bags[name]) <= length for name, length in BAGS.items()):
        return f"its user's bags are not {BAGS}"
    if len(user.near) > NEAREST:
        return f"its user is near {len(user.near)} items, more than {NEAREST}"
    if hour is not None and not isinstance(hour, int | float):
        return f"hour={hour!r} is no hour"
    for row in rows:
        if len(row.item.numeric) != len(ITEM_NUMERIC):
            return f"item {row.item.item_id!r} has {len(row.item.numeric)} numbers, not {len(ITEM_NUMERIC)}"
    return None


def is_new(example: Example, last: dict[int, int]) -> bool:
    """Whether this is no copy; `last` then has it: the newest sequence of each source, and under `~source` its newest `cut_at`.

    Windows close in the order in which they were opened, those that are cut in the order of what cuts them; and what is cut was
    opened after all that has closed by itself.
    """
    source = example.source
    if example.sequence <= last.get(source, -1):
        return False
    if example.cut_at is None:
        last[source] = example.sequence
        return True
    if example.cut_at <= last.get(~source, -1):
        return False
    last[~source] = example.cut_at
    return True
