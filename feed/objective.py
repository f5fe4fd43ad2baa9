"""What a feed is ranked for: one table of weights, read from the setting FEED_OBJECTIVE.

    value(u, i) = sum over tasks k of weight_k P_k(u, i)

with P_k the heads' chances that k follows a look (`feed.models.heads`). The weights say what each is worth beside the others;
no training depends on them. X published such a table for the model that ranked its timelines in 2023: a like counts 0.5, a
reply 27, asking to see less -74 (github.com/twitter/the-algorithm-ml, projects/home/recap/README.md).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from feed.errors import BadSetting
from feed.events import KINDS_OF_ALL, TRAITS

TASKS = ("click", "like", "share", "comment", "dwell", "hide")
LARGEST = 1e6  # chances are float32
EXAMPLE = "FEED_OBJECTIVE='click=1 like=2 share=3 comment=3 dwell=0.3 hide=-10'"


def tasks() -> tuple[str, ...]:
    """`TASKS`, and after them the kinds of engagement that FEED_KINDS names."""
    return (*TASKS, *(name for name in TRAITS if name not in KINDS_OF_ALL))


@dataclass(frozen=True)
class Objective:
    """The table, in the order of `tasks`; without weights a feed is ranked by the model's logit alone."""

    weights: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str, known: Sequence[str] | None = None) -> Self:
        """`task=weight`, separated by blanks or commas; empty: no table. Raises `BadSetting` naming the offender.

        `known`: the tasks, where they are not those of this process's kinds.
        """
        known = tasks() if known is None else known
        found: dict[str, float] = {}
        for part in text.replace(",", " ").split():
            task, equals, number = part.partition("=")
            if task not in known:
                raise BadSetting(f"FEED_OBJECTIVE: {task!r} in {part!r} is no task; there are {', '.join(known)}: {EXAMPLE}")
            if task in found:
                raise BadSetting(f"FEED_OBJECTIVE gives {task} twice, {found[task]:g} and {number}: leave one out")
            try:
                found[task] = float(number)
            except ValueError:
                missing = "has no weight" if not equals or not number else f"has a weight that is no number, {number!r}"
                raise BadSetting(f"FEED_OBJECTIVE: {part!r} {missing}; write {task}=NUMBER: {EXAMPLE}") from None
            if not math.isfinite(found[task]) or abs(found[task]) > LARGEST:
                raise BadSetting(f"FEED_OBJECTIVE: the weight of {part!r} must lie between {-LARGEST:g} and {LARGEST:g}")
        if found and not any(found.values()):
            raise BadSetting(f"FEED_OBJECTIVE={text!r} gives everything a weight of 0, so nothing could be ranked: {EXAMPLE}")
        return cls(tuple((task, found[task]) for task in known if found.get(task)))

    def among(self, tasks: Collection[str]) -> Self:
        """What of the table a version with heads for these tasks can follow; nothing, if nothing is left of what is wanted."""
        found = tuple(entry for entry in self.weights if entry[0] in tasks)
        wanted = {task for task, weight in self.weights if weight > 0}
        return type(self)(() if wanted and wanted.isdisjoint(tasks) else found)

    def __str__(self) -> str:
        return " ".join(f"{task}={weight:g}" for task, weight in self.weights)
