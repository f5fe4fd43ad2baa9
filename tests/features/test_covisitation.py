import numpy as np

from feed.features.covisitation import CoVisitation, Relation
from feed.features.pair_counts import Square

TOTALS = np.array([3, 1, 2, 0])


def test_a_pair_counts_by_the_steps_between():
    table = CoVisitation(Relation(decay=0.5, window=2), Square(4))
    table.add([2, 1, 0], 3)  # 2 is one step back, 1 is two, 0 is beyond the window
    x = table.column([2], TOTALS)
    np.testing.assert_allclose(x, [0, 0, 0, 1 / np.sqrt(3) / np.sqrt(5)], rtol=1e-5)
    np.testing.assert_allclose(table.column([1], TOTALS)[3], 0.5 / np.sqrt(2) / np.sqrt(5), rtol=1e-5)
    assert not table.column([0], TOTALS).any()


def test_what_came_next_says_nothing_of_what_came_before():
    next_only, both = (CoVisitation(Relation(0.9, 5, both), Square(4)) for both in (False, True))
    for table in (next_only, both):
        table.add([0], 1)
    assert not next_only.column([1], TOTALS).any()
    assert both.column([1], TOTALS)[0] > 0


def test_a_history_says_the_decayed_sum_of_what_its_items_say():
    table = CoVisitation(Relation(0.5, 3), Square(4))
    table.add([0], 3)
    table.add([1], 3)
    alone = table.column([0], TOTALS) + 0.5 * table.column([1], TOTALS)
    np.testing.assert_allclose(table.column([0, 1], TOTALS), alone, rtol=1e-5)


def test_nobody_without_a_history_is_told_anything():
    assert not CoVisitation(Relation(0.9, 5), Square(4)).column([], TOTALS).any()
