"""Fill an empty system: generate a world (or take a log), publish it, wait for its features, bootstrap a model, rank everybody.

`python offline/seed.py`: on a system that has a champion it does nothing; stopped half-way it goes on where it was.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import structlog
import typer

from feed import dataset, logs, settings, wire
from feed.errors import BadModel, FeedError, run
from feed.io import kafka, publish
from feed.io.arrived import read_described
from feed.io.redis import claim_topics, connect
from feed.models import snapshot
from feed.ranking.arms import Policy
from feed.registry import Registry
from feed.settings import Settings
from offline import bootstrap, rank

ANEW = "python offline/export.py --out DIR && python offline/bootstrap.py --data DIR (docs/operations.md, Upgrading)"

log = structlog.get_logger()
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Fill an empty system; do nothing where there is a champion. All options are settings (docs/settings.md)."""
    configuration = settings.load()
    logs.setup(configuration, "seed")
    if champion := Registry(configuration.registry).champion():
        try:
            snapshot.load(champion.path)
        except BadModel as error:
            log.error("there is a champion, and it cannot serve", error=str(error), remedy=ANEW)
        else:
            log.info("nothing to do: there is a champion", version=champion.version)
    elif configuration.seed_data == "none":
        log.info("nothing to do: FEED_SEED_DATA=none")
    else:
        with tempfile.TemporaryDirectory(prefix="feedloop-seed-") as folder:
            seed(configuration, _data(configuration, Path(folder)))


def seed(configuration: Settings, data: Path) -> None:
    """Publish the log in `data` and make the first champion and everybody's feed of it.

    Raises `BadData` for a log that the system would not take, before anything is sent, and `NotArrived` if something is lost.
    """
    tables = dataset.read(data, future_seconds=configuration.future_seconds)
    topic_ids = kafka.ensure_topics(configuration.broker, configuration.partitions, wire.topics(configuration.examples_days))
    client = connect(configuration.redis)
    claim_topics(client, topic_ids)
    publish.publish_log(configuration.broker, client, topic_ids, tables, publish.describe(data, tables))
    bootstrap.run(
        data, configuration.registry, seed=configuration.world_seed, future_seconds=configuration.future_seconds,
        repeats=Policy.of(configuration).repeats,
    )  # fmt: skip
    rank.run(configuration, configuration.registry.parent / "rankings.csv", described=read_described(configuration.broker))


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
    run(lambda: typer.run(main))
