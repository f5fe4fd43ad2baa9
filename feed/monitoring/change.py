"""One figure, watched for a change of its mean.

ADWIN keeps a window that grows while its mean stands still. It cuts as soon as two parts W0, W1 of it differ by more than

    e = sqrt(2 / m * s^2 * ln(2 / d)) + 2 / (3 m) * ln(2 / d),    1 / m = 1 / |W0| + 1 / |W1|,    d = delta / ln|W|

with s^2 the window's variance, of values in [0, 1]. Bifet and Gavalda 2007, "Learning from time-changing data with adaptive
windowing", SDM. The cut says that there was a change, not where: that is the split with the largest weighted difference of
means (least squares; Hinkley 1970, "Inference about the change-point in a sequence of random variables", Biometrika 57).
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from river.drift import ADWIN

CLOCK = 32  # values between two looks for a change
GRACE = 200  # values that set the scale, before anything is watched
SPAN = 4.0  # standard deviations that become [0, 1]: what is further out counts as if it were at the edge
KEPT = 4000  # newest values in which the change is looked for
SHORTEST = 50  # values on either side of it
FEWEST = 20  # on either side of a time that is known


@dataclass(frozen=True)
class Change:
    """Means before and after it; times of the oldest value looked at and of the change (seconds since 1970); how many values
    since then; the standard deviation of one value."""

    before: float
    after: float
    began: float
    since: float
    values: int
    deviation: float

    @property
    def size(self) -> float:
        """In standard deviations."""
        return abs(self.after - self.before) / self.deviation


class Detector:
    """Watches one figure; `worse` +1: only a rise is reported, -1: only a fall, 0: both.

    `delta`: ADWIN's; smaller changes than `least`, in standard deviations, and `relative`, as a share of the mean before, are
    taken in silently, as improvements are.
    """

    def __init__(self, delta: float, worse: int, least: float, relative: float = 0.0) -> None:
        self._delta, self._worse, self._least, self._relative = delta, worse, least, relative
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._adwin = _adwin(self._delta)
        self._values: deque[float] = deque(maxlen=KEPT)
        self._times: deque[float] = deque(maxlen=KEPT)
        self._scale: tuple[float, float] | None = None

    def update(self, value: float, at: float) -> Change | None:
        """Take in one value of time `at`; a change for the worse, if there was one."""
        self._values.append(value)
        self._times.append(at)
        if self._scale is None:
            if len(self._values) >= GRACE:
                self._begin()
            return None
        self._feed(value)
        if not self._adwin.drift_detected:
            return None
        change = self._locate()
        self._forget(change.values)
        moved = change.after - change.before
        small = change.size < self._least or abs(moved) < self._relative * abs(change.before)
        return None if small or moved * self._worse < 0 else change

    def around(self, since: float) -> Change | None:
        """The means before and after this time; None with too few values on either side."""
        values, times = np.array(self._values), np.array(self._times)
        later = times >= since
        n = int(later.sum())
        if min(n, len(values) - n) < FEWEST:
            return None
        deviation = float(values.std()) or 1.0
        return Change(float(values[~later].mean()), float(values[later].mean()), self._times[0], since, n, deviation)

    def _begin(self) -> None:
        values = np.array(self._values)
        self._scale = float(values.mean()), float(values.std()) or 1.0
        for value in self._values:
            self._feed(value)

    def _feed(self, value: float) -> None:
        mean, deviation = self._scale or (0.0, 1.0)
        self._adwin.update(min(max(0.5 + (value - mean) / (SPAN * deviation), 0.0), 1.0))  # type: ignore[no-untyped-call]

    def _locate(self) -> Change:
        values = np.array(self._values)
        n, sums = len(values), np.cumsum(values)
        k = np.arange(min(SHORTEST, n // 2), n - min(SHORTEST, n // 2) + 1)
        before, after = sums[k - 1] / k, (sums[-1] - sums[k - 1]) / np.maximum(n - k, 1)
        best = int(np.argmax(np.abs(before - after) * np.sqrt(k * (n - k))))
        split = int(k[best])
        deviation = float(values.std()) or 1.0
        return Change(float(before[best]), float(after[best]), self._times[0], self._times[split], n - split, deviation)

    def _forget(self, kept: int) -> None:
        """The time before the change is over: River's ADWIN empties itself, and is given what followed."""
        for of in (self._values, self._times):
            newest = list(of)[-kept:]
            of.clear()
            of.extend(newest)
        self._adwin = _adwin(self._delta)
        for value in self._values:
            self._feed(value)


def _adwin(delta: float) -> ADWIN:
    return ADWIN(delta=delta, clock=CLOCK, grace_period=CLOCK)  # type: ignore[no-untyped-call]
