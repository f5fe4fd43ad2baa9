"""The command on small logs, as a user runs it."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from feed import dataset
from feed.errors import BadData, BadModel, BadSetting, FeedError
from feed.evaluation.models import BOUNDS, Model
from offline import evaluate
from tests.evaluation import logs

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate.main)


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch):
    """A command sets up the logging of its process; here it would be that of all tests after it."""
    monkeypatch.setattr(evaluate.logs, "setup", lambda configuration, service: None)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "TEST_RUNS", tmp_path / "test-runs.md")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "test-runs.md"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, FeedError):
        raise result.exception
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


@pytest.fixture
def camps(tmp_path, counted):
    dataset.write(logs.dataset(logs.two_camps()), tmp_path / "camps", "csv")
    return tmp_path / "camps"


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_run_leaves_its_lists_and_its_figures(camps, tmp_path):
    run("--data", camps, "--model", "ease", "--no-tune", "--out", tmp_path / "run")
    recs = pd.read_csv(tmp_path / "run" / "recs.csv")
    interactions = dataset.read(camps).interactions
    found = report(tmp_path / "run")["figures"]
    assert list(recs) == ["event_id", "item_id", "score", "rank"]
    ranked = recs.groupby("event_id")
    assert len(ranked) == found["all"]["rankings"] == 40
    taken = interactions.sort_values("occurred_at", kind="stable", ignore_index=True)["item_id"]
    gains = [
        (1 / np.log2(1 + own["rank"]))[(own["item_id"] == taken[event]) & (own["rank"] <= 10)].sum() for event, own in ranked
    ]
    assert np.mean(gains) == pytest.approx(found["all"]["ndcg_at_10"]["mean"])
    assert found["all"]["ndcg_at_10"]["low"] <= np.mean(gains) <= found["all"]["ndcg_at_10"]["high"]


class Drawn:
    """Scores drawn from torch's global generator, as dropout is."""

    def fit(self, rows, catalogue):
        self._items = catalogue.n_items

    def scores(self, user, at):
        return torch.rand(self._items).numpy()

    def observe(self, k, rows):
        pass


def test_one_seed_gives_one_result(camps, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "MODELS", {"drawn": Model(Drawn)})
    for name, before, seed in (("a", 1, 0), ("b", 2, 0), ("c", 2, 1)):
        torch.manual_seed(before)
        run("--data", camps, "--model", "drawn", "--seed", seed, "--out", tmp_path / name)
    a, b, c = ((tmp_path / name / "recs.csv").read_text() for name in "abc")
    assert a == b != c


def test_only_test_runs_score_the_last_fifth_and_each_is_counted(camps, counted, tmp_path):
    run("--data", camps, "--model", "popular", "--out", tmp_path / "a")
    assert not counted.exists()
    for n in (1, 2):
        shown = run("--data", camps, "--model", "popular", "--test", "--out", tmp_path / "b")
        assert f"test run {n} of this log, {n} of all that stand in {counted}" in shown
    assert (report(tmp_path / "a")["run"]["rows"], report(tmp_path / "b")["run"]["rows"]) == ([280, 320], [320, 400])
    lines = [line for line in counted.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line.split("|")[1].strip() for line in lines] == ["1", "2"]
    assert "popular: progressive" in lines[0]
    dataset.write(logs.dataset(logs.two_camps(seed=1)), tmp_path / "other")
    shown = run("--data", tmp_path / "other", "--model", "popular", "--test", "--out", tmp_path / "b")
    assert "test run 1 of this log, 3 of all" in shown


def regulars(users=20, items=12, visits=15, seed=0):
    """Each user goes to one item of their own three times in four, else to any."""
    rng = np.random.default_rng(seed)
    return [
        (
            f"u{user}",
            f"i{user % items if rng.random() < 0.75 else rng.integers(items)}",
            "click",
            3600.0 * (visit * users + user),
        )
        for visit in range(visits)
        for user in range(users)
    ]


