import json
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed.errors import BadModel, NotPromoted
from feed.models import snapshot as snapshots
from feed.registry import Registry
from feed.registry import registry as module
from tests.small import snapshot, world


def write(folder):
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def test_an_empty_registry_has_no_champion_and_is_not_made_by_asking(registry, tmp_path):
    assert registry.champion() is None
    assert registry.versions() == registry.ledger() == []
    assert list(tmp_path.iterdir()) == []


def test_a_published_version_is_complete_and_does_not_serve(registry):
    version = registry.publish(write)
    assert registry.versions() == [version]
    assert sorted(p.name for p in registry.folder(version).iterdir()) == ["a", "b"]
    assert registry.champion() is None


def test_versions_are_named_in_order_of_publication(registry):
    names = [registry.publish(write) for _ in range(12)]
    assert registry.versions() == names == sorted(names)


def test_a_version_whose_writing_fails_does_not_exist(registry):
    def fail(folder):
        write(folder)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        registry.publish(fail)
    assert registry.versions() == []
    assert registry.publish(write) == "v000001"


def test_the_generation_grows_at_every_promotion(registry):
    first, second = registry.publish(write), registry.publish(write)
    generations = [registry.promote(v).generation for v in (first, second, first)]
    assert generations == [1, 2, 3]
    champion = registry.champion()
    assert (champion.version, champion.generation, champion.path) == (first, 3, registry.folder(first))


def test_a_promotion_that_expected_another_champion_is_refused(registry):
    first, second = registry.publish(write), registry.publish(write)
    registry.promote(first, generation=0)
    with pytest.raises(NotPromoted, match="generation 0, but 1 serves"):
        registry.promote(second, generation=0)
    assert registry.champion().version == first


def test_an_unknown_version_is_not_promoted(registry):
    registry.publish(write)
    with pytest.raises(BadModel, match=r"no version 'v9'.*v000001"):
        registry.promote("v9")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 3, "generation": 1}'])
def test_a_champions_file_that_is_no_role_is_read_from_the_ledger_and_written_anew_by_the_next_writer(registry, tmp_path, text):
    role = tmp_path / "registry/roles/champion.json"
    first, second, third = (registry.publish(write) for _ in range(3))
    registry.promote(first)
    registry.promote(second)
    registry.promote(third)
    registry.roll_back()
    whole = role.read_text()
    role.write_text(text)
    assert (registry.champion().version, registry.generation(), registry.previous()) == (second, 4, None)
    assert role.read_text() == text  # to ask changes nothing
    registry.publish(write)
    assert role.read_text() == whole
    role.write_text(text)
    assert registry.promote(third, generation=4).generation == 5
    assert registry.roll_back().version == second


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 3, "generation": 1}'])
def test_a_champions_file_that_is_no_role_and_that_no_ledger_tells_of_is_refused_by_name(registry, tmp_path, text):
    registry.promote(registry.publish(write))
    (tmp_path / "registry/roles/champion.json").write_text(text)
    (tmp_path / "registry/ledger.jsonl").unlink()
    with pytest.raises(BadModel, match=r"champion\.json is not a role"):
        registry.champion()


NO_ROLES = ["", "{}", "[1]", '{"version": 3}', "\ufffe", '{"version": "v0000']


@pytest.mark.parametrize("text", NO_ROLES)
def test_a_challengers_file_that_is_no_role_is_read_from_the_ledger_and_written_anew_by_the_next_writer(
    registry, tmp_path, text
):
    role = tmp_path / "registry/roles/challenger.json"
    registry.promote(registry.publish(write))
    older, newer = (registry.publish(write, challenger=True) for _ in range(2))
    role.write_text(text)
    assert registry.challenger() == newer
    assert role.read_text() == text  # to ask changes nothing
    registry.publish(write)
    assert (registry.challenger(), json.loads(role.read_text())["version"]) == (newer, newer)
    role.write_text(text)
    registry.promote(older)
    assert registry.challenger() == newer
    role.write_text(text)
    registry.promote(newer)
    assert (registry.challenger(), role.exists()) == (None, False)


@pytest.mark.parametrize("text", NO_ROLES)
def test_after_its_promotion_and_a_roll_back_a_broken_file_does_not_give_the_seat_back(registry, tmp_path, text):
    role = tmp_path / "registry/roles/challenger.json"
    registry.promote(registry.publish(write))
    registry.promote([registry.publish(write, challenger=True) for _ in range(2)][-1])
    registry.roll_back()
    role.write_text(text)
    assert registry.challenger() is None
    registry.note("refused")
    assert not role.exists()
    assert registry.publish(write, challenger=True) == registry.challenger()


