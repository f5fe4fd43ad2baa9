"""From figures to a decision: what wins, what is refused and why, and when nobody has shown anything."""

from dataclasses import dataclass
from typing import Any

from feed.trial.comparison import Comparison, Outcome

# The challenger's over the champion's: at least, at least, at most. Whatever the champion has, `ENOUGH` categories in ten
# places are enough: a personal list is narrower than one for everybody (2.0 to 2.5 where popularity has 5.6 to 8.8). As with
# the ranking figures, less by no more than one standard error (here the challenger's own) is not less.
ITEMS, CATEGORIES, LATENCY = 0.5, 0.8, 3.0
ENOUGH = 2.0
LISTS = 50  # top tens seen of each before they are compared
PROMOTE, REFUSE, GIVE_UP = "promote", "refuse", "give up"
ROLL_BACK, STANDS = "roll back", "stands"


@dataclass(frozen=True)
class Verdict:
    """`decision`, `why` for people, and all figures it is based on (JSON)."""

    decision: str
    why: str
    figures: dict[str, Any]

    def evidence(self) -> dict[str, Any]:
        """For the ledger."""
        return {"decision": self.decision, "why": self.why, **self.figures}


def judge(c: Comparison, limit: int) -> Verdict | None:
    """The verdict of a trial: None as long as nothing is shown and fewer than `limit` requests had evidence.

    Better by the test, ranking and guardrails -> promote. Worse by the test, not finite, the same ranking, a guardrail hurt ->
    refuse. Nothing shown by `limit`, or nothing to be expected by then -> give up: a newer challenger gets the seat.
    """
    match c.outcome:
        case None if c.evidence >= limit:
            return _verdict(GIVE_UP, f"nothing shown after {limit} requests with evidence", c)
        case None:
            hopeless = f"{limit} requests with evidence would hardly show anything: {_by(c)}"
            return _verdict(GIVE_UP, hopeless, c) if c.out_of_reach(limit) else None
        case Outcome.CHALLENGER:
            wrong = _no_better_ranking(c) or _guardrail(c)
            return _verdict(REFUSE, wrong, c) if wrong else _verdict(PROMOTE, f"better by the test: {_by(c)}", c)
        case Outcome.CHAMPION:
            return _verdict(REFUSE, f"worse by the test: {_by(c)}", c)
        case Outcome.CHALLENGER_BROKEN:
            return _verdict(REFUSE, "not finite: it gives NaN or infinite scores", c)
        case Outcome.CHAMPION_BROKEN:
            return _verdict(PROMOTE, "the champion gives NaN or infinite scores", c)
        case Outcome.SAME_RANKING:
            return _verdict(REFUSE, "no better ranking: its scores are the champion's but for intercept and scale", c)


def give_up(c: Comparison, why: str) -> Verdict:
    """The comparison ends without a winner for a reason of its own."""
    return _verdict(GIVE_UP, why, c)


def judge_return(c: Comparison, limit: int) -> Verdict | None:
    """The verdict on a promoted version ("champion") that goes on being compared with the one before ("challenger").

    The test alone decides: guardrails protect from what is new, and the version before is not.
    """
    match c.outcome:
        case None:
            return _verdict(STANDS, f"nothing shown after {limit} requests with evidence", c) if c.evidence >= limit else None
        case Outcome.CHALLENGER:
            return _verdict(ROLL_BACK, f"the version before is better by the test: {_by(c)}", c)
        case Outcome.CHAMPION_BROKEN:
            return _verdict(ROLL_BACK, "not finite: the promoted version gives NaN or infinite scores", c)
        case outcome:
            return _verdict(STANDS, str(outcome), c)


def _no_better_ranking(c: Comparison) -> str | None:
    if not (c.auc.any_differs or c.rank.any_differs):
        return "no better ranking: every compared item has the same place with both"
    for figure, paired in (("AUC within requests", c.auc), ("reciprocal catalogue rank", c.rank)):
        if paired.worse:
            by, error = -paired.difference.mean, paired.difference.error
            return f"no better ranking: {figure} lower by {by:.4f} (standard error {error:.4f}), though {_by(c)}"
    return None


def _guardrail(c: Comparison) -> str | None:
    champion, challenger = (lists.figures() for lists in c.lists)
    if champion["lists"] >= LISTS:
        items, categories = ITEMS * champion["items"], min(CATEGORIES * champion["categories"], ENOUGH) - challenger["error"]
        for figure, least, words in (("items", items, "item coverage"), ("categories", categories, "category diversity")):
            if challenger[figure] < least:
                return f"guardrail {words} of the top ten: {challenger[figure]}, the champion's {champion[figure]}"
    if c.latency_ratio > LATENCY:
        return f"guardrail latency: {c.latency_ratio:.1f} times the champion's"
    return None


def _by(c: Comparison) -> str:
    low, high = c.interval()
    what = "reciprocal rank" if c.tested is c.organic else "nats of log-loss a request"
    return f"{c.tested.mean:+.4f} {what} ({low:+.4f} to {high:+.4f}) on {c.tested.n} requests of {c.tested.users} users"


def _verdict(decision: str, why: str, c: Comparison) -> Verdict:
    return Verdict(decision, why, c.figures())
