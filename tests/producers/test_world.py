from collections import Counter

import numpy as np
import pytest

from feed.catalogue import Item, User
from feed.evaluation.metrics import gini
from feed.events import POSITIVES, Engagement, utc
from feed.features import BatchState
from producers import behaviour, facts, history, movielens
from producers.audience import TOP
from producers.history import END, History
from producers.world import CATEGORY_NAMES, DAY, EPOCH, HISTORY_DAYS, World

SIZES = (300, 2000, 15_000)  # a third of the real one, in every respect that matters here


@pytest.fixture(scope="module")
def log() -> History:
    return history.make(World(), 50_000)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    one, same, other = World(50, 100, 7), World(50, 100, 7), World(50, 100, 8)
    assert one.items == same.items
    assert one.users == same.users
    assert (one.quality == same.quality).all()
    assert all((a.tag == b.tag).all() and (a.creator == b.creator).all() for a, b in zip(one.tastes, same.tastes, strict=True))
    assert one.items != other.items


def test_it_holds_what_it_was_asked_for_with_plain_numbers_as_ids() -> None:
    world = World()
    assert [user.user_id for user in world.users] == [str(n) for n in range(1000)]
    assert sorted(int(item.item_id) for item in world.items) == list(range(5000))
    assert {item.category for item in world.items} == set(CATEGORY_NAMES)
    assert all(item.title and item.tags and item.creator_id for item in world.items)
    assert world.created.min() < EPOCH < world.created.max() <= EPOCH + HISTORY_DAYS * DAY


def test_item_ids_tell_nothing() -> None:
    world = World()
    ids = np.array([int(item.item_id) for item in world.items])
    for column in (world.created, world.quality, world.category, world.creator):
        assert abs(np.corrcoef(ids, column)[0, 1]) < 0.05


def test_demographics_carry_taste() -> None:
    world = World()
    tastes = np.array([taste.category[1:] for taste in world.tastes])
    groups = np.array([user.age_group for user in world.users])
    young, old = tastes[groups == "18-24"].mean(axis=0), tastes[groups == "55+"].mean(axis=0)
    halves = [tastes[groups == "18-24"][k::2].mean(axis=0) for k in (0, 1)]
    assert np.abs(young - old).max() > 3 * np.abs(halves[0] - halves[1]).max()


def test_what_an_earlier_run_added_is_known_again() -> None:
    earlier, draw = World(20, 50, 3), np.random.default_rng(0)
    item, user = earlier.new_item(END, draw), earlier.new_user(END, draw)
    assert (item.item_id, user.user_id) == ("50", "20")
    later = World(20, 50, 3)
    later.add_items([*later.items, item])
    later.add_users([*later.users, user])
    assert len(later.items) == 51
    assert later.quality[-1] == earlier.quality[-1]
    assert (later.tastes[-1].category == earlier.tastes[-1].category).all()
    assert later.new_item(END, draw).item_id == "51"


def test_an_item_of_unknown_kind_means_nothing_to_anybody() -> None:
    world = World(20, 50)
    world.add_items([Item(item_id="mine", category="knitting", tags=("wool",), creator_id="nobody", created_at=utc(EPOCH))])
    world.latent[-1] = 0.0
    assert behaviour.taste(world, 0, np.array([50])) == 0.0


def test_a_user_of_whom_nothing_is_known_has_tastes() -> None:
    world = World(20, 50)
    world.add_users([User(user_id="guest")])
    assert world.tastes[-1].category.max() > 1


def test_drift_moves_the_tastes_of_its_share_of_users() -> None:
    world, draw = World(400, 50), np.random.default_rng(0)
    before = [taste.category.copy() for taste in world.tastes]
    moved = world.drift(0.5, draw)
    changed = [row for row, old in enumerate(before) if not np.array_equal(old, world.tastes[row].category)]
    assert changed == moved.tolist()
    assert 0.4 < len(moved) / 400 < 0.6
    similar = np.mean([np.corrcoef(before[row], world.tastes[row].category)[0, 1] for row in moved])
    assert similar < 0.3
    assert len(world.drift(0.0, draw)) == 0


