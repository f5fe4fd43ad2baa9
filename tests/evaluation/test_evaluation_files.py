from feed.evaluation.files import fingerprint
from tests.evaluation import logs

ROWS = [("u", "a", "click", 0), ("u", "b", "click", 0), ("v", "a", "view", 60)]


def of(rows):
    return fingerprint(logs.dataset(rows).interactions)


def test_the_order_within_an_instant_makes_another_log():
    """What comes next is learned from it, so two such logs have other figures (docs/evaluation.md)."""
    first, second, later = ROWS
    assert of([second, first, later]) != of(ROWS)


def test_the_order_of_rows_of_different_instants_says_nothing():
    first, second, later = ROWS
    assert of([later, first, second]) == of(ROWS)


def test_whoever_did_something_else_made_another_log():
    for column, other in ((0, "w"), (1, "c"), (2, "like"), (3, 61)):
        changed = list(ROWS[2])
        changed[column] = other
        assert of([*ROWS[:2], tuple(changed)]) != of(ROWS)
