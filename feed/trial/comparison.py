"""Two fixed models on the same fresh examples, request by request, until one is shown to be the better one.

Evidence of a request is the weighted mean, over its n rows shown by chance, of the difference in calibrated log-loss of
"clicked", champion minus challenger (positive where the challenger does better), times n: a random feed's ten rows say ten
times as much as one explored slot, and counted alike a trial would need 1.6 times the requests. Each model's logits pass
through its own calibration, fitted by the same procedure on strictly earlier evidence: the first part calibrates only, and
whenever there is a quarter more it is fitted anew. In a log without impressions the evidence is the difference in reciprocal
catalogue rank of what was engaged with.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from feed.examples import Example, Row
from feed.trial import calibration
from feed.trial.calibration import Platt
from feed.trial.catalogue import LastSeen
from feed.trial.evidence import Evidence, evidence_of
from feed.trial.ranking import Lists, Paired, allowed, reciprocal_rank, request_auc, top
from feed.trial.scoring import Scorer
from feed.trial.sequence import TUNED, Clustered, boundary, rho_of

CALIBRATING, CALIBRATING_CLICKS = 200, 10  # requests and clicks before the first calibration
REFIT = 1.25  # times the evidence of the fit before
# Among the compared requests before the test may speak: clicks carry nearly all of the variance. After 17 of them that of one
# comparison was found at a quarter of what it is, and the test spoke at the first look.
CLICKS = 50
WORSE_ALPHA = 0.05  # level at which the champion is found better: no discovery, so no level is spent on it
GUARDED_EVERY = 50  # requests between two whose top ten are compared, after the first 50, which all are
HOPEFUL = 1000  # requests with evidence before a trial may be given up for want of hope
SAME = 1e-6  # share of a score's variance that a straight line through the other's may leave


class Outcome(StrEnum):
    """How a comparison ends."""

    CHALLENGER = "challenger better"
    CHAMPION = "champion better"
    CHALLENGER_BROKEN = "challenger's scores are not finite"
    CHAMPION_BROKEN = "champion's scores are not finite"
    SAME_RANKING = "same scores but for intercept and scale"


class Comparison:
    """`see` examples in the order of the log; after `outcome` is there it sees no more. `alpha`: of the challenger winning."""

    def __init__(self, champion: Scorer, challenger: Scorer, alpha: float) -> None:
        self.champion, self.challenger, self.alpha = champion, challenger, alpha
        self.outcome: Outcome | None = None
        self.requests = self.evidence = self.clicks = 0
        self.gain, self.organic = Clustered(), Clustered()
        self.loss = [0.0, 0.0]
        self.auc, self.rank = Paired(), Paired()
        self.lists = (Lists(), Lists())
        self._platt: tuple[Platt, Platt] | None = None
        self._fit_at, self._calibrated_on = float(CALIBRATING), 0
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []  # scores of both, clicked, weights
        self._clicked_rows = 0
        self._rho = 0.0
        self._turn = False

    def see(self, examples: Sequence[Example], catalogue: LastSeen) -> None:
        """Compare on these examples, all later than what is in `catalogue`."""
        if self.outcome or not examples:
            return
        found = [evidence_of(example) for example in examples]
        rows = [e.rows or (example.rows[:1] if example.organic else ()) for e, example in zip(found, examples, strict=True)]
        owner = np.repeat(np.arange(len(examples)), [len(r) for r in rows])
        scores = self._logits(examples, [row for r in rows for row in r], owner)
        starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        wanted = [i for i, e in enumerate(found) if self._wants_catalogue(examples[i], e, self.requests + i + 1)]
        full = self._full([examples[i] for i in wanted], catalogue)
        of = {i: (full[0][k], full[1][k]) for k, i in enumerate(wanted)} if len(catalogue) > 1 else {}
        for i, example in enumerate(examples):
            self._add(example, found[i], tuple(s[starts[i] : starts[i + 1]] for s in scores), of.get(i), catalogue)
            if self.outcome:
                break

    def interval(self) -> tuple[float, float]:
        """Of the mean difference, always valid: the lower end at the level of the trial, the upper at `WORSE_ALPHA`."""
        sums = self.tested
        below, above = self._reach(sums.variance, max(1, sums.n))
        return sums.mean - below, sums.mean + above

    def out_of_reach(self, limit: int) -> bool:
        """Going on to `limit` requests with evidence would hardly show anything.

        Neither would the challenger be found better if the mean were two standard errors above what it is so far, nor the
        champion if it were two below. Ending a trial for want of hope promotes nothing, so no level depends on it.
        """
        sums = self.tested
        if not self._rho or self.evidence < HOPEFUL:
            return False
        n = sums.n + limit - self.evidence
        better, worse = self._reach(sums.variance * n / sums.n, n)
        return sums.mean + 2 * sums.error < better and 2 * sums.error - sums.mean < worse

    def _reach(self, variance: float, n: int) -> tuple[float, float]:
        """How far from 0 the mean of n differences must be for the challenger, and for the champion, to be better."""
        better, worse = (boundary(variance, self._rho, alpha) / n for alpha in (self.alpha, WORSE_ALPHA))
        return better, worse

    @property
    def tested(self) -> Clustered:
        """What the test is about: log-loss if anything was shown by chance, else reciprocal rank."""
        return self.gain if self.gain.n or self._rows else self.organic

    def figures(self) -> dict[str, Any]:
        """All that a verdict is based on: JSON."""
        low, high = (round(x, 6) if np.isfinite(x) else None for x in self.interval())
        n = max(1, self.gain.n)
        return {
            "requests": self.requests,
            "with_evidence": self.evidence,
            "compared": self.tested.n,
            "users": self.tested.users,
            "clicks": self.clicks,
            "calibrated_on": self._calibrated_on,
            "figure": "reciprocal rank" if self.tested is self.organic else "log-loss, nats a request",
            "difference": {"mean": round(self.tested.mean, 6), "low": low, "high": high, "alpha": round(self.alpha, 6)},
            "log_loss": {"champion": round(self.loss[0] / n, 6), "challenger": round(self.loss[1] / n, 6)},
            "auc": self.auc.figures(),
            "reciprocal_rank": self.rank.figures(),
            "top_ten": {"champion": self.lists[0].figures(), "challenger": self.lists[1].figures()},
            "latency_ratio": round(self.latency_ratio, 2),
        }

    @property
    def latency_ratio(self) -> float:
        """Median time the challenger took to score a batch, over the champion's: the one figure that no log determines."""
        champion, challenger = (float(np.median(s.seconds)) if s.seconds else 0.0 for s in (self.champion, self.challenger))
        return challenger / champion if champion else 1.0

    def _logits(self, examples: Sequence[Example], rows: Sequence[Row], owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._turn = not self._turn  # who goes second finds warm caches
        if self._turn:
            champion = self.champion.logits(examples, rows, owner)
            return champion, self.challenger.logits(examples, rows, owner)
        challenger = self.challenger.logits(examples, rows, owner)
        return self.champion.logits(examples, rows, owner), challenger

    def _full(self, examples: Sequence[Example], catalogue: LastSeen) -> tuple[np.ndarray, np.ndarray]:
        if not examples or len(catalogue) < 2:
            return np.zeros((0, 0)), np.zeros((0, 0))
        return self.champion.catalogue(examples, catalogue), self.challenger.catalogue(examples, catalogue)

    def _wants_catalogue(self, example: Example, evidence: Evidence, number: int) -> bool:
        organic = example.organic and example.rows[0].positive
        return organic or bool(evidence.clicked.any()) or _guarded(number)

    def _add(
        self,
        example: Example,
        evidence: Evidence,
        scores: tuple[np.ndarray, ...],
        full: tuple[np.ndarray, np.ndarray] | None,
        catalogue: LastSeen,
    ) -> None:
        self.requests += 1
        if broken := _broken(scores, full, catalogue):
            self.outcome = broken
            return
        if full is not None and _guarded(self.requests):
            for lists, of_model in zip(self.lists, full, strict=True):
                lists.add(example.user.user_id, top(of_model, allowed(example, catalogue), catalogue))
        if evidence.rows:
            self._add_chance(example, evidence, (scores[0], scores[1]), full, catalogue)
        elif example.organic and example.rows[0].positive and full is not None:
            self._add_organic(example, (scores[0], scores[1]), full, catalogue)

    def _add_chance(
        self,
        example: Example,
        evidence: Evidence,
        scores: tuple[np.ndarray, np.ndarray],
        full: tuple[np.ndarray, np.ndarray] | None,
        catalogue: LastSeen,
    ) -> None:
        user = example.user.user_id
        if not self._rows:
            self.rank, self._rho = Paired(), 0.0  # what organic examples said is another figure
        if self._platt:
            losses = [
                len(s) * float(np.average(platt.loss(s, evidence.clicked), weights=evidence.weights))
                for platt, s in zip(self._platt, scores, strict=True)
            ]
            self.loss = [self.loss[0] + losses[0], self.loss[1] + losses[1]]
            self.gain.add(user, losses[0] - losses[1])
            self.clicks += int(evidence.clicked.sum())
            self._add_ranking(example, evidence, scores, full, catalogue)
        self.evidence += 1
        self._rows.append((*scores, evidence.clicked, evidence.weights))
        self._clicked_rows += int(evidence.clicked.sum())
        if self._platt and self.gain.ready and self.clicks >= CLICKS:
            same = not self._rho and self._same_ranking()
            self.outcome = Outcome.SAME_RANKING if same else self._tested_outcome(self.gain)
        if self.evidence >= self._fit_at and self._clicked_rows >= CALIBRATING_CLICKS:
            self._calibrate()

    def _add_ranking(
        self,
        example: Example,
        evidence: Evidence,
        scores: tuple[np.ndarray, np.ndarray],
        full: tuple[np.ndarray, np.ndarray] | None,
        catalogue: LastSeen,
    ) -> None:
        user = example.user.user_id
        aucs = [request_auc(s, evidence.clicked) for s in scores]
        if aucs[0] is not None and aucs[1] is not None:
            self.auc.add(user, aucs[0], aucs[1])
        if full is not None and evidence.clicked.any():
            may = allowed(example, catalogue)
            means = [
                np.mean([
                    reciprocal_rank(s[k], evidence.rows[k].item.item_id, of_model, may, catalogue)
                    for k in np.flatnonzero(evidence.clicked)
                ])
                for s, of_model in zip(scores, full, strict=True)
            ]  # fmt: skip
            self.rank.add(user, float(means[0]), float(means[1]))

    def _add_organic(
        self,
        example: Example,
        scores: tuple[np.ndarray, np.ndarray],
        full: tuple[np.ndarray, np.ndarray],
        catalogue: LastSeen,
    ) -> None:
        if self._rows:
            return
        may, item_id = allowed(example, catalogue), example.rows[0].item.item_id
        champion, challenger = (
            reciprocal_rank(float(s[0]), item_id, of_model, may, catalogue) for s, of_model in zip(scores, full, strict=True)
        )
        self.organic.add(example.user.user_id, challenger - champion)
        self.rank.add(example.user.user_id, champion, challenger)
        self.evidence += 1
        if self.organic.ready:
            self.outcome = self._tested_outcome(self.organic)

    def _tested_outcome(self, sums: Clustered) -> Outcome | None:
        variance = sums.variance
        if not self._rho:
            self._rho = rho_of(variance / sums.n * TUNED, WORSE_ALPHA / 2)
        if sums.total > boundary(variance, self._rho, self.alpha):
            return Outcome.CHALLENGER
        return Outcome.CHAMPION if -sums.total > boundary(variance, self._rho, WORSE_ALPHA) else None

    def _calibrate(self) -> None:
        clicked = np.concatenate([clicked for _, _, clicked, _ in self._rows])
        weights = np.concatenate([weights / weights.mean() for *_, weights in self._rows])  # as in the test
        champion, challenger = (
            calibration.fit(np.concatenate([rows[which] for rows in self._rows]), clicked, weights) for which in (0, 1)
        )
        self._platt = (champion, challenger)
        self._calibrated_on = self.evidence
        self._fit_at = REFIT * self.evidence

    def _same_ranking(self) -> bool:
        a, b = (np.concatenate([rows[which] for rows in self._rows]) for which in (0, 1))
        if np.array_equal(a, b) or not a.std() or not b.std():
            return False
        r = float(np.corrcoef(a, b)[0, 1])
        return r > 0 and 1 - r * r < SAME


def _guarded(number: int) -> bool:
    return number <= GUARDED_EVERY or number % GUARDED_EVERY == 0


def _broken(scores: tuple[np.ndarray, ...], full: tuple[np.ndarray, np.ndarray] | None, catalogue: LastSeen) -> Outcome | None:
    there = catalogue.there() if full is not None else None
    for which, outcome in ((1, Outcome.CHALLENGER_BROKEN), (0, Outcome.CHAMPION_BROKEN)):
        if not np.isfinite(scores[which]).all() or (full is not None and not np.isfinite(full[which][there]).all()):
            return outcome
    return None
