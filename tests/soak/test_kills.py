"""Learner and gatekeeper as processes, killed twenty times each while an audience reacts; `make soak`, about ten minutes."""

import contextlib
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy import embedded
from feed import wire
from feed.errors import Unreadable
from feed.examples import decode_record
from feed.io import kafka
from feed.learning import state
from feed.learning.learner import Learner
from feed.models import snapshot
from feed.registry import Registry
from tests.soak import verdicts
from tests.soak.audience import Feeder, begin
from tests.soak.killing import GATEKEEPER_KILLS, LEARNER_KILLS, ROOT, Kill, Supervised, kill_gatekeeper, kill_learner, learned

LIMIT = 300  # requests with evidence a trial
SECONDS = 800.0  # by then all kills must be done
SEED = 4


@pytest.mark.timeout(1500)
def test_killed_twenty_times_each_the_weights_are_those_of_an_unkilled_run_and_no_trial_is_decided_twice(tmp_path, capsys):
    """The records go into the log while both processes are killed and started anew; then all is computed again without kills.

    A kill of the learner counts as in mid-step after the first snapshot if the dead process had entered a step and not left it,
    which it had written into a page shared with this one before and after each step, and the learner had published a version.
    The weights published last are compared with those of one `Learner` that reads the whole log, with every other bit of its
    state; each verdict in the ledger with that of a gatekeeper which knows the trial's two versions and the log.
    """
    torch.set_num_threads(1)  # as the processes have: sums over several threads are not in one order
    examples = begin(tmp_path)
    registry = Registry(tmp_path / "registry")
    archive = verdicts.Archive(registry, tmp_path / "archive")
    with embedded.start_broker(embedded.free_port(), tmp_path / "broker") as server:
        topic_id = kafka.ensure_topics(server.address, 1, wire.TOPICS)[wire.TRAINING_EXAMPLES.name]
        feeder = Feeder(server.address, registry, examples)
        with capsys.disabled():  # ten minutes of silence would be long
            kills, log, expected = _run(tmp_path, server.address, registry, archive, feeder)
    _the_same(_newest(registry), expected, log)
    lines = registry.ledger()
    ended = verdicts.opened_once_decided_once(lines)
    decided = verdicts.pairs(lines, ended)
    for opened, end in decided:
        found = verdicts.again(opened, log, LIMIT, archive, tmp_path / "again")
        assert verdicts.said(found) == verdicts.said(end), opened
    mid_step = sum(kill.mid_step and kill.published for kill in kills)
    events = Counter(line["event"] for line in lines)
    summary = (
        f"learner killed {len(kills)} times, {mid_step} in mid-step after the first version, "
        f"{sum(kill.publishing for kill in kills)} while publishing, {sum(kill.again for kill in kills)} steps taken again; "
        f"gatekeeper killed {len(GATEKEEPER_KILLS)} times; {len(log)} records, "
        f"{expected.progress.steps} steps, {len(decided)} verdicts computed again; ledger: {dict(events)}"
    )
    with capsys.disabled():
        print(summary)
    assert len(kills) == 20
    assert mid_step >= 15
    assert events["trial"] >= 5
    assert events["rolled back"] + events["promoted"] >= 5  # the first, two by hand, and what undid those
    assert topic_id == decided[0][0]["topic_id"]


