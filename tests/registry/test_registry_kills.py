"""A writer that is gone before any line of any operation: readers see exactly one complete champion, the next writer mends.

Each test runs this file in a process of its own, which forks hundreds of times: that is slow once torch is loaded.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feed.registry import Registry
from feed.registry import registry as module

FILES = {"a": "one", "b": "two"}


def write(folder):
    for name, text in FILES.items():
        (folder / name).write_text(text)


def make_template(path):
    """v2 has followed v1 as champion, v3 is on trial, v4 has the challenger's seat, v5 and v6 have nothing; 2 are kept."""
    module.NEWEST = 2
    registry = Registry(path)
    for _ in range(2):
        registry.promote(registry.publish(write))
    challenger = registry.publish(write, challenger=True)
    registry.note("trial", champion="v000002", challenger=challenger, number=1)
    registry.publish(write, challenger=True)
    for _ in range(2):
        registry.publish(write)
    assert len(registry.versions()) == 6


def die_before_line(number, act):
    """Whether `act`, in a forked process, came to as many lines of the registry's code; it is gone then, without clean-up."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame, event, _):
            nonlocal left
            if "/feed/registry/" not in frame.f_code.co_filename or frame.f_code.co_name in ("_number", "<genexpr>"):
                return None  # the last two run once a version and touch nothing
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def seen(registry):
    """What readers see, without a lock."""
    champion = registry.champion()
    return champion.version, champion.generation, registry.previous(), registry.challenger()


def break_roles(registry):
    """As a fault of the disk would."""
    for name in ("champion", "challenger", "previous"):
        (registry._roles / f"{name}.json").write_text("{")


BEFORE = ("v000002", 2, "v000001", "v000004")
OPERATIONS = {
    # what is done, what readers see after it, and which versions are left then
    "publish": (lambda r: r.publish(write), BEFORE, "123467"),
    "publish a challenger": (lambda r: r.publish(write, challenger=True), (*BEFORE[:3], "v000007"), "12367"),
    "promote the challenger": (lambda r: r.promote("v000004", generation=2), ("v000004", 3, "v000002", None), "123456"),
    "promote another": (lambda r: r.promote("v000003", evidence={"by": "me"}), ("v000003", 3, "v000002", "v000004"), "123456"),
    "roll back": (lambda r: r.roll_back(generation=2, evidence={"why": "worse"}), ("v000001", 3, None, "v000004"), "123456"),
    "mend broken role files": (lambda r: (break_roles(r), r.note("mended")), BEFORE, "123456"),
    "note": (lambda r: r.note("refused", challenger="v000003"), BEFORE, "123456"),
}


def check(path):
    """After a writer: ledger, roles and folders say the same, and nothing is left over."""
    registry = Registry(path)
    version, generation, previous, challenger = seen(registry)
    changes = [line for line in registry.ledger() if line["event"] in ("promoted", "rolled back")]
    assert [line["generation"] for line in changes] == list(range(1, generation + 1))
    assert (changes[-1]["version"], changes[-1]["previous"]) == (version, previous)
    assert json.loads((path / "roles/champion.json").read_text()) == changes[-1]
    assert json.loads((path / "roles/previous.json").read_text()) == {"version": previous, "generation": generation}
    published = [line["version"] for line in registry.ledger() if line["event"] == "published"]
    assert published == [f"v{k:06d}" for k in range(1, len(published) + 1)]
    assert registry.versions()[-1] == published[-1]
    assert {version, previous, challenger, "v000002", "v000003"} - {None} <= set(registry.versions())
    for folder in (path / "versions").iterdir():
        assert {p.name: p.read_text() for p in folder.iterdir() if p.name != ".challenger"} == FILES, folder


def kill_everywhere(name, folder):
    """Kill the operation before each of its lines, each time from the same start."""
    make_template(folder / "template")
    act, after, left = OPERATIONS[name]
    path, happened = folder / "copy", []
    registry = Registry(path)
    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder / "template", path)
        if not die_before_line(len(happened), lambda: act(registry)):
            break
        at_once = seen(registry)
        assert at_once in (BEFORE, after)
        if len(happened) % 3 == 0:
            die_before_line(len(happened) * 7 % 60, lambda: registry.note("dies as well"))
            assert seen(registry) in (at_once, after)
        registry.note("mends")
        assert seen(registry) in (at_once, after)
        check(path)
        happened.append(seen(registry) == after)
    assert seen(registry) == after
    assert "".join(version[-1] for version in registry.versions()) == left
    check(path)
    assert len(happened) > 50
    if after != BEFORE:
        assert happened == sorted(happened), "it has happened at one line, and dying later does not undo it"
        assert not happened[0]
        assert happened[-1]


def kill_the_first(folder):
    """Kill the first publication and promotion of a registry before each of their lines."""
    path, k, killed = folder / "new", 0, True
    registry = Registry(path)
    while killed:
        shutil.rmtree(path, ignore_errors=True)
        killed = die_before_line(k, lambda: registry.promote(registry.publish(write)))
        champion = registry.champion()
        assert champion is None or (champion.version, champion.generation, champion.path.name) == ("v000001", 1, "v000001")
        registry.note("mends")
        told = [line["event"] for line in registry.ledger() if line["event"] != "mends"]
        assert told == ["published"] * len(registry.versions()) + ["promoted"] * (registry.champion() is not None)
        k += 1
    assert champion is not None
    assert k > 50


def in_a_process_of_its_own(*arguments):
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_writer_killed_before_any_line_has_changed_all_or_nothing_once_the_next_one_has_mended(tmp_path, name):
    in_a_process_of_its_own(tmp_path, name)


def test_the_first_champion_is_whole_or_not_there(tmp_path):
    in_a_process_of_its_own(tmp_path)


def test_a_version_takes_the_number_after_the_last_one_even_if_that_was_removed_by_hand(tmp_path):
    registry = Registry(tmp_path)
    registry.publish(write)
    shutil.rmtree(registry.folder(registry.publish(write)))
    assert registry.publish(write) == "v000003"


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # what a killed process has written stays; only a machine that dies needs it
    kill_everywhere(sys.argv[2], Path(sys.argv[1])) if sys.argv[2:] else kill_the_first(Path(sys.argv[1]))
