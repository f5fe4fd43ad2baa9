"""Redis loses what it held and workers are killed, again and again, while events flow; `make soak`, some minutes."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.integration.service import ROOT
from tests.integration.test_features_agent import wait_until
from tests.integration.test_redis_loss import System, half_of, some_events

ROUNDS, SEED = 30, 12
EVENTS_A_SECOND = 60


@pytest.mark.timeout(1500)
def test_after_thirty_losses_and_kills_everything_equals_a_recount(tmp_path, capsys):
    """Two workers. In each round Redis loses something, or a worker is killed or frozen beyond its session, or both."""
    system, draw, over = System(tmp_path), random.Random(SEED), threading.Event()
    settings = {
        "FEED_KAFKA": system.broker, "FEED_REDIS": f"redis://{system.redis.address}/0", "FEED_PARTITIONS": "4",
        "FEED_SESSION_SECONDS": "2",
    }  # fmt: skip
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with system.log.open("ab") as output:
            command = [sys.executable, str(ROOT / "stream_processors/features.py")]
            workers.append(subprocess.Popen(command, env={**settings, "TMPDIR": str(tmp_path)}, stdout=output, stderr=output))

    def flow() -> None:
        for event in some_events(100_000, SEED, step=1.0):  # within hours: no bucket of an item expires
            if over.is_set():
                return
            system.send(event)
            time.sleep(1 / EVENTS_A_SECOND)

    def kill() -> None:
        worker = workers.pop(draw.randrange(len(workers)))
        worker.kill()
        worker.wait()
        start()

    def freeze() -> None:
        worker = draw.choice(workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(4)
        worker.send_signal(signal.SIGCONT)

    def key() -> None:
        system.client.delete(draw.choice(sorted(system.client.keys("*")) or [b"none"]))

    losses: dict[str, Callable[[], object]] = {
        "everything": system.client.flushall,
        "half": lambda: half_of(system.client, draw.randrange(1000)),
        "a key": key,
        "an older file": system.restart_with_its_file,
        "nothing": lambda: None,
    }
    troubles: dict[str, Callable[[], object]] = {"kill": kill, "freeze": freeze, "none": lambda: None}
    flowing = threading.Thread(target=flow)
    try:
        for _ in range(2):
            start()
        system.describe()
        flowing.start()
        system.client.save()
        for n in range(ROUNDS):
            loss, trouble = draw.choice(sorted(losses)), draw.choice(sorted(troubles))
            with capsys.disabled():
                print(f"round {n}: {len(system.sent)} events sent, lost {loss}, {trouble}", flush=True)
            losses[loss]()
            system.client.hdel("positions", "rebuilds")  # or it would have to wait longer and longer
            time.sleep(draw.uniform(0, 3))
            troubles[trouble]()
            time.sleep(draw.uniform(0, 6))
            if draw.random() < 0.3:
                system.client.save()
        over.set()
        flowing.join()
        wait_until(lambda: all(worker.poll() is None for worker in workers), "that both workers live")
        system.client.hdel("positions", "rebuilds")
        system.folded()
        system.equals_a_recount()
    finally:
        over.set()
        for worker in workers:
            worker.kill()
            worker.wait()
        system.close()
