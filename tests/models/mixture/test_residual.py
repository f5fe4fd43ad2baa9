import numpy as np
import pytest
import torch

from feed.models.mixture.chunks import CHUNK, Builder, Person, moment
from feed.models.mixture.parts import WHOLE, Parts
from feed.models.mixture.residual import Residual
from feed.models.mixture.tower import Attributes, Towers

ITEMS, KINDS = 40, 4  # an item's kind is its code modulo 4


def _attributes():
    return Attributes(np.zeros((1, 0), np.int64), np.zeros((ITEMS, 0), np.int64), np.zeros((ITEMS, 0), np.float32))


def _chunks(rng, many, told, parts=WHOLE):
    """People who take what is of the kind of their history; where `told`, the offset says so already."""
    builder, chunks = Builder(ITEMS, rng, parts), []
    kinds = np.arange(ITEMS) % KINDS
    counts = np.full(ITEMS, 1000)
    for _ in range(many * CHUNK):
        kind = rng.integers(KINDS)
        own = rng.permutation(np.flatnonzero(kinds == kind))
        scores = np.where(kinds == kind, 10.0, 0.0) if told else np.zeros(ITEMS)
        possible = np.ones(ITEMS, bool)
        possible[own[1:5]] = False
        chunk = builder.add(Person(0, own[1:5].tolist(), 4), int(own[0]), scores, possible, counts)
        if chunk is not None:
            chunks.append(chunk)
    return chunks


@pytest.fixture(scope="module")
def trained():
    residual = Residual(_attributes(), seed=1)
    assert residual.fit(_chunks(np.random.default_rng(1), 120, told=False)) > 0
    return residual


def test_the_kind_of_the_history_is_learned(trained):
    logits = trained.column(Person(0, [0, 4, 8, 12], 4), np.full(ITEMS, 1000))
    kinds = np.arange(ITEMS) % KINDS
    assert logits[kinds == 0].min() > logits[kinds != 0].max()


def test_what_the_other_columns_say_already_leaves_nothing_to_learn():
    residual = Residual(_attributes(), seed=1)
    residual.fit(_chunks(np.random.default_rng(2), 40, told=True))
    logits = residual.column(Person(0, [0, 4, 8, 12], 4), np.full(ITEMS, 1000))
    of_kind = logits.reshape(-1, KINDS).mean(axis=0)
    assert np.ptp(of_kind) < 1.0  # the offsets differ by 10


def test_an_item_never_taken_is_not_told_by_its_own_embedding(trained):
    counts = np.full(ITEMS, 1000)
    counts[[0, 1]] = 0  # of two kinds, and without content
    logits = trained.column(Person(0, [4, 8, 12], 3), counts)
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


def test_online_steps_follow_a_change(trained):
    learner = _with(trained)
    person, counts = Person(0, [0, 4, 8, 12], 4), np.full(ITEMS, 1000)
    kinds = np.arange(ITEMS) % KINDS
    before = learner.column(person, counts)
    rng, builder = np.random.default_rng(3), Builder(ITEMS, np.random.default_rng(3))
    for _ in range(60 * CHUNK):  # who liked kind 0 now takes kind 1
        item = int(rng.choice(np.flatnonzero(kinds == 1)))
        chunk = builder.add(person, item, np.zeros(ITEMS), np.ones(ITEMS, bool), counts)
        if chunk is not None:
            learner.learn(chunk)
    after = learner.column(person, counts)
    assert before[kinds == 0].mean() > before[kinds == 1].mean()
    assert after[kinds == 1].mean() > after[kinds == 0].mean()


def test_a_sample_of_a_large_catalogue_is_corrected_for_its_chances(monkeypatch):
    monkeypatch.setattr("feed.models.mixture.chunks.SAMPLED", 10)
    (chunk,) = _chunks(np.random.default_rng(4), 1, False, Parts(small=10))
    assert len(chunk.candidates) < ITEMS
    assert np.isfinite(chunk.offset[np.arange(CHUNK), chunk.target]).all()
    finite = chunk.offset[np.isfinite(chunk.offset)]
    np.testing.assert_allclose(finite, -np.log(min(CHUNK / ITEMS + 10 / ITEMS, 1.0)), atol=1e-3)


def test_without_the_correction_a_sample_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("feed.models.mixture.chunks.SAMPLED", 10)
    (chunk,) = _chunks(np.random.default_rng(4), 1, False, Parts(small=10, logq=False))
    assert len(chunk.candidates) < ITEMS
    assert set(chunk.offset[np.isfinite(chunk.offset)]) == {0.0}


def test_a_catalogue_smaller_than_the_sample_is_sampled_whole():
    (chunk,) = _chunks(np.random.default_rng(4), 1, False, Parts(small=10))
    np.testing.assert_array_equal(chunk.candidates, np.arange(ITEMS))


