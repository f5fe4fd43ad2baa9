"""The learner agent with one batch after the other, on a real registry."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from feed import wire
from feed.examples import Restart
from feed.learning import state
from feed.learning.learner import STEP
from feed.learning.loss import viewed
from feed.models import snapshot
from feed.models.examination import Examination
from feed.registry import Registry
from stream_processors.learner import LearnerAgent
from tests.learning import taught
from tests.learning.taught import bits, example

LOG = [wire.encode(example(n)) for n in range(4 * STEP)]


class OneBatch(SimpleNamespace):
    """What an agent sees of a batch."""

    def __init__(self, start: int, end: int, log=LOG):
        records = [SimpleNamespace(offset=k, value=log[k]) for k in range(start, end)]
        super().__init__(
            tp="training-examples/0", start=start, end=end, records=records, stale=False, acked=0, touched=0, rewound=None
        )

    def ack(self):
        self.acked += 1

    def touch(self):
        self.touched += 1

    async def rewind(self, offset):
        self.rewound = offset


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def registry(tmp_path):
    registry, (_, start) = Registry(tmp_path), taught.world()
    registry.promote(registry.publish(lambda folder: snapshot.save(folder, start.model, start.space, start.manifest)))
    return registry


def agent(registry, topic_id="T", clock=None) -> LearnerAgent:
    ticks = iter(range(0, 10**6, 100))
    return LearnerAgent(registry, topic_id, 15.0, clock or (lambda: float(next(ticks))))


def apply(of: LearnerAgent, *batches: OneBatch, owner: bool = True) -> None:
    async def go() -> None:
        for batch in batches:
            await of.apply(batch)
        await of.publish(owner)

    asyncio.run(go())


def unbroken(end: int) -> list[bytes]:
    learner = taught.learner()
    for n in range(end):
        learner.take(n, example(n))
    return bits(learner)


def newest(registry: Registry):
    return state.load(registry.folder(registry.versions()[-1]), taught.no_restart)


def test_batches_are_acknowledged_when_a_published_challenger_holds_them(registry):
    learner, batches = agent(registry), (OneBatch(0, 100), OneBatch(100, 150))
    apply(learner, *batches, owner=False)
    assert [batch.acked for batch in batches] == [0, 0]
    assert all(batch.touched for batch in batches)  # waiting is no stall
    assert registry.challenger() is None
    apply(learner)
    assert [batch.acked for batch in batches] == [1, 1]
    assert registry.challenger() == registry.versions()[-1] == "v000002"
    assert bits(newest(registry)) == unbroken(150)
    manifest = snapshot.read_manifest(registry.folder("v000002"))
    assert (manifest["parent"], manifest["position"]["offset"]) == ("v000001", 150)


def test_nothing_is_published_without_a_new_step_nor_before_it_is_due(registry):
    time = [0.0]
    learner = agent(registry, clock=lambda: time[0])
    apply(learner, OneBatch(0, 150))
    assert registry.versions() == ["v000001"]
    time[0] = 15.0
    apply(learner)
    assert registry.versions() == ["v000001", "v000002"]
    time[0] = 30.0
    apply(learner, OneBatch(150, 160))
    assert registry.versions() == ["v000001", "v000002"]


def test_a_new_process_rewinds_to_the_version_it_goes_on_from(registry):
    apply(agent(registry), OneBatch(0, 130))
    second, beyond = agent(registry), OneBatch(170, 200)
    apply(second, beyond)
    assert (beyond.rewound, beyond.acked) == (130, 0)
    apply(second, OneBatch(100, 256))  # what is before is passed over
    assert bits(newest(registry)) == unbroken(256)


def test_an_owner_whose_memory_is_behind_takes_the_newest_version(registry):
    first, second = agent(registry), agent(registry)
    apply(first, OneBatch(0, 70))
    apply(second, OneBatch(0, 70))
    apply(second, OneBatch(70, 200))
    batch = OneBatch(200, 256)
    apply(first, batch)
    assert batch.rewound is None
    assert bits(newest(registry)) == unbroken(256)


def test_a_corrupt_version_is_passed_over_for_the_one_before(registry):
    first = agent(registry)
    apply(first, OneBatch(0, 70))
    apply(first, OneBatch(70, 140))
    (registry.folder("v000003") / state.MEMORY).write_bytes(b"")
    batch = OneBatch(140, 256)
    second = agent(registry)
    apply(second, batch)
    assert batch.rewound == 70
    apply(second, OneBatch(70, 256))
    assert bits(newest(registry)) == unbroken(256)


def test_a_version_learned_from_another_log_is_not_gone_on_from(registry):
    apply(agent(registry, topic_id="of a broker before"), OneBatch(0, 200))
    batch = OneBatch(0, 128)
    apply(agent(registry), batch)
    assert batch.rewound is None
    assert newest(registry).progress.parent == "v000001"
    assert bits(newest(registry)) == unbroken(128)


def test_unreadable_records_are_passed_over(registry):
    log = [LOG[0], b"{", b'{"record":"other"}', *LOG[1:64]]
    apply(agent(registry), OneBatch(0, len(log), log))
    assert newest(registry).progress.position == len(log)
    assert bits(newest(registry)) == unbroken(64)


@pytest.mark.parametrize(("named", "begun_from"), [("v000002", "v000002"), ("v000009", "v000001")])
def test_a_restart_begins_from_the_named_version_or_from_the_champion_if_that_is_gone(registry, named, begun_from):
    apply(agent(registry), OneBatch(0, 64))
    log = [*LOG[:64], wire.encode(Restart(named, "refused")), *LOG[64:]]
    second = agent(registry)
    apply(second, OneBatch(64, 129, log))
    assert snapshot.read_manifest(registry.folder("v000003"))["parent"] == begun_from
    assert newest(registry).progress.since == 1


def test_a_held_learner_is_published_once_with_the_reason(registry):
    learner = agent(registry)
    apply(learner, OneBatch(0, 64))
    assert learner._learner is not None
    learner._learner.progress.guard.held = "the loss is nan"
    batch = OneBatch(64, 192)
    apply(learner, batch)
    assert batch.acked == 1
    later = OneBatch(192, 256)
    apply(learner, later)
    assert later.acked == 1
    assert registry.versions() == ["v000001", "v000002", "v000003"]
    assert json.loads((registry.folder("v000003") / snapshot.MANIFEST).read_text())["held"] == "the loss is nan"
    held = snapshot.load(registry.folder("v000003"))
    assert held.space.fingerprint == learner._learner.space.fingerprint


def test_without_a_champion_the_agent_waits_for_one(tmp_path, monkeypatch):
    registry, (_, start) = Registry(tmp_path), taught.world()
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        registry.promote(registry.publish(lambda folder: snapshot.save(folder, start.model, start.space, start.manifest)))

    monkeypatch.setattr("stream_processors.transport.asyncio.sleep", sleep)
    apply(agent(registry), OneBatch(0, 64))
    assert len(slept) == 1
    assert bits(newest(registry)) == unbroken(64)


def test_the_first_view_in_a_stream_without_views_is_told_once(tmp_path):
    """Shown items without one are no evidence from there on."""
    registry, (_, start) = Registry(tmp_path), taught.world()
    looks = Examination(np.array([1.0, 0.5]), 0.3)
    registry.promote(
        registry.publish(
            lambda folder: snapshot.save(folder, start.model, start.space, start.manifest, examination=looks)
        )
    )  # fmt: skip
    first = next(n for n in range(4 * STEP) if viewed(example(n)))
    with capture_logs() as said:
        apply(agent(registry), OneBatch(0, 2 * STEP))
    assert [line["offset"] for line in said if "views say from now on" in line["event"]] == [first]
