"""Random records of the whole grammar of the wire, good ones and bad ones, and what must have come of each."""

import json
import time
from collections import defaultdict
from typing import NamedTuple, TypeVar

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from feed import wire
from feed.events import utc
from feed.examples import Example
from feed.features import BatchState
from feed.io import kafka
from feed.io.feeds import META, FeedStore
from feed.io.publish import wait_for_features
from feed.io.redis import connect
from feed.learning.learner import STEP
from feed.models import snapshot
from feed.models.snapshot import Snapshot
from tests import grammar
from tests.integration.service import wait_until
from tests.integration.whole import PARTITIONS, Whole
from tests.learning import taught

T = TypeVar("T")
PEOPLE = ("1", "2", "3", "007", "nan", "a=b;c:1", "{x}", "'\"\\", "日本", "🙂" * 128, "x" * 128, " a ", "b:meta", "é\n", "\x00")
THINGS = (*(str(k) for k in range(40)), "i=1;j:2", "🙂" * 128, "\x01" * 128, "content", "taken", "5m:3")
JUNK = (
    *(b"", b"{", b"null", b"[]", b'"x"', b"{}", b"1e999", b"\xff\xfe\x00", b"\x00" * 99, b'{"event": "like", "event": "like"}'),
    *(b"[" * 5000, b'{"a":' * 2000 + b"1" + b"}" * 2000),
)
INJECTED, LEARNABLE = 1000, 1001  # partitions that examples made here say they come from: there are none such


class Sent(NamedTuple):
    """One record, whether it is usable, and where it goes."""

    topic: wire.Topic
    partition: int
    key: bytes
    value: bytes
    good: bool


@st.composite
def _records(draw: st.DrawFn) -> Sent:
    topic = draw(st.sampled_from([wire.INTERACTIONS] * 6 + [wire.ITEMS, wire.USERS]))
    partitions = topic.partitions or PARTITIONS
    kind = draw(st.sampled_from(["good"] * 6 + ["beyond"] * 3 + ["junk", "elsewhere"]))
    if kind == "junk":
        return Sent(topic, draw(st.integers(0, partitions - 1)), b"k", draw(st.sampled_from(JUNK)), False)
    if kind == "beyond":
        value = json.dumps(draw(grammar.beyond(grammar.TYPES[topic.name]))).encode()
        return Sent(topic, draw(st.integers(0, partitions - 1)), b"k", value, False)
    message = draw(grammar.within(grammar.TYPES[topic.name]))
    for name, ids in (("user_id", PEOPLE), ("item_id", THINGS)):
        if name in message and draw(st.integers(0, 9)):
            message[name] = draw(st.sampled_from(ids))
    if topic is wire.INTERACTIONS and draw(st.booleans()):
        message["occurred_at"] = utc(time.time() - draw(st.integers(0, 7200))).isoformat()
    key = str(message["item_id" if topic is wire.ITEMS else "user_id"])
    partition = wire.partition_of(key, partitions)
    misplaced = kind == "elsewhere" and topic is not wire.ITEMS
    return Sent(
        topic,
        (partition + 1) % partitions if misplaced else partition,
        key.encode(),
        json.dumps(message).encode(),
        not misplaced,
    )


@st.composite
def _examples(draw: st.DrawFn) -> bytes:
    """Records of `training-examples` that are none, and some that are."""
    made = msgspec.to_builtins(taught.example(draw(st.integers(0, 10**6)), source=INJECTED))
    if draw(st.integers(0, 3)):
        return json.dumps(draw(grammar.wrong_in_one_place(Example, made))).encode()
    return draw(st.sampled_from([*JUNK, b'{"record": "raise_rate", "factor": 1e300, "examples": 5, "why": ""}',
                                 b'{"record": "raise_rate", "factor": 1, "examples": -5, "why": ""}',
                                 b'{"record": "restart", "version": 7, "why": ""}']))  # fmt: skip


