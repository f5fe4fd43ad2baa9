"""Ids that come for ever: what is liked gets a row, what has died loses it, and the same log still gives the same bits."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feed.examples import Example, Restart, Row
from feed.features.frozen import ItemFeatures
from feed.learning import growth as module
from feed.learning import learner as learner_module
from feed.learning import state
from feed.learning.growth import EVIDENCE, Growth
from feed.learning.learner import Learner
from feed.learning.loss import prepare
from feed.models import snapshot
from feed.trial import Comparison, LastSeen, Scorer
from tests.learning import churning, taught
from tests.learning.churning import ALIVE, EXAMPLES, churn, creators, right
from tests.learning.taught import bits

BOUND = 10  # a few more than are alive
AT = "2026-01-01T00:00:00+00:00"
GROWING = tuple(EVIDENCE)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small steps at a high rate: as much is learned in a quarter of the time."""
    torch.set_num_threads(1)
    for name, value in {"STEP": 16, "RATE": 4e-3, "WARM_UP": 5}.items():
        monkeypatch.setattr(learner_module, name, value)


@pytest.fixture
def fixed(monkeypatch):
    """Nobody ever has enough evidence."""
    monkeypatch.setattr(module, "EVIDENCE", dict.fromkeys(EVIDENCE, math.inf))


@pytest.fixture
def bounded(monkeypatch):
    """Vocabularies and candidates of a few tokens."""
    monkeypatch.setattr(module, "VOCABULARY_BOUND", BOUND)
    monkeypatch.setattr(module, "CANDIDATES", 20)


def learned(log, learner: Learner | None = None) -> Learner:
    learner = learner or churning.learner()
    for offset, record in enumerate(log):
        learner.take(offset, record)
    return learner


def saved(learner: Learner, folder):
    folder.mkdir()
    state.save(folder, learner, "T", AT)
    return folder


# ---- under churn


@functools.cache
def grown() -> Learner:
    """After all records; for tests that only look."""
    return learned(churn().log)


def test_items_of_new_creators_are_ranked_by_who_likes_these():
    assert right(grown()) > 0.9


@pytest.mark.usefixtures("fixed")
def test_without_growth_they_are_ranked_by_chance():
    learner = learned(churn().log)
    assert learner.space.sizes == churn().start.space.sizes
    assert right(learner) == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("bounded")