def _with(trained, parts=WHOLE):
    """The trained towers in a residual of these parts."""
    residual = Residual(_attributes(), 1, parts)
    residual._start()
    residual._towers.load_state_dict(trained._towers.state_dict())
    residual._settle()
    return residual


def test_without_the_history_people_are_alike(trained):
    counts = np.full(ITEMS, 1000)
    people = Person(0, [0, 4, 8], 3), Person(0, [1, 5, 9], 3)
    one, other = (_with(trained, Parts(history=False)).column(person, counts) for person in people)
    np.testing.assert_array_equal(one, other)
    assert np.ptp(trained.column(people[0], counts) - trained.column(people[1], counts)) > 1.0


def test_without_ids_items_of_the_same_content_are_alike(trained):
    person, counts = Person(0, [0, 4, 8], 3), np.full(ITEMS, 1000)
    assert np.ptp(_with(trained, Parts(ids=False)).column(person, counts)) < 1e-5
    assert np.ptp(trained.column(person, counts)) > 1.0


@pytest.mark.parametrize("replay", [True, False])
def test_a_step_depends_on_the_past_only_by_replay(trained, replay):
    person, counts = Person(0, [0, 4, 8], 3), np.full(ITEMS, 1000)
    new = _chunks(np.random.default_rng(5), 1, told=False)[0]
    columns = []
    for past in (6, 7):
        learner = _with(trained, Parts(replay=replay))
        learner.fit(_chunks(np.random.default_rng(past), 4, told=False))  # too few to train on, but to be remembered
        learner.learn(new)
        columns.append(learner.column(person, counts))
    assert np.array_equal(*columns) != replay


def test_the_same_chunks_and_seed_give_the_same_towers_whatever_torch_has_drawn_before():
    chunks, columns = _chunks(np.random.default_rng(1), 60, told=False), []
    for drawn_before in (9, 10):
        torch.manual_seed(drawn_before)
        residual = Residual(_attributes(), seed=1)
        assert residual.fit(chunks) > 0
        columns.append(residual.column(Person(0, [3, 7], 2), np.full(ITEMS, 1000)))
    np.testing.assert_array_equal(*columns)


def test_the_loss_of_several_samples_is_the_mean_of_their_losses(monkeypatch):
    monkeypatch.setattr("feed.models.mixture.chunks.SAMPLED", 10)
    chunks = _chunks(np.random.default_rng(4), 3, False, Parts(small=10))
    torch.manual_seed(0)
    towers = Towers(_attributes()).eval()
    alone = [towers.loss([chunk]).item() for chunk in chunks]
    assert np.ptp(alone) > 1e-3
    assert towers.loss(chunks).item() == pytest.approx(np.mean(alone), rel=1e-3)


def _by_hour(rng, many, parts):
    """People without a history: before noon kind 0 is taken, after it kind 1."""
    builder, chunks = Builder(ITEMS, rng, parts), []
    for _ in range(many * CHUNK):
        hour = int(rng.integers(24))
        item = int(rng.choice(np.flatnonzero(np.arange(ITEMS) % KINDS == hour // 12)))
        person = Person(0, [], 0, moment(86400.0 * int(rng.integers(7)) + 3600.0 * hour, None))
        chunk = builder.add(person, item, np.zeros(ITEMS), np.ones(ITEMS, bool), np.full(ITEMS, 1000))
        if chunk is not None:
            chunks.append(chunk)
    return chunks


def test_the_context_tower_learns_what_the_hour_says_and_the_others_cannot():
    counts, kinds = np.full(ITEMS, 1000), np.arange(ITEMS) % KINDS
    for parts, told in ((Parts(context=True), True), (WHOLE, False)):
        residual = Residual(_attributes(), 1, parts)
        residual.fit(_by_hour(np.random.default_rng(1), 120, parts))
        early, late = (residual.column(Person(0, [], 0, moment(3600.0 * hour, None)), counts) for hour in (3, 20))
        assert (np.ptp(early - late) > 0) == told
        if told:
            assert early[kinds == 0].mean() > early[kinds == 1].mean() + 1
            assert late[kinds == 1].mean() > late[kinds == 0].mean() + 1


def test_a_moment_is_hour_weekday_and_pause():
    assert moment(0.0, None) == (0, 0, 7)
    assert moment(86400.0 * 8 + 3600.0 * 23.5, 86400.0 * 8 + 3600.0 * 23) == (23, 1, 2)
    assert [moment(1e9, 1e9 - ago).pause for ago in (0, 59, 60, 3600, 86400, 1e7)] == [0, 0, 1, 3, 5, 6]
    assert moment(10.0, 20.0).pause == 0  # a clock that goes back
