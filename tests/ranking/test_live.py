import threading

import numpy as np
import pytest

from feed.catalogue import Item
from feed.errors import NoChampion
from feed.events import utc
from feed.ranking.arms import Policy
from feed.ranking.live import Live
from feed.registry import Registry
from tests.small import NOW, item, promote, snapshot, world


class Catalogue:
    """Items that arrive between two refreshes, and a clock that only moves when told to."""

    def __init__(self, path, items=30):
        self.coming = [item(k) for k in range(items)]
        self.now = 0.0
        self.time = NOW
        self.live = Live(Registry(path), Policy(feed_size=500), self.changed, lambda: self.time, lambda: self.now)

    def changed(self, table):
        rows = [table.remove(item) if isinstance(item, str) else table.upsert(item) for item in self.coming]
        self.coming = []
        return np.array(rows, np.int64)

    def refresh(self):
        self.now += 1.0
        self.live.refresh()


@pytest.fixture
def state():
    return world(users=20, items=30)


def test_it_waits_for_a_champion_and_says_so(tmp_path, state):
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    assert catalogue.live.version is None
    with pytest.raises(NoChampion, match="no champion yet"):
        catalogue.live.rank([state.user("1")])
    promote(tmp_path, snapshot(state))
    catalogue.refresh()
    assert catalogue.live.version == "v000001"
    assert len(catalogue.live.rank([state.user("1")])[0].items) == 27