def test_a_bound_of_a_few_tokens_is_kept_and_the_living_are_known_all_the_same(tmp_path):
    halfway, end = [], []
    for found, of in ((halfway, learned(churn().log[: EXAMPLES // 2])), (end, learned(churn().log))):
        found += [of.space.sizes[name] for name in GROWING]
        found += [len(of.weights.live.table(name)) for name in GROWING]
        found += [tensor.shape for tensor in of.weights.optimiser.tensors().values()]
    assert halfway == end
    assert [of.space.sizes[name] for name in ("creator", "item")] == [BOUND + 1, BOUND + 1]
    assert all(len(candidates) <= 20 for candidates in of.growth.candidates.values())
    assert right(of) > 0.9
    known = {of.space.token("creator", row) for row in range(1, BOUND + 1)}
    assert known >= {f"k{k}" for k in creators(EXAMPLES - 1)[:-1]}  # the newest has come just now
    again = state.load(saved(of, tmp_path / "v"), taught.no_restart)
    assert again.space.fingerprint == of.space.fingerprint != churn().start.space.fingerprint


# ---- who enters, and where


def space_of(*creators_known: str):
    """A space that knows these creators, and nothing else that grows."""
    start = churn().start.space
    rows = {f"k{k}": row for k in range(ALIVE) if (row := start.row("creator", f"k{k}"))}
    return start.grown({"creator": dict(zip(creators_known, rows.values(), strict=False))})


def made(n: int, *rows: tuple[str, bool], organic: bool = False) -> Example:
    """An example with rows of these creators, taken or left."""
    numeric = churn().log[0].rows[0].item.numeric
    return replace(
        churn().log[n],
        rows=tuple(
            Row(ItemFeatures(f"i{n}-{k}", numeric, "c", creator), k, labels={"view": 1, "click": 1} if taken else {"view": 1})
            for k, (creator, taken) in enumerate(rows)
        ),
        organic=organic,
    )


def test_a_creator_has_a_row_after_the_fifth_positive_and_not_before():
    space, growth = churn().start.space, Growth.begin(churn().start.space, 0)
    left = [made(n, ("new", False)) for n in range(20)]
    growth.see([*left, *(made(n, ("new", True)) for n in range(4))], space, 0)
    growth.see([made(n, ("k0", True), ("new", True), organic=True) for n in range(4)], space, 1)  # drawn, not taken
    assert growth.admit(1) == {}
    growth.see([made(4, ("new", True))], space, 2)
    assert growth.admit(2) == {"creator": {"new": ALIVE + 1}}
    assert growth.admit(3) == {}


@pytest.mark.usefixtures("bounded")
def test_who_was_named_longest_ago_makes_room_but_nobody_whom_the_step_named():
    space = churn().start.space
    growth = Growth.begin(space, 0)
    known = [f"k{k}" for k in range(ALIVE)]
    for step, names in enumerate((known, known[1:], known[2:], known[2:]), 1):
        growth.see([made(0, *((name, False) for name in names))], space, step)
    newcomers = [f"new{k}" for k in range(5)]
    growth.see([made(n, *((name, True) for name in newcomers)) for n in range(5)], space, 4)
    entered = growth.admit(4)
    places = [ALIVE + 1, ALIVE + 2, space.row("creator", "k0"), space.row("creator", "k1")]
    assert entered["creator"] == dict(zip(newcomers, places, strict=False))  # the fifth finds no room
    space = space.grown(entered)
    assert [space.row("creator", name) for name in ("k0", "k1", "k2")] == [0, 0, 3]
    growth.see([made(0, *((name, False) for name in (*known[3:], *newcomers)))], space, 5)
    assert growth.admit(5)["creator"] == {"new4": space.row("creator", "k2")}


def test_of_too_many_candidates_whose_positives_ended_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 2)
    growth = Growth.begin(churn().start.space, 0)
    growth.see([made(n, (name, True)) for n, name in enumerate("abac")], churn().start.space, 0)
    assert growth.candidates["creator"] == {"a": 2, "c": 1}


def test_a_grown_space_reads_old_tokens_as_before_and_the_new_ones_by_their_rows():
    space, log = churn().start.space, churn().log
    first, last = log[0].rows[0].item, log[-1].rows[0].item
    new = space.grown({"creator": {last.creator_id: ALIVE + 1}, "item": {"x": 1, "y": 2}})
    assert (new.sizes["creator"], new.sizes["item"]) == (ALIVE + 2, 3)
    column = [name for name, _ in space.item_spec.categorical].index("creator")
    before, after = space.frozen_items([first, last]), new.frozen_items([first, last])
    assert before.categorical[:, column].tolist() == [space.row("creator", first.creator_id), 0]
    assert after.categorical[:, column].tolist() == [space.row("creator", first.creator_id), ALIVE + 1]
    assert np.array_equal(before.numeric, after.numeric)
    replaced = new.grown({"item": {"z": 1}})
    assert [replaced.row("item", token) for token in ("x", "y", "z")] == [0, 2, 1]
    assert [replaced.token("item", row) for row in range(4)] == [None, "z", "y", None]
    assert len({space.fingerprint, new.fingerprint, replaced.fingerprint}) == 3


# ---- weights


def test_a_taken_row_starts_afresh_and_all_others_stay():
    learner = learned(churn().log[: EXAMPLES // 4])
    weights, size = learner.weights, learner.space.sizes["creator"]

    def parts():
        numbers = {id(table): i for i, table in enumerate(weights.live.tables)}
        moments = weights.optimiser.tensors()
        number = numbers[id(weights.live.table("creator"))]
        tables = [model.table("creator").detach().clone() for model in (weights.live, weights.average)]
        return [*tables, *(moments[f"{name}.{number}"].clone() for name in "mvt")]

    before = parts()
    weights.enter({"creator": {"a": 3, "b": size}}, np.random.default_rng(0))
    after = parts()
    others = [row for row in range(size) if row != 3]
    for old, new in zip(before, after, strict=True):
        assert len(new) == size + 1
        assert torch.equal(new[others], old[others])
        assert old[3].any()
    assert all(not moments[[3, size]].any() for moments in after[2:])
    for table in after[:2]:
        assert torch.equal(table[[3, size]], after[0][[3, size]])  # the average begins where the weights do
        assert 0.02 < table[[3, size]].std() < 0.08
        assert not torch.equal(table[3], before[0][3])


def test_a_log_without_new_ids_gives_the_weights_that_it_gives_without_growth(monkeypatch):
    known = [one for one in churn().log[:200] if {row.item.creator_id for row in one.rows} <= {f"k{k}" for k in range(ALIVE)}]
    monkeypatch.setitem(module.EVIDENCE, "item", math.inf)  # the first space knows no item
    with_growth = learned(known)
    monkeypatch.setattr(module, "EVIDENCE", dict.fromkeys(EVIDENCE, math.inf))
    assert with_growth.progress.steps >= 5
    assert bits(with_growth) == bits(learned(known))


# ---- at any record


@functools.cache
def unbroken() -> tuple[list[bytes], str, Growth]:
    """Of a run with the small bound, in which rows have been taken from others."""
    learner = learned(churn().log[:LENGTH])
    return bits(learner), learner.space.fingerprint, learner.growth


LENGTH = 700


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, LENGTH), min_size=1, max_size=4))
@pytest.mark.usefixtures("bounded")
def test_saved_and_loaded_between_any_records_it_grows_the_same(tmp_path_factory, stops):
    learner = churning.learner()
    for stop in [*sorted(stops), LENGTH]:
        for offset in range(learner.progress.position, stop):
            learner.take(offset, churn().log[offset])
        learner = state.load(saved(learner, tmp_path_factory.mktemp("version") / "v"), taught.no_restart)
    assert (bits(learner), learner.space.fingerprint, learner.growth) == unbroken()
    assert not learner.space.row("creator", "k0")  # whose row somebody else has


@pytest.mark.usefixtures("bounded")
def test_what_is_replayed_is_read_as_the_grown_space_reads_it():
    learner, kept = churning.learner(), 0
    for offset, record in enumerate(churn().log[:LENGTH]):
        before, space = dict(learner.reservoir._prepared), learner.space
        learner.take(offset, record)
        if learner.space is not space:
            kept += sum(learner.reservoir._prepared.get(place) is one for place, one in before.items())
    assert kept > 50  # the others are not read anew
    assert learner.space.row("creator", "k0") == 0
    for place, one in learner.reservoir._prepared.items():
        anew = prepare(learner.reservoir.examples[place], learner.space)
        assert np.array_equal(one.items.categorical, anew.items.categorical)
        assert all(np.array_equal(ids, anew.user.bag_ids[bag]) for bag, ids in one.user.bag_ids.items())


def test_a_restart_drops_what_has_grown():
    start = churn().start
    learner = Learner.begin("v000001", start, lambda version: (version, start))
    learned([*churn().log[:200], Restart("v000001", "refused three times")], learner)
    assert learner.space is start.space
    assert learner.growth == Growth.begin(start.space, learner.progress.steps)
    learned([*churn().log[:200], Restart("v000001", ""), *churn().log[200:400]], learner)
    assert learner.space.sizes["creator"] > start.space.sizes["creator"]


# ---- what is published


def test_a_champion_and_a_challenger_that_has_grown_are_compared_on_the_same_examples(tmp_path, monkeypatch):
    log, fresh = churn().log[:-250], churn().log[-250:]
    challenger = snapshot.load(saved(learned(log), tmp_path / "grown"))
    monkeypatch.setattr(module, "EVIDENCE", dict.fromkeys(EVIDENCE, math.inf))
    champion = snapshot.load(saved(learned(log), tmp_path / "fixed"))
    assert champion.space.fingerprint != challenger.space.fingerprint
    catalogue = LastSeen()
    catalogue.add(log[-100:], 0)
    comparison = Comparison(Scorer(champion), Scorer(challenger), alpha=0.01)
    comparison.see(fresh, catalogue)
    figures = comparison.figures()
    assert figures["requests"] == figures["with_evidence"] == len(fresh)
    assert figures["auc"]["challenger"] > figures["auc"]["champion"] + 0.1
