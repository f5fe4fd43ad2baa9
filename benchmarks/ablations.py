"""One table of what every part is worth: in the mixture on logs, in the served model in front of people.

Each figure is that with the part less that without it, so that more is better: NDCG@10 on the tuning slice from the runs of
`benchmarks.quality`, points of the share of the best possible click-through from those of `benchmarks.parts`,
`benchmarks.objective` and `benchmarks.looks`. Intervals as those say.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.loop import learned
from benchmarks.page import table
from benchmarks.parts import LEARNERS, Runs, points
from benchmarks.parts import WHOLE as SERVED
from benchmarks.ranked import WHOLE, Ranked, signed

LEARNER, FORGETFUL = LEARNERS
LOGS = ("movielens", "world")


class Without(NamedTuple):
    """A row with the part, and one without it."""

    row: str
    less: str


class Part(NamedTuple):
    """Where the part is measured: rows of `benchmarks.quality`, of `benchmarks.parts`; None: it is not in that model."""

    name: str
    mixture: Without | None = None
    served: Without | None = None


def left_out(name: str) -> Without:
    """Of the mixture."""
    return Without(WHOLE, name)


def not_served(name: str) -> Without:
    """Of the served model."""
    return Without(SERVED, name)


PARTS_OF = (
    Part("history: positives pooled in the user tower", left_out("without history"), not_served("without history")),
    Part("prior: counts and age, columns; inputs", left_out("without prior"), not_served("without counts")),
    Part("co-visitation", left_out("without co-visitation"), not_served("without co-visitation")),
    Part("mixing: weights learned; by segment", left_out("without mixing"), not_served("one weight of co-visitation for all")),
    Part("the two-tower", left_out("prior-covisitation")),
    Part("attributes of users and items; content of items", left_out("without attributes"), not_served("without content")),
    Part("affinities", served=not_served("without affinities")),
    Part("ids of items", left_out("without ids"), Without("without history", "without ids")),  # which has no history, either
    Part("training on the residual", left_out("without residual")),
    Part("logQ, of sampled negatives", Without("sampled", "sampled, without logQ")),
    Part(
        "shown-but-skipped: at 0.5 %; 0.1", Without("shown-but-skipped, 0.5 %", WHOLE), not_served("without shown-but-skipped")
    ),
    Part("drawn negatives", served=not_served("without drawn items")),
    Part("replay, online", left_out("without replay"), Without(LEARNER, FORGETFUL)),
    Part("sequence: a transformer, off", Without("sequence", WHOLE)),
    Part("context: a third tower, off; the hour in the user tower", Without("context", WHOLE)),
    Part("multi-task: towers learn of all tasks, at 0.1, off", served=Without("towers learn tasks, 0.1", SERVED)),
    Part("multi-task at 1, off", served=Without("towers learn tasks, 1", SERVED)),
)


def tables(
    quality: Mapping[str, Any], parts: Mapping[str, Any], objective: Mapping[str, Any], looks: Mapping[str, Any]
) -> dict[str, str]:
    """The table as Markdown."""
    logs = [Ranked([run for run in quality["runs"] if run["log"] == log]) for log in LOGS]
    rows = [[part.name, *(ranked(log, part.mixture) for log in logs), shares(parts["runs"], part.served)] for part in PARTS_OF]
    dialled, plain = ([run for run in objective["runs"] if (run["table"], run["dial"]) == ("", dial)] for dial in (0.3, 0.0))
    rows.append(["popularity correction of 0.3, off", "", "", points(dialled, plain)])
    by_place, all_rows = ([run for run in looks["runs"] if run["kind"] == kind] for kind in ("drawn", "shown"))
    rows.append(["position correction, in logs without views", "", "", points(*map(learned_of, (by_place, all_rows)))])
    header = ["with it less without", "MovieLens-100K", "logs of three worlds", "people of three larger worlds, points"]
    return {"ablations": table(header, rows)}


def learned_of(runs: Runs) -> Runs:
    """Their requests of the learned arm."""
    return [{"seed": run["seed"], **learned(run)} for run in runs]


def ranked(log: Ranked, of: Without | None) -> str:
    """NDCG@10 of the one less the other."""
    if of is None or len(log.rows(of)) < len(of):
        return ""
    return signed(*log.difference(*of))


def shares(runs: Runs, of: Without | None) -> str:
    """Points of share."""
    return "" if of is None else points(*([run for run in runs if run["row"] == name] for name in of))