@pytest.mark.parametrize("text", NO_ROLES)
def test_a_file_of_who_served_before_that_is_no_role_keeps_nobody_from_writing_and_is_written_anew(registry, tmp_path, text):
    role = tmp_path / "registry/roles/previous.json"
    first, second = registry.publish(write), registry.publish(write)
    registry.promote(first)
    registry.promote(second)
    whole, told = role.read_text(), registry.ledger()
    role.write_text(text)
    assert registry.previous() == first
    registry.note("refused")
    assert role.read_text() == whole
    assert registry.ledger()[:-1] == told
    role.write_text(text)
    assert registry.roll_back().version == first


def test_the_ledger_tells_every_publication_and_promotion(registry):
    first, second = registry.publish(write), registry.publish(write)
    registry.promote(first)
    registry.promote(second)
    told = [(entry["event"], entry["version"], entry.get("generation"), entry.get("previous")) for entry in registry.ledger()]
    assert told == [
        ("published", first, None, None),
        ("published", second, None, None),
        ("promoted", first, 1, None),
        ("promoted", second, 2, first),
    ]


ACTS = st.one_of(
    st.sampled_from(["publish", "publish challenger", "roll back"]),
    st.tuples(st.sampled_from(["promote", "trial"]), st.integers(0, 30)),
)


@settings(max_examples=40, deadline=None)
@given(acts=st.lists(ACTS, min_size=5, max_size=40))
def test_whatever_is_done_in_whatever_order_roles_and_versions_are_as_the_rules_say(acts):
    champion = previous = challenger = None
    generation, published, trial = 0, [], []
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "NEWEST", 3)
        registry = Registry(Path(folder))
        for act in acts:
            if act in ("publish", "publish challenger"):
                published.append(registry.publish(write, challenger=act != "publish"))
                challenger = published[-1] if act != "publish" else challenger
                kept = {champion, previous, challenger, *trial, *published[-3:]} - {None}
                assert set(registry.versions()) <= kept, "what has no reason to stay goes"
            elif act == "roll back":
                if previous is None:
                    with pytest.raises(NotPromoted):
                        registry.roll_back()
                else:
                    champion, previous, generation = previous, None, generation + 1
                    assert registry.roll_back().version == champion
            elif held := registry.versions():
                version = held[act[1] % len(held)]
                if act[0] == "trial":
                    trial = [champion, version]
                    registry.note("trial", champion=champion, challenger=version)
                else:
                    previous = previous if version == champion else champion
                    champion, generation = version, generation + 1
                    challenger = None if challenger == version else challenger
                    assert registry.promote(version, generation=generation - 1).generation == generation
            now = registry.champion()
            assert (now and now.version, registry.generation()) == (champion, generation)
            assert (registry.previous(), registry.challenger()) == (previous, challenger)
            assert {champion, previous, challenger, *trial, *published[-3:]} - {None} <= set(registry.versions())


def test_concurrent_publications_and_promotions_lose_nothing(registry, tmp_path):
    def work():
        for _ in range(10):
            own = Registry(tmp_path / "registry")
            own.promote(own.publish(write))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.versions() == [f"v{k:06d}" for k in range(21, 41)]
    assert registry.champion().generation == 40
    assert len(registry.ledger()) == 80


def test_who_served_before_the_champion_is_previous_until_a_roll_back_brings_it_back(registry):
    first, second = registry.publish(write), registry.publish(write)
    assert registry.previous() is None
    registry.promote(first)
    assert registry.previous() is None
    registry.promote(second)
    assert registry.previous() == first
    registry.promote(second)
    assert registry.previous() == first, "what serves already does not come before itself"
    back = registry.roll_back(generation=3, evidence={"why": "worse"})
    assert (back.version, back.generation) == (first, 4)
    assert (registry.champion(), registry.previous()) == (back, None)
    line = registry.ledger()[-1]
    assert (line["event"], line["version"], line["instead_of"], line["evidence"]) == (
        "rolled back", first, second, {"why": "worse"},
    )  # fmt: skip


def test_there_is_no_way_back_and_forth_without_a_promotion(registry):
    first, second = registry.publish(write), registry.publish(write)
    with pytest.raises(NotPromoted, match="nothing to roll back to: nobody serves"):
        registry.roll_back()
    registry.promote(first)
    registry.promote(second)
    registry.roll_back()
    with pytest.raises(NotPromoted, match=f"nothing to roll back to: {first} is the first, or came back"):
        registry.roll_back()
    registry.promote(second)
    assert registry.roll_back().version == first


