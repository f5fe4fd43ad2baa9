import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from feed.errors import BadModel, FeedError, NotPromoted
from feed.models import snapshot as snapshots
from feed.registry import Registry
from offline import models
from tests.small import NOW, snapshot, world

pytestmark = pytest.mark.usefixtures("logging_as_it_was")
ROOT = Path(__file__).parents[2]
STATE = world(users=5, items=20)
MANIFEST = {
    "created_by": "stream_processors/learner.py",
    "created_at": "2026-11-24T17:00:00.5+00:00",
    "learned_until": NOW,
    "position": {"topic_id": "E", "partition": 0, "offset": 100},
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """v000001 serves, v000002 is a challenger, held; both are healthy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEED_REGISTRY", str(tmp_path))
    registry = Registry(tmp_path)
    registry.promote(publish(registry, parent=None), evidence={"by": "offline/bootstrap.py"})
    publish(registry, parent="v000001", held="the loss is not finite")
    return registry


def publish(registry, harm=None, **about):
    trained = snapshot(STATE, seed=len(registry.versions()))
    if harm:
        next(trained.model.parameters()).data.fill_(harm)
    return registry.publish(lambda f: snapshots.save(f, trained.model, trained.space, {**MANIFEST, **about}), challenger=True)


def command(*arguments):
    result = CliRunner().invoke(models.app, arguments)
    return result.stdout if result.exception is None else result.exception


def table():
    names, *lines = (line.split("\t") for line in command("list").splitlines())
    return [dict(zip(names, line, strict=True)) for line in lines]


def roles():
    return [line["role"] for line in table()]


def test_the_list_says_of_each_version_what_it_is_and_where_it_comes_from(registry):
    first, second = table()
    assert first == {
        "version": "v000001", "role": "champion (generation 1)", "made by": "stream_processors/learner.py", "parent": "",
        "learned until": "2025-06-15 15:06:40+00:00", "created": "2026-11-24 17:00:00", "held": "",
    }  # fmt: skip
    assert (second["role"], second["parent"], second["held"]) == ("challenger", "v000001", "the loss is not finite")


def test_a_version_is_shown_with_its_manifest_and_its_lines_of_the_ledger(registry):
    registry.note("refused", challenger="v000002", why="no better")
    text = command("show", "v000002")
    manifest, end = json.JSONDecoder().raw_decode(text)
    assert manifest == snapshots.read_manifest(registry.folder("v000002"))
    lines = [json.loads(line) for line in text[end:].split("\n") if line]
    assert lines == [line for line in registry.ledger() if line.get("version") == "v000002" or line["event"] == "refused"]
    assert len(lines) == 2


def test_a_healthy_version_can_be_promoted_by_hand_and_taken_back_and_the_ledger_says_by_whom(registry):
    assert command("promote", "v000002") == "v000002 serves, generation 2.\n"
    assert roles() == ["previous", "champion (generation 2)"]
    assert command("rollback") == "v000001 serves, generation 3.\n"
    assert roles() == ["champion (generation 3)", ""]
    told = [(line["event"], line["version"], line["evidence"]) for line in registry.ledger()[3:]]
    by_hand = {"by": "by hand"}
    assert told == [("promoted", "v000002", by_hand), ("rolled back", "v000001", by_hand)]


def test_what_cannot_be_done_is_said_and_changes_nothing(registry):
    for arguments, kind, says in (
        (("promote", "v000001"), FeedError, "v000001 serves already, as generation 1"),
        (("promote", "v9"), BadModel, "no version 'v9'"),
        (("promote", "../versions"), BadModel, "no version"),
        (("show", "v9"), BadModel, "no version 'v9'"),
        (("rollback",), NotPromoted, "nothing to roll back to"),
    ):
        error = command(*arguments)
        assert isinstance(error, kind), arguments
        assert says in str(error)
    assert registry.generation() == 1


@pytest.mark.parametrize("harm", ["nan", "inf", "truncated"])
def test_a_version_that_cannot_rank_is_not_promoted_by_hand(registry, harm):
    version = publish(registry, harm=None if harm == "truncated" else float(harm))
    if harm == "truncated":
        weights = registry.folder(version) / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    error = command("promote", version)
    assert isinstance(error, BadModel)
    assert ("is corrupt" if harm == "truncated" else "not finite") in str(error)
    assert registry.generation() == 1


def test_a_champion_whose_folder_is_gone_can_be_replaced_by_hand(registry):
    shutil.rmtree(registry.champion().path)
    assert roles() == ["challenger"]
    command("promote", "v000002")
    assert registry.champion().version == "v000002"


@pytest.mark.parametrize("harm", ["corrupt", "gone", "not finite"])
def test_a_champion_that_can_no_longer_serve_is_taken_back_by_hand_and_then_another_may_be_promoted(registry, harm):
    bad = publish(registry, harm=float("nan") if harm == "not finite" else None)
    registry.promote(bad)
    if harm == "corrupt":
        (registry.champion().path / "weights.safetensors").write_bytes(b"")
    elif harm == "gone":
        shutil.rmtree(registry.champion().path)
    assert command("rollback") == "v000001 serves, generation 3.\n"
    assert registry.champion().version == "v000001"
    assert command("promote", "v000002") == "v000002 serves, generation 4.\n"


def test_neither_of_two_that_cannot_serve_is_taken_for_the_other(registry):
    first = registry.champion()
    registry.promote("v000002")
    for version in (first.version, "v000002"):
        (registry.folder(version) / "weights.safetensors").write_bytes(b"")
    assert isinstance(command("rollback"), BadModel)
    assert registry.champion().version == "v000002"
    assert command("promote", publish(registry)) == "v000003 serves, generation 3.\n"


def test_an_empty_registry_says_how_to_get_a_version(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "bootstrap.py" in command("list")
    assert list(tmp_path.iterdir()) == []


def test_an_error_ends_the_command_with_a_message_and_status_2(registry):
    program = [sys.executable, str(ROOT / "offline/models.py")]
    done = subprocess.run([*program, "promote", "v7"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no version 'v7'")
