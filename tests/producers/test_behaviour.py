import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed.events import Click, Engagement, Impression, Shown, View
from producers import behaviour
from producers.audience import TOP, Audience, Served
from producers.behaviour import Moment
from producers.world import DAY, World

AT = 1_738_000_000.0
NOON = Moment(AT, 12.0, "mobile")


@pytest.fixture
def world() -> World:
    return World(60, 400)


@pytest.fixture
def audience(world: World) -> Audience:
    return Audience(world, [1])


def feed(world: World, user: int, rows: list[int], arm: str = "learned") -> Served:
    shown = tuple(Shown(world.items[row].item_id, place, score=0.5, propensity=1.0) for place, row in enumerate(rows))
    return Served(world.users[user].user_id, shown, arm, "v1")


def tired(world: World) -> np.ndarray:
    return np.zeros(len(world.category_hour))


def test_looks_and_clicks_fall_from_the_top_down_though_items_are_alike() -> None:
    draw = np.random.default_rng(0)
    reactions = [behaviour.react(np.full(TOP, 0.3), np.zeros(TOP), draw) for _ in range(20_000)]
    looked = np.mean([r.looked for r in reactions], axis=0)
    clicked = np.mean([r.clicked for r in reactions], axis=0)
    np.testing.assert_allclose(looked, behaviour.examine(TOP), atol=0.012)
    np.testing.assert_allclose(clicked, 0.3 * behaviour.examine(TOP), atol=0.012)
    assert looked[0] > 2.5 * looked[-1]


def test_only_what_is_looked_at_is_clicked_and_only_what_is_clicked_is_liked() -> None:
    draw = np.random.default_rng(1)
    for _ in range(500):
        r = behaviour.react(np.full(TOP, 0.4), np.full(TOP, -2.0), draw)
        assert not (r.clicked & ~r.looked).any()
        assert not ((r.liked | r.shared | r.commented) & ~r.clicked).any()
        assert not (r.hidden & (r.clicked | ~r.looked)).any()
        assert ((r.dwell > 0) == r.looked).all()
        assert (r.dwell <= behaviour.LONGEST_LOOK).all()


def test_people_dwell_longer_on_what_suits_them() -> None:
    draw = np.random.default_rng(2)

    def median(p: float) -> float:
        r = behaviour.react(np.full(20_000, p), np.zeros(20_000), draw)
        return float(np.median(r.dwell[r.looked & ~r.clicked]))

    assert median(0.45) > 1.5 * median(0.02)


def test_what_is_disliked_is_hidden_more() -> None:
    draw = np.random.default_rng(3)
    hides = [behaviour.react(np.full(50_000, 0.05), np.full(50_000, o), draw).hidden.sum() for o in (-2.0, 1.0)]
    assert hides[0] > 5 * hides[1]


def test_a_fresh_item_appeals_more_and_the_charm_wears_off(world: World) -> None:
    ages = np.array([0.0, 4.0, 60.0])
    world.created[:3], world.quality[:3], world.category[:3] = AT - ages * DAY, 0.0, 1
    world.creator[:3], world.tags[:3], world.latent[:3] = 1, 0, 0.0
    new, week, old = behaviour.appeal(world, 0, np.arange(3), NOON, tired(world))
    assert new - old == pytest.approx(behaviour.FRESHNESS, abs=1e-3)
    assert week - old == pytest.approx(behaviour.FRESHNESS / 2, abs=1e-3)


def test_device_and_hour_matter(world: World) -> None:
    everything = np.arange(400)
    noon = behaviour.appeal(world, 0, everything, NOON, tired(world))
    assert np.abs(behaviour.appeal(world, 0, everything, Moment(AT, 0.0, "mobile"), tired(world)) - noon).mean() > 0.1
    assert np.abs(behaviour.appeal(world, 0, everything, Moment(AT, 12.0, "desktop"), tired(world)) - noon).mean() > 0.1


def test_a_category_looked_at_again_and_again_tires_for_some_hours(world: World, audience: Audience) -> None:
    category = np.bincount(world.category).argmax()
    rows = np.flatnonzero(world.category == category)
    other = np.flatnonzero(world.category != category)
    before = audience.probabilities(0, rows[-1:], NOON)
    before_other = audience.probabilities(0, other[:1], NOON)
    audience.step([feed(world, 0, rows[:TOP].tolist())], AT)
    after = audience.probabilities(0, rows[-1:], NOON)
    assert after < 0.85 * before
    assert audience.probabilities(0, other[:1], NOON) == before_other
    rested = audience.probabilities(0, rows[-1:], Moment(AT + DAY, 12.0, "mobile"))
    assert rested == pytest.approx(before, rel=0.1)


def test_what_was_looked_at_is_not_wanted_again_and_not_in_the_best_feed(world: World, audience: Audience) -> None:
    rows = np.flatnonzero(world.created <= AT)[:TOP]
    before = audience.probabilities(0, rows, NOON)
    audience.remember("0", [world.items[row].item_id for row in rows])
    assert (audience.probabilities(0, rows, NOON) < 0.1 * before).all()
    assert not audience.eligible(0, AT)[rows].any()


