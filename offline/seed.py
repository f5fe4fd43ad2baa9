"""Fill an empty system: generate a world (or take a log), publish it, wait for its features, bootstrap a model, rank everybody.

`python offline/seed.py`: on a system that has a champion it does nothing; stopped half-way it goes on where it was.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from feed import dataset, logs, settings, wire
from feed.errors import FeedError, run
from feed.io import kafka, publish
from feed.io.redis import FeatureStore, claim_topics, connect
from feed.registry import Registry
from feed.settings import Settings
from offline import bootstrap, rank

log = structlog.get_logger()
ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60.0  # without any progress of the features


def main() -> None:
    """Seed once."""
    configuration = settings.load()
    logs.setup(configuration, "seed")
    if champion := Registry(configuration.registry).champion():
        log.info("nothing to do: there is a champion", version=champion.version)
    elif configuration.seed_data == "none":
        log.info("nothing to do: FEED_SEED_DATA=none")
    else:
        with tempfile.TemporaryDirectory(prefix="feedloop-seed-") as folder:
            seed(configuration, _data(configuration, Path(folder)))


def seed(configuration: Settings, data: Path) -> None:
    """Publish the log in `data` and make the first champion and everybody's feed of it."""
    topic_ids = kafka.ensure_topics(configuration.kafka, configuration.partitions)
    client = connect(configuration.redis)
    claim_topics(client, topic_ids)
    with kafka.Sender(configuration.kafka) as sender:
        positions = publish.publish_log(sender, client, data)
    log.info("published; waiting for the features to get there")
    wait_for_features(FeatureStore(client), topic_ids, positions)
    bootstrap.run(data, configuration.registry, seed=configuration.world_seed)
    rank.run(configuration, output=configuration.registry.parent / "rankings.csv")


def wait_for_features(store: FeatureStore, topic_ids: Mapping[str, str], targets: Mapping[tuple[str, int], int]) -> None:
    """Wait until every position has been applied. Raises `FeedError` after a minute without progress."""
    before, since = -1, time.monotonic()
    while True:
        missing = {
            (topic, partition): target - store.position(topic_ids[topic], partition)
            for (topic, partition), target in targets.items()
            if topic in (wire.INTERACTIONS.name, wire.USERS.name, wire.ITEMS.name)
        }
        left = sum(max(n, 0) for n in missing.values())
        if left == 0:
            return
        if left != before:
            log.info("features are catching up", records_left=left)
            before, since = left, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            where = ", ".join(f"{topic}/{partition}" for (topic, partition), n in missing.items() if n > 0)
            raise FeedError(
                f"no progress for {PATIENCE_SECONDS:.0f} s, {left} records left in {where}: is the features agent running?"
            )
        time.sleep(0.5)


def _data(configuration: Settings, folder: Path) -> Path:
    if configuration.seed_data != "simulated":
        return Path(configuration.seed_data)
    options = {
        "--users": configuration.seed_users,
        "--items": configuration.seed_items,
        "--interactions": configuration.seed_interactions,
        "--seed": configuration.world_seed,
        "--out": folder,
    }
    command = [
        sys.executable,
        str(ROOT / "producers" / "generate.py"),
        *(str(part) for pair in options.items() for part in pair),
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise FeedError("producers/generate.py failed: see above")
    return folder


if __name__ == "__main__":
    run(main)
