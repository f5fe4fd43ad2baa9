"""From tables to events, items and users, and back: what the wire takes comes back as it was.

Impression rows of one user with one event id become one `Impression`, in the order of the rows; without event ids, those
with one request id do, by position; an impression row without either is a request of its own.
"""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pandas as pd

from feed import wire
from feed.catalogue import Item, User
from feed.dataset import attributes
from feed.dataset.schema import INTERACTIONS, ITEMS, USERS, Dataset, python_values
from feed.errors import BadData
from feed.events import ENGAGEMENTS, LAST_POSITION, MOST_ATTRIBUTES, Context, Event, Impression, Shown, View, kind, new_event_id

NOWHERE = Context()
SURELY_FIT = 200  # items of an impression that a message holds however long their texts are


def items_of(dataset: Dataset) -> Iterator[Item]:
    """The items, in the table's order."""
    for row in _records(dataset.items, ITEMS):
        yield Item(**row)


def users_of(dataset: Dataset) -> Iterator[User]:
    """The users that the table describes, in its order."""
    for row in _records(dataset.users, USERS):
        yield User(**row)


def events_of(dataset: Dataset) -> Iterator[Event]:
    """The events in time order, those of one instant in the table's order; equal tables give equal event ids.

    An impression is where its first row is. Raises `BadData` for one that no message holds.
    """
    table = dataset.interactions.sort_values("occurred_at", kind="stable")
    known = {name: _column(table, name) for name in INTERACTIONS}
    kinds, users, ids, requests = known["event"], known["user_id"], known["event_id"], known["request_id"]
    impressions: dict[tuple[str, str | None, str | None], list[int]] = defaultdict(list)
    for row, name in enumerate(kinds):
        if name == "impression" and (ids[row] is not None or requests[row] is not None):
            impressions[_impression(known, row)].append(row)
    draw = random.Random(0)
    for row, name in enumerate(kinds):
        shown = [row]
        if name == "impression" and (ids[row] is not None or requests[row] is not None):
            shown = impressions[_impression(known, row)]
            if shown[0] != row:
                continue
        about = {
            "event_id": ids[row] or new_event_id(known["occurred_at"][row], draw),
            "user_id": users[row],
            "occurred_at": known["occurred_at"][row],
            "request_id": requests[row],
            "arm": known["arm"][row],
            "model_version": known["model_version"][row],
            "context": _context(known, row),
        }
        if name != "impression":
            yield _engagement(name, about, known, row)
            continue
        event = Impression(**about, items=_shown(known, shown))
        if len(shown) > SURELY_FIT and (size := len(wire.encode(event))) > wire.LARGEST_MESSAGE:
            raise BadData(
                f"interactions row {table.index[row] + 1}: the impression that begins here, of user {users[row]!r}, has "
                f"{size:,} bytes as a message, at most {wire.LARGEST_MESSAGE:,} are possible: show fewer items"
            )
        yield event


def from_events(events: Iterable[Event], items: Iterable[Item], users: Iterable[User]) -> Dataset:
    """The tables of these events (rows in their order), items and users.

    Of a user's events of one id only the first counts, as everywhere; the others are left out.
    """
    rows: list[dict[str, Any]] = []
    there: set[tuple[str, str]] = set()
    for event in events:
        if (event.user_id, event.event_id) in there:
            continue
        there.add((event.user_id, event.event_id))
        about = {
            "user_id": event.user_id, "event": kind(event), "occurred_at": event.occurred_at, "event_id": event.event_id,
            "request_id": event.request_id, "arm": event.arm, "model_version": event.model_version,
            "device": event.context.device, "country": event.context.country, "hour": event.context.hour,
            "context": attributes.write(event.context.attributes),
        }  # fmt: skip
        for one in event.items if isinstance(event, Impression) else (event,):
            own = {"item_id": one.item_id, "position": one.position, "score": one.score, "propensity": one.propensity}
            own["source"] = one.source if isinstance(one, Shown) else None
            own["dwell_ms"] = one.dwell_ms if isinstance(one, View) else None
            rows.append(about | own)
    return Dataset(_described(list(users), USERS), _described(list(items), ITEMS), _frame(rows, INTERACTIONS))


def _impression(known: Mapping[str, Sequence[Any]], row: int) -> tuple[str, str | None, str | None]:
    event_id = known["event_id"][row]
    return known["user_id"][row], event_id, None if event_id is not None else known["request_id"][row]