def test_with_repeats_own_favourites_beat_what_is_popular_and_the_run_says_so(tmp_path, counted):
    dataset.write(logs.dataset(regulars()), tmp_path / "log")
    for model in ("own-favourites", "popular", "served"):
        run(
            "--data",
            tmp_path / "log",
            "--model",
            model,
            "--repeats",
            "--no-tune",
            "--learn-every",
            0,
            "--out",
            tmp_path / model,
        )
    own, popular, served = (report(tmp_path / model)["figures"]["all"] for model in ("own-favourites", "popular", "served"))
    assert own["rankings"] == popular["rankings"] == served["rankings"] == 30
    assert own["ndcg_at_10"]["low"] > popular["ndcg_at_10"]["high"]
    assert report(tmp_path / "popular")["run"]["repeats"]
    run("--data", tmp_path / "log", "--model", "popular", "--test", "--repeats", "--out", tmp_path / "test")
    assert ", repeats, seed 0 |" in counted.read_text()
    run("--data", tmp_path / "log", "--model", "popular", "--out", tmp_path / "without")
    with pytest.raises(BadData, match="cannot be compared: repeats is"):
        run("--compare", tmp_path / "popular", tmp_path / "without")


def test_a_slice_with_nothing_but_repeats_names_the_option(tmp_path, counted):
    rows = [("u", f"i{k % 5}", "click", 3600.0 * k) for k in range(100)]
    dataset.write(logs.dataset(rows), tmp_path / "log")
    with pytest.raises(BadData, match=r"had never met; .*count repeats with --repeats, "):
        run("--data", tmp_path / "log", "--model", "popular", "--out", tmp_path / "run")


def test_static_lists_are_by_user(camps, tmp_path):
    run("--data", camps, "--model", "ease", "--no-tune", "--protocol", "static", "--out", tmp_path / "run")
    recs = pd.read_csv(tmp_path / "run" / "recs.csv")
    assert list(recs) == ["user_id", "item_id", "score", "rank"]
    assert set(recs["user_id"]) <= {f"u{k}" for k in range(40)}


def test_two_runs_are_compared_target_by_target(camps, tmp_path):
    for name in ("ease", "popular"):
        run("--data", camps, "--model", name, "--no-tune", "--seed", len(name), "--out", tmp_path / name)
    shown = run("--compare", tmp_path / "ease", tmp_path / "popular")
    a, b = (report(tmp_path / name)["figures"]["all"]["ndcg_at_10"]["mean"] for name in ("ease", "popular"))
    assert a > b
    assert f"{a - b:+.4f}" in shown


def test_help_shows_two_folders_as_they_are_written():
    shown = " ".join(run("--help").split())
    assert "--compare A B " in shown
    assert "Path,Path" not in shown


def test_runs_on_different_slices_are_not_compared(camps, tmp_path):
    run("--data", camps, "--model", "popular", "--out", tmp_path / "a")
    run("--data", camps, "--model", "popular", "--test", "--out", tmp_path / "b")
    with pytest.raises(BadData, match="slice is 'tuning' and 'test'"):
        run("--compare", tmp_path / "a", tmp_path / "b")
    with pytest.raises(BadData, match="no readable run"):
        run("--compare", tmp_path / "a", tmp_path / "nowhere")


def test_parameters_come_from_the_tuning_slice_unless_they_are_given(camps, tmp_path):
    run("--data", camps, "--model", "ease", "--set", "decay=0.9", "--out", tmp_path / "run")
    found = report(tmp_path / "run")
    assert found["run"]["parameters"]["decay"] == 0.9
    best = max(found["tuned"], key=lambda trial: trial["ndcg_at_10"])
    assert found["run"]["parameters"]["ridge"] == best["parameters"]["ridge"]
    assert found["figures"]["all"]["ndcg_at_10"]["mean"] == pytest.approx(best["ndcg_at_10"])


