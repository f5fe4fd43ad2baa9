"""The learner: exactly the same whatever happens around it, and it learns what is taught."""

import copy
import dataclasses
import hashlib
import json
import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from feed.errors import BadModel
from feed.examples import Example, RaiseRate, Restart, Row
from feed.features import FrozenItems
from feed.learning import learner as module
from feed.learning import memory, state
from feed.learning.learner import RATE, STEP, WARM_UP, Learner
from feed.learning.loss import join, loss, prepare
from feed.models import snapshot
from feed.models.examination import Examination
from feed.models.heads import Head
from feed.models.two_tower import VECTOR, WIDTH
from tests.learning import taught
from tests.learning.taught import EARLIER, bits, example, right
from tests.learning.test_fusion import choice

LOG = [example(n) for n in range(5 * STEP + 20)]
AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def learned(records, learner: Learner | None = None) -> Learner:
    learner = learner or taught.learner()
    for offset, record in enumerate(records):
        learner.take(offset, record)
    return learner


def steps(learner: Learner, records, start: int = 0) -> list[module.Step]:
    found = [learner.take(start + k, record) for k, record in enumerate(records)]
    return [step for step in found if step is not None]


def saved_and_loaded(learner: Learner, folder, load=taught.no_restart) -> Learner:
    folder.mkdir()
    state.save(folder, learner, "T", AT)
    return state.load(folder, load)


UNBROKEN: list[bytes] = []


def unbroken() -> list[bytes]:
    if not UNBROKEN:
        UNBROKEN.extend(bits(learned(LOG)))
    return UNBROKEN


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(LOG)), max_size=3), st.integers(0, 40), st.integers(0, 2**32))
def test_saved_and_loaded_between_any_records_the_weights_are_the_same_bit_for_bit(tmp_path_factory, stops, again, noise):
    learner = taught.learner()
    for stop in sorted(stops):
        for offset in range(max(0, learner.progress.position - again), stop):  # some are delivered again
            learner.take(offset, LOG[offset])
        learner = saved_and_loaded(learner, tmp_path_factory.mktemp("version") / "v")
        torch.manual_seed(noise)  # somebody else draws from the global generator
    for offset in range(max(0, learner.progress.position - again), len(LOG)):
        learner.take(offset, LOG[offset])
    assert bits(learner) == unbroken()


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert len(steps(taught.learner(), LOG[:STEP])) == 1
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_weights():
    assert bits(learned(LOG[: 2 * STEP], taught.learner(seed=1))) != bits(learned(LOG[: 2 * STEP]))


def test_a_step_is_taken_when_exactly_so_many_new_examples_are_together():
    learner = taught.learner()
    taken = [n for n, one in enumerate(LOG) if learner.take(n, one) is not None]
    assert taken == [STEP * k - 1 for k in range(1, 6)]
    assert (learner.progress.steps, learner.progress.examples, len(learner.pending)) == (5, 5 * STEP, 20)
    assert learner.progress.learned_until == LOG[5 * STEP - 1].at


def test_copies_by_source_and_sequence_are_dropped():
    twice = [one for k in range(0, len(LOG), 10) for one in (*LOG[k : k + 10], *LOG[k : k + 10])]
    assert bits(learned(twice)) == unbroken()
    other_source = msgspec.structs.replace(LOG[0], source=1)
    learner = learned([LOG[0], other_source, LOG[0], other_source])
    assert len(learner.pending) == 2


def test_what_the_weights_know_already_is_kept_for_replay_and_not_learned_again():
    old = [example(n, at=EARLIER - n) for n in range(3 * STEP)]
    learner = learned(old)
    assert (learner.progress.steps, learner.pending) == (0, [])
    assert len(learner.reservoir.examples) == 3 * STEP
    assert len(learner.catalogue) == taught.ITEMS
    assert bits(learner) == bits(taught.learner())