def test_a_roll_back_that_expected_another_champion_or_finds_no_folder_is_refused(registry):
    first, second = registry.publish(write), registry.publish(write)
    registry.promote(first)
    registry.promote(second)
    with pytest.raises(NotPromoted, match="generation 1, but 2 serves"):
        registry.roll_back(generation=1)
    shutil.rmtree(registry.folder(first))
    with pytest.raises(BadModel, match=first):
        registry.roll_back()
    assert registry.champion().version == second


def test_the_newest_challenger_has_the_seat_until_it_is_champion_and_not_again_after_a_roll_back(registry):
    registry.promote(registry.publish(write))
    assert registry.challenger() is None
    older, newer = (registry.publish(write, challenger=True) for _ in range(2))
    registry.publish(write)
    assert registry.challenger() == newer
    registry.promote(older)
    assert registry.challenger() == newer
    registry.promote(newer)
    assert registry.challenger() is None
    registry.roll_back()
    assert registry.challenger() is None


def test_old_versions_go_but_never_one_with_a_role_or_on_trial_or_of_the_newest_20(registry):
    names = [registry.publish(write, challenger=True) for _ in range(5)]
    registry.promote(names[0])
    registry.promote(names[1])
    registry.note("trial", champion=names[1], challenger=names[2], number=1)
    names += [registry.publish(write) for _ in range(40)]
    assert registry.versions() == [*names[:3], names[4], *names[-20:]]
    assert (registry.previous(), registry.champion().version, registry.challenger()) == (names[0], names[1], names[4])
    registry.note("trial", champion=names[1], challenger=names[4], number=2)
    registry.publish(write)
    assert names[2] not in registry.versions()


def test_who_holds_the_path_of_a_version_that_has_gone_is_told_so(registry):
    state = world(users=3, items=5)
    trained = snapshot(state)
    path = registry.folder(registry.publish(lambda folder: snapshots.save(folder, trained.model, trained.space, {})))
    assert snapshots.load(path).space.fingerprint == trained.space.fingerprint
    for _ in range(20):
        registry.publish(write)
    with pytest.raises(BadModel, match=r"v000001.* cannot be read \(No such file"):
        snapshots.load(path)
    with pytest.raises(BadModel, match="no version 'v000001'"):
        registry.folder("v000001")


def test_while_a_version_is_being_written_another_is_promoted_and_rolled_back(registry):
    first, second = registry.publish(write), registry.publish(write)

    def slowly(folder):
        registry.promote(first)
        registry.promote(second)
        registry.roll_back()
        write(folder)

    assert registry.publish(slowly) == "v000003"
    assert {p.name for p in registry.folder("v000003").iterdir()} == {"a", "b"}
    assert registry.champion().version == first


def test_evidence_that_is_no_json_changes_nothing(registry):
    version = registry.publish(write)
    for evidence in ({"z": float("nan")}, {"z": object()}):
        with pytest.raises((ValueError, TypeError)):
            registry.promote(version, evidence=evidence)
        with pytest.raises((ValueError, TypeError)):
            registry.note("refused", **evidence)
    assert registry.champion() is None
    assert len(registry.ledger()) == 1


def test_notes_stand_in_the_ledger_with_what_they_say(registry):
    registry.note("refused", challenger="v000002", why="popularity does as well", z=0.3)
    line = registry.ledger()[0]
    assert line.pop("at").endswith("+00:00")
    assert line == {"event": "refused", "challenger": "v000002", "why": "popularity does as well", "z": 0.3}


def test_a_registry_of_before_the_roles_had_files_of_their_own_goes_on(registry, tmp_path):
    registry.promote(registry.publish(write))
    role = tmp_path / "registry/roles/champion.json"
    role.write_text('{"version": "v000001", "generation": 1, "previous": null, "at": "2026-11-24T00:00:00+00:00"}')
    (tmp_path / "registry/roles/previous.json").unlink()
    assert registry.promote(registry.publish(write)).generation == 2
    assert registry.roll_back().version == "v000001"
    assert [line["event"] for line in registry.ledger()] == ["published", "promoted", "published", "promoted", "rolled back"]


def test_a_line_of_the_ledger_that_is_no_json_is_named(registry, tmp_path):
    registry.publish(write)
    with (tmp_path / "registry/ledger.jsonl").open("a") as file:
        file.write("by hand\n")
    with pytest.raises(BadModel, match=r"line 2 of .*ledger\.jsonl"):
        registry.ledger()
    assert registry.publish(write) == "v000002"


def test_a_torn_line_of_the_ledger_is_dropped(registry, tmp_path):
    registry.publish(write)
    ledger = tmp_path / "registry/ledger.jsonl"
    with ledger.open("a") as file:
        file.write('{"event": "promo')
    assert len(registry.ledger()) == 1
    registry.publish(write)
    assert [json.loads(line)["version"] for line in ledger.read_text().splitlines()] == ["v000001", "v000002"]
