import numpy as np
import pandas as pd
import pytest

from feed.errors import BadSetting
from feed.evaluation.protocol import progressive, static
from feed.evaluation.slices import Slice
from tests.evaluation.logs import START, log


class Notes:
    """Scores all items alike and notes what it is asked and told."""

    def __init__(self, score=None):
        self.told, self._score = [], score

    def fit(self, rows, catalogue):
        self.fitted, self._m = len(rows), catalogue.n_items

    def scores(self, user, at):
        self.told.append(("scores", user, at - START.timestamp()))
        return np.zeros(self._m) if self._score is None else self._score

    def observe(self, k, rows):
        self.told.append(("observe", k))

    def learn(self, k, rows):
        self.told.append(("learn", k))


class LateNotes(Notes):
    def freeze(self, k, rows):
        self.told.append(("freeze", k))


def told(model, kinds=("scores", "observe", "learn", "freeze")):
    return [one[0] if one[0] == "scores" else one for one in model.told if one[0] in kinds]


ROWS = [("u", "a", "click", 0), ("v", "b", "click", 10), ("u", "b", "view", 20), ("u", "b", "like", 20), ("v", "c", "view", 30)]


def test_a_target_is_ranked_before_it_is_learned_and_learned_before_it_is_observed():
    model = Notes()
    progressive(model, log(ROWS), Slice("test", 1, 5), learn_every=1)
    assert model.fitted == 1
    assert told(model) == [
        "scores", ("learn", 1), ("observe", 1),
        "scores", ("learn", 2), ("observe", 2), ("observe", 3),
        ("observe", 4),
    ]  # fmt: skip


def test_a_target_whose_label_comes_later_is_frozen_when_ranked_and_learned_when_known():
    rows = [("u", "a", "click", 0), ("u", "b", "impression", 10), ("v", "c", "view", 20), ("u", "b", "click", 30)]
    model = LateNotes()
    progressive(model, log(rows), Slice("test", 1, 4), learn_every=1)
    learned = [one for one in model.told if one[0] in ("learn", "freeze", "observe")]
    assert learned == [("freeze", 1), ("observe", 1), ("observe", 2), ("learn", 1), ("observe", 3)]


def test_frozen_weights_never_learn():
    model = Notes()
    progressive(model, log(ROWS), Slice("test", 1, 5), learn_every=0)
    assert told(model, ("learn",)) == []


def test_state_and_weights_are_refreshed_as_often_as_asked():
    rows = [("u", f"i{k}", "click", k) for k in range(7)]
    model = LateNotes()
    progressive(model, log(rows), Slice("test", 1, 7), state_every=3, learn_every=2)
    assert told(model, ("scores", "observe", "learn")) == [
        "scores", "scores", ("learn", 1), ("learn", 2), "scores", ("observe", 1), ("observe", 2), ("observe", 3),
        "scores", ("learn", 3), ("learn", 4), "scores", "scores", ("learn", 5), ("learn", 6),
        ("observe", 4), ("observe", 5), ("observe", 6),
    ]  # fmt: skip


def test_a_model_that_cannot_keep_its_inputs_is_not_asked_to_learn_late():
    with pytest.raises(BadSetting, match="--learn-every 2"):
        progressive(Notes(), log(ROWS), Slice("test", 1, 5), learn_every=2)


def test_what_the_user_has_met_and_what_does_not_exist_yet_is_never_recommended():
    items = {"item_id": ["a", "b", "c", "new"], "created_at": [None, None, None, START + pd.Timedelta(25, unit="s")]}
    found = log(ROWS, items)
    outcome = progressive(Notes(), found, Slice("test", 1, 5))
    lists = [set(found.item_ids[items[items >= 0]]) for items in outcome.targets.items]
    assert lists == [{"a", "b", "c"}, {"b", "c"}]


REPEATED = [
    ("u", "a", "click", 0),
    ("v", "b", "click", 10),
    ("u", "a", "click", 9000),
    ("u", "b", "view", 9010),
    ("u", "a", "click", 18000),
]


def test_with_repeats_what_the_user_has_met_is_ranked_and_is_a_target():
    found = log(REPEATED, repeats=True)
    outcome = progressive(Notes(), found, Slice("test", 2, 5))
    assert outcome.targets.key.tolist() == [2, 4]
    assert [set(found.item_ids[items[items >= 0]]) for items in outcome.targets.items] == [{"a", "b"}] * 2
    assert len(progressive(Notes(), log(REPEATED), Slice("test", 2, 5)).targets) == 0


def test_with_repeats_a_static_list_has_each_item_once_however_often_it_is_taken():
    outcome = static(Notes(), log(REPEATED, repeats=True), Slice("test", 2, 5))
    assert outcome.targets.values["recall_at_10"].tolist() == [1.0]


def test_an_item_that_happened_before_its_creation_time_can_still_be_found():
    items = {"item_id": ["a", "b", "c"], "created_at": [None, START + pd.Timedelta(1, unit="D"), None]}
    outcome = progressive(Notes(), log(ROWS, items), Slice("test", 1, 5))
    assert (outcome.targets.values["ndcg_at_10"] > 0).all()


def test_events_before_a_target_and_the_age_of_its_item_make_the_segments():
    items = {"item_id": ["a", "b", "c"], "created_at": [None, START, START - pd.Timedelta(2, unit="D")]}
    outcome = progressive(Notes(), log([*ROWS, ("w", "c", "click", 40)], items), Slice("test", 1, 6))
    assert outcome.targets.key.tolist() == [1, 2, 5]
    assert outcome.targets.earlier.tolist() == [0, 1, 0]
    assert outcome.young.key.tolist() == [1, 2]


def test_what_was_shown_is_scored_once_a_request_before_any_of_it_is_observed():
    rows = [("u", "a", "click", 0), *(("u", item, "impression", 10) for item in "bcd"), ("u", "c", "click", 20)]
    found = log(rows)
    model = Notes(np.arange(4.0))
    user, scores, labels = progressive(model, found, Slice("test", 1, 5)).shown
    assert user.tolist() == [found.rows.user[0]] * 3
    assert scores.tolist() == found.rows.item[1:4].tolist()
    assert labels.tolist() == [False, True, False]


def test_static_lists_are_those_of_the_split_and_later_items_count_as_missed():
    items = {"item_id": ["a", "b", "c", "new"], "created_at": [None, None, None, START + pd.Timedelta(25, unit="s")]}
    rows = [("u", "a", "click", 0), ("v", "b", "click", 10), ("u", "b", "click", 20), ("u", "new", "click", 30)]
    found = log(rows, items)
    model = Notes()
    outcome = static(model, found, Slice("test", 1, 4))
    assert told(model) == ["scores", "scores"]
    lists = {
        found.user_ids[u]: set(found.item_ids[i[i >= 0]])
        for u, i in zip(outcome.targets.key, outcome.targets.items, strict=True)
    }
    assert lists == {"u": {"b", "c"}, "v": {"a", "b", "c"}}
    recall = dict(zip(found.user_ids[outcome.targets.user], outcome.targets.values["recall_at_10"], strict=True))
    assert recall == {"u": 0.5, "v": 1.0}