@pytest.fixture
def quick(monkeypatch):
    """Small steps at a high rate: as much is learned in a quarter of the time."""
    for name, value in {"STEP": 16, "RATE": 4e-3, "WARM_UP": 5}.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("quick")
def test_a_taught_preference_is_learned():
    learner = taught.learner()
    before = right(learner)
    taken = steps(learner, [example(n) for n in range(100 * 16)])
    assert before < 0.65
    assert right(learner) > 0.95
    assert sum(s.fresh_loss for s in taken[-10:]) < 0.8 * sum(s.fresh_loss for s in taken[:10])
    assert learner.progress.running_loss == pytest.approx(sum(s.fresh_loss for s in taken[-20:]) / 20, rel=0.2)


def beside(one: Example, at: float, *, taken: bool) -> Example:
    """The example of a user who is near some items, by `at`; `taken`: those are what is taken, else it says nothing."""
    rng = np.random.default_rng([one.sequence, 1])
    some = {str(k) for k in rng.choice(taught.ITEMS, 20, replace=False)}
    rows = []
    for row in one.rows:
        near = row.item.item_id in some
        labels = ({"view": 1, "click": 1} if near else {"view": 1}) if taken and row.labels else row.labels
        rows.append(replace(row, labels=labels, near=(at, 0.0, 0.0, 0.0) if near else (0.0, 0.0, 0.0, 0.0)))
    return replace(one, rows=tuple(rows), user=replace(one.user, near=tuple((k, at, 0.0) for k in sorted(some))))


@pytest.mark.usefixtures("quick")
def test_the_mixture_learns_how_far_to_believe_what_goes_together():
    def weights(*, taken):
        learner = learned([beside(example(n), 0.1, taken=taken) for n in range(60 * 16)])
        with torch.no_grad():
            return learner.weights.average.user_logits(prepare(LOG[0], learner.space).user)[0, -2:].tolist()

    together, after = weights(taken=True)
    assert together > 0.8
    assert after == 0.0  # never seen
    together, after = weights(taken=False)
    assert abs(together) < 0.2
    assert after == 0.0


@pytest.mark.usefixtures("quick")
def test_with_replay_an_old_preference_is_kept_better_than_without(monkeypatch):
    def of(parity, numbers):
        return [e for n in numbers if int((e := example(n)).user.user_id) % 2 == parity]

    log = [*(example(n) for n in range(1500)), *of(1, range(1500, 4500))]  # the even users stay away
    unlearned = [prepare(e, taught.world()[1].space) for e in of(0, range(10_000, 10_400))]

    def loss_of_the_old() -> float:
        learner = learned(log)
        sampled = [row.item for n in range(20_000, 20_010) for row in example(n).rows]
        with torch.no_grad():
            return float(loss(learner.weights.average, join(unlearned, sampled, learner.space)))

    with_replay = loss_of_the_old()
    monkeypatch.setattr(memory.Reservoir, "draw", lambda *_: [])
    without = loss_of_the_old()
    assert with_replay < 0.9 * without


def test_restart_goes_on_from_that_version_with_a_fresh_optimiser_and_keeps_the_memory():
    _, start = taught.world()
    other = learned(LOG[: 2 * STEP]).weights.average
    manifest = {"learned_until": LOG[3 * STEP].at}
    asked = []

    def load(version):
        asked.append(version)
        return version, dataclasses.replace(start, model=other, manifest=manifest)

    learner = Learner.begin("v000001", start, load)
    at = 3 * STEP + 10
    learned([*LOG[:at], Restart("v000009", "refused three times")], learner)
    fresh = [w.numpy().tobytes() for w in other.state_dict().values()]
    assert asked == ["v000009"]
    assert [w.numpy().tobytes() for w in learner.weights.live.state_dict().values()] == fresh
    assert [w.numpy().tobytes() for w in learner.weights.average.state_dict().values()] == fresh
    assert all(not t.any() for t in learner.weights.optimiser.tensors().values())
    assert (learner.progress.parent, learner.progress.since, learner.progress.steps) == ("v000009", 0, 3)
    assert len(learner.pending) == 9  # one of the ten is not later than what the version knows
    assert len(learner.reservoir.examples) == 3 * STEP + 1
    assert len(steps(learner, LOG[at : at + STEP - 9], at + 1)) == 1


