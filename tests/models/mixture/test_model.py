from dataclasses import dataclass, fields

import numpy as np
import pytest

from feed.models.mixture import Mixture, Parts

GENRES, PER_GENRE = 4, 20
ITEMS = GENRES * PER_GENRE
MINUTE = 60.0


@dataclass
class Log:
    """Rows of people who like the items of one genre each."""

    user: np.ndarray
    item: np.ndarray
    at: np.ndarray
    shown: np.ndarray
    positive: np.ndarray
    first: np.ndarray


@dataclass
class Shelf:
    created: np.ndarray
    category: np.ndarray
    creator: np.ndarray
    tags: tuple[tuple[int, ...], ...]
    user_features: np.ndarray
    n_items: int = ITEMS


def _log(pairs, start=0.0):
    user, item = np.array(pairs).T
    n = len(pairs)
    met: set[tuple[int, int]] = set()
    first = np.zeros(n, bool)
    for k, pair in enumerate(pairs):
        first[k] = pair not in met
        met.add(pair)
    return Log(user, item, start + MINUTE * np.arange(n), np.zeros(n, bool), np.ones(n, bool), first)


def _shelf():
    genre = 1 + np.arange(ITEMS) // PER_GENRE
    return Shelf(np.full(ITEMS, -np.inf), genre, genre, ((),) * ITEMS, np.zeros((500, 1), np.int32))


def _likes(rng, user, genre, many, excluding=()):
    items = [i for i in range(genre * PER_GENRE, (genre + 1) * PER_GENRE) if i not in excluding]
    return [(user, int(item)) for item in rng.choice(items, many, replace=False)]


def _crowd(rng, excluding=()):
    """150 people of ten likes each, a genre each, in random order of people."""
    pairs = []
    for user in range(150):
        pairs += _likes(rng, user, int(rng.integers(GENRES)), 10, excluding)
    return pairs


