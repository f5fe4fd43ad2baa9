import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors

from feed.catalogue import Item
from feed.errors import BadModel
from feed.features import FeatureSpace, ItemTable, new_user
from feed.models import snapshot
from feed.models.examination import Examination
from feed.models.heads import Head
from feed.models.two_tower import WIDTH, TwoTower


@pytest.fixture
def table():
    table = ItemTable()
    for i in range(20):
        table.upsert(Item(item_id=f"i{i}", category=f"c{i % 3}", tags=("x", f"t{i % 5}"), creator_id=f"m{i % 4}"))
    return table


@pytest.fixture
def saved(tmp_path, table):
    space = FeatureSpace.fit([new_user("u1"), new_user("u2")], table, 1e9, {"i1": 9, "i2": 7})
    torch.manual_seed(0)
    model = TwoTower(space.user_spec, space.item_spec, space.sizes).eval()
    snapshot.save(tmp_path, model, space, {"trained_on": {"positives": 16}})
    return tmp_path, model, space


def rewrite_manifest(path, **changes):
    manifest = json.loads((path / snapshot.MANIFEST).read_text())
    (path / snapshot.MANIFEST).write_text(json.dumps(manifest | changes))


def test_what_is_loaded_scores_exactly_as_what_was_saved(saved, table):
    path, model, space = saved
    loaded = snapshot.load(path)
    items = space.item_inputs(table, None, 1e9)
    users = space.user_inputs([new_user("u3")] * len(table), 1e9)
    assert torch.equal(loaded.model.user_vectors(users), model.user_vectors(users))
    assert torch.equal(loaded.model.item_vectors(loaded.space.item_inputs(table, None, 1e9)), model.item_vectors(items))
    assert not loaded.model.training
    assert loaded.manifest["trained_on"] == {"positives": 16}
    assert loaded.manifest["fingerprint"] == space.fingerprint


def test_fusion_weights_travel_with_the_version_and_those_without_numbers_are_refused(saved):
    path, model, space = saved
    model.fusion.copy_(torch.arange(float(model.fusion.numel())).view_as(model.fusion))
    snapshot.save(path, model, space, {})
    loaded = snapshot.load(path)
    assert torch.equal(loaded.model.fusion, model.fusion)
    loaded.require_finite()
    for bad in (float("nan"), float("inf")):
        model.fusion[1, 3] = bad
        snapshot.save(path, model, space, {})
        with pytest.raises(BadModel, match=r"not finite \(fusion\)"):
            snapshot.load(path).require_finite()


def test_weights_of_before_there_were_fusion_weights_are_refused(saved):
    path, model, _ = saved
    older = save_tensors({name: weight for name, weight in model.state_dict().items() if name != "fusion"})
    (path / snapshot.WEIGHTS).write_bytes(older)
    own = json.loads((path / snapshot.MANIFEST).read_text())["sha256"]
    rewrite_manifest(path, sha256={**own, snapshot.WEIGHTS: hashlib.sha256(older).hexdigest()})
    with pytest.raises(BadModel, match="does not fit this code's model"):
        snapshot.load(path)


def test_heads_travel_with_the_version_and_one_without_them_has_none(saved):
    path, model, space = saved
    assert snapshot.load(path).heads == {}
    assert not (path / snapshot.HEADS).exists()
    heads = {"click": Head(0.5, torch.arange(float(WIDTH)), -1.0), "hide": Head(-0.5, torch.ones(WIDTH), -4.0)}
    snapshot.save(path, model, space, {}, heads=heads)
    loaded = snapshot.load(path).heads
    assert list(loaded) == ["click", "hide"]
    assert (loaded["hide"].a, loaded["hide"].b) == (-0.5, -4.0)
    assert torch.equal(loaded["click"].w, torch.arange(float(WIDTH)))
    (path / snapshot.HEADS).unlink()
    with pytest.raises(BadModel, match=r"heads\.safetensors cannot be read"):
        snapshot.load(path)


def test_heads_of_another_shape_or_without_numbers_are_refused(saved):
    path, model, space = saved
    snapshot.save(path, model, space, {}, heads={"click": Head(0.5, torch.zeros(3), -1.0)})
    with pytest.raises(BadModel, match=r"heads\.safetensors does not fit this code's heads: head 'click' has shapes"):
        snapshot.load(path)
    snapshot.save(path, model, space, {}, heads={"click": Head(float("nan"), torch.zeros(WIDTH), -1.0)})
    with pytest.raises(BadModel, match=r"not finite \(click\.a\)"):
        snapshot.load(path).require_finite()