def _shown(known: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> tuple[Shown, ...]:
    positions = known["position"]
    placed = [row for row in rows if positions[row] is not None]
    if known["event_id"][rows[0]] is None or len(placed) < len(rows):
        placed.sort(key=lambda row: positions[row])
    after = itertools.count(positions[placed[-1]] + 1 if placed else 0)
    shown = tuple(
        Shown(
            known["item_id"][row], next(after) if positions[row] is None else positions[row],
            known["score"][row], known["propensity"][row], known["source"][row],
        )
        for row in [*placed, *(row for row in rows if positions[row] is None)]
    )  # fmt: skip
    if shown[-1].position > LAST_POSITION:
        user = known["user_id"][rows[0]]
        raise BadData(
            f"interactions: an impression of user {user!r} has rows without position after place {LAST_POSITION}: give them one"
        )
    return shown


def _engagement(name: str, about: dict[str, Any], known: Mapping[str, Sequence[Any]], row: int) -> Event:
    about |= {
        "item_id": known["item_id"][row], "position": known["position"][row],
        "propensity": known["propensity"][row], "score": known["score"][row],
    }  # fmt: skip
    if name == "view":
        about["dwell_ms"] = known["dwell_ms"][row]
    return cast(Event, ENGAGEMENTS[name](**about))


def _context(known: Mapping[str, Sequence[Any]], row: int) -> Context:
    plain = known["device"][row], known["country"][row], known["hour"][row]
    text = known["context"][row]
    if text is None:
        return NOWHERE if plain == (None, None, None) else Context(*plain)
    return Context(*plain, attributes=attributes.read(text))


def _records(table: pd.DataFrame, known: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows without what is missing; further columns under `attributes`, with what the column of that name holds."""
    names = [name for name in known if name in table]
    further = [str(name) for name in table if name not in names]
    own = zip(*(_column(table, name) for name in names), strict=True)
    extra = zip(*(_column(table, name) for name in further), strict=True) if further else itertools.repeat(())
    for row, values in zip(own, extra, strict=False):
        record = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        objects = attributes.read(record["attributes"]) if "attributes" in record else {}
        yield record | {"attributes": objects | {n: v for n, v in zip(further, values, strict=True) if v is not None}}


def _column(table: pd.DataFrame, name: str) -> Sequence[Any]:
    """A column as Python values, missing as None; all None if there is no such column."""
    return python_values(table[name]) if name in table else [None] * len(table)


def _described(entries: Sequence[Item] | Sequence[User], known: Iterable[str]) -> pd.DataFrame:
    """Items or users as a table: a column for each of the most frequent attributes that can have one, the others together."""
    names = [name for name in known if name != "attributes"]
    columns = set(_columns_of([entry.attributes for entry in entries], names))
    rows = []
    for entry in entries:
        others = {name: value for name, value in entry.attributes.items() if name not in columns}
        own = {name: value for name, value in entry.attributes.items() if name in columns}
        rows.append(own | {name: getattr(entry, name) for name in names} | {"attributes": attributes.write(others)})
    return _frame(rows, known)


def _columns_of(rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Sequence[str]:
    """The attributes of one type whose names are theirs alone, at most `MOST_ATTRIBUTES`, the most frequent ones."""
    kinds: dict[str, set[type]] = defaultdict(set)
    count: Counter[str] = Counter()
    for row in rows:
        for name, value in row.items():
            kinds[name].add(type(value))
            count[name] += 1
    of_one_type = [name for name, _ in count.most_common() if len(kinds[name]) == 1]
    fitting = (name for name in of_one_type if attributes.can_be_column(name, [*known, "attributes"]))
    return list(itertools.islice(fitting, MOST_ATTRIBUTES))


def _frame(rows: Sequence[dict[str, Any]], known: Iterable[str]) -> pd.DataFrame:
    """Columns typed by what they hold: whole numbers stay so beside missing values."""
    names = dict.fromkeys([*known, *itertools.chain.from_iterable(rows)])
    return pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in names})


def _series(values: Sequence[Any]) -> pd.Series:
    kinds = {type(value) for value in values if value is not None}
    return pd.Series(values, dtype="Int64" if kinds == {int} else "float64" if kinds == {float} else object)
