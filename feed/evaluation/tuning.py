"""Choosing a model's parameters on the tuning slice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """Parameters and what they scored."""

    parameters: Parameters
    figure: float


def search(
    grid: Mapping[str, tuple[Any, ...]],
    score: Callable[[Parameters], float],
    tried: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Trial, list[Trial]]:
    """The best parameters and all that were tried: one name after the other, all its values, the best kept.

    It begins with the first value of each name and goes round until nothing changes: few runs, to a point that no single
    change improves.
    """
    done: dict[tuple[Any, ...], Trial] = {}

    def run(parameters: Parameters) -> Trial:
        key = tuple(parameters.values())
        if key not in done:
            done[key] = Trial(parameters, score(parameters))
            tried(done[key])
        return done[key]

    best = run({name: values[0] for name, values in grid.items()})
    while True:
        before = best
        for name, values in grid.items():
            trials = [run({**best.parameters, name: value}) for value in values]
            best = max([best, *trials], key=lambda trial: trial.figure)
        if best is before:
            return best, list(done.values())
