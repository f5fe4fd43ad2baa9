"""What the features agent makes of one batch, on a real Redis."""

from types import SimpleNamespace

from feed import wire
from feed.catalogue import Item
from feed.events import Impression, Like, Shown, utc
from feed.examples import decode_record
from feed.io.redis import FeatureStore, connect
from feed.wire import Position
from stream_processors.features import Folder


def records(*values: bytes) -> list[SimpleNamespace]:
    return [SimpleNamespace(offset=offset, key=b"1", value=value) for offset, value in enumerate(values)]


def test_an_example_larger_than_a_record_may_be_is_a_dead_letter_that_names_its_user_and_the_others_are_sent(redis_url):
    store, folder = FeatureStore(connect(redis_url)), Folder(1, 300.0, 1800.0)
    items = [Item(item_id=k, tags=tuple(f"{tag}".rjust(256, "x") for tag in range(64))) for k in range(200)]
    stocked = folder.fold(wire.ITEMS, records(*map(wire.encode, items)), Position("C", 0, 200), store, store.load_items())
    assert store.apply(stocked, 0, "C", 0).done
    events = [
        Impression(event_id=name, user_id="1", occurred_at=utc(at), items=tuple(Shown(item_id=k, position=k) for k in range(n)))
        for name, at, n in (("large", 1.7e9, 200), ("small", 1.7e9 + 1, 5))
    ]
    later = Like(event_id="later", user_id="1", item_id="0", occurred_at=utc(1.7e9 + 4000))
    change = folder.fold(
        wire.INTERACTIONS, records(*map(wire.encode, (*events, later))), Position("I", 0, 3), store, store.load_items()
    )

    by_topic = {message.topic: message for message in change.messages}
    letter = wire.decode_letter(by_topic[wire.DEAD_LETTERS.name].value)
    assert "example large of user 1 has" in letter.reason
    assert "show fewer items" in letter.reason
    assert (letter.topic, letter.position) == ("interactions", Position("I", 0, 3))
    assert (letter.key, letter.value) == (b"1", None)
    assert decode_record(by_topic[wire.TRAINING_EXAMPLES.name].value).example_id == "small"
    assert all(len(message.value) < wire.LARGEST for message in change.messages)


def test_an_unusable_record_too_large_for_a_dead_letter_leaves_one_that_says_where_it_is(redis_url):
    store, folder = FeatureStore(connect(redis_url)), Folder(1, 300.0, 1800.0)
    value = b'["' + bytes(wire.LARGEST)  # a compressed batch may hold it
    change = folder.fold(wire.INTERACTIONS, records(b"{}", value), Position("I", 0, 2), store, store.load_items())
    small, large = (wire.decode_letter(message.value) for message in change.messages)
    assert small.value == b"{}"
    assert (large.position, large.value) == (Position("I", 0, 1), None)
    assert "too large for dead-letters" in large.reason
