import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from feed import dataset, kinds
from feed.catalogue import Item, User
from feed.errors import BadData
from feed.evaluation.ablation import span
from feed.events import ENGAGEMENTS, Click, Hide, Impression, Shown, View, adopt, utc
from feed.features.counts import HALF_LIVES
from feed.models import fusion, snapshot
from feed.models.fusion import CONSTANT
from feed.models.two_tower import logit_alone
from feed.registry import Registry
from feed.repeats import Repeats
from offline import bootstrap
from producers.generate import generate

START = 1_700_000_000.0
ROOT = Path(__file__).parents[2]


def write(folder, n=2000, kinds=(Click, View), seed=0, catalogue=120, created=START - 1000, people=30):
    """So many users meet items of three categories by chance: `kinds[0]` with those of one category, `kinds[1]` with others."""
    draw = np.random.default_rng(seed)
    items = [Item(item_id=f"i{i}", category=f"c{i % 3}", created_at=utc(created)) for i in range(catalogue)]
    events = []
    for k in range(n):
        user, item = int(draw.integers(people)), int(draw.integers(catalogue))
        about = {"event_id": f"e{k}", "user_id": f"u{user}", "item_id": f"i{item}", "occurred_at": utc(START + 600 * k)}
        events.append(kinds[0 if user % 3 == item % 3 else 1](**about))
    dataset.write(dataset.from_events(events, items, [User(user_id=f"u{u}") for u in range(people)]), folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bootstrap")
    data, registry = write(folder / "data"), folder / "registry"
    return data, registry, bootstrap.run(data, registry, epochs=6)


def test_the_first_version_becomes_champion_and_later_ones_challenger(trained):
    data, path, outcome = trained
    registry = Registry(path)
    assert outcome.champion
    assert registry.champion().version == outcome.version
    assert registry.challenger() is None
    later = bootstrap.run(data, path, epochs=1)
    assert not later.champion
    assert registry.champion().version == outcome.version
    assert registry.challenger() == later.version
    told = [(line["event"], line["version"]) for line in registry.ledger()]
    assert told == [("published", outcome.version), ("promoted", outcome.version), ("published", later.version)]
    assert registry.ledger()[1]["evidence"] == {"by": "offline/bootstrap.py", "why": "nobody could serve"}


def test_the_model_finds_each_users_category_where_popularity_cannot(trained):
    figures = trained[2].figures
    for name in ("auc", "ndcg_at_10", "recall_at_50", "auc_looked_at"):
        learned, popular = figures["learned"][name], figures["decayed-popular"][name]
        assert learned["low"] > popular["mean"], name


def test_the_served_weights_load_and_carry_their_figures(trained):
    _, path, outcome = trained
    loaded = snapshot.load(Registry(path).champion().path)
    assert loaded.manifest["figures"] == outcome.figures
    parts = loaded.manifest["parts"]
    assert parts["ndcg_at_10"]["served"]["mean"] == pytest.approx(outcome.figures["learned"]["ndcg_at_10"]["mean"], abs=0.01)
    assert list(parts["ndcg_at_10"])[:3] == ["served", "popular", "decayed-popular"]
    assert {"item-knn", "own-favourites"} & {*parts["ndcg_at_10"]}, "the quick baseline that was better before"
    assert 20 < parts["users"] <= 30, "whose visits have a positive"
    assert parts["half_life"] in HALF_LIVES
    assert loaded.manifest["data"]["events"] == 2000
    assert loaded.manifest["learned_until"] == START + 600 * 1999
    assert (loaded.manifest["position"], loaded.manifest["parent"]) == (None, None)
    assert loaded.manifest["fusion"]["weights"] == loaded.model.fusion.tolist()
    assert loaded.manifest["trained_on"]["until"] < loaded.manifest["measured_from"] < loaded.manifest["data"]["to"]


def test_the_version_has_heads_that_beat_the_base_rate_on_later_pairs(trained):
    loaded = snapshot.load(Registry(trained[1]).champion().path)
    assert list(loaded.heads) == ["click"], "nothing else happens in this log"
    figures = loaded.manifest["heads"]["click"]
    assert figures["log_loss"] < 0.8 * figures["log_loss_of_base_rate"]
    assert figures["predicted"] == pytest.approx(figures["followed"], abs=0.08)


def test_the_same_log_and_seed_give_the_same_weights(trained, tmp_path):
    data, path, outcome = trained
    again = bootstrap.run(data, tmp_path, epochs=6)
    sums = [snapshot.read_manifest(Registry(p).folder(o.version))["sha256"] for p, o in ((path, outcome), (tmp_path, again))]
    assert sums[0] == sums[1]


def write_regulars(folder, users=30, items=40, n=2400):
    """Each user goes to the same three items eight times in ten."""
    draw = np.random.default_rng(0)
    events = []
    for k in range(n):
        user = k % users
        item = (3 * user + draw.integers(3)) % items if draw.random() < 0.8 else draw.integers(items)
        about = {"event_id": f"e{k}", "user_id": f"u{user}", "item_id": f"i{item}", "occurred_at": utc(START + 600 * k)}
        events.append(Click(**about))
    catalogue = [Item(item_id=f"i{i}", category=f"c{i % 3}") for i in range(items)]
    dataset.write(dataset.from_events(events, catalogue, [User(user_id=f"u{u}") for u in range(users)]), folder)
    return folder


def test_a_log_of_repeats_trains_a_version_whose_feeds_show_again_what_was_taken(tmp_path, capsys):
    data = write_regulars(tmp_path / "data")
    bootstrap.run(data, tmp_path / "registry", epochs=2)
    shown = " ".join(capsys.readouterr().out.split())
    assert "of the log's later positives are of an item that the user took before" in shown
    assert "may be shown again: always (by the log)" in shown
    loaded = snapshot.load(Registry(tmp_path / "registry").champion().path)
    repeats = loaded.manifest["repeats"]
    assert repeats["share"] > 0.75
    assert (repeats["positives"], repeats["rule"], repeats["by"]) == (480, "always", "the log")
    assert repeats["median_seconds"] > 0
    assert loaded.manifest["trained_on"]["positives"] == pytest.approx(0.8 * 2400, abs=5), "each of them, not one a pair"
    found = loaded.manifest["parts"]["ndcg_at_10"]
    assert found["served"]["low"] > found["popular"]["high"]
    assert "own-favourites" in found, "the best quick baseline of such a log"
    assert "What serves is ahead of a list of what was popular" in shown


def test_a_log_in_which_nothing_is_taken_twice_says_never(tmp_path):
    generate(tmp_path / "data", 60, 300, 3000, 0)
    bootstrap.run(tmp_path / "data", tmp_path / "registry", epochs=1)
    repeats = snapshot.load(Registry(tmp_path / "registry").champion().path).manifest["repeats"]
    assert (repeats["share"], repeats["rule"], repeats["by"]) == (0.0, "never", "the log")


def test_the_setting_wins_over_the_log(tmp_path, capsys):
    bootstrap.run(write_regulars(tmp_path / "data"), tmp_path / "registry", epochs=1, repeats=Repeats.parse("never"))
    assert "may be shown again: never (by FEED_REPEATS)" in " ".join(capsys.readouterr().out.split())
    manifest = snapshot.load(Registry(tmp_path / "registry").champion().path).manifest
    assert (manifest["repeats"]["rule"], manifest["repeats"]["by"]) == ("never", "FEED_REPEATS")
    assert manifest["trained_on"]["positives"] < 1000


@pytest.mark.parametrize("kinds", [(Click, Click), (View, View)])
def test_a_log_of_one_kind_of_event_can_be_learned_from(tmp_path, kinds):
    outcome = bootstrap.run(write(tmp_path / "data", 1200, kinds), tmp_path / "registry", epochs=1)
    assert outcome.champion
    assert "auc_looked_at" not in outcome.figures["learned"], "nothing was looked at and left"
    assert snapshot.load(Registry(tmp_path / "registry").champion().path).heads == {}, "nothing tells one look from another"


@pytest.mark.parametrize("people", [1, 30])
def test_a_log_without_a_table_of_users_can_be_learned_from_also_of_one_person(people, tmp_path):
    data = write(tmp_path / "data", people=people, catalogue=1000)
    (data / "users.parquet").unlink()
    outcome = bootstrap.run(data, tmp_path / "registry", epochs=1)
    assert outcome.champion
    manifest = snapshot.load(Registry(tmp_path / "registry").champion().path).manifest
    assert manifest["data"]["users"] == people


def test_a_log_of_kinds_of_ones_own_is_learned_from_and_its_version_says_so(tmp_path):
    adopt(kinds.parse("buy=positive,consumes;skip=negative,consumes"))
    data = write(tmp_path / "data", kinds=(ENGAGEMENTS["buy"], ENGAGEMENTS["skip"]))
    outcome = bootstrap.run(data, tmp_path / "registry", epochs=6)
    assert outcome.figures["learned"]["auc"]["mean"] > 0.8
    champion = Registry(tmp_path / "registry").champion()
    with capture_logs() as logs:
        loaded = snapshot.load(champion.path)
    assert loaded.manifest["kinds"] == "buy=positive,weight=1,consumes;skip=negative,weight=1,consumes"
    assert logs == []
    adopt()
    with capture_logs() as logs:
        assert snapshot.load(champion.path).space.fingerprint == loaded.space.fingerprint
    assert [(entry["log_level"], entry["version"], entry["kinds"]) for entry in logs] == [("warning", champion.version, "")]
    with pytest.raises(BadData, match="event 'buy' is none of"):
        bootstrap.run(data, tmp_path / "registry", epochs=1)


def write_fashions(folder, **more):
    """Fifteen items at a time, of whatever category, are clicked by everybody who meets them; all others are only viewed."""
    draw, events = np.random.default_rng(0), []
    popular = [draw.permutation(120)[:15] for _ in range(20)]
    for k in range(2000):
        of = popular[k // 100]
        item = draw.choice(of) if draw.random() < 0.6 else draw.integers(120)
        about = {"event_id": f"e{k}", "user_id": f"u{draw.integers(200)}", "item_id": f"i{item}", **more}
        events.append((Click if item in of else View)(**about, occurred_at=utc(START + 60 * k)))
    items = [Item(item_id=f"i{i}", category=f"c{i % 3}") for i in range(120)]
    dataset.write(dataset.from_events(events, items, [User(user_id=f"u{u}") for u in range(200)]), folder)
    return folder


def test_where_people_take_what_is_popular_at_the_moment_counts_are_part_of_the_score(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fusion, "FEWEST", 50)
    bootstrap.run(write_fashions(tmp_path / "data"), tmp_path / "registry", epochs=1)
    assert "Counts and co-visitation are part of the score" in capsys.readouterr().out
    loaded = snapshot.load(Registry(tmp_path / "registry").champion().path)
    assert (loaded.model.fusion[:, 1 : CONSTANT - 1].sum(dim=1) > 0).all()
    assert " positives against the catalogue, nats a positive: +" in loaded.manifest["fusion"]["fitted_to"]


def test_a_score_that_is_proven_worse_than_a_list_of_what_is_popular_lately_becomes_that_list(tmp_path, capsys):
    """There are too few positives to fit fusion weights to, so the score would be the logit alone."""
    bootstrap.run(write_fashions(tmp_path / "data"), tmp_path / "registry", epochs=1)
    shown = " ".join(capsys.readouterr().out.split())
    loaded = snapshot.load(Registry(tmp_path / "registry").champion().path)
    parts, weights = loaded.manifest["parts"], loaded.model.fusion
    expected = torch.zeros_like(weights)
    expected[:, 1 + HALF_LIVES.tolist().index(parts["half_life"])] = 1.0
    expected[:, CONSTANT] = weights[:, CONSTANT]
    assert torch.equal(weights, expected)
    served, listed = (parts["ndcg_at_10"][name]["mean"] for name in ("served", "decayed-popular"))
    assert served == pytest.approx(listed, abs=0.005), "in half the digits counts of next to nothing are ties"
    assert parts["ndcg_at_10"]["served"]["low"] > parts["ndcg_at_10"]["logit alone"]["mean"]
    assert "The score is a list of what is popular lately (" in shown
    assert "more NDCG@10, so the score is that list" in loaded.manifest["fusion"]["fitted_to"]
    if parts["best_list"] == "decayed-popular":
        assert f"A list of what was popular in the last {span(parts['half_life'])} would do as well on this log" in shown


def test_where_propensities_are_known_no_list_takes_the_scores_place(tmp_path, capsys):
    data = write_fashions(tmp_path / "data", propensity=0.5)
    bootstrap.run(data, tmp_path / "registry", epochs=1)
    assert "The score is the logit alone" in " ".join(capsys.readouterr().out.split())
    loaded = snapshot.load(Registry(tmp_path / "registry").champion().path)
    assert torch.equal(loaded.model.fusion, logit_alone())
    assert loaded.manifest["fusion"]["fitted_to"].endswith("because propensities are known")


def test_without_a_terminal_each_part_is_one_line_with_its_seconds(tmp_path):
    with capture_logs() as logs:
        bootstrap.run(write(tmp_path / "data", 1200), tmp_path / "registry", epochs=1)
    parts = [line for line in logs if line["event"] == "bootstrap: part done"]
    assert [line["part"] for line in parts] == ["folding", "training", "fusion", "measuring"]
    assert all(line["seconds"] >= 0 for line in parts)


def test_only_the_version_of_a_log_without_views_says_who_looks(trained, tmp_path, capsys):
    """Requests of 30 users for 6 of 120 items in random order: of the three above every third is taken, of the others none."""
    assert snapshot.load(Registry(trained[1]).champion().path).examination is None
    draw = np.random.default_rng(0)
    events = []
    for k in range(1500):
        shown, about = draw.choice(120, 6, replace=False), {"user_id": f"u{k % 30}"}
        rows = tuple(Shown(f"i{i}", place, source="random") for place, i in enumerate(shown))
        events.append(Impression(event_id=f"s{k}", occurred_at=utc(START + 600 * k), items=rows, **about))
        for place in np.flatnonzero(draw.random(3) < 1 / 3):
            when = utc(START + 600 * k + 1 + place)
            events.append(Click(event_id=f"c{k}-{place}", occurred_at=when, item_id=f"i{shown[place]}", **about))
    items = [Item(item_id=f"i{i}", created_at=utc(START - 1000)) for i in range(120)]
    dataset.write(dataset.from_events(events, items, [User(user_id=f"u{u}") for u in range(30)]), tmp_path / "data")
    capsys.readouterr()
    bootstrap.run(tmp_path / "data", tmp_path / "registry", epochs=1)
    assert "so what was looked at is estimated" in capsys.readouterr().out
    looks = snapshot.load(Registry(tmp_path / "registry").champion().path).examination
    assert looks.theta.tolist() == pytest.approx([1, 1, 1, 0, 0, 0], abs=0.1)
    assert looks.taken == pytest.approx(1 / 3, abs=0.03)


def test_a_log_too_short_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(BadData, match=r"too little to learn from: 5 pairs"):
        bootstrap.run(write(tmp_path / "data", 5), tmp_path / "registry")
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(("catalogue", "created", "says"), [(2, START - 1000, "2 exist at"), (120, START + 1e9, "0 exist at")])
def test_a_catalogue_that_leaves_no_choice_is_refused(tmp_path, catalogue, created, says):
    with pytest.raises(BadData, match=rf"nothing to rank: of the {catalogue} items of the catalogue {says}"):
        bootstrap.run(write(tmp_path / "data", catalogue=catalogue, created=created), tmp_path / "registry")
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(("hides", "says"), [(0, "impressions"), (50, "hides"), (5, "hides and impressions")])
def test_a_log_in_which_nobody_looks_at_or_likes_anything_is_refused(tmp_path, hides, says):
    events = []
    for k in range(50):
        about = {"event_id": str(k), "user_id": "u", "occurred_at": utc(START + k)}
        shown = (Shown(item_id=f"i{k}", position=0),)
        events.append(Hide(**about, item_id=f"i{k}") if k < hides else Impression(**about, items=shown))
    dataset.write(dataset.from_events(events, [Item(item_id=f"i{k}") for k in range(50)], [User(user_id="u")]), tmp_path)
    with pytest.raises(BadData, match=rf"all 50 events of the log are {says}, so.*add rows of view"):
        bootstrap.run(tmp_path, tmp_path / "registry")


def test_a_missing_folder_ends_the_command_with_a_clear_error_and_status_2(tmp_path):
    command = [sys.executable, str(ROOT / "offline/bootstrap.py"), "--data", str(tmp_path / "nowhere"), "--registry", "r"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_training_anew_replaces_a_champion_that_cannot_serve(trained, tmp_path, harm):
    data, registry = trained[0], Registry(tmp_path)
    bootstrap.run(data, tmp_path, epochs=1)
    folder = registry.champion().path
    if harm == "truncate":
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        shutil.rmtree(folder)
    outcome = bootstrap.run(data, tmp_path, epochs=1)
    assert outcome.champion
    assert (registry.champion().version, registry.champion().generation) == (outcome.version, 2)
    snapshot.load(registry.champion().path)


def test_a_registry_that_cannot_be_written_is_named_before_the_training(trained, tmp_path):
    (tmp_path / "file").write_text("")
    command = [
        sys.executable,
        str(ROOT / "offline" / "bootstrap.py"),
        "--data",
        str(trained[0]),
        "--registry",
        str(tmp_path / "file"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'file'}: File exists")
    assert "Traceback" not in ended.stderr
