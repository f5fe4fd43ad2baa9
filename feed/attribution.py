"""Joining what was shown with what followed it: events in, examples out.

An impression opens a *window* of `seconds` of event time. What its user does with its items until then becomes labels; then the
window closes and its example is complete. The clock is the partition's: its newest event time. The outcomes:

* the impression again (same request): nothing; an engagement again (same event id): nothing
* an engagement that names a request joins that request's window, one that names none the newest window that shows its item
* an engagement before its impression (out of order) opens a window that waits, which the impression takes over when it comes;
  if none comes as long as the window is open, it was too late
* an engagement after its window: too late; it changes features, as every event does, but no example. How long ago that was does
  not matter: of a request that is named and not known, nothing is made but with its impression
* an engagement that names no request and that no impression explains: an *organic* example, unless the user has consumed the
  item before, and each time they come back to an item they took (`Example.again`: for versions that show items again); but of
  one that happened more than `seconds` before the clock, nothing: items would be frozen as they became since
* an impression that comes late has its whole window, counted from the clock at its arrival

Everything follows from the order of the events, not from how they are grouped; only an idle partition is closed from outside.

An example has the offset of the record that opened its window as its number. So a log that is folded again numbers as before,
whatever is missing of it. Windows close in the order in which they were opened, but for those of a user who has too many: these
examples carry the offset of the record that closed them, too (`Example.cut_at`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from feed.events import Engagement, Event, Impression, View, kind
from feed.examples import Example, Row
from feed.features.frozen import FrozenItems, freeze_user
from feed.features.near import Nearby
from feed.features.user import SAME_OCCASION, UserState, consumed

WINDOWS = 20  # open at once of one user; one more closes the oldest
JOINED = 500  # events in one window; what comes on top is in the features only
REMEMBERED = 50  # closed requests of one user, for one more window's length


class Window(Struct):
    """An impression (or organic engagement) that may still get labels.

    `offset`: of the record that opened it. `until`: the partition's time at which it closes; never less than that of a window
    with a smaller offset. `body`: the example as JSON, without labels, frozen when it was shown.
    `labels`: item id -> kind -> how often; `dwell`: item id -> milliseconds; `joined`: ids of the events that are in them.
    `organic`: opened by an engagement. `waits`: which names a request of which nothing is known, so that only its impression,
    taking this over, makes an example of it.
    """

    request: str
    offset: int
    at: float
    until: float
    items: tuple[str, ...]
    body: Raw
    organic: bool = False
    waits: bool = False
    labels: dict[str, dict[str, int]] = {}
    dwell: dict[str, int] = {}
    joined: list[str] = []

    def join(self, event: Engagement) -> None:
        """Label the event's item."""
        if event.event_id in self.joined or len(self.joined) == JOINED:
            return
        self.joined.append(event.event_id)
        of_item = self.labels.setdefault(event.item_id, {})
        of_item[kind(event)] = of_item.get(kind(event), 0) + 1
        if isinstance(event, View) and event.dwell_ms is not None:
            self.dwell[event.item_id] = self.dwell.get(event.item_id, 0) + event.dwell_ms

    def example(self, cut_at: int | None) -> Example:
        """The frozen example with its labels."""
        example = msgspec.json.decode(self.body, type=Example)
        labels, dwell = dict(self.labels), dict(self.dwell)
        labelled = []
        for row in example.rows:
            # each label once: an item that was shown twice is labelled where it stood first
            of_item, ms = labels.pop(row.item.item_id, {}), dwell.pop(row.item.item_id, 0)
            labelled.append(msgspec.structs.replace(row, labels=of_item, dwell_ms=ms) if of_item else row)
        return msgspec.structs.replace(example, cut_at=cut_at, rows=tuple(labelled))

    def take_over(self, other: "Window") -> None:
        """Label as `other` is labelled."""
        self.joined += other.joined
        for item_id, labels in other.labels.items():
            of_item = self.labels.setdefault(item_id, {})
            for name, n in labels.items():
                of_item[name] = of_item.get(name, 0) + n
        for item_id, ms in other.dwell.items():
            self.dwell[item_id] = self.dwell.get(item_id, 0) + ms


