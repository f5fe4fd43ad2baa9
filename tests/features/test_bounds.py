"""A category of thousands of values, such as a place's cell, costs no more than one of a few."""

import numpy as np

from feed.catalogue import Item
from feed.events import Click, utc
from feed.features import BatchState, FeatureSpace, space

START = 1.7e9


def test_a_state_keeps_the_categories_that_say_most_and_a_space_the_most_frequent_ones(monkeypatch):
    monkeypatch.setattr(space, "VOCABULARY_BOUND", 10)
    cells = [f"cell {k % 20 if k % 2 else k}" for k in range(2000)]  # ten have a hundred items each, a thousand have one
    state = BatchState(Item(item_id=str(k), category=cell) for k, cell in enumerate(cells))
    for k in range(2000):
        state.apply(Click(event_id=str(k), user_id="u", item_id=str(k), occurred_at=utc(START + k)))
    user = state.user("u")
    assert (len(user["categories"]), len(user["lately_categories"]["weights"])) == (24, 24)
    assert sum(cell in user["categories"] for cell in set(cells[1::2])) == 10  # what was taken often stays
    fitted = FeatureSpace.fit([user], state.items, state.now, {})
    assert fitted.sizes["category"] == 11
    column = [name for name, _ in fitted.item_spec.categorical].index("category")
    known = fitted.item_inputs(state.items, None, state.now).categorical[:, column] > 0
    assert set(np.array(cells)[known]) == set(cells[1::2])
