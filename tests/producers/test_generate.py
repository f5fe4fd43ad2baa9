import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feed import dataset
from feed.dataset import Dataset
from feed.events import Impression
from producers import history
from producers.audience import TOP, Audience
from producers.generate import generate
from producers.world import DAY, EPOCH, HISTORY_DAYS, World

USERS, ITEMS, INTERACTIONS = 100, 400, 3000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("world")
    generate(folder, USERS, ITEMS, INTERACTIONS, seed=5)
    return dataset.read(folder)


def test_interactions_counts_engagements_and_what_was_shown_comes_on_top(written: Dataset) -> None:
    kinds = written.interactions["event"].value_counts()
    assert kinds.sum() - kinds["impression"] == INTERACTIONS
    assert kinds["impression"] % TOP == 0
    assert set(kinds.index) == {"impression", "view", "click", "like", "share", "comment", "hide"}
    assert (len(written.users), len(written.items)) == (USERS, ITEMS)


def test_the_log_covers_four_weeks_and_shows_nothing_before_it_exists(written: Dataset) -> None:
    at = written.interactions["occurred_at"]
    begin = pd.Timestamp(EPOCH, unit="s", tz="UTC")
    assert begin <= at.min() < begin + pd.Timedelta(days=1)
    assert begin + pd.Timedelta(days=HISTORY_DAYS - 1) < at.max() < begin + pd.Timedelta(days=HISTORY_DAYS, hours=1)
    created = written.interactions["item_id"].map(written.items.set_index("item_id")["created_at"])
    assert (created <= at).all()


def test_people_come_more_often_at_some_hours_of_their_day_than_at_others(written: Dataset) -> None:
    shown = written.interactions.query("event == 'impression' and position == 0")
    by_hour = shown.groupby(shown["hour"].astype(int)).size().reindex(range(24), fill_value=0)
    assert by_hour[18:23].mean() > 1.8 * by_hour[2:6].mean()


def test_every_engagement_was_shown_with_a_known_propensity(written: Dataset) -> None:
    rows = written.interactions
    shown = rows[rows["event"] == "impression"].set_index(["user_id", "request_id", "item_id"])
    acts = rows[rows["event"] != "impression"].set_index(["user_id", "request_id", "item_id"])
    assert acts.index.isin(shown.index).all()
    joined = acts.join(shown[["position", "propensity"]], rsuffix="_shown")
    assert (joined["position"] == joined["position_shown"]).all()
    assert (joined["propensity"] == joined["propensity_shown"]).all()


def test_nothing_consumed_is_shown_again(written: Dataset) -> None:
    assert not written.interactions.query("event == 'view'").duplicated(["user_id", "item_id"]).any()


def test_the_logged_propensities_are_those_of_the_draws() -> None:
    """Weighted by 1 / propensity, the first place stands for each eligible item once: the mean weight is their number."""
    audience = Audience(World(20, 60, 2), [1], judge=False)
    policy = history.Policy(audience)
    at = EPOCH + 20 * DAY
    policy.fade(at)
    eligible = audience.eligible(3, at).sum()
    weights = [1 / (policy.feed("3", at).items[0].propensity or np.nan) for _ in range(4000)]
    assert np.mean(weights) == pytest.approx(eligible, abs=4 * np.std(weights) / len(weights) ** 0.5)
    last = [1 / (policy.feed("3", at).items[-1].propensity or np.nan) for _ in range(4000)]
    assert np.mean(last) == pytest.approx(eligible - TOP + 1, abs=4 * np.std(last) / len(last) ** 0.5)


def test_the_same_seed_gives_the_same_log_and_another_seed_another(written: Dataset, tmp_path: Path) -> None:
    for seed in (5, 6):
        generate(tmp_path / str(seed), USERS, ITEMS, INTERACTIONS, seed)
    same, other = dataset.read(tmp_path / "5"), dataset.read(tmp_path / "6")
    for name in ("users", "items", "interactions"):
        pd.testing.assert_frame_equal(getattr(written, name), getattr(same, name))
    assert not written.interactions.equals(other.interactions)


def test_a_tiny_world_is_possible(tmp_path: Path) -> None:
    generate(tmp_path, 1, 3, 2, seed=0)
    assert len(dataset.read(tmp_path).interactions.query("event != 'impression'")) == 2


def test_a_world_too_small_for_what_is_wanted_ends_with_what_there_was() -> None:
    log = history.make(World(2, 5), 1000)
    assert sum(not isinstance(event, Impression) for event in log.events) >= 10


def test_fewer_interactions_than_asked_for_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path, 2, 5, 1000, seed=0)
    assert "fewer interactions than the 1,000 asked for" in capsys.readouterr().out
    generate(tmp_path, 10, 30, 20, seed=0)
    assert "fewer interactions" not in capsys.readouterr().out


def test_the_command_writes_what_finds_the_world_again(tmp_path: Path) -> None:
    options = ["--users", "20", "--items", "50", "--interactions", "200", "--seed", "3", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "producers/generate.py", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "world.json").read_text()) == World(20, 50, 3).description | {"interactions": 200}
    assert {"users.parquet", "items.parquet", "interactions.parquet"} <= {file.name for file in tmp_path.iterdir()}
