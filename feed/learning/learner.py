"""The learner: takes the log's records in order and steps whenever `STEP` new examples are together.

    record ─► a copy? drop ─► older than what the weights know? memory only ─► pending ─► STEP of them: a step, beside replay
                                                                        who has enough evidence gets a row (`growth`) ◄─┘

Between any two records its whole state can be saved (`feed.learning.state`) and gone on from, bit for bit: chance is drawn from
(seed, number of the step), not from a generator that runs on. Bits are the same on one machine with one thread.

A version trained on a log without views brings who looks (`feed.models.examination`); that goes on with what is learned from it
until views say it: to the first example with a view that is newer than what the version knew.

What is published is a moving average of the weights, w' += AVERAGING (w - w') after each step: the noise of single steps is
not what is to be tried. The fusion weights are not averaged (`feed.learning.fusion`). Reference: Polyak and Juditsky 1992,
SIAM J. Control and Optimization 30(4).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import structlog
import torch
from msgspec import Struct, field
from torch import Tensor

from feed.errors import last_line
from feed.examples import Example, RaiseRate, Record, Restart, SetAside, is_new
from feed.features import FeatureSpace
from feed.learning import fusion
from feed.learning.growth import Entered, Growth, changes
from feed.learning.guard import Guard
from feed.learning.loss import Prepared, join, loss, prepare, viewed
from feed.learning.memory import Catalogue, Reservoir
from feed.learning.optimiser import RowAdam
from feed.models.examination import Examination
from feed.models.heads import Heads
from feed.models.snapshot import Snapshot
from feed.models.two_tower import SPREAD, SPREAD_OF, TwoTower
from feed.repeats import NEVER, Repeats

log = structlog.get_logger()

STEP = 64  # new examples a step, and as many replayed
SAMPLED = 64  # items drawn a step
RATE = 1e-3
WARM_UP = 50  # steps until the rate is whole: a fresh Adam moves every weight by its rate, whatever the gradient
AVERAGING = 0.05
LARGEST_FACTOR = 10.0  # of a raised rate
CURVE = 0.02  # weight of the newest step in the running loss

Loader = Callable[[str], tuple[str, Snapshot]]  # a version's name -> the name and content of what is begun from


class Progress(Struct, kw_only=True):
    """Where the learner is: everything but weights, moments and memory.

    `position`: the next offset; `parent`: the version it began from, which knew everything until `known_until` (event time);
    `learned_until`: the newest event time learned from; `steps` tried and `examples` learned from since the beginning; `since`:
    steps taken since `parent`; `sequences`: the last one of each source; `raised`: the rate's factor for the next `raised_for`
    examples; `running_loss`: of new examples before they were learned from; `viewed`: event time of the newest one with a view;
    `repeats`: when versions that come of `parent` show an item again (see `feed.repeats`).
    """

    seed: int
    parent: str
    position: int = 0
    known_until: float | None = None
    learned_until: float | None = None
    steps: int = 0
    examples: int = 0
    since: int = 0
    sequences: dict[int, int] = field(default_factory=dict)
    raised: float = 1.0
    raised_for: int = 0
    running_loss: float | None = None
    viewed: float | None = None
    repeats: str = str(NEVER)
    guard: Guard = field(default_factory=Guard.new)


class Step(NamedTuple):
    """What came of one step: the loss of its new examples before it, the loss and gradient norm it had, why it was refused."""

    fresh_loss: float
    loss: float
    norm: float
    refused: str | None


class Weights:
    """A model that is trained, its moving average, and the optimiser's state."""

    def __init__(self, start: TwoTower, moments: Mapping[str, Tensor] | None = None) -> None:
        """Both models begin as `start`; raises as `RowAdam` if `moments` are of other weights."""
        self.average, self.live = copy.deepcopy(start).eval(), copy.deepcopy(start).train()
        tables = {id(w) for w in self.live.tables}
        others = [w for w in self.live.parameters() if id(w) not in tables]
        self.optimiser = RowAdam(self.live.tables, others, moments)

    @torch.no_grad()
    def approach(self) -> None:
        """Bring the average nearer."""
        for a, w in zip(self.average.parameters(), self.live.parameters(), strict=True):
            a.lerp_(w, AVERAGING)

    def enter(self, entered: Entered, rng: np.random.Generator) -> None:
        """Tokens take rows in both models, as fresh as a bootstrap draws them."""
        for vocabulary, rows in entered.items():
            places, width = list(rows.values()), self.live.table(vocabulary).shape[1]
            drawn = rng.normal(0, SPREAD_OF.get(vocabulary, SPREAD), (len(places), width)).astype(np.float32)
            for model in (self.live, self.average):
                model.enter(vocabulary, places, torch.from_numpy(drawn))
            self.optimiser.enter(self.live.table(vocabulary), places)