def test_drift_makes_what_was_best_worse() -> None:
    world, everything = World(), np.arange(5000)
    best = {row: np.argsort(-behaviour.taste(world, row, everything))[:TOP] for row in range(50)}
    before = np.mean([behaviour.taste(world, row, best[row]).mean() for row in best])
    world.drift(1.0, np.random.default_rng(0))
    assert np.mean([behaviour.taste(world, row, best[row]).mean() for row in best]) < before - 2


def check_ratios(found: facts.Facts) -> None:
    """The issue asks for 1.3 and 1.5; the margins are for other seeds."""
    assert 0.03 < found.random < 0.06
    assert 0.06 < found.popular < 0.11
    assert 0.15 < found.best < 0.25
    assert found.popular > 1.6 * found.random
    assert found.best > 1.9 * found.popular


def test_popular_beats_random_and_the_best_possible_beats_popular(log: History) -> None:
    check_ratios(facts.measure(log, 400))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_they_do_in_other_worlds_too(seed: int) -> None:
    users, items, interactions = SIZES
    check_ratios(facts.measure(history.make(World(users, items, seed), interactions), 300))


def test_popularity_is_as_skewed_as_movielens(log: History) -> None:
    films = gini(movielens.load().interactions.query("event == 'view'")["item_id"].value_counts().to_numpy())
    assert films == pytest.approx(facts.MOVIELENS_GINI, abs=0.001)
    assert gini(facts.engagements_per_item(log.events)) == pytest.approx(films, abs=0.04)


def test_the_popular_feed_is_the_one_of_the_popular_arm(log: History) -> None:
    state = BatchState(log.audience.world.items)
    for event in log.events:
        state.items.add(event)
    rows = [state.items.row(item.item_id) or 0 for item in log.audience.world.items]
    np.testing.assert_allclose(
        facts.popularity_at(log.events, log.audience, END), state.items.popularity(END)[rows], rtol=1e-2, atol=0.02
    )


def test_counting_a_users_own_clicks_beats_popularity(log: History) -> None:
    """The signal is there to be learned: no model, no oracle, only counts of the log's categories, tags and creators."""
    audience, world = log.audience, log.audience.world
    popularity = facts.popularity_at(log.events, audience, END)
    own: dict[str, Counter[tuple[str, int]]] = {user.user_id: Counter() for user in world.users}
    for event in log.events:
        if isinstance(event, Engagement):
            row, weight = world.item_row[event.item_id], 1.0 if type(event).__name__.lower() in POSITIVES else -0.1
            for token in [
                ("c", world.category[row]),
                ("k", world.creator[row]),
                *(("t", tag) for tag in world.tags[row] if tag),
            ]:
                own[event.user_id][token[0], int(token[1])] += weight
    counted = popular = 0.0
    examined, everything = behaviour.examine(TOP), np.arange(len(world.items))
    for user in range(0, 1000, 5):
        weights, when = own[str(user)], behaviour.Moment(END + 12 * 3600, 12.0, "mobile")
        columns = (("c", world.category), ("k", world.creator), *(("t", world.tags[:, n]) for n in range(4)))
        total = 1 + sum(abs(weight) for weight in weights.values())
        score = sum(np.array([weights[kind, int(v)] for v in column]) for kind, column in columns) * 12 / total
        score = score + 0.5 * np.log1p(popularity)
        there = audience.eligible(user, when.at)
        p = audience.probabilities(user, everything, when)
        counted += p[np.argsort(-np.where(there, score, -np.inf), kind="stable")[:TOP]] @ examined
        popular += p[np.argsort(-np.where(there, popularity, -np.inf), kind="stable")[:TOP]] @ examined
    assert counted > 1.3 * popular
