"""Is a truly better challenger promoted? The real gatekeeper over a registry whose champion ranks by popularity alone.

That champion serves; the model that was bootstrapped on the same past is the challenger. For each world: the verdict, after how
many requests, and what the learned arm was served before and after. Figures into var/better.json.

`python -m benchmarks.better [--seeds 5] [--requests 6000] [--worlds DIR]`
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning import LOG, PER_STEP, POLICY
from benchmarks.loop import Loop, seeded, start
from benchmarks.refusals import popularity
from feed import wire
from feed.examples import Example, Record
from feed.io.kafka import Record as LogRecord
from feed.models import snapshot
from feed.models.snapshot import Snapshot
from feed.ranking.types import LEARNED
from feed.registry import Registry
from offline.gatekeeper import Gatekeeper

LIMIT = 20_000


def published(registry: Registry, model: Snapshot, trained: Snapshot) -> str:
    """The name of a version with this model, that knows what `trained` knows."""
    about = {"created_by": "benchmarks", "learned_until": trained.manifest.get("learned_until"), "position": None}
    return registry.publish(lambda folder: snapshot.save(folder, model.model, model.space, about), challenger=True)


def share(loop: Loop, first: int, last: int) -> float:
    """Of the best possible click-through, in the learned arm, over these requests."""
    rows = [k for k in range(first, last) if loop.requests.arm[k] == LEARNED]
    best = sum(loop.requests.best[k] for k in rows)
    return sum(loop.requests.expected[k] for k in rows) / best if best else float("nan")


def run(seed: int, folder: Path, requests: int) -> dict[str, Any]:
    """One world."""
    loop, trained, _ = start(seed, folder, POLICY)
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        registry = Registry(Path(temporary))
        champion = registry.promote(published(registry, popularity(trained), trained))
        published(registry, trained, trained)
        loop.serve(snapshot.load(champion.path), champion.version, champion.generation)
        commands: list[Record] = []
        gatekeeper, offset = Gatekeeper(registry, LOG, LIMIT, commands.append), 0
        for example in loop.past:
            offset = see(gatekeeper, offset, [example])
        at = None
        while len(loop.requests.arm) < requests:
            offset = see(gatekeeper, offset, loop.step(PER_STEP))
            now = registry.champion()
            if at is None and now is not None and now.generation > champion.generation:
                at = len(loop.requests.arm)
                loop.serve(snapshot.load(now.path), now.version, now.generation)
        ended = [line for line in registry.ledger() if line["event"] in ("promoted", "refused", "gave up", "rolled back")][1:]
        return {
            "seed": seed,
            "promoted_at": at,
            "verdicts": [[line["event"], (line.get("evidence") or line).get("why")] for line in ended],
            "share_before": share(loop, 0, at or requests),
            "share_after": share(loop, at, requests) if at else None,
        }


def see(gatekeeper: Gatekeeper, offset: int, examples: Sequence[Example]) -> int:
    """Let it read these; returns the next offset."""
    for example in examples:
        gatekeeper.see(LogRecord(LOG, 0, offset, b"", wire.encode(example)))
        offset += 1
        if offset % 64 == 0:
            gatekeeper.look()
    return offset


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--worlds", type=Path, help="folder of seeded worlds to keep and reuse")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as temporary:
        for seed in range(options.seeds):
            folder = (options.worlds or Path(temporary)) / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            seeded(seed, folder)
            found.append(run(seed, folder, options.requests))
            print(json.dumps(found[-1]))
    out = Path(__file__).parents[1] / "var" / "better.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