def _run(
    folder: Path, broker: str, registry: Registry, archive: verdicts.Archive, feeder: Feeder
) -> tuple[list[Kill], list[kafka.Record], Learner]:
    """Everything that happens in time: how the learner was killed, the log, and the learner that was not.

    When it returns, the killed learner has published all that the log teaches.
    """
    environment = {
        "FEED_KAFKA": broker,
        "FEED_REGISTRY": str(folder / "registry"),
        "FEED_PARTITIONS": "1",
        "FEED_SNAPSHOT_SECONDS": "1.5",
        "FEED_SESSION_SECONDS": "1",
        "FEED_TRIAL_REQUESTS": str(LIMIT),
        "TMPDIR": str(folder),
    }
    page = np.memmap(folder / "page", np.int64, "w+", shape=3)
    marked = [ROOT / "tests" / "soak" / "marked_learner.py", folder / "page"]
    learner = Supervised(marked, environment, folder / "learner.log")
    gatekeeper = Supervised([ROOT / "offline" / "gatekeeper.py"], environment, folder / "gatekeeper.log")
    kills: list[Kill] = []
    over = False

    def tell(who: str, kill: Kill | str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {who} killed {kill}", flush=True)

    def kill_learners(meanwhile: Future[None]) -> None:
        for kill in kill_learner(learner, page, registry, np.random.default_rng([SEED, 0])):
            kills.append(kill)
            tell("learner", kill)
        with learner.running() as running:  # the gatekeeper goes on trying what it publishes
            learner.wait(running, meanwhile.done, SECONDS)

    def kill_gatekeepers() -> None:
        for kill in kill_gatekeeper(gatekeeper, registry, np.random.default_rng([SEED, 1])):
            tell("gatekeeper", kill)

    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        feeding = pool.submit(feeder.run, lambda: over)
        gatekeepers = pool.submit(kill_gatekeepers)
        killing = [gatekeepers, pool.submit(kill_learners, gatekeepers)]
        try:
            while not all(future.done() for future in killing):
                assert time.monotonic() - began < SECONDS, f"{len(kills)} of {len(LEARNER_KILLS)} kills of the learner"
                _raise(feeding, *killing)
                archive.look()
                time.sleep(0.2)
        finally:
            over = True
    _raise(feeding, *killing)
    gatekeeper.finish("--once")
    archive.look()
    log = sorted(kafka.read_topic(broker, wire.TRAINING_EXAMPLES), key=lambda record: record.offset)
    assert [record.offset for record in log] == list(range(len(log)))
    with learner.running() as running:
        expected = _unkilled(log, archive)
        whole = learner.wait(running, lambda: learned(registry)["examples"] >= expected.progress.examples)
        assert whole, f"{learned(registry)} learned, unkilled {expected.progress.examples} examples"
    return kills, log, expected


def _unkilled(log: list[kafka.Record], archive: verdicts.Archive) -> Learner:
    def load(version: str) -> tuple[str, snapshot.Snapshot]:
        return version, snapshot.load(archive.folder(version))

    learner = Learner.begin(*load("v000001"), load)
    _take(learner, log)
    return learner


def _take(learner: Learner, log: list[kafka.Record]) -> None:
    for record in log:
        with contextlib.suppress(Unreadable):
            learner.take(record.offset, decode_record(record.value))


def _newest(registry: Registry) -> Learner:
    """The learner in the version it published last."""
    for version in reversed(registry.versions()):
        if snapshot.read_manifest(registry.folder(version))["created_by"] == state.CREATED_BY:
            return state.load(registry.folder(version), _no_restart)
    raise AssertionError("the learner has published nothing")


def _the_same(last: Learner, expected: Learner, log: list[kafka.Record]) -> None:
    """Every bit is: weights, moments, reservoir, what waits for the next step, position."""
    assert last.progress.examples == expected.progress.examples
    for mine, other in ((last.weights.live, expected.weights.live), (last.weights.average, expected.weights.average)):
        weights = other.state_dict()
        assert {name for name, weight in mine.state_dict().items() if not torch.equal(weight, weights[name])} == set()
    _take(last, log[last.progress.position :])  # a version is published after a step: what came later completes none
    assert last.progress == expected.progress
    assert state.files(last) == state.files(expected)


def _no_restart(version: str) -> tuple[str, snapshot.Snapshot]:
    raise AssertionError(f"nobody asked for {version}")


def _raise(*futures: Future[None]) -> None:
    for future in futures:
        if future.done():
            future.result()