def test_a_published_item_is_rankable_after_the_next_refresh(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    catalogue.coming = [item(777)]
    assert "777" not in {i.item_id for i in catalogue.live.rank([state.user("1")])[0].items}
    catalogue.refresh()
    assert "777" in {i.item_id for i in catalogue.live.rank([state.user("1")])[0].items}


def test_a_new_champion_takes_over_with_its_generation(tmp_path, state):
    first = promote(tmp_path, snapshot(state, seed=1))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    before = catalogue.live.rank([state.user("1")])[0]
    promote(tmp_path, snapshot(state, seed=2))
    catalogue.refresh()
    after = catalogue.live.rank([state.user("1")])[0]
    assert [(f.model_version, f.generation) for f in (before, after)] == [("v000001", 1), ("v000002", 2)]
    assert before.items != after.items
    assert Registry(tmp_path).roll_back().version == first.version
    catalogue.refresh()
    again = catalogue.live.rank([state.user("1")])[0]
    assert (again.model_version, again.generation, again.items) == ("v000001", 3, before.items)


def test_a_corrupt_champion_is_refused_and_the_old_one_goes_on(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    broken = promote(tmp_path, snapshot(state, seed=2))
    (broken.path / "weights.safetensors").write_bytes(b"nonsense")
    catalogue.coming = [item(777)]
    for _ in range(2):
        catalogue.refresh()
        assert catalogue.live.version == "v000001"
    assert "777" in {i.item_id for i in catalogue.live.rank([state.user("1")])[0].items}
    promote(tmp_path, snapshot(state, seed=3))
    catalogue.refresh()
    assert catalogue.live.version == "v000003"


def test_a_champion_whose_user_tower_is_not_finite_is_refused_before_anybody_is_ranked_with_it(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    bad = snapshot(state, seed=2)
    weights = next(w for n, w in bad.model.named_parameters() if "user" in n)
    weights.data.view(-1)[0] = float("nan")
    promote(tmp_path, bad)
    catalogue.refresh()
    assert catalogue.live.version == "v000001"
    assert len(catalogue.live.rank([state.user("1")])) == 1


def test_where_the_only_champion_cannot_be_used_that_is_what_is_said(tmp_path, state):
    champion = promote(tmp_path, snapshot(state))
    (champion.path / "weights.safetensors").unlink()
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    with pytest.raises(NoChampion, match="champion v000001 cannot be used"):
        catalogue.live.rank([state.user("1")])


def test_a_broken_role_file_does_not_stop_the_ranker_at_hand(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    (tmp_path / "roles" / "champion.json").write_text("{")
    for _ in range(2):
        catalogue.refresh()
    assert catalogue.live.version == "v000001"


def test_a_champion_is_followed_between_two_refreshes_but_not_before_the_catalogue_is_there(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.live.follow()
    assert (catalogue.live.version, catalogue.live.generation) == (None, 0)
    catalogue.refresh()
    promote(tmp_path, snapshot(state, seed=2))
    catalogue.live.refresh()  # not due
    assert catalogue.live.generation == 1
    catalogue.live.follow()
    assert (catalogue.live.version, catalogue.live.generation) == ("v000002", 2)
    assert len(catalogue.live.rank([state.user("1")])[0].items) == 27


def test_looking_who_serves_waits_for_no_refresh(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    refreshing, go_on = threading.Event(), threading.Event()

    def slow(table):
        refreshing.set()
        assert go_on.wait(20)
        return np.empty(0, np.int64)

    catalogue.live._changed = slow
    thread = threading.Thread(target=catalogue.refresh)
    thread.start()
    assert refreshing.wait(20)
    for _ in range(20):
        catalogue.live.follow()
    assert thread.is_alive(), "the refresh goes on meanwhile"
    go_on.set()
    thread.join()


def test_feeds_ranked_while_the_champion_changes_are_each_of_one_version(tmp_path, state):
    """Whatever is ranked beside changes of champion and catalogue is, feed by feed, what that version alone ranks."""
    registry = Registry(tmp_path)
    states, expected = [state.user(str(u)) for u in range(20)], {}
    for seed in (1, 2):
        champion = promote(tmp_path, snapshot(state, seed=seed))
        catalogue = Catalogue(tmp_path)
        catalogue.refresh()
        for feed in catalogue.live.rank(states):
            expected[champion.version, feed.user_id] = {(i.item_id, i.score) for i in feed.items}
    live, results, ended = catalogue.live, [], threading.Event()

    def rank():
        while not ended.is_set():
            results.append(live.rank(states))

    threads = [threading.Thread(target=rank) for _ in range(3)]
    for thread in threads:
        thread.start()
    changed = 0
    while changed < 30:
        seen = len(results)
        registry.promote(f"v{changed % 2 + 1:06d}")
        live.follow()
        changed += 1
        while len(results) < seen + 2:
            threading.Event().wait(0.001)
    ended.set()
    for thread in threads:
        thread.join()
    generations = set()
    for feeds in results:
        assert len({(feed.generation, feed.model_version) for feed in feeds}) == 1, "a call is of one version"
        for feed in feeds:
            generations.add(feed.generation)
            assert feed.model_version == f"v{2 - feed.generation % 2:06d}"
            assert {(i.item_id, i.score) for i in feed.items} == expected[feed.model_version, feed.user_id]
    assert len(generations) > 20


def test_refreshes_pause_and_leave_most_of_the_time_to_ranking(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    calls = []

    def slow(table):
        calls.append(catalogue.now)
        catalogue.now += 3.0
        return np.empty(0, np.int64)

    catalogue.live = Live(Registry(tmp_path), Policy(), slow, lambda: NOW, lambda: catalogue.now)
    for _ in range(2000):
        catalogue.live.refresh()
        catalogue.now += 0.01
    assert 2 <= len(calls) <= 4  # of 20 s and what refreshing took, at most a third was spent refreshing


def shown(catalogue, state):
    return {place.item_id for place in catalogue.live.rank([state.user("19")])[0].items}


@pytest.mark.parametrize(
    "withdrawn",
    ["3", Item(item_id="3", available=False), Item(item_id="3", expires_at=utc(NOW)), item(3, created=NOW + 1)],
)
def test_what_is_withdrawn_is_no_candidate_after_the_next_refresh_and_one_again_when_it_comes_again(tmp_path, state, withdrawn):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    assert "3" in shown(catalogue, state)
    catalogue.coming = [withdrawn]
    catalogue.refresh()
    assert "3" not in shown(catalogue, state)
    assert not catalogue.live.showable("3")
    assert catalogue.live.showable("4")
    catalogue.coming = [item(3)]
    catalogue.refresh()
    assert "3" in shown(catalogue, state)


def test_an_item_expires_by_the_time_of_the_log_without_a_record_and_is_named_once(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.coming += [Item(item_id="brief", expires_at=utc(NOW + 10)), Item(item_id="longer", expires_at=utc(NOW + 20))]
    catalogue.refresh()
    assert catalogue.live.expired() == set()
    catalogue.time = NOW + 9.9
    assert {"brief", "longer"} <= shown(catalogue, state)
    assert catalogue.live.expired() == set()
    catalogue.time = NOW + 10
    assert shown(catalogue, state) & {"brief", "longer"} == {"longer"}
    assert catalogue.live.expired() == {"brief"}
    assert catalogue.live.expired() == set()
    catalogue.time = 0.0  # Redis has lost its clock
    assert shown(catalogue, state) >= {"longer", "4"}
    assert catalogue.live.expired() == set()


def test_an_item_that_is_moved_into_the_future_counts_as_expired_until_then(tmp_path, state):
    promote(tmp_path, snapshot(state))
    catalogue = Catalogue(tmp_path)
    catalogue.refresh()
    catalogue.live.expired()
    catalogue.coming = [item(3, created=NOW + 5)]
    catalogue.refresh()
    assert catalogue.live.expired() == {"3"}
    catalogue.time = NOW + 5
    assert "3" in shown(catalogue, state)
