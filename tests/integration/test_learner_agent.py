"""The learner agent as a process, on a real broker and a real registry."""

import contextlib
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from msgspec.structs import replace

from feed import wire
from feed.errors import BadModel, Unreadable
from feed.examples import RaiseRate, decode_record
from feed.io import kafka
from feed.learning import state
from feed.learning.learner import STEP, Learner
from feed.models import snapshot
from feed.registry import Registry
from tests.integration.service import service
from tests.learning import taught
from tests.learning.taught import bits, example

PATIENCE = 90.0
STEPS, KILLS = 80, 2  # a start after a kill takes some 20 seconds: the group waits for the dead member


def learner_agent(broker: str, registry: Path, log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {
        "FEED_KAFKA": broker,
        "FEED_REGISTRY": str(registry),
        "FEED_PARTITIONS": "1",
        "FEED_SNAPSHOT_SECONDS": "0.3",
        "FEED_SESSION_SECONDS": "2",
    }
    return service("stream_processors/learner.py", log, settings)


def learned(registry: Registry) -> int:
    """How many examples the newest version has learned from."""
    try:
        return int(snapshot.read_manifest(registry.folder(registry.versions()[-1])).get("examples", 0))
    except BadModel:  # pruned between the two looks
        return 0


def wait_until(condition, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)


def records() -> list[bytes]:
    """Examples in order, some twice; a command, unreadable bytes and an example without rows between; the nth at offset n."""
    found = []
    for n in range(STEPS * STEP):
        found.append(wire.encode(example(n)))
        if n % 50 == 49:
            found.append(wire.encode(example(n - 20)))
        if n == STEPS // 4 * STEP + 5:
            found += [b"{", wire.encode(replace(example(n), rows=())), wire.encode(RaiseRate(3.0, 10 * STEP, "drift"))]
    return found


def unbroken(values: list[bytes]) -> Learner:
    learner = taught.learner()
    for offset, value in enumerate(values):
        with contextlib.suppress(Unreadable):
            learner.take(offset, decode_record(value))
    return learner


def test_killed_again_and_again_the_weights_are_those_of_an_unkilled_run_bit_for_bit(own_broker, tmp_path):
    torch.set_num_threads(1)
    kafka.ensure_topics(own_broker, 1, wire.TOPICS)
    registry, (_, start), log = Registry(tmp_path / "registry"), taught.world(), tmp_path / "agent.log"
    registry.promote(registry.publish(lambda folder: snapshot.save(folder, start.model, start.space, start.manifest)))
    values = records()
    with kafka.Sender(own_broker) as sender:
        for value in values:
            sender.send_raw(wire.TRAINING_EXAMPLES.name, 0, b"", value)
    for kill in range(KILLS + 1):
        at_least = STEPS * STEP * (kill + 1) // (KILLS + 2) if kill < KILLS else STEPS * STEP
        with learner_agent(own_broker, tmp_path / "registry", log) as process:
            wait_until(lambda at_least=at_least: learned(registry) >= at_least, process, log)
            if kill < KILLS:
                process.kill()  # steps go on after each version: in the middle of one
                process.wait()
                assert learned(registry) < STEPS * STEP, "killed too late to show anything"
    last = state.load(registry.folder(registry.versions()[-1]), taught.no_restart)
    expected = unbroken(values)
    assert last.progress.examples == expected.progress.examples == STEPS * STEP
    assert last.progress.position <= expected.progress.position
    assert bits(last) == bits(expected)
    assert last.progress.guard == expected.progress.guard
