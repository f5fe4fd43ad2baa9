import numpy as np
import pytest

from feed.catalogue import Item
from feed.evaluation import holdout
from feed.evaluation.holdout import VisitCollector
from feed.events import Click, View, utc
from feed.features import FeatureSpace
from feed.features.counts import HALF_LIVES
from feed.models.pairs import Log, pairs_of, replay
from feed.repeats import ALWAYS

START = 1_700_000_000.0
ITEMS = ["old", "liked", "left", "other", "unborn"]


def event(kind, at, user, item):
    return kind(event_id=f"e{at}{user}", user_id=user, item_id=item, occurred_at=utc(START + at))


@pytest.fixture
def groups():
    """u consumes `old`, and much later, in one visit, leaves `left` and takes `liked`; v clicks `other` before."""
    events = [event(Click, 0, "u", "old"), event(Click, 10, "v", "other"), event(Click, 11, "w", "other")]
    events += [event(View, 5000, "u", "left"), event(Click, 5010, "u", "liked")]
    items = [Item(item_id=i, created_at=utc(START + (9000 if i == "unborn" else -9000))) for i in ITEMS]
    log = Log(items, [], events)
    for _, state in replay(log, [3]):
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    found = pairs_of(log)
    collector = VisitCollector(log, space, found[:3], found[3:], 10, np.random.default_rng(0))
    for stop, state in replay(log, collector.stops):
        collector.look(stop, state)
    return collector.groups()


def test_a_visit_is_ranked_among_what_is_there_and_not_consumed(groups):
    (group,) = groups
    assert group.user_ids == ("u",)
    assert [ITEMS[i] for i in np.flatnonzero(group.eligible[0])] == ["liked", "left", "other"]
    assert [ITEMS[i] for i in np.flatnonzero(group.relevant[0])] == ["liked"]
    assert [ITEMS[i] for i in np.flatnonzero(group.left[0])] == ["left"]


def test_figures_have_the_values_computed_by_hand(groups):
    def scores(visits):
        return np.array([[9.0, 2.0, 1.0, 3.0, 9.0]])  # of the eligible: other, liked, left

    figures = {name: values.tolist() for name, values in holdout.per_visit(groups, scores, 0).items()}
    assert figures == {
        "auc": [0.5],
        "ndcg_at_10": [pytest.approx(1 / np.log2(3))],
        "precision_at_50": [pytest.approx(1 / 5)],
        "recall_at_50": [1.0],
        "auc_looked_at": [1.0],
    }


def test_popularity_ranks_by_what_others_took_before(groups):
    assert groups[0].begins == (3,)
    assert groups[0].positives[:, 0].tolist() == [1, 0, 0, 2, 0], "ever"
    for column in range(1 + len(HALF_LIVES)):
        scores = holdout.popularity(groups[0], column)[0]
        assert ITEMS[int(np.argmax(np.where(groups[0].eligible[0], scores, -1)))] == "other"
        assert scores[ITEMS.index("liked")] == 0, "the visit itself does not count"
    assert groups[0].positives[3, 1] < 0.1, "of a quarter of an hour little is left after 83 minutes"
    assert groups[0].positives[3, -1] > 1.9


def test_in_a_log_of_views_alone_views_are_counted():
    about = {"user_id": "u", "item_id": "old", "occurred_at": utc(START)}
    assert holdout.counted(Log([], [], [View(event_id="1", **about)])) == ("view",)
    assert "view" not in holdout.counted(Log([], [], [View(event_id="1", **about), Click(event_id="2", **about)]))


def test_summary_is_the_mean_inside_its_interval(groups):
    summary = holdout.summary(groups, lambda visits: holdout.popularity(visits, 0), seed=0)
    assert set(summary) == set(holdout.FIGURES)
    assert all(one["low"] <= one["mean"] <= one["high"] for one in summary.values())


def test_where_items_come_again_a_visit_is_ranked_among_them_too():
    events = [
        event(Click, 0, "u", "old"),
        event(View, 1, "u", "other"),
        event(Click, 9000, "u", "old"),
        event(View, 9001, "u", "left"),
    ]
    log = Log([Item(item_id=i) for i in ITEMS], [], events, ALWAYS)
    found = pairs_of(log)
    for _, state in replay(log, [2]):
        space = FeatureSpace.fit(list(state.users.values()), state.items, state.now, {})
    collector = VisitCollector(log, space, found[:2], found[2:], 10, np.random.default_rng(0))
    for stop, state in replay(log, collector.stops):
        collector.look(stop, state)
    (group,) = collector.groups()
    assert [ITEMS[i] for i in np.flatnonzero(group.relevant[0])] == ["old"]
    assert [ITEMS[i] for i in np.flatnonzero(group.left[0])] == ["left"]
    assert [ITEMS[i] for i in np.flatnonzero(~group.eligible[0])] == ["other"], "viewed, and never taken"
