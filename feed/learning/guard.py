"""When not to step: a loss or gradient that is no number, or far above what it has been lately.

With y the logarithm of the loss (or of the gradient's norm), l its running level and d its running spread:

    refuse if  y - l > max(SPREADS * d, log LEAST)      else  e = clip(y - l, -3 d, 3 d);  l += PACE e;  d += PACE (|e| - d)

What was refused does not move the level. After `PATIENCE` refusals in a row the learner is held: a level that has really
shifted, or weights that are spoilt, are for somebody else to judge.
"""

import math

from msgspec import Struct

PACE = 0.05
FIRST = 20  # steps that only set the level
SPREADS = 8.0
PATIENCE = 10
LEAST_LOSS, LEAST_NORM = 3.0, 10.0  # times the level
NARROWEST = 0.02


class Level(Struct):
    """The running level and spread of a logarithm, and of how many values."""

    level: float = 0.0
    spread: float = 0.3
    values: int = 0

    def excess(self, value: float, least: float) -> bool:
        """Whether `value` is far above the level and at least `least` times it."""
        if self.values < FIRST:
            return False
        return math.log(max(value, 1e-12)) - self.level > max(SPREADS * self.spread, math.log(least))

    def add(self, value: float) -> None:
        """One more value that was accepted."""
        y = math.log(max(value, 1e-12))
        if not self.values:
            self.level = y
        self.values += 1
        pace = max(PACE, 1 / self.values)
        off = min(max(y - self.level, -3 * self.spread), 3 * self.spread)
        self.level += pace * off
        self.spread = max(NARROWEST, self.spread + PACE * (abs(off) - self.spread))


class Guard(Struct):
    """Judges each step; `held` says why none is taken any more."""

    loss: Level
    norm: Level
    refused: int = 0  # in a row
    refused_ever: int = 0
    held: str | None = None

    @classmethod
    def new(cls) -> "Guard":
        """Nothing seen yet."""
        return cls(Level(), Level())

    def refuses(self, loss: float, norm: float) -> str | None:
        """Why this step must not be taken; None: it may, and is counted as taken."""
        why = self._why(loss, norm)
        if why is None:
            self.loss.add(loss)
            self.norm.add(norm)
            self.refused = 0
            return None
        self.refuse(why)
        return why

    def refuse(self, why: str) -> None:
        """One more step that must not be taken, or could not."""
        self.refused += 1
        self.refused_ever += 1
        if self.refused >= PATIENCE:
            self.held = f"{self.refused} steps refused in a row, the last because {why}"

    def _why(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if self.loss.excess(loss, LEAST_LOSS):
            return f"the loss is {loss:.3g}, lately it was {math.exp(self.loss.level):.3g}"
        if self.norm.excess(norm, LEAST_NORM):
            return f"the gradient's norm is {norm:.3g}, lately it was {math.exp(self.norm.level):.3g}"
        return None