def _share(model, user, at, genre, seen=()):
    """The genre's share of the user's ten best."""
    scores = model.scores(user, at).copy()
    scores[list(seen)] = -np.inf
    return float(np.mean(np.argsort(-scores)[:10] // PER_GENRE == genre))


@pytest.fixture(scope="module")
def crowd():
    return _crowd(np.random.default_rng(0))


@pytest.fixture
def model(crowd):
    model = Mixture()
    model.fit(_log(crowd), _shelf())
    return model


def _live(model, pairs, start):
    log = _log(pairs, start)
    for k in range(len(pairs)):
        if log.first[k]:
            model.learn(k, log)
        model.observe(k, log)
    return float(log.at[-1])


def test_a_new_taste_is_learned_within_20_events_and_the_old_one_forgotten(model, crowd):
    rng = np.random.default_rng(1)
    start = MINUTE * len(crowd)
    old = _likes(rng, 450, 0, 10)
    now = _live(model, old, start)
    assert _share(model, 450, now, 0, [item for _, item in old]) >= 0.9
    new = _likes(rng, 450, 1, 10)
    now = _live(model, new, now)
    assert _share(model, 450, now, 1, [item for _, item in old + new]) >= 0.9


def test_a_brand_new_item_of_a_liked_category_reaches_the_right_users():
    rng, new = np.random.default_rng(2), 2 * PER_GENRE  # of genre 2, never taken
    model = Mixture()
    pairs = _crowd(rng, excluding=[new])
    model.fit(_log(pairs), _shelf())
    now = MINUTE * len(pairs)
    own, others = _likes(rng, 460, 2, 8, excluding=[new]), _likes(rng, 461, 3, 8)
    now = _live(model, own + others, now)
    ranks = {}
    for user, seen in ((460, own), (461, others)):
        scores = model.scores(user, now).copy()
        scores[[item for _, item in seen]] = -np.inf
        ranks[user] = int((scores > scores[new]).sum())
    assert ranks[460] < PER_GENRE
    assert ranks[461] >= PER_GENRE


def test_asking_changes_nothing(model, crowd):
    at = MINUTE * len(crowd)
    before = model.scores(3, at).copy()
    model.scores(5, at + 7 * MINUTE)
    np.testing.assert_array_equal(model.scores(3, at), before)


def test_the_same_log_and_seed_give_the_same_scores(crowd):
    scores = []
    for _ in range(2):
        model = Mixture(seed=4)
        model.fit(_log(crowd[:1000]), _shelf())
        scores.append(model.scores(1, 1e6))
    np.testing.assert_array_equal(*scores)


def test_an_impression_is_seen_but_says_nothing_of_taste(model, crowd):
    log = _log([(470, 0)], MINUTE * len(crowd))
    log.shown[:], log.positive[:], log.first[:] = True, False, False
    before = model.scores(470, float(log.at[0])).copy()
    model.observe(0, log)
    np.testing.assert_array_equal(model.scores(470, float(log.at[0])), before)


def test_a_target_is_learned_as_it_was_frozen(crowd):
    def learned(freeze):
        model = Mixture(Parts(two_tower=False))
        model.fit(_log(crowd[:500]), _shelf())
        log = _log([(480, 1), (480, 2)], MINUTE * 500)
        if freeze:
            model.freeze(0, log)
            model.observe(0, log)
            model.observe(1, log)
            model.learn(0, log)
        else:
            model.learn(0, log)
        return model.weights.values

    np.testing.assert_array_equal(learned(freeze=True), learned(freeze=False))


@pytest.mark.parametrize("pairs", [[], [(0, 0)], [(0, 0), (0, 0)]])
def test_a_log_of_nearly_nothing_is_learned(pairs):
    shelf = _shelf()
    log = _log(pairs) if pairs else Log(*(np.zeros(0, kind) for kind in (int, int, float, bool, bool, bool)))
    assert len(fields(log)) == 6
    model = Mixture()
    model.fit(log, shelf)
    assert np.isfinite(model.scores(0, 10.0)).all()


def test_without_mixing_the_weights_stay_where_they_start(crowd):
    model = Mixture(Parts(mixing=False, two_tower=False))
    model.fit(_log(crowd[:200]), _shelf())
    assert dict(zip(model.weights.names, model.weights.of(5), strict=True))["count_1d"] == np.float32(0.3)
    assert np.count_nonzero(model.weights.values) == 1


def test_without_attributes_items_that_nobody_took_are_alike(crowd):
    scores = {}
    new = [PER_GENRE, 3 * PER_GENRE]  # the first person likes genre 3
    pairs = [(user, item) for user, item in crowd if item not in new]
    for attributes in (True, False):
        model = Mixture(Parts(attributes=attributes))
        model.fit(_log(pairs), _shelf())
        scores[attributes] = model.scores(pairs[0][0], MINUTE * len(pairs))[new]
    assert np.ptp(scores[False]) < 1e-4
    assert np.ptp(scores[True]) > 0.1


def test_without_the_residual_the_towers_learn_the_whole(crowd):
    offsets = {}
    for residual in (True, False):
        model = Mixture(Parts(residual=residual))
        model.fit(_log(crowd[:40]), _shelf())
        offset = model.residual._reservoir[0].offset
        offsets[residual] = offset[np.isfinite(offset)]
    assert not offsets[False].any()
    assert offsets[True].any()


@pytest.mark.parametrize("online", [False, True])
def test_who_skips_what_is_popular_and_takes_what_lies_beside_it_is_believed(online):
    """In every request a genre's favourite is shown beside another item, which alone is taken."""
    rng = np.random.default_rng(8)
    crowd = [(user, 0) for user in range(60)]
    shown = [(200 + user, int(item)) for user in range(60) for item in (0, rng.integers(1, PER_GENRE))]
    taken = [pair for pair in shown if pair[1] != 0]
    pairs = [*crowd, *shown, *taken]
    user, item = np.array(pairs).T
    at = MINUTE * np.concatenate([np.arange(60), 100 + np.repeat(np.arange(60), 2), 100.5 + np.arange(60)])
    order = np.argsort(at, kind="stable")
    is_shown = np.isin(np.arange(len(pairs)), range(60, 180))
    positive, first = ~is_shown, np.array([k < 60 or (k < 180 and pairs[k][1] != 0) for k in range(len(pairs))])
    log = Log(*(column[order] for column in (user, item, at, is_shown, positive, first)))
    favourite = {}
    for skipped in (0.0, 1.0):
        model = Mixture(Parts(two_tower=False, skipped=skipped))
        model.fit(log if not online else Log(*(getattr(log, f.name)[:60] for f in fields(Log))), _shelf())
        for k in range(60, len(pairs)) if online else ():
            if log.first[k]:
                model.freeze(k, log)
            if log.positive[k]:
                model.learn(int(np.flatnonzero(log.first & (log.user == log.user[k]) & (log.item == log.item[k]))[0]), log)
            model.observe(k, log)
        scores = model.scores(400, float(at.max()))
        favourite[skipped] = (scores[0] - scores[1:PER_GENRE].mean()) / scores.std()
    assert favourite[1.0] < favourite[0.0] - 0.2
