"""A small world whose audience goes on reacting for as long as the test runs; its examples are those of the real join."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.loop import seeded, start
from feed import wire
from feed.examples import Example, RaiseRate, Restart
from feed.io.kafka import Sender
from feed.models import snapshot
from feed.ranking.arms import Policy
from feed.registry import Registry

SEED = 1
PACE = 30.0  # records a second: a step every two seconds
COPY_EVERY = 50  # records between two that are sent once more
BY_HAND = "tests/soak"


def begin(folder: Path) -> Iterator[Example]:
    """Make the world's past, its data and its registry in `folder`; then its examples: the past's, and then on without end."""
    seeded(SEED, folder, users=300, items=1500, interactions=10_000)
    loop, champion, version = start(SEED, folder, Policy(popular_share=0.1, random_share=0.1))
    loop.serve(champion, version, 1)

    def examples() -> Iterator[Example]:
        yield from loop.past
        while True:
            yield from loop.step(20)

    return examples()


class Feeder:
    """Sends examples at `PACE`, copies and unreadable bytes among them, and does what happens by hand."""

    def __init__(self, broker: str, registry: Registry, examples: Iterator[Example], past: int = 1_500) -> None:
        self._broker, self._registry, self._examples, self._past = broker, registry, examples, past
        self.sent = 0
        self._by_hand: dict[int, Callable[[Sender], None]] = {
            past + 500: self._raise_rate,
            past + 3_500: self._force_broken,
            past + 6_000: self._restart,
            past + 8_000: self._force_broken,
            past + 11_000: self._raise_rate,
        }

    def run(self, enough: Callable[[], bool]) -> None:
        """Send the past at once, then the present at its pace until there is enough."""
        with Sender(self._broker) as sender:
            began = time.monotonic()
            while not enough():
                due = self._past + int((time.monotonic() - began) * PACE)
                while self.sent < due:
                    self._send_next(sender)
                sender.flush()
                time.sleep(0.05)

    def _send_next(self, sender: Sender) -> None:
        example = next(self._examples)
        sender.send(wire.TRAINING_EXAMPLES, example.user.user_id, example)
        self.sent += 1
        if self.sent % COPY_EVERY == 0:
            sender.send(wire.TRAINING_EXAMPLES, example.user.user_id, example)
        if act := self._by_hand.get(self.sent):
            act(sender)

    def _raise_rate(self, sender: Sender) -> None:
        sender.send_raw(wire.TRAINING_EXAMPLES.name, 0, b"", b"{")
        sender.send(wire.TRAINING_EXAMPLES, "monitor", RaiseRate(3.0, 2_000, "as after a drift alert"))

    def _restart(self, sender: Sender) -> None:
        champion = self._registry.champion()
        assert champion is not None
        sender.send(wire.TRAINING_EXAMPLES, "by hand", Restart(champion.version, "by hand"))

    def _force_broken(self, sender: Sender) -> None:
        """Weights of NaN become champion by hand: the gatekeeper must bring back a good one and tell the learner."""
        champion = self._registry.champion()
        assert champion is not None
        good = snapshot.load(champion.path)
        weights = {name: tensor * float("nan") for name, tensor in good.model.state_dict().items()}
        good.model.load_state_dict(weights)
        about = {"created_by": BY_HAND, "learned_until": good.manifest.get("learned_until"), "position": None}
        broken = self._registry.publish(lambda folder: snapshot.save(folder, good.model, good.space, about))
        self._registry.promote(broken, evidence={"by": "by hand"})
