"""The one table of all parts out of runs whose answers are known."""

from benchmarks import ablations, parts
from benchmarks.quality import ROWS
from tests.benchmarks.test_parts import run as served
from tests.benchmarks.test_ranked import run as ranked


def looks(kind, expected):
    columns = {"user": ["a", "b", "c"], "arm": ["learned", "learned", "popular"], "best": [1.0, 1.0, 1.0]}
    return {"seed": 0, "kind": kind, "expected": [*expected, 0.0], **columns}


def cells():
    films = [ranked("mixture", [0.5, 0.9]), ranked("without history", [0.4, 0.8]), ranked("sequence", [0.6, 1.0])]
    worlds = [{**run, "log": "world"} for run in films[:2]]
    people = [
        served(parts.WHOLE, [0.6, 0.6]),
        served("without history", [0.5, 0.5]),
        served("towers learn tasks, 0.1", [0.5, 0.5]),
    ]
    objective = [{**run, "table": "", "dial": dial} for run, dial in ((people[0], 0.0), (people[1], 0.3))]
    made = ablations.tables(
        {"runs": films + worlds}, {"runs": people}, {"runs": objective},
        {"runs": [looks("drawn", [0.6, 0.6]), looks("shown", [0.4, 0.4])]},
    )["ablations"]  # fmt: skip
    found = {}
    for line in made.splitlines()[2:]:
        name, *figures = (cell.strip() for cell in line.strip("|").split("|"))
        found[name.split(":")[0].split(",")[0]] = figures
    return found


def test_more_is_better_whether_a_part_is_left_out_or_added():
    of = cells()
    assert [cell.split(" ")[0] for cell in of["history"]] == ["+0.1000", "+0.1000", "+10.0"]
    assert of["sequence"][0].startswith("+0.1000")
    assert of["multi-task"] == ["", "", "-10.0 (-10.0 – -10.0); 0 of 1"]


def test_what_was_not_run_is_left_empty():
    assert cells()["logQ"] == ["", "", ""]


def test_corrections_are_compared_in_front_of_the_learned_arm():
    of = cells()
    assert of["position correction"][2] == "+20.0 (+20.0 – +20.0); 1 of 1"
    assert of["popularity correction of 0.3"][2] == "-10.0 (-10.0 – -10.0); 0 of 1"


def test_every_row_that_is_asked_for_exists():
    for part in ablations.PARTS_OF:
        assert not set(part.mixture or ()) - set(ROWS)
        assert not set(part.served or ()) - {*parts.PARTS, *parts.LEARNERS}
