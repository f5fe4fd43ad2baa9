"""From tables to events, items and users, and back.

Impression rows of one user's request become one `Impression`; an impression row without a request id is a request of its own.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import pandas as pd

from feed.catalogue import Item, User
from feed.dataset.schema import INTERACTIONS, ITEMS, USERS, Dataset
from feed.events import ENGAGEMENTS, Context, Event, Impression, Shown, View, kind, new_event_id

NOWHERE = Context()


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

    A request is where its first row is, its items by position; rows without one follow, numbered on.
    """
    table = dataset.interactions.sort_values("occurred_at", kind="stable")
    known = {name: _column(table, name) for name in INTERACTIONS}
    contexts = _contexts(
        known, {name: _column(table, name) for name in dataset.context if name not in INTERACTIONS}, len(table)
    )
    requests: dict[tuple[str, str], list[int]] = defaultdict(list)
    kinds, users, request_ids = known["event"], known["user_id"], known["request_id"]
    for row, (name, user, request) in enumerate(zip(kinds, users, request_ids, strict=True)):
        if name == "impression" and request is not None:
            requests[user, request].append(row)
    draw = random.Random(0)
    for row, name in enumerate(kinds):
        shown = [row]
        if name == "impression" and request_ids[row] is not None:
            shown = requests[users[row], request_ids[row]]
            if shown[0] != row:
                continue
        about = {
            "event_id": new_event_id(known["occurred_at"][row], draw),
            "user_id": users[row],
            "occurred_at": known["occurred_at"][row],
            "request_id": request_ids[row],
            "arm": known["arm"][row],
            "model_version": known["model_version"][row],
            "context": contexts[row],
        }
        yield Impression(**about, items=_shown(known, shown)) if name == "impression" else _engagement(name, about, known, row)


def from_events(events: Iterable[Event], items: Iterable[Item], users: Iterable[User]) -> Dataset:
    """The tables of these events (rows in their order), items and users.

    An impression without request id takes its event id for one, so that its rows stay together; so does one whose request id
    the user's earlier impressions have used, so that theirs stay apart.
    """
    rows: list[dict[str, Any]] = []
    requests: set[tuple[str, str]] = set()
    context: set[str] = set()
    for event in events:
        context.update(event.context.attributes)
        about = {
            "user_id": event.user_id, "event": kind(event), "occurred_at": event.occurred_at, "request_id": event.request_id,
            "arm": event.arm, "model_version": event.model_version, "device": event.context.device,
            "country": event.context.country, "hour": event.context.hour, **event.context.attributes,
        }  # fmt: skip
        if isinstance(event, Impression):
            about["request_id"] = _request_id(event, requests)
        for one in event.items if isinstance(event, Impression) else (event,):
            own = {"item_id": one.item_id, "position": one.position, "score": one.score, "propensity": one.propensity}
            own["source"] = one.source if isinstance(one, Shown) else None
            own["dwell_ms"] = one.dwell_ms if isinstance(one, View) else None
            rows.append(about | own)
    return Dataset(
        _frame((_row(user, USERS) for user in users), USERS),
        _frame((_row(item, ITEMS) for item in items), ITEMS),
        _frame(rows, INTERACTIONS),
        tuple(sorted(context)),
    )


def _request_id(event: Impression, used: set[tuple[str, str]]) -> str:
    candidates = itertools.chain(
        (event.request_id or event.event_id, event.event_id), (f"{event.event_id}#{n}" for n in itertools.count(2))
    )
    chosen = next(candidate for candidate in candidates if (event.user_id, candidate) not in used)
    used.add((event.user_id, chosen))
    return chosen


def _shown(known: dict[str, Sequence[Any]], rows: Sequence[int]) -> tuple[Shown, ...]:
    positions = known["position"]
    placed = sorted((row for row in rows if positions[row] is not None), key=lambda row: positions[row])
    after = itertools.count(positions[placed[-1]] + 1 if placed else 0)
    return tuple(
        Shown(
            known["item_id"][row], next(after) if positions[row] is None else positions[row],
            known["score"][row], known["propensity"][row], known["source"][row],
        )
        for row in [*placed, *(row for row in rows if positions[row] is None)]
    )  # fmt: skip


def _engagement(name: str, about: dict[str, Any], known: dict[str, Sequence[Any]], row: int) -> Event:
    about |= {
        "item_id": known["item_id"][row], "position": known["position"][row],
        "propensity": known["propensity"][row], "score": known["score"][row],
    }  # fmt: skip
    if name == "view":
        about["dwell_ms"] = known["dwell_ms"][row]
    return cast(Event, ENGAGEMENTS[name](**about))


def _contexts(known: dict[str, Sequence[Any]], further: dict[str, Sequence[Any]], n: int) -> Sequence[Context]:
    plain = zip(known["device"], known["country"], known["hour"], strict=True)
    if not further:
        return [NOWHERE if p == (None, None, None) else Context(*p) for p in plain]
    values = zip(*further.values(), strict=True)
    attributes = [{name: v for name, v in zip(further, row, strict=True) if v is not None} for row in values]
    return [Context(*p, attributes=a) for p, a in zip(plain, attributes, strict=True)]


def _records(table: pd.DataFrame, known: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows without what is missing; further columns under `attributes`."""
    names = [name for name in known if name in table]
    further = [str(name) for name in table if name not in names]
    own = zip(*(_column(table, name) for name in names), strict=True)
    attributes = zip(*(_column(table, name) for name in further), strict=True) if further else itertools.repeat(())
    for row, extra in zip(own, attributes, strict=False):
        record = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        yield record | {"attributes": {n: v for n, v in zip(further, extra, strict=True) if v is not None}}


def _column(table: pd.DataFrame, name: str) -> Sequence[Any]:
    """A column as Python values, missing as None; all None if there is no such column."""
    if name not in table:
        return [None] * len(table)
    values = table[name].astype(object)
    if isinstance(table[name].dtype, pd.DatetimeTZDtype):
        values = pd.Series(table[name].dt.to_pydatetime(), dtype=object)
    return values.where(table[name].notna().to_numpy(), None).tolist()


def _row(entry: Item | User, known: Iterable[str]) -> dict[str, Any]:
    return entry.attributes | {name: getattr(entry, name) for name in known}


def _frame(rows: Iterable[dict[str, Any]], known: Iterable[str]) -> pd.DataFrame:
    """Columns typed by what they hold: whole numbers stay so beside missing values."""
    rows = list(rows)
    names = dict.fromkeys([*known, *itertools.chain.from_iterable(rows)])
    return pd.DataFrame({name: _series([row.get(name) for row in rows]) for name in names})


def _series(values: Sequence[Any]) -> pd.Series:
    """Of one type: numbers beside text become text, as do whole numbers beyond 64 bits."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if kinds == {int} and min(present) >= -(2**63) and max(present) < 2**63:
        return pd.Series(values, dtype="Int64")
    if float in kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    if kinds & {int, float}:
        values = [None if value is None else str(value) for value in values]
    return pd.Series(values, dtype=object)
