"""Has the world changed? Watches the examples of the learned arm; only what gets worse is told, once a cause.

    example ─► figures (error, clicks, engagement, dwell; features) ─► a detector each, for everybody and for each segment
                                    what the popular arm shows as well (rhythm of the day, satiation, holiday) is deducted ┘

False alarms. ADWIN looks every `CLOCK` values and, while nothing changes, cuts with probability at most delta a look. Over
`UNIT` learned requests (a simulated day at 400 events/s) a figure of everybody has UNIT / CLOCK looks, those of the segments
together `SEGMENTS_OF_A_REQUEST` as many. `BUDGET` expected alerts are shared out equally (Bonferroni):

    delta = BUDGET * share / (figures * segments of a request * UNIT / CLOCK)

Half of the cuts would be improvements, which are not told, and small ones are not told either: the budget is an upper bound for
independent requests. What requests of the same user have in common is what benchmarks/drift.py measures.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from feed.examples import Example, Row, is_new
from feed.features.user import NUMERIC
from feed.monitoring import figures
from feed.monitoring.alerts import EVERYBODY, Alert
from feed.monitoring.change import CLOCK, Change, Detector
from feed.monitoring.figures import FEATURES, LOOKS, Calibration, Meanwhile, Popular, chosen, looked_at
from feed.ranking.types import LEARNED, POPULAR

WORSE = {"error": 1, "clicks": -1, "engagement": -1, "dwell": -1, "features": 0}
BUDGET, UNIT = 0.05, 10_000  # expected false alarms per so many learned requests, at most
SHARE = {"everybody": 0.4, "segments": 0.4, "features": 0.2}  # of the budget
SEGMENTS_OF_A_REQUEST = 7  # about: platform, country, new or old, and four categories
LEAST = {"error": 0.12, "clicks": 0.12, "engagement": 0.12, "dwell": 0.12, "features": 1.0}  # standard deviations of a request
RELATIVE = {"features": 0.25}  # of the mean before
# The part of clicks, engagement, dwell, or of the clicks that were promised, that must be gone. Feeds of a new system fade by
# 10 to 17 % in their first thousands of requests, while people consume what they like best: that is no change of the world. A
# drift of half of the people takes a quarter and more.
FADE = 0.2
HOLD = 500  # learned requests that a segment's alert waits for everybody's to explain it
QUIET = 2000  # learned requests after an alert in which nothing else is told
FAR = 1.75
NEW_EVENTS = 10
SWITCH = 20  # requests of another version, more than of the current one, until that one counts as serving
SEGMENTS = 200  # at most; what comes later belongs to everybody only


def deltas() -> dict[str, float]:
    """ADWIN's delta for a detector of everybody, of a segment and of a feature's mean."""
    looks = UNIT / CLOCK
    return {
        "everybody": BUDGET * SHARE["everybody"] / (4 * looks),
        "segments": BUDGET * SHARE["segments"] / (4 * SEGMENTS_OF_A_REQUEST * looks),
        "features": BUDGET * SHARE["features"] / (len(FEATURES) * 4 * looks),
    }


@dataclass(frozen=True)
class Fired:
    """One detector's finding, at the learned request number `n`."""

    kind: str
    figure: str | None
    segment: str
    change: Change
    meanwhile: Meanwhile | None
    n: int

    @property
    def label(self) -> str:
        """As it stands in `Alert.also`."""
        return f"{self.figure or self.kind} of {self.segment}"