def test_who_looks_travels_with_the_version_and_in_one_without_it_views_say_it(saved):
    path, model, space = saved
    assert snapshot.load(path).examination is None
    assert not (path / snapshot.EXAMINATION).exists()
    snapshot.save(path, model, space, {}, examination=Examination(np.array([1.0, 1 / 3]), 0.1))
    loaded = snapshot.load(path).examination
    assert (loaded.theta.tolist(), loaded.taken) == ([1.0, 1 / 3], 0.1)
    (path / snapshot.EXAMINATION).write_bytes(b"{}")
    with pytest.raises(BadModel, match=r"examination\.json is corrupt"):
        snapshot.load(path)
    snapshot.save(path, model, space, {}, examination=Examination(np.array([1.0, 2.0]), 0.1))
    with pytest.raises(BadModel, match=r"examination\.json says nothing of who looks: theta and taken are no probabilities"):
        snapshot.load(path)


@pytest.mark.parametrize("name", [snapshot.WEIGHTS, snapshot.FEATURES])
def test_a_changed_byte_is_refused_by_name_with_a_remedy(saved, name):
    path, _, _ = saved
    content = bytearray((path / name).read_bytes())
    content[np.random.default_rng(0).integers(len(content))] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BadModel, match=rf"{name} is corrupt.*bootstrap\.py"):
        snapshot.load(path)


@pytest.mark.parametrize("name", [snapshot.WEIGHTS, snapshot.FEATURES, snapshot.MANIFEST])
def test_a_missing_file_is_refused_by_name(saved, name):
    path, _, _ = saved
    (path / name).unlink()
    with pytest.raises(BadModel, match=name):
        snapshot.load(path)


def test_weights_of_another_feature_space_are_refused(saved, tmp_path_factory, table):
    path, _, _ = saved
    table.upsert(Item(item_id="new", category="another"))
    other = FeatureSpace.fit([new_user("u1")], table, 1e9, {})
    elsewhere = tmp_path_factory.mktemp("other")
    snapshot.save(elsewhere, TwoTower(other.user_spec, other.item_spec, other.sizes), other, {})
    (path / snapshot.FEATURES).write_bytes((elsewhere / snapshot.FEATURES).read_bytes())
    sums = json.loads((elsewhere / snapshot.MANIFEST).read_text())["sha256"]
    own = json.loads((path / snapshot.MANIFEST).read_text())["sha256"]
    rewrite_manifest(path, sha256={**own, snapshot.FEATURES: sums[snapshot.FEATURES]})
    with pytest.raises(BadModel, match="trained on other features"):
        snapshot.load(path)


def test_a_version_of_another_format_is_refused_by_name_with_what_to_do(saved):
    path, _, _ = saved
    older = (path / snapshot.FEATURES).read_bytes().replace(b'"format":5', b'"format":4')
    (path / snapshot.FEATURES).write_bytes(older)
    own = json.loads((path / snapshot.MANIFEST).read_text())["sha256"]
    rewrite_manifest(path, sha256={**own, snapshot.FEATURES: hashlib.sha256(older).hexdigest()})
    with pytest.raises(BadModel, match=rf"{path.name}/features\.json cannot be read.*format 4.*format 5; choose another"):
        snapshot.load(path)


def test_features_this_code_does_not_compute_are_refused(saved, monkeypatch):
    path, _, _ = saved
    monkeypatch.setattr("feed.features.items.TOWER", ("age_hours", "invented"))
    with pytest.raises(BadModel, match=r"features\.json lists other features.*invented"):
        snapshot.load(path)


def test_weights_of_another_shape_are_refused(saved):
    path, _, space = saved
    sizes = {**space.sizes, "tag": 3}
    snapshot.save(path, TwoTower(space.user_spec, space.item_spec, sizes), space, {})
    with pytest.raises(BadModel, match="does not fit this code's model"):
        snapshot.load(path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_manifest_that_is_not_an_object_is_refused(saved, text):
    path, _, _ = saved
    (path / snapshot.MANIFEST).write_text(text)
    with pytest.raises(BadModel, match=r"manifest\.json is not"):
        snapshot.load(path)


def test_figures_that_are_not_numbers_cannot_be_written(saved):
    path, model, space = saved
    with pytest.raises(ValueError, match="JSON compliant"):
        snapshot.save(path, model, space, {"auc": float("nan")})