def test_the_fusion_weights_go_on_from_the_version_begun_from_and_move_nothing_in_the_logit(tmp_path):
    _, start = taught.world()
    first, second = (copy.deepcopy(start.model) for _ in range(2))
    first.fusion.copy_(torch.randn(first.fusion.shape, generator=torch.Generator().manual_seed(0)))
    second.fusion.fill_(0.25)

    def load(version):
        return version, dataclasses.replace(start, model=second)

    log = [replace(choice(n), sequence=n) for n in range(2 * STEP)]
    learner = learned(log, Learner.begin("v000001", dataclasses.replace(start, model=first), load))
    again = saved_and_loaded(learner, tmp_path / "before", load)
    for model in (snapshot.load(tmp_path / "before").model, again.weights.average, again.weights.live):
        assert torch.equal(model.fusion, learner.weights.average.fusion)
        assert torch.equal(model.fusion_squares, learner.weights.average.fusion_squares)
        assert not torch.equal(model.fusion, first.fusion)
    untold = learned(log).weights.average
    assert torch.equal(untold.fusion, start.model.fusion), "a score that is the logit stays it"
    assert all(torch.equal(a, b) for a, b in zip(again.weights.average.parameters(), untold.parameters(), strict=True))
    again.take(2 * STEP, Restart("v000009", ""))
    saved_and_loaded(again, tmp_path / "after", load)
    assert torch.equal(snapshot.load(tmp_path / "after").model.fusion, second.fusion)


def test_heads_are_those_of_the_version_begun_from_in_all_that_is_published(tmp_path):
    _, start = taught.world()
    first, second = ({"click": Head(a, torch.full((WIDTH,), a), -a)} for a in (0.5, 0.7))

    def load(version):
        return version, dataclasses.replace(start, heads=second)

    learner = Learner.begin("v000001", dataclasses.replace(start, heads=first), load)
    learned(LOG[:STEP], learner)
    again = saved_and_loaded(learner, tmp_path / "before", load)
    assert snapshot.load(tmp_path / "before").heads["click"].a == again.heads["click"].a == 0.5
    again.take(STEP, Restart("v000009", ""))
    saved_and_loaded(again, tmp_path / "after", load)
    assert snapshot.load(tmp_path / "after").heads["click"].w.tolist() == pytest.approx([0.7] * WIDTH)


LOOKS = Examination(np.array([1.0, 0.7, 0.5, 0.4]), 0.3)


def without_views(one: Example) -> Example:
    rows = (replace(row, labels={k: n for k, n in row.labels.items() if k != "view"}) for row in one.rows)
    return replace(one, rows=tuple(rows))


def guessing(load=taught.no_restart, looks: Examination | None = LOOKS) -> Learner:
    """Begins from weights that were trained on a log without views."""
    return Learner.begin("v000001", dataclasses.replace(taught.world()[1], examination=looks), load)


UNSEEN = [*(without_views(one) for one in LOG[: 3 * STEP + 30]), *LOG[3 * STEP + 30 :]]  # views come later
UNBROKEN_UNSEEN: list[bytes] = []


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(UNSEEN)), max_size=3), st.integers(0, 40))
def test_who_looks_is_gone_on_with_bit_for_bit_before_and_after_views_come(tmp_path_factory, stops, again):
    if not UNBROKEN_UNSEEN:
        UNBROKEN_UNSEEN.extend(bits(learned(UNSEEN, guessing())))
    learner = guessing()
    for stop in sorted(stops):
        for offset in range(max(0, learner.progress.position - again), stop):
            learner.take(offset, UNSEEN[offset])
        learner = saved_and_loaded(learner, tmp_path_factory.mktemp("version") / "v")
    for offset in range(max(0, learner.progress.position - again), len(UNSEEN)):
        learner.take(offset, UNSEEN[offset])
    assert bits(learner) == UNBROKEN_UNSEEN


