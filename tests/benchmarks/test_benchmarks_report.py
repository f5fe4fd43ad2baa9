"""Tables of docs/learning.md out of runs whose answers are known."""

from benchmarks import report


def run(expected, **others):
    columns = {"user": ["a", "b", "c"], "arm": ["learned", "learned", "popular"], "best": [1.0, 1.0, 1.0]}
    return {"seed": 0, "expected": [*expected, 0.0], **columns, **others}


def test_corrections_are_compared_in_front_of_the_learned_arm():
    objective = [run([0.6, 0.6], table="", dial=0.0), run([0.5, 0.5], table="", dial=0.3)]
    objective = [{**one, **{name: one[name][:2] for name in ("user", "expected", "best")}} for one in objective]
    looks = [run([0.6, 0.6], kind="drawn"), run([0.4, 0.4], kind="shown")]
    lines = report.corrections({"runs": objective}, {"runs": looks})["corrections"].splitlines()
    assert [line.split(" | ")[1].rstrip(" |") for line in lines[2:]] == [
        "-10.0 (-10.0 – -10.0); 0 of 1",
        "+20.0 (+20.0 – +20.0); 1 of 1",
    ]