def test_the_grids_are_printed():
    shown = run("--grid")
    assert "decayed-popular: half_life_days 0.05, 0.25, 1.0" in shown
    assert "popular: nothing to tune" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "magic"], "'magic' is none of popular"),
        (["--model", "ease", "--learn-every", "1"], "do not learn online"),
        (["--model", "ease", "--set", "ridge"], "NAME=VALUE"),
        (["--model", "ease", "--set", "ridge=much"], "'ridge=much': the value is to be a number from 0 to 1,000,000,000"),
        (["--model", "ease", "--set", "ridge=nan"], "'ridge=nan': the value is to be a number"),
        (["--model", "ease", "--set", "ridge=1e999"], "'ridge=1e999': the value is to be a number"),
        (["--model", "ease", "--set", "ridge=-1"], "'ridge=-1': the value is to be a number from 0"),
        (["--model", "ease", "--set", "fridge=1"], "ease has no 'fridge'; it has decay, half_life_days, prior, ridge"),
        (["--model", "prior-covisitation", "--set", "mixing=0"], "prior-covisitation has no 'mixing'; it has seed"),
        (["--model", "ease", "--set", "ridge=1", "--set", "ridge=2"], "'ridge=2': ridge is given twice"),
        (["--model", "bpr", "--set", "factors=2.5"], "'factors=2.5': the value is to be a whole number from 1 to 2,048"),
        (["--model", "sasrec", "--no-tune", "--set", "width=65"], "width=65: sasrec has 2 heads.*an even one"),
        (["--tune-from", "yesterday"], "is no time"),
        (["--test-from", ""], "is no time"),
    ],
)
def test_an_option_that_cannot_be_is_named(camps, arguments, message):
    with pytest.raises(BadSetting, match=message):
        run("--data", camps, *arguments)


@pytest.mark.parametrize("model", evaluate.MODELS)
def test_every_parameter_has_bounds_and_every_value_of_a_grid_keeps_them(model):
    grid = evaluate.MODELS[model].grid
    for name in evaluate.MODELS[model].parameters():
        assert name in BOUNDS
        for value in grid.get(name, ()):
            assert evaluate.fixed(model, [f"{name}={value}"]) == {name: value}
    assert set(grid) <= set(evaluate.MODELS[model].parameters())


def test_a_failure_that_no_parameter_caused_is_not_blamed_on_one(camps, monkeypatch):
    class Broken(Drawn):
        def __init__(self, seed: int = 0):
            pass

        def scores(self, user, at):
            raise ValueError("a mistake of the program")

    monkeypatch.setattr(evaluate, "MODELS", {"broken": Model(Broken)})
    with pytest.raises(AssertionError, match=r"ValueError.*a mistake of the program"):
        run("--data", camps, "--model", "broken", "--set", "seed=1")


def test_a_model_that_has_no_solution_says_so(tmp_path, counted):
    always_together = [(f"u{k}", f"i{j}", "click", 1000 * k + j) for k in range(40) for j in range(4)]
    dataset.write(logs.dataset(always_together), tmp_path / "log")
    with pytest.raises(BadModel, match=r"ease has no solution with .*ridge=0\.0.*give it other parameters with --set"):
        run("--data", tmp_path / "log", "--model", "ease", "--no-tune", "--set", "ridge=0")


def test_a_model_that_diverges_says_so(camps):
    with pytest.raises(BadModel, match="diverged; give it other parameters with --set"):
        run("--data", camps, "--model", "bpr", "--no-tune", "--set", "ridge=1e9")


def test_data_is_needed():
    with pytest.raises(BadSetting, match="--data is missing"):
        run()