def test_a_version_that_says_who_looks_changes_what_is_learned_only_where_no_view_does():
    blind = [without_views(one) for one in LOG[: 2 * STEP]]
    assert bits(learned(blind, guessing())) != bits(learned(blind))
    assert bits(learned(LOG[: 2 * STEP], guessing())) == bits(learned(LOG[: 2 * STEP]))


def test_a_view_that_the_version_did_not_know_ends_it_until_a_version_that_knows_better(tmp_path):
    def load(version):
        newest = {"learned_until": LOG[-1].at if version == "later" else EARLIER}
        return version, dataclasses.replace(taught.world()[1], examination=LOOKS, manifest=newest)

    learner = guessing(load)
    learner.take(0, replace(LOG[0], at=EARLIER))  # of before the log that the version was trained on has none
    learned([without_views(one) for one in LOG[1:10]], learner)
    assert saved_and_loaded(learner, tmp_path / "before", load).examination.theta.tolist() == LOOKS.theta.tolist()
    learner.take(10, LOG[10])
    assert learner.examination is None
    assert saved_and_loaded(learner, tmp_path / "after", load).examination is None
    assert snapshot.load(tmp_path / "before").examination is not None
    assert snapshot.load(tmp_path / "after").examination is None
    learner.take(11, Restart("earlier", ""))
    assert learner.examination is None
    learner.take(12, Restart("later", ""))
    assert learner.examination is LOOKS


def test_a_learner_saved_before_there_was_any_such_model_is_gone_on_from(tmp_path):
    learner = learned(LOG[: STEP + 5])
    saved_and_loaded(learner, tmp_path / "v")
    folder = tmp_path / "v"
    older = json.loads((folder / state.PROGRESS).read_bytes())
    del older["viewed"]
    (folder / state.PROGRESS).write_text(json.dumps(older))
    manifest = snapshot.read_manifest(folder)
    manifest["sha256"][state.PROGRESS] = hashlib.sha256((folder / state.PROGRESS).read_bytes()).hexdigest()
    (folder / snapshot.MANIFEST).write_text(json.dumps(manifest))
    again = state.load(folder, taught.no_restart)
    assert (again.examination, again.progress.viewed) == (None, None)
    for offset in range(STEP + 5, len(LOG)):
        again.take(offset, LOG[offset])
    assert bits(again) == unbroken()


@pytest.mark.usefixtures("quick")
def test_in_a_stream_without_views_what_was_shown_and_left_ranks_lower_if_it_stood_where_people_look():
    """Creators k0, k2 and k4 have one category; what stands between two items that nobody takes is taken half of the time."""
    world, _ = taught.world()
    items = FrozenItems(world.items, taught.NOW)

    def of(n: int, *creators: int) -> Example:
        draw, one = np.random.default_rng([n, 5]), example(n)
        labels = ({}, {"click": 1} if draw.random() < 0.5 else {}, {})
        shown = (f"{6 * draw.integers(10) + creator}" for creator in creators)
        return replace(one, rows=tuple(Row(items[k], p, labels=labels[p]) for p, k in enumerate(shown)))

    def logits(looks: Examination | None, *creators: int) -> np.ndarray:
        learner = learned([of(n, *creators) for n in range(40 * 16)], guessing(looks=looks))
        users = learner.space.user_inputs([world.user(str(u)) for u in range(taught.USERS)], taught.NOW)
        with torch.no_grad():
            u = learner.weights.average.user_logits(users)[:, :VECTOR]
            v = learner.weights.average.item_logits(learner.space.item_inputs(world.items, None, taught.NOW))
        creator = np.array([int(k) % 6 for k in world.items.ids])
        return np.array([float((u @ v.T)[:, creator == k].mean()) for k in (0, 2, 4)])

    top = Examination(np.array([1.0, 1.0, 0.0]), 0.2)
    k2_above, k4_above, untold = logits(top, 2, 0, 4), logits(top, 4, 0, 2), logits(None, 2, 0, 4)
    assert k2_above[1] < untold[1] - 0.2
    assert k2_above[1] - k2_above[2] < k4_above[1] - k4_above[2] - 0.2
    assert min(k2_above[0], k4_above[0]) > 0