def test_a_request_is_one_impression_then_what_was_done_each_with_its_place(world: World, audience: Audience) -> None:
    rows = list(range(20))
    (visit,) = audience.step([feed(world, 3, rows)], AT)
    impression, *rest = visit.events
    assert isinstance(impression, Impression)
    assert visit.shown == len(impression.items) == TOP
    assert rest
    assert {event.request_id for event in visit.events} == {impression.request_id}
    assert [event.occurred_at for event in visit.events] == sorted(event.occurred_at for event in visit.events)
    for event in rest:
        assert isinstance(event, Engagement)
        assert event.item_id == world.items[rows[event.position or 0]].item_id
        assert (event.arm, event.model_version, event.propensity, event.score) == ("learned", "v1", 1.0, 0.5)
    looked = {event.item_id for event in rest if isinstance(event, View)}
    assert {event.item_id for event in rest} == looked
    assert visit.clicks == sum(isinstance(event, Click) for event in rest)
    assert impression.context.country == world.users[3].country


def test_two_requests_have_two_ids_and_the_same_seed_the_same_events(world: World) -> None:
    feeds = [feed(world, user, list(range(10))) for user in (1, 2)]
    first, same = (Audience(World(60, 400), [5]).step(feeds, AT) for _ in range(2))
    assert first == same
    assert first[0].events[0].request_id != first[1].events[0].request_id


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 399), min_size=TOP, max_size=TOP, unique=True), st.integers(0, 59))
def test_no_feed_is_better_than_the_best_possible(rows: list[int], user: int) -> None:
    world = World(60, 400)
    world.created[:] = AT - DAY
    (visit,) = Audience(world, [1]).step([feed(world, user, rows)], AT)
    assert 0 < visit.expected <= visit.best + 1e-9


def test_the_best_feed_reaches_the_best_possible(world: World, audience: Audience) -> None:
    when = audience.moment(0, AT)
    p = np.where(audience.eligible(0, AT), audience.probabilities(0, np.arange(400), when), 0.0)
    top = np.argsort(-p)[:TOP]
    assert p[top] @ behaviour.examine(TOP) == pytest.approx(audience.best(0, when))


def test_clicks_are_as_many_as_expected(world: World, audience: Audience) -> None:
    visits = [
        visit for n in range(400) for visit in audience.step([feed(world, n % 60, list(range(n % 300, n % 300 + 10)))], AT)
    ]
    clicks, expected = sum(v.clicks for v in visits), sum(v.expected for v in visits)
    assert abs(clicks - expected) < 4 * expected**0.5


def test_people_come_by_day_more_than_by_night() -> None:
    hours = np.linspace(0, 24, 241)[:-1]
    rhythm = behaviour.rhythm(hours, np.array(20.0))
    assert rhythm.mean() == pytest.approx(1.0)
    assert hours[rhythm.argmax()] == 20.0
    assert rhythm.max() > 10 * rhythm.min()


def test_satisfied_people_return_sooner(world: World) -> None:
    audience = Audience(world, [1])
    world.activity[:], world.peak[:], world.offset[:] = 1.0, 20.0, 0.0
    audience.satisfaction[:30], audience.satisfaction[30:] = 0.9, 0.1
    came = [user_id for n in range(200) for user_id in audience.visitors(AT + n, 1)]
    happy = sum(int(user_id) < 30 for user_id in came)
    assert happy > 2 * (len(came) - happy)


def test_good_feeds_make_people_satisfied_and_bad_ones_do_not(world: World) -> None:
    audience = Audience(world, [1])
    world.created[:] = AT - DAY
    everything = np.arange(400)
    for n in range(10):
        at = AT + n * DAY
        for user in range(60):
            p = np.where(audience.eligible(user, at), audience.probabilities(user, everything, audience.moment(user, at)), 0.5)
            order = np.argsort(-p if user % 2 else p)
            audience.step([feed(world, user, order[:TOP].tolist())], at)
    assert audience.satisfaction[1::2].mean() > audience.satisfaction[::2].mean() + 0.2
    assert audience.intensity(AT + 20 * DAY)[1::2].sum() > 1.2 * audience.intensity(AT + 20 * DAY)[::2].sum()


def test_nobody_comes_while_busy_or_before_signing_up(world: World, audience: Audience) -> None:
    world.joined[5] = AT + DAY
    audience.step([feed(world, 0, list(range(10)))], AT)
    assert audience.intensity(AT)[[0, 5]].tolist() == [0.0, 0.0]
    assert audience.intensity(AT + DAY)[5] > 0
    came = audience.visitors(AT, 1000)
    assert len(came) == len(set(came)) == 58
    assert not {"0", "5"} & set(came)


def test_a_visit_goes_on_after_a_pause(world: World) -> None:
    audience = Audience(world, [1], pause=100.0)
    audience.step([feed(world, user, list(range(10))) for user in range(60)], AT)
    world.activity[:] = 0.0
    assert audience.visitors(AT + 50, 60) == []
    assert 10 < len(audience.visitors(AT + 10_000, 60)) < 50


def test_no_event_is_later_than_it_may_be(world: World, audience: Audience) -> None:
    (visit,) = audience.step([feed(world, 0, list(range(10)))], AT, latest=AT + 3.0)
    assert max(event.at for event in visit.events) == AT + 3.0
