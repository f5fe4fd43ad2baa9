"""What is kept of earlier records is bounded, and forgets as it says."""

import functools
import math

import msgspec
import numpy as np

from feed.learning import memory
from feed.learning.loss import prepare
from feed.learning.memory import ENTERS, RESERVOIR, Catalogue, Reservoir
from tests.learning import taught
from tests.learning.taught import example


def test_the_reservoir_is_bounded_and_forgets_exponentially():
    one, n = example(0), 30_000
    reservoir = Reservoir(seed=0)
    for k in range(n):
        reservoir.offer(msgspec.structs.replace(one, sequence=k))
    ages = np.array([n - e.sequence for e in reservoir.examples])
    assert len(ages) == RESERVOIR
    half = math.log(2) * RESERVOIR / ENTERS  # examples until half of those kept have been replaced
    assert abs((ages > half).mean() - 0.5) < 0.06  # four standard errors


def test_the_same_examples_give_the_same_reservoir_and_others_are_drawn_without_repetition():
    def filled():
        reservoir = Reservoir(seed=3)
        for k in range(300):
            reservoir.offer(example(k))
        return reservoir

    assert filled().examples == filled().examples
    read = functools.partial(prepare, space=taught.world()[1].space)
    drawn = filled().draw(64, np.random.default_rng(0), read)
    assert len({id(one) for one in drawn}) == 64
    assert len(filled().draw(1000, np.random.default_rng(0), read)) == 300


def test_the_catalogue_keeps_the_items_seen_last_as_they_were_then(monkeypatch):
    monkeypatch.setattr(memory, "CATALOGUE", 10)
    catalogue, log = Catalogue(), [example(n) for n in range(20)]
    for one in log:
        catalogue.add(one)
    last = {}
    for one in log:
        for row in one.rows:
            last.pop(row.item.item_id, None)
            last[row.item.item_id] = row.item
    assert catalogue.items() == list(last.values())[-10:]
    assert Catalogue(catalogue.items()).items() == catalogue.items()
    assert len({item.item_id for item in catalogue.draw(10, np.random.default_rng(0))}) == 10