def test_a_restart_that_cannot_be_loaded_changes_nothing():
    def load(version):
        raise BadModel(f"no {version}")

    learner = Learner.begin("v000001", taught.world()[1], load)
    learned(LOG[:100], learner)
    before = bits(learner)
    with pytest.raises(BadModel, match="no v000009"):
        learner.take(100, Restart("v000009", ""))
    assert (learner.progress.position, learner.progress.parent) == (100, "v000001")
    assert bits(learner) == before


def test_a_raised_rate_holds_for_so_many_examples():
    learner = learned([RaiseRate(3.0, 2 * STEP, "drift")])
    learner.progress.since = WARM_UP
    rates = []
    for n in range(3 * STEP):
        before = learner.rate
        if learner.take(1 + n, LOG[n]) is not None:
            rates.append(before / RATE)
    assert rates == [3.0, 3.0, 1.0]


def test_a_raised_rate_moves_the_weights_further():
    def moved(records):
        before, learner = taught.learner(), learned(records)
        pairs = zip(before.weights.live.parameters(), learner.weights.live.parameters(), strict=True)
        return math.sqrt(sum(float(((a - b[: len(a)]).detach() ** 2).sum()) for a, b in pairs))  # without rows that are new

    assert moved([RaiseRate(3.0, STEP, "drift"), *LOG[:STEP]]) == pytest.approx(3 * moved(LOG[:STEP]), rel=0.05)


def spoilt(learner: Learner) -> None:
    with torch.no_grad():
        next(iter(learner.weights.live.tables)).fill_(math.nan)


def test_weights_that_are_no_numbers_are_refused_then_hold_the_learner_until_a_restart():
    _, start = taught.world()
    learner = Learner.begin("v000001", start, lambda version: (version, start))
    spoilt(learner)
    before = bits(learner)
    log = [example(n) for n in range(14 * STEP)]
    taken = steps(learner, log[: 12 * STEP])
    assert len(taken) == 10  # none after the tenth
    assert all(step.refused == "the loss is nan" for step in taken)
    assert learner.progress.guard.held == "10 steps refused in a row, the last because the loss is nan"
    assert bits(learner) == before
    assert learner.progress.position == 12 * STEP
    learner.take(12 * STEP, Restart("v000001", "held"))
    (released, *_) = steps(learner, log[12 * STEP :], 12 * STEP + 1)
    assert released.refused is None
    assert learner.progress.guard.held is None


def test_a_held_learner_is_held_after_a_load_too(tmp_path):
    learner = taught.learner()
    learner.progress.guard.held = "a reason"
    again = saved_and_loaded(learned(LOG[:STEP], learner), tmp_path / "v")
    assert again.progress.guard.held == "a reason"
    assert snapshot.read_manifest(tmp_path / "v")["held"] == "a reason"


def test_a_burst_of_poisoned_examples_is_skipped_and_learning_goes_on():
    learner = taught.learner()
    n = 40 * STEP
    learned([example(k) for k in range(n)], learner)
    poison = [poisoned(example(n + k)) for k in range(2 * STEP)]
    before = bits(learner)
    refused = steps(learner, poison, n)
    assert [bool(step.refused) for step in refused] == [True, True]
    assert bits(learner) == before


def poisoned(one):
    """Numbers of users far outside what is possible; clipped by the space, so the embeddings' weights are what explodes."""
    bags = {**one.user.bags, "categories": tuple((f"c{k}", 1e6) for k in range(2))}
    return msgspec.structs.replace(one, user=msgspec.structs.replace(one.user, bags=bags))