class Learner:
    """Learns from records taken in the order of their offsets.

    `load` gives the version a `Restart` names, or another that is to be begun from instead. Attributes to read:
    `progress`, `space`, `weights.average`, `heads` and `examination` (what is published), and `set_aside`.
    """

    def __init__(
        self,
        weights: Weights,
        space: FeatureSpace,
        progress: Progress,
        load: Loader,
        *,
        heads: Heads | None = None,
        examination: Examination | None = None,
        reservoir: Reservoir | None = None,
        catalogue: Catalogue | None = None,
        pending: list[Example] | None = None,
        growth: Growth | None = None,
    ) -> None:
        self.weights, self.space, self.progress, self._load = weights, space, progress, load
        self.set_aside = SetAside()
        self.heads = heads or {}  # those of the version begun from, as they are
        self._examination = examination  # as well
        self.reservoir = Reservoir(progress.seed) if reservoir is None else reservoir
        self.catalogue = Catalogue() if catalogue is None else catalogue
        self.pending = [] if pending is None else pending
        self.growth = Growth.begin(space, progress.steps) if growth is None else growth

    @classmethod
    def begin(cls, version: str, start: Snapshot, load: Loader, seed: int = 0) -> "Learner":
        """Before the first record, with this version's weights."""
        learned_until = start.manifest.get("learned_until")
        repeats = str(Repeats.of_version(start.manifest))
        progress = Progress(seed=seed, parent=version, known_until=learned_until, learned_until=learned_until, repeats=repeats)
        return cls(Weights(start.model), start.space, progress, load, heads=start.heads, examination=start.examination)

    def take(self, offset: int, record: Record) -> Step | None:
        """The record at `offset`; one before `progress.position` is passed over. Returns the step it completed, if any.

        A `Restart` raises what `load` raises; nothing has changed then.
        """
        if offset < self.progress.position:
            return None
        step = None
        if isinstance(record, Restart):
            self._restart(record.version)
        elif isinstance(record, RaiseRate):
            self.progress.raised = min(max(record.factor, 1 / LARGEST_FACTOR), LARGEST_FACTOR)
            self.progress.raised_for = max(0, record.examples)
        elif is_new(record, self.progress.sequences):
            try:
                step = self._add(record)
            except Exception as error:
                self.set_aside.example(record, error)
        self.progress.position = offset + 1
        return step

    @property
    def examination(self) -> Examination | None:
        """How often each place is looked at; None if views say what was."""
        p = self.progress
        known = p.viewed is None or (p.known_until is not None and p.viewed <= p.known_until)
        return self._examination if known else None

    @property
    def _repeats(self) -> bool:
        return Repeats.parse(self.progress.repeats).ever

    @property
    def rate(self) -> float:
        """Of the next step."""
        p = self.progress
        return RATE * min(1.0, (p.since + 1) / WARM_UP) * (p.raised if p.raised_for > 0 else 1.0)

    def _restart(self, version: str) -> None:
        version, start = self._load(version)
        p, repeats = self.progress, str(Repeats.of_version(start.manifest))
        self.weights, self.space, self.heads = Weights(start.model), start.space, start.heads
        self._examination = start.examination
        self.growth = Growth.begin(start.space, p.steps)
        self.reservoir.reread()
        p.parent, p.since, p.guard, p.running_loss = version, 0, Guard.new(), None
        p.known_until = p.learned_until = start.manifest.get("learned_until")
        p.repeats = repeats
        pending, self.pending = self.pending, []
        for example in pending:  # fewer than a step, so none is completed
            self._sort(example)

    def _add(self, example: Example) -> Step | None:
        if example.again and not self._repeats:
            return None
        self.catalogue.add(example)
        if viewed(example):
            self._view(example.at)
        self._sort(example)
        return self._step() if len(self.pending) == STEP else None

    def _view(self, at: float) -> None:
        before, self.progress.viewed = self.examination, max(self.progress.viewed or at, at)
        if before is not self.examination:
            self.reservoir.reread()

    def _sort(self, example: Example) -> None:
        known_until = self.progress.known_until
        if known_until is not None and example.at <= known_until:
            self.reservoir.offer(example)
        else:
            self.pending.append(example)

    def _reader(self) -> Callable[[Example], Prepared]:
        """How examples are read just now."""
        space, examination, repeats = self.space, self.examination, self._repeats
        return lambda example: prepare(example, space, examination, repeats)

    def _step(self) -> Step | None:
        p = self.progress
        new, self.pending = self.pending, []
        step = None if p.guard.held else self._try_to_descend(new)
        for example in new:
            self.reservoir.offer(example)
        p.raised_for = max(0, p.raised_for - STEP)
        return step

    def _try_to_descend(self, new: list[Example]) -> Step | None:
        """As `_descend`, of the examples that can be read, which are all that stays in `new`; a step that fails is refused."""
        fresh, read = [], self._reader()
        for example in list(new):
            try:
                fresh.append(read(example))
            except Exception as error:
                self.set_aside.example(example, error)
                new.remove(example)
        if not fresh:
            return None
        try:
            return self._descend(new, fresh, read)
        except Exception as error:
            why = f"it failed, which is a programming error: {last_line(error)}"
            log.error("a step failed", step=self.progress.steps, exc_info=error)
            self.weights.optimiser.skip()
            self.progress.guard.refuse(why)
            self.progress.steps += 1
            return Step(math.nan, math.nan, math.nan, why)

    def _descend(self, new: list[Example], fresh: list[Prepared], read: Callable[[Example], Prepared]) -> Step:
        p = self.progress
        rng = np.random.default_rng([p.seed, 2, p.steps])
        sampled = self.catalogue.draw(SAMPLED, rng)
        with torch.no_grad():
            fresh_loss = float(loss(self.weights.average, join(fresh, sampled, self.space)))
        replayed = self.reservoir.draw(STEP, rng, read)
        rows = join([*fresh, *replayed], sampled, self.space)
        with _chance(int(rng.integers(2**63))):
            found = loss(self.weights.live, rows)
            found.backward()  # type: ignore[no-untyped-call]
        value, norm = float(found.detach()), self.weights.optimiser.norm()
        refused = p.guard.refuses(value, norm)
        if refused is None:
            self._fuse(new, fresh)  # by logits that have not learned from these examples
            self.weights.optimiser.step(self.rate)
            self.weights.approach()
            p.since += 1
            p.learned_until = max(p.learned_until or -math.inf, *(example.at for example in new))
            p.examples += STEP
            self._grow(new)
        else:
            self.weights.optimiser.skip()
        p.steps += 1
        if math.isfinite(fresh_loss):
            p.running_loss = fresh_loss if p.running_loss is None else p.running_loss + CURVE * (fresh_loss - p.running_loss)
        return Step(fresh_loss, value, norm, refused)

    def _fuse(self, new: list[Example], fresh: list[Prepared]) -> None:
        average, live = self.weights.average, self.weights.live
        if average.fused:
            fusion.learn(average, [one for of, one in zip(new, fresh, strict=True) if of.organic])
            for mine, learned in ((live.fusion, average.fusion), (live.fusion_squares, average.fusion_squares)):
                mine.copy_(learned)

    def _grow(self, new: list[Example]) -> None:
        step = self.progress.steps
        self.growth.see(new, self.space, step)
        if entered := self.growth.admit(step):
            self.weights.enter(entered, np.random.default_rng([self.progress.seed, 3, step]))
            self.reservoir.reread(changes(entered, self.space))
            self.space = self.space.grown(entered)


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Dropout draws from torch's global generator: seeded here, and put back as it was."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
