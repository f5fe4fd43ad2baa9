"""The AUC among rows at equal places is the usual one, place by place."""

import numpy as np
import pytest

from benchmarks.curves import DRAWS
from benchmarks.looks import Ranked
from feed.evaluation import metrics


def ranked(n: int, places: int, seed: int) -> Ranked:
    draw = np.random.default_rng(seed)
    taken, user = draw.random(n) < 0.3, np.array([f"u{k}" for k in draw.integers(20, size=n)])
    return Ranked(
        draw.integers(places, size=n), taken, user, {"good": draw.normal(size=n) + taken, "noise": draw.normal(size=n)}
    )


def test_at_one_place_it_is_the_auc_and_its_resamples_lie_around_it():
    of = ranked(600, 1, 0)
    for kind, found in of.auc().items():
        assert found[0] == pytest.approx(metrics.auc(of.logits[kind], of.taken))
        assert len(found) == 1 + DRAWS
        assert found[1:].mean() == pytest.approx(found[0], abs=0.01)
        assert 0.005 < found[1:].std() < 0.05


def test_rows_of_different_places_or_parts_are_not_compared():
    first, second = ranked(300, 2, 1), ranked(200, 3, 2)
    moved = second._replace(logits={kind: values + 100 for kind, values in second.logits.items()})
    right = pairs = 0.0
    for of in (first, second):
        for place in np.unique(of.stratum):
            rows = of.stratum == place
            n = float(of.taken[rows].sum() * (~of.taken[rows]).sum())
            right, pairs = right + n * metrics.auc(of.logits["good"][rows], of.taken[rows]), pairs + n
    assert Ranked.concat([first, moved]).auc()["good"][0] == pytest.approx(right / pairs)