def drawn(strategy: st.SearchStrategy[T], n: int, at: int) -> list[T]:
    """About n values, the same for the same `at`."""
    found: list[T] = []

    @seed(at)
    @settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found


class Fuzz:
    """Sends rounds of records into a whole system and checks after each what has come of all so far."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self._examples = 0
        self._sent: dict[tuple[str, int], list[Sent]] = defaultdict(list)

    def round(self, at: int, n: int) -> None:
        """One more round of about n records; raises `AssertionError` naming what is not as it must be."""
        whole = self._whole
        with kafka.Sender(whole.broker) as sender:
            for sent in drawn(_records(), n, at):
                sender.send_raw(sent.topic.name, sent.partition, sent.key, sent.value)
                self._sent[sent.topic.name, sent.partition].append(sent)
            for value in drawn(_examples(), n // 10, at):
                sender.send_raw(wire.TRAINING_EXAMPLES.name, 0, b"k", value)
            sender.flush()
            wait_for_features(
                whole.store,
                whole.topic_ids,
                {p: n for p, n in sender.positions().items() if p[0] != wire.TRAINING_EXAMPLES.name},
            )
        self._check_letters()
        self._check_people()
        self._check_followers()
        assert not whole.ended()
        for name in whole.processes:
            assert "programming error" not in whole.said(name), f"{name} has met what it does not know"

    def _check_letters(self) -> None:
        bad = {
            (topic, partition, offset): sent.value
            for (topic, partition), of in self._sent.items()
            for offset, sent in enumerate(of)
            if not sent.good
        }
        letters = wait_until(lambda: len(found := self._of_records()) >= len(bad) and found, "the last dead letter")
        places = [(letter.topic, letter.position.partition, letter.position.offset) for letter in letters]
        assert sorted(places) == sorted(bad)  # each once, and none of a good one
        assert all(letter.value == bad[place] for letter, place in zip(letters, places, strict=True))

    def _of_records(self) -> list[wire.DeadLetter]:
        return [letter for letter in self._whole.letters() if letter.value is not None]

    def _check_people(self) -> None:
        expected = BatchState()
        for (topic, _), of in self._sent.items():
            for sent in of:
                if sent.good and topic == wire.INTERACTIONS.name:
                    expected.apply(wire.decode_event(sent.value))
                elif sent.good and topic == wire.USERS.name:
                    expected.user(wire.decode_user(sent.value).user_id)
        ids = sorted(expected.users)
        store = self._whole.store
        assert sorted(store.all_user_ids()) == ids
        for user_id, state in zip(ids, store.users(ids), strict=True):
            for name in ("events", "dwell", "seen", "recent", "last", "context"):
                assert state is not None
                assert state[name] == expected.users[user_id][name], (user_id, name)
        feeds = FeedStore(connect(self._whole.redis_url))
        with_feed = [user_id for user_id in ids if not user_id.endswith(META)]
        wait_until(lambda: None not in feeds.read_many(with_feed), "everybody's feed")
        described = {
            wire.decode_item(sent.value).item_id for (topic, _), of in self._sent.items() for sent in of
            if sent.good and topic == wire.ITEMS.name
        }  # fmt: skip
        assert set(store.contents(sorted(described))) == described

    def _check_followers(self) -> None:
        whole = self._whole
        wait_until(lambda: whole.lag("monitor", wire.TRAINING_EXAMPLES) <= 1, "the monitor's last record")
        so_far = len(list(kafka.read_topic(whole.broker, wire.TRAINING_EXAMPLES)))
        with kafka.Sender(whole.broker) as sender:  # the learner goes on behind all of it, for two steps
            for _ in range(2 * STEP):
                self._examples += 1
                sender.send(wire.TRAINING_EXAMPLES, "k", taught.example(self._examples, source=LEARNABLE))

        def learned() -> Snapshot | None:
            found = snapshot.load(whole.registry.folder(whole.registry.versions()[-1]))
            return found if (found.manifest.get("position") or {}).get("offset", 0) > so_far else None

        wait_until(learned, "a version that has learned behind all of it").require_finite()