MODELS = ["popular", "decayed-popular", "item-knn", "ease", "ease-prior", "sasrec", "naive-two-tower", "prior-covisitation"]
ODD = {
    "one user": [("u", f"i{k}", "click", 3600 * k) for k in range(30)],
    "one item": [(f"u{k}", "i", "click", 3600 * k) for k in range(30)],
    "all at the same instant": [(f"u{k % 6}", f"i{k % 5}", "click", 0) for k in range(30)],
    "positives in the last slices only": [(f"u{k}", f"i{k % 7}", "view" if k < 21 else "like", 60 * k) for k in range(30)],
    "text ids": [(f"Frau Ö, {k % 4}", f'"{k} | ü"', "share", 60 * k) for k in range(30)],
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_log_has_a_sane_result(name, model, tmp_path, counted):
    dataset.write(logs.dataset(ODD[name]), tmp_path / "log")
    for protocol in ("progressive", "static"):
        out = tmp_path / protocol
        short = ["--set", "epochs=1"] if model == "sasrec" else []
        run("--data", tmp_path / "log", "--model", model, "--no-tune", "--test", "--protocol", protocol, "--out", out, *short)
        figure = report(out)["figures"]["all"]["ndcg_at_10"]
        assert 0.0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1.0
        assert len(pd.read_csv(out / "recs.csv"))


@pytest.mark.parametrize("model", [*MODELS[:2], "naive-two-tower", "prior-covisitation", "served"])
def test_a_log_without_a_table_of_users_is_evaluated_also_of_one_person(model, tmp_path, counted):
    rows = [("u", f"i{k}", "click" if k % 3 else "view", 3600 * k) for k in range(400)]
    for users, log in ((1, rows), (40, logs.two_camps())):
        dataset.write(logs.dataset(log), tmp_path / str(users))
        (tmp_path / str(users) / "users.parquet").unlink()
        run("--data", tmp_path / str(users), "--model", model, "--no-tune", "--out", tmp_path / "run")
        assert report(tmp_path / "run")["run"]["users"] == users
        assert report(tmp_path / "run")["figures"]["all"]["rankings"]


@pytest.mark.parametrize("model", ["ease", "served"])
def test_kinds_of_ones_own_are_relevant_and_are_learned_from(model, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("FEED_KINDS", "purchase=positive;skip=negative")
    evaluate.settings.load()
    draw = np.random.default_rng(0)
    bought = [(user, item, "purchase", at) for user, item, _, at in logs.two_camps(users=60, items=40, events=20)]
    skipped = [(f"u{draw.integers(60)}", f"i{draw.integers(40)}", "skip", 3600.0 * k + 7) for k in range(400)]
    dataset.write(logs.dataset([*bought, *skipped]), tmp_path / "log")
    run("--data", tmp_path / "log", "--model", model, "--no-tune", "--out", tmp_path / "run")
    found = report(tmp_path / "run")
    assert found["run"]["positive"] == ["click", "comment", "like", "purchase", "share"]
    assert found["figures"]["all"]["rankings"]
    assert found["figures"]["all"]["auc"]["mean"] > 0.7
    with pytest.raises(BadData, match=r"'follow' is none of impression, .*, purchase, skip"):
        run("--data", tmp_path / "log", "--model", model, "--positive", "follow")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(f"u{k}", "i", "view", k) for k in range(30)], "0 events are positive, and its kinds of events are view;"),
        ([("u", "i", "click", 9000 * k) for k in range(30)], "nothing to rank in the tuning slice"),
        ([("u", "i", "click", 0)], "rows are needed before it and in it"),
    ],
)
def test_a_log_in_which_there_is_nothing_to_rank_is_refused(rows, message, tmp_path, counted):
    dataset.write(logs.dataset(rows), tmp_path / "log")
    with pytest.raises(BadData, match=message):
        run("--data", tmp_path / "log", "--model", "popular")


def test_a_missing_column_is_named(camps):
    table = pd.read_csv(camps / "interactions.csv")
    table.drop(columns="item_id").to_csv(camps / "interactions.csv", index=False)
    with pytest.raises(BadData, match="required column 'item_id' is missing"):
        run("--data", camps, "--model", "popular")
