"""Any valid event, item and user, for property tests."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from feed.catalogue import Item, User
from feed.events import ENGAGEMENTS, LARGEST_NUMBER, LARGEST_WHOLE, LEAST_PROPENSITY, Context, Event, Impression, Shown

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
IDS = st.one_of(st.integers(-5, 10**15).map(str), TEXT)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
PROPENSITIES = st.floats(LEAST_PROPENSITY, 1)
NUMBERS = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
# one type a name, as in a table; names near no column of the format
WHOLE = st.integers(-LARGEST_WHOLE, LARGEST_WHOLE)
ATTRIBUTE_TYPES = {"weather": TEXT, "x y": TEXT, "Stimmung": WHOLE, "n,1": NUMBERS}
ATTRIBUTES = st.fixed_dictionaries({}, optional=ATTRIBUTE_TYPES)
CONTEXTS = st.builds(Context, st.none() | TEXT, st.none() | TEXT, st.none() | st.integers(0, 23), ATTRIBUTES)
SHOWN = st.builds(Shown, IDS, st.just(0), st.none() | NUMBERS, st.none() | PROPENSITIES, st.none() | TEXT)


def _common(request_ids: st.SearchStrategy[str | None]) -> dict[str, st.SearchStrategy[object]]:
    return {
        "event_id": IDS, "user_id": IDS, "occurred_at": TIMES, "request_id": request_ids, "arm": st.none() | TEXT,
        "model_version": st.none() | TEXT, "context": CONTEXTS,
    }  # fmt: skip


def _placed(shown: list[Shown]) -> tuple[Shown, ...]:
    return tuple(Shown(s.item_id, place, s.score, s.propensity, s.source) for place, s in enumerate(shown))


IMPRESSIONS = st.builds(Impression, **_common(st.none() | IDS), items=st.lists(SHOWN, min_size=1, max_size=5).map(_placed))
ENGAGED = [
    st.builds(
        made, **_common(st.none() | IDS), item_id=IDS, position=st.none() | st.integers(0, 1000),
        propensity=st.none() | PROPENSITIES, score=st.none() | NUMBERS,
        **({"dwell_ms": st.none() | st.integers(0, 86_400_000)} if name == "view" else {}),
    )
    for name, made in ENGAGEMENTS.items()
]  # fmt: skip
EVENTS: st.SearchStrategy[Event] = st.one_of(IMPRESSIONS, *ENGAGED)
ITEMS = st.builds(
    Item, item_id=IDS, title=st.none() | TEXT, created_at=st.none() | TIMES, category=st.none() | TEXT,
    tags=st.lists(TEXT, unique=True, max_size=4).map(tuple), creator_id=st.none() | IDS, attributes=ATTRIBUTES,
    available=st.none() | st.booleans(), expires_at=st.none() | TIMES,
)  # fmt: skip
USERS = st.builds(
    User, user_id=IDS, signed_up_at=st.none() | TIMES, platform=st.none() | TEXT, country=st.none() | TEXT,
    age_group=st.none() | TEXT, gender=st.none() | TEXT, attributes=ATTRIBUTES,
)  # fmt: skip