class Pending(Struct):
    """What is open of one user, and which requests were closed lately (with the time until which that is remembered)."""

    windows: list[Window] = []
    closed: list[tuple[str, float]] = []

    @property
    def due(self) -> float | None:
        """The partition's time at which something here ends; None if there is nothing."""
        return min([*(w.until for w in self.windows), *(until for _, until in self.closed)], default=None)


class Marks(Struct, frozen=True, forbid_unknown_fields=True):
    """A partition's clock (its newest event time, seconds since 1970), when its newest window closes, how many examples it has
    `made` so far, and how many engagements were too late.

    Those of an earlier version have another field and cannot be read, so that the log is folded again: a version whose users
    did not remember their `positives` had `examples` in place of `made`.
    """

    clock: float = 0.0
    until: float = 0.0
    made: int = 0
    late: int = 0


@dataclass(frozen=True)
class Failed:
    """A window that could not be turned into its example, and what was raised: it is closed without one."""

    user_id: str
    request: str
    error: Exception


class Attribution:
    """The windows of one partition during one batch.

    `add` wants every event in the order of the log, with the user's state just *before* it and the event's offset there;
    `close` at the end gives the examples of all windows that are over. `pending` must hold the entry of every user who has an
    event in the batch or whose entry is due by its end. `failed`: what `close` could not make an example of.
    """

    def __init__(self, seconds: float, source: int, marks: Marks, pending: dict[str, Pending], items: FrozenItems) -> None:
        self._seconds, self._source, self._items = seconds, source, items
        self.before = marks
        self._clock, self._until, self._made, self._late = marks.clock, marks.until, marks.made, marks.late
        self.pending = pending
        self._first = -inf  # no window is over before the clock is behind this
        self._examples: list[Example] = []
        self.failed: list[Failed] = []

    @property
    def marks(self) -> Marks:
        """As of the last call."""
        return Marks(self._clock, self._until, self._made, self._late)

    @property
    def waiting(self) -> dict[str, Pending]:
        """The entries that have something left, for who keeps them in memory from one batch to the next."""
        return {user_id: pending for user_id, pending in self.pending.items() if pending.due is not None}

    def add(self, event: Event, state: UserState, offset: int) -> None:
        """Open a window, or label one."""
        pending = self.pending.setdefault(event.user_id, Pending())
        self._clock, before = max(self._clock, event.at), self._clock
        if isinstance(event, Impression):
            self._show(pending, event, state, offset, before)
        else:
            self._engage(pending, event, state, offset, before)
        here = [window for window in pending.windows if not self._over(window)]
        if len(here) > WINDOWS:
            self._close_over()  # as if a batch had ended here: the order must not depend on it
            oldest = min(here, key=lambda window: (not window.waits, window.offset))
            self._close(event.user_id, pending, oldest, cut_at=offset)

    def close(self, everything: bool = False) -> list[Example]:
        """The examples of all windows that are over (or of all), in that order; entries without anything left are empty."""
        self._close_over(everything)
        for pending in self.pending.values():
            pending.closed = [entry for entry in pending.closed if entry[1] > self._clock][-REMEMBERED:]
        examples, self._examples = self._examples, []
        return examples

    def _close_over(self, everything: bool = False) -> None:
        if not everything and self._first >= self._clock:
            return
        windows = [(w.offset, user_id, w) for user_id, pending in self.pending.items() for w in pending.windows]
        over = [entry for entry in windows if everything or self._over(entry[2])]
        for _, user_id, window in sorted(over, key=itemgetter(0)):
            self._close(user_id, self.pending[user_id], window)
        self._first = min((window.until for _, _, window in windows if not self._over(window)), default=inf)

    def _show(self, pending: Pending, event: Impression, state: UserState, offset: int, before: float) -> None:
        request = event.request_id or event.event_id
        if self._known(pending, request):
            return
        rows = [Row(self._items[s.item_id], s.position, s.score, s.propensity, s.source) for s in event.items]
        earlier_ones = [w for w in pending.windows if w.request == request and not self._over(w)]
        window = self._open(pending, event, state, self._items.nearby(state, event.at), offset, request, rows, before)
        for earlier in earlier_ones:
            if earlier.items[0] in window.items:
                window.take_over(earlier)
                pending.windows.remove(earlier)

    def _engage(self, pending: Pending, event: Engagement, state: UserState, offset: int, before: float) -> None:
        if (window := self._window_of(pending, event)) is not None:
            if event.at <= window.at + self._seconds:
                window.join(event)
            else:
                self._late += 1
        elif event.request_id is not None and self._known(pending, event.request_id):
            self._late += 1
        elif event.request_id is not None:
            rows, said = [Row(self._items[event.item_id])], self._items.nearby(state, event.at)
            window = self._open(pending, event, state, said, offset, event.request_id, rows, before, organic=True)
            window.waits = True
            window.join(event)
        elif event.at < before - self._seconds:
            self._late += 1
        elif (again := _taken_before(event, state)) or event.item_id not in consumed(state):
            said = self._items.nearby(state, event.at)
            drawn = self._items.draw(state, said, event.item_id, crc32(event.event_id.encode()))
            rows = [Row(self._items[event.item_id]), *(Row(item, stands_for=n) for item, n in drawn)]
            self._open(pending, event, state, said, offset, event.event_id, rows, before, organic=True, again=again).join(event)

    def _window_of(self, pending: Pending, event: Engagement) -> Window | None:
        """The open window whose item this is; organic ones only by the item that opened them."""
        for window in reversed(pending.windows):
            named = event.request_id in (None, window.request) and not self._over(window)
            if named and event.item_id in (window.items[:1] if window.organic else window.items):
                return window
        return None

    def _open(
        self,
        pending: Pending,
        event: Event,
        state: UserState,
        said: Nearby,
        offset: int,
        request: str,
        rows: Sequence[Row],
        before: float,
        organic: bool = False,
        again: bool = False,
    ) -> Window:
        items = tuple(row.item.item_id for row in rows)
        nearest, near = self._items.near(said, items)
        example = Example(
            source=self._source, sequence=offset, example_id=request, at=event.at,
            user=msgspec.structs.replace(freeze_user(state, event.at), near=nearest),
            rows=tuple(msgspec.structs.replace(row, near=of) for row, of in zip(rows, near, strict=True)),
            arm=event.arm, model_version=event.model_version, context=event.context, organic=organic, again=again,
        )  # fmt: skip
        self._until = max(self._until, max(event.at, before) + self._seconds)  # `seconds` may have been more until now
        window = Window(request, offset, event.at, self._until, items, Raw(msgspec.json.encode(example)), organic)
        pending.windows.append(window)
        self._first = min(self._first, self._until)
        return window

    def _over(self, window: Window) -> bool:
        """Counts as closed, be it still in the list: the outcome must not depend on where a batch ends."""
        return window.until < self._clock

    def _known(self, pending: Pending, request: str) -> bool:
        """Whether this impression has been here before."""
        shown = [(w.request, w.until + self._seconds) for w in pending.windows if not w.organic]
        return any(request == name and until > self._clock for name, until in (*shown, *pending.closed))

    def _close(self, user_id: str, pending: Pending, window: Window, cut_at: int | None = None) -> None:
        pending.windows.remove(window)
        if window.waits:
            self._late += len(window.joined)
            return
        if not window.organic:
            pending.closed.append((window.request, window.until + self._seconds))
        try:
            example = window.example(cut_at)
        except Exception as error:  # it came from Redis: other events, which would close it again and again, are not to blame
            self.failed.append(Failed(user_id, window.request, error))
        else:
            self._examples.append(example)
            self._made += 1


def _taken_before(event: Engagement, state: UserState) -> bool:
    """Whether the user has taken the event's item before, on another occasion."""
    before = state["positives"].get(event.item_id)
    return before is not None and event.at - before[1] > SAME_OCCASION
