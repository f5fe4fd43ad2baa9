import json
import os
import sys
import threading

import pytest

from feed.errors import BadModel, NotPromoted
from feed.registry import Registry


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
def test_a_role_file_that_is_no_role_is_refused_by_name(registry, tmp_path, text):
    registry.promote(registry.publish(write))
    (tmp_path / "registry/roles/champion.json").write_text(text)
    with pytest.raises(BadModel, match=r"champion\.json is not a role"):
        registry.champion()


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


def die_at_line(number, registry):
    """Publish and promote in a forked process that is gone, without clean-up, before it executes this line of the registry."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame, event, _):
            nonlocal left
            if not frame.f_code.co_filename.split("/feed/")[-1].startswith("registry/"):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            registry.promote(registry.publish(write))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_process_killed_before_any_line_leaves_a_complete_champion_and_a_ledger_that_is_mended(tmp_path):
    killed = 0
    while True:
        registry = Registry(tmp_path / str(killed))
        first = registry.publish(write)
        registry.promote(first)
        if not die_at_line(killed, registry):
            break
        champion = registry.champion()
        assert (champion.version, champion.generation) in [(first, 1), ("v000002", 2)]
        for version in registry.versions():
            assert {p.name: p.read_text() for p in registry.folder(version).iterdir()} == {"a": "one", "b": "two"}
        again = registry.promote(registry.publish(write))
        assert again.generation == champion.generation + 1
        ledger = registry.ledger()
        assert [e["generation"] for e in ledger if e["event"] == "promoted"] == list(range(1, again.generation + 1))
        assert [e["version"] for e in ledger if e["event"] == "published"] == registry.versions()
        assert not (tmp_path / str(killed) / "versions/.writing").exists()
        killed += 1
    assert killed > 50


def test_a_torn_line_of_the_ledger_is_dropped(registry, tmp_path):
    registry.publish(write)
    ledger = tmp_path / "registry/ledger.jsonl"
    with ledger.open("a") as file:
        file.write('{"event": "promo')
    assert len(registry.ledger()) == 1
    registry.publish(write)
    assert [json.loads(line)["version"] for line in ledger.read_text().splitlines()] == ["v000001", "v000002"]
