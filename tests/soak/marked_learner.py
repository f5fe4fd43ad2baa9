"""The learner agent's own `main`, which also says in a shared page whether it is in a step: what SIGKILL leaves there is true.

`python tests/soak/marked_learner.py PAGE`. The page holds int64: steps entered, steps left, both since the start; the number of
steps in its log's life, which a version tells too.
"""

import sys

import numpy as np

from feed.errors import run
from feed.learning.learner import Learner
from stream_processors import learner

ENTERED, LEFT, STEPS = range(3)


def mark(page: np.memmap) -> None:
    """Have each step write to the page before it and after it."""
    descend = Learner._descend

    def marked(self, new):
        page[ENTERED] += 1
        step = descend(self, new)
        page[STEPS] = self.progress.steps
        page[LEFT] += 1
        return step

    Learner._descend = marked


if __name__ == "__main__":
    mark(np.memmap(sys.argv.pop(1), np.int64, "r+"))
    run(learner.main)
