"""Kinds of engagement of one's own: what the setting may say, and that everything asks the one table."""

import json

import pytest

from feed import events, kinds, settings, wire
from feed.catalogue import Item
from feed.errors import BadSetting, Unreadable
from feed.events import COMMON, ENGAGEMENTS, KINDS, NEGATIVES, POSITIVES, TRAITS, Engagement, Kind, utc
from feed.examples import Row
from feed.features import BatchState, consumed
from feed.features.frozen import ItemFeatures
from feed.models.pairs import Log, pairs_of

SHOP = "purchase=positive,weight=3,consumes; skip=negative;save=positive ;queue=neutral"


def made(name: str, item: str, at: float = 0.0, user: str = "u") -> Engagement:
    return ENGAGEMENTS[name](event_id=f"{name}{item}{at}", user_id=user, item_id=item, occurred_at=utc(1.7e9 + at))


@pytest.fixture
def shop() -> None:
    events.adopt(kinds.parse(SHOP))


def test_the_setting_says_of_each_kind_what_it_says_of_its_item() -> None:
    assert kinds.parse(SHOP) == (
        Kind("purchase", positive=True, weight=3.0, lately=1.0, consumes=True),
        Kind("skip", negative=True, weight=-1.0, lately=-0.5, consumes=False),
        Kind("save", positive=True, weight=1.0, lately=1.0, consumes=False),
        Kind("queue", consumes=False),
    )
    assert kinds.parse("") == ()
    for one in kinds.parse(SHOP):
        assert kinds.parse(str(one)) == (one,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Purchase=positive", "'Purchase' in 'Purchase=positive' is no name: a letter from a to z"),
        (f"{'x' * 33}=positive", "is no name"),
        ("a:b=positive", "is no name"),
        ("like=positive", "'like' stands for something else already"),
        ("impression=neutral", "'impression' stands for something else already"),
        ("first=positive", "'first' stands for something else already"),
        ("buy=positive;buy=negative", "gives buy twice"),
        ("buy", "buy is to be one of positive, negative, neutral"),
        ("buy=weight=2", "buy is to be one of positive"),
        ("buy=positive,negative", "buy is to be one of positive"),
        ("buy=positive,wieght=2", "'wieght=2' of buy is none of positive, negative, neutral, weight=NUMBER, consumes"),
        ("buy=positive,weight=much", "weight=much of buy is to be a number above 0, at most 100"),
        ("buy=positive,weight=-1", "weight=-1 of buy"),
        ("buy=positive,weight=nan", "weight=nan of buy"),
        ("buy=neutral,weight=1", "buy is neutral, so it has no weight"),
        (";".join(f"k{n}=neutral" for n in range(17)), "names 17 kinds, at most 16"),
    ],
)
def test_what_the_setting_cannot_be_is_named(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match=f"FEED_KINDS.*{message}"):
        kinds.parse(text)
    monkeypatch.setenv("FEED_KINDS", text)
    with pytest.raises(BadSetting, match=message):
        settings.load()


def test_who_loads_the_settings_has_their_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_KINDS", SHOP)
    settings.load()
    assert list(KINDS) == ["impression", *(one.name for one in COMMON), "purchase", "skip", "save", "queue"]
    assert {"click", "like", "share", "comment", "purchase", "save"} == POSITIVES
    assert {"hide", "skip"} == NEGATIVES
    monkeypatch.delenv("FEED_KINDS")
    settings.load()
    assert list(TRAITS.values()) == list(COMMON)


@pytest.mark.usefixtures("shop")
def test_an_event_of_ones_own_kind_is_an_event_on_the_wire_like_any() -> None:
    event = made("purchase", "7")
    message = json.loads(wire.encode(event))
    assert message["event"] == "purchase"
    assert message | {"event": "like"} == json.loads(wire.encode(made("like", "7"))) | {"event_id": event.event_id}
    assert wire.decode_event(wire.encode(event)) == event
    assert isinstance(wire.decode_event(wire.encode(event)), Engagement)
    assert made("save", "7") != made("queue", "7")
    events.adopt()
    with pytest.raises(
        Unreadable, match=r"event 'purchase' is none of .*hide: name it in FEED_KINDS \(docs/settings\.md\), or"
    ):
        wire.decode_event(json.dumps(message).encode())


@pytest.mark.usefixtures("shop")
def test_what_a_kind_says_of_its_item_is_in_the_features() -> None:
    state = BatchState([Item(item_id=name, category=f"of {name}") for name in "abcd"])
    for at, (name, item) in enumerate([("purchase", "a"), ("skip", "b"), ("save", "c"), ("queue", "d")]):
        state.apply(made(name, item, at))
    user = state.user("u")
    assert set(consumed(user)) == {"a"}
    assert user["recent"] == ["a", "c"]
    weights = {token: weight for token, (weight, _) in user["categories"].items()}
    assert weights == {"of a": 3.0, "of b": -1.0, "of c": 1.0, "of d": 0.0}
    lately = {token: weight for token, (weight, _) in user["lately_categories"]["weights"].items()}
    assert lately == {"of a": 1.0, "of b": -0.5, "of c": 1.0, "of d": 0.0}
    assert user["events"] == {"purchase": 1, "skip": 1, "save": 1, "queue": 1}
    table = state.items
    assert [table.popularity(state.now)[table.row(item)] > 0 for item in "abcd"] == [True, False, True, False]
    assert [table.taken(item) for item in "abcd"] == [1, 0, 1, 1]  # who queues it without a feed has chosen it


@pytest.mark.usefixtures("shop")
def test_models_learn_from_positives_of_any_kind_and_nothing_beside_a_negative() -> None:
    items = [Item(item_id=name) for name in "abcde"]
    happened = [("purchase", "a"), ("skip", "b"), ("save", "c"), ("skip", "c"), ("queue", "d"), ("view", "e")]
    log = Log(items, [], [made(name, item, at) for at, (name, item) in enumerate(happened)])
    assert {pair.item_id: pair.positive for pair in pairs_of(log)} == {
        "a": True, "b": False, "c": False, "d": False, "e": False,
    }  # fmt: skip

    def row(*labels: str) -> bool:
        return Row(ItemFeatures("a", ()), labels=dict.fromkeys(labels, 1)).positive

    assert (row("purchase"), row("view", "save"), row("save", "skip"), row("queue")) == (True, True, False, False)