class DriftMonitor:
    """Takes examples one by one, in the order of the log, copies included; everything is in memory."""

    def __init__(self) -> None:
        self._deltas = deltas()
        self._last: dict[int, int] = {}  # by source: the newest sequence
        self._detectors: dict[tuple[str, str | None, str], Detector] = {}
        self._segments: set[str] = set()
        self._popular = Popular()
        self._calibration = Calibration()
        self._version: str | None = None
        self._others: Counter[str | None] = Counter()
        self._n = 0
        self._silent_until = dict.fromkeys(WORSE, 0)
        self._held: list[Fired] = []

    def see(self, example: Example) -> list[Alert]:
        """The alerts that this example raises: none or one."""
        if not is_new(example, self._last):
            return []
        if example.arm == POPULAR:
            self._popular.add(example)
        if example.arm != LEARNED or example.organic:
            return []
        self._n += 1
        self._follow_version(example.model_version)
        self._held += self._fired(example)
        alert = self._decide(example)
        return [] if alert is None else [alert]

    def _follow_version(self, version: str | None) -> None:
        """A promotion or roll-back: feeds of the version before are still looked at for a while, so the majority decides."""
        if self._version is None:
            self._version = version
        if version == self._version:
            self._others.subtract(list(self._others))
            self._others = +self._others
            return
        self._others[version] += 1
        if self._others[version] >= SWITCH:
            self._version, self._others, self._calibration = version, Counter(), Calibration()
            self._held = [fired for fired in self._held if fired.kind != "error"]
            for (kind, _, _), detector in self._detectors.items():
                if kind == "error":
                    detector.reset()

    def _fired(self, example: Example) -> Iterator[Fired]:
        inputs = figures.features(example)
        for segment, rows in self._parts(example):
            for kind, figure, value in self._values(example, segment, rows, inputs):
                change = self._detector(kind, figure, segment).update(value, example.at)
                if change is None:
                    continue
                meanwhile = None if kind == "features" else self._meanwhile(kind, change)
                if kind == "features" or self._stands(kind, change, meanwhile):
                    yield Fired(kind, figure, segment, change, meanwhile, self._n)
        if example.model_version == self._version:
            self._calibration.learn([row for row in chosen(example.rows) if looked_at(row)])

    def _meanwhile(self, kind: str, change: Change) -> Meanwhile | None:
        return self._popular.meanwhile(LOOKS if kind == "error" else kind, change.began, change.since)

    def _stands(self, kind: str, change: Change, meanwhile: Meanwhile | None) -> bool:
        """Whether enough of the change is left when the part is taken off that the popular arm is known to show as well."""
        promised = -self._calibration.mean if kind == "error" else change.before
        level = 1.0 if meanwhile is None else meanwhile.level
        left = change.after - change.before - promised * (level - 1.0)
        return left * WORSE[kind] >= max(LEAST[kind] * change.deviation, FADE * abs(promised))

    def _parts(self, example: Example) -> Iterator[tuple[str, Sequence[Row]]]:
        """Everybody and the segments of this request, each with those of its rows that the model chose."""
        rows = chosen(example.rows)
        if not rows:
            return
        yield EVERYBODY, rows
        profile, events = example.user.profile, example.user.numeric[NUMERIC.index("total_interactions")]
        names = [f"users={'new' if events < NEW_EVENTS else 'old'}"]
        names += [f"{name}={profile[name]}" for name in ("platform", "country") if profile.get(name)]
        categories: dict[str, list[Row]] = {}
        for row in rows:
            if row.item.category:
                categories.setdefault(f"category={row.item.category}", []).append(row)
        for segment, its_rows in (*((name, rows) for name in names), *categories.items()):
            if segment in self._segments or len(self._segments) < SEGMENTS:
                self._segments.add(segment)
                yield segment, its_rows

    def _values(
        self, example: Example, segment: str, rows: Sequence[Row], inputs: Mapping[str, float]
    ) -> Iterator[tuple[str, str | None, float]]:
        for name, value in figures.outcomes(rows).items():
            yield name, None, value
        looked = [row for row in rows if looked_at(row)]
        if looked and example.model_version == self._version:
            residual = self._calibration.residual(looked)
            if residual is not None:
                yield "error", None, residual
        if not segment.startswith("category="):
            for figure, value in inputs.items():
                yield "features", figure, value

    def _detector(self, kind: str, figure: str | None, segment: str) -> Detector:
        key = kind, figure, segment
        if key not in self._detectors:
            of = "features" if kind == "features" else "everybody" if segment == EVERYBODY else "segments"
            self._detectors[key] = Detector(self._deltas[of], WORSE[kind], LEAST[kind], RELATIVE.get(kind, 0.0))
        return self._detectors[key]

    def _decide(self, example: Example) -> Alert | None:
        """One alert a cause: everybody's outcomes at once, anything else when nothing has explained it for a while."""
        self._held = [fired for fired in self._held if self._n >= self._silent_until[fired.kind]]
        if not self._held:
            return None
        told = [fired for fired in self._held if fired.segment == EVERYBODY and fired.kind != "features"]
        if not told and self._n - self._held[0].n < HOLD:
            return None
        first = max(
            told or self._held, key=lambda fired: (fired.kind != "features", fired.segment == EVERYBODY, fired.change.size)
        )
        return self._alert(example, first)

    def told(self, kind: str) -> None:
        """An alert of this kind was told as of the last example: what it explains begins anew and is silent for a while.

        An outcome explains everything, a feature's mean only such means.
        """
        explained = ("features",) if kind == "features" else tuple(WORSE)
        self._held = []
        for name in explained:
            self._silent_until[name] = self._n + QUIET
        for (name, _, _), detector in self._detectors.items():
            if name in explained:
                detector.reset()

    def _worst(self, first: Fired) -> list[str]:
        """If everybody fell: the segments that fell at least `FAR` times as far meanwhile, the worst first."""
        found = []
        for (kind, figure, segment), detector in self._detectors.items():
            if first.segment == EVERYBODY != segment and (kind, figure) == (first.kind, first.figure):
                change = detector.around(first.change.since)
                if change is not None and (change.after - change.before) * (first.change.after - first.change.before) > 0:
                    found.append((change.size, f"{figure or kind} of {segment}"))
        return [label for size, label in sorted(found, reverse=True) if size >= FAR * first.change.size]

    def _alert(self, example: Example, first: Fired) -> Alert:
        also = [*self._worst(first), *(fired.label for fired in self._held if fired.label != first.label)]
        self.told(first.kind)
        change, popular = first.change, first.meanwhile
        return Alert(
            alert_id=f"{first.figure or first.kind}:{first.segment}:{example.source}:{example.sequence}",
            kind=first.kind,
            figure=first.figure,
            segment=first.segment,
            at=example.at,
            since=change.since,
            before=change.before,
            after=change.after,
            requests=change.values,
            source=example.source,
            sequence=example.sequence,
            model_version=example.model_version,
            also=tuple(dict.fromkeys(also)),
            popular_before=None if popular is None else popular.before,
            popular_after=None if popular is None else popular.after,
            retrain=first.kind != "features",
        )