def test_rows_of_tables_without_a_gradient_do_not_move():
    learner = learned(LOG[: 3 * STEP])
    tables = [w.detach().clone() for w in learner.weights.live.tables]
    moved = [
        bool((w.detach() != start).any(dim=1).all())
        for w, start in zip(learner.weights.live.tables, taught.world()[1].model.tables, strict=True)
    ]
    assert not all(moved)  # some vocabulary has a token that nobody used (`item` has only its row 0)
    learner.weights.optimiser.step(1.0)  # no gradients at all
    assert all(torch.equal(a, b) for a, b in zip(tables, learner.weights.live.tables, strict=True))


def test_a_learner_of_features_of_another_format_is_refused_by_name(tmp_path):
    saved_and_loaded(learned(LOG[:STEP]), tmp_path / "v")
    features = tmp_path / "v" / snapshot.FEATURES
    before = features.read_bytes().replace(b'"format":5', b'"format":4')
    features.write_bytes(before)
    manifest = snapshot.read_manifest(tmp_path / "v")
    manifest["sha256"][snapshot.FEATURES] = manifest["fingerprint"] = hashlib.sha256(before).hexdigest()
    (tmp_path / "v" / snapshot.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        BadModel,
        match=r"features\.json cannot be read by this code: features of format 4, this code has format 5; choose another",
    ):
        state.load(tmp_path / "v", taught.no_restart)


@pytest.mark.parametrize("name", [state.MOMENTS, state.MEMORY, state.PROGRESS, snapshot.WEIGHTS])
def test_a_changed_byte_of_the_state_is_refused_by_name(tmp_path, name):
    saved_and_loaded(learned(LOG[:STEP]), tmp_path / "v")
    content = bytearray((tmp_path / "v" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "v" / name).write_bytes(content)
    with pytest.raises(BadModel, match=rf"{name} is corrupt"):
        state.load(tmp_path / "v", taught.no_restart)


def test_the_manifest_says_what_the_others_rely_on(tmp_path):
    learner = learned(LOG[: 2 * STEP + 5])
    saved_and_loaded(learner, tmp_path / "v")
    manifest = snapshot.load(tmp_path / "v").manifest
    assert manifest["created_by"] == "stream_processors/learner.py"
    assert manifest["position"] == {"topic_id": "T", "partition": 0, "offset": 2 * STEP + 5}
    assert manifest["parent"] == "v000001"
    assert manifest["learned_until"] == LOG[2 * STEP - 1].at
    assert (manifest["steps"], manifest["examples"]) == (2, 2 * STEP)
    assert "held" not in manifest


def test_only_a_version_that_shows_items_again_is_taught_by_those_who_came_back_and_what_it_makes_does_so_too(tmp_path):
    back = [replace(taught.example(n, organic=True), again=True) for n in range(STEP)]
    for rule, steps in (("never", 0), ("1d", 1)):
        start = taught.world()[1]
        start = dataclasses.replace(start, manifest={**start.manifest, "repeats": {"rule": rule}})
        learner = Learner.begin("v000001", start, taught.no_restart)
        for offset, one in enumerate(back):
            learner.take(offset, one)
        assert (learner.progress.steps, learner.progress.position) == (steps, STEP)
        folder = tmp_path / rule
        folder.mkdir()
        state.save(folder, learner, "T", "now")
        assert snapshot.read_manifest(folder)["repeats"] == {"rule": rule}
        assert state.load(folder, taught.no_restart).progress.repeats == learner.progress.repeats


def test_a_restart_takes_over_the_rule_of_the_version_that_it_begins_from():
    start = taught.world()[1]
    other = dataclasses.replace(start, manifest={**start.manifest, "repeats": {"rule": "always"}})
    learner = Learner.begin("v000001", start, lambda version: (version, other))
    assert learner.progress.repeats == "never"
    learner.take(0, Restart("v000002", "why not"))
    assert learner.progress.repeats == "always"
